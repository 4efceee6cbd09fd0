//! What a durable append costs, beside what is possible, in one run.
//!
//! Defends: at 64 callers at least 0.95 of a group COPY of the same rows without a chain, and 0.9 with
//! checkpoints made at their usual pace; the median of one caller within 1.3 of a bare durable INSERT of
//! one row; four processes with a chain each at least 1.5 of the same four sharing one. Beside a full
//! verification in another process, it says what pace is kept.
//!
//! At 512 callers 1.2 of the group COPY is the goal and is not reached: 1.11 in the one run on two idle
//! cores, server and callers on both; other runs, beside other load, are too far apart to count. An event
//! cost 4.4 us of CPU here and 14.0 in the server then, where the COPY's took 2.2 and 10.4: two
//! sessions that write to the same indexes cost the server 3 us an event more than one does.
//!
//! `cargo bench --bench append` measures on a Postgres of its own, or on the server that
//! `PORTCULLIS_BENCH_DATABASE_URL` names (it creates the database `portcullis_bench` there). Rounds
//! of ceiling and ours alternate, and medians are compared: the machine's mood hits both.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    reason = "a measurement, not library code"
)]

#[path = "append/beside.rs"]
mod beside;
#[path = "append/ceiling.rs"]
mod ceiling;
#[path = "common/mod.rs"]
mod common;
#[path = "append/cpu.rs"]
mod cpu;
#[path = "append/processes.rs"]
mod processes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::audit::{Audit, AuditEvent, AuditKeys};
use portcullis::{AgentId, Database, Principal, Secret, TenantId};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use crate::common::Server;
use crate::cpu::{Cpu, Meter};

pub(crate) const ROUND: Duration = Duration::from_millis(1_200);
pub(crate) const ROUNDS: usize = 5;
pub(crate) const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    match processes::role() {
        Some(role) => runtime.block_on(processes::child(role)),
        None => runtime.block_on(parent()),
    }
}

async fn parent() {
    let server = Server::start().await;
    let meter = Meter::of(server.data());
    if server.is_own() {
        settle_in(&mut server.options().connect().await.unwrap()).await;
    }
    let options = server.database("portcullis_bench").await;
    let database = Database::options(options.clone());
    database.migrate().await.unwrap();
    let mut connection = options.connect().await.unwrap();
    for setting in ["fsync", "synchronous_commit"] {
        let on: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        println!("{setting} {on}");
    }
    ceiling::prepare(&mut connection).await;

    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    let audit = Audit::open(&database, keys, TenantId::single())
        .await
        .unwrap();
    // `cargo bench --bench append -- 64 512` measures only these.
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    if wanted("1") {
        checkpoint(&mut connection).await;
        one_caller(&options, &audit).await;
    }
    for callers in [8, 64, 512] {
        if wanted(&callers.to_string()) {
            checkpoint(&mut connection).await;
            many_callers(&options, &audit, &meter, callers, "").await;
        }
    }
    if wanted("64-verifying") {
        checkpoint(&mut connection).await;
        beside::a_verification(&options, &audit).await;
    }
    audit.shutdown().await;
    if wanted("64-checkpoints") {
        checkpoint(&mut connection).await;
        beside::checkpoints(&options, &meter).await;
    }
    if wanted("4-processes") {
        checkpoint(&mut connection).await;
        processes::measure(&options).await;
    }
    connection.close().await.unwrap();
    server.stop().await;
}

/// Brings a new server to where one is that has run for a while: its log is written into files that
/// were used before. In a new one, Postgres fills a file of 16 MiB with zeros four times a second,
/// and everybody waits.
async fn settle_in(admin: &mut PgConnection) {
    for sql in [
        "ALTER SYSTEM SET min_wal_size = '2GB'",
        "ALTER SYSTEM SET max_wal_size = '8GB'",
        "ALTER SYSTEM SET checkpoint_timeout = '1h'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::query(sql).execute(&mut *admin).await.unwrap();
    }
    for _ in 0..130 {
        sqlx::raw_sql("SELECT pg_logical_emit_message(false, '', '.'); SELECT pg_switch_wal()")
            .execute(&mut *admin)
            .await
            .unwrap();
    }
    checkpoint(admin).await;
}

/// Makes the used files of the log ready to be used again.
async fn checkpoint(admin: &mut PgConnection) {
    sqlx::query("CHECKPOINT").execute(admin).await.unwrap();
}

/// The median latency of one caller, beside that of a bare durable INSERT of one row.
async fn one_caller(options: &PgConnectOptions, audit: &Audit) {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    let mut connection = connect(options).await;
    run(1, ROUND / 3, |events| log(audit.clone(), events)).await;
    let before = audit.stats();
    for _ in 0..ROUNDS {
        let (told, took) = tokio::spawn(async move {
            let took = ceiling::bare_inserts(&mut connection, ROUND).await;
            (connection, took)
        })
        .await
        .unwrap();
        connection = told;
        bare.push(took);
        ours.push(run(1, ROUND, |events| log(audit.clone(), events)).await);
    }
    let (p50, bare_p50) = (median(&ours, Run::p50), median(&bare, Run::p50));
    describe("bare insert/1", &bare);
    describe("append/1", &ours);
    round_trips(audit, before);
    println!(
        "figure append/1 {p50:.0} us ceiling {bare_p50:.0} ratio {:.2}",
        p50 / bare_p50
    );
}

/// So many callers at once, beside as many that copy. `what` is added to the figure's name.
pub(crate) async fn many_callers(
    options: &PgConnectOptions,
    audit: &Audit,
    meter: &Meter,
    callers: usize,
    what: &str,
) {
    let (mut copy, mut ours) = (Vec::new(), Vec::new());
    let queue = ceiling::start(connect(options).await);
    run(callers, ROUND / 3, |rows| {
        ceiling::copy(queue.clone(), rows)
    })
    .await;
    run(callers, ROUND / 3, |events| log(audit.clone(), events)).await;
    let before = audit.stats();
    let (mut copy_cpu, mut ours_cpu) = (Cpu::default(), Cpu::default());
    for _ in 0..ROUNDS {
        let start = meter.read();
        copy.push(run(callers, ROUND, |rows| ceiling::copy(queue.clone(), rows)).await);
        let between = meter.read();
        ours.push(run(callers, ROUND, |events| log(audit.clone(), events)).await);
        copy_cpu.add(start, between);
        ours_cpu.add(between, meter.read());
    }
    let events = |runs: &[Run]| runs.iter().map(|run| run.micros.len()).sum();
    describe(&format!("group copy/{callers}"), &copy);
    copy_cpu.describe("group copy", events(&copy));
    describe(&format!("append/{callers}"), &ours);
    ours_cpu.describe("append", events(&ours));
    round_trips(audit, before);
    let (rate, ceiling) = (median(&ours, Run::rate), median(&copy, Run::rate));
    println!(
        "figure append/{callers}{what} {rate:.0} events/s ceiling {ceiling:.0} ratio {:.2}",
        rate / ceiling
    );
}

pub(crate) fn describe(name: &str, runs: &[Run]) {
    println!(
        "{name}: {:.0} events/s, p50 {:.2} ms, p99 {:.2} ms",
        median(runs, Run::rate),
        median(runs, Run::p50) / 1e3,
        median(runs, Run::p99) / 1e3
    );
}

fn round_trips(audit: &Audit, before: portcullis::audit::AuditStats) {
    let now = audit.stats();
    let batches = (now.batches - before.batches) as f64;
    println!(
        "  {:.3} round trips a batch, {:.1} events a batch, {} lanes, {} lost",
        (now.statements - before.statements) as f64 / batches,
        (now.events - before.events) as f64 / batches,
        now.lanes,
        now.lost - before.lost
    );
}

/// What one round measured.
pub(crate) struct Run {
    pub(crate) elapsed: Duration,
    /// Sorted.
    pub(crate) micros: Vec<u32>,
}

impl Run {
    pub(crate) fn new(elapsed: Duration, mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        Self { elapsed, micros }
    }

    pub(crate) fn rate(&self) -> f64 {
        self.micros.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn p50(&self) -> f64 {
        f64::from(self.micros[self.micros.len() / 2])
    }

    fn p99(&self) -> f64 {
        f64::from(self.micros[self.micros.len() * 99 / 100])
    }
}

pub(crate) fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Tells callers when to stop, and what to say.
#[derive(Clone)]
pub(crate) struct Events {
    stop: Arc<AtomicBool>,
    pub(crate) caller: usize,
}

impl Events {
    pub(crate) fn more(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Runs `callers` at once for `length`; each answers with its latencies in microseconds.
pub(crate) async fn run<F, Fut>(callers: usize, length: Duration, caller: F) -> Run
where
    F: Fn(Events) -> Fut,
    Fut: Future<Output = Vec<u32>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|number| {
            tokio::spawn(caller(Events {
                stop: Arc::clone(&stop),
                caller: number,
            }))
        })
        .collect();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    Run::new(began.elapsed(), all)
}

/// One caller of ours: an event of the usual size, over and over.
pub(crate) async fn log(audit: Audit, events: Events) -> Vec<u32> {
    let me = Principal::agent(AgentId::parse("billing-agent").unwrap());
    let mut took = Vec::new();
    while events.more() {
        let began = Instant::now();
        let event = AuditEvent::new(&me, "app.tool.call.completed")
            .input(b"what went in")
            .output(b"what came out")
            .decision("allow")
            .with("caller", events.caller)
            .with("tool", "send_email")
            .with("resource", "customer/c_381");
        audit.append(event).await.unwrap();
        took.push(began.elapsed().as_micros() as u32);
    }
    took
}

pub(crate) async fn connect(options: &PgConnectOptions) -> PgConnection {
    let options = options.clone().disable_statement_logging();
    options.connect().await.unwrap()
}
