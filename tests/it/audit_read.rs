//! Reading: pages, one entry, live, along the provenance, and checked on the way.

use std::collections::HashSet;
use std::time::Duration;

use portcullis::audit::{
    AppKind, AuditError, AuditEvent, Cursor, Entry, Kind, Page, Position, Query, Scope,
};
use portcullis::{AgentId, ErrorKind, EventId, SessionId, Timestamp};

use crate::trail::{Trail, rich, who};

fn session(name: &str) -> SessionId {
    SessionId::parse(name).unwrap()
}

fn kind(name: &str) -> Kind {
    Kind::App(AppKind::parse(name).unwrap())
}

async fn all(trail: &Trail, query: &Query) -> Vec<Entry> {
    let audit = trail.audit().await;
    let (mut entries, mut query) = (Vec::new(), query.clone());
    loop {
        let Page {
            entries: more,
            next,
            ..
        } = audit.events(&query).await.unwrap();
        entries.extend(more);
        match next {
            // Through its text, as a client would hand it back.
            Some(next) => query = query.after(next.to_string().parse().unwrap()),
            None => return entries,
        }
    }
}

fn place(entry: &Entry) -> (Timestamp, u32, u64) {
    (entry.recorded_at, entry.chain_no, entry.seq)
}

#[tokio::test]
async fn pages_give_every_entry_once_in_order_both_ways() {
    let trail = Trail::written().await;
    for limit in [1, 5, 36, 100] {
        let forth = all(&trail, &Query::all().limit(limit)).await;
        assert_eq!(forth.len(), 36);
        assert!(forth.is_sorted_by(|a, b| place(a) < place(b)));
        let mut back = all(&trail, &Query::all().limit(limit).newest_first()).await;
        back.reverse();
        assert_eq!(back, forth);
    }
}

type Filter = Box<dyn Fn(&Entry) -> bool>;

#[tokio::test]
async fn filters_give_what_they_say_alone_and_together() {
    let trail = Trail::written().await;
    let everything = all(&trail, &Query::all()).await;
    let middle = everything[18].recorded_at;
    let parent = everything.iter().find_map(|entry| entry.parent).unwrap();
    let agent = AgentId::parse("a-1").unwrap();
    let plain = kind("app.plain");
    let cases: Vec<(Query, Filter)> = vec![
        (
            Query::all().session(&session("s-2")),
            Box::new(|e| e.session == Some(session("s-2"))),
        ),
        (Query::all().session(&session("none")), Box::new(|_| false)),
        (Query::all().agent(&agent), Box::new(|e| e.agent.is_some())),
        (
            Query::all().kind(&Kind::ChainGenesis),
            Box::new(|e| e.kind == Kind::ChainGenesis),
        ),
        (
            Query::all().kind_prefix("app.inv"),
            Box::new(|e| e.kind.as_str() == "app.invoice.read"),
        ),
        (Query::all().kind_prefix("%"), Box::new(|_| false)),
        (
            Query::all().parent(parent),
            Box::new(move |e| e.parent == Some(parent)),
        ),
        (
            Query::all().between(middle, Timestamp::MAX),
            Box::new(move |e| e.recorded_at >= middle),
        ),
        (
            Query::all().between(Timestamp::MIN, middle),
            Box::new(move |e| e.recorded_at < middle),
        ),
        (
            Query::all()
                .session(&session("s-3"))
                .agent(&agent)
                .kind(&plain)
                .between(middle, Timestamp::MAX),
            Box::new(move |e| {
                e.session == Some(session("s-3"))
                    && e.kind == kind("app.plain")
                    && e.recorded_at >= middle
            }),
        ),
        (
            Query::all().agent(&agent).kind_prefix("app.plain"),
            Box::new(|e| e.kind == kind("app.plain")),
        ),
        (
            Query::all().parent(parent).session(&session("s-9")),
            Box::new(|_| false),
        ),
    ];
    for (i, (query, filter)) in cases.into_iter().enumerate() {
        let wanted: Vec<Entry> = everything.iter().filter(|e| filter(e)).cloned().collect();
        assert_eq!(
            all(&trail, &query.clone().limit(4)).await,
            wanted,
            "case {i}"
        );
        let mut back = all(&trail, &query.limit(4).newest_first()).await;
        back.reverse();
        assert_eq!(back, wanted, "case {i}, newest first");
    }
}

#[tokio::test]
async fn an_entry_comes_back_as_it_was_logged() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await;
    let me = who("a-1", "s-1");
    let parent = EventId::new();
    let at = Timestamp::from_micros(1_767_225_600_000_001);
    let event = rich(&me, 7, Some(parent)).occurred(at);
    let id = event.id();
    let committed = *audit.append(event).await.unwrap().committed().unwrap();
    let entry = audit.event(id).await.unwrap().unwrap();
    assert_eq!(
        (entry.id, entry.chain_no, entry.seq),
        (id, committed.chain_no, committed.seq)
    );
    assert_eq!(entry.kind, kind("app.invoice.read"));
    assert_eq!((entry.occurred_at, entry.parent), (at, Some(parent)));
    assert_eq!(entry.session, Some(session("s-1")));
    assert_eq!(entry.decision.as_deref(), Some("allow"));
    assert!(entry.input_hash.is_some() && entry.output_hash.is_some());
    assert_eq!(
        entry.metadata.as_str(),
        "{\"n\":7,\"text\":\"ä \\\"quoted\\\"\\n\"}"
    );
    assert_eq!(audit.event(EventId::new()).await.unwrap(), None);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let trail = Trail::written().await;
    let tenant = portcullis::TenantId::parse("other").unwrap();
    let other = trail.audit_of(crate::trail::keys(), tenant).await;
    assert_eq!(other.events(&Query::all()).await.unwrap().entries, []);
    let id = all(&trail, &Query::all()).await[3].id;
    assert_eq!(other.event(id).await.unwrap(), None);
    assert_eq!(other.ancestors(id).await.unwrap().relatives, []);
    assert_eq!(other.descendants(id).await.unwrap().relatives, []);
}

#[test]
fn what_is_no_cursor_is_refused() {
    for bad in ["", "1", "00", "zz", "1:42", &"0".repeat(50)] {
        let error = bad.parse::<Cursor>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
    for bad in ["1", "1:", ":1", "1:2,", "0:1", "1:-1", "1:1,1:2", "a:b"] {
        assert_eq!(bad.parse::<Position>(), Err(AuditError::Cursor), "{bad}");
    }
    assert_eq!(
        "1:42,2:7".parse::<Position>().unwrap().to_string(),
        "1:42,2:7"
    );
    assert_eq!("".parse::<Position>().unwrap(), Position::default());
}

#[tokio::test]
async fn lineage_is_walked_up_and_down() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await;
    let other = trail.audit().await;
    let me = who("a-1", "s-1");
    // root -> a -> b -> c, and root -> x -> y in another chain.
    let root = AuditEvent::new(&me, "app.root");
    let first = AuditEvent::new(&me, "app.a").caused_by(root.id());
    let second = AuditEvent::new(&me, "app.b").caused_by(first.id());
    let third = AuditEvent::new(&me, "app.c").caused_by(second.id());
    let beside = AuditEvent::new(&me, "app.x").caused_by(root.id());
    let below = AuditEvent::new(&me, "app.y").caused_by(beside.id());
    let (root_id, c_id, y_id) = (root.id(), third.id(), below.id());
    audit
        .append_all(vec![root, first, second, third])
        .await
        .unwrap();
    other.append_all(vec![beside, below]).await.unwrap();

    let spelt = |lineage: portcullis::audit::Lineage| -> Vec<String> {
        assert!(!lineage.truncated);
        let relatives = lineage.relatives.iter();
        relatives
            .map(|r| format!("{} {}", r.depth, r.entry.kind))
            .collect()
    };
    assert_eq!(
        spelt(audit.ancestors(c_id).await.unwrap()),
        ["1 app.b", "2 app.a", "3 app.root"]
    );
    assert_eq!(
        spelt(audit.ancestors(y_id).await.unwrap()),
        ["1 app.x", "2 app.root"]
    );
    assert_eq!(
        spelt(audit.descendants(root_id).await.unwrap()),
        ["1 app.a", "1 app.x", "2 app.b", "2 app.y", "3 app.c"]
    );
    assert_eq!(spelt(audit.ancestors(root_id).await.unwrap()), [""; 0]);
    assert_eq!(
        spelt(audit.descendants(EventId::new()).await.unwrap()),
        [""; 0]
    );
}

#[tokio::test]
async fn lineage_is_bounded_and_ends_where_a_cycle_closes() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await.verify_on_read(true);
    let me = who("a-1", "s-1");
    let (one, two, own) = (EventId::new(), EventId::new(), EventId::new());
    let cycle = vec![
        AuditEvent::new(&me, "app.one").with_id(one).caused_by(two),
        AuditEvent::new(&me, "app.two").with_id(two).caused_by(one),
        AuditEvent::new(&me, "app.own").with_id(own).caused_by(own),
    ];
    audit.append_all(cycle).await.unwrap();
    for (id, relatives) in [(one, 1), (two, 1), (own, 0)] {
        for lineage in [
            audit.ancestors(id).await.unwrap(),
            audit.descendants(id).await.unwrap(),
        ] {
            assert_eq!(lineage.relatives.len(), relatives);
            assert!(!lineage.truncated);
        }
    }

    // Deeper and wider than is walked.
    let root = AuditEvent::new(&me, "app.root");
    let mut line = vec![root];
    for _ in 0..300 {
        let parent = line.last().unwrap().id();
        line.push(AuditEvent::new(&me, "app.line").caused_by(parent));
    }
    let (first, last) = (line[0].id(), line[300].id());
    audit.append_all(line).await.unwrap();
    for lineage in [
        audit.ancestors(last).await.unwrap(),
        audit.descendants(first).await.unwrap(),
    ] {
        assert_eq!(lineage.relatives.len(), 256);
        assert!(lineage.truncated);
    }
    let wide = AuditEvent::new(&me, "app.root");
    let id = wide.id();
    let children = (0..1_200).map(|_| AuditEvent::new(&me, "app.child").caused_by(id));
    audit
        .append_all([wide].into_iter().chain(children).collect())
        .await
        .unwrap();
    let lineage = audit.descendants(id).await.unwrap();
    assert_eq!((lineage.relatives.len(), lineage.truncated), (1_000, true));
}

#[tokio::test]
async fn reading_checked_refuses_what_was_changed_and_plain_reading_shows_it() {
    let trail = Trail::written().await;
    let entries = all(&trail, &Query::all().session(&session("s-2"))).await;
    let sixth = entries.iter().find(|entry| entry.seq == 6).unwrap();
    let audit = trail.audit().await;
    let checked = audit.clone().verify_on_read(true);
    let query = Query::all().session(&session("s-2"));
    assert_eq!(checked.events(&query).await.unwrap().entries, entries);
    assert_eq!(
        checked.events(&Query::all()).await.unwrap().entries.len(),
        36
    );
    assert_eq!(checked.event(sixth.id).await.unwrap().as_ref(), Some(sixth));
    trail.disarm().await;
    trail
        .sql("UPDATE portcullis.entries SET decision = 'deny' WHERE chain_no = 2 AND seq = 6")
        .await;
    let tampered = AuditError::Tampered {
        chain_no: 2,
        seq: 6,
    };
    assert_eq!(checked.events(&query).await, Err(tampered.clone()));
    assert_eq!(checked.event(sixth.id).await, Err(tampered.clone()));
    let mut follow = checked.follow(&query).from_beginning();
    let mut seen = 0;
    let error = loop {
        match follow.next().await {
            Ok(_) => seen += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error, seen), (tampered, 0));
    assert_eq!(
        audit
            .event(sixth.id)
            .await
            .unwrap()
            .unwrap()
            .decision
            .as_deref(),
        Some("deny")
    );
    // What follows a lost entry is not shown as checked.
    trail
        .sql("DELETE FROM portcullis.entries WHERE chain_no = 3 AND seq = 6")
        .await;
    assert_eq!(
        checked.events(&Query::all().session(&session("s-3"))).await,
        Err(AuditError::Tampered {
            chain_no: 3,
            seq: 7
        })
    );
    // What is no entry at all is shown by nobody.
    trail
        .sql("UPDATE portcullis.entries SET kind = 'gate.forged' WHERE chain_no = 2 AND seq = 6")
        .await;
    assert_eq!(
        audit.event(sixth.id).await.unwrap_err().kind(),
        ErrorKind::Integrity
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_gives_every_entry_once_in_the_order_of_its_chain() {
    let trail = Trail::written().await;
    let reader = trail.audit().await;
    let query = Query::all().kind(&kind("app.live"));
    let mut follow = reader.follow(&query).every(Duration::from_millis(5));
    follow.begin().await.unwrap();

    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let audit = trail.audit().await;
        writers.spawn(async move {
            let me = who("a-1", &format!("live-{writer}"));
            for n in 0..60 {
                let live = AuditEvent::new(&me, "app.live").with("n", n);
                audit
                    .append_all(vec![live, AuditEvent::new(&me, "app.noise")])
                    .await
                    .unwrap();
            }
        });
    }
    let (mut seen, mut last) = (HashSet::new(), std::collections::HashMap::new());
    let mut patient = false;
    while seen.len() < 240 {
        // Cancelled again and again, as in a select!; nothing is lost or given twice.
        // Every other time it has until it is done, so that a slow machine gets on too.
        let patience = if patient {
            Duration::from_mins(1)
        } else {
            Duration::from_micros(700)
        };
        patient = !patient;
        let next = tokio::time::timeout(patience, follow.next()).await;
        let Ok(entry) = next else { continue };
        let entry = entry.unwrap();
        assert!(seen.insert(entry.id), "twice");
        let before = last.insert(entry.chain_no, entry.seq);
        assert!(before < Some(entry.seq), "out of order");
        // And stopped and taken up elsewhere, through the text of its position.
        if seen.len() % 50 == 0 {
            let position: Position = follow.position().to_string().parse().unwrap();
            follow = trail
                .audit()
                .await
                .follow(&query)
                .every(Duration::from_millis(5))
                .after(position);
        }
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let more = tokio::time::timeout(Duration::from_millis(100), follow.next()).await;
    assert!(more.is_err(), "no more than was written");
    let mut again = reader.follow(&Query::all()).from_beginning();
    // However many of the freed chains were taken over, and not opened anew.
    let all: i64 = sqlx::query_scalar("SELECT count(*) FROM portcullis.entries")
        .fetch_one(&trail.pool)
        .await
        .unwrap();
    assert!(all >= 36 + 480);
    for _ in 0..all {
        again.next().await.unwrap();
    }
    assert!(reader.verify(Scope::All).await.unwrap().is_clean());
}

#[tokio::test]
async fn following_survives_lost_connections() {
    let trail = Trail::written().await;
    let audit = trail.audit().await;
    let mut follow = trail
        .audit()
        .await
        .follow(&Query::all())
        .every(Duration::from_millis(2));
    follow.begin().await.unwrap();
    let me = who("a-1", "s-9");
    let mut ids = Vec::new();
    for _ in 0..10 {
        let event = AuditEvent::new(&me, "app.live");
        ids.push(event.id());
        audit.append(event).await.unwrap();
        let mut admin = sqlx::postgres::PgConnection::connect_with(&trail.test.options())
            .await
            .unwrap();
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(&mut admin)
        .await
        .unwrap();
        let entry = follow.next().await.unwrap();
        let entry = if entry.kind == Kind::ChainGenesis {
            follow.next().await.unwrap()
        } else {
            entry
        };
        assert_eq!(Some(&entry.id), ids.last());
    }
}

#[tokio::test]
async fn following_stops_loudly_where_entries_are_missing() {
    let trail = Trail::written().await;
    trail.disarm().await;
    let audit = trail.audit().await;
    trail
        .sql("DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 6")
        .await;
    let mut follow = audit.follow(&Query::all()).from_beginning();
    let mut error = follow.next().await;
    while error.is_ok() {
        error = follow.next().await;
    }
    assert_eq!(
        error,
        Err(AuditError::Tampered {
            chain_no: 1,
            seq: 6
        })
    );
    trail.restore().await;
    let mut follow = audit
        .follow(&Query::all())
        .after("1:12,2:12,3:12".parse().unwrap());
    trail
        .sql("UPDATE portcullis.chains SET next_seq = 5 WHERE chain_no = 2")
        .await;
    assert_eq!(
        follow.next().await,
        Err(AuditError::Tampered {
            chain_no: 2,
            seq: 5
        })
    );
}

use sqlx::Connection as _;
