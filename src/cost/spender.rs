//! A caller that is looked up once, for those that make many calls: its reservations borrow it.
//!
//! The same budgets, slices and promise as [`Cost::reserve`]; what it saves is finding the caller's
//! slices by its name, and counting references to the gate, which all callers share, for each call.

use std::fmt;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::Cost;
use super::error::CostError;
use super::lease::{self, Part, Plan};
use super::reservation::{Reservation, Settled, Spent};
use super::settle::Ending;
use crate::call::Principal;
use crate::ids::ReservationId;
use crate::random;
use crate::usage::Ceiling;

/// One caller of the cost gate, as [`Cost::spender`] makes it: for a session that makes many calls of
/// [leased](super::Budget::leased) budgets.
pub struct Spender {
    cost: Cost,
    who: Principal,
    /// A copy of its own: its references are counted by nobody else.
    plan: ArcSwapOption<Plan>,
}

impl Cost {
    /// A handle for `who`, which reserves as [`reserve`](Self::reserve) does, and cheaper where budgets are
    /// [leased](super::Budget::leased). Keep one for each session.
    ///
    /// ```
    /// # async fn example(cost: portcullis::cost::Cost) -> Result<(), portcullis::cost::CostError> {
    /// # use portcullis::{AgentId, Ceiling, Principal, Usd};
    /// # let who = Principal::agent(AgentId::parse("researcher").unwrap());
    /// let spender = cost.spender(&who);
    /// for _ in 0..100 {
    ///     let held = spender.reserve(Ceiling::usd(Usd::cents(1))).await?;
    ///     // The call.
    ///     held.settle(Usd::cents(1)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn spender(&self, who: &Principal) -> Spender {
        Spender {
            cost: self.clone(),
            who: who.clone(),
            plan: ArcSwapOption::empty(),
        }
    }
}

impl Spender {
    /// As [`Cost::reserve`].
    ///
    /// # Errors
    ///
    /// As [`Cost::reserve`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what a dropped future may have taken is released in the background.
    pub async fn reserve(&self, ceiling: Ceiling) -> Result<Reserved<'_>, CostError> {
        let (part, at) =
            self.cost
                .take_in_memory(&self.who, &ceiling, |leases, asked, at, now| {
                    leases.take_kept(&self.plan, &self.who, asked, at, now)
                })?;
        let taken = if let Some(part) = part {
            Taken::OfSlices(part, ceiling)
        } else {
            let whole = self.cost.take_by_statement(&self.who, ceiling, None, at);
            Taken::Whole(Box::new(Box::pin(whole).await?))
        };
        Ok(Reserved {
            spender: self,
            taken,
        })
    }

    /// Whose it is.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.who
    }
}

/// Proof that every budget of a [`Spender`] allowed one call: a [`Reservation`] that borrows it.
///
/// Dropped, it stays charged, as a [`Reservation`] does.
#[must_use = "an unsettled reservation stays charged at its ceiling"]
pub struct Reserved<'s> {
    spender: &'s Spender,
    taken: Taken,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the one that must be quick"
)]
enum Taken {
    OfSlices(Part, Ceiling),
    /// Not from slices alone.
    Whole(Box<Reservation>),
    /// It has ended.
    Nothing,
}

impl Reserved<'_> {
    /// As [`Reservation::settle`].
    ///
    /// # Errors
    ///
    /// As [`Reservation::settle`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn settle(self, spent: impl Into<Spent>) -> Result<Settled, CostError> {
        let ending = Ending::Settle(spent.into());
        ending.validate()?;
        self.end(ending).await
    }

    /// As [`Reservation::release`].
    ///
    /// # Errors
    ///
    /// As [`Reservation::settle`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn release(self) -> Result<(), CostError> {
        self.end(Ending::Release).await.map(drop)
    }

    /// As [`Reservation::refund`].
    ///
    /// # Errors
    ///
    /// As [`Reservation::settle`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn refund(self) -> Result<Settled, CostError> {
        self.end(Ending::Refund).await
    }

    /// As [`Reservation::leave_unknown`].
    ///
    /// # Errors
    ///
    /// As [`Reservation::settle`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future is completed in the background.
    pub async fn leave_unknown(self) -> Result<Settled, CostError> {
        self.end(Ending::Unknown(None)).await
    }

    /// Whether anything is reserved, as [`Reservation::is_reserved`] says it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        match &self.taken {
            Taken::OfSlices(..) => true,
            Taken::Whole(whole) => whole.is_reserved(),
            Taken::Nothing => false,
        }
    }

    fn whole(&mut self) -> Option<Reservation> {
        match std::mem::replace(&mut self.taken, Taken::Nothing) {
            Taken::OfSlices(part, ceiling) => {
                let cost = self.spender.cost.for_call();
                Some(Reservation::of_slices(cost, part, ceiling, None))
            }
            Taken::Whole(whole) => Some(*whole),
            Taken::Nothing => None,
        }
    }

    async fn end(mut self, ending: Ending) -> Result<Settled, CostError> {
        match std::mem::replace(&mut self.taken, Taken::Nothing) {
            Taken::OfSlices(part, ceiling) => {
                let core = self.spender.cost.core();
                // The clock was read when it was reserved.
                let micros = u64::try_from(part.at.as_micros()).unwrap_or(0);
                let id = random::uuid_v7_at(Duration::from_micros(micros));
                let id = ReservationId::from_uuid(id);
                let call = lease::About {
                    id,
                    call: None,
                    ceiling: &ceiling,
                };
                let ended = core.end_part(part, &call, &ending);
                if let Some(rest) = core.after_slices(ended.overran, ended.is_leaving) {
                    rest.await?;
                }
                Ok(ended.settled)
            }
            Taken::Whole(whole) => Box::pin(whole.end(ending)).await,
            Taken::Nothing => Err(CostError::NoReservation {
                id: ReservationId::new(),
            }),
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        // Of unknown outcome, as any reservation that is dropped.
        drop(self.whole());
    }
}

impl fmt::Debug for Spender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spender")
            .field("who", &self.who)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Reserved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved")
            .field("spender", &self.spender)
            .finish_non_exhaustive()
    }
}
