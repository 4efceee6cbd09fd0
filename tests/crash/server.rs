//! The server, and what can be done to it from outside.

use std::process::Command;
use std::time::Duration;

use portcullis::store::embedded::Cluster;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

/// A Postgres of the harness' own. Its supervisor starts it again when it has ended.
#[derive(Clone)]
pub(crate) struct Server {
    cluster: Cluster,
    database: &'static str,
}

impl Server {
    pub(crate) fn new(cluster: Cluster, database: &'static str) -> Self {
        Self { cluster, database }
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.cluster
            .options(self.database)
            .disable_statement_logging()
    }

    pub(crate) fn url(&self) -> String {
        self.cluster.url(self.database)
    }

    /// Stops it as `pg_ctl stop` would: `INT` is fast, `QUIT` is immediate. It comes back by itself.
    pub(crate) async fn stop(&self, signal: &str) {
        let pid = self.pid();
        signal_to(signal, &[pid]);
        while self.cluster.postmaster_pid() == Some(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.answers().await;
    }

    /// Stops every process of it where it stands, and lets them go on after `length`.
    pub(crate) async fn hang(&self, length: Duration) {
        let postmaster = self.pid();
        let backends = Command::new("pgrep")
            .args(["-P", &postmaster.to_string()])
            .output()
            .unwrap();
        let backends = String::from_utf8(backends.stdout).unwrap();
        let mut all: Vec<u32> = backends.lines().map(|pid| pid.parse().unwrap()).collect();
        all.push(postmaster);
        signal_to("STOP", &all);
        tokio::time::sleep(length).await;
        signal_to("CONT", &all);
    }

    /// Waits until it answers.
    pub(crate) async fn answers(&self) {
        loop {
            if let Ok(connection) = self.options().connect().await {
                let _ = connection.close().await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; it does not come back.
    pub(crate) async fn end(self) {
        self.cluster.stop().await;
    }

    fn pid(&self) -> u32 {
        self.cluster.postmaster_pid().expect("the server runs")
    }
}

/// Some of the processes may have ended by now, which is no fault.
pub(crate) fn signal_to(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill")
        .arg(format!("-{signal}"))
        .args(pids)
        .output();
}
