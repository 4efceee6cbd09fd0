//! The proof that a budget allowed a call, and its end.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Cost;
use super::error::CostError;
use super::lease::{self, Ended, Part};
use super::settle::{Ending, Job, Pending};
use crate::call::Principal;
use crate::ids::{CallId, ModelName, ReservationId};
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::{Ceiling, Usage};

/// What a call took: tokens as the provider bills them, or dollars.
///
/// ```
/// use portcullis::{ModelName, Usage, Usd};
/// use portcullis::cost::Spent;
///
/// let model = ModelName::parse("gpt-4o-mini-2024-07-18")?;
/// let call = Spent::tokens(Usage::tokens(1_000, 200).cached(800)).model(&model);
/// let fee = Spent::usd(Usd::cents(3));
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    pub(super) usage: Option<Usage>,
    pub(super) usd: Option<Usd>,
    pub(super) model: Option<ModelName>,
    pub(super) provider: Option<String>,
}

impl Spent {
    /// So many tokens, at the price of the model that was reserved for, unless another is named.
    #[must_use]
    pub const fn tokens(usage: Usage) -> Self {
        Self {
            usage: Some(usage),
            usd: None,
            model: None,
            provider: None,
        }
    }

    /// So many dollars. The tokens that were reserved, if any, stay charged: they are not known.
    #[must_use]
    pub const fn usd(amount: Usd) -> Self {
        Self {
            usage: None,
            usd: Some(amount),
            model: None,
            provider: None,
        }
    }

    /// So many dollars, whatever the price list says: the provider's own bill.
    #[must_use]
    pub const fn billed(mut self, amount: Usd) -> Self {
        self.usd = Some(amount);
        self
    }

    /// The model that answered, as the provider names it. Where it has no price, or only the list's and
    /// the model that was reserved for has [yours](super::Prices::with), that model's applies.
    #[must_use]
    pub fn model(mut self, model: &ModelName) -> Self {
        self.model = Some(model.clone());
        self
    }

    /// The provider, as `genai-prices` names it.
    #[must_use]
    pub fn provider(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }
}

impl From<Usage> for Spent {
    fn from(usage: Usage) -> Self {
        Self::tokens(usage)
    }
}

impl From<Usd> for Spent {
    fn from(amount: Usd) -> Self {
        Self::usd(amount)
    }
}

/// What a call was charged at in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// The reservation.
    pub id: ReservationId,
    /// Dollars; the most of all budgets, where a fallback price differs.
    pub usd: Usd,
    /// Tokens, in and out together.
    pub tokens: u64,
    /// The dollars beyond the ceiling.
    pub overrun: Usd,
    /// The tokens beyond the ceiling.
    pub overrun_tokens: u64,
    /// Whether no price was known, so that what was reserved stays charged.
    pub estimated: bool,
}

impl Settled {
    /// The larger of both: the same call, charged in two ways.
    fn or_more(mut self, other: &Self) -> Self {
        self.usd = self.usd.max(other.usd);
        self.tokens = self.tokens.max(other.tokens);
        self.overrun = self.overrun.max(other.overrun);
        self.overrun_tokens = self.overrun_tokens.max(other.overrun_tokens);
        self.estimated |= other.estimated;
        self
    }
}

/// What somebody who knows says about a reservation of unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It cost this.
    Charge(Spent),
    /// It cost nothing.
    Release,
}

/// Proof that every budget of the agent allowed one call, and the way to say what it cost.
///
/// It has no public constructor, so a function that takes a `Reservation` cannot be reached without
/// passing the gate. Dropped without being settled or released, it stays charged at the larger of its
/// ceiling and what was [observed](Self::observe), until somebody [settles it
/// late](Cost::settle_late) or [resolves](Cost::resolve) it.
#[must_use = "an unsettled reservation stays charged at its ceiling"]
pub struct Reservation {
    cost: Cost,
    /// What was charged by statement. Gone once it is settled, released or handed over.
    held: Option<Held>,
    /// What was taken from slices, likewise.
    part: Option<Part>,
    call: Option<CallId>,
    seen: Mutex<Seen>,
    id: ReservationId,
    ceiling: Ceiling,
}

/// The least that a call has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    usage: Option<Usage>,
    usd: Option<Usd>,
}

/// What it takes to end a reservation.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: ReservationId,
    pub(super) who: Principal,
    pub(super) model: Option<ModelName>,
    pub(super) provider: Option<String>,
    /// By when the call is priced.
    pub(super) at: Timestamp,
    /// The ceiling's price.
    pub(super) usd: Option<Usd>,
    pub(super) tokens: u64,
    /// The governed call it is for, by which the trail joins cost and call.
    pub(super) call: Option<CallId>,
    /// `false` if it was let through because the store could not be asked.
    pub(super) on_record: bool,
}

impl Reservation {
    pub(super) fn of_slices(
        cost: Cost,
        part: Part,
        ceiling: Ceiling,
        call: Option<CallId>,
    ) -> Self {
        Self {
            cost,
            id: ReservationId::new(),
            held: None,
            part: Some(part),
            call,
            seen: Mutex::default(),
            ceiling,
        }
    }

    pub(super) fn new(cost: Cost, held: Held, part: Option<Part>, ceiling: Ceiling) -> Self {
        Self {
            cost,
            id: held.id,
            call: held.call,
            held: Some(held),
            part,
            seen: Mutex::default(),
            ceiling,
        }
    }

    /// The id, by which it can be settled late or resolved.
    #[must_use]
    pub const fn id(&self) -> ReservationId {
        self.id
    }

    /// What was declared.
    #[must_use]
    pub const fn ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// Whether anything is reserved. `false` only under
    /// [`fail_open`](super::CostSettings::fail_open), when the store could not be asked.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.part.is_some() || self.held.as_ref().is_some_and(|held| held.on_record)
    }

    /// Notes what has been used so far, as a stream reports it. The largest counts are kept.
    pub fn observe(&self, usage: &Usage) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.usage = Some(seen.usage.map_or(*usage, |before| before.max(*usage)));
    }

    /// Notes what it has cost so far, where that is not a matter of tokens. The largest is kept.
    pub fn observe_cost(&self, cost: Usd) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.usd = seen.usd.max(Some(cost.max(Usd::ZERO)));
    }

    /// Charges what the call really took: [`Spent`], [`Usage`] or [`Usd`].
    ///
    /// Never refused for the limit: the money is spent. What it took beyond the ceiling is recorded as
    /// overrun. Without a known price, what was reserved stays charged. Usage of zero tokens is
    /// believed; where the provider reported none, drop the reservation or call
    /// [`leave_unknown`](Self::leave_unknown).
    ///
    /// # Errors
    ///
    /// * [`CostError::NotHeld`] if it was settled or resolved by id meanwhile.
    /// * [`CostError::InvalidSpent`] if the amount cannot be; it then counts as unknown.
    /// * [`CostError::Store`] if it could not be recorded now. It is tried again in the background.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn settle(self, spent: impl Into<Spent>) -> Result<Settled, CostError> {
        let ending = Ending::Settle(spent.into());
        ending.validate()?;
        self.end(ending).await
    }

    /// Charges nothing: the call was never made.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn release(self) -> Result<(), CostError> {
        self.end(Ending::Release).await.map(drop)
    }

    /// Charges nothing, because the call was made and came to nothing: the provider failed, and bills
    /// nothing. Limits of calls count it all the same.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn refund(self) -> Result<Settled, CostError> {
        self.end(Ending::Refund).await
    }

    /// Leaves it charged at the larger of its ceiling and what was observed: nobody knows what the
    /// call cost. What dropping it does, and waits for it.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn leave_unknown(self) -> Result<Settled, CostError> {
        let ending = Ending::Unknown(self.seen());
        self.end(ending).await
    }

    /// As [`settle`](Self::settle), in the background: for where nothing can be awaited.
    /// [`Cost::shutdown`] waits for it. An amount that cannot be leaves the outcome unknown.
    pub fn settle_detached(mut self, spent: impl Into<Spent>) {
        let ending = Ending::Settle(spent.into());
        if ending.validate().is_ok() {
            self.hand_over(ending);
        }
    }

    /// As [`release`](Self::release), in the background.
    pub fn release_detached(mut self) {
        self.hand_over(Ending::Release);
    }

    /// As [`refund`](Self::refund), in the background.
    pub fn refund_detached(mut self) {
        self.hand_over(Ending::Refund);
    }

    fn seen(&self) -> Option<Spent> {
        let Seen { usage, usd } = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (usage.is_some() || usd.is_some()).then_some(Spent {
            usage,
            usd,
            model: None,
            provider: None,
        })
    }

    /// What was taken from slices ends at once, in memory; the rest by a statement.
    pub(super) async fn end(mut self, ending: Ending) -> Result<Settled, CostError> {
        let of_slices = self.end_part(&ending);
        let by_statement = match self.take(ending) {
            Some(job) => Some(Box::pin(Pending::new(&self.cost, job).complete()).await?),
            None => None,
        };
        let of_slices = match of_slices {
            Some(ended) => {
                let core = self.cost.core();
                if let Some(rest) = core.after_slices(ended.overran, ended.is_leaving) {
                    rest.await?;
                }
                Some(ended.settled)
            }
            None => None,
        };
        match (by_statement, of_slices) {
            (Some(one), Some(other)) => Ok(one.or_more(&other)),
            (one, other) => one
                .or(other)
                .ok_or(CostError::NoReservation { id: self.id }),
        }
    }

    fn hand_over(&mut self, ending: Ending) {
        self.end_part(&ending);
        if let Some(job) = self.take(ending) {
            drop(Pending::new(&self.cost, job));
        }
    }

    fn end_part(&mut self, ending: &Ending) -> Option<Ended> {
        let part = self.part.take()?;
        // One id, one row: with a statement's part, this one is found by an id of its own.
        let id = if self.held.is_some() && matches!(ending, Ending::Unknown(_)) {
            ReservationId::new()
        } else {
            self.id
        };
        let call = lease::About {
            id,
            call: self.call,
            ceiling: &self.ceiling,
        };
        Some(self.cost.core().end_part(part, &call, ending))
    }

    fn take(&mut self, ending: Ending) -> Option<Job> {
        self.held.take().map(|held| Job::of(held, ending))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.held.is_some() || self.part.is_some() {
            self.hand_over(Ending::Unknown(self.seen()));
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("id", &self.id)
            .field("ceiling", &self.ceiling)
            .finish_non_exhaustive()
    }
}
