//! The proof that every gate was passed, and the only way to settle it.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::outcome::{Outcome, Settlement, Status};
use super::record::{self, Ended};
use crate::audit::{AuditError, Receipt};
use crate::call::{Action, Parts, Principal};
use crate::cost::{CostError, Reservation, Settled, Spent};
use crate::governance::Governance;
use crate::ids::{CallId, EventId, ReservationId};
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
    reservation: Option<Reservation>,
    started: EventId,
    /// What the work has reported so far.
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    usage: Option<Usage>,
    cost: Option<Usd>,
}

impl Permit {
    pub(super) fn new(
        gov: Governance,
        id: CallId,
        digest: [u8; 32],
        parts: &Parts<'_>,
        reservation: Option<Reservation>,
        started: EventId,
    ) -> Self {
        Self {
            live: Some(Live {
                gov,
                principal: parts.principal.clone(),
                action: parts.action.clone(),
                id,
                digest,
                reservation,
                started,
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

    /// Tells how many tokens have been seen so far; the largest counts if the permit is dropped.
    pub fn observe(&self, usage: &Usage) {
        let Some(live) = &self.live else { return };
        if let Some(reservation) = &live.reservation {
            reservation.observe(usage);
        }
        let mut seen = live.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.usage = Some(seen.usage.map_or(*usage, |before| before.max(*usage)));
    }

    /// Tells what the call has cost so far, where it is not a matter of tokens.
    pub fn observe_cost(&self, cost: Usd) {
        let Some(live) = &self.live else { return };
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

    /// Settles with what was observed, for work that has reported to the permit as it went.
    pub(super) async fn settle_observed(mut self, mut outcome: Outcome) -> Settlement {
        let Some(live) = self.live.take() else {
            return never();
        };
        let seen = *live.seen.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.usage = outcome.usage.or(seen.usage);
        outcome.cost = outcome.cost.or(seen.cost);
        live.settle(outcome).await
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
            };
            let event = record::ended(&ended, &Outcome::failed("not_started"));
            Settlement {
                receipt: gov.audit().log(event).await,
                charged,
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
            ..
        } = self;
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
        };
        let receipt = gov.audit().log(record::ended(&ended, &outcome)).await;
        Settlement { receipt, charged }
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
