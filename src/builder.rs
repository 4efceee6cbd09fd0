//! Building the handle: required things are arguments, optional things are methods.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::anchor::Anchor;
use crate::audit::{
    AuditError, AuditKeys, CheckpointEvery, Evidence, JournalError, JournalSettings, Maker, Signing,
};
use crate::error::{ErrorKind, Module};
use crate::governance::{Governance, Settings};
use crate::halt::{HaltError, HaltSettings};
use crate::ids::TenantId;
use crate::parts::{Options, Parts};
use crate::posture::Unprotected;
use crate::presence::{PresenceError, PresenceSettings};
use crate::scope::{ScopeError, ScopePolicy};
use crate::store::{Database, DatabaseError, SchemaError, Store, StoreError};
use crate::time::{Clock, SystemClock};
use crate::tlog::{LogError, LogKey};

/// Builds a [`Governance`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::{Database, Governance, audit::AuditKeys};
///
/// let gov = Governance::builder(Database::from_env()?, AuditKeys::from_env()?)
///     .default_max_output_tokens(1_000)
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is governed before connect"]
pub struct GovernanceBuilder {
    database: Database,
    keys: AuditKeys,
    tenant: TenantId,
    clock: Arc<dyn Clock>,
    options: Options,
    settings: Settings,
    drain_on_sigterm: bool,
}

impl GovernanceBuilder {
    pub(crate) fn new(database: Database, keys: AuditKeys) -> Self {
        Self {
            database,
            keys,
            tenant: TenantId::single(),
            clock: Arc::new(SystemClock),
            options: Options::default(),
            settings: Settings::default(),
            drain_on_sigterm: false,
        }
    }

    /// The tenant, where an installation has several.
    pub fn tenant(mut self, tenant: TenantId) -> Self {
        self.tenant = tenant;
        self
    }

    /// Where the time comes from; the machine's clock, unless a test brings its own.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where the time comes from, shared with the caller, who can move a
    /// [`ManualClock`](crate::ManualClock).
    pub fn shared_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the MAC of every entry that is read (off).
    pub fn verify_on_read(mut self, on: bool) -> Self {
        self.options.audit.verify_on_read = on;
        self
    }

    /// What is on durable record before a call goes on ([`Evidence::Durable`]: the commit).
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.options.audit.evidence = evidence;
        self
    }

    /// Where the audit journal is, and how large it may become (`$XDG_STATE_HOME/portcullis`, 256
    /// MiB). It takes events while the database is away, and before it in
    /// [`Evidence::Spooled`].
    pub fn journal(mut self, settings: JournalSettings) -> Self {
        self.options.audit.journal = settings;
        self
    }

    /// The agents' keys that entries are signed with, and which entries are (none).
    pub fn sign(mut self, signing: Signing) -> Self {
        self.options.signing = signing;
        self
    }

    /// Makes checkpoints of the trail in the background, signed by `key` (off).
    ///
    /// The key need not be here: a process that the agents cannot read, with the same database and
    /// audit secret, can do it instead, or call [`Audit::checkpoint`](crate::audit::Audit::checkpoint). Other tenants' handles sign
    /// under [`LogKey::for_tenant`]. Keep the notes outside of the database.
    pub fn checkpoints(mut self, key: LogKey, every: CheckpointEvery) -> Self {
        self.options.audit.checkpoints = Some(Maker { key, every });
        self
    }

    /// Keeps checkpoints in a place outside of the database, and holds the trail against it; call it
    /// once for each (none). They are used where checkpoints are made, and where they are verified.
    ///
    /// Nothing is signed that does not go on from what each anchor holds. An anchor that cannot be
    /// asked is loud and stops nothing, as long as one of them answers; if none does, nothing is
    /// signed.
    pub fn anchor(mut self, anchor: impl Anchor) -> Self {
        self.options.audit.anchors.push(Arc::new(anchor));
        self
    }

    /// For how long an anchor may miss a checkpoint, or not answer, before health is not well (15
    /// minutes).
    pub fn anchors_stale_after(mut self, patience: Duration) -> Self {
        self.options.audit.anchors_stale_after = Some(patience);
        self
    }

    /// How the halt switch behaves: how often it is asked for, how old what is known may be, and what is
    /// decided past that (a second, five seconds, and the last known state holds, loudly).
    pub fn halt(mut self, settings: HaltSettings) -> Self {
        self.options.halt = settings;
        self
    }

    /// How presence behaves: how often heartbeats are written, and when an agent that is not heard of
    /// counts as unresponsive (a second, a minute).
    pub fn presence(mut self, settings: PresenceSettings) -> Self {
        self.options.presence = settings;
        self
    }

    /// The output to reserve for a model call that does not say how much it may have (none: such a
    /// call is refused).
    pub fn default_max_output_tokens(mut self, tokens: u64) -> Self {
        self.settings.default_max_output = Some(tokens);
        self
    }

    /// Lets calls through when their budget cannot be asked, and says so in the audit trail (off:
    /// they are refused). The one setting that makes a gate fail open.
    pub fn cost_fail_open(mut self, on: bool) -> Self {
        self.options.cost.fail_open = on;
        self
    }

    /// How long a call may take before its reservation counts as unknown (15 minutes). It stays
    /// charged.
    pub fn reservation_lease(mut self, lease: Duration) -> Self {
        self.options.cost.lease = lease;
        self
    }

    /// Puts a scope policy of this program's own in force, for the builder's tenant, before the handle is there
    /// ([`Scope::pin`](crate::scope::Scope::pin)); call it once for each (none).
    pub fn pin_scope(mut self, policy: ScopePolicy) -> Self {
        self.options.pins.push(policy);
        self
    }

    /// Switches a module off (all are on). It then refuses every call with
    /// [`Disabled`](crate::Disabled), and [`authorize`](Governance::authorize) does not ask it. That
    /// it is off is on record, and in [`posture`](Governance::posture).
    ///
    /// The halt switch and the audit trail cannot be switched off: see [`Module`].
    pub fn without(mut self, module: Module) -> Self {
        self.options.switches.switch_off(module);
        self
    }

    /// Refuses to connect when something that should protect does not (off): no scope policy is in
    /// force, or a stored one cannot be read; the journal has no place; the database's health is not
    /// well: a missing trigger, a grant that lets this role change entries, a clock that is off. The
    /// error names all of it. What was [switched off](Self::without) is not asked.
    ///
    /// Other tenants' handles are held to the same.
    pub fn strict(mut self) -> Self {
        self.settings.strict = true;
        self
    }

    /// Says in the log which wrapped clients are known, and warns if there is none, when the handle is
    /// opened and at the first call (off: a host that calls by [`Governance::run`] alone wraps none).
    pub fn warn_on_no_wrappers(mut self, on: bool) -> Self {
        self.options.coverage.warn_on_no_wrappers = on;
        self
    }

    /// Takes SIGTERM over: the handle drains, and then the process exits with status 143, as it
    /// would have by default (off: call [`Governance::shutdown`] from the host's own handler).
    pub fn drain_on_sigterm(mut self) -> Self {
        self.drain_on_sigterm = true;
        self
    }

    /// Opens the handle: checks the schema, loads the policies, starts the background tasks. The
    /// schema must have been migrated.
    ///
    /// # Errors
    ///
    /// * [`ConnectError::Schema`] if the schema is missing, too old, or too new, with what to run.
    /// * [`ConnectError::Database`] if it cannot be opened.
    /// * [`ConnectError::Audit`] if the tenant's entries are written under a key that is not among
    ///   those given here.
    /// * [`ConnectError::Scope`] if the policies cannot be loaded.
    /// * [`ConnectError::Halt`] and [`ConnectError::Presence`] if their settings cannot be kept.
    /// * [`ConnectError::Journal`] if calls are to be spooled, and the journal has no place.
    /// * [`ConnectError::Unprotected`] if it is to be [strict](Self::strict), with what is missing.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written, but for the entries that say what is switched off and pinned.
    pub async fn connect(self) -> Result<Governance, ConnectError> {
        let store = Store::open(&self.database, self.tenant.clone(), self.clock).await?;
        self.database.check_pooler().await?;
        store.check_schema().await?;
        let parts = Parts::open(&store, &self.keys, self.options).await?;
        let gov = Governance::assemble(self.database, store, self.keys, parts, self.settings);
        gov.hold_to_strict().await?;
        if self.drain_on_sigterm {
            gov.exit_on_sigterm()?;
        }
        Ok(gov)
    }
}

/// Why a handle could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The schema is not one that this program can use.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The audit trail is under a key that this process does not have.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The policies could not be loaded.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The halt switch cannot keep what it was told to.
    #[error(transparent)]
    Halt(#[from] HaltError),
    /// Presence cannot keep what it was told to.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// What a gate needs could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal's directory cannot be used, and [`Evidence::Spooled`] needs it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The tenant's name cannot be part of a log's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What should protect does not, and the builder was told to be [strict](GovernanceBuilder::strict).
    #[error(transparent)]
    Unprotected(#[from] Unprotected),
    /// The operating system gave no handler for SIGTERM.
    #[error("could not take over SIGTERM; call shutdown from the host's own handler")]
    Signal,
    /// The operating system gave no threads for the runtime in the background
    /// ([`connect_blocking`](GovernanceBuilder::connect_blocking)).
    #[cfg(feature = "blocking")]
    #[error(
        "the threads in the background could not be started; look at the limits of the process"
    )]
    Threads,
}

impl ConnectError {
    /// Which answer it asks for.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database(error) => error.kind(),
            Self::Schema(error) => error.kind(),
            Self::Audit(error) => error.kind(),
            Self::Scope(error) => error.kind(),
            Self::Halt(error) => error.kind(),
            Self::Presence(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Journal(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Unprotected(error) => error.kind(),
            Self::Signal => ErrorKind::Misuse,
            #[cfg(feature = "blocking")]
            Self::Threads => ErrorKind::Unavailable,
        }
    }
}
