//! How soon a halt is seen by another process, and what asking costs.
//!
//! Defends: under 20 ms at the 99th percentile from the operator's call to the refusal in another process, on
//! an idle machine; a few nanoseconds a check with nothing halted, tens with a thousand halts. The ceiling
//! of the first is what anybody could do with Postgres: one durable insert with a notification, and a
//! listener. The ceiling of the others is one atomic load, and one look-up in a plain hash map.
//!
//! Needs a server that syncs: `PORTCULLIS_BENCH_DATABASE_URL`, or an embedded cluster.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use portcullis::audit::AuditKeys;
use portcullis::halt::{Halt, Target};
use portcullis::{AgentId, Database, Governance, OperatorId, Principal, Secret};
use sqlx::postgres::PgListener;
use sqlx::{ConnectOptions as _, PgConnection};

use crate::common::Server;

const URL: &str = "PORTCULLIS_BENCH_HALT_CHILD";
const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const HALTS: usize = 300;
const CHECKS: u32 = 1_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    match std::env::var(URL) {
        Ok(url) => runtime.block_on(watch(&url)),
        Err(_) => runtime.block_on(run()),
    }
}

async fn open(database: Database) -> Governance {
    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    Governance::builder(database, keys).connect().await.unwrap()
}

fn worker() -> Principal {
    Principal::agent(AgentId::parse("worker").unwrap())
}

fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros()
}

/// The other process: says when it saw a halt, a resumption, and a bare notification.
async fn watch(url: &str) {
    let gov = open(Database::url(url)).await;
    while !gov.halt().status().heard {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut bare = PgListener::connect(url).await.unwrap();
    bare.listen("bench").await.unwrap();
    let halt = gov.halt().clone();
    // As a busy agent would: it asks, and asks again.
    std::thread::spawn(move || {
        let (me, mut halted) = (worker(), false);
        println!("ready 0");
        loop {
            if halt.check(&me).is_err() != halted {
                halted = !halted;
                println!("{} {}", if halted { "seen" } else { "free" }, now());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    loop {
        bare.recv().await.unwrap();
        println!("bare {}", now());
    }
}

fn says(output: &mut BufReader<ChildStdout>, what: &str) -> u128 {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended");
        if let Some((word, at)) = line.trim().split_once(' ')
            && word == what
        {
            return at.parse().unwrap();
        }
    }
}

async fn run() {
    let server = Server::start().await;
    let options = server.database("portcullis_bench_halt").await;
    let database = Database::options(options.clone());
    database.migrate().await.unwrap();
    let gov = open(database).await;
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE bare_halts (id bigserial PRIMARY KEY, agent text NOT NULL)")
        .execute(&mut connection)
        .await
        .unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(URL, options.to_url_lossy().as_str())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    says(&mut output, "ready");

    let anna = OperatorId::parse("user:anna").unwrap();
    let target = Target::agent_of(&worker());
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..HALTS {
        let begun = now();
        gov.halt().halt(&target, &anna, "bench").await.unwrap();
        ours.push(says(&mut output, "seen").saturating_sub(begun));
        gov.halt().resume(&target, &anna, "bench").await.unwrap();
        says(&mut output, "free");
        let begun = now();
        notify(&mut connection).await;
        bare.push(says(&mut output, "bare").saturating_sub(begun));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for (name, at) in [("p50", 50), ("p99", 99)] {
        let (ours, bare) = (percentile(&mut ours, at), percentile(&mut bare, at));
        println!(
            "figure halt/seen-{name} {ours:.2} ms ceiling {bare:.2} ratio {:.2}",
            ours / bare
        );
    }

    let flag = AtomicBool::new(true);
    let least = per_check(|| black_box(&flag).load(Ordering::Acquire));
    figure("none", &gov.halt().clone(), least);
    let mut plain = HashMap::with_hasher(RandomState::default());
    for n in 0..1_000 {
        let agent = AgentId::parse(format!("halted-{n}")).unwrap();
        plain.insert(agent.as_str().to_owned(), n);
        gov.halt()
            .halt(&Target::Agent(agent), &anna, "bench")
            .await
            .unwrap();
    }
    let me = worker();
    let least = per_check(|| {
        black_box(&plain)
            .get(black_box(&me).agent_id().as_str())
            .is_none()
    });
    figure("thousand", gov.halt(), least);
    gov.shutdown().await;
    server.stop().await;
}

async fn notify(connection: &mut PgConnection) {
    sqlx::query(
        "WITH made AS (INSERT INTO bare_halts (agent) VALUES ('worker') RETURNING id)
         SELECT pg_notify('bench', made.id::text)::text FROM made",
    )
    .fetch_all(connection)
    .await
    .unwrap();
}

fn figure(name: &str, halt: &Halt, least: f64) {
    let me = worker();
    let ours = per_check(|| halt.check(black_box(&me)).is_ok());
    println!(
        "figure halt/check-{name} {ours:.1} ns ceiling {least:.1} ratio {:.2}",
        ours / least
    );
}

/// The median of nine, in nanoseconds.
fn per_check(ask: impl Fn() -> bool) -> f64 {
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..CHECKS {
                assert!(black_box(ask()));
            }
            begun.elapsed().as_nanos() as f64 / f64::from(CHECKS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[4]
}

fn percentile(micros: &mut [u128], at: usize) -> f64 {
    micros.sort_unstable();
    micros[(micros.len() - 1) * at / 100] as f64 / 1_000.0
}
