//! Where a round takes place: a server, a directory for journals, and disks that are small.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use portcullis::audit::JournalSettings;
use portcullis::cost::Budget;
use portcullis::store::embedded::{Cluster, DatabaseName, Durability};
use portcullis::{AgentId, Database, Governance, Usd};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use crate::child::AGENT;
use crate::gates::{people, spend};
use crate::keys;
use crate::server::Server;

const INSIDE: &str = "PORTCULLIS_CRASH_MOUNTS";
const DATABASE: &str = "crash";

/// A server, and where the journals of its clients are.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) journals: PathBuf,
    /// Whether a journal's line may end where its disk does.
    pub(crate) journals_are_small: bool,
    /// The server's disk, if it is a small one.
    disk: Option<PathBuf>,
}

impl Site {
    /// A server below `directory`, ready to be used.
    pub(crate) async fn new(directory: &Path) -> Self {
        let cluster = Cluster::start_with(directory.join("postgres"), Durability::Full)
            .await
            .unwrap();
        let name: DatabaseName = DATABASE.parse().unwrap();
        cluster.ensure_database(&name).await.unwrap();
        let site = Self {
            server: Server::new(cluster, DATABASE),
            journals: directory.join("journals"),
            journals_are_small: false,
            disk: None,
        };
        let database = Database::options(site.server.options());
        database.migrate().await.unwrap();
        let gov = site.governance().await;
        let agent = AgentId::parse(AGENT).unwrap();
        gov.cost()
            .register(Budget::for_agent(agent).per_session(Usd::dollars(2)))
            .await
            .unwrap();
        gov.shutdown().await;
        site
    }

    /// Puts in force what the rounds about gates need.
    pub(crate) async fn with_gates(&self) {
        let gov = self.governance().await;
        for budget in spend::budgets() {
            gov.cost().register(budget).await.unwrap();
        }
        gov.gates().register(people::policy()).await.unwrap();
        gov.shutdown().await;
    }

    /// A server with a small disk at `disk`.
    pub(crate) async fn small(disk: &Path) -> Self {
        mount(disk, "300m");
        let mut site = Self::new(disk).await;
        // Its clients have another one.
        site.journals = disk.with_extension("journals");
        site.disk = Some(disk.to_owned());
        let mut connection = site.server.options().connect().await.unwrap();
        for sql in [
            "ALTER SYSTEM SET max_wal_size = '64MB'",
            "SELECT pg_reload_conf()",
        ] {
            connection.execute(sql).await.unwrap();
        }
        connection.close().await.unwrap();
        site
    }

    /// The same server, with journals on a disk that is soon full.
    pub(crate) fn with_small_journals(&self, disk: &Path) -> Self {
        mount(disk, "256k");
        Self {
            server: self.server.clone(),
            journals: disk.join("journals"),
            journals_are_small: true,
            disk: None,
        }
    }

    /// A handle of the harness' own, with nothing in the way.
    pub(crate) async fn governance(&self) -> Governance {
        Governance::builder(Database::options(self.server.options()), keys())
            .journal(JournalSettings::in_directory(&self.journals).on_request())
            .connect()
            .await
            .unwrap()
    }

    /// Leaves no room on the server's disk until the value is dropped.
    pub(crate) fn fill(&self) -> Filler {
        let path = self.disk.as_ref().unwrap().join("filler");
        let mut file = File::create(&path).unwrap();
        let block = [0; 4096];
        while file.write_all(&block).is_ok() {}
        Filler(path)
    }
}

/// What takes all the room.
pub(crate) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn mount(disk: &Path, size: &str) {
    fs::create_dir_all(disk).unwrap();
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
        .arg(disk)
        .status();
    assert!(done.unwrap().success(), "a small disk can be mounted");
}

/// Whether this process may mount what nobody else sees.
pub(crate) fn may_mount() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Begins again where mounts are nobody else's business, and go with us. Where that is not allowed,
/// it returns.
pub(crate) fn among_mounts_of_its_own() -> Option<ExitCode> {
    if may_mount() {
        return None;
    }
    let mount_here = ["--mount", "--propagation", "private"];
    let allowed = Command::new("unshare")
        .args(mount_here)
        .args(["sh", "-c", "mount -t tmpfs none /mnt"])
        .output()
        .is_ok_and(|tried| tried.status.success());
    if !allowed {
        return None;
    }
    let failed = Command::new("unshare")
        .args(mount_here)
        .arg(std::env::current_exe().ok()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    println!("{failed}");
    Some(ExitCode::FAILURE)
}
