//! An archival that is killed, at each of its steps and at any moment.

use std::process::Stdio;
use std::time::Duration;

use portcullis::Database;
use portcullis::TenantId;
use portcullis::audit::retention::{Archiving, KeptNote};
use portcullis::audit::{Audit, JournalSettings};
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::common::trail::keys;
use crate::common::{connect, url};
use crate::retention::{Aged, aged, log_key};

const URL: &str = "PORTCULLIS_ARCHIVE_CHILD_URL";
const DIRECTORY: &str = "PORTCULLIS_ARCHIVE_CHILD_DIRECTORY";
const NOTE: &str = "PORTCULLIS_ARCHIVE_CHILD_NOTE";
const STOP: &str = "PORTCULLIS_ARCHIVE_CHILD_STOP";

/// Not a test of its own: what each process runs. With `STOP` it stands still once a file is
/// verified, before anything is marked.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let stop = std::env::var(STOP).is_ok();
    let (database, tenant) = (Database::url(url), TenantId::single());
    let audit = Audit::open_with(&database, keys(), tenant, JournalSettings::off())
        .await
        .unwrap();
    let what = Archiving::into_directory(
        std::env::var(DIRECTORY).unwrap(),
        log_key().verifier().clone(),
    );
    let what = what.kept(KeptNote::new("worm", std::env::var(NOTE).unwrap()));
    println!("ready");
    let done = audit
        .retention()
        .archive_with(&what, |_| {
            println!("verified");
            if stop {
                std::thread::sleep(Duration::from_mins(10));
            }
        })
        .await;
    println!("done {}", done.unwrap().removed);
}

struct Running {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Running {
    fn start(aged: &Aged, stop: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["retention_kill::child", "--exact", "--nocapture"])
            .env(URL, url(&aged.trail.test.options()))
            .env(DIRECTORY, aged.directory.path())
            .env(NOTE, &aged.note)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if stop {
            command.env(STOP, "yes");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn hear(&mut self, what: &str) {
        loop {
            let line = self.lines.next_line().await.unwrap();
            if line.expect(what).ends_with(what) {
                return;
            }
        }
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

async fn count(aged: &Aged, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql)
        .fetch_one(&aged.trail.pool)
        .await
        .unwrap()
}

async fn until(done: impl AsyncFn() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("in time");
}

/// Every file that is on record is whole; and what is not in the table is in one of them.
async fn assert_nothing_is_lost(aged: &Aged) {
    // What was committed with the marks may still wait for its place in the chain.
    aged.archivist.move_outbox().await.unwrap();
    let recorded: Vec<String> = sqlx::query_scalar("SELECT file_name FROM portcullis.archives")
        .fetch_all(&aged.trail.pool)
        .await
        .unwrap();
    let mut archived = Vec::new();
    for name in recorded {
        let file = aged.directory.path().join(name);
        let retention = aged.archivist.retention();
        let check = retention
            .verify_archive(&file, log_key().verifier())
            .await
            .unwrap();
        assert!(check.is_clean(), "{:?}", check.findings());
        archived.push(std::fs::read_to_string(file).unwrap());
    }
    for id in &aged.events {
        let id = id.to_string();
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM portcullis.entries WHERE event_id = $1::text::uuid)",
        )
        .bind(&id)
        .fetch_one(&aged.trail.pool)
        .await
        .unwrap();
        assert!(
            there || archived.iter().any(|file| file.contains(&id)),
            "{id} is lost"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_once_the_file_is_written_nothing_has_changed() {
    let aged = aged().await;
    let before = aged.entries().await;
    let mut running = Running::start(&aged, true);
    running.hear("verified").await;
    running.kill().await;
    assert_eq!(aged.entries().await, before);
    assert_eq!(
        count(&aged, "SELECT count(*) FROM portcullis.archives").await,
        0
    );
    aged.assert_clean(0).await;
    // The file that nobody recorded is left alone, and said to be that.
    let [orphan] = aged.directory.files().try_into().unwrap();
    let retention = aged.archivist.retention();
    let check = retention
        .verify_archive(&orphan, log_key().verifier())
        .await
        .unwrap();
    assert_eq!((check.proved(), check.finding_count()), (36, 1));
    assert!(check.findings()[0].problem.contains("on record"));
    let report = aged.archive().await.unwrap();
    assert_eq!((report.removed, report.archives.len()), (31, 1));
    assert_eq!(aged.directory.files().len(), 2);
    aged.assert_clean(31).await;
    assert_nothing_is_lost(&aged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_removes_the_next_run_goes_on() {
    let aged = aged().await;
    let before = aged.entries().await;
    // One entry of the last range is locked, so that the removal waits in its middle.
    let mut connection = connect(&aged.trail.test.options()).await;
    let mut lock = connection.begin().await.unwrap();
    let locked = "SELECT seq FROM portcullis.entries WHERE chain_no = 1 AND seq = 30 FOR UPDATE";
    sqlx::query(locked).execute(&mut *lock).await.unwrap();
    let running = Running::start(&aged, false);
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'
                      AND query LIKE '%DELETE FROM portcullis.entries%'";
    until(async || count(&aged, waiting).await > 0).await;
    running.kill().await;
    lock.rollback().await.unwrap();
    let left = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND state <> 'idle' AND query LIKE '%DELETE FROM portcullis.entries%'";
    until(async || count(&aged, left).await == 0).await;
    // All of it is marked and on record, and still there.
    assert_eq!(aged.entries().await, before + 1, "retention.purged");
    aged.assert_clean(0).await;
    let report = aged.archive().await.unwrap();
    assert_eq!(
        (report.resumed, report.removed, report.archives.len()),
        (1, 31, 0)
    );
    aged.assert_clean(31).await;
    assert_nothing_is_lost(&aged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_lost_and_the_trail_stays_clean() {
    let aged = aged().await;
    for delay in [0, 5, 10, 20, 30, 45, 60] {
        let mut running = Running::start(&aged, false);
        running.hear("ready").await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        running.kill().await;
        assert_nothing_is_lost(&aged).await;
        let (chains, tree) = aged.verified().await;
        assert!(chains.is_clean(), "{chains}");
        assert!(tree.is_clean(), "{tree}");
    }
    let _ = aged.archive().await.unwrap();
    aged.assert_clean(31).await;
    assert_nothing_is_lost(&aged).await;
}
