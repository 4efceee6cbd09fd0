//! Keys and their rotation, with writers at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::audit::FindingClass::{Gap, KeyWindow, Rotation as Rotated, UnknownKey};
use portcullis::audit::{
    Audit, AuditError, AuditEvent, AuditKeys, KeySource, Receipt, Rotation, Scope,
};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Database, ErrorKind, Governance, Principal, Secret, TenantId, Timestamp,
};
use sqlx::PgPool;

use crate::common::journal::Directory;
use crate::common::proxy::Proxy;
use crate::common::{keys as old_keys, url};
use crate::trail::{Found, found};

pub(crate) const SECRETS: [&str; 3] = [
    "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90",
    "b1946ac92492d2347c6235b4d2611184f0a3c58d7e61902bb44c8a17d35e9f06",
    "5d41402abc4b2a76b9719d911017c592e83f0b6a9c2d4715ff08136ea4bc7d29",
];

/// The keys with these numbers.
pub(crate) fn ring(numbers: &[usize]) -> AuditKeys {
    let ring = numbers.iter().fold(AuditKeys::builder(), |ring, number| {
        let secret = Secret::parse(SECRETS[number - 1]).unwrap();
        ring.key(u32::try_from(*number).unwrap(), KeySource::memory(secret))
    });
    ring.current(u32::try_from(numbers[0]).unwrap())
        .build()
        .unwrap()
}

fn event() -> AuditEvent {
    let me = Principal::agent(AgentId::parse("billing-agent").unwrap());
    AuditEvent::new(&me, "app.step")
}

struct Keyed {
    test: TestDatabase,
    pool: PgPool,
}

impl Keyed {
    async fn new() -> Self {
        let test = TestDatabase::fresh().await.unwrap();
        let pool = test.database().connect_pool().await.unwrap();
        Self { test, pool }
    }

    async fn audit(&self, numbers: &[usize]) -> Audit {
        self.audit_of(ring(numbers)).await
    }

    async fn audit_of(&self, keys: AuditKeys) -> Audit {
        Audit::open(&self.test.database(), keys, TenantId::single())
            .await
            .unwrap()
    }

    async fn sql(&self, text: &str) -> u64 {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        let done = sqlx::raw_sql(text).execute(&self.pool).await;
        done.unwrap().rows_affected()
    }

    async fn number(&self, text: &str) -> i64 {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        sqlx::query_scalar(text)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// What a verifier with these keys finds.
    async fn found(&self, numbers: &[usize]) -> Vec<Found> {
        found(&self.audit(numbers).await.verify_all().await.unwrap())
    }

    async fn assert_clean(&self, numbers: &[usize]) {
        let report = self.audit(numbers).await.verify_all().await.unwrap();
        assert!(report.is_clean(), "{report}");
    }

    /// The triggers are off, as for a superuser.
    async fn disarm(&self) {
        for table in ["entries", "chains", "keyring"] {
            self.sql(&format!(
                "ALTER TABLE portcullis.{table} DISABLE TRIGGER ALL"
            ))
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_rotation_works_on_a_clean_install() {
    let keyed = Keyed::new().await;
    // Before anything was written, and with nothing prepared.
    let audit = keyed.audit(&[1, 2]).await;
    let rotated = audit.rotate(2, Rotation::Planned).await.unwrap();
    assert_eq!((rotated.to, rotated.chains), (2, 0));
    let first = audit.append(event()).await.unwrap();
    let entry = audit.event(first.id()).await.unwrap().unwrap();
    assert_eq!(entry.key_id, 2);
    keyed.assert_clean(&[1, 2]).await;

    // And with entries, which stay where they are.
    let keyed = Keyed::new().await;
    let before = keyed.audit(&[1]).await;
    let first = before.append(event()).await.unwrap();
    before.shutdown().await;
    let audit = keyed.audit(&[1, 2]).await;
    let rotated = audit.rotate(2, Rotation::Planned).await.unwrap();
    assert_eq!((rotated.to, rotated.chains), (2, 1));
    let second = audit.append(event()).await.unwrap();
    let (first, second) = (first.committed().unwrap(), second.committed().unwrap());
    assert_eq!(second.chain_no, first.chain_no, "the same chain goes on");
    assert_eq!(second.seq, first.seq + 3, "after the two entries");
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.keys(), [(1, 3), (2, 2)]);
    assert_eq!(report.compromised_keys(), []);
    // Without the old key, the old entries are not proved, and it is said why.
    assert_eq!(
        keyed.found(&[2]).await,
        [(UnknownKey, 1, 1), (UnknownKey, 1, 2), (UnknownKey, 1, 3)]
    );

    // Once more does nothing, and says so.
    let again = audit.rotate(2, Rotation::Planned).await.unwrap();
    assert_eq!((again.to, again.chains), (2, 0));
    assert_eq!(
        keyed
            .number("SELECT count(*) FROM portcullis.entries WHERE kind = 'chain.key_rotated'")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_process_without_the_new_key_stops_instead_of_writing_with_the_old_one() {
    let keyed = Keyed::new().await;
    let old = keyed.audit(&[1]).await;
    old.append(event()).await.unwrap();
    let new = keyed.audit(&[1, 2]).await;
    new.rotate(2, Rotation::Planned).await.unwrap();

    // It held the chain, and believes that it still does.
    let error = old.append(event()).await.unwrap_err();
    assert_eq!(error, AuditError::KeyNotHeld { current: 2 });
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("key 2"), "{error}");
    assert!(matches!(old.log(event()).await, Receipt::Lost { .. }));
    assert_eq!(old.stats().lost, 2);
    // A new process without the key, and one with another secret under its number.
    let late = keyed.audit(&[1]).await;
    assert_eq!(
        late.append(event()).await.unwrap_err(),
        AuditError::KeyNotHeld { current: 2 }
    );
    let secret = Secret::parse(SECRETS[2]).unwrap();
    let wrong = AuditKeys::builder().key(2, KeySource::memory(secret));
    let wrong = keyed.audit_of(wrong.build().unwrap()).await;
    assert_eq!(
        wrong.append(event()).await.unwrap_err(),
        AuditError::WrongKey { key_id: 2 }
    );
    // A handle with gates does not even open.
    let refused = Governance::builder(keyed.test.database(), old_keys())
        .connect()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("key 2"), "{refused}");

    let under_old = "SELECT count(*) FROM portcullis.entries WHERE key_id = 1";
    assert_eq!(keyed.number(under_old).await, 3, "nothing since");
    new.append(event()).await.unwrap();
    keyed.assert_clean(&[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_both_keys_goes_on_by_itself() {
    let keyed = Keyed::new().await;
    let (a, b) = (keyed.audit(&[1, 2]).await, keyed.audit(&[1, 2]).await);
    let first = a.append(event().input(b"in")).await.unwrap();
    b.append(event()).await.unwrap();
    b.rotate(2, Rotation::Planned).await.unwrap();
    // Handed over before this process hears of it: hashed under the old key, written under the new.
    let under_way = a.append(event().input(b"in")).await.unwrap();
    let second = event().input(b"in").output(b"out");
    let second = a.append(second).await.unwrap();
    assert_eq!(a.stats().lost, 0);

    // Content is recognised on both sides of the rotation, by whoever has both keys.
    let first = a.event(first.id()).await.unwrap().unwrap();
    let under_way = a.event(under_way.id()).await.unwrap().unwrap();
    let second = a.event(second.id()).await.unwrap().unwrap();
    assert_eq!((first.key_id, under_way.key_id, second.key_id), (1, 2, 2));
    assert_eq!(first.input_hash, under_way.input_hash);
    assert_ne!(first.input_hash, second.input_hash);
    for entry in [&first, &under_way, &second] {
        assert!(b.is_input(entry, b"in"));
    }
    assert!(b.is_output(&second, b"out") && !b.is_output(&first, b"out"));
    assert!(!b.is_input(&first, b"other"));
    keyed.assert_clean(&[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_repeated_after_a_rotation_is_the_same_entry() {
    let keyed = Keyed::new().await;
    let audit = keyed.audit(&[1, 2]).await;
    let event = event().input(b"in");
    let first = audit.append(event.clone()).await.unwrap();
    audit.rotate(2, Rotation::Planned).await.unwrap();
    assert_eq!(audit.append(event.clone()).await.unwrap(), first);
    let other = AuditEvent::input(event, b"other");
    assert!(matches!(
        audit.append(other).await,
        Err(AuditError::IdReused { .. })
    ));
}

#[tokio::test]
async fn only_a_new_key_with_a_higher_number_follows() {
    let keyed = Keyed::new().await;
    let audit = keyed.audit(&[1, 2, 3]).await;
    audit.append(event()).await.unwrap();
    audit.rotate(3, Rotation::Planned).await.unwrap();
    for (to, problem) in [
        (2, "numbers only go up"),
        (1, "numbers only go up"),
        (9, "does not have it"),
    ] {
        let error = audit.rotate(to, Rotation::Planned).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    // An old secret under a new number, in a process that has forgotten the old number.
    let secret = |n: usize| KeySource::memory(Secret::parse(SECRETS[n]).unwrap());
    let sly = AuditKeys::builder().key(3, secret(2)).key(4, secret(0));
    let sly = keyed.audit_of(sly.current(3).build().unwrap()).await;
    let error = sly.rotate(4, Rotation::Planned).await;
    assert!(error.unwrap_err().to_string().contains("used before"));
    // Without the old key nobody rotates: its entry must be under it.
    let new_only = keyed.audit(&[2]).await;
    assert_eq!(
        new_only.rotate(2, Rotation::Planned).await.unwrap_err(),
        AuditError::KeyNotHeld { current: 3 }
    );
    keyed.assert_clean(&[1, 2, 3]).await;
}

/// Appends until told to stop; what was acknowledged, and whether it ended by lack of the key.
async fn work(audit: Audit, stop: Arc<AtomicBool>) -> (Vec<portcullis::EventId>, bool) {
    let mut done = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match audit.append(event().input(b"in")).await {
            Ok(at) => done.push(at.id()),
            Err(AuditError::KeyNotHeld { .. }) => return (done, true),
            Err(other) => panic!("{other}"),
        }
    }
    (done, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_writers_at_work_during_rotations_lose_nothing_and_the_trail_is_clean() {
    let keyed = Keyed::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    let mut tasks = Vec::new();
    for numbers in [&[1, 2, 3][..], &[1, 2, 3], &[1, 2, 3], &[1]] {
        let audit = keyed.audit(numbers).await;
        for _ in 0..3 {
            tasks.push((
                numbers.len(),
                tokio::spawn(work(audit.clone(), Arc::clone(&stop))),
            ));
        }
        writers.push(audit);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Two of them rotate at once, twice.
    for to in [2, 3] {
        let (a, b) = tokio::join!(
            writers[0].rotate(to, Rotation::Planned),
            writers[1].rotate(to, Rotation::Planned)
        );
        let (a, b) = (a.unwrap().chains, b.unwrap().chains);
        assert!((a == 0) != (b == 0), "one of them: {a}, {b}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = 0;
    for (keys, task) in tasks {
        let (done, locked_out) = task.await.unwrap();
        assert_eq!(locked_out, keys == 1);
        for id in &done {
            let id = sqlx::AssertSqlSafe(format!(
                "SELECT count(*) FROM portcullis.entries WHERE event_id = '{id}'"
            ));
            let count: i64 = sqlx::query_scalar(id).fetch_one(&keyed.pool).await.unwrap();
            assert_eq!(count, 1, "acknowledged");
        }
        all += done.len();
    }
    assert!(all > 100, "{all}");
    let report = writers[2].verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.keys().len(), 3, "{report}");
    for writer in writers {
        writer.shutdown().await;
    }
}

const URL: &str = "PORTCULLIS_KEYS_CHILD_URL";
const NUMBERS: &str = "PORTCULLIS_KEYS_CHILD_NUMBERS";

/// Not a test of its own: what each process runs.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let numbers: Vec<usize> = std::env::var(NUMBERS)
        .unwrap()
        .split(',')
        .map(|n| n.parse().unwrap())
        .collect();
    let audit = Audit::open(&Database::url(url), ring(&numbers), TenantId::single())
        .await
        .unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|_| tokio::spawn(work(audit.clone(), Arc::default())))
        .collect();
    let stopped = async {
        for task in tasks {
            assert!(task.await.unwrap().1);
        }
    };
    // Those that have the new key go on until they are killed.
    stopped.await;
    assert_eq!(numbers, [1], "only who lacks the key stops");
    audit.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_processes_racing_a_rotation_leave_a_clean_trail() {
    let keyed = Keyed::new().await;
    let mut children: Vec<_> = ["1,2", "1,2", "1"]
        .into_iter()
        .map(|numbers| {
            tokio::process::Command::new(std::env::current_exe().unwrap())
                .args(["keys::child", "--exact"])
                .env(URL, url(&keyed.test.options()))
                .env(NUMBERS, numbers)
                .stdout(std::process::Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        })
        .collect();
    let chains = "SELECT count(*) FROM portcullis.chains WHERE next_seq > 20";
    while keyed.number(chains).await < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let audit = keyed.audit(&[1, 2]).await;
    let rotated = audit.rotate(2, Rotation::Planned).await.unwrap();
    assert!(rotated.chains >= 3);
    let without = children.pop().unwrap().wait().await;
    assert!(without.unwrap().success(), "it stopped by itself");
    let under_new =
        "SELECT count(*) FROM portcullis.entries WHERE key_id = 2 AND kind = 'app.step'";
    while keyed.number(under_new).await < 50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for mut child in children {
        child.kill().await.unwrap();
    }
    // Killed in the middle of whatever they did.
    tokio::time::sleep(Duration::from_millis(100)).await;
    keyed.assert_clean(&[1, 2]).await;
}

/// One chain: three entries under key 1, the two of the rotation (5 and 6), three under key 2.
async fn rotated() -> Keyed {
    let keyed = Keyed::new().await;
    let audit = keyed.audit(&[1, 2]).await;
    for _ in 0..3 {
        audit.append(event()).await.unwrap();
    }
    audit.rotate(2, Rotation::Planned).await.unwrap();
    for _ in 0..3 {
        audit.append(event()).await.unwrap();
    }
    audit.shutdown().await;
    keyed.assert_clean(&[1, 2]).await;
    keyed.disarm().await;
    keyed
}

#[tokio::test]
async fn deleted_entries_of_a_rotation_are_found() {
    for (change, expected) in [
        (
            "DELETE FROM portcullis.entries WHERE seq = 5",
            vec![(Gap, 1, 5), (Rotated, 1, 7)],
        ),
        (
            "DELETE FROM portcullis.entries WHERE seq = 6",
            vec![(Gap, 1, 6), (Rotated, 1, 5)],
        ),
        (
            "DELETE FROM portcullis.entries WHERE seq IN (5, 6)",
            vec![(Gap, 1, 5), (Rotated, 1, 8)],
        ),
    ] {
        let keyed = rotated().await;
        keyed.sql(change).await;
        let mut found = keyed.found(&[1, 2]).await;
        found.sort();
        assert_eq!(found, expected, "{change}");
    }
}

/// Who had the old key goes on with it: in the same chain behind the rotation's back, and in a
/// chain of its own.
#[tokio::test]
async fn entries_under_the_old_key_after_a_rotation_are_found_whatever_their_macs() {
    let keyed = rotated().await;
    let next = "SELECT next_seq FROM portcullis.chains WHERE chain_no = 1";
    assert_eq!(keyed.number(next).await, 10);
    // The database is told that nothing ever happened, and the thief's process writes.
    keyed
        .sql(
            "UPDATE portcullis.chains SET key_id = 1;
             DELETE FROM portcullis.keyring",
        )
        .await;
    let thief = keyed.audit(&[1]).await;
    for _ in 0..2 {
        thief.append(event()).await.unwrap();
    }
    thief.shutdown().await;
    assert_eq!(
        keyed.found(&[1, 2]).await,
        [(KeyWindow, 1, 10), (KeyWindow, 1, 11), (KeyWindow, 1, 11)],
        "each entry, and the head"
    );
    let session = Scope::Range {
        chain_no: 1,
        from: 9,
        to: 10,
    };
    let part = keyed.audit(&[1, 2]).await.verify(session).await.unwrap();
    assert_eq!(found(&part), [(KeyWindow, 1, 10)], "{part}");

    let keyed = rotated().await;
    keyed
        .sql(
            "UPDATE portcullis.chains SET lease_until = now() + interval '1 day';
             DELETE FROM portcullis.keyring",
        )
        .await;
    keyed.sql("CREATE TABLE public.hidden AS SELECT * FROM portcullis.chains; DELETE FROM portcullis.chains").await;
    let thief = keyed.audit(&[1]).await;
    keyed.sql("INSERT INTO portcullis.chains SELECT tenant_id, 1, epoch, holder, lease_until, 1, next_seq, head_mac, recorded_at, stopped FROM public.hidden").await;
    thief.append(event()).await.unwrap();
    thief.shutdown().await;
    keyed
        .sql("UPDATE portcullis.chains SET key_id = 2 WHERE chain_no = 1")
        .await;
    assert_eq!(
        keyed.found(&[1, 2]).await,
        [(Rotated, 2, 2)],
        "a whole chain under the old key, each MAC of it right"
    );
}

#[tokio::test]
async fn a_keyring_that_was_set_back_is_not_followed() {
    let keyed = rotated().await;
    keyed
        .sql(
            "DELETE FROM portcullis.keyring WHERE key_id = 2;
             UPDATE portcullis.keyring SET retired_at = NULL, reason = NULL",
        )
        .await;
    let both = keyed.audit(&[1, 2]).await;
    let error = both.append(event()).await.unwrap_err();
    assert_eq!(
        error,
        AuditError::KeySetBack {
            current: 1,
            newest: 2
        }
    );
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

#[tokio::test]
async fn a_chain_that_was_stopped_before_a_rotation_stays_and_nothing_is_added_to_it() {
    let keyed = Keyed::new().await;
    let audit = keyed.audit(&[1, 2]).await;
    audit.append(event()).await.unwrap();
    keyed
        .sql("UPDATE portcullis.chains SET stopped = true, epoch = epoch + 1")
        .await;
    audit.append(event()).await.unwrap();
    let rotated = audit.rotate(2, Rotation::Planned).await.unwrap();
    assert_eq!(rotated.chains, 1);
    audit.append(event()).await.unwrap();
    audit.shutdown().await;
    keyed.assert_clean(&[1, 2]).await;
    // Somebody with the old key revives it.
    keyed.disarm().await;
    keyed
        .sql(
            "UPDATE portcullis.chains SET stopped = false WHERE chain_no = 1;
             DELETE FROM portcullis.keyring;
             CREATE TABLE public.hidden AS SELECT * FROM portcullis.chains WHERE chain_no = 2;
             DELETE FROM portcullis.chains WHERE chain_no = 2;
             UPDATE portcullis.chains SET lease_until = now() - interval '1 hour'",
        )
        .await;
    let thief = keyed.audit(&[1]).await;
    thief.append(event()).await.unwrap();
    thief.shutdown().await;
    keyed
        .sql("INSERT INTO portcullis.chains SELECT * FROM public.hidden")
        .await;
    assert_eq!(keyed.found(&[1, 2]).await, [(KeyWindow, 1, 3)]);
}

/// Who opens a chain while a rotation is under way waits for it, and finds another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_opened_during_a_rotation_is_under_the_new_key_or_not_opened() {
    let keyed = Keyed::new().await;
    let first = keyed.audit(&[1]).await;
    first.append(event()).await.unwrap();
    // The rotation, up to its commit.
    let mut rotation = keyed.pool.begin().await.unwrap();
    for step in [
        "SELECT 1 FROM portcullis.keyring WHERE retired_at IS NULL FOR UPDATE",
        "UPDATE portcullis.keyring SET retired_at = now(), reason = 'planned'",
        "INSERT INTO portcullis.keyring SELECT tenant_id, 2, salt, fingerprint, now() FROM portcullis.keyring",
    ] {
        sqlx::query(step).execute(&mut *rotation).await.unwrap();
    }
    let second = keyed.audit(&[1]).await;
    let opening = tokio::spawn(async move { second.append(event()).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished(), "it waits");
    rotation.commit().await.unwrap();
    assert_eq!(
        opening.await.unwrap().unwrap_err(),
        AuditError::KeyNotHeld { current: 2 }
    );
    let chains = "SELECT count(*) FROM portcullis.chains";
    assert_eq!(keyed.number(chains).await, 1, "none was opened");
}

/// A chain with entries past its head must not keep the others from being handed on.
#[tokio::test]
async fn a_chain_that_was_set_back_does_not_stop_a_rotation() {
    let keyed = Keyed::new().await;
    let (a, b) = (keyed.audit(&[1, 2]).await, keyed.audit(&[1, 2]).await);
    a.append(event()).await.unwrap();
    b.append(event()).await.unwrap();
    keyed
        .sql("UPDATE portcullis.chains SET next_seq = 2 WHERE chain_no = 1")
        .await;
    let rotated = a.rotate(2, Rotation::Planned).await.unwrap();
    assert_eq!(rotated.chains, 1);
    let stopped = "SELECT count(*) FROM portcullis.chains WHERE stopped AND chain_no = 1";
    assert_eq!(keyed.number(stopped).await, 1);
    a.append(event()).await.unwrap();
    b.append(event()).await.unwrap();
}

#[tokio::test]
async fn a_compromised_key_is_in_the_report() {
    let keyed = Keyed::new().await;
    let audit = keyed.audit(&[1, 2]).await;
    audit.append(event()).await.unwrap();
    let since = Timestamp::parse("2026-11-21T08:30:00Z").unwrap();
    let reason = Rotation::Compromise { since: Some(since) };
    audit.rotate(2, reason).await.unwrap();
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    let [key] = report.compromised_keys()[..] else {
        panic!("{report}");
    };
    assert_eq!((key.key_id, key.since), (1, Some(since)));
    let text = report.to_string();
    assert!(
        text.contains("not proved: that entries under key 1")
            && text.contains("2026-11-21T08:30:00")
            && text.contains("checkpoint"),
        "{text}"
    );
    let kept = "SELECT count(*) FROM portcullis.keyring
                 WHERE key_id = 1 AND reason = 'compromise' AND since = '2026-11-21T08:30:00Z'";
    assert_eq!(keyed.number(kept).await, 1);
}

#[tokio::test]
async fn no_secret_is_in_the_database_or_in_what_is_printed() {
    let keyed = rotated().await;
    let audit = keyed.audit(&[1, 2]).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT k::text FROM portcullis.keyring k")
        .fetch_all(&keyed.pool)
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    let shown = format!("{rows:?} {audit:?} {:?}", ring(&[1, 2]));
    for secret in SECRETS {
        assert!(!shown.contains(&secret[..16]), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_in_a_journal_or_the_outbox_outlives_a_rotation() {
    let keyed = Keyed::new().await;
    keyed.audit(&[1]).await.append(event()).await.unwrap();
    let directory = Directory::fresh();
    let proxy = Proxy::before(&keyed.test.options()).await;
    let through = Database::options(proxy.options());
    let away = Audit::open_with(
        &through,
        ring(&[1]),
        TenantId::single(),
        directory.settings(),
    );
    let away = away.await.unwrap();
    let mut tx = keyed.pool.begin().await.unwrap();
    let queued = event();
    proxy.down();
    let journalled = away.append(event()).await.unwrap();
    assert!(journalled.committed().is_none());
    // Queued under the old key, and committed after the rotation.
    away.append_in_tx(&mut tx, queued.clone()).await.unwrap();
    away.shutdown().await;
    drop(away);

    let new = keyed.audit(&[1, 2]).await;
    new.rotate(2, Rotation::Planned).await.unwrap();
    tx.commit().await.unwrap();
    let direct = keyed.test.database();
    let later = Audit::open_with(
        &direct,
        ring(&[2, 1]),
        TenantId::single(),
        directory.settings(),
    );
    let later = later.await.unwrap();
    later.move_outbox().await.unwrap();
    // The lock of the old file goes with its last handle, which may take a moment.
    for _ in 0..100 {
        if later.drain().await.unwrap().in_use == 0 {
            break;
        }
    }
    for id in [queued.id(), journalled.id()] {
        let entry = later.event(id).await.unwrap().expect("it is in the trail");
        assert_eq!(entry.key_id, 2);
    }
    assert!(directory.files().is_empty(), "{:?}", directory.files());
    assert_eq!(later.stats().outbox_refused, 0);
    keyed.assert_clean(&[1, 2]).await;
}
