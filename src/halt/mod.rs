//! The halt switch: stops an agent, a session, a tenant or everything, and is asked by every gate.
//!
//! An operator halts, with a name and a reason; from then on every gate, in every process, refuses
//! whatever the halted agent wants, and whatever the agents want that it started. What is under way is
//! told ([`Halt::until_halted`]). Nothing that an agent does lifts a halt: not a heartbeat, not
//! closing itself, not starting anew under the same name. Who resumes must have a name that no agent has,
//! and a database role that may: the [operators'](crate::store::Migration::operator_role), which the
//! application lacks, or that of the tables' owner.
//!
//! [`Halt::check`] decides from memory and never waits. Changes are heard at once, and found by a poll
//! every second where they are not. How old what is known may be, counted from before the question was
//! sent, [`HaltSettings::stale_after`] says: within that time a halt is in force here, or the state is
//! stale, which is loud, and [`WhenStale`] decides.
//!
//! | The store is | [`Halt::check`] | [`Halt::halt`] | [`Halt::resume`] |
//! |---|---|---|---|
//! | reachable | decides from what is known, milliseconds old if changes are heard | in force here at once, stored, heard by the others | stored, then in force |
//! | unreachable, or hung, for less than `stale_after` | decides from what is known | in force in this process at once; says that it is not stored, and stores it as soon as it can | fails; the halt stands |
//! | the same, for longer | [`WhenStale::HoldLastKnown`]: the same, loudly. [`WhenStale::CountAsHalted`]: refuses everybody | the same | the same |
//! | back, without commits that it had (a failover, a restored backup) | what was halted stays so | the halts that are missing are stored again | |
//!
//! ```no_run
//! # async fn example(gov: portcullis::Governance) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{AgentId, OperatorId, Principal, halt::Target};
//!
//! let agent = AgentId::parse("billing-agent")?;
//! let anna = OperatorId::parse("user:anna")?;
//! let target = Target::Agent(agent.clone());
//! gov.halt().halt(&target, &anna, "refunds without an order").await?;
//! assert!(gov.halt().check(&Principal::agent(agent)).is_err());
//! gov.halt().resume(&target, &anna, "fixed in release 71").await?;
//! # Ok(())
//! # }
//! ```

mod change;
mod core;
mod engine;
mod error;
mod evidence;
mod follow;
mod model;
mod store;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use error::{HaltError, Halted};
pub use model::{Change, HaltSettings, HaltStatus, Order, Target, WhenStale};

use self::core::Core;
use self::model::Why;
use crate::audit::Audit;
use crate::call::Principal;
use crate::ids::{AgentId, OperatorId, SessionId};
use crate::store::{Store, StoreError, StoreFault, Topic};
use crate::task;

/// The halt switch of one tenant. Cheap to clone; every clone is the same switch.
#[derive(Clone)]
pub struct Halt {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    background: Mutex<Option<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

impl Halt {
    /// A switch that knows of no halt until it has [loaded](Self::load).
    pub(crate) fn new(store: Store, audit: Audit, settings: &HaltSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Arc::new(Core::new(store, audit, settings)),
                background: Mutex::default(),
                stop: watch::Sender::new(false),
            }),
        }
    }

    /// Reads which halts are in force, and begins to hear of changes.
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        let core = &self.shared.core;
        // Before the first read, so that no change lies between the two.
        let heard = core.store.subscribe(Topic::Halts);
        core.look(true).await?;
        let stopped = self.shared.stop.subscribe();
        let task = task::spawn(follow::follow(Arc::clone(core), heard, stopped));
        *self.background() = Some(task);
        Ok(())
    }

    /// Lets `who` go on, or not. Decides at once, from memory; when it lets go on, it allocates nothing.
    ///
    /// Looks at the agent, its session, every agent that started it, the tenant, and everything.
    ///
    /// # Errors
    ///
    /// [`Halted`] if one of them is halted; or, under [`WhenStale::CountAsHalted`], if it has not been known
    /// for too long whether one is.
    #[inline]
    pub fn check(&self, who: &Principal) -> Result<(), Halted> {
        if self.shared.core.is_calm() {
            return Ok(());
        }
        self.check_closely(who)
    }

    fn check_closely(&self, who: &Principal) -> Result<(), Halted> {
        let core = &self.shared.core;
        core.decide(who)
            .inspect_err(|halted| core.refusals.note(&core.audit, who, halted))
    }

    /// Waits until `who` is halted: for work under way, which must then stop. Never ends if it never is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written.
    pub async fn until_halted(&self, who: &Principal) -> Halted {
        let core = &self.shared.core;
        let mut changes = core.changes();
        loop {
            // Marked before it is looked at, so that no change is missed in between.
            changes.borrow_and_update();
            if let Err(halted) = core.decide(who) {
                return halted;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Halts `target`: in force in this process before anything is waited for, and in all others within
    /// moments. Halting what is halted, or what was never seen, is no error.
    ///
    /// `by` is who does it, `why` a line of up to 1,024 bytes for those who come after; both are on
    /// record, and never shown to a model.
    ///
    /// # Errors
    ///
    /// * [`HaltError::Invalid`] if the reason is none. Nothing is halted.
    /// * [`HaltError::Store`] if the database did not take it. **It is in force in this process**, and is
    ///   stored as soon as the database takes it; until then no other process knows of it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is in force, and finished in the background.
    pub async fn halt(
        &self,
        target: &Target,
        by: &OperatorId,
        why: &str,
    ) -> Result<Change, HaltError> {
        let why = Why::parse(why)?;
        ended(self.begin(target, by, why)).await
    }

    /// The same, for gates that do not wait: in force here when it returns, stored behind their back. Must
    /// be called within a runtime.
    ///
    /// # Errors
    ///
    /// [`HaltError::Invalid`] if the reason is none.
    pub(crate) fn halt_detached(
        &self,
        target: &Target,
        by: &OperatorId,
        why: &str,
    ) -> Result<(), HaltError> {
        drop(self.begin(target, by, Why::parse(why)?));
        Ok(())
    }

    fn begin(
        &self,
        target: &Target,
        by: &OperatorId,
        why: Why,
    ) -> JoinHandle<Result<Change, HaltError>> {
        let core = Arc::clone(&self.shared.core);
        let pending = core.halt_here(Order {
            target: target.clone(),
            by: by.clone(),
            why: why.into_text(),
            since: core.store.now(),
            epoch: None,
        });
        task::spawn(async move {
            let stored = change::store(&core, &pending).await;
            if stored.is_err() {
                change::record_here(&core, &pending).await;
            }
            Ok(stored?)
        })
    }

    /// Lifts the halt of `target`, as it was given: resuming a session does not resume its agent, and
    /// resuming an agent lets nobody go on whose tenant is halted. Resuming what is not halted is no error.
    ///
    /// # Errors
    ///
    /// * [`HaltError::NotAnOperator`] if `by` is, in any case of its letters, the name of the halted agent
    ///   or of any agent that is known.
    /// * [`HaltError::Invalid`] if the reason is none.
    /// * [`HaltError::Store`] if the database did not take it, because it is away, or because its role may
    ///   not resume. The halt stands.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn resume(
        &self,
        target: &Target,
        by: &OperatorId,
        why: &str,
    ) -> Result<Change, HaltError> {
        let why = Why::parse(why)?;
        if (target.agent()).is_some_and(|agent| model::names_the_agent(by, agent)) {
            return Err(HaltError::NotAnOperator);
        }
        let core = Arc::clone(&self.shared.core);
        let resuming = change::resume(core, target.clone(), by.clone(), why);
        ended(task::spawn(resuming)).await
    }

    /// How often what this process knows of halts has changed: as long as it is the same, so is the answer
    /// of every [`check`](Self::check), but for one that counts a stale state as halted.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.core.epoch()
    }

    /// What is halted, how old that is, and whether changes are heard.
    #[must_use]
    pub fn status(&self) -> HaltStatus {
        self.shared.core.status()
    }

    /// Whether nobody may go on while what is known is too old.
    pub(crate) fn stops_when_stale(&self) -> bool {
        self.shared.core.settings.when_stale == WhenStale::CountAsHalted
    }

    /// Whether a session of an agent is halted, or the agent, or all; nothing is put on record.
    pub(crate) fn is_halted(&self, agent: &AgentId, session: &SessionId) -> bool {
        self.shared.core.is_halted(agent, session)
    }

    /// Stops the background tasks. What is halted stays so.
    pub(crate) async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let task = self.background().take();
        if let Some(task) = task {
            let _ = task.await;
        }
        let core = &self.shared.core;
        for pending in core.adrift(None) {
            if let Err(error) = change::store(core, &pending).await {
                tracing::error!(%error, "a halt goes with this process: the database never took it");
            }
        }
    }

    fn background(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        let background = &self.shared.background;
        background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Halt {
    /// Without the operators' words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halt")
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Told, not aborted: a halt that is being stored is stored.
        self.stop.send_replace(true);
    }
}

/// What came of work that goes on even if nobody waits for it.
async fn ended(work: JoinHandle<Result<Change, HaltError>>) -> Result<Change, HaltError> {
    match work.await {
        Ok(answer) => answer,
        // The runtime is shutting down.
        Err(_) => Err(StoreError::new("turn the halt switch", StoreFault::Unreachable).into()),
    }
}
