//! The gates for programs without an async runtime.
//!
//! [`Governance`] here is the [`Governance`](crate::Governance) of the crate's root, with methods that
//! wait instead of being awaited: the same names, the same arguments, the same answers. Everything
//! that this page does not say about a method stands where it links to.
//!
//! ```no_run
//! # fn example(database_url: &str) -> Result<(), Box<dyn std::error::Error>> {
//! # use portcullis::{AgentId, AuditKeys, Call, Database, Principal};
//! use portcullis::blocking::Governance;
//!
//! let gov = Governance::builder(Database::url(database_url), AuditKeys::from_env()?).connect_blocking()?;
//! let me = Principal::agent(AgentId::parse("billing-agent")?);
//! let call = Call::tool(&me, "send_email").args(&serde_json::json!({"to": "c_381"}));
//! let sent = gov.run(&call, |_permit| deliver("c_381"))?; // refused, or done and on record
//! let report = gov.audit().verify_all()?; // every entry, against its key
//! # let _ = (sent, report);
//! # Ok(())
//! # }
//! # fn deliver(_: &str) -> Result<(), std::io::Error> { Ok(()) }
//! ```
//!
//! What is called often has a method of its own. Everything else is one
//! [`block_on`](Governance::block_on) away, on the handle of the crate's root:
//!
//! ```no_run
//! # fn example(gov: portcullis::blocking::Governance, id: portcullis::EventId) -> Result<(), portcullis::audit::AuditError> {
//! let lineage = gov.block_on(async |gov| gov.audit().ancestors(id).await)?;
//! # let _ = lineage;
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//!
//! A handle is cheap to clone and can be used from any number of threads at once. There is **one**
//! runtime in the background, with two threads, for all handles of the process: the connections of a
//! pool belong to the runtime that opened them, and a runtime for each call or handle would leave
//! them dead for the next. It is started when it is first needed and is never stopped. A call runs on
//! the thread that makes it; the two threads carry the network and what is done behind callers'
//! backs. So nothing is sent from thread to thread, and what is asked for may borrow.
//!
//! After a fork (of an interpreter that has this crate in it, say) only the thread that forked is
//! there: make new handles from a new [`Database`] in the child.
//!
//! # When the last handle is dropped
//!
//! It drains, for at most five seconds, and says in the log whether it could. To wait for as long as it
//! takes, call [`shutdown`](Governance::shutdown). What lies in a `static` is never dropped: call it
//! there in any case. Permits, reservations, approvals and guards are handles too.
//!
//! # Panics
//!
//! Every call that waits panics **within an async runtime** (in `async fn`, in a task, in
//! `spawn_blocking`), where waiting could stop the very task that is waited for. Use
//! [`portcullis::Governance`](crate::Governance) there, or a thread of its own. Dropping a handle there
//! does not panic; it drains without being waited for.
//!
//! # When the store is down
//!
//! As for the handle of the crate's root: gates that need it refuse within its deadline, and what
//! happened goes to the journal. No call waits for ever.

mod audit;
mod contracts;
mod cost;
mod coverage;
mod gates;
mod halt;
mod loops;
mod permit;
mod presence;
mod runtime;
mod scope;

use std::fmt;
use std::sync::Arc;

pub use audit::Audit;
pub use contracts::{Contracts, Guard};
pub use cost::{Cost, Reservation};
pub use coverage::Coverage;
pub use gates::{Approval, Gates};
pub use halt::Halt;
pub use loops::Loops;
pub use permit::Permit;
pub use presence::Presence;
pub use scope::Scope;

use self::runtime::Background;
use crate::{
    AuditKeys, Call, ConnectError, Database, GovernanceBuilder, Health, Refusal, RunError, TenantId,
};

/// Runs `work` to its end on this thread, over the runtime in the background: for what needs no
/// handle.
///
/// ```no_run
/// # fn example(database: portcullis::Database) -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::blocking::block_on;
///
/// block_on(database.migrate())?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// Within an async runtime: await there instead. If the operating system gives no threads.
pub fn block_on<F: Future>(work: F) -> F::Output {
    match runtime::background() {
        Ok(background) => runtime::wait_on(&background, work),
        #[expect(
            clippy::panic,
            reason = "as documented; where it can be handled, connect_blocking answers with an error"
        )]
        Err(error) => panic!("the threads in the background could not be started: {error}"),
    }
}

impl GovernanceBuilder {
    /// As [`connect`](Self::connect), for programs without a runtime: it waits.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and [`ConnectError::Threads`] if the operating system gives no
    /// threads for the background.
    ///
    /// # Panics
    ///
    /// Within an async runtime: call [`connect`](Self::connect) there, and await it.
    pub fn connect_blocking(self) -> Result<Governance, ConnectError> {
        let runtime = runtime::background().map_err(|_| ConnectError::Threads)?;
        let gov = runtime::wait_on(&runtime, self.connect())?;
        let background = Arc::new(Background::new(runtime, gov.clone()));
        Ok(Governance::over(gov, background))
    }
}

/// All gates and registers over one Postgres, for one tenant, for programs without a runtime. Cheap
/// to clone; every clone is the same handle. See the [module](self) for threads and dropping.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone)]
pub struct Governance {
    gov: crate::Governance,
    scope: Scope,
    cost: Cost,
    audit: Audit,
    coverage: Coverage,
    halt: Halt,
    gates: Gates,
    loops: Loops,
    presence: Presence,
    contracts: Contracts,
    // Last, in every handle: what is dropped with it may need the others to be gone.
    background: Arc<Background>,
}

impl Governance {
    /// Begins a handle over `database`, with the audit trail under `keys`: set what is to be set, and
    /// then call [`connect_blocking`](GovernanceBuilder::connect_blocking).
    pub fn builder(database: Database, keys: AuditKeys) -> GovernanceBuilder {
        crate::Governance::builder(database, keys)
    }

    fn over(gov: crate::Governance, background: Arc<Background>) -> Self {
        Self {
            scope: Scope::new(gov.scope().clone(), &background),
            cost: Cost::new(gov.cost().clone(), &background),
            audit: Audit::new(gov.audit().clone(), &background),
            coverage: Coverage::new(gov.coverage().clone(), &background),
            halt: Halt::new(gov.halt().clone(), &background),
            gates: Gates::new(gov.gates().clone(), &background),
            loops: Loops::new(gov.loops().clone(), &background),
            presence: Presence::new(gov.presence().clone(), &background),
            contracts: Contracts::new(gov.contracts().clone(), &background),
            gov,
            background,
        }
    }

    /// Does `work` with the handle of the crate's root, on this thread, and waits for it: for what has
    /// no method here.
    ///
    /// # Panics
    ///
    /// Within an async runtime: use [`portcullis::Governance`](crate::Governance) there.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&crate::Governance) -> T) -> T {
        self.background.wait(async { work(&self.gov).await })
    }

    /// The handle of the crate's root, for a part of the program that has a runtime. It is drained with
    /// this one, and is of no use after it.
    #[must_use]
    pub const fn as_async(&self) -> &crate::Governance {
        &self.gov
    }

    /// What agents may use.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What agents may spend.
    #[must_use]
    pub const fn cost(&self) -> &Cost {
        &self.cost
    }

    /// What happened.
    #[must_use]
    pub const fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What stops an agent, a session, a tenant, or everything.
    #[must_use]
    pub const fn halt(&self) -> &Halt {
        &self.halt
    }

    /// What a person has to agree to.
    #[must_use]
    pub const fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Agents that go round in circles.
    #[must_use]
    pub const fn loops(&self) -> &Loops {
        &self.loops
    }

    /// Who is there.
    #[must_use]
    pub const fn presence(&self) -> &Presence {
        &self.presence
    }

    /// What must hold before and after a call.
    #[must_use]
    pub const fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    /// Which clients are wrapped, and whether calls went past them.
    #[must_use]
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The tenant that this handle serves.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        self.gov.tenant()
    }

    /// The database underneath.
    #[must_use]
    pub fn database(&self) -> &Database {
        self.gov.database()
    }

    /// [`portcullis::Governance::for_tenant`](crate::Governance::for_tenant). What it opens stays open
    /// until the last handle of all tenants is dropped.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn for_tenant(&self, tenant: TenantId) -> Result<Self, ConnectError> {
        let gov = self.background.wait(self.gov.for_tenant(tenant))?;
        self.background.keep(&gov);
        Ok(Self::over(gov, Arc::clone(&self.background)))
    }

    /// [`portcullis::Governance::health`](crate::Governance::health).
    #[must_use]
    pub fn health(&self) -> Health {
        self.background.wait(self.gov.health())
    }

    /// [`portcullis::Governance::authorize`](crate::Governance::authorize): asks every gate whether
    /// `call` may be made, and puts the decision on record.
    ///
    /// # Errors
    ///
    /// As there. Nothing is held or charged after a refusal.
    pub fn authorize(&self, call: &Call) -> Result<Permit, Refusal> {
        let permit = self.background.wait(self.gov.authorize(call))?;
        Ok(Permit::new(permit, &self.background))
    }

    /// [`portcullis::Governance::run`](crate::Governance::run) with a plain closure: authorizes `call`,
    /// does `work` with the permit, on this thread, and settles from how it ended.
    ///
    /// The work may wait for other things, handles of this module included. If it panics, the outcome
    /// is recorded as unknown, and the reserve stays charged.
    ///
    /// A closure cannot be stopped where it waits. That it was halted while it ran is seen when it
    /// returns; work that takes long asks [`halt().check`](Halt::check) between its steps.
    ///
    /// # Errors
    ///
    /// * [`RunError::Refused`] if a gate said no: `work` was not called.
    /// * [`RunError::Halted`] if the agent was halted while `work` ran: what came of it is dropped, the
    ///   outcome is recorded as unknown, and the reserve stays charged.
    /// * [`RunError::Failed`] with the error of `work`.
    /// * [`RunError::Broken`] if the work was done and broke a contract that fails the call then.
    pub fn run<T: 'static, E>(
        &self,
        call: &Call,
        work: impl FnOnce(&crate::Permit) -> Result<T, E>,
    ) -> Result<T, RunError<E>> {
        let work = async |permit: &crate::Permit| {
            let result = runtime::outside(|| work(permit));
            // Once more around, so that a halt that came meanwhile is seen before the result is.
            tokio::task::yield_now().await;
            result
        };
        self.background.wait(self.gov.run(call, work))
    }

    /// [`portcullis::Governance::shutdown`](crate::Governance::shutdown): waits for all that was handed
    /// over, for as long as it takes, and stops. What is asked of any clone afterwards is refused.
    pub fn shutdown(&self) {
        self.background.wait(self.gov.shutdown());
        self.background.drained();
    }
}

impl fmt::Debug for Governance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("blocking::Governance")
            .field("tenant", self.tenant())
            .finish_non_exhaustive()
    }
}
