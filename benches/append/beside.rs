//! Appending while something else goes on: checkpoints, or a verification of everything.

use std::process::Stdio;

use portcullis::audit::{Audit, AuditKeys, CheckpointEvery};
use portcullis::tlog::LogKey;
use portcullis::{Database, Governance, Secret};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::cpu::Meter;
use super::{ROUND, ROUNDS, Run, SECRET, describe, log, many_callers, median, processes, run};

const CALLERS: usize = 64;
const SEED: &str = "5f60718293a4b5c6d7e8f901a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

/// As many callers, with checkpoints made by the same process, as often as they are by default.
pub(crate) async fn checkpoints(options: &PgConnectOptions, meter: &Meter) {
    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    let key = LogKey::new("audit.example/bench", &Secret::parse(SEED).unwrap()).unwrap();
    let gov = Governance::builder(Database::options(options.clone()), keys)
        .checkpoints(key, CheckpointEvery::default())
        .connect()
        .await
        .unwrap();
    // What other measurements left comes under checkpoints first; there is something, then.
    run(1, ROUND / 3, |events| log(gov.audit().clone(), events)).await;
    let size = async || {
        let note = gov.audit().last_checkpoint().await.unwrap();
        let size = note.and_then(|note| note.lines().nth(1).map(str::to_owned));
        size.map_or(0, |size| size.parse::<u64>().unwrap())
    };
    let mut before = 0;
    loop {
        let now = size().await;
        if now > 0 && now == before {
            break;
        }
        before = now;
        tokio::time::sleep(2 * ROUND).await;
    }
    many_callers(options, gov.audit(), meter, CALLERS, "-checkpoints").await;
    println!(
        "  {} entries came under checkpoints meanwhile",
        size().await - before
    );
    gov.shutdown().await;
}

/// As many callers with and without another process that verifies the whole trail, over and over.
pub(crate) async fn a_verification(options: &PgConnectOptions, audit: &Audit) {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    run(CALLERS, ROUND / 3, |events| log(audit.clone(), events)).await;
    let mut verified = 0;
    for _ in 0..ROUNDS {
        alone.push(run(CALLERS, ROUND, |events| log(audit.clone(), events)).await);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .envs(processes::environment(options, "verify"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It has begun.
        lines.next_line().await.unwrap().unwrap();
        beside.push(run(CALLERS, ROUND, |events| log(audit.clone(), events)).await);
        child.kill().await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            verified += line.parse::<u64>().unwrap_or(0);
        }
    }
    describe("append/64", &alone);
    describe("append/64 beside a verification", &beside);
    println!("  {verified} entries were verified to the end meanwhile");
    let (rate, ceiling) = (median(&beside, Run::rate), median(&alone, Run::rate));
    println!(
        "figure append/64-verifying {rate:.0} events/s ceiling {ceiling:.0} ratio {:.2}",
        rate / ceiling
    );
}

/// What that other process does, until it is killed.
pub(crate) async fn verify(audit: &Audit) {
    println!("begun");
    loop {
        let report = audit.verify_all().await.unwrap();
        assert!(report.is_clean(), "{report}");
        println!("{}", report.proved());
    }
}
