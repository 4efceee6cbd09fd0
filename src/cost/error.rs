//! What the cost gate can answer instead of a reservation.

use std::fmt;
use std::time::Duration;

use super::amount::Amount;
use super::state::State;
use super::store::Shortfall;
use super::window::Window;
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
        /// The session, the day, and so on.
        window: Window,
        /// The limit, with its unit.
        limit: Amount,
        /// What is left of it.
        left: Amount,
        /// What the ceiling asked for.
        asked: Amount,
        /// When there is room for the ceiling again, in every budget, if ever: when the day or the month
        /// has ended, or enough has left a rolling window.
        retry_after: Option<Duration>,
    },
    /// A budget has less left than the ceiling, and somebody may raise its limit once, by what is
    /// missing. Nothing was taken from any.
    #[error("{}; {}", self.reason(), self.remedy())]
    NeedsApproval {
        /// The budget.
        budget: BudgetName,
        /// The session, the day, and so on.
        window: Window,
        /// What is missing there.
        missing: Amount,
        /// When there is room without it, if ever.
        retry_after: Option<Duration>,
        /// Every limit that has to be raised.
        raise: Raise,
    },
    /// The limit of no such window can be raised, or not by so much.
    #[error("{}; {}", self.reason(), self.remedy())]
    NotRaised {
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// Advice was asked for, and is switched off.
    #[error("{}; {}", self.reason(), self.remedy())]
    AdviceOff,
    /// The session has lasted longer than the budget lets it.
    #[error("{}; {}", self.reason(), self.remedy())]
    SessionTooLong {
        /// The budget.
        budget: BudgetName,
        /// The most seconds.
        limit: u32,
    },
    /// No budget allows the call: there is none in dollars or tokens, and none without a limit. No limit is
    /// not the same as no budget.
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
            | Self::NeedsApproval { .. }
            | Self::SessionTooLong { .. }
            | Self::NoBudget
            | Self::UnknownModel
            | Self::Unpriced { .. } => ErrorKind::Denied,
            Self::InvalidCeiling { .. }
            | Self::InvalidSpent { .. }
            | Self::InvalidBudget { .. }
            | Self::NoReservation { .. }
            | Self::NotRaised { .. }
            | Self::AdviceOff
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
            Self::NeedsApproval {
                budget,
                window,
                missing,
                ..
            } => format!("the budget `{budget}` is {missing} short for this {window}"),
            Self::NotRaised { problem } => format!("the limit was not raised: {problem}"),
            Self::AdviceOff => "advice on models is switched off".to_owned(),
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
            } => "declare a lower ceiling, raise the limit, or wait",
            Self::Exceeded { .. } => "declare a lower ceiling, or raise the limit",
            Self::NeedsApproval { .. } => "declare a lower ceiling, or have the raise approved",
            Self::NotRaised { .. } => "name a window that is open, or raise it by less",
            Self::AdviceOff => {
                "switch it on with GovernanceBuilder::routing_advice, or CostSettings::routing_advice"
            }
            Self::SessionTooLong { .. } => "begin a new session, or raise session_seconds",
            Self::NoBudget => "register one, or one that is unlimited",
            Self::UnknownModel => {
                if cfg!(feature = "prices") {
                    "give it a price with Prices::with (GovernanceBuilder::prices), or the budget a fallback_price"
                } else {
                    "enable the feature `prices`, give it a price with Prices::with (GovernanceBuilder::prices), or the budget a fallback_price"
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
            Self::Exceeded { retry_after, .. } | Self::NeedsApproval { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// What has to be raised for one call to fit: by exactly what is missing, and once.
#[derive(Clone, PartialEq, Eq)]
pub struct Raise {
    short: Vec<Shortfall>,
}

impl Raise {
    pub(super) const fn of(short: Vec<Shortfall>) -> Self {
        Self { short }
    }

    /// The budgets, their windows, and what is missing in each.
    pub fn missing(&self) -> impl Iterator<Item = (&BudgetName, &Window, Amount)> {
        let parts = self.short.iter();
        parts.map(|short| (&short.budget, &short.window, short.amount))
    }

    /// Each limit, in words that stay the same when the same call is tried again while others spend.
    pub(crate) fn limits(&self) -> Vec<String> {
        let parts = self.short.iter();
        parts
            .map(|short| format!("{} {} {}", short.budget, short.window, short.at_most))
            .collect()
    }

    pub(super) fn short(&self) -> &[Shortfall] {
        &self.short
    }
}

impl fmt::Debug for Raise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.missing()).finish()
    }
}
