//! The writer against a real Postgres, where the tests need its keys or its clock.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use crate::audit::keys::{AuditKeys, Purpose};
use crate::audit::row::{GENESIS, Row, mac};
use crate::audit::{Audit, AuditEvent, AuditOptions};
use crate::call::Principal;
use crate::canon::Fields;
use crate::ids::{AgentId, EventId, ModelName, TenantId, UserId};
use crate::secret::Secret;
use crate::store::{Store, TestDatabase};
use crate::time::{ManualClock, Timestamp};

const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

async fn trail(keys: &AuditKeys) -> (TestDatabase, PgPool, Arc<ManualClock>, Audit) {
    let test = TestDatabase::fresh().await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let store = Store::new(
        pool.clone(),
        TenantId::single(),
        clock.clone(),
        Duration::from_secs(5),
    );
    (
        test,
        pool,
        clock,
        Audit::start(store, keys.clone(), &AuditOptions::default()),
    )
}

fn keys() -> AuditKeys {
    AuditKeys::single(Secret::generate().unwrap())
}

fn event(kind: &str) -> AuditEvent {
    let me =
        Principal::agent(AgentId::parse("a").unwrap()).on_behalf_of(UserId::parse("u_1").unwrap());
    AuditEvent::new(&me, kind)
}

type Stored = (
    i32,
    i64,
    i64,
    String,
    Timestamp,
    Timestamp,
    Uuid,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Uuid>,
    Option<String>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
    String,
);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_has_the_mac_of_row_v1() {
    let keys = keys();
    let (_test, pool, _clock, audit) = trail(&keys).await;
    let parent = EventId::new();
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let audit = audit.clone();
            let event = event("app.x")
                .with("n", n)
                .with("text", "Grüße, \"quoted\" \u{1F600}")
                .caused_by(parent)
                .model(&ModelName::parse("gpt-4o-mini").unwrap())
                .input(b"in")
                .decision("allow")
                .occurred(Timestamp::from_micros(-n));
            tokio::spawn(async move { audit.append(event).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id, session_id, agent_id,
                user_id, parent_id, model, input_hash, output_hash, decision, metadata
           FROM portcullis.entries ORDER BY chain_no, seq",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let macs: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT mac FROM portcullis.entries ORDER BY chain_no, seq")
            .fetch_all(&pool)
            .await
            .unwrap();
    let key = keys.derive(&TenantId::single(), Purpose::Chain);
    let (mut previous, mut last) = (GENESIS, (0, 0));
    let mut fields = Fields::default();
    for (row, stored) in rows.iter().zip(macs) {
        if row.0 != last.0 {
            (previous, last) = (GENESIS, (row.0, 0));
        }
        assert_eq!(row.1, last.1 + 1);
        last.1 = row.1;
        Row {
            tenant: "default",
            chain_no: u32::try_from(row.0).unwrap(),
            seq: u64::try_from(row.1).unwrap(),
            key_id: u32::try_from(row.2).unwrap(),
            kind: &row.3,
            occurred_us: row.4.as_micros(),
            recorded_us: row.5.as_micros(),
            event_id: row.6.as_bytes(),
            session: row.7.as_deref(),
            agent: row.8.as_deref(),
            user: row.9.as_deref(),
            agent_key: None,
            parent: row.10.as_ref().map(|id| id.as_bytes().as_slice()),
            model: row.11.as_deref(),
            input_hash: row.12.as_deref(),
            output_hash: row.13.as_deref(),
            decision: row.14.as_deref(),
            metadata: &row.15,
            sealed: None,
            ingest: "live",
            origin_journal: None,
            origin_seq: None,
            origin_mac: None,
        }
        .encode(&mut fields);
        previous = mac(&key, &fields, &previous);
        assert_eq!(previous.as_slice(), stored, "chain and seq {last:?}");
    }
    assert!(rows.len() > 200);
}

/// A process that dies right after it found the store again leaves nothing to be found.
#[tokio::test]
async fn asking_whether_the_store_takes_anything_changes_no_chain() {
    let (_test, _pool, clock, audit) = trail(&keys()).await;
    audit.append(event("app.before")).await.unwrap();
    clock.advance(Duration::from_mins(1));
    let placed = super::drain::push(&audit.writer.last.shared, Vec::new()).await;
    assert!(placed.unwrap().is_empty());
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    audit.append(event("app.after")).await.unwrap();
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn recorded_never_runs_backwards_within_a_chain() {
    let (_test, pool, clock, audit) = trail(&keys()).await;
    audit.append(event("app.a")).await.unwrap();
    clock.set(START.minus(Duration::from_hours(1)));
    audit.append(event("app.b")).await.unwrap();
    clock.set(START.plus(Duration::from_secs(1)));
    audit.append(event("app.c")).await.unwrap();
    let rows: Vec<(Timestamp, Timestamp)> = sqlx::query_as(
        "SELECT occurred_at, recorded_at FROM portcullis.entries WHERE seq > 1 ORDER BY seq",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let early = START.minus(Duration::from_hours(1));
    let late = START.plus(Duration::from_secs(1));
    assert_eq!(rows, [(START, START), (early, START), (late, late)]);
}

#[tokio::test]
async fn an_event_repeated_later_is_the_same_event() {
    let (_test, _pool, clock, audit) = trail(&keys()).await;
    let once = event("app.once");
    let first = *audit
        .append(once.clone())
        .await
        .unwrap()
        .committed()
        .unwrap();
    clock.advance(Duration::from_mins(1));
    assert_eq!(audit.append(once).await.unwrap().committed(), Some(&first));
}

#[tokio::test]
async fn a_chain_can_be_claimed_once_its_lease_has_run_out_and_not_before() {
    let keys = keys();
    let (_test, pool, clock, audit) = trail(&keys).await;
    let store = Store::new(
        pool,
        TenantId::single(),
        clock.clone(),
        Duration::from_secs(5),
    );
    let mine = *audit
        .append(event("app.mine"))
        .await
        .unwrap()
        .committed()
        .unwrap();
    clock.advance(Duration::from_secs(89));
    let second = Audit::start(store.clone(), keys.clone(), &AuditOptions::default());
    let place = *second
        .append(event("app.second"))
        .await
        .unwrap()
        .committed()
        .unwrap();
    assert_ne!(place.chain_no, mine.chain_no);
    clock.advance(Duration::from_secs(2));
    let third = Audit::start(store, keys, &AuditOptions::default());
    let place = *third
        .append(event("app.third"))
        .await
        .unwrap()
        .committed()
        .unwrap();
    assert_eq!(place.chain_no, mine.chain_no);
}
