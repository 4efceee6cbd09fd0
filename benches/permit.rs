//! What a permit costs, with every gate asked.
//!
//! Defends: from memory (a leased budget, no approval, evidence spooled) a permit costs at most 10
//! microseconds at the median, of which the gates at most 2; with an exact budget, one round trip for
//! all budgets together and the group commit of the decision.
//!
//! `cargo bench --bench permit` measures on a Postgres of its own, or on the server that
//! `PORTCULLIS_BENCH_DATABASE_URL` names (it creates the database `portcullis_bench_permit` there).

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

#[path = "common/mod.rs"]
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::audit::{AuditKeys, Evidence, JournalSettings};
use portcullis::cost::Budget;
use portcullis::loops::LoopPolicy;
use portcullis::scope::ScopePolicy;
use portcullis::{AgentId, Call, Ceiling, Database, Governance, Outcome, Principal, Secret, Usd};

use crate::common::Server;

const NAME: &str = "portcullis_bench_permit";
const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const ROUNDS: usize = 5;
const CALLS: usize = 400;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let server = Server::start().await;
    let database = Database::options(server.database(NAME).await);
    database.migrate().await.unwrap();
    let scratch = std::env::temp_dir().join(format!("portcullis-permit-{}", std::process::id()));
    let me = Principal::agent(AgentId::parse("billing-agent").unwrap());

    let gov = connect(&database, &scratch, Evidence::Spooled, &me).await;
    let bare = median(permits(&gov, &me, None).await);
    println!("figure permit/spooled {bare:.2} us ceiling {bare:.2} ratio 1.00");

    // A leased budget, loops looked for, no approval, no contract: nothing waits for a round trip.
    let leased = Budget::for_agent(me.agent_id().clone())
        .per_session(Usd::dollars(1_000_000))
        .leased(5);
    gov.cost().register(leased).await.unwrap();
    gov.loops()
        .pin(LoopPolicy::new(me.agent_id().clone()))
        .await
        .unwrap();
    let price = Ceiling::usd(Usd::nanos(10_000));
    // The first calls take a slice.
    permits(&gov, &me, Some(&price)).await;
    let gates = gates(&gov, &me, &price).await;
    let whole = median(permits(&gov, &me, Some(&price)).await);
    println!(
        "figure permit/gates {gates:.0} ns ceiling 2000 ratio {:.2}",
        gates / 2_000.0
    );
    println!(
        "figure permit/leased {:.0} ns ceiling 10000 ratio {:.2}",
        whole * 1e3,
        whole / 10.0
    );
    gov.shutdown().await;

    let exact = connect(&database, &scratch, Evidence::Durable, &me).await;
    let budget = Budget::for_agent(me.agent_id().clone()).per_session(Usd::dollars(1_000_000));
    exact.cost().register(budget).await.unwrap();
    let reserves = reserves(&exact, &me, &price).await;
    let whole = median(permits(&exact, &me, Some(&price)).await);
    println!(
        "figure permit/exact {whole:.0} us ceiling {reserves:.0} ratio {:.2}",
        whole / reserves
    );
    exact.shutdown().await;

    database.connect_pool().await.unwrap().close().await;
    server.stop().await;
    std::fs::remove_dir_all(&scratch).unwrap();
}

async fn connect(
    database: &Database,
    scratch: &Path,
    evidence: Evidence,
    me: &Principal,
) -> Governance {
    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    let gov = Governance::builder(database.clone(), keys)
        .journal(JournalSettings::in_directory(scratch.join("journal")))
        .evidence(evidence)
        .connect()
        .await
        .unwrap();
    let policy = ScopePolicy::new(me.agent_id().clone())
        .allow_tools(["send_email", "read_invoice"])
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    gov
}

async fn permits(gov: &Governance, me: &Principal, price: Option<&Ceiling>) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..ROUNDS * CALLS {
        let args = serde_json::json!({"to": "c_381", "subject": "Your invoice", "n": n});
        let call = Call::tool(me, "send_email").args(&args);
        let call = match price {
            Some(price) => call.ceiling(price.clone()),
            None => call,
        };
        let began = Instant::now();
        let permit = gov.authorize(&call).await.unwrap();
        took.push(began.elapsed());
        permit.settle(Outcome::completed()).await;
    }
    took
}

/// The gates by themselves, one after the other, without the record of the decision; in nanoseconds.
async fn gates(gov: &Governance, me: &Principal, price: &Ceiling) -> f64 {
    let mut took = Vec::new();
    for n in 0..ROUNDS * CALLS {
        let args = serde_json::json!({"to": "c_381", "n": n});
        let call = Call::tool(me, "send_email").args(&args);
        let began = Instant::now();
        gov.halt().check(me).unwrap();
        gov.scope().check(me, "send_email").await.unwrap();
        let clear = gov.loops().check_call(&call).await.unwrap();
        let held = gov.cost().reserve(me, price.clone()).await.unwrap();
        took.push(began.elapsed());
        assert!(clear.warning().is_none());
        held.release().await.unwrap();
    }
    median(took) * 1e3
}

/// What an exact budget's one round trip costs, beside a permit that also waits for the commit of its
/// decision; in microseconds.
async fn reserves(gov: &Governance, me: &Principal, price: &Ceiling) -> f64 {
    let mut took = Vec::new();
    for _ in 0..CALLS {
        let began = Instant::now();
        let held = gov.cost().reserve(me, price.clone()).await.unwrap();
        took.push(began.elapsed());
        held.release().await.unwrap();
    }
    median(took)
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e6
}
