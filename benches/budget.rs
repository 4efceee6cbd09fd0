//! What a budget costs: reserve and settle, by 64 callers, on one hot budget and on 1,000.
//!
//! Defends: one round trip to reserve, for all budgets of a call, and one to settle; and that many
//! callers share them, in sessions where the statements are planned once. The goal on one hot budget is
//! twenty times what one statement for each call does (the ceiling of the figure: the statements of
//! before the combiner, on copies of our tables, and without an audit trail, which ours writes).
//! Measured on two cores that the server shares: 10,200 pairs a second, 18 to 26 times a ceiling that
//! varies with the disk (390 to 560); before the sessions, planned for each connection of the pool, and
//! with both kinds of statements waiting for each other in the server, 4,600 to 5,450, 8 times.
//! Beside it, the bare UPDATE that anybody would write. Needs a server that syncs:
//! `PORTCULLIS_BENCH_DATABASE_URL`, or an embedded cluster.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/per_call.rs"]
mod per_call;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::audit::AuditKeys;
use portcullis::cost::{Budget, Cost, CostSettings};
use portcullis::{
    AgentId, Ceiling, Database, Principal, Secret, SessionId, SystemClock, TenantId, Usd,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::common::Server;

const CALLERS: u64 = 64;
const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(1_500);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let server = Server::start().await;
    let options = server.database("portcullis_bench_budget").await;
    let database = Database::options(options.clone());
    database.migrate().await.unwrap();
    let cost = open(&database).await;
    let pool = database.connect_pool().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE bare (id bigint PRIMARY KEY, spent bigint NOT NULL) WITH (fillfactor = 30);
         INSERT INTO bare SELECT i, 0 FROM generate_series(0, 999) i",
    )
    .execute(&pool)
    .await
    .unwrap();
    per_call::prepare(&pool, 1_000).await;
    let agents: Vec<Principal> = (0..1_000).map(principal).collect();
    for who in &agents {
        let budget = Budget::for_agent(who.agent_id().clone()).per_day(Usd::dollars(1_000_000));
        cost.register(budget).await.unwrap();
        // The first admission of the day opens the window, and is not measured.
        cost.reserve(who, Ceiling::usd(Usd::cents(1)))
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
    }
    sqlx::raw_sql("ANALYZE").execute(&pool).await.unwrap();
    round_trips(&principal(1_000), &options).await;
    for (figure, budgets) in [("hot", 1), ("1000", 1_000)] {
        let (mut ours, mut ceiling, mut updates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            updates.push(rate(|at| bare(pool.clone(), at % budgets)).await);
            ceiling.push(rate(|at| one_each(pool.clone(), at % budgets)).await);
            ours.push(rate(|at| pair(cost.clone(), agents[(at % budgets) as usize].clone())).await);
        }
        let (ours, ceiling) = (median(ours), median(ceiling));
        println!(
            "figure budget/{figure} {ours:.0} pairs/s ceiling {ceiling:.0} ratio {:.2}",
            ours / ceiling
        );
        let updates = median(updates);
        println!(
            "budget/{figure}: {updates:.0} pairs/s of bare updates, ratio {:.2}",
            ours / updates
        );
    }
    cost.shutdown().await;
    pool.close().await;
    server.stop().await;
}

async fn open(database: &Database) -> Cost {
    Cost::open(
        database,
        AuditKeys::single(Secret::generate().unwrap()),
        TenantId::single(),
        Arc::new(SystemClock::default()),
        CostSettings::default(),
    )
    .await
    .unwrap()
}

fn principal(at: u64) -> Principal {
    let agent = AgentId::parse(format!("agent-{at}")).unwrap();
    Principal::agent(agent).session(SessionId::new())
}

async fn pair(cost: Cost, who: Principal) {
    let held = cost
        .reserve(&who, Ceiling::usd(Usd::nanos(1_000)))
        .await
        .unwrap();
    held.settle(Usd::nanos(900)).await.unwrap();
}

/// One statement to reserve, one to settle.
async fn one_each(pool: PgPool, id: u64) {
    per_call::pair(&pool, id).await;
}

/// What anybody would write: no reservation to settle, no other budget, no record of it.
async fn bare(pool: PgPool, id: u64) {
    for amount in [1_000_i64, -100] {
        sqlx::query(
            "UPDATE bare SET spent = spent + $2 WHERE id = $1 AND spent + $2 <= 1000000000000000",
        )
        .bind(i64::try_from(id).unwrap())
        .bind(amount)
        .execute(&pool)
        .await
        .unwrap();
    }
}

/// Pairs per second of `CALLERS` callers.
async fn rate<F, Fut>(work: F) -> f64
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let done = AtomicU64::new(0);
    let started = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    let mut next = 0_u64;
    while started.elapsed() < SLICE {
        while (running.len() as u64) < CALLERS {
            // Spread over the budgets without a pattern.
            next = next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            running.spawn(work(next >> 33));
        }
        running.join_next().await.unwrap().unwrap();
        done.fetch_add(1, Ordering::Relaxed);
    }
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    while running.join_next().await.is_some() {}
    rate
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Counts what one caller sends and waits for, on the wire.
async fn round_trips(who: &Principal, options: &PgConnectOptions) {
    let trips = Arc::new(AtomicU64::new(0));
    let port = proxy(options.clone(), Arc::clone(&trips)).await;
    let mut url = options.to_url_lossy();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(port)).unwrap();
    // The driver asks a pooled connection whether it is alive before each use; not ours to count.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect_lazy(url.as_str())
        .unwrap();
    let cost = open(&Database::pool(pool)).await;
    let agent = who.agent_id().clone();
    let budget = Budget::for_agent(agent.clone())
        .per_session(Usd::dollars(9))
        .per_day(Usd::dollars(9));
    cost.register(budget).await.unwrap();
    let fee = || Ceiling::usd(Usd::nanos(1_000));
    let mut last = 0;
    let mut counted = |label: &str| {
        let now = trips.load(Ordering::SeqCst);
        println!("round trips {label}: {}", now - last);
        last = now;
    };
    // The first use of each statement on a connection also prepares it.
    for _ in 0..2 {
        let me = Principal::agent(agent.clone());
        cost.reserve(&me, fee())
            .await
            .unwrap()
            .settle(Usd::ZERO)
            .await
            .unwrap();
        cost.reserve(&me, fee())
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
    }
    counted("(warming up)");
    let me = Principal::agent(agent);
    let first = cost.reserve(&me, fee()).await.unwrap();
    counted("reserve, the first of a session");
    let second = cost.reserve(&me, fee()).await.unwrap();
    counted("reserve");
    first.settle(Usd::nanos(900)).await.unwrap();
    counted("settle");
    second.release().await.unwrap();
    counted("release");
}

/// Passes bytes on to the server, and counts how often the client speaks after having been answered.
async fn proxy(options: PgConnectOptions, trips: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let trips = Arc::clone(&trips);
            if let Some(directory) = options.get_socket() {
                let path = directory.join(format!(".s.PGSQL.{}", options.get_port()));
                let server = UnixStream::connect(path).await.unwrap();
                tokio::spawn(relay(client, server, trips));
            } else {
                let server = TcpStream::connect((options.get_host(), options.get_port()));
                tokio::spawn(relay(client, server.await.unwrap(), trips));
            }
        }
    });
    port
}

async fn relay<S>(mut client: TcpStream, mut server: S, trips: Arc<AtomicU64>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    let mut answered = true;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(bytes) if bytes > 0 => {
                    // A lone Sync is the driver asking whether the connection is alive, which it does
                    // behind the caller's back whenever one goes back to the pool.
                    if from_client[0] != b'S' {
                        trips.fetch_add(u64::from(answered), Ordering::SeqCst);
                        answered = false;
                    }
                    server.write_all(&from_client[..bytes]).await.unwrap();
                }
                _ => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(bytes) if bytes > 0 => {
                    answered = true;
                    client.write_all(&from_server[..bytes]).await.unwrap();
                }
                _ => return,
            },
        }
    }
}
