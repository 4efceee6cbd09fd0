//! The crash harness: processes are killed, anywhere and at chosen points, the server is stopped, hung
//! and cut off, disks fill up, the clock jumps, and then it is counted what became of everything that
//! was acknowledged.
//!
//! `cargo test --test crash` runs the short form. The full form, with at least a thousand kills:
//!
//! ```sh
//! cargo test --test crash -- --full
//! ```
//!
//! Either prints a table and fails if anything that was acknowledged is missing or twice, if a chain
//! has a fork or a gap, if a checkpoint was given out that the last one does not go on from, or if a
//! budget's promise was broken. Moments are random; what is counted is not.
//!
//! Full disks take root, for their mounts. Where that is not given, the table says that they were left
//! out. A word beside `--full` chooses the troubles that have it in their names.

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
#[path = "../it/common/ledger.rs"]
mod ledger;
mod orders;
#[allow(
    dead_code,
    reason = "shared with the integration tests, which use all of it"
)]
#[path = "../it/common/proxy.rs"]
mod proxy;
mod round;
mod said;
mod server;
mod site;
mod table;
mod trouble;

use std::process::ExitCode;
use std::time::Instant;

use portcullis::tlog::LogKey;
use portcullis::{AuditKeys, Secret};

use crate::count::Counts;
use crate::orders::Orders;
use crate::round::Round;
use crate::said::Tally;
use crate::site::Site;
use crate::trouble::{Point, Trouble};

/// The secret of the harness: random-looking, of no worth.
const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
/// The log's, likewise.
const SEED: &str = "5f60718293a4b5c6d7e8f901a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

/// How often each trouble happens, in the short form and in the full one.
const ROUNDS: &[(Trouble, usize, usize)] = &[
    // First, while the trail is short, so that checkpoints are many.
    (Trouble::KillCheckpoint, 1, 15),
    (Trouble::Before(Point::Checkpoint), 0, 6),
    (Trouble::After(Point::Checkpoint), 1, 6),
    (Trouble::Kill, 2, 70),
    (Trouble::KillSpooled, 1, 30),
    (Trouble::KillOutage, 1, 20),
    (Trouble::KillDraining, 1, 12),
    (Trouble::Before(Point::Append), 0, 6),
    (Trouble::After(Point::Append), 1, 6),
    (Trouble::Before(Point::Reserve), 0, 6),
    (Trouble::After(Point::Reserve), 0, 6),
    (Trouble::Before(Point::Settle), 0, 6),
    (Trouble::After(Point::Settle), 1, 6),
    (Trouble::Before(Point::Move), 0, 6),
    (Trouble::After(Point::Move), 1, 6),
    (Trouble::Before(Point::Drain), 0, 6),
    (Trouble::After(Point::Drain), 1, 6),
    (Trouble::StopFast, 1, 10),
    (Trouble::StopImmediate, 1, 10),
    (Trouble::Hang, 1, 8),
    (Trouble::CutAfterCommit, 1, 12),
    (Trouble::ClockForward, 1, 5),
    (Trouble::ClockBack, 1, 5),
];
/// The same, where disks are small.
const SMALL_JOURNALS: (Trouble, usize, usize) = (Trouble::JournalDiskFull, 1, 6);
const SMALL_SERVER: (Trouble, usize, usize) = (Trouble::ServerDiskFull, 1, 6);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Some(orders) = Orders::received() {
        runtime.block_on(child::run(orders));
        return ExitCode::SUCCESS;
    }
    // As the test runner of the toolchain is asked: what a filter leaves out is not run.
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked.iter().any(|a| a == "--list") {
        println!("crash: test");
        return ExitCode::SUCCESS;
    }
    let full = asked.iter().any(|a| a == "--full");
    let words: Vec<&str> = asked
        .iter()
        .map(String::as_str)
        .filter(|a| !a.starts_with('-'))
        .collect();
    if !full && words.iter().any(|word| !"crash".contains(word)) {
        return ExitCode::SUCCESS;
    }
    if let Some(ended) = site::among_mounts_of_its_own() {
        return ended;
    }
    let plan = Plan {
        full,
        word: words.first().copied().filter(|_| full).unwrap_or_default(),
    };
    runtime.block_on(harness(&plan))
}

/// What is asked for.
struct Plan<'a> {
    full: bool,
    /// In the names of troubles.
    word: &'a str,
}

impl Plan<'_> {
    fn rounds(&self, (trouble, short, full): (Trouble, usize, usize)) -> usize {
        match (trouble.name().contains(self.word), self.full) {
            (false, _) => 0,
            (true, false) => short,
            (true, true) => full,
        }
    }

    async fn run(&self, site: &Site, what: (Trouble, usize, usize), tally: &mut Tally) {
        for _ in 0..self.rounds(what) {
            Round::new(site, what.0).run(tally).await;
        }
    }
}

async fn harness(plan: &Plan<'_>) -> ExitCode {
    let began = Instant::now();
    let directory = std::env::temp_dir().join(format!("portcullis-crash-{}", std::process::id()));
    let site = Site::new(&directory).await;
    let mut books = Vec::new();
    let mut tally = Tally::default();
    for trouble in ROUNDS {
        plan.run(&site, *trouble, &mut tally).await;
    }
    let mut sites = vec![&site];
    let small;
    if site::may_mount() {
        small = site.with_small_journals(&directory.join("small"));
        plan.run(&small, SMALL_JOURNALS, &mut tally).await;
        sites.push(&small);
    }
    let counts = Counts::take(&sites, &tally).await;
    books.push((tally, counts));
    if site::may_mount() && plan.rounds(SMALL_SERVER) > 0 {
        let small = Site::small(&directory.join("small-server")).await;
        let mut tally = Tally::default();
        plan.run(&small, SMALL_SERVER, &mut tally).await;
        let counts = Counts::take(&[&small], &tally).await;
        books.push((tally, counts));
        small.server.end().await;
    }
    println!("\n{}", table::table(&books));
    println!("in {} s", began.elapsed().as_secs());
    if !site::may_mount() {
        println!("NOT RUN: full disks, of the journal and of the server; their mounts take root");
    }
    site.server.clone().end().await;
    let _ = std::fs::remove_dir_all(&directory);
    if books.iter().all(|(tally, counts)| counts.is_fine(tally)) {
        ExitCode::SUCCESS
    } else {
        println!("NOT FINE");
        ExitCode::FAILURE
    }
}

fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

fn log_key() -> LogKey {
    LogKey::new("audit.example/crash", &Secret::parse(SEED).unwrap()).unwrap()
}
