//! The proof that every gate was passed, and the only way to settle it.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::ask::Admitted;
use super::outcome::{Outcome, Settlement, Status};
use super::record::{self, Ended};
use crate::audit::{AuditError, Receipt, sha256};
use crate::call::{Action, Parts, Principal};
use crate::contracts::{Ending, Passed};
use crate::cost::{CostError, Reservation, Settled, Spent};
use crate::error::Refusal;
use crate::governance::Governance;
use crate::ids::{CallId, EventId, ReservationId};
use crate::loops::{Clear, Warning};
use crate::money::Usd;
use crate::usage::{CeilingAmount, Usage};

/// Proof that a call passed every gate and that the decision is on record.
///
/// It has no public constructor, so a function that takes a `&Permit` cannot be reached without
/// passing the gates. It is bound to its call: who, what, with which arguments.
///
/// Say how the call ended with [`settle`](Self::settle), or that it never began with
/// [`release`](Self::release). Dropped without either (cancelled, panicked, disconnected), its
/// outcome is *unknown*: recorded so, and charged the larger of what was
/// [observed](Self::observe) and what was reserved.
#[must_use = "a dropped permit stays charged, with an unknown outcome"]
pub struct Permit {
    live: Option<Live>,
}

struct Live {
    gov: Governance,
    principal: Principal,
    action: Action,
    id: CallId,
    digest: [u8; 32],
    halt_epoch: u64,
    reservation: Option<Reservation>,
    started: EventId,
    /// The call in the loop gate's window, and what the model is to be told of it.
    clear: Option<Clear>,
    /// The contracts that have to be asked when it ends.
    passed: Option<Passed>,
    /// What the work has reported so far.
    seen: Mutex<Seen>,
}

/// What a permit is bound to.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) id: CallId,
    pub(super) digest: [u8; 32],
    pub(super) started: EventId,
    pub(super) halt_epoch: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    usage: Option<Usage>,
    cost: Option<Usd>,
    output: Option<[u8; 32]>,
}

impl Permit {
    pub(super) fn new(
        gov: Governance,
        parts: &Parts<'_>,
        bound: Bound,
        admitted: Admitted,
    ) -> Self {
        let Bound {
            id,
            digest,
            started,
            halt_epoch,
        } = bound;
        let promised = |passed: &Passed| !passed.promises_nothing();
        Self {
            live: Some(Live {
                gov,
                principal: parts.principal.clone(),
                action: parts.action.clone(),
                id,
                digest,
                halt_epoch,
                reservation: admitted.reservation.keep(),
                started,
                clear: admitted.clear,
                passed: admitted.passed.filter(promised),
                seen: Mutex::default(),
            }),
        }
    }

    /// The call, as every entry about it names it.
    #[must_use]
    pub fn call_id(&self) -> Option<CallId> {
        self.live.as_ref().map(|live| live.id)
    }

    /// The keyed hash of the call that was permitted.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.live.as_ref().map(|live| live.digest)
    }

    /// The reservation, if the call may cost something.
    #[must_use]
    pub fn reservation_id(&self) -> Option<ReservationId> {
        self.live
            .as_ref()?
            .reservation
            .as_ref()
            .map(Reservation::id)
    }

    /// The entry that says that the call began: what the call leads to can name it as its parent.
    #[must_use]
    pub fn started(&self) -> Option<EventId> {
        self.live.as_ref().map(|live| live.started)
    }

    /// How often what was known of halts had changed when the gates were asked
    /// ([`Halt::epoch`](crate::halt::Halt::epoch)).
    #[must_use]
    pub fn halt_epoch(&self) -> Option<u64> {
        self.live.as_ref().map(|live| live.halt_epoch)
    }

    /// What the model is to be told: that it goes round in circles, and was let through all the same.
    #[must_use]
    pub fn warning(&self) -> Option<Warning> {
        self.live.as_ref()?.clear.as_ref()?.warning()
    }

    /// Whether it is still good: for work that waits before it begins, or has several steps. Decides
    /// at once, from memory.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the agent, its session, or an agent that started it was halted meanwhile. Stop,
    /// and settle with what is known.
    pub fn check(&self) -> Result<(), Refusal> {
        match &self.live {
            Some(live) => {
                let asked = live.gov.halt().check(&live.principal);
                asked.map_err(|halted| Refusal::from(&halted))
            }
            None => Ok(()),
        }
    }

    /// Waits until the permit is no longer good, for work that cannot be run by
    /// [`Governance::run`]: stop then. Never ends if that does not happen.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn until_halted(&self) -> Refusal {
        match &self.live {
            Some(live) => Refusal::from(&live.gov.halt().until_halted(&live.principal).await),
            None => std::future::pending().await,
        }
    }

    /// Tells what came out, for loop detection and the trail: only a keyed hash of it is kept.
    pub fn observe_output(&self, content: &[u8]) {
        let Some(live) = &self.live else { return };
        let hash = sha256(content);
        live.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .output = Some(hash);
    }

    /// Tells how many tokens have been seen so far; the largest counts if the permit is dropped.
    pub fn observe(&self, usage: &Usage) {
        let Some(live) = &self.live else { return };
        if let Some(reservation) = &live.reservation {
            reservation.observe(usage);
        }
        let mut seen = live.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.usage = Some(seen.usage.map_or(*usage, |before| before.max(*usage)));
    }

    /// Tells what the call has cost so far, where it is not a matter of tokens; the largest counts if the
    /// permit is dropped.
    pub fn observe_cost(&self, cost: Usd) {
        let Some(live) = &self.live else { return };
        if let Some(reservation) = &live.reservation {
            reservation.observe_cost(cost);
        }
        let mut seen = live.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.cost = Some(seen.cost.map_or(cost, |before| before.max(cost)));
    }

    /// Records how the call ended and charges what it cost.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the settlement goes on without the caller.
    pub async fn settle(mut self, outcome: Outcome) -> Settlement {
        match self.live.take() {
            Some(live) => live.settle(outcome).await,
            None => never(),
        }
    }

    /// Like [`settle`](Self::settle), for destructors: nobody waits. `shutdown` does.
    pub fn settle_detached(mut self, outcome: Outcome) {
        if let Some(live) = self.live.take() {
            drop(live.begin_settling(outcome));
        }
    }

    /// Says that the call never began: what was reserved is given back.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the release goes on without the caller.
    pub async fn release(mut self) -> Settlement {
        match self.live.take() {
            Some(live) => live.release().await,
            None => never(),
        }
    }

    /// Like [`release`](Self::release), for destructors: nobody waits. `shutdown` does.
    pub fn release_detached(mut self) {
        if let Some(live) = self.live.take() {
            drop(live.begin_releasing());
        }
    }

    /// The work was stopped by a halt: nobody knows how far it came.
    pub(super) async fn settle_halted(self) {
        self.settle(Outcome::unknown()).await;
    }

    /// Settles with what was observed, for work that has reported to the permit as it went.
    /// Its contracts are left to the caller, who has the result.
    pub(super) async fn settle_observed(
        mut self,
        mut outcome: Outcome,
    ) -> (Settlement, Option<Passed>) {
        let Some(mut live) = self.live.take() else {
            return (never(), None);
        };
        let passed = live.passed.take();
        let seen = *live.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Of work that broke off it is the least that was taken, and no report: the reservation has it too.
        if outcome.status == Status::Completed {
            outcome.usage = outcome.usage.or(seen.usage);
            outcome.cost = outcome.cost.or(seen.cost);
        }
        outcome.output = outcome.output.or(seen.output);
        (live.settle(outcome).await, passed)
    }
}

/// The answer of a permit that was used up, which no caller can hold: using it takes it by value.
fn never() -> Settlement {
    Settlement {
        receipt: Receipt::Lost {
            id: EventId::new(),
            error: AuditError::Closed,
        },
        charged: None,
        broken: None,
    }
}

type Settling = tokio::task::JoinHandle<Settlement>;

impl Live {
    async fn settle(self, outcome: Outcome) -> Settlement {
        self.begin_settling(outcome)
            .await
            .unwrap_or_else(|_| never())
    }

    async fn release(self) -> Settlement {
        self.begin_releasing().await.unwrap_or_else(|_| never())
    }

    /// The outcome is settled by a task of its own, so that a caller who goes away in the middle
    /// leaves nothing half done.
    fn begin_settling(self, outcome: Outcome) -> Settling {
        let gov = self.gov.clone();
        gov.spawn_settlement(self.finish(outcome))
    }

    fn begin_releasing(self) -> Settling {
        let gov = self.gov.clone();
        gov.spawn_settlement(async move {
            let Self {
                gov,
                principal,
                action,
                id,
                reservation,
                started,
                ..
            } = self;
            let charged = match reservation {
                Some(reservation) => reservation.release().await.err().map(Err),
                None => None,
            };
            let ended = Ended {
                principal: &principal,
                action: &action,
                id,
                started,
                halted: false,
            };
            let event = record::ended(&ended, &Outcome::failed("not_started"));
            Settlement {
                receipt: gov.audit().log(event).await,
                charged,
                broken: None,
            }
        })
    }

    async fn finish(self, outcome: Outcome) -> Settlement {
        let Self {
            gov,
            principal,
            action,
            id,
            reservation,
            started,
            clear,
            passed,
            ..
        } = self;
        let halted = gov.halt().check(&principal).is_err();
        if let Some((mark, output)) = clear.and_then(|clear| clear.mark()).zip(outcome.output) {
            gov.loops().observe_result(&principal, mark, &output);
        }
        let charged = match reservation {
            Some(reservation) => Some(charge(reservation, &action, &outcome).await),
            None => None,
        };
        if let Some(Err(error)) = &charged {
            tracing::error!(call = %id, %error, "a call could not be settled; its reserve stays charged");
        }
        let ended = Ended {
            principal: &principal,
            action: &action,
            id,
            started,
            halted,
        };
        let receipt = gov.audit().log(record::ended(&ended, &outcome)).await;
        let broken = match passed {
            Some(passed) => {
                let ending = match outcome.status {
                    Status::Completed => Ending::completed_unseen(),
                    Status::Failed(_) | Status::Refunded(_) | Status::Unknown => Ending::failed(),
                };
                let after = gov.contracts().after(&passed, &ending.recorded(&receipt));
                after.await.err()
            }
            None => None,
        };
        Settlement {
            receipt,
            charged,
            broken,
        }
    }
}

/// Charges what the call took, or leaves it charged as unknown where nobody knows.
async fn charge(
    reservation: Reservation,
    action: &Action,
    outcome: &Outcome,
) -> Result<Settled, CostError> {
    if matches!(outcome.status, Status::Refunded(_)) {
        return reservation.refund().await;
    }
    let completed_tool = matches!(action, Action::Tool(_)) && outcome.status == Status::Completed;
    let spent = match (outcome.status, outcome.usage, outcome.cost) {
        (Status::Unknown, ..) => None,
        (_, Some(usage), Some(cost)) => Some(Spent::tokens(usage).billed(cost)),
        (_, Some(usage), None) => Some(Spent::tokens(usage)),
        (_, None, Some(cost)) => Some(Spent::usd(cost)),
        // The declared price of a tool is its price, if it did what it was to do.
        (_, None, None) => match reservation.ceiling().amount {
            CeilingAmount::Usd(price) if completed_tool => Some(Spent::usd(price)),
            _ => None,
        },
    };
    match (spent, &outcome.model) {
        (Some(spent), Some(model)) => reservation.settle(spent.model(model)).await,
        (Some(spent), None) => reservation.settle(spent).await,
        (None, _) => reservation.leave_unknown().await,
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            drop(live.begin_settling(Outcome::unknown()));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("call_id", &self.call_id())
            .finish_non_exhaustive()
    }
}
