//! Budgets: reserve before the call, settle after it.
//!
//! A [`Budget`] is for an agent, a user, a model, any of these together, or the whole tenant, over
//! sessions, days, months, rolling windows or for ever, in dollars, tokens and calls. A
//! [`Reservation`] is taken from every budget that a call fits *before* the call, at the most the call
//! can cost, and settled to the real cost afterwards. The limit is checked by the statement that spends
//! it, so two callers racing for the last cent cannot both win. **At every admission,
//! `settled + held + asked <= limit`**, in every budget of the call or in none; what a call costs
//! beyond its ceiling is recorded apart, as overrun. (Not of budgets that [only
//! warn](OnLimit::Warn).)
//!
//! Calls that come at the same time share a statement: all budgets of all of them are one round trip,
//! and each is decided as if it were alone.
//!
//! | The store is | [`Cost::reserve`] | [`Reservation::settle`] |
//! |---|---|---|
//! | reachable | allows or refuses; one round trip | records the real cost; one round trip |
//! | unreachable or hung | refuses within the deadline | the ceiling stays charged; kept in the audit journal, and charged when the store is back, also by another process |
//! | the same, under [`fail_open`](CostSettings::fail_open) | allows, audited | charges what it cost, once the store is back |
//!
//! A reservation that nobody settles stays charged. When its lease runs out (15 minutes), its state
//! is [`Unknown`](State::Unknown), until it is settled late or [resolved](Cost::resolve).
//!
//! ```no_run
//! # async fn example(cost: portcullis::cost::Cost) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{AgentId, Ceiling, ModelName, Principal, SessionId, Usage, Usd};
//! use portcullis::cost::{Budget, Spent};
//!
//! let agent = AgentId::parse("billing-agent")?;
//! cost.register(Budget::for_agent(agent.clone()).per_session(Usd::dollars(5))).await?;
//!
//! let me = Principal::agent(agent).session(SessionId::new());
//! let model = ModelName::parse("gpt-4o-mini")?;
//! let held = cost.check_or_raise(&me, Ceiling::in_out(3_000, 500).of_model(&model)).await?;
//! // .. call the model ..
//! held.settle(Spent::tokens(Usage::tokens(2_950, 120).cached(2_000))).await?;
//! # Ok(())
//! # }
//! ```

mod advice;
mod amount;
mod budget;
mod combine;
mod decide;
mod engine;
mod error;
mod handle;
mod lease;
mod note;
mod price;
mod raise;
mod record;
mod reservation;
mod settings;
mod settle;
mod snapshot;
mod spender;
mod state;
mod status;
mod store;
mod sweep;
mod take;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

pub use advice::Advice;
pub use amount::{Amount, Calls, Tokens};
pub use budget::{Budget, Limits, OnLimit};
pub use error::{CostError, Raise};
pub use lease::LeaseSettings;
pub use price::{Price, Prices};
pub use raise::TopUp;
pub use reservation::{Reservation, Resolution, Settled, Spent};
pub use settings::{CostSettings, Warning};
pub use snapshot::{ModelSpend, Snapshot, Tally, WindowSnapshot};
pub use spender::{Reserved, Spender};
pub use state::State;
pub use status::{CostFault, CostStatus};
pub use window::{Period, Rolling, UtcMonth, Window};

use self::combine::Queue;
use self::handle::{Handle, Inner};
use self::lease::Leases;
use self::reservation::Held;
use self::settle::{Core, Ending, Job, Message, Pending};
use self::status::{Pulse, Sweeping};
use self::store::{CostStore, Registered};
use crate::audit::{Audit, AuditEvent, AuditKeys, AuditOptions};
use crate::call::Principal;
use crate::error::Disabled;
use crate::halt::{Halt, HaltSettings};
use crate::ids::{BudgetName, CallId, ReservationId, TenantId};
use crate::store::{Database, DatabaseError, Store};
use crate::task;
use crate::time::Clock;
use crate::usage::Ceiling;

/// Enforces budgets. Cheap to clone; every clone is the same gate.
///
/// A clone counts the reservations that refer to it apart from those of others, so tasks that reserve
/// at the same time are fastest with a clone each.
pub struct Cost {
    handle: Arc<Handle>,
    off: Option<Disabled>,
}

impl Cost {
    /// A cost gate over `store`, with its background tasks. Must be called within a runtime.
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt, settings: CostSettings) -> Self {
        let (reserving, to_reserve) = Queue::new("reserve from a budget");
        let (ending, to_end) = Queue::new("end a reservation");
        let core = Arc::new(Core {
            store: CostStore::new(store),
            audit,
            halt,
            settings,
            reserving,
            ending,
            leases: Leases::new(),
            closing: watch::Sender::new(false),
            kept: AtomicBool::new(false),
            pulse: Pulse::default(),
        });
        core.audit.redeem(note::MODULE, note::taker(&core));
        let (queue, jobs) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        // Weak: they end when nobody can ask any more.
        let (reserve, end) = (Arc::downgrade(&core), Arc::downgrade(&core));
        let turns = combine::turns();
        task::spawn(combine::work(
            to_reserve,
            Arc::clone(&turns),
            move |batch| {
                let core = reserve.upgrade();
                async move {
                    if let Some(core) = core {
                        core.reserve(batch).await;
                    }
                }
            },
        ));
        task::spawn(combine::work(to_end, turns, move |batch| {
            let core = end.upgrade();
            async move {
                if let Some(core) = core {
                    core.end(batch).await;
                }
            }
        }));
        task::spawn(settle::work(Arc::clone(&core), jobs, queue.downgrade()));
        task::spawn(sweep::watch(Sweeping::begin(&core), stopped));
        // Decoding the price list takes tens of milliseconds; the first call should not wait for it.
        tokio::task::spawn_blocking(Prices::warm);
        let inner = Arc::new(Inner { queue, stop });
        Self {
            handle: Arc::new(Handle { core, inner }),
            off: None,
        }
    }

    /// The same gate, switched `off`: it answers nothing else. What was reserved before is settled in
    /// the background all the same.
    pub(crate) fn switched(self, off: Option<Disabled>) -> Self {
        Self { off, ..self }
    }

    /// The cost gate alone, for a program that needs no other gate, and for tests.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database cannot be opened.
    pub async fn open(
        database: &Database,
        keys: AuditKeys,
        tenant: TenantId,
        clock: Arc<dyn Clock>,
        settings: CostSettings,
    ) -> Result<Self, DatabaseError> {
        let store = Store::open(database, tenant, clock).await?;
        let audit = Audit::start(store.clone(), keys, &AuditOptions::default());
        let halt = Halt::new(store.clone(), audit.clone(), &HaltSettings::default());
        halt.load().await?;
        Ok(Self::new(store, audit, halt, settings))
    }

    /// Puts `budget` in force, for every process at its next call, replacing the one of the same name.
    ///
    /// Windows that are open get the new limits. Where more is spent already, what is beyond
    /// counts as overrun, audited, and nothing is admitted until there is room.
    ///
    /// # Errors
    ///
    /// * [`CostError::InvalidBudget`] names the field that cannot be enforced.
    /// * [`CostError::Store`] if it could not be saved.
    ///
    /// # Cancel safety
    ///
    /// It is registered or not, as a whole.
    pub async fn register(&self, budget: Budget) -> Result<(), CostError> {
        let core = self.on()?;
        let name = budget.validate()?;
        let outcome = core.store.upsert_budget(&name, &budget).await?;
        if matches!(outcome, Registered::NameTaken) {
            return Err(CostError::InvalidBudget {
                field: "name",
                problem: "is that of a budget for something else; choose another, or remove that one",
            });
        }
        if budget.leased.is_some() {
            self.core().leases.see();
        }
        self.core().leases.forget_plans();
        for event in record::registered(&name, &budget, &outcome) {
            self.log(event).await;
        }
        Ok(())
    }

    /// Takes the budget `name` out of force; says whether there was one. What was spent stays on
    /// record. An agent to whom no other budget allows anything may spend nothing.
    ///
    /// # Errors
    ///
    /// [`CostError::Store`] if it could not be removed.
    ///
    /// # Cancel safety
    ///
    /// It is removed or not, as a whole.
    pub async fn remove(&self, name: &BudgetName) -> Result<bool, CostError> {
        let Some(whose) = self.on()?.store.delete_budget(name).await? else {
            return Ok(false);
        };
        self.core().leases.forget_plans();
        self.log(record::removed(name, &whose)).await;
        Ok(true)
    }

    /// Every budget of the tenant, by name.
    ///
    /// # Errors
    ///
    /// [`CostError::Store`] if they could not be read.
    pub async fn budgets(&self) -> Result<Vec<Budget>, CostError> {
        Ok(self.on()?.store.list_budgets().await?)
    }

    /// The name that people know for [`reserve`](Self::reserve). It takes the ceiling: a check that
    /// takes nothing would let fifty racing callers pass.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
    ///
    /// # Cancel safety
    ///
    /// As [`reserve`](Self::reserve).
    pub async fn check_or_raise(
        &self,
        who: &Principal,
        ceiling: Ceiling,
    ) -> Result<Reservation, CostError> {
        self.reserve(who, ceiling).await
    }

    /// Takes `ceiling`, the most the next call can cost, out of every budget that the call fits, or out
    /// of none.
    ///
    /// Calls that come at the same time are decided together, by one statement, and each as if it were
    /// alone.
    ///
    /// # Errors
    ///
    /// * [`CostError::Disabled`] if the host switched the gate off.
    /// * [`CostError::Halted`] if the agent is halted.
    /// * [`CostError::Exceeded`] if a budget has less left. Nothing is taken from any.
    /// * [`CostError::NeedsApproval`] if the only budgets that have less left are such that ask.
    /// * [`CostError::SessionTooLong`] if a budget does not let the session last so long.
    /// * [`CostError::NoBudget`] if none [allows](Budget) the call: no limit is not the same as no budget.
    /// * [`CostError::UnknownModel`] if nobody knows what the model costs.
    /// * [`CostError::Unpriced`] if a ceiling in tokens meets a budget in dollars without a price.
    /// * [`CostError::InvalidCeiling`] if the ceiling is nothing, less, or too large.
    /// * [`CostError::Store`] if the answer could not be had. Do not make the call.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what a dropped future may have taken is released in the background.
    pub async fn reserve(
        &self,
        who: &Principal,
        ceiling: Ceiling,
    ) -> Result<Reservation, CostError> {
        self.take(who, ceiling, None).await
    }

    /// [`reserve`](Self::reserve), for a call that the enforcement point governs.
    pub(crate) async fn reserve_for(
        &self,
        who: &Principal,
        ceiling: Ceiling,
        call: CallId,
    ) -> Result<Reservation, CostError> {
        self.take(who, ceiling, Some(call)).await
    }

    /// Charges what a call really took whose reservation was dropped, perhaps by a process that is
    /// gone.
    ///
    /// # Errors
    ///
    /// * [`CostError::NoReservation`] if there is none of this id.
    /// * [`CostError::NotHeld`] if it was settled or released before.
    /// * [`CostError::InvalidSpent`] if the amount cannot be.
    /// * [`CostError::Store`] if it could not be recorded now. It is tried again in the background.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background, or had not begun.
    pub async fn settle_late(
        &self,
        id: ReservationId,
        spent: impl Into<Spent>,
    ) -> Result<Settled, CostError> {
        self.end_by_id(id, Ending::Settle(spent.into())).await
    }

    /// Ends a reservation of [unknown](State::Unknown) outcome, by the word of somebody who knows.
    /// Audited.
    ///
    /// # Errors
    ///
    /// As [`settle_late`](Self::settle_late); [`CostError::NotHeld`] also while it is held.
    ///
    /// # Cancel safety
    ///
    /// As [`settle_late`](Self::settle_late).
    pub async fn resolve(
        &self,
        id: ReservationId,
        resolution: Resolution,
    ) -> Result<Settled, CostError> {
        let ending = match resolution {
            Resolution::Charge(spent) => Ending::Charge(spent),
            Resolution::Release => Ending::Absolve,
        };
        let cost_nothing = matches!(ending, Ending::Absolve);
        let answer = self.end_by_id(id, ending).await;
        let is_released = match &answer {
            Ok(_) => cost_nothing,
            Err(CostError::NotHeld { state }) => cost_nothing && *state == State::Released,
            Err(_) => false,
        };
        if is_released {
            // Of a lost slice, calls count besides. What was missed is made up for when it is said again.
            self.on()?.store.forgive_lost_calls(id).await?;
        }
        answer
    }

    async fn end_by_id(&self, id: ReservationId, ending: Ending) -> Result<Settled, CostError> {
        let core = self.on()?;
        ending.validate()?;
        let stored = if let Some(stored) = core.store.fetch_reservation(id).await? {
            stored
        } else {
            // Dropped a moment ago, it is on its way from a slice.
            core.put_unknown_on_record().await?;
            let stored = core.store.fetch_reservation(id).await?;
            stored.ok_or(CostError::NoReservation { id })?
        };
        let held = Held {
            call: None,
            id,
            who: record::principal(&stored),
            model: stored.model,
            provider: stored.provider,
            at: stored.reserved_at,
            usd: None,
            tokens: 0,
            on_record: true,
        };
        Pending::new(self, Job::of(held, ending)).complete().await
    }

    /// What is spent, held and left in the windows that a call of `who` would be charged to now, those
    /// of budgets for a model included, whichever it is.
    ///
    /// The costs by model are added up from the calls of the window: the longer it is, the longer
    /// this takes.
    ///
    /// # Errors
    ///
    /// [`CostError::Store`] if it could not be read.
    pub async fn snapshot(&self, who: &Principal) -> Result<Snapshot, CostError> {
        let store = &self.on()?.store;
        let windows = store.list_windows(who).await?;
        let spent = store.list_by_model(&windows).await?;
        Ok(Snapshot::assemble(windows, &spent))
    }

    /// Turns reservations whose lease has run out into [unknown](State::Unknown) ones, audited; says
    /// how many. A background task does it every [`sweep_every`](CostSettings::sweep_every).
    ///
    /// # Errors
    ///
    /// [`CostError::Store`] if the store could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, but the entries of the last batch may be missing from the audit trail.
    pub async fn sweep(&self) -> Result<u64, CostError> {
        Ok(sweep::once(self.on()?).await?)
    }

    /// Completes what was handed to the background, and stops the sweeper. What the store has not taken
    /// within the deadline of one statement stays charged, and the log says so.
    pub async fn shutdown(&self) {
        self.core().closing.send_replace(true);
        let _ = self.handle.inner.stop.send(true);
        let (done, drained) = oneshot::channel();
        if self.handle.inner.queue.send(Message::Flush(done)).is_ok()
            && tokio::time::timeout(self.core().store.deadline(), drained)
                .await
                .is_err()
        {
            let left = self.core().pulse.endings();
            tracing::error!(
                left,
                "reservations could not be ended in time; they stay charged until their leases run out and they are resolved"
            );
        }
        lease::return_all(self.core()).await;
        // What cannot be done now stays in the journal.
        if self.core().kept.load(Ordering::Relaxed) {
            let _ = self.core().audit.drain().await;
        }
        self.core().store.close_sessions().await;
    }

    /// Whether the host left the gate on.
    pub(crate) fn is_on(&self) -> bool {
        self.off.is_none()
    }

    fn on(&self) -> Result<&Core, Disabled> {
        self.off.map_or(Ok(self.core()), Err)
    }

    /// Whether calls are let through when their budget cannot be asked.
    pub(crate) fn fails_open(&self) -> bool {
        self.core().settings.fail_open
    }

    fn core(&self) -> &Core {
        &self.handle.core
    }

    async fn log(&self, event: AuditEvent) {
        self.core().log(event).await;
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cost")
            .field("settings", &self.core().settings)
            .finish_non_exhaustive()
    }
}
