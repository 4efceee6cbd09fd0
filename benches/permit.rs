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
use portcullis::scope::ScopePolicy;
use portcullis::{AgentId, Call, Database, Governance, Outcome, Principal, Secret};

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

    let spooled = connect(&database, &scratch, Evidence::Spooled, &me).await;
    let took = permits(&spooled, &me).await;
    println!("figure permit/spooled {:.2} us", median(took));
    spooled.shutdown().await;

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

async fn permits(gov: &Governance, me: &Principal) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..ROUNDS * CALLS {
        let args = serde_json::json!({"to": "c_381", "subject": "Your invoice", "n": n});
        let call = Call::tool(me, "send_email").args(&args);
        let began = Instant::now();
        let permit = gov.authorize(&call).await.unwrap();
        took.push(began.elapsed());
        permit.settle(Outcome::completed()).await;
    }
    took
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e6
}
