//! The handle: accessors and lifecycle.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::audit::{Audit, AuditKeys};
use crate::builder::{ConnectError, GovernanceBuilder};
use crate::contracts::Contracts;
use crate::cost::Cost;
use crate::coverage::Coverage;
use crate::error::Switches;
use crate::gates::Gates;
use crate::halt::Halt;
use crate::ids::TenantId;
use crate::loops::Loops;
use crate::parts::Parts;
use crate::posture::LastLook;
use crate::presence::Presence;
use crate::scope::Scope;
use crate::store::{Database, Store};
use crate::task;

/// How many settlements may be under way at once: enough never to be reached.
const MAX_SETTLEMENTS: u32 = 1 << 20;

/// All gates and registers over one Postgres, for one tenant. Cheap to clone; every clone is the
/// same handle.
///
/// Each accessor returns a handle that can be cloned and given to a component by itself.
///
/// | The store is | gates | audit |
/// |---|---|---|
/// | reachable | decide | commits |
/// | unreachable | scope decides from what is loaded; budgets refuse | goes to the journal on the local disk; without one, a governed call is refused |
#[derive(Clone)]
pub struct Governance {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    store: Store,
    keys: AuditKeys,
    parts: Parts,
    settings: Settings,
    runtime: Handle,
    /// Held by every settlement that is under way, so that shutdown can wait for them.
    settlements: Arc<Semaphore>,
    tenants: Arc<Mutex<Tenants>>,
    /// What the database said when it was last asked.
    last_look: Mutex<LastLook>,
}

/// The handles of the other tenants, so that each has one writer however often it is asked for.
type Tenants = HashMap<TenantId, Weak<Inner>>;

/// What the enforcement point is told by the builder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) default_max_output: Option<u64>,
    /// Whether what does not protect stops the handle from opening.
    pub(crate) strict: bool,
}

impl Governance {
    /// Begins a handle over `database`, with the audit trail under `keys`.
    pub fn builder(database: Database, keys: AuditKeys) -> GovernanceBuilder {
        GovernanceBuilder::new(database, keys)
    }

    pub(crate) fn assemble(
        database: Database,
        store: Store,
        keys: AuditKeys,
        parts: Parts,
        settings: Settings,
    ) -> Self {
        Self::join(database, store, keys, parts, settings, Arc::default())
    }

    fn join(
        database: Database,
        store: Store,
        keys: AuditKeys,
        parts: Parts,
        settings: Settings,
        tenants: Arc<Mutex<Tenants>>,
    ) -> Self {
        let inner = Arc::new(Inner {
            database,
            store,
            keys,
            parts,
            settings,
            runtime: Handle::current(),
            settlements: Arc::new(Semaphore::new(MAX_SETTLEMENTS as usize)),
            tenants,
            last_look: Mutex::default(),
        });
        lock(&inner.tenants).insert(inner.store.tenant().clone(), Arc::downgrade(&inner));
        Self { inner }
    }

    /// What agents may use.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.inner.parts.scope
    }

    /// What agents may spend.
    #[must_use]
    pub fn cost(&self) -> &Cost {
        &self.inner.parts.cost
    }

    /// What happened.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.inner.parts.audit
    }

    /// What stops an agent, a session, a tenant, or everything.
    #[must_use]
    pub fn halt(&self) -> &Halt {
        &self.inner.parts.halt
    }

    /// What a person has to agree to.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.inner.parts.gates
    }

    /// Agents that go round in circles.
    #[must_use]
    pub fn loops(&self) -> &Loops {
        &self.inner.parts.loops
    }

    /// Who is there.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.inner.parts.presence
    }

    /// Which clients are wrapped, and whether calls went past them.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.inner.parts.coverage
    }

    /// What must hold before and after a call.
    #[must_use]
    pub fn contracts(&self) -> &Contracts {
        &self.inner.parts.contracts
    }

    /// The tenant that this handle serves.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        self.inner.store.tenant()
    }

    /// The database underneath.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The handle of another tenant, over the same pool.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if its policies cannot be loaded, where checkpoints are made if its name
    /// cannot be part of a log's, and under [`strict`](GovernanceBuilder::strict) if something that
    /// should protect does not.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written.
    pub async fn for_tenant(&self, tenant: TenantId) -> Result<Self, ConnectError> {
        if let Some(open) = self.open_tenant(&tenant) {
            return Ok(open);
        }
        let inner = &self.inner;
        let store = inner.store.for_tenant(tenant.clone());
        let options = inner.parts.options.for_tenant(&tenant)?;
        let parts = Parts::open(&store, &inner.keys, options).await?;
        // Somebody may have opened it meanwhile: theirs stands, ours has not been used yet.
        if let Some(open) = self.open_tenant(&tenant) {
            return Ok(open);
        }
        let gov = Self::join(
            inner.database.clone(),
            store,
            inner.keys.clone(),
            parts,
            inner.settings.clone(),
            Arc::clone(&inner.tenants),
        );
        gov.hold_to_strict().await?;
        Ok(gov)
    }

    fn open_tenant(&self, tenant: &TenantId) -> Option<Self> {
        let inner = lock(&self.inner.tenants).get(tenant)?.upgrade()?;
        Some(Self { inner })
    }

    /// Waits for every settlement and every event that was handed over, gives the chains back, and
    /// stops the background tasks, those of the other tenants' handles included. What is asked of
    /// the handle afterwards is refused. Dropping the last handle stops without waiting, and says
    /// so in the log.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again to go on waiting.
    pub async fn shutdown(&self) {
        let others: Vec<Self> = lock(&self.inner.tenants)
            .values()
            .filter_map(Weak::upgrade)
            .filter(|inner| !Arc::ptr_eq(inner, &self.inner))
            .map(|inner| Self { inner })
            .collect();
        for other in others {
            other.shutdown_one().await;
        }
        self.shutdown_one().await;
        self.inner.store.stop_hearing().await;
    }

    async fn shutdown_one(&self) {
        // All are free when no settlement is under way.
        let _ = self.inner.settlements.acquire_many(MAX_SETTLEMENTS).await;
        self.inner.parts.shutdown().await;
    }

    pub(crate) fn exit_on_sigterm(&self) -> Result<(), ConnectError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut sigterm = signal(SignalKind::terminate()).map_err(|_| ConnectError::Signal)?;
        // Weak: waiting for a signal must not keep the handle alive.
        let inner = Arc::downgrade(&self.inner);
        task::spawn(async move {
            sigterm.recv().await;
            if let Some(inner) = inner.upgrade() {
                tracing::info!("SIGTERM: draining");
                Self { inner }.shutdown().await;
            }
            std::process::exit(143);
        });
        Ok(())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn switches(&self) -> &Switches {
        &self.inner.parts.options.switches
    }

    /// Held for moments, and never across a wait.
    pub(crate) fn last_look(&self) -> MutexGuard<'_, LastLook> {
        let last = &self.inner.last_look;
        last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Runs `settlement` to its end, whether anybody waits for it or not.
    pub(crate) fn spawn_settlement<F>(&self, settlement: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let under_way = Arc::clone(&self.inner.settlements).try_acquire_owned();
        task::spawn_on(&self.inner.runtime, async move {
            let _under_way = under_way;
            settlement.await
        })
    }
}

fn lock(tenants: &Mutex<Tenants>) -> MutexGuard<'_, Tenants> {
    tenants.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Governance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governance")
            .field("tenant", self.tenant())
            .field("database", &self.inner.database)
            .finish_non_exhaustive()
    }
}
