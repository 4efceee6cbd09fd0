//! The ground: one Postgres pool, the tenant, bounded retries, deadlines.
//!
//! Everything that is stored goes through a `Store`, which holds the tenant, so that no query can
//! forget it. A statement that the database aborted is tried again a few times; a lost connection
//! is, where trying twice cannot do a thing twice. Nothing waits longer than its deadline, not even
//! on a database that hangs.
//!
//! | The store is | what happens |
//! |---|---|
//! | reachable | statements run, aborted ones again |
//! | unreachable | [`StoreError`] of kind `Unavailable`, at once or at the deadline |
//! | hung | [`StoreError`] of kind `Unavailable`, at the deadline |
//! | older or newer than this crate understands | [`connect`](crate::GovernanceBuilder::connect) refuses and says what to run |

mod database;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod health;
mod migrate;
mod notices;
mod policies;
mod schema;
mod session;
mod statement;
#[cfg(feature = "embedded")]
mod testing;
mod types;
pub(crate) mod user;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

pub use database::{Database, DatabaseError};
pub use error::{StoreError, StoreFault};
pub use health::{Check, StoreHealth};
pub use migrate::{MigrateError, Migrated, Migration};
use notices::Notices;
pub(crate) use notices::{EVERY_TENANT, Subscription, Topic, Wake};
pub(crate) use policies::{Policies, PolicyChanges, PolicyRow, PolicyWatch, hash_in_force};
pub use schema::SchemaError;
pub(crate) use session::OftenInStore;
use session::Sessions;
pub(crate) use statement::{ExecuteIn, InStore, begin_on};
#[cfg(feature = "embedded")]
pub use testing::TestDatabase;

use crate::ids::TenantId;
use crate::time::{Clock, Timestamp};

/// The most times one statement is tried.
const ATTEMPTS: u32 = 4;
/// How long to wait before the second try; doubled for each one after.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// One tenant's view of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    tenant: TenantId,
    pooled: bool,
}

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    /// Where changes are heard that others make, once somebody asks.
    notices: OnceLock<Notices>,
    /// For the statements that are run all the time.
    sessions: Sessions,
    /// The database itself, where a pooler stands before it.
    direct: Option<PgConnectOptions>,
}

impl Store {
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(
        pool: PgPool,
        tenant: TenantId,
        clock: Arc<dyn Clock>,
        deadline: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                pool,
                clock,
                deadline,
                notices: OnceLock::new(),
                sessions: Sessions::new(),
                direct: None,
            }),
            tenant,
            pooled: false,
        }
    }

    /// The store of `tenant` in `database`.
    pub(crate) async fn open(
        database: &Database,
        tenant: TenantId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DatabaseError> {
        let pool = database.connect_pool().await?;
        Ok(Self {
            shared: Arc::new(Shared {
                pool,
                clock,
                deadline: database.deadline(),
                notices: OnceLock::new(),
                sessions: Sessions::new(),
                direct: database.direct_options()?,
            }),
            tenant,
            pooled: database.is_pooled(),
        })
    }

    // Private: a statement of another module could forget the pooler.
    fn pool(&self) -> &PgPool {
        &self.shared.pool
    }

    /// Refuses a schema that does not serve this crate.
    pub(crate) async fn check_schema(&self) -> Result<(), SchemaError> {
        schema::check(self.pool()).await
    }

    /// Whether a pooler stands in between that shares sessions.
    pub(crate) const fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// How to open a connection of one's own, apart from the pool.
    pub(crate) fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.shared.pool.connect_options()
    }

    /// Hears what others change of `topic`, of this tenant. Must be called within a runtime.
    pub(crate) fn subscribe(&self, topic: Topic) -> Subscription {
        self.notices().subscribe(topic, &self.tenant)
    }

    /// Hears of no more changes, and gives the connection back, which all tenants share.
    pub(crate) async fn stop_hearing(&self) {
        if let Some(notices) = self.shared.notices.get() {
            notices.stop().await;
        }
    }

    fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// Gives back the sessions for statements that are run all the time, which all tenants share. Who
    /// goes on has them opened anew.
    pub(crate) async fn close_sessions(&self) {
        self.sessions().close().await;
    }

    /// Whether changes are heard at once; otherwise they are found by polling.
    pub(crate) fn hears_changes(&self) -> bool {
        self.notices().is_connected()
    }

    fn notices(&self) -> &Notices {
        self.shared.notices.get_or_init(|| {
            let direct = self.shared.direct.clone();
            // Through a pooler, nobody would be told.
            Notices::start(
                direct.or_else(|| {
                    (!self.pooled).then(|| (*self.shared.pool.connect_options()).clone())
                }),
            )
        })
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub(crate) fn for_tenant(&self, tenant: TenantId) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tenant,
            pooled: self.pooled,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// What to bind where SQL says `coalesce($n, now())`.
    pub(crate) fn database_now(&self) -> Option<Timestamp> {
        self.shared.clock.database_override()
    }

    /// How long any one operation may take, retries included.
    pub(crate) fn deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// Runs `work`; again when the database aborted it, which is safe for every statement.
    pub(crate) async fn run<T, F, Fut>(
        &self,
        operation: &'static str,
        work: F,
    ) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, sqlx::Error>>,
    {
        self.attempt(operation, StoreError::is_aborted, work).await
    }

    /// Runs `work`; again also when the connection was lost, so `work` must be one that can be done
    /// twice.
    pub(crate) async fn run_idempotent<T, F, Fut>(
        &self,
        operation: &'static str,
        work: F,
    ) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, sqlx::Error>>,
    {
        let again = |error: &StoreError| error.is_aborted() || error.is_lost();
        self.attempt(operation, again, work).await
    }

    async fn attempt<T, F, Fut>(
        &self,
        operation: &'static str,
        again: fn(&StoreError) -> bool,
        work: F,
    ) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, sqlx::Error>>,
    {
        let attempts = async {
            let mut tries = 1;
            loop {
                match work().await {
                    Ok(done) => return Ok(done),
                    Err(error) => before_another(operation, again, &error, tries).await?,
                }
                tries += 1;
            }
        };
        match tokio::time::timeout(self.deadline(), attempts).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::timed_out(operation)),
        }
    }
}

/// Waits before another try; an error if there is to be none.
async fn before_another(
    operation: &'static str,
    again: fn(&StoreError) -> bool,
    error: &sqlx::Error,
    tries: u32,
) -> Result<(), StoreError> {
    let error = StoreError::from_driver(operation, error);
    if tries == ATTEMPTS || !again(&error) {
        return Err(error);
    }
    tracing::debug!(operation, tries, %error, "trying a statement again");
    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
    Ok(())
}
