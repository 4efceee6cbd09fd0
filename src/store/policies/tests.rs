//! What stands in the way of a missed change, against a real Postgres.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Policies, PolicyRow, PolicyWatch};
use crate::ids::TenantId;
use crate::store::{Store, StoreFault, TestDatabase};
use crate::time::SystemClock;

const MODULE: &str = "scope";

async fn policies(test: &TestDatabase) -> Policies {
    let clock = Arc::new(SystemClock);
    let store = Store::open(&test.database(), TenantId::single(), clock)
        .await
        .unwrap();
    Policies::new(store, MODULE)
}

fn named<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).into()
}

/// What a process has in force, by following.
#[derive(Default)]
struct InForce {
    rows: Mutex<(i64, BTreeMap<String, String>)>,
    changed: Notify,
}

impl InForce {
    fn follow(self: &Arc<Self>, policies: Policies) -> PolicyWatch<PolicyRow> {
        let here = Arc::clone(self);
        policies.watch(
            |row| row,
            move |changes| {
                let mut held = here.rows.lock().unwrap();
                assert!(changes.whole || changes.revision > held.0);
                held.0 = changes.revision;
                if changes.whole {
                    held.1.clear();
                }
                for row in changes.rows {
                    match row.document {
                        Some(document) => held.1.insert(row.name, document),
                        None => held.1.remove(&row.name),
                    };
                }
                here.changed.notify_one();
            },
        )
    }

    async fn until(&self, revision: i64) -> BTreeMap<String, String> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let (seen, held) = self.rows.lock().unwrap().clone();
                if seen >= revision {
                    return held;
                }
                changed.await;
            }
        };
        timeout(Duration::from_secs(30), wait).await.unwrap()
    }
}

#[tokio::test]
async fn a_change_is_in_force_everywhere_and_so_is_a_removal() {
    let test = TestDatabase::fresh().await.unwrap();
    let writer = policies(&test).await;
    let here = Arc::new(InForce::default());
    let watch = here.follow(policies(&test).await);
    watch.start().await.unwrap();
    let documents = named([("b", "[2]"), ("a", "[1]"), ("b", "[3]")]);
    let revision = writer.upsert_all(&documents).await.unwrap();
    assert_eq!(revision, 1);
    let held = here.until(1).await;
    assert_eq!(
        held.into_iter().collect::<Vec<_>>(),
        named([("a", "[1]"), ("b", "[3]")])
    );
    assert!(writer.delete("a").await.unwrap());
    assert!(!writer.delete("a").await.unwrap());
    assert!(!writer.delete("never").await.unwrap());
    let held = here.until(2).await;
    assert_eq!(held.into_iter().collect::<Vec<_>>(), named([("b", "[3]")]));
    // One that comes later finds the same.
    let late = Arc::new(InForce::default());
    late.follow(policies(&test).await).start().await.unwrap();
    assert_eq!(late.until(2).await.len(), 1);
    let status = watch.status();
    assert_eq!(status.revision, 2);
    assert!(status.looked_at.is_some() && !status.failing);
}

#[tokio::test]
async fn what_is_stored_already_changes_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let policies = policies(&test).await;
    let documents = named([("a", "[1]"), ("b", "[2]")]);
    assert_eq!(policies.upsert_all(&documents).await.unwrap(), 1);
    assert_eq!(policies.upsert_all(&documents).await.unwrap(), 1);
    assert_eq!(policies.fetch_revision().await.unwrap(), 1);
    let one = named([("a", "[1]"), ("b", "[3]")]);
    assert_eq!(policies.upsert_all(&one).await.unwrap(), 2);
    let rows = policies.list_since(0, "").await.unwrap();
    let places: Vec<_> = rows
        .iter()
        .map(|r| (&*r.name, r.version, r.revision))
        .collect();
    assert_eq!(places, [("a", 1, 1), ("b", 2, 2)]);
    assert_eq!(policies.upsert_all(&[]).await.unwrap(), 2);
}

/// Writers who take long and readers who never stop: every reader ends where the table does, and at
/// no moment holds a part of a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_are_never_missed_and_never_seen_by_halves() {
    let test = TestDatabase::fresh().await.unwrap();
    let readers: Vec<_> = futures_of(&test, 2).await;
    let stop = Arc::new(Notify::new());
    let mut eager = Vec::new();
    for (here, watch) in &readers {
        watch.start().await.unwrap();
        assert_eq!(here.until(0).await.len(), 0);
    }
    // Readers who look without being told, as fast as they can.
    for _ in 0..2 {
        let policies = policies(&test).await;
        let stop = Arc::clone(&stop);
        eager.push(tokio::spawn(async move {
            let torn = Arc::new(Mutex::new(BTreeMap::<String, String>::new()));
            let held = Arc::clone(&torn);
            let watch = policies.watch(
                |row| row,
                move |changes| {
                    let mut held = held.lock().unwrap();
                    for row in changes.rows {
                        held.insert(row.name, row.document.unwrap());
                    }
                    // Every transaction writes its number to both ends of its pair.
                    for pair in 0..3 {
                        let end = |end| held.get(&format!("{end}{pair}"));
                        assert_eq!(end("first"), end("last"), "half of a transaction");
                    }
                },
            );
            let stopped = stop.notified();
            tokio::pin!(stopped);
            loop {
                watch.look().await.unwrap();
                let done = timeout(Duration::ZERO, &mut stopped).await.is_ok();
                if done {
                    watch.look().await.unwrap();
                    let held = torn.lock().unwrap().clone();
                    return (watch.status().revision, held);
                }
            }
        }));
    }
    let writers = (0..4).map(|writer| {
        let test = &test;
        async move {
            let policies = policies(test).await;
            for round in 0..40 {
                let document = format!("[{writer},{round}]");
                let pair = round % 3;
                // More than a page between the two ends, now and then.
                let filler = if round % 20 == 0 { 1_500 } else { 3 };
                let mut all: Vec<_> = (0..filler)
                    .map(|i| (format!("k{writer}-{i}"), document.clone()))
                    .collect();
                all.push((format!("first{pair}"), document.clone()));
                all.push((format!("last{pair}"), document));
                policies.upsert_all(&all).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    stop.notify_waiters();

    let stored = policies(&test).await;
    let newest = stored.fetch_revision().await.unwrap();
    assert_eq!(newest, 160);
    let late = Arc::new(InForce::default());
    let late_watch = late.follow(stored);
    late_watch.start().await.unwrap();
    let truth = late.until(newest).await;
    for (here, _) in &readers {
        assert_eq!(here.until(newest).await, truth);
    }
    for reader in eager {
        let (revision, held) = timeout(Duration::from_secs(30), reader)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(revision, newest);
        assert_eq!(held, truth);
    }
}

async fn futures_of(
    test: &TestDatabase,
    count: usize,
) -> Vec<(Arc<InForce>, PolicyWatch<PolicyRow>)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let here = Arc::new(InForce::default());
        let watch = here.follow(policies(test).await);
        all.push((here, watch));
    }
    all
}

#[tokio::test]
async fn a_writer_who_does_not_take_a_revision_is_refused() {
    let test = TestDatabase::fresh().await.unwrap();
    let policies = policies(&test).await;
    policies.upsert_all(&named([("a", "[1]")])).await.unwrap();
    let mut connection = test.options().connect().await.unwrap();
    let refused = [
        "INSERT INTO portcullis.policies
                (tenant_id, module, name, version, revision, document, updated_at)
         VALUES ('default', 'scope', 'b', 1, 1, '[1]', now())",
        "UPDATE portcullis.policies SET document = '[2]'",
        "UPDATE portcullis.policies SET document = '[2]', version = version + 1",
        "UPDATE portcullis.policies
            SET document = '[2]', version = version + 1, revision = revision + 1",
        "UPDATE portcullis.policies
            SET name = 'c', version = version + 1, revision = revision + 1",
        "DELETE FROM portcullis.policies",
        "TRUNCATE portcullis.policies",
        "UPDATE portcullis.policy_revisions SET revision = 1",
        "DELETE FROM portcullis.policy_revisions",
        "TRUNCATE portcullis.policy_revisions",
        "TRUNCATE portcullis.policy_history",
    ];
    for statement in refused {
        let answer = connection.execute(statement).await;
        assert!(answer.is_err(), "{statement}");
    }
    // The revision that is current is not one's own, even if it is the newest.
    let bump = "UPDATE portcullis.policy_revisions SET revision = revision + 1";
    let edit = "UPDATE portcullis.policies
                   SET document = '[2]', version = version + 1,
                       revision = (SELECT revision FROM portcullis.policy_revisions)";
    connection.execute(bump).await.unwrap();
    assert!(connection.execute(edit).await.is_err());
    // By hand it is done so, as the manual says.
    let mut by_hand = connection.begin().await.unwrap();
    by_hand.execute(bump).await.unwrap();
    by_hand.execute(edit).await.unwrap();
    by_hand.commit().await.unwrap();
    let rows = policies.list_since(2, "").await.unwrap();
    assert_eq!(rows[0].document.as_deref(), Some("[2]"));
}

#[tokio::test]
async fn what_was_in_force_before_is_kept() {
    let test = TestDatabase::fresh().await.unwrap();
    let policies = policies(&test).await;
    for text in ["[1]", "[2]"] {
        policies.upsert_all(&named([("a", text)])).await.unwrap();
    }
    policies.delete("a").await.unwrap();
    policies.upsert_all(&named([("a", "[3]")])).await.unwrap();
    let mut connection = test.options().connect().await.unwrap();
    let kept: Vec<(i64, i64, Option<String>, i64, bool)> = sqlx::query_as(
        "SELECT version, revision, document, replaced_by, since <= until
           FROM portcullis.policy_history ORDER BY version",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let said = |document: &str| Some(document.to_owned());
    assert_eq!(
        kept,
        [
            (1, 1, said("[1]"), 2, true),
            (2, 2, said("[2]"), 3, true),
            (3, 3, None, 4, true),
        ]
    );
}

#[tokio::test]
async fn a_restored_database_is_followed_back_loudly() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = Arc::new(InForce::default());
    let watch = here.follow(policies(&test).await);
    watch.start().await.unwrap();
    watch.upsert_all(named([("a", "[1]")])).await.unwrap();
    watch.upsert_all(named([("b", "[1]")])).await.unwrap();
    // As a backup of revision 1 would be.
    let mut connection = test.options().connect().await.unwrap();
    connection
        .execute(
            "ALTER TABLE portcullis.policies DISABLE TRIGGER USER;
             ALTER TABLE portcullis.policy_revisions DISABLE TRIGGER USER;
             DELETE FROM portcullis.policies WHERE name = 'b';
             UPDATE portcullis.policy_revisions SET revision = 1;",
        )
        .await
        .unwrap();
    watch.look().await.unwrap();
    let held = here.rows.lock().unwrap().clone();
    assert_eq!(held.0, 1);
    assert_eq!(held.1.into_keys().collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn without_the_store_what_was_loaded_stays_and_its_age_is_known() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = Arc::new(InForce::default());
    let watch = here.follow(policies(&test).await);
    watch.start().await.unwrap();
    watch.upsert_all(named([("a", "[1]")])).await.unwrap();
    let mut connection = test.options().connect().await.unwrap();
    let away = "ALTER TABLE portcullis.policy_revisions RENAME TO away";
    connection.execute(away).await.unwrap();
    let error = watch.look().await.unwrap_err();
    assert_eq!(error.fault(), StoreFault::NotMigrated);
    assert!(watch.upsert_all(named([("a", "[2]")])).await.is_err());
    let status = watch.status();
    assert!(status.failing);
    let known = status.looked_at.unwrap();
    assert_eq!(here.until(1).await.len(), 1);
    let back = "ALTER TABLE portcullis.away RENAME TO policy_revisions";
    connection.execute(back).await.unwrap();
    watch.look().await.unwrap();
    assert!(!watch.status().failing && watch.status().looked_at.unwrap() >= known);
}

#[tokio::test]
async fn long_documents_are_read_in_short_pages() {
    let test = TestDatabase::fresh().await.unwrap();
    let policies = policies(&test).await;
    let long = format!("[{}]", "1,".repeat(2_500_000));
    let all: Vec<_> = (0..4).map(|i| (format!("p{i}"), long.clone())).collect();
    policies.upsert_all(&all).await.unwrap();
    let page = policies.list_since(0, "").await.unwrap();
    assert_eq!(page.len(), 1);
    let here = Arc::new(InForce::default());
    here.follow(policies).start().await.unwrap();
    assert_eq!(here.until(1).await.len(), 4);
}
