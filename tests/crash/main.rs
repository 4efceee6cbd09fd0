//! The crash harness: processes are killed, the server is stopped, hung and cut off, the clock jumps,
//! and then it is counted what became of everything that was acknowledged.
//!
//! `cargo test --test crash` runs the short form. The full form, with at least a thousand kills:
//!
//! ```sh
//! cargo test --test crash -- --full
//! ```
//!
//! Either prints a table and fails if anything that was acknowledged is missing or twice, if a chain
//! has a fork or a gap, or if a budget's promise was broken. Troubles and moments are random; what is
//! counted is not.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    reason = "a harness, not library code"
)]

mod child;
mod count;
#[allow(
    dead_code,
    reason = "shared with the integration tests, which use all of it"
)]
#[path = "../it/common/proxy.rs"]
mod proxy;
mod round;
mod server;

use std::process::ExitCode;

use portcullis::cost::Budget;
use portcullis::store::embedded::{Cluster, DatabaseName, Durability};
use portcullis::{AgentId, AuditKeys, Database, Governance, Secret, Usd};

use crate::count::Counts;
use crate::round::{Round, Tally, Trouble};
use crate::server::Server;

/// The secret of the harness: random-looking, of no worth.
const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";

/// How often each trouble happens, in the short form and in the full one.
const ROUNDS: &[(Trouble, usize, usize)] = &[
    (Trouble::Kill, 4, 160),
    (Trouble::KillSpooled, 4, 60),
    (Trouble::StopFast, 1, 15),
    (Trouble::StopImmediate, 1, 15),
    (Trouble::Hang, 1, 10),
    (Trouble::CutAfterCommit, 2, 20),
    (Trouble::ClockForward, 1, 5),
    (Trouble::ClockBack, 1, 5),
];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Some(orders) = child::orders() {
        runtime.block_on(child::run(orders));
        return ExitCode::SUCCESS;
    }
    // As the test runner of the toolchain is asked: what a filter leaves out is not run.
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked.iter().any(|a| a == "--list") {
        println!("crash: test");
        return ExitCode::SUCCESS;
    }
    if asked
        .iter()
        .any(|a| !a.starts_with('-') && !"crash".contains(a.as_str()))
    {
        return ExitCode::SUCCESS;
    }
    runtime.block_on(harness(asked.iter().any(|a| a == "--full")))
}

async fn harness(full: bool) -> ExitCode {
    let directory = std::env::temp_dir().join(format!("portcullis-crash-{}", std::process::id()));
    let cluster = Cluster::start_with(directory.join("postgres"), Durability::Full)
        .await
        .unwrap();
    let name: DatabaseName = "crash".parse().unwrap();
    cluster.ensure_database(&name).await.unwrap();
    let server = Server::new(cluster.clone(), "crash");
    let database = Database::options(server.options());
    database.migrate().await.unwrap();
    let gov = governance(&database).await;
    let agent = AgentId::parse(child::AGENT).unwrap();
    gov.cost()
        .register(Budget::for_agent(agent).per_session(Usd::dollars(2)))
        .await
        .unwrap();
    gov.shutdown().await;

    let mut tally = Tally::default();
    for (trouble, short, long) in ROUNDS {
        for _ in 0..if full { *long } else { *short } {
            Round::new(&server, *trouble).run(&mut tally).await;
        }
    }
    let counts = Counts::take(&server, &tally).await;
    println!("{}", count::table(&tally, &counts));
    cluster.stop().await;
    let _ = std::fs::remove_dir_all(&directory);
    if counts.is_fine(&tally) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn governance(database: &Database) -> Governance {
    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    Governance::builder(database.clone(), keys)
        .connect()
        .await
        .unwrap()
}
