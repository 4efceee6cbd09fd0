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
//! has a fork or a gap, if a checkpoint was given out that the last one does not go on from, if a
//! budget's promise was broken, if an approval was used twice, or if a call began after a halt and its
//! bound. Moments are random; what is counted is not.
//!
//! Full disks take root, for their mounts. Where that is not given, the table says that they were left
//! out. Words beside `--full` choose the troubles that have one of them in their names.

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
mod gates;
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

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use portcullis::tlog::LogKey;
use portcullis::{AuditKeys, Secret};

use crate::count::Counts;
use crate::gates::Books;
use crate::orders::Orders;
use crate::round::{Round, Watching};
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
    (Trouble::Kill, 2, 45),
    (Trouble::KillSpooled, 1, 20),
    (Trouble::KillOutage, 1, 15),
    (Trouble::KillDraining, 1, 8),
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

/// How many are killed in one relay of the full form.
const RELAY: usize = 30;

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
        words: if full { words } else { Vec::new() },
    };
    runtime.block_on(harness(&plan))
}

/// What is asked for.
struct Plan<'a> {
    full: bool,
    /// Any of them is in the names of troubles.
    words: Vec<&'a str>,
}

impl Plan<'_> {
    fn rounds(&self, (trouble, short, full): (Trouble, usize, usize)) -> usize {
        let name = trouble.name();
        let chosen = self.words.iter().any(|word| name.contains(word));
        match (chosen || self.words.is_empty(), self.full) {
            (false, _) => 0,
            (true, false) => short,
            (true, true) => full,
        }
    }

    /// One round after the other, or two at a time.
    async fn run(
        &self,
        site: &Site,
        what: (Trouble, usize, usize),
        by_twos: bool,
        tally: &Mutex<Tally>,
    ) {
        let mut left = self.rounds(what);
        while left > 0 {
            let two = by_twos && left > 1;
            let relay = if self.full { RELAY } else { RELAY / 4 };
            let round = || Box::pin(Round::new(site, what.0, relay).run(tally));
            if two {
                tokio::join!(round(), round());
            } else {
                round().await;
            }
            left -= 1 + usize::from(two);
        }
    }
}

async fn harness(plan: &Plan<'_>) -> ExitCode {
    let began = Instant::now();
    let directory = std::env::temp_dir().join(format!("portcullis-crash-{}", std::process::id()));
    // Beside each other: each has a server of its own.
    let beside = directory.join("gates");
    let (books, of_gates) = tokio::join!(trail(plan, &directory), of_gates(plan, &beside));
    println!("\n{}", table::table(&books));
    println!("\n{}", table::of_gates(&of_gates));
    println!("in {} s", began.elapsed().as_secs());
    if !site::may_mount() {
        println!("NOT RUN: full disks, of the journal and of the server; their mounts take root");
    }
    let _ = std::fs::remove_dir_all(&directory);
    let (tally, counts, gates) = &of_gates;
    let fine = books.iter().all(|(tally, counts)| counts.is_fine(tally))
        && counts.is_fine(tally)
        && gates.is_fine();
    if fine {
        ExitCode::SUCCESS
    } else {
        println!("NOT FINE");
        ExitCode::FAILURE
    }
}

/// The rounds about the trail and about exact budgets.
async fn trail(plan: &Plan<'_>, directory: &Path) -> Vec<(Tally, Counts)> {
    let site = Site::new(directory).await;
    let mut books = Vec::new();
    let tally = Mutex::new(Tally::default());
    for trouble in ROUNDS {
        plan.run(&site, *trouble, false, &tally).await;
    }
    let mut sites = vec![&site];
    let small;
    if site::may_mount() {
        small = site.with_small_journals(&directory.join("small"));
        plan.run(&small, SMALL_JOURNALS, false, &tally).await;
        sites.push(&small);
    }
    let tally = tally.into_inner().unwrap();
    let counts = Counts::take(&sites, &tally).await;
    books.push((tally, counts));
    if site::may_mount() && plan.rounds(SMALL_SERVER) > 0 {
        let small = Site::small(&directory.join("small-server")).await;
        let tally = Mutex::new(Tally::default());
        plan.run(&small, SMALL_SERVER, false, &tally).await;
        let tally = tally.into_inner().unwrap();
        let counts = Counts::take(&[&small], &tally).await;
        books.push((tally, counts));
        small.server.end().await;
    }
    site.server.clone().end().await;
    books
}

/// The rounds about gates.
async fn of_gates(plan: &Plan<'_>, directory: &Path) -> (Tally, Counts, Books) {
    let site = Site::new(directory).await;
    site.with_gates().await;
    let tally = Mutex::new(Tally::default());
    let watch = Watching::start(&site);
    for trouble in gates::ROUNDS {
        let by_twos = matches!(trouble.0, Trouble::Relay(_));
        plan.run(&site, *trouble, by_twos, &tally).await;
    }
    watch.end(&tally).await;
    let mut tally = tally.into_inner().unwrap();
    let books = Books::take(&site, &mut tally.told).await;
    let counts = Counts::take(&[&site], &tally).await;
    site.server.clone().end().await;
    (tally, counts, books)
}

fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

fn log_key() -> LogKey {
    LogKey::new("audit.example/crash", &Secret::parse(SEED).unwrap()).unwrap()
}
