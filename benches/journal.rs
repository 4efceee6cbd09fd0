//! What an event costs while the database is away, or ahead of its commit, and how fast what was
//! written is brought into the trail.
//!
//! Defends: a known outage adds at most 5 ms to a call beside the writes and syncs that it waits for (one
//! for an entry; two for a governed call, before and after it); spooled mode costs microseconds and not
//! a commit.
//!
//! `cargo bench --bench journal` measures on a Postgres of its own, or on the server that
//! `PORTCULLIS_BENCH_DATABASE_URL` names (it creates the database `portcullis_bench_journal` there).
//! The files are in the temporary directory (`TMPDIR`): choose a disk that syncs. Rounds of bare
//! writes and ours alternate, and medians are compared: one write and sync for `append`, one write
//! for `spooled`, live appends by as many callers for `drain`.

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
#[allow(
    dead_code,
    reason = "shared with the integration tests, which use all of it"
)]
#[path = "../tests/it/common/proxy.rs"]
mod proxy;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::audit::{Audit, AuditEvent, AuditKeys, Evidence, JournalSettings, Receipt};
use portcullis::scope::ScopePolicy;
use portcullis::{
    AgentId, Call, Database, Governance, Permit, Principal, Refusal, Secret, TenantId,
};

use crate::common::Server;
use crate::proxy::Proxy;

const NAME: &str = "portcullis_bench_journal";
const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const ROUNDS: usize = 5;
const CALLS: usize = 200;
/// How many lines are drained.
const LINES: usize = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let scratch = std::env::temp_dir().join(format!("portcullis-journal-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let server = Server::start().await;
    let database = Database::options(server.database(NAME).await);
    database.migrate().await.unwrap();
    let journal = JournalSettings::in_directory(scratch.join("journal"));
    // `cargo bench --bench journal -- outage` measures only that.
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    if wanted("append") || wanted("drain") {
        append(&journal, &scratch).await;
    }
    if wanted("drain") {
        drain(&database, &journal).await;
    }
    if wanted("spooled") {
        spooled(&database, journal, &scratch).await;
    }
    if wanted("outage") {
        outage(&database, &scratch).await;
    }
    database.connect_pool().await.unwrap().close().await;
    server.stop().await;
    std::fs::remove_dir_all(&scratch).unwrap();
}

/// One caller in a known outage, beside one write and sync of a line's bytes.
async fn append(journal: &JournalSettings, scratch: &Path) {
    let audit = away(journal).await;
    let bare = Bare::new(scratch);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.syncs(&mut theirs);
        for n in 0..CALLS {
            let event = event(n);
            let began = Instant::now();
            let receipt = audit.log(event).await;
            ours.push(began.elapsed());
            assert!(matches!(receipt, Receipt::Journalled(_)), "{receipt:?}");
        }
    }
    figure("journal/append", "us", median(ours), median(theirs));
    crowd(&audit, LINES - ROUNDS * CALLS - 1).await;
    audit.shutdown().await;
}

/// A governed call while it is known that the database is away, and what it waits for in any case.
async fn outage(database: &Database, scratch: &Path) {
    let agent = || AgentId::parse("billing-agent").unwrap();
    let options = (*database.connect_pool().await.unwrap().connect_options()).clone();
    let proxy = Proxy::before(&options).await;
    let journal = JournalSettings::in_directory(scratch.join("outage"));
    let gov = Governance::builder(Database::options(proxy.options()), keys())
        .journal(journal)
        .connect()
        .await
        .unwrap();
    let policy = ScopePolicy::new(agent()).allow_tools(["send_email"]);
    gov.scope().register(policy.unwrap()).await.unwrap();
    let me = Principal::agent(agent());
    let run = async || {
        let call = Call::tool(&me, "send_email");
        let began = Instant::now();
        let done = gov.run(&call, async |_: &Permit| Ok::<_, Refusal>(()));
        done.await.unwrap();
        began.elapsed()
    };
    proxy.down();
    run().await;
    assert!(gov.audit().stats().degraded, "the outage is known");
    let bare = Bare::new(scratch);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.syncs(&mut theirs);
        for _ in 0..CALLS {
            ours.push(run().await);
        }
    }
    assert!(gov.audit().stats().degraded, "and it went on");
    let (ours, ceiling) = (median(ours) / 1e3, 2.0 * median(theirs) / 1e3);
    println!(
        "figure journal/outage {ours:.2} ms ceiling {ceiling:.2} added {:.2} ms",
        ours - ceiling
    );
}

/// A file that is written to as a journal's must be.
struct Bare(File);

impl Bare {
    fn new(scratch: &Path) -> Self {
        let path = scratch.join("bare");
        Self(
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap(),
        )
    }

    /// One round of writing and syncing the bytes of a line.
    fn syncs(&self, took: &mut Vec<Duration>) {
        let line = vec![b'x'; 700];
        for _ in 0..CALLS {
            let began = Instant::now();
            (&self.0).write_all(&line).unwrap();
            self.0.sync_data().unwrap();
            took.push(began.elapsed());
        }
    }
}

/// Records so many events by 64 callers at once.
async fn crowd(audit: &Audit, events: usize) {
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let audit = audit.clone();
            tokio::spawn(async move {
                for n in 0..events / 64 {
                    assert!(audit.log(event(n)).await.lost().is_none());
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

fn figure(name: &str, unit: &str, ours: f64, ceiling: f64) {
    println!(
        "figure {name} {ours:.1} {unit} ceiling {ceiling:.1} ratio {:.2}",
        ours / ceiling
    );
}

/// A writer whose database is known to be away.
async fn away(journal: &JournalSettings) -> Audit {
    // Nothing listens there. The name makes its journal the bench's.
    let nowhere = format!("postgres://nobody@127.0.0.1:9/{NAME}");
    let audit = Audit::open_with(
        &Database::url(nowhere),
        keys(),
        TenantId::single(),
        journal.clone(),
    )
    .await
    .unwrap();
    let _ = audit.log(event(0)).await;
    audit
}

async fn drain(database: &Database, journal: &JournalSettings) {
    let journal = journal.clone().on_request();
    let audit = Audit::open_with(database, keys(), TenantId::single(), journal)
        .await
        .unwrap();
    // The files are free a moment after their writer has gone.
    let (drained, took) = loop {
        let began = Instant::now();
        let report = audit.drain().await.unwrap();
        if report.drained > 0 {
            break (report.drained as f64, began.elapsed().as_secs_f64());
        }
        assert!(report.in_use > 0, "{report}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // As many at once, as they come.
    let began = Instant::now();
    crowd(&audit, LINES).await;
    let live = LINES as f64 / began.elapsed().as_secs_f64();
    figure("journal/drain", "events/s", drained / took, live);
    audit.shutdown().await;
}

async fn spooled(database: &Database, journal: JournalSettings, scratch: &Path) {
    let gov = Governance::builder(database.clone(), keys())
        .journal(journal)
        .evidence(Evidence::Spooled)
        .connect()
        .await
        .unwrap();
    let mut took = Vec::new();
    for n in 0..ROUNDS * CALLS {
        let event = event(n);
        let began = Instant::now();
        let receipt = gov.audit().log(event).await;
        took.push(began.elapsed());
        assert!(matches!(receipt, Receipt::Spooled(_)), "{receipt:?}");
    }
    let file = File::create(scratch.join("unsynced")).unwrap();
    let line = vec![b'x'; 700];
    let mut bare = Vec::new();
    for _ in 0..ROUNDS * CALLS {
        let began = Instant::now();
        (&file).write_all(&line).unwrap();
        bare.push(began.elapsed());
    }
    figure("journal/spooled", "us", median(took), median(bare));
    gov.shutdown().await;
}

fn event(n: usize) -> AuditEvent {
    let me = Principal::agent(AgentId::parse("billing-agent").unwrap());
    AuditEvent::new(&me, "app.tool.call.completed")
        .input(b"what went in")
        .output(b"what came out")
        .decision("allow")
        .with("caller", n)
        .with("tool", "send_email")
        .with("resource", "customer/c_381")
}

fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e6
}
