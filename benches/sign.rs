//! What signing costs, beside not signing, in one run.
//!
//! Defends: at 64 callers a signature for each entry costs less than a tenth of a millisecond an
//! entry, and a signature for each batch less than a tenth of what the batch takes.
//!
//! `cargo bench --bench sign` measures on a Postgres of its own, or on the server that
//! `PORTCULLIS_BENCH_DATABASE_URL` names (it creates the databases `portcullis_bench_sign_..` there).
//! Rounds of unsigned, signed entries and signed heads take turns, each on a database of its own, and
//! the medians of the rounds are compared: the time that an entry takes the whole process at 64
//! callers, and the median latency of one caller, who ends a batch with each entry.

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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::audit::{
    AgentKey, Audit, AuditEvent, AuditKeys, HeadPolicy, ProcessKey, SignPolicy, Signing,
};
use portcullis::{AgentId, Database, Principal, Secret, TenantId};

use crate::common::Server;

const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: usize = 7;
const CALLERS: usize = 64;
const NAMES: [&str; 3] = [
    "portcullis_bench_sign_none",
    "portcullis_bench_sign_entry",
    "portcullis_bench_sign_head",
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let server = Server::start().await;
    let key = AgentKey::ephemeral(agent()).unwrap();
    let signings = [
        Signing::new(SignPolicy::None),
        Signing::new(SignPolicy::All).key(key),
        Signing::new(SignPolicy::None).heads(HeadPolicy::Require, ProcessKey::ephemeral().unwrap()),
    ];
    let mut audits = Vec::new();
    for (name, signing) in NAMES.into_iter().zip(&signings) {
        let database = Database::options(server.database(name).await);
        database.migrate().await.unwrap();
        let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
        let audit = Audit::open(&database, keys, TenantId::single())
            .await
            .unwrap();
        audits.push(audit.sign_with(signing));
    }
    for (callers, unit) in [(CALLERS, "/64"), (1, "/1")] {
        let mut took = [const { Vec::new() }; 3];
        for audit in &audits {
            round(audit, callers, ROUND / 3).await;
        }
        for _ in 0..ROUNDS {
            for (audit, took) in audits.iter().zip(&mut took) {
                took.push(round(audit, callers, ROUND).await);
            }
        }
        let [none, entry, head] = took.map(median);
        figure(&format!("sign/entry{unit}"), entry, none);
        figure(&format!("sign/head{unit}"), head, none);
    }
    for audit in audits {
        assert_eq!(
            (audit.stats().unsigned, audit.stats().unsigned_heads),
            (0, 0)
        );
        audit.shutdown().await;
        assert!(audit.verify_all().await.unwrap().is_clean());
    }
    server.stop().await;
}

fn figure(name: &str, ours: f64, ceiling: f64) {
    println!(
        "figure {name} {ours:.1} us ceiling {ceiling:.1} ratio {:.2}",
        ours / ceiling
    );
    println!("  {:.1} us more an entry", ours - ceiling);
}

/// Microseconds an entry, of so many callers for so long: of one, the median latency.
async fn round(audit: &Audit, callers: usize, length: Duration) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| tokio::spawn(call(audit.clone(), caller, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    if callers == 1 {
        return median(all);
    }
    began.elapsed().as_secs_f64() * 1e6 / all.len() as f64
}

async fn call(audit: Audit, caller: usize, stop: Arc<AtomicBool>) -> Vec<f64> {
    let me = Principal::agent(agent());
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let event = AuditEvent::new(&me, "app.tool.call.completed")
            .input(b"what went in")
            .output(b"what came out")
            .decision("allow")
            .with("caller", caller)
            .with("tool", "send_email")
            .with("resource", "customer/c_381");
        audit.append(event).await.unwrap();
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    took
}

fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
