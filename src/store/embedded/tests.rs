//! Real processes, killed for real.
//!
//! The processes that are killed are this test binary again, running [`child`].

mod databases;
mod download;
mod lifetime;
mod places;

use super::{Cluster, DatabaseName, Durability, EmbeddedError};
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-test-{}-{count}", std::process::id());
        let path = Path::new("/var/tmp").join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn dir(&self) -> PathBuf {
        self.0.join("cluster")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A server of a killed host may still be writing its last.
        for _ in 0..100 {
            if fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Another process with a cluster; killed when dropped.
struct Host {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Host {
    fn spawn(dir: &Path, role: &str) -> Self {
        Self::spawn_with(dir, role, &std::env::current_exe().unwrap(), |_| {})
    }

    fn spawn_with(dir: &Path, role: &str, exe: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(exe);
        command
            .args(["store::embedded::tests::child", "--exact", "--nocapture"])
            .env("EMBEDDED_TEST_DIR", dir)
            .env("EMBEDDED_TEST_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        adjust(&mut command);
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// The rest of the next line that begins with `word`; empty at the end of the output.
    fn hear(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once(&format!("@{word}")) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        String::new()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other process. Says what it does on its output, in words that begin with `@`.
#[tokio::test]
async fn child() {
    let Some(dir) = std::env::var_os("EMBEDDED_TEST_DIR") else {
        return;
    };
    let role = std::env::var("EMBEDDED_TEST_ROLE").unwrap();
    let durability = match role.as_str() {
        "rows" => Durability::Full,
        _ => Durability::Throwaway,
    };
    let cluster = match Cluster::start_with(dir, durability).await {
        Ok(cluster) => cluster,
        Err(error) => {
            println!("\n@error {error}");
            return;
        }
    };
    println!(
        "\n@ready {} {}",
        cluster.is_owner(),
        cluster.directory().display()
    );
    if role == "rows" {
        let mut connection = connect(&cluster).await;
        for row in 0.. {
            sqlx::query("insert into rows values ($1)")
                .bind(row)
                .execute(&mut connection)
                .await
                .unwrap();
            println!("@row {row}");
        }
    }
    // Until the parent lets go or kills.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
    println!("@owner {}", cluster.is_owner());
    drop(cluster);
}

async fn connect(cluster: &Cluster) -> PgConnection {
    let mut connection = cluster.options("postgres").connect().await.unwrap();
    sqlx::query("create table if not exists rows (row int primary key)")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

async fn count(cluster: &Cluster) -> i64 {
    let mut connection = connect(cluster).await;
    sqlx::query_scalar("select count(*) from rows")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

/// The processes that have `dir` in their command line or as their working directory.
fn processes_of(dir: &Path) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if inside || line.contains(&*dir.to_string_lossy()) {
            found.push((pid, line));
        }
    }
    found
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within ten seconds: {what}");
}

async fn wait_until_gone(dir: &Path) {
    let mut left = Vec::new();
    for _ in 0..500 {
        left = processes_of(dir);
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within ten seconds: no process is left of {left:?}");
}

/// `kill -<signal> <pid>`.
fn signal(signal: &str, pid: u32) {
    let pid = pid.to_string();
    assert!(
        Command::new("/bin/sh")
            .args(["-c", "kill \"$@\"", "sh", signal, &pid])
            .status()
            .unwrap()
            .success()
    );
}

fn is_root() -> bool {
    super::account::current_uid() == Some(0)
}

async fn throwaway(dir: &Path) -> Cluster {
    match Cluster::start_with(dir, Durability::Throwaway).await {
        Ok(cluster) => cluster,
        Err(error) => {
            let log = fs::read_to_string(dir.join("log"));
            panic!("{error}\n{}", log.unwrap_or_default());
        }
    }
}
