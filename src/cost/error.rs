//! What the cost gate can answer instead of a reservation.

use std::time::Duration;

use super::budget::{Amount, State, Window};
use crate::error::{Disabled, ErrorKind};
use crate::halt::Halted;
use crate::ids::{BudgetName, ReservationId};
use crate::store::StoreError;

/// Why a call may not be made, or its cost not be recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// The agent is halted.
    #[error(transparent)]
    Halted(#[from] Halted),
    /// A budget has less left than the ceiling. Nothing was taken from any.
    #[error("{}; {}", self.reason(), self.remedy())]
    Exceeded {
        /// The budget.
        budget: BudgetName,
        /// The session or the day.
        window: Window,
        /// The limit.
        limit: Amount,
        /// What is left of it.
        left: Amount,
        /// What the ceiling asked for.
        asked: Amount,
        /// When the window ends and there is room for the ceiling again, if ever.
        retry_after: Option<Duration>,
    },
    /// The session has lasted longer than the budget lets it.
    #[error("{}; {}", self.reason(), self.remedy())]
    SessionTooLong {
        /// The budget.
        budget: BudgetName,
        /// The most seconds.
        limit: u32,
    },
    /// The agent has no budget. No limit is not the same as no budget.
    #[error("{}; {}", self.reason(), self.remedy())]
    NoBudget,
    /// Nobody knows what the model costs.
    #[error("{}; {}", self.reason(), self.remedy())]
    UnknownModel,
    /// A ceiling in tokens, a budget in dollars, and neither a model nor a fallback price.
    #[error("{}; {}", self.reason(), self.remedy())]
    Unpriced {
        /// The budget.
        budget: BudgetName,
    },
    /// The ceiling is none.
    #[error("the ceiling {problem}")]
    InvalidCeiling {
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// What a call is said to have cost cannot be.
    #[error("the cost {problem}")]
    InvalidSpent {
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The budget cannot be enforced.
    #[error("the budget's {field} {problem}")]
    InvalidBudget {
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// There is no such reservation.
    #[error("{}; {}", self.reason(), self.remedy())]
    NoReservation {
        /// The id.
        id: ReservationId,
    },
    /// The reservation is past that: settled or released already, or not yet of unknown outcome.
    #[error("{}; {}", self.reason(), self.remedy())]
    NotHeld {
        /// How it stands.
        state: State,
    },
    /// The host switched the gate off.
    #[error(transparent)]
    Disabled(#[from] Disabled),
    /// The answer could not be had. Do not make the call.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CostError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Halted(_)
            | Self::Exceeded { .. }
            | Self::SessionTooLong { .. }
            | Self::NoBudget
            | Self::UnknownModel
            | Self::Unpriced { .. } => ErrorKind::Denied,
            Self::InvalidCeiling { .. }
            | Self::InvalidSpent { .. }
            | Self::InvalidBudget { .. }
            | Self::NoReservation { .. }
            | Self::NotHeld { .. } => ErrorKind::Misuse,
            Self::Disabled(disabled) => disabled.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Halted(halted) => halted.reason(),
            Self::Disabled(disabled) => disabled.reason().to_owned(),
            Self::Exceeded {
                budget,
                window,
                limit,
                left,
                asked,
                ..
            } => format!(
                "the budget `{budget}` has {left} of {limit} left for this {window}, and the call may take {asked}"
            ),
            Self::SessionTooLong { budget, limit } => {
                format!("the session has lasted longer than the {limit} seconds of `{budget}`")
            }
            Self::NoBudget => "the agent has no budget".to_owned(),
            Self::UnknownModel => "nobody knows the price of this model".to_owned(),
            Self::Unpriced { budget } => {
                format!("the ceiling is in tokens and the budget `{budget}` in dollars")
            }
            Self::NoReservation { id } => format!("there is no reservation {id}"),
            Self::NotHeld { state } => format!("the reservation is {state}"),
            Self::InvalidCeiling { .. }
            | Self::InvalidSpent { .. }
            | Self::InvalidBudget { .. }
            | Self::Store(_) => self.to_string(),
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Halted(halted) => halted.remedy(),
            Self::Disabled(disabled) => disabled.remedy(),
            Self::Exceeded {
                retry_after: Some(_),
                ..
            } => "declare a lower ceiling, raise the limit, or wait for the next day",
            Self::Exceeded { .. } => "declare a lower ceiling, or raise the limit",
            Self::SessionTooLong { .. } => "begin a new session, or raise session_seconds",
            Self::NoBudget => "register one, or one that is unlimited",
            Self::UnknownModel => {
                if cfg!(feature = "prices") {
                    "give it a price with Prices::with, or the budget a fallback_price"
                } else {
                    "enable the feature `prices`, give it a price with Prices::with, or the budget a fallback_price"
                }
            }
            Self::Unpriced { .. } => {
                "name the model with of_model, declare dollars, or give the budget a fallback_price"
            }
            Self::InvalidCeiling { .. } => "declare the most that the call can take",
            Self::InvalidSpent { .. } => "report what the provider billed",
            Self::InvalidBudget { .. } => "correct the budget",
            Self::NoReservation { .. } => "check the id and the tenant",
            Self::NotHeld { state: State::Held } => {
                "settle it late, or wait until its lease has run out"
            }
            Self::NotHeld { .. } => "a reservation is settled or released once",
            Self::Store(_) => "try again when the database answers",
        }
    }

    /// How long to wait before the same call may pass; `None` if waiting does not help.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Exceeded { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
