//! Making checkpoints, where a test needs the limits of one.

use super::*;
use crate::audit::{AuditEvent, AuditKeys};
use crate::call::Principal;
use crate::ids::{AgentId, TenantId};
use crate::secret::Secret;
use crate::store::TestDatabase;

/// In tests one checkpoint takes 100 new entries.
#[tokio::test]
async fn a_long_backlog_becomes_several_checkpoints_of_bounded_size() {
    let test = TestDatabase::fresh().await.unwrap();
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let database = test.database();
    let open = || Audit::open(&database, keys.clone(), TenantId::single());
    let (audit, other) = (open().await.unwrap(), open().await.unwrap());
    let me = Principal::agent(AgentId::parse("a").unwrap());
    for writer in [&audit, &other] {
        for _ in 0..3 {
            let events = (0..60).map(|_| AuditEvent::new(&me, "app.x")).collect();
            writer.append_all(events).await.unwrap();
        }
    }
    let key = LogKey::new("audit.example/long", &Secret::generate().unwrap()).unwrap();
    let last = audit.checkpoint(&key).await.unwrap();
    // 360 entries, two beginnings of chains, and the checkpoint's own entry.
    assert_eq!(last.size(), 363);
    let sizes: Vec<i64> =
        sqlx::query_scalar("SELECT size FROM portcullis.checkpoints ORDER BY size")
            .fetch_all(&database.connect_pool().await.unwrap())
            .await
            .unwrap();
    assert_eq!(sizes, [100, 200, 300, 363]);
    let report = audit
        .verify_checkpoints(key.verifier(), Some(last.note()))
        .await
        .unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.proved(), 363);
}
