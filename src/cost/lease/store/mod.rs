//! The statements of leased budgets.
//!
//! Locks are taken in the order of the cost module: a reservation's row, then slices, then windows.

mod lost;
mod plan;
mod renew;

pub(super) use lost::Moved;
pub(super) use plan::Applicable;
pub(super) use renew::{Answer, News, Renewal};
