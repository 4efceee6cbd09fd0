//! What waiting for a person costs: from a decision in one process to the wake-up in another, and a
//! hundred thousand callers that race for one approval.
//!
//! Defends: a notice wakes whoever waits in less than ten milliseconds at the median; of all that
//! race, one wins. Needs a server that syncs: `PORTCULLIS_BENCH_DATABASE_URL`, or an embedded cluster.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::audit::{AuditKeys, JournalSettings};
use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision, GateError, RequestState};
use portcullis::{AgentId, Call, Database, Governance, OperatorId, Principal, Secret};

use crate::common::Server;

const WAKES: usize = 300;
const RACERS: u64 = 100_000;
const CALLERS: u64 = 64;
/// The goal at the median.
const GOAL_MS: f64 = 10.0;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let server = Server::start().await;
    let options = server.database("portcullis_bench_gates").await;
    let database = Database::options(options);
    database.migrate().await.unwrap();
    let keys = AuditKeys::single(Secret::generate().unwrap());
    // Two pools and two memories: two processes, as far as the database can tell.
    let agent = open(&database, &keys).await;
    let people = open(&database, &keys).await;
    let policy = ApprovalPolicy::new(AgentId::parse("bench").unwrap())
        .require_for_tools(["*"])
        .unwrap()
        .approvers(["user:erin"])
        .unwrap();
    agent.gates().register(policy).await.unwrap();
    wake(&agent, &people).await;
    race(&agent, &people).await;
    agent.shutdown().await;
    people.shutdown().await;
    server.stop().await;
}

async fn open(database: &Database, keys: &AuditKeys) -> Governance {
    Governance::builder(database.clone(), keys.clone())
        .journal(JournalSettings::off())
        .connect()
        .await
        .unwrap()
}

fn call(n: usize) -> Call {
    let who = Principal::agent(AgentId::parse("bench").unwrap())
        .session(portcullis::SessionId::parse("s").unwrap())
        .operated_by(OperatorId::parse("dana").unwrap());
    Call::tool(&who, "refund").args(&n)
}

/// From the call of `decide` there to the return of `wait` here: the commit is in it.
async fn wake(agent: &Governance, people: &Governance) {
    let erin = ApproverRef::parse("user:erin").unwrap();
    let mut took = Vec::with_capacity(WAKES);
    for n in 0..WAKES {
        let id = agent
            .gates()
            .request(&call(n), Ask::policy())
            .await
            .unwrap()
            .id();
        let gates = agent.gates().clone();
        let waiting = tokio::spawn(async move {
            let found = gates.wait(id, Duration::from_mins(1)).await.unwrap();
            assert_eq!(found.state, RequestState::Granted);
            Instant::now()
        });
        // It is waiting by then.
        tokio::time::sleep(Duration::from_millis(15)).await;
        let started = Instant::now();
        people
            .gates()
            .decide(id, &erin, Decision::grant())
            .await
            .unwrap();
        took.push(waiting.await.unwrap() - started);
    }
    took.sort_unstable();
    let millis = |nth: usize| took[nth].as_secs_f64() * 1_000.0;
    let (median, p99) = (millis(WAKES / 2), millis(WAKES * 99 / 100));
    println!(
        "figure gates/wake {median:.2} ms ceiling {GOAL_MS:.2} ratio {:.3}",
        median / GOAL_MS
    );
    println!(
        "figure gates/wake-p99 {p99:.2} ms ceiling {GOAL_MS:.2} ratio {:.3}",
        p99 / GOAL_MS
    );
}

/// Callers that all want the one approval, as fast as they can; each try is one statement, until the
/// approval is used, and then finds that it has to ask again.
async fn race(agent: &Governance, people: &Governance) {
    let erin = ApproverRef::parse("user:erin").unwrap();
    let id = agent
        .gates()
        .request(&call(WAKES), Ask::policy())
        .await
        .unwrap()
        .id();
    people
        .gates()
        .decide(id, &erin, Decision::grant())
        .await
        .unwrap();
    let (tried, won) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let racing: Vec<_> = (0..CALLERS)
        .map(|n| {
            let gates = if n % 2 == 0 { agent } else { people }.gates().clone();
            let (tried, won) = (Arc::clone(&tried), Arc::clone(&won));
            tokio::spawn(async move {
                while tried.fetch_add(1, Ordering::Relaxed) < RACERS {
                    match gates.redeem(&call(WAKES), Ask::policy()).await {
                        Ok(approval) => {
                            let used = approval.use_up().await;
                            won.fetch_add(u64::from(used.is_ok()), Ordering::Relaxed);
                        }
                        Err(GateError::NotHeld | GateError::Pending { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for racer in racing {
        racer.await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    let won = won.load(Ordering::Relaxed);
    assert_eq!(won, 1, "one winner of {RACERS}");
    println!("figure gates/race {RACERS} tries winners {won} in {seconds:.1} s");
}
