//! The statements of pages over some thousand entries: each is led by an index.

use sqlx::Row as _;

use super::*;
use crate::audit::AuditEvent;
use crate::call::Principal;
use crate::ids::{AgentId, SessionId, TenantId};
use crate::secret::Secret;
use crate::store::{ExecuteIn as _, InStore as _, TestDatabase};
use crate::time::Timestamp;

#[tokio::test]
async fn every_page_is_led_by_an_index_in_both_directions() {
    let test = TestDatabase::fresh().await.unwrap();
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let audit = Audit::open(&test.database(), keys, TenantId::single())
        .await
        .unwrap();
    let (mut first, mut last) = (None, None);
    for batch in 0..60 {
        let who = Principal::agent(AgentId::parse(format!("a-{}", batch % 20)).unwrap())
            .session(SessionId::parse(format!("s-{batch}")).unwrap());
        let mut events = vec![AuditEvent::new(&who, "app.x")];
        first.get_or_insert(events[0].id());
        for _ in 1..100 {
            let parent = events[events.len() / 2].id();
            events.push(AuditEvent::new(&who, "app.y").caused_by(parent));
        }
        // Early, so that much comes after it.
        last = last.or(Some(events[50].id()).filter(|_| batch == 10));
        audit.append_all(events).await.unwrap();
    }
    sqlx::query("ANALYZE portcullis.entries")
        .execute_in(audit.store())
        .await
        .unwrap();
    let at = audit.event(last.unwrap()).await.unwrap().unwrap();
    let session = at.session.clone().unwrap();
    let agent = at.agent.clone().unwrap();
    let since = (at.recorded_at, Timestamp::MAX);
    for (query, indexes) in [
        (Query::all(), &["entries_recorded_at_idx"][..]),
        (
            Query::all().between(since.0, since.1),
            &["entries_recorded_at_idx"],
        ),
        (
            Query::all().after(Cursor::of(&at)),
            &["entries_recorded_at_idx"],
        ),
        (Query::all().kind(&at.kind), &["entries_recorded_at_idx"]),
        (Query::all().session(&session), &["entries_session_idx"]),
        (
            Query::all().session(&session).after(Cursor::of(&at)),
            &["entries_session_idx"],
        ),
        (
            Query::all().agent(&agent).kind_prefix("app."),
            &["entries_agent_idx"],
        ),
        (Query::all().parent(first.unwrap()), &["entries_parent_idx"]),
        (
            Query::all().parent(first.unwrap()).session(&session),
            &["entries_parent_idx", "entries_session_idx"],
        ),
    ] {
        for query in [query.clone().limit(20), query.limit(20).newest_first()] {
            let plan = explain(&audit, &query).await;
            assert!(
                indexes.iter().any(|index| plan.contains(index)),
                "{query:?}\n{plan}"
            );
            assert!(!plan.contains("Seq Scan"), "{query:?}\n{plan}");
        }
    }
}

async fn explain(audit: &Audit, query: &Query) -> String {
    let page = query.page_of(audit.store().tenant(), true);
    let text = sqlx::AssertSqlSafe(format!("EXPLAIN {}", page.sql()));
    let rows = page
        .bound(text)
        .persistent(false)
        .fetch_all_in(audit.store())
        .await
        .unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}
