//! A fresh, migrated database in one line, for the tests of host applications and for ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::OnceCell;

use super::embedded::{Cluster, Durability};
use super::{Database, DatabaseError, MigrateError, StoreError, migrate};

/// The server that tests may create databases on; without it, an embedded cluster is started.
const SERVER_VARIABLE: &str = "PORTCULLIS_TEST_DATABASE_URL";

/// The directory of a throw-away cluster ends with the number of the process it belongs to.
const SCRATCH_PREFIX: &str = "portcullis-test-";

static SERVER: OnceCell<Server> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

struct Server {
    options: PgConnectOptions,
    template: String,
    _cluster: Option<Cluster>,
}

/// A database of its own for one test, migrated, dropped when the value is.
///
/// The first one of a process starts a throw-away Postgres (or uses the server that
/// `PORTCULLIS_TEST_DATABASE_URL` names) and migrates a template; each one is a copy of it, which
/// takes about a tenth of a second.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::store::TestDatabase;
///
/// let test = TestDatabase::fresh().await?;
/// let pool = test.database().connect_pool().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestDatabase {
    options: PgConnectOptions,
    database: Database,
    dropper: Arc<Dropper>,
}

impl TestDatabase {
    /// A fresh copy of the migrated schema.
    ///
    /// # Errors
    ///
    /// [`MigrateError`] if no server can be found or started, or the template cannot be made.
    pub async fn fresh() -> Result<Self, MigrateError> {
        let server = SERVER.get_or_try_init(Server::start).await?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis_test_{}_{number}", std::process::id());
        let mut admin = server.connect().await?;
        create(&mut admin, &name, Some(&server.template)).await?;
        let options = server.options.clone().database(&name);
        Ok(Self {
            database: Database::options(options.clone()),
            dropper: Arc::new(Dropper {
                options: server.options.clone(),
                name,
            }),
            options,
        })
    }

    /// The database, for [`Governance::builder`](crate::Governance::builder).
    #[must_use]
    pub fn database(&self) -> Database {
        self.database.clone()
    }

    /// How to connect to it.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.dropper.name
    }
}

impl Server {
    async fn start() -> Result<Self, MigrateError> {
        let (options, cluster) = if let Ok(url) = std::env::var(SERVER_VARIABLE) {
            (url.parse().map_err(|_| DatabaseError::InvalidUrl)?, None)
        } else {
            let cluster = Cluster::start_with(scratch_directory(), Durability::Throwaway)
                .await
                .map_err(DatabaseError::from)?;
            (cluster.options("postgres"), Some(cluster))
        };
        let mut server = Self {
            options,
            template: String::new(),
            _cluster: cluster,
        };
        server.template = server.make_template().await?;
        Ok(server)
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        self.options
            .connect()
            .await
            .map_err(StoreError::during("connect to the test server"))
    }

    /// Migrates a template once per server and set of migrations.
    async fn make_template(&self) -> Result<String, MigrateError> {
        let template = format!("portcullis_template_{}", migrate::fingerprint());
        let mut admin = self.connect().await?;
        let during = StoreError::during;
        // Several test binaries may share one server. A session lock is enough for tests.
        sqlx::query("SELECT pg_advisory_lock(7102)")
            .execute(&mut admin)
            .await
            .map_err(during("lock the test template"))?;
        let ready: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1 AND datistemplate)",
        )
        .bind(&template)
        .fetch_one(&mut admin)
        .await
        .map_err(during("look for the test template"))?;
        if !ready {
            drop_database(&mut admin, &template).await?;
            create(&mut admin, &template, None).await?;
            let database = Database::options(self.options.clone().database(&template));
            database.migrate().await?;
            database.connect_pool().await?.close().await;
            identifier(
                &mut admin,
                "ALTER DATABASE ",
                &template,
                " IS_TEMPLATE true",
            )
            .await
            .map_err(during("mark the test template"))?;
        }
        admin
            .close()
            .await
            .map_err(during("leave the test server"))?;
        Ok(template)
    }
}

/// Where the throw-away cluster of this process lives.
fn scratch_directory() -> PathBuf {
    let base = PathBuf::from(if cfg!(target_os = "macos") {
        "/private/tmp"
    } else {
        "/var/tmp"
    });
    remove_leftovers(&base);
    base.join(format!("{SCRATCH_PREFIX}{}", std::process::id()))
}

/// Removes the clusters of test processes that have ended: a process cannot remove its own, since
/// the server outlives it by a moment.
fn remove_leftovers(base: &Path) {
    // Where processes cannot be looked up by number, nothing is removed.
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(SCRATCH_PREFIX)?.parse::<u32>().ok());
        if number.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

async fn create(
    admin: &mut PgConnection,
    name: &str,
    template: Option<&str>,
) -> Result<(), StoreError> {
    let made = match template {
        Some(template) => {
            let tail = format!(" TEMPLATE {template}");
            identifier(admin, "CREATE DATABASE ", name, &tail).await
        }
        None => {
            identifier(
                admin,
                "CREATE DATABASE ",
                name,
                " ENCODING 'UTF8' TEMPLATE template0",
            )
            .await
        }
    };
    made.map_err(StoreError::during("create a test database"))
}

async fn drop_database(admin: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    identifier(admin, "DROP DATABASE IF EXISTS ", name, " WITH (FORCE)")
        .await
        .map_err(StoreError::during("drop a test database"))
}

/// Runs a statement around the name of a database, which cannot be a bind parameter.
//
// INVARIANT: every name here is made above from a process id, a counter or a hash: lower-case
// letters, digits and `_`.
async fn identifier(
    admin: &mut PgConnection,
    head: &str,
    name: &str,
    tail: &str,
) -> Result<(), sqlx::Error> {
    let text = sqlx::AssertSqlSafe(format!("{head}{name}{tail}"));
    sqlx::query(text).execute(admin).await.map(drop)
}

/// Drops the database with the last handle, from a thread, since dropping cannot wait.
#[derive(Debug)]
struct Dropper {
    options: PgConnectOptions,
    name: String,
}

impl Drop for Dropper {
    fn drop(&mut self) {
        let (options, name) = (self.options.clone(), std::mem::take(&mut self.name));
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    if let Ok(mut admin) = options.connect().await {
                        let _ = drop_database(&mut admin, &name).await;
                    }
                });
            }
        };
        // Waiting keeps dropped databases from piling up behind a fast test suite.
        let _ = std::thread::spawn(work).join();
    }
}
