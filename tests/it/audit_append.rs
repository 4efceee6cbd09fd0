//! Appending to the audit trail.

use std::collections::HashSet;

use portcullis::audit::{AuditError, AuditEvent, Committed};
use portcullis::store::Migration;
use portcullis::{Database, ErrorKind};

use crate::common::trail::{Place, append_many, event, trail, writer};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_leave_no_gap_and_no_duplicate() {
    let trail = trail().await;
    let done = append_many(&trail.audit, 64, 100).await;
    let places: HashSet<_> = done.iter().map(|c| (c.chain_no, c.seq)).collect();
    assert_eq!(places.len(), 6_400);
    assert_eq!(trail.count().await, 6_400);
    trail.assert_whole().await;
    // What was acknowledged stands where the acknowledgement says.
    let found: Vec<(String, i32, i64)> = sqlx::query_as(
        "SELECT event_id::text, chain_no, seq FROM portcullis.entries WHERE kind = 'app.many'",
    )
    .fetch_all(&trail.pool)
    .await
    .unwrap();
    let found: HashSet<_> = found.into_iter().collect();
    for c in done {
        let place = (
            c.id.to_string(),
            i32::try_from(c.chain_no).unwrap(),
            i64::try_from(c.seq).unwrap(),
        );
        assert!(found.contains(&place), "{place:?}");
    }
    let stats = trail.audit.stats();
    assert_eq!((stats.events, stats.lost, stats.waiting), (6_400, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_writers_have_a_chain_each() {
    let trail = trail().await;
    let others = [
        writer(&trail.test.database()).await,
        writer(&trail.test.database()).await,
    ];
    let (a, b, c) = tokio::join!(
        append_many(&trail.audit, 4, 50),
        append_many(&others[0], 4, 50),
        append_many(&others[1], 4, 50)
    );
    let chains = |done: &[Committed]| done.iter().map(|c| c.chain_no).collect::<HashSet<_>>();
    assert!(chains(&a).is_disjoint(&chains(&b)));
    assert!(chains(&a).is_disjoint(&chains(&c)));
    assert!(chains(&b).is_disjoint(&chains(&c)));
    assert_eq!(trail.count().await, 600);
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_batch_is_one_round_trip() {
    let trail = trail().await;
    trail.audit.append(event("app.first")).await.unwrap();
    let before = trail.audit.stats();
    for _ in 0..20 {
        trail.audit.append(event("app.next")).await.unwrap();
    }
    let after = trail.audit.stats();
    assert_eq!(after.batches - before.batches, 20);
    assert_eq!(after.statements - before.statements, 20);
    assert_eq!(after.lanes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_400_callers_at_once_are_all_committed() {
    let trail = trail().await;
    // As small a pool as there is: the writer needs none of it.
    let audit = writer(&Database::options(trail.test.options()).pool_size(2)).await;
    let done = append_many(&audit, 400, 1).await;
    assert_eq!(done.len(), 400);
    assert_eq!(trail.count().await, 400);
    assert_eq!(audit.stats().lost, 0);
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_duplicate_with_the_same_content_gets_the_same_place() {
    let trail = trail().await;
    let event = event("app.once")
        .with("invoice", "inv_1")
        .input(b"a request")
        .decision("allow");
    let first = trail.audit.append(event.clone()).await.unwrap().place();
    // By this writer and by another one.
    assert_eq!(
        trail.audit.append(event.clone()).await.unwrap().place(),
        first
    );
    let other = writer(&trail.test.database()).await;
    assert_eq!(other.append(event.clone()).await.unwrap().place(), first);
    assert_eq!(trail.entries_of(&event).await, 1);
    trail.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_id_is_refused_and_its_neighbours_are_fine() {
    let trail = trail().await;
    let original = event("app.original").with("amount", 1);
    trail.audit.append(original.clone()).await.unwrap();
    let forged = event("app.original")
        .with_id(original.id())
        .with("amount", 2);
    // In one batch: they are queued before the writer runs.
    let neighbours: Vec<_> = (0..20)
        .map(|n| event("app.neighbour").with("n", n))
        .collect();
    let calls = neighbours
        .iter()
        .take(10)
        .cloned()
        .chain([forged, original.clone()])
        .chain(neighbours.iter().skip(10).cloned())
        .map(|event| {
            let audit = trail.audit.clone();
            tokio::spawn(async move { audit.append(event).await })
        });
    let mut refused = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(AuditError::IdReused { id }) => {
                assert_eq!(id, original.id());
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 1);
    for neighbour in &neighbours {
        assert_eq!(trail.entries_of(neighbour).await, 1);
    }
    trail.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_from_many_callers_at_once_is_written_once() {
    let trail = trail().await;
    let event = event("app.once").with("n", 1);
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let (audit, event) = (trail.audit.clone(), event.clone());
            tokio::spawn(async move { audit.append(event).await.unwrap() })
        })
        .collect();
    let mut places = HashSet::new();
    for call in calls {
        places.insert(call.await.unwrap());
    }
    assert_eq!(places.len(), 1);
    assert_eq!(trail.entries_of(&event).await, 1);
    trail.assert_whole().await;
}

#[tokio::test]
async fn f10_dates_uuids_and_decimals_arrive_as_text() {
    let trail = trail().await;
    let event = event("app.typed")
        .with("at", AsText(portcullis::Timestamp::from_micros(0)))
        .with("id", AsText(uuid::Uuid::nil()))
        .with("price", AsText("12.50"));
    trail.audit.append(event.clone()).await.unwrap();
    let metadata: String = sqlx::query_scalar(
        "SELECT metadata FROM portcullis.entries WHERE event_id = $1::text::uuid",
    )
    .bind(event.id().to_string())
    .fetch_one(&trail.pool)
    .await
    .unwrap();
    assert_eq!(
        metadata,
        r#"{"at":"1970-01-01T00:00:00.000000Z","id":"00000000-0000-0000-0000-000000000000","price":"12.50"}"#
    );
    // What cannot be kept is refused by name, and not lost.
    let float = event_with_float();
    let error = trail.audit.append(float).await.unwrap_err();
    assert!(error.to_string().contains("price"), "{error}");
}

/// Serialises as text, as the types of dates, UUIDs and decimals do.
struct AsText<T>(T);

impl<T: std::fmt::Display> serde::Serialize for AsText<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn event_with_float() -> AuditEvent {
    event("app.typed").with("price", 12.5)
}

#[tokio::test]
async fn f17_a_poison_event_is_refused_by_name_before_it_is_sent() {
    let trail = trail().await;
    for (poison, named) in [
        (event("app.x").with("note", "a\0b"), "note"),
        (event("app.x").decision("a\0"), "decision"),
        (event("app.x").with("big", "x".repeat(70_000)), "metadata"),
        (event("gate.granted"), "app."),
    ] {
        let error = trail.audit.append(poison).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(trail.audit.stats().statements, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_a_row_that_only_the_database_refuses_fails_alone() {
    let trail = trail().await;
    // A rule that validation knows nothing of, as a host or a later schema may have.
    trail
        .run("ALTER TABLE portcullis.entries ADD CHECK (kind <> 'app.poison')")
        .await;
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let audit = trail.audit.clone();
            let kind = if n == 23 { "app.poison" } else { "app.fine" };
            tokio::spawn(async move { (n, audit.append(event(kind)).await) })
        })
        .collect();
    for call in calls {
        let (n, answer) = call.await.unwrap();
        assert_eq!(answer.is_err(), n == 23, "{n}: {answer:?}");
    }
    assert_eq!(trail.count().await, 49);
    trail.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_stands_together_or_not_at_all() {
    let trail = trail().await;
    let load = append_many(&trail.audit, 16, 20);
    let groups = async {
        for _ in 0..20 {
            let group = ["app.a", "app.b", "app.c"].map(event).to_vec();
            let ids: Vec<_> = group.iter().map(AuditEvent::id).collect();
            let placed = trail.audit.append_all(group).await.unwrap();
            let placed: Vec<_> = placed.iter().map(Place::place).collect();
            assert_eq!(placed.iter().map(|c| c.id).collect::<Vec<_>>(), ids);
            for pair in placed.windows(2) {
                assert_eq!(pair[0].chain_no, pair[1].chain_no);
                assert_eq!(pair[0].seq + 1, pair[1].seq);
            }
        }
    };
    tokio::join!(load, groups);
    // One of a group cannot be stored: none is.
    let taken = event("app.taken");
    trail.audit.append(taken.clone()).await.unwrap();
    let fine = event("app.fine");
    let group = vec![fine.clone(), event("app.other").with_id(taken.id())];
    let refused = trail.audit.append_all(group).await;
    assert_eq!(refused, Err(AuditError::IdReused { id: taken.id() }));
    assert_eq!(trail.entries_of(&fine).await, 0);
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_shutdown_drains_gives_the_chains_back_and_closes() {
    let trail = trail().await;
    for n in 0..300 {
        trail.audit.log_detached(event("app.detached").with("n", n));
    }
    trail.audit.shutdown().await;
    assert_eq!(trail.count().await, 300);
    assert_eq!(trail.audit.stats().lanes, 0);
    let held = "SELECT count(*) FROM portcullis.chains WHERE lease_until > now()";
    let held: i64 = sqlx::query_scalar(held)
        .fetch_one(&trail.pool)
        .await
        .unwrap();
    assert_eq!(held, 0);
    let closed = trail.audit.append(event("app.late")).await;
    assert_eq!(closed, Err(AuditError::Closed));
    trail.audit.shutdown().await;
    // The next writer goes on where this one ended.
    let chains = trail.chains().await;
    let other = writer(&trail.test.database()).await;
    other.append(event("app.next")).await.unwrap();
    assert_eq!(trail.chains().await, chains);
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_dropped_caller_does_not_take_its_event_along() {
    let trail = trail().await;
    let event = event("app.cancelled");
    {
        let call = trail.audit.append(event.clone());
        tokio::pin!(call);
        // Polled once: queued.
        assert!(futures_poll(call.as_mut()).await);
    }
    trail.audit.shutdown().await;
    assert_eq!(trail.entries_of(&event).await, 1);
}

/// Polls `future` once; says whether it is still pending.
async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn content_is_never_stored_but_keyed_hashes_of_it_are() {
    let trail = trail().await;
    let event = event("app.hashed")
        .input(b"marker-in")
        .output(b"marker-out");
    trail.audit.append(event.clone()).await.unwrap();
    let (input, row): (Vec<u8>, String) = sqlx::query_as(
        "SELECT input_hash, e::text FROM portcullis.entries e WHERE event_id = $1::text::uuid",
    )
    .bind(event.id().to_string())
    .fetch_one(&trail.pool)
    .await
    .unwrap();
    assert!(!row.contains("marker"));
    let bare = <sha2::Sha256 as sha2::Digest>::digest(b"marker-in");
    assert_ne!(input, bare.to_vec(), "a bare hash can be guessed");
}

#[tokio::test]
async fn entries_cannot_be_changed_even_by_the_owner() {
    let trail = trail().await;
    trail.audit.append(event("app.x")).await.unwrap();
    for sql in [
        "UPDATE portcullis.entries SET decision = 'allow'",
        "DELETE FROM portcullis.entries",
        "DELETE FROM portcullis.chains",
    ] {
        let error = sqlx::query(sql).execute(&trail.pool).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{sql}");
    }
}

#[tokio::test]
async fn f22_truncate_is_refused() {
    let trail = trail().await;
    for sql in [
        "TRUNCATE portcullis.entries",
        "TRUNCATE portcullis.chains",
        "TRUNCATE portcullis.chains, portcullis.entries CASCADE",
    ] {
        let error = sqlx::query(sql).execute(&trail.pool).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{sql}");
    }
}

fn sqlstate(error: &sqlx::Error) -> String {
    let database = error.as_database_error().expect("an answer");
    database.code().unwrap_or_default().into_owned()
}

#[tokio::test]
async fn the_application_role_can_append_and_change_nothing() {
    let trail = trail().await;
    // Roles belong to the server, not to the database: an earlier test run may have made it.
    let made = "DO $$ BEGIN CREATE ROLE portcullis_test_app;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    trail.run(made).await;
    Migration::new(&trail.test.database())
        .app_role("portcullis_test_app")
        .run()
        .await
        .unwrap();
    let as_app = trail
        .test
        .options()
        .options([("role", "portcullis_test_app")]);
    let database = Database::options(as_app);
    let audit = writer(&database).await;
    audit.append(event("app.x")).await.unwrap();
    audit.append(event("app.y")).await.unwrap();
    let pool = database.connect_pool().await.unwrap();
    for sql in [
        "UPDATE portcullis.entries SET decision = 'allow'",
        "DELETE FROM portcullis.entries",
        "TRUNCATE portcullis.entries",
        "DELETE FROM portcullis.chains",
        "TRUNCATE portcullis.chains",
        "ALTER TABLE portcullis.entries DISABLE TRIGGER ALL",
    ] {
        let error = sqlx::query(sql).execute(&pool).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{sql}");
        // By the grants, before any trigger is asked.
        assert!(!error.to_string().contains("append-only"), "{sql}");
    }
    trail.assert_whole().await;
}
