//! Building the handle: required things are arguments, optional things are methods.

mod error;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use crate::audit::anchor::Anchor;
use crate::audit::{AuditKeys, CheckpointEvery, Evidence, JournalSettings, Maker, Signing};
use crate::error::Module;
use crate::governance::{Governance, Settings};
use crate::ids::TenantId;
use crate::parts::{Options, Parts};
use crate::store::{Database, Store};
use crate::time::{Clock, SystemClock};
use crate::tlog::LogKey;

pub use error::ConnectError;

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
    /// force; a stored policy of scope, loops or approvals cannot be read; what is known of halts is
    /// older than its bound; the journal has no place; the database's health is not
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
