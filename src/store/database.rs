//! Which Postgres, and how to reach it.

use std::fmt;
#[cfg(feature = "embedded")]
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::OnceCell;

#[cfg(feature = "embedded")]
use super::embedded::{Cluster, EmbeddedError};
use super::{MigrateError, Migrated, Migration, StoreError, StoreFault, statement};
use crate::error::ErrorKind;

/// Where the URL of the database is looked for, first name first.
const URL_VARIABLES: [&str; 2] = ["PORTCULLIS_DATABASE_URL", "DATABASE_URL"];

/// The Postgres that everything is kept in. Cheap to clone; clones share one pool.
///
/// Nothing is opened before it is needed, and the environment is read by
/// [`from_env`](Self::from_env) only.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::Database;
///
/// let database = Database::url("postgres://app@localhost/app").pool_size(20);
/// database.migrate().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    source: Source,
    settings: Settings,
    /// The database itself, behind the pooler that `source` names.
    direct: Option<Arc<str>>,
    opened: Arc<OnceCell<Opened>>,
}

#[derive(Clone)]
enum Source {
    Url(Arc<str>),
    Options(Box<PgConnectOptions>),
    Pool(PgPool),
    #[cfg(feature = "embedded")]
    Embedded(PathBuf),
}

/// How long to wait, and for how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pool_size: u32,
    acquire: Duration,
    statement: Duration,
    pooled: bool,
}

struct Opened {
    pool: PgPool,
    #[cfg(feature = "embedded")]
    _cluster: Option<Cluster>,
}

impl Database {
    /// The database at `url` (`postgres://user:password@host/name`), over a pool of our own.
    #[must_use]
    pub fn url(url: impl AsRef<str>) -> Self {
        Self::of(Source::Url(Arc::from(url.as_ref())))
    }

    /// The database that `options` describe, over a pool of our own.
    #[must_use]
    pub fn options(options: PgConnectOptions) -> Self {
        Self::of(Source::Options(Box::new(options)))
    }

    /// The host's own pool, shared.
    ///
    /// The audit writer opens its own connections with the pool's options, so that a busy pool
    /// starves no evidence; so do the statements of budgets, one or two, so that they are planned once.
    ///
    /// Its sessions keep their own settings. With `synchronous_commit` off, a crash of the server can
    /// lose reservations that were acknowledged; a pool of our own sets it on.
    #[must_use]
    pub fn pool(pool: PgPool) -> Self {
        Self::of(Source::Pool(pool))
    }

    /// A private Postgres in `directory`, started when it is first needed and stopped with the
    /// process. Reads no environment: nobody's real database is touched.
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded(directory: impl Into<PathBuf>) -> Self {
        Self::of(Source::Embedded(directory.into()))
    }

    /// The database that `PORTCULLIS_DATABASE_URL`, or else `DATABASE_URL`, names.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NoUrl`] if neither is set.
    pub fn from_env() -> Result<Self, DatabaseError> {
        URL_VARIABLES
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()))
            .map(Self::url)
            .ok_or(DatabaseError::NoUrl)
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            settings: Settings {
                pool_size: 15,
                acquire: Duration::from_secs(3),
                statement: Duration::from_secs(5),
                pooled: false,
            },
            direct: None,
            opened: Arc::default(),
        }
    }

    /// The most connections of our pool (15). A host's pool keeps its own size.
    #[must_use]
    pub fn pool_size(mut self, connections: u32) -> Self {
        self.settings.pool_size = connections.max(2);
        self
    }

    /// How long to wait for a free connection of our pool (3 s).
    #[must_use]
    pub fn acquire_timeout(mut self, wait: Duration) -> Self {
        self.settings.acquire = wait;
        self
    }

    /// How long one operation may take, retries included (5 s): at least 10 ms, at most an hour. The
    /// server is told too, over connections of our own, so that what we gave up on does not go on
    /// there.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.settings.statement = limit.clamp(Duration::from_millis(10), Duration::from_hours(1));
        self
    }

    /// Tells that PgBouncer, or another pooler that gives a session out for one transaction at a
    /// time, stands in between.
    ///
    /// Every statement is then unnamed and in a transaction, which sets its own limits: six round
    /// trips instead of one, so go past the pooler where you can. Over a host's
    /// [`pool`](Self::pool), a pool of our own is opened with its options. Without this, `connect`
    /// refuses such a pooler in front of a pool of our own; in front of a host's, it cannot tell.
    #[must_use]
    pub fn pooled(mut self) -> Self {
        self.settings.pooled = true;
        self
    }

    /// The URL of the database itself, past the pooler, for the one connection that hears of changes
    /// (`LISTEN`). Without it, through a pooler, halts, approvals and policies of other processes are
    /// found by polling, within a second.
    #[must_use]
    pub fn direct_url(mut self, url: impl AsRef<str>) -> Self {
        self.direct = Some(Arc::from(url.as_ref()));
        self
    }

    /// Creates or updates the schema `portcullis`. Idempotent; safe when many processes do it.
    ///
    /// # Errors
    ///
    /// [`MigrateError`] says what is in the way.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: all migrations are one transaction.
    pub async fn migrate(&self) -> Result<Migrated, MigrateError> {
        Migration::new(self).run().await
    }

    /// The pool, opened at first use.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the URL is none, or the embedded cluster cannot be started. Whether the
    /// server can be reached shows at the first statement.
    pub async fn connect_pool(&self) -> Result<PgPool, DatabaseError> {
        let opened = self.opened.get_or_try_init(|| self.open()).await?;
        Ok(opened.pool.clone())
    }

    /// How to connect past the pooler, if that was told.
    pub(crate) fn direct_options(&self) -> Result<Option<PgConnectOptions>, DatabaseError> {
        let Some(url) = &self.direct else {
            return Ok(None);
        };
        let options = PgConnectOptions::from_str(url).map_err(|_| DatabaseError::InvalidUrl)?;
        Ok(Some(options.application_name("portcullis")))
    }

    pub(crate) const fn deadline(&self) -> Duration {
        self.settings.statement
    }

    pub(crate) const fn is_pooled(&self) -> bool {
        self.settings.pooled
    }

    /// Refuses a pooler that nobody told of.
    pub(crate) async fn check_pooler(&self) -> Result<(), DatabaseError> {
        if self.settings.pooled || matches!(self.source, Source::Pool(_)) {
            return Ok(());
        }
        // One that does not refuse what a connection of ours sets at its start must have dropped it.
        let pool = self.connect_pool().await?;
        if statement::keeps_settings(&pool, self.settings.statement).await? {
            Ok(())
        } else {
            Err(StoreError::new("check for a pooler", StoreFault::Pooler).into())
        }
    }

    #[cfg_attr(
        not(feature = "embedded"),
        expect(
            clippy::unused_async,
            reason = "only the embedded cluster has to be waited for"
        )
    )]
    async fn open(&self) -> Result<Opened, DatabaseError> {
        match &self.source {
            Source::Url(url) => {
                let options =
                    PgConnectOptions::from_str(url).map_err(|_| DatabaseError::InvalidUrl)?;
                Ok(Opened::plain(self.pool_over(options)))
            }
            Source::Options(options) => Ok(Opened::plain(self.pool_over((**options).clone()))),
            Source::Pool(pool) if self.settings.pooled => {
                let options = (*pool.connect_options()).clone();
                Ok(Opened::plain(self.pool_over(options)))
            }
            Source::Pool(pool) => Ok(Opened::plain(pool.clone())),
            #[cfg(feature = "embedded")]
            Source::Embedded(directory) => {
                let cluster = Cluster::start(directory).await?;
                Ok(Opened {
                    pool: self.pool_over(cluster.options("postgres")),
                    _cluster: Some(cluster),
                })
            }
        }
    }

    fn pool_over(&self, options: PgConnectOptions) -> PgPool {
        let options = options.application_name("portcullis");
        let pool = PgPoolOptions::new();
        let (options, pool) = if self.settings.pooled {
            // A pooler refuses what it cannot keep apart; transactions set it instead.
            let options = options.extra_float_digits(None).statement_cache_capacity(0);
            (options, pool)
        } else {
            let limit = self.settings.statement;
            let idle = statement::longest_idle(limit).as_millis().to_string();
            let limit = limit.as_millis().to_string();
            let options = options.options([
                ("statement_timeout", limit.as_str()),
                ("idle_in_transaction_session_timeout", idle.as_str()),
            ]);
            let pool = pool
                .after_connect(|connection, _| Box::pin(statement::prepare_session(connection)));
            (options, pool)
        };
        pool.max_connections(self.settings.pool_size)
            .acquire_timeout(self.settings.acquire)
            .connect_lazy_with(options)
    }
}

impl Opened {
    fn plain(pool: PgPool) -> Self {
        Self {
            pool,
            #[cfg(feature = "embedded")]
            _cluster: None,
        }
    }
}

impl fmt::Debug for Database {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Url(_) => "url",
            Source::Options(_) => "options",
            Source::Pool(_) => "pool",
            #[cfg(feature = "embedded")]
            Source::Embedded(_) => "embedded",
        };
        f.debug_struct("Database")
            .field("source", &source)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The environment names none.
    #[error(
        "no database; set PORTCULLIS_DATABASE_URL or DATABASE_URL to postgres://user@host/name"
    )]
    NoUrl,
    /// The URL is none. It is not repeated, because it may hold a password.
    #[error(
        "invalid database URL; write postgres://user:password@host:5432/name, with special characters percent-encoded"
    )]
    InvalidUrl,
    /// The embedded cluster could not be started.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The server could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DatabaseError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoUrl | Self::InvalidUrl => ErrorKind::Misuse,
            #[cfg(feature = "embedded")]
            Self::Embedded(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
