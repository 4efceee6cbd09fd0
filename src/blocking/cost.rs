//! The cost gate, without a runtime.

use std::ops::Deref;
use std::sync::Arc;

use super::runtime::Background;
use crate::cost::{Budget, CostError, Resolution, Settled, Snapshot, Spent};
use crate::{BudgetName, Ceiling, Principal, ReservationId, cost};

/// [`portcullis::cost::Cost`](cost::Cost), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Cost {
    cost: cost::Cost,
    background: Arc<Background>,
}

impl Cost {
    pub(super) fn new(cost: cost::Cost, background: &Arc<Background>) -> Self {
        Self {
            cost,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the gate itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&cost::Cost) -> T) -> T {
        self.background.wait(async { work(&self.cost).await })
    }

    /// Puts `budget` in force: [`Cost::register`](cost::Cost::register).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, budget: Budget) -> Result<(), CostError> {
        self.background.wait(self.cost.register(budget))
    }

    /// Takes the budget `name` out of force; says whether there was one:
    /// [`Cost::remove`](cost::Cost::remove).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&self, name: &BudgetName) -> Result<bool, CostError> {
        self.background.wait(self.cost.remove(name))
    }

    /// Every budget of the tenant: [`Cost::budgets`](cost::Cost::budgets).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn budgets(&self) -> Result<Vec<Budget>, CostError> {
        self.background.wait(self.cost.budgets())
    }

    /// The name that people know for [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// As [`Cost::check_or_raise`](cost::Cost::check_or_raise).
    pub fn check_or_raise(
        &self,
        who: &Principal,
        ceiling: Ceiling,
    ) -> Result<Reservation, CostError> {
        self.reserve(who, ceiling)
    }

    /// Takes the most that the next call can cost out of every budget of the agent, or out of none:
    /// [`Cost::reserve`](cost::Cost::reserve).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reserve(&self, who: &Principal, ceiling: Ceiling) -> Result<Reservation, CostError> {
        let reservation = self.background.wait(self.cost.reserve(who, ceiling))?;
        Ok(Reservation {
            reservation,
            background: Arc::clone(&self.background),
        })
    }

    /// Charges a call whose reservation was dropped: [`Cost::settle_late`](cost::Cost::settle_late).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn settle_late(
        &self,
        id: ReservationId,
        spent: impl Into<Spent>,
    ) -> Result<Settled, CostError> {
        self.background.wait(self.cost.settle_late(id, spent))
    }

    /// Ends a reservation of unknown outcome: [`Cost::resolve`](cost::Cost::resolve).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resolve(&self, id: ReservationId, resolution: Resolution) -> Result<Settled, CostError> {
        self.background.wait(self.cost.resolve(id, resolution))
    }

    /// What is spent, held and left: [`Cost::snapshot`](cost::Cost::snapshot).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn snapshot(&self, who: &Principal) -> Result<Snapshot, CostError> {
        self.background.wait(self.cost.snapshot(who))
    }
}

/// A [`portcullis::cost::Reservation`](cost::Reservation) that is settled without a runtime.
///
/// It reads as the reservation that it holds. Dropped, it stays charged, with an unknown outcome.
#[derive(Debug)]
#[must_use = "a dropped reservation stays charged"]
pub struct Reservation {
    reservation: cost::Reservation,
    background: Arc<Background>,
}

impl Reservation {
    /// Records what the call cost: [`Reservation::settle`](cost::Reservation::settle).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn settle(self, spent: impl Into<Spent>) -> Result<Settled, CostError> {
        let Self {
            reservation,
            background,
        } = self;
        background.wait(reservation.settle(spent))
    }

    /// Gives it back: [`Reservation::release`](cost::Reservation::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<(), CostError> {
        let Self {
            reservation,
            background,
        } = self;
        background.wait(reservation.release())
    }

    /// Leaves it charged, with an unknown outcome:
    /// [`Reservation::leave_unknown`](cost::Reservation::leave_unknown).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn leave_unknown(self) -> Result<Settled, CostError> {
        let Self {
            reservation,
            background,
        } = self;
        background.wait(reservation.leave_unknown())
    }
}

impl Deref for Reservation {
    type Target = cost::Reservation;

    fn deref(&self) -> &cost::Reservation {
        &self.reservation
    }
}
