//! Verifying a million entries, against a bare binary COPY of the same rows.
//!
//! Defends: ratio of rows per second at least 0.8; the client's CPU per row no more than the
//! server's; peak memory less than 32 MiB above the baseline, also that of making checkpoints over all
//! of them.
//!
//! Then the same with every entry under checkpoints, each read once and checked as a link and as a
//! leaf (`verify/1M-leaves`, ratio to the same COPY at least 0.7), and the inclusion proof of one of
//! ten million entries (`proof/10M`, below 10 ms). The tree of that one is made of hashes: its leaves
//! are random but for those of a few entries that exist, since a proof reads one entry and some tiles.
//!
//! Run with `cargo bench --bench verify`. `PORTCULLIS_BENCH_DATABASE_URL` names a server whose
//! processes are visible in `/proc`; without it a private cluster is started. The
//! alternatives run in turn; medians are printed. `PORTCULLIS_BENCH_ROWS`, `.._ROUNDS` and `.._LEAVES` make it
//! smaller.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::allow_attributes,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "common/mod.rs"]
mod common;
#[path = "verify/leaves.rs"]
mod leaves;

use std::fs;
use std::future::poll_fn;

use portcullis::audit::{Audit, AuditEvent, AuditKeys, Scope};
use portcullis::tlog::LogKey;
use portcullis::{
    AgentId, Database, EventId, ModelName, Principal, Secret, SessionId, TenantId, UserId,
};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::time::Instant;

use crate::common::Server;

const WRITERS: u64 = 4;
const BATCH: u64 = 1_000;
/// The rows in the order of their chains, as a verification has to read them.
const CHAINS: &str = "
    COPY (SELECT chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id, session_id,
                 agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision,
                 metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, mac, signature
            FROM portcullis.entries
           WHERE tenant_id = 'default'
           ORDER BY chain_no, seq)
      TO STDOUT (FORMAT binary)";
/// The rows as they lie: the columns that a verification reads, in no order.
const TABLE: &str = "
    COPY portcullis.entries (chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id,
         session_id, agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash,
         decision, metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, mac, signature)
      TO STDOUT (FORMAT binary)";

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    seconds: f64,
    client: f64,
    server: f64,
    peak_kib: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rows = from_env("PORTCULLIS_BENCH_ROWS", 1_000_000);
    let rounds = from_env("PORTCULLIS_BENCH_ROUNDS", 5);
    let server = Server::start().await;
    let database = Database::options(server.database("portcullis_bench_verify").await);
    database.migrate().await.unwrap();
    let pool = database.connect_pool().await.unwrap();
    let options = (*pool.connect_options()).clone();
    let rows = fill(&database, &pool, rows).await;
    let postmaster = postmaster(&pool).await;

    let audit = open(&database).await;
    let (mut lying, mut drained, mut verified) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let heap = measure(postmaster, drain(&options, TABLE, rows)).await;
        let drain = measure(postmaster, drain(&options, CHAINS, rows)).await;
        let verify = measure(postmaster, verify(&audit, rows)).await;
        // The first round warms the server's cache.
        if round > 0 {
            lying.push(heap);
            drained.push(drain);
            verified.push(verify);
        }
        println!("round {round}: as it lies {heap:?} drain {drain:?} verify {verify:?}");
    }

    let n = rows as f64;
    let rate = |runs: &[Took]| n / median(runs, |took| took.seconds);
    let cpu = |runs: &[Took], of: fn(&Took) -> f64| 1e6 * median(runs, of) / n;
    let (ours, ceiling) = (rate(&verified), rate(&drained));
    let ratio = |to: &[Took]| {
        let pairs = verified.iter().zip(to);
        median_of(pairs.map(|(v, d)| d.seconds / v.seconds).collect())
    };
    println!(
        "figure verify/1M {ours:.0} rows/s ceiling {ceiling:.0} rows/s ratio {:.2}",
        ratio(&drained)
    );
    println!(
        "figure verify/1M/as-it-lies {ours:.0} rows/s ceiling {:.0} rows/s ratio {:.2}",
        rate(&lying),
        ratio(&lying)
    );
    println!(
        "figure verify/1M/cpu client {:.2} us/row server {:.2} us/row (drain: {:.2}, {:.2})",
        cpu(&verified, |took| took.client),
        cpu(&verified, |took| took.server),
        cpu(&drained, |took| took.client),
        cpu(&drained, |took| took.server),
    );
    let peak = verified.iter().map(|took| took.peak_kib).max().unwrap();
    println!(
        "figure verify/1M/memory peak {:.1} MiB above the baseline",
        peak as f64 / 1024.0
    );
    let key = leaves::log_key();
    let made = measure(postmaster, make_checkpoints(&audit, &key, rows)).await;
    println!("figure checkpoint/1M {:.0} entries/s", n / made.seconds);
    println!(
        "figure checkpoint/1M/memory peak {:.1} MiB above the baseline",
        made.peak_kib as f64 / 1024.0
    );
    leaves::verified(&audit, &options, rows, rounds, postmaster).await;
    audit.shutdown().await;
    pool.close().await;
    let leaves = from_env("PORTCULLIS_BENCH_LEAVES", 10_000_000);
    let database = Database::options(server.database("portcullis_bench_proof").await);
    leaves::proved(&database, leaves).await;
    server.stop().await;
}

async fn open(database: &Database) -> Audit {
    let secret = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
    let keys = AuditKeys::single(Secret::parse(secret).unwrap());
    Audit::open(database, keys, TenantId::single())
        .await
        .unwrap()
}

/// Appends what is missing to `rows`, in as many chains as there are writers; the number of rows.
async fn fill(database: &Database, pool: &PgPool, rows: u64) -> u64 {
    if count(pool).await < rows {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let audit = open(database).await;
            writers.push(tokio::spawn(async move {
                let me = Principal::agent(AgentId::parse("billing-agent").unwrap())
                    .session(SessionId::new())
                    .on_behalf_of(UserId::parse("customer-5417").unwrap());
                for batch in 0..rows / WRITERS / BATCH {
                    let event = |n| event(&me, writer * rows + batch * BATCH + n);
                    audit
                        .append_all((0..BATCH).map(event).collect())
                        .await
                        .unwrap();
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
    }
    for statement in [
        "ALTER TABLE portcullis.entries SET (autovacuum_enabled = off)",
        "VACUUM (FREEZE, ANALYZE) portcullis.entries",
        "CHECKPOINT",
    ] {
        let mut connection = pool.connect_options().connect().await.unwrap();
        sqlx::query("SET statement_timeout = 0")
            .execute(&mut connection)
            .await
            .unwrap();
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
    let bytes: f64 = sqlx::query_scalar(
        "SELECT avg(pg_column_size(e.*))::float8 FROM (SELECT * FROM portcullis.entries LIMIT 1000) e",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    println!("entries of {bytes:.0} bytes");
    count(pool).await
}

fn event(me: &Principal, n: u64) -> AuditEvent {
    AuditEvent::new(me, "app.invoice.read")
        .caused_by(EventId::new())
        .model(&ModelName::parse("gpt-4o-mini-2024-07-18").unwrap())
        .input(&n.to_be_bytes())
        .output(&n.to_le_bytes())
        .decision("allow")
        .with("call_id", format!("0192f0c1-7d5e-7aaa-8000-{n:012x}"))
        .with("tool", "read_invoice")
        .with("invoice", format!("inv_{n}"))
        .with("cents", n % 100_000)
        .with("policy", "billing-agents/v12")
        .with(
            "rule",
            "allow read_invoice for billing agents within their region",
        )
        .with("region", "eu-central-1")
        .with("attempt", 1)
}

async fn count(pool: &PgPool) -> u64 {
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM portcullis.entries")
        .fetch_one(pool)
        .await
        .unwrap();
    rows.try_into().unwrap()
}

/// What no reader of these rows can beat: all of them, thrown away.
async fn drain(options: &PgConnectOptions, copy: &str, rows: u64) {
    let mut connection = options.connect().await.unwrap();
    sqlx::query("SET statement_timeout = 0")
        .execute(&mut connection)
        .await
        .unwrap();
    // Also the header and the end are messages.
    let (mut messages, mut bytes) = (0, 0);
    {
        let mut stream = connection.copy_out_raw(copy).await.unwrap();
        while let Some(message) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
            messages += 1;
            bytes += message.unwrap().len();
        }
    }
    assert!(messages >= rows && bytes > 0);
    connection.close().await.unwrap();
}

async fn verify(audit: &Audit, rows: u64) {
    let verified = audit.verify(Scope::All).await.unwrap();
    assert!(verified.is_clean(), "{verified}");
    assert_eq!(verified.proved(), rows);
}

/// Everything comes under checkpoints, as many as it takes.
async fn make_checkpoints(audit: &Audit, key: &LogKey, rows: u64) {
    let last = audit.checkpoint(key).await.unwrap();
    assert!(last.size() > rows, "and the entry that says so");
}

/// Runs `work` and reads the clocks of this process and of the server's that has done with it.
async fn measure(postmaster: u32, work: impl Future<Output = ()>) -> Took {
    // Peak memory begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let base = status("VmRSS:");
    let (client, server) = (ticks("self", false), settled(postmaster).await);
    let start = Instant::now();
    work.await;
    let seconds = start.elapsed().as_secs_f64();
    Took {
        seconds,
        client: ticks("self", false) - client,
        server: settled(postmaster).await - server,
        peak_kib: status("VmHWM:") - base,
    }
}

/// CPU seconds of the server's processes that have ended, once the last one has.
async fn settled(postmaster: u32) -> f64 {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    ticks(&postmaster.to_string(), true)
}

/// User and system seconds of a process, or of its children that have ended.
fn ticks(process: &str, children: bool) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let first = if children { 13 } else { 11 };
    let ticks = |i: usize| fields[i].parse::<f64>().unwrap();
    (ticks(first) + ticks(first + 1)) / 100.0
}

fn status(name: &str) -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The parent of the server's processes.
async fn postmaster(pool: &PgPool) -> u32 {
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(pool)
        .await
        .unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn median(runs: &[Took], of: impl Fn(&Took) -> f64) -> f64 {
    median_of(runs.iter().map(of).collect())
}

fn median_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap())
}
