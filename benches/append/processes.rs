//! Four processes: with a chain each, and sharing one.

use std::process::Stdio;
use std::time::Duration;

use portcullis::audit::{Audit, AuditKeys};
use portcullis::{Database, Secret, TenantId};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::process::Command;

use super::{ROUNDS, SECRET, beside, ceiling, connect, log, run};

const ROLE: &str = "PORTCULLIS_BENCH_ROLE";
const PLACE: &str = "PORTCULLIS_BENCH_PLACE";
const PROCESSES: usize = 4;
const CALLERS: usize = 16;
const LENGTH: Duration = Duration::from_secs(2);

/// What a child process is to measure; `None` in the parent.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

pub(crate) async fn child(role: String) {
    let place = std::env::var(PLACE).unwrap();
    let mut parts = place.split('\n');
    let mut next = || parts.next().unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .host(next())
        .port(next().parse().unwrap())
        .username(next())
        .database("portcullis_bench");
    let measured = if role == "shared" {
        let queue = ceiling::start_shared(connect(&options).await);
        run(CALLERS, LENGTH / 8, |rows| {
            ceiling::copy(queue.clone(), rows)
        })
        .await;
        run(CALLERS, LENGTH, |rows| ceiling::copy(queue.clone(), rows)).await
    } else if role == "verify" {
        let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
        let audit = Audit::open(&Database::options(options), keys, TenantId::single())
            .await
            .unwrap();
        return beside::verify(&audit).await;
    } else {
        let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
        let audit = Audit::open(&Database::options(options), keys, TenantId::single())
            .await
            .unwrap();
        run(CALLERS, LENGTH / 8, |events| log(audit.clone(), events)).await;
        let measured = run(CALLERS, LENGTH, |events| log(audit.clone(), events)).await;
        audit.shutdown().await;
        measured
    };
    println!(
        "{} {}",
        measured.micros.len(),
        measured.micros[measured.micros.len() / 2]
    );
}

pub(crate) async fn measure(options: &PgConnectOptions) {
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        shared.push(round(options, "shared").await);
        own.push(round(options, "own").await);
    }
    for (name, runs) in [("sharing a chain", &mut shared), ("a chain each", &mut own)] {
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, p50) = runs[runs.len() / 2];
        println!(
            "{PROCESSES} processes, {name}: {rate:.0} events/s, p50 {:.2} ms",
            p50 / 1e3
        );
    }
    let (own, shared) = (own[own.len() / 2].0, shared[shared.len() / 2].0);
    assert_whole(&mut connect(options).await).await;
    println!(
        "figure append/4-processes {own:.0} events/s ceiling {shared:.0} ratio {:.2}",
        own / shared
    );
}

/// What makes a child of this program measure `role`, on the server that `options` name.
pub(crate) fn environment(options: &PgConnectOptions, role: &str) -> [(&'static str, String); 2] {
    let host = match options.get_socket() {
        Some(directory) => directory.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let place = format!("{host}\n{}\n{}", options.get_port(), options.get_username());
    [(ROLE, role.to_owned()), (PLACE, place)]
}

/// Events a second of all processes together, and the mean of their medians in microseconds.
async fn round(options: &PgConnectOptions, role: &str) -> (f64, f64) {
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .envs(environment(options, role))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let (mut events, mut p50) = (0.0, 0.0);
    for child in children {
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let mut numbers = text.split_whitespace().map(|n| n.parse::<f64>().unwrap());
        events += numbers.next().unwrap();
        p50 += numbers.next().unwrap();
    }
    (events / LENGTH.as_secs_f64(), p50 / PROCESSES as f64)
}

/// No forks and no gaps: every chain has as many entries as its head says.
async fn assert_whole(connection: &mut PgConnection) {
    let (chains, broken): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE e.entries <> c.next_seq - 1 OR e.last <> c.next_seq - 1 OR c.stopped)
           FROM portcullis.chains c
           JOIN (SELECT tenant_id, chain_no, count(*) AS entries, max(seq) AS last
                   FROM portcullis.entries GROUP BY tenant_id, chain_no) e USING (tenant_id, chain_no)",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    assert_eq!(broken, 0);
    println!("{chains} chains, no fork, no gap");
}
