//! What a leased budget costs: reserve and settle from memory, by the calls that a host makes.
//!
//! Defends: under 500 ns at the median for a pair, and five million pairs a second from 64 callers.
//! The ceiling, measured between our batches, is the least that any budget in memory needs: one bare
//! compare-and-swap to take, and one addition to give back, on one counter that all callers share.
//!
//! Slices are taken from a Postgres and reported to it while this is measured, as in production.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "common/mod.rs"]
mod common;

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use portcullis::audit::AuditKeys;
use portcullis::cost::{Budget, Cost, CostSettings, Spender};
use portcullis::{
    AgentId, Ceiling, Database, Principal, Secret, SessionId, SystemClock, TenantId, Usd,
};

use crate::common::Server;

const CALLERS: usize = 64;
const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_secs(1);
/// Pairs between two looks at the clock.
const BATCH: u64 = 200;
const PAIRS: usize = 200_000;
const CEILING: Usd = Usd::nanos(1_000);
const COST: Usd = Usd::nanos(900);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(run()).await.unwrap() });
}

async fn run() {
    let server = Server::start().await;
    let options = server.database("portcullis_bench_lease").await;
    let database = Database::options(options);
    database.migrate().await.unwrap();
    let cost = Cost::open(
        &database,
        AuditKeys::single(Secret::generate().unwrap()),
        TenantId::single(),
        Arc::new(SystemClock::default()),
        CostSettings::default(),
    )
    .await
    .unwrap();
    let agent = AgentId::parse("agent").unwrap();
    let budget = Budget::for_agent(agent.clone())
        .per_day(Usd::dollars(1_000_000))
        .leased(5);
    cost.register(budget).await.unwrap();
    let who = of_session(&agent);
    let others: Vec<_> = (0..CALLERS).map(|_| of_session(&agent)).collect();
    // The first call of a session asks the store which budgets it is charged to.
    for who in others.iter().chain([&who, &who]) {
        pair(&cost, who).await;
    }
    let bare = Arc::new(AtomicI64::new(i64::MAX / 2));
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        least.push(median(each(|| swap(&bare))));
        ours.push(median(each(|| now(pair(&cost, &who)))));
    }
    figure("budget/leased-p50", "ns", median(ours), median(least));
    let spender = cost.spender(&who);
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        least.push(median(each(|| swap(&bare))));
        ours.push(median(each(|| now(spender_pair(&spender)))));
    }
    figure(
        "budget/leased-spender-p50",
        "ns",
        median(ours),
        median(least),
    );
    let (mut ours, mut spenders, mut least) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let of = Arc::clone(&bare);
        least.push(rate(&others, |_| bare_caller(Arc::clone(&of))).await);
        ours.push(rate(&others, |who| caller(cost.clone(), who)).await);
        spenders.push(rate(&others, |who| spending_caller(cost.spender(&who))).await);
    }
    let least = median(least);
    figure("budget/leased", "pairs/s", median(ours), least);
    figure("budget/leased-spender", "pairs/s", median(spenders), least);
    cost.shutdown().await;
    server.stop().await;
}

fn figure(name: &str, unit: &str, ours: f64, ceiling: f64) {
    println!(
        "figure {name} {ours:.0} {unit} ceiling {ceiling:.0} ratio {:.2}",
        ours / ceiling
    );
}

async fn pair(cost: &Cost, who: &Principal) {
    let held = cost.reserve(who, Ceiling::usd(CEILING)).await.unwrap();
    held.settle(COST).await.unwrap();
}

async fn spender_pair(spender: &Spender) {
    let held = spender.reserve(Ceiling::usd(CEILING)).await.unwrap();
    held.settle(COST).await.unwrap();
}

fn swap(free: &AtomicI64) {
    let mut now = free.load(Ordering::Relaxed);
    while let Err(other) =
        free.compare_exchange_weak(now, now - 1_000, Ordering::AcqRel, Ordering::Relaxed)
    {
        now = other;
    }
    black_box(free.fetch_add(100, Ordering::AcqRel));
}

/// The answer of a future that waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return answer;
        }
        std::thread::yield_now();
    }
}

/// Nanoseconds of each pair of one caller.
fn each(work: impl Fn()) -> Vec<f64> {
    // What the clock takes is not the pair's.
    let mut idle: Vec<f64> = (0..10_001)
        .map(|_| {
            let started = Instant::now();
            started.elapsed().as_nanos() as f64
        })
        .collect();
    idle.sort_by(f64::total_cmp);
    let clock = idle[idle.len() / 2];
    (0..PAIRS)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_nanos() as f64 - clock
        })
        .collect()
}

/// Pairs per second of all callers, each a task of its own, with a session of its own.
async fn rate<Fut>(sessions: &[Principal], caller: impl Fn(Principal) -> Fut) -> f64
where
    Fut: Future<Output = u64> + Send + 'static,
{
    let started = Instant::now();
    let callers: Vec<_> = (sessions.iter())
        .map(|who| tokio::spawn(caller(who.clone())))
        .collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await.unwrap();
    }
    done as f64 / started.elapsed().as_secs_f64()
}

/// Does `$pair` until the time is over, and says how often; others have their turn between batches.
macro_rules! often {
    ($pair:expr) => {{
        let started = Instant::now();
        let mut done = 0;
        while started.elapsed() < SLICE {
            for _ in 0..BATCH {
                $pair;
            }
            done += BATCH;
            tokio::task::yield_now().await;
        }
        done
    }};
}

async fn bare_caller(of: Arc<AtomicI64>) -> u64 {
    often!(swap(&of))
}

async fn caller(cost: Cost, who: Principal) -> u64 {
    often!(pair(&cost, &who).await)
}

async fn spending_caller(spender: Spender) -> u64 {
    often!(spender_pair(&spender).await)
}

fn of_session(agent: &AgentId) -> Principal {
    Principal::agent(agent.clone()).session(SessionId::new())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
