//! Events in the host's own transactions: together or not at all, moved once, held up by nobody.

use std::time::Duration;

use portcullis::audit::{Audit, AuditError, AuditEvent, Query};
use portcullis::store::{Migration, TestDatabase};
use portcullis::{Database, ErrorKind, EventId, TenantId};
use sqlx::{Connection, Executor, PgConnection};

use crate::common::trail::{Trail, append_many, event, keys, trail, writer};
use crate::common::{connect, url};

const URL: &str = "PORTCULLIS_OUTBOX_CHILD_URL";
/// How many transactions a child commits before it is killed, and how many it leaves open.
const COMMITTED: i64 = 40;

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
const COUNT_OUTBOX: &str = "SELECT count(*) FROM portcullis.outbox";

/// A trail beside a table of the host's.
async fn hosted() -> (Trail, PgConnection) {
    let trail = trail().await;
    trail.run("CREATE TABLE invoices (n bigint)").await;
    let host = connect(&trail.test.options()).await;
    (trail, host)
}

impl Trail {
    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Moves what is committed, by whichever of the writer's rounds gets there first.
    async fn emptied(&self) {
        for _ in 0..200 {
            self.audit.move_outbox().await.unwrap();
            if self.number(COUNT_OUTBOX).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the outbox is not empty");
    }

    /// The numbers of the events of a kind, in the order of the trail.
    async fn numbers(&self, kind: &str) -> Vec<u64> {
        let entries = sqlx::query_scalar::<_, String>(
            "SELECT metadata FROM portcullis.entries WHERE kind = $1 ORDER BY chain_no, seq",
        );
        let found = entries.bind(kind).fetch_all(&self.pool).await.unwrap();
        let number = |text: String| {
            let digits = text.trim_start_matches("{\"n\":").trim_end_matches('}');
            digits.parse().unwrap()
        };
        found.into_iter().map(number).collect()
    }

    async fn assert_clean(&self) {
        let report = self.audit.verify_all().await.unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

async fn insert(host: &mut PgConnection, n: i64) {
    let insert = sqlx::query("INSERT INTO invoices VALUES ($1)").bind(n);
    insert.execute(host).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_event_are_committed_together_or_not_at_all_at_every_isolation_level() {
    let (trail, mut host) = hosted().await;
    for (n, level) in (0_i64..).zip(LEVELS) {
        for commit in [true, false] {
            let mut tx = host.begin().await.unwrap();
            let set = sqlx::AssertSqlSafe(format!("SET TRANSACTION ISOLATION LEVEL {level}"));
            tx.execute(set).await.unwrap();
            insert(&mut tx, n).await;
            let event = event("app.invoice.made").with("n", n);
            let id = trail.audit.append_in_tx(&mut tx, event.clone()).await;
            assert_eq!(id, Ok(event.id()));
            insert(&mut tx, n).await;
            // Not before the commit, whatever is moved meanwhile.
            trail.audit.move_outbox().await.unwrap();
            assert_eq!(trail.entries_of(&event).await, 0);
            if commit {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            trail.emptied().await;
            assert_eq!(trail.entries_of(&event).await, i64::from(commit), "{level}");
        }
    }
    assert_eq!(trail.number("SELECT count(*) FROM invoices").await, 6);
    assert_eq!(trail.count().await, 3);
    // How they came is on record, and under the MAC.
    let ways = "SELECT count(*) FROM portcullis.entries WHERE kind LIKE 'app.%' AND ingest = 'transaction'";
    assert_eq!(trail.number(ways).await, 3);
    assert_eq!(trail.audit.stats().moved, 3);
    trail.assert_clean().await;
}

/// Two serializable transactions that conflict: one of them fails, by the host's own rows and with
/// its event; no conflict comes from ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_serialization_failure_of_the_hosts_takes_the_event_with_it_and_events_alone_never_conflict()
 {
    let (trail, mut one) = hosted().await;
    let mut other = connect(&trail.test.options()).await;
    for conflict in [true, false] {
        let (mut a, mut b) = (one.begin().await.unwrap(), other.begin().await.unwrap());
        for (n, tx) in [(1, &mut a), (2, &mut b)] {
            tx.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                .await
                .unwrap();
            if conflict {
                tx.execute("SELECT count(*) FROM invoices").await.unwrap();
                insert(tx, n).await;
            }
            let event = event("app.race").with("n", n);
            trail.audit.append_in_tx(tx, event).await.unwrap();
        }
        trail.audit.append(event("app.live")).await.unwrap();
        a.commit().await.unwrap();
        let second = b.commit().await;
        assert_eq!(second.is_err(), conflict, "{second:?}");
        trail.emptied().await;
    }
    assert_eq!(trail.numbers("app.race").await, [1, 1, 2]);
    trail.assert_clean().await;
}

/// Where every session is serializable, a look into the outbox that was, too, would be the first of
/// three transactions that Postgres may not let commit: ours, the host's, and one that the host
/// did not see.
#[tokio::test(flavor = "multi_thread")]
async fn looking_into_the_outbox_fails_no_transaction_where_serializable_is_the_default() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut host = connect(&test.options()).await;
    host.execute("CREATE TABLE invoices (n bigint)")
        .await
        .unwrap();
    let default = format!(
        "ALTER DATABASE {} SET default_transaction_isolation = 'serializable'",
        test.name()
    );
    host.execute(sqlx::AssertSqlSafe(default)).await.unwrap();
    let (mut one, mut other) = (
        connect(&test.options()).await,
        connect(&test.options()).await,
    );
    let audit = writer(&Database::options(test.options())).await;
    let mut tx = one.begin().await.unwrap();
    let queued = event("app.queued");
    audit.append_in_tx(&mut tx, queued.clone()).await.unwrap();
    tx.execute("SELECT count(*) FROM invoices").await.unwrap();
    insert(&mut other, 1).await;
    assert_eq!(audit.move_outbox().await.unwrap().moved, 0);
    tx.commit().await.unwrap();
    audit.move_outbox().await.unwrap();
    assert!(audit.event(queued.id()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_left_open_holds_nobody_up_and_its_events_keep_their_order() {
    let (trail, mut host) = hosted().await;
    let mut tx = host.begin().await.unwrap();
    insert(&mut tx, 1).await;
    for n in 0..300 {
        let event = event("app.slow").with("n", n);
        trail.audit.append_in_tx(&mut tx, event).await.unwrap();
    }
    // While it is open: live appends, other transactions, moves, a second process, verification.
    let second = writer(&Database::options(trail.test.options())).await;
    append_many(&trail.audit, 8, 100).await;
    append_many(&second, 8, 100).await;
    let mut quick = connect(&trail.test.options()).await;
    for n in 0..20 {
        let mut tx = quick.begin().await.unwrap();
        let event = event("app.quick").with("n", n);
        trail.audit.append_in_tx(&mut tx, event).await.unwrap();
        tx.commit().await.unwrap();
        // The rows of the open transaction stand before this one, and are not waited for.
        trail.emptied().await;
    }
    assert_eq!(
        trail.numbers("app.quick").await,
        (0..20).collect::<Vec<_>>()
    );
    assert_eq!(
        trail
            .number("SELECT count(*) FROM portcullis.entries WHERE kind = 'app.many'")
            .await,
        1_600
    );
    trail.assert_clean().await;
    assert_eq!(trail.numbers("app.slow").await, Vec::<u64>::new());
    // Everything above ended before the transaction does.
    tx.commit().await.unwrap();
    trail.emptied().await;
    assert_eq!(
        trail.numbers("app.slow").await,
        (0..300).collect::<Vec<_>>()
    );
    trail.assert_clean().await;
}

/// What is queued is moved without anybody's asking, soon.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_moved_by_itself_and_at_shutdown() {
    let (trail, mut host) = hosted().await;
    let mut tx = host.begin().await.unwrap();
    let first = event("app.by_itself");
    trail
        .audit
        .append_in_tx(&mut tx, first.clone())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    tx.commit().await.unwrap();
    for _ in 0..500 {
        if trail.entries_of(&first).await == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(trail.entries_of(&first).await, 1);
    let mut tx = host.begin().await.unwrap();
    let last = event("app.at_shutdown");
    trail
        .audit
        .append_in_tx(&mut tx, last.clone())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    trail.audit.shutdown().await;
    assert_eq!(trail.entries_of(&last).await, 1);
    assert_eq!(trail.number(COUNT_OUTBOX).await, 0);
    let mut tx = host.begin().await.unwrap();
    let late = trail.audit.append_in_tx(&mut tx, event("app.late")).await;
    assert_eq!(late, Err(AuditError::Closed));
}

/// Not a test of its own: commits transactions, leaves one open, and waits to be killed. Its own
/// rounds are kept out by a lock on the chains, which no commit of the host's needs.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let audit = Audit::open(&Database::url(&url), keys(), TenantId::single())
        .await
        .unwrap();
    let mut host = PgConnection::connect(&url).await.unwrap();
    for n in 0..COMMITTED {
        let mut tx = host.begin().await.unwrap();
        insert(&mut tx, n).await;
        let event = event("app.killed").with("n", n);
        audit.append_in_tx(&mut tx, event).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = host.begin().await.unwrap();
    insert(&mut tx, COMMITTED).await;
    let open = event("app.killed").with("n", COMMITTED);
    audit.append_in_tx(&mut tx, open).await.unwrap();
    tx.execute("LISTEN never").await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_between_commit_and_move_loses_nothing_and_nothing_twice() {
    let (trail, mut lock) = hosted().await;
    // This process has looked, and does not look again by itself for a while.
    trail.audit.move_outbox().await.unwrap();
    let mut held = lock.begin().await.unwrap();
    held.execute("LOCK TABLE portcullis.chains IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["outbox::child", "--exact"])
        .env(URL, url(&trail.test.options()))
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let waiting = "SELECT count(*) FROM pg_catalog.pg_stat_activity
                    WHERE datname = current_database() AND state = 'idle in transaction' AND query = 'LISTEN never'";
    while trail.number(waiting).await == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().await.unwrap();
    assert_eq!(trail.number(COUNT_OUTBOX).await, COMMITTED);
    assert_eq!(trail.count().await, 0);
    held.rollback().await.unwrap();

    trail.emptied().await;
    assert_eq!(
        trail.number("SELECT count(*) FROM invoices").await,
        COMMITTED
    );
    assert_eq!(
        trail.numbers("app.killed").await,
        (0..40).collect::<Vec<_>>()
    );
    trail.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_writers_that_move_at_once_move_every_event_once() {
    let (trail, _) = hosted().await;
    let mut writers = vec![trail.audit.clone()];
    for _ in 0..3 {
        writers.push(writer(&Database::options(trail.test.options())).await);
    }
    let hosts: Vec<_> = writers
        .iter()
        .cloned()
        .map(|audit| {
            let options = trail.test.options();
            tokio::spawn(async move {
                let mut host = connect(&options).await;
                for n in 0..150 {
                    let mut tx = host.begin().await.unwrap();
                    audit
                        .append_in_tx(&mut tx, event("app.shared").with("n", n))
                        .await
                        .unwrap();
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    let movers: Vec<_> = writers
        .iter()
        .cloned()
        .map(|audit| {
            tokio::spawn(async move {
                for n in 0..60 {
                    audit.move_outbox().await.unwrap();
                    audit.append(event("app.live").with("n", n)).await.unwrap();
                }
            })
        })
        .collect();
    for task in hosts.into_iter().chain(movers) {
        task.await.unwrap();
    }
    trail.emptied().await;
    assert_eq!(trail.numbers("app.shared").await.len(), 600);
    assert_eq!(trail.numbers("app.live").await.len(), 240);
    assert_eq!(trail.audit.stats().lost, 0);
    trail.assert_whole().await;
    trail.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_ours_is_refused_reported_and_holds_nothing_up() {
    let (trail, mut host) = hosted().await;
    let mut tx = host.begin().await.unwrap();
    let mut ids = Vec::new();
    for n in 0..6 {
        let event = event("app.queued").with("n", n).decision("deny");
        ids.push(trail.audit.append_in_tx(&mut tx, event).await.unwrap());
    }
    // Edited before anybody could move them: one in each way, the last one not at all.
    for (id, change) in ids.iter().zip([
        "decision = 'allow'",
        "key_id = 2",
        "place = gen_random_uuid()",
        "mac = '\\x00'",
        "kind = 'gate.granted'",
    ]) {
        let edit = format!("UPDATE portcullis.outbox SET {change} WHERE event_id = '{id}'");
        let done = tx.execute(sqlx::AssertSqlSafe(edit)).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    }
    // And one that somebody made up.
    tx.execute(
        "INSERT INTO portcullis.outbox (tenant_id, place, event_id, key_id, kind, occurred_at,
             occurred_given, metadata, mac, queued_at)
         VALUES ('default', '00000000-0000-0000-0000-000000000001', gen_random_uuid(), 1,
             'gate.granted', now(), false, '{}', sha256('x'), now())",
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();

    let found = trail.audit.move_outbox().await.unwrap();
    assert_eq!(found.refused, 6, "{found:?}");
    assert_eq!(trail.audit.stats().outbox_refused, 6);
    assert_eq!(trail.numbers("app.queued").await, [5], "only what is ours");
    assert_eq!(trail.number(COUNT_OUTBOX).await, 6, "left where they are");
    let gov = crate::common::governance(&trail.test.database())
        .await
        .unwrap();
    gov.audit().move_outbox().await.unwrap();
    assert!(!gov.health().await.is_ok());
    // They are reported for as long as they lie there, and hold up nothing that comes after.
    let mut tx = host.begin().await.unwrap();
    let after = event("app.after");
    trail
        .audit
        .append_in_tx(&mut tx, after.clone())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(trail.audit.move_outbox().await.unwrap().refused, 6);
    assert_eq!(trail.entries_of(&after).await, 1);
    trail.run("DELETE FROM portcullis.outbox").await;
    assert_eq!(trail.audit.move_outbox().await.unwrap().refused, 0);
    assert_eq!(trail.audit.stats().outbox_refused, 0);
    trail.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_recorded_once_and_a_reused_id_is_refused_alone() {
    let (trail, mut host) = hosted().await;
    let live = event("app.live").with("n", 1);
    trail.audit.append(live.clone()).await.unwrap();
    let queued = event("app.queued").with("n", 2);
    let other = event("app.other").with("n", 3).with_id(queued.id());
    let fine = event("app.fine").with("n", 4);
    let mut tx = host.begin().await.unwrap();
    for event in [
        live.clone(),
        queued.clone(),
        queued.clone(),
        other,
        fine.clone(),
    ] {
        trail.audit.append_in_tx(&mut tx, event).await.unwrap();
    }
    tx.commit().await.unwrap();
    trail.audit.move_outbox().await.unwrap();
    for event in [&live, &queued, &fine] {
        assert_eq!(trail.entries_of(event).await, 1);
    }
    assert_eq!(trail.numbers("app.other").await, Vec::<u64>::new());
    assert_eq!(trail.audit.stats().outbox_refused, 1);
    assert_eq!(
        trail.number(COUNT_OUTBOX).await,
        1,
        "the other one, for people to look at"
    );
    // Recorded live again, it is where it stands.
    let place = trail.audit.append(queued.clone()).await.unwrap();
    assert_eq!(place.id(), queued.id());
    assert_eq!(trail.audit.stats().lost, 0);
    trail.assert_whole().await;
    trail.assert_clean().await;
}

/// More than a page, with what is refused in between: nothing is passed over, and the order holds.
#[tokio::test(flavor = "multi_thread")]
async fn many_pages_are_moved_in_order() {
    let (trail, mut host) = hosted().await;
    let mut tx = host.begin().await.unwrap();
    for n in 0..1_100 {
        trail
            .audit
            .append_in_tx(&mut tx, event("app.page").with("n", n))
            .await
            .unwrap();
    }
    tx.execute(
        "UPDATE portcullis.outbox SET mac = '' WHERE metadata IN ('{\"n\":3}', '{\"n\":700}')",
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let found = trail.audit.move_outbox().await.unwrap();
    assert_eq!(found.refused, 2, "{found:?}");
    // Gone by the statements that appended them, not by a later round.
    assert_eq!(trail.number(COUNT_OUTBOX).await, 2);
    let expected = (0..1_100).filter(|n| ![3, 700].contains(n));
    assert_eq!(
        trail.numbers("app.page").await,
        expected.collect::<Vec<_>>()
    );
    trail.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_before_the_transaction_and_a_tenant_moves_its_own() {
    let (trail, mut host) = hosted().await;
    let other = TenantId::parse("other").unwrap();
    let theirs = Audit::open(&trail.test.database(), keys(), other)
        .await
        .unwrap();
    let mut tx = host.begin().await.unwrap();
    let bad = trail
        .audit
        .append_in_tx(&mut tx, event("gate.granted"))
        .await;
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Misuse);
    let bad = event("app.bad").with("x", 0.5);
    let bad = trail.audit.append_in_tx(&mut tx, bad).await;
    assert!(matches!(bad, Err(AuditError::Metadata(_))));
    // The transaction goes on.
    let me = crate::common::principal("billing-agent");
    let mine: EventId = trail
        .audit
        .append_in_tx(&mut tx, AuditEvent::new(&me, "app.mine").input(b"in"))
        .await
        .unwrap();
    theirs
        .append_in_tx(&mut tx, event("app.theirs"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    trail.audit.move_outbox().await.unwrap();
    theirs.move_outbox().await.unwrap();
    assert_eq!(trail.number(COUNT_OUTBOX).await, 0);
    let page = trail.audit.events(&Query::all()).await.unwrap();
    let mine_found = page.entries.iter().find(|entry| entry.id == mine).unwrap();
    assert!(mine_found.input_hash.is_some());
    assert!(
        page.entries
            .iter()
            .all(|entry| entry.kind.as_str() != "app.theirs")
    );
    for audit in [&trail.audit, &theirs] {
        let report = audit.verify_all().await.unwrap();
        assert!(report.is_clean(), "{report}");
    }
    // A database without the table: the error says what to run, and the rest of the program lives.
    let bare = crate::common::bare_database().await;
    let mut tx = connect(&bare.options()).await;
    let mut tx = tx.begin().await.unwrap();
    let missing = trail.audit.append_in_tx(&mut tx, event("app.x")).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Misuse);
}

/// What `migrate` grants is enough to queue and to move.
#[tokio::test(flavor = "multi_thread")]
async fn the_application_role_queues_and_moves() {
    let (trail, mut admin) = hosted().await;
    let role = format!("outbox_{}", trail.test.name());
    for sql in ["CREATE ROLE ", "GRANT INSERT ON invoices TO "] {
        let sql = sqlx::AssertSqlSafe(format!("{sql}{role}"));
        admin.execute(sql).await.unwrap();
    }
    let database = trail.test.database();
    Migration::new(&database)
        .app_role(&role)
        .run()
        .await
        .unwrap();
    let options = trail.test.options().options([("role", role.as_str())]);
    let audit = writer(&Database::options(options.clone())).await;
    let mut host = connect(&options).await;
    let mut tx = host.begin().await.unwrap();
    insert(&mut tx, 1).await;
    let queued = event("app.queued");
    for _ in 0..2 {
        audit.append_in_tx(&mut tx, queued.clone()).await.unwrap();
    }
    tx.commit().await.unwrap();
    audit.move_outbox().await.unwrap();
    assert_eq!(trail.entries_of(&queued).await, 1);
    assert_eq!(trail.number(COUNT_OUTBOX).await, 0);
    audit.shutdown().await;
    host.close().await.unwrap();
    for sql in ["DROP OWNED BY ", "DROP ROLE "] {
        // Roles are the server's: none is left behind.
        let sql = sqlx::AssertSqlSafe(format!("{sql}{role}"));
        admin.execute(sql).await.unwrap();
    }
}
