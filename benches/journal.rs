//! What an event costs while the database is away, or ahead of its commit, and how fast what was
//! written is brought into the trail.
//!
//! Defends: a known outage adds at most 5 ms to a call beside one write and sync of the same bytes;
//! spooled mode costs microseconds and not a commit.
//!
//! `cargo bench --bench journal` measures on a Postgres of its own, or on the server that
//! `PORTCULLIS_BENCH_DATABASE_URL` names (it creates the database `portcullis_bench_journal` there).
//! The files are in the temporary directory (`TMPDIR`): choose a disk that syncs. Rounds of bare
//! writes and ours alternate, and medians are compared.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    reason = "a measurement, not library code"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::audit::{Audit, AuditEvent, AuditKeys, Evidence, JournalSettings, Receipt};
use portcullis::store::embedded::{Cluster, Durability};
use portcullis::{AgentId, Database, Governance, Principal, Secret, TenantId};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

const SERVER: &str = "PORTCULLIS_BENCH_DATABASE_URL";
const NAME: &str = "portcullis_bench_journal";
const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const ROUNDS: usize = 5;
const CALLS: usize = 200;
/// How many lines are drained.
const LINES: usize = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let scratch = std::env::temp_dir().join(format!("portcullis-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let (options, _cluster) = server(&scratch).await;
    let mut admin = options.connect().await.unwrap();
    for sql in [
        "DROP DATABASE IF EXISTS portcullis_bench_journal WITH (FORCE)",
        "CREATE DATABASE portcullis_bench_journal ENCODING 'UTF8' TEMPLATE template0",
    ] {
        sqlx::query(sql).execute(&mut admin).await.unwrap();
    }
    admin.close().await.unwrap();
    let database = Database::options(options.database(NAME));
    database.migrate().await.unwrap();
    let journal = JournalSettings::in_directory(scratch.join("journal"));
    append(&journal, &scratch).await;
    drain(&database, &journal).await;
    spooled(&database, journal).await;
    std::fs::remove_dir_all(&scratch).unwrap();
}

/// One caller in a known outage, beside one write and sync of a line's bytes.
async fn append(journal: &JournalSettings, scratch: &Path) {
    let audit = away(journal).await;
    let bare = scratch.join("bare");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&bare)
        .unwrap();
    let line = vec![b'x'; 700];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..CALLS {
            let began = Instant::now();
            (&file).write_all(&line).unwrap();
            file.sync_data().unwrap();
            theirs.push(began.elapsed());
        }
        for n in 0..CALLS {
            let event = event(n);
            let began = Instant::now();
            let receipt = audit.log(event).await;
            ours.push(began.elapsed());
            assert!(matches!(receipt, Receipt::Journalled(_)), "{receipt:?}");
        }
    }
    println!(
        "figure journal/bare_write_and_sync {:.0} us",
        median(theirs)
    );
    println!("figure journal/append {:.0} us", median(ours));
    let left = LINES - ROUNDS * CALLS - 1;
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let audit = audit.clone();
            tokio::spawn(async move {
                for n in 0..left / 64 {
                    assert!(audit.log(event(n)).await.lost().is_none());
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    audit.shutdown().await;
}

/// A writer whose database is known to be away.
async fn away(journal: &JournalSettings) -> Audit {
    // Nothing listens there. The name makes its journal the bench's.
    let nowhere = format!("postgres://nobody@127.0.0.1:9/{NAME}");
    let audit = Audit::open_with(
        &Database::url(nowhere),
        keys(),
        TenantId::single(),
        journal.clone(),
    )
    .await
    .unwrap();
    let _ = audit.log(event(0)).await;
    audit
}

async fn drain(database: &Database, journal: &JournalSettings) {
    // Its first look would find the files.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let audit = Audit::open_with(database, keys(), TenantId::single(), journal.clone())
        .await
        .unwrap();
    audit.drain().await.unwrap();
    let took = began.elapsed().as_secs_f64();
    let events = audit.stats().events as f64;
    println!("figure journal/drain {:.0} events/s", events / took);
    audit.shutdown().await;
}

async fn spooled(database: &Database, journal: JournalSettings) {
    let gov = Governance::builder(database.clone(), keys())
        .journal(journal)
        .evidence(Evidence::Spooled)
        .connect()
        .await
        .unwrap();
    let mut took = Vec::new();
    for n in 0..ROUNDS * CALLS {
        let event = event(n);
        let began = Instant::now();
        let receipt = gov.audit().log(event).await;
        took.push(began.elapsed());
        assert!(matches!(receipt, Receipt::Spooled(_)), "{receipt:?}");
    }
    println!("figure journal/spooled {:.0} us", median(took));
    gov.shutdown().await;
}

fn event(n: usize) -> AuditEvent {
    let me = Principal::agent(AgentId::parse("billing-agent").unwrap());
    AuditEvent::new(&me, "app.tool.call.completed")
        .input(b"what went in")
        .output(b"what came out")
        .decision("allow")
        .with("caller", n)
        .with("tool", "send_email")
        .with("resource", "customer/c_381")
}

fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e6
}

async fn server(scratch: &Path) -> (PgConnectOptions, Option<Cluster>) {
    if let Ok(url) = std::env::var(SERVER) {
        return (url.parse().unwrap(), None);
    }
    let directory = scratch.join("cluster");
    let cluster = Cluster::start_with(directory, Durability::Full)
        .await
        .unwrap();
    (cluster.options("postgres"), Some(cluster))
}
