//! A halt as the one who is halted meets it, and why the switch could not be turned.

use std::fmt;
use std::sync::Arc;

use super::model::{Order, Target};
use crate::error::ErrorKind;
use crate::ids::OperatorId;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Halted: nothing of it goes on until an operator resumes it.
///
/// Its message is safe to show to a model: neither who nor why is in it. Those are for the host.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.reason(), self.remedy())]
pub struct Halted {
    because: Because,
}

#[derive(Clone, PartialEq, Eq)]
enum Because {
    /// Somebody halted it, or one that started it.
    Ordered { order: Arc<Order>, inherited: bool },
    /// Nobody knows whether somebody did.
    Stale,
}

impl Halted {
    pub(super) const fn ordered(order: Arc<Order>, inherited: bool) -> Self {
        Self {
            because: Because::Ordered { order, inherited },
        }
    }

    pub(super) const fn stale() -> Self {
        Self {
            because: Because::Stale,
        }
    }

    const fn order(&self) -> Option<&Arc<Order>> {
        match &self.because {
            Because::Ordered { order, .. } => Some(order),
            Because::Stale => None,
        }
    }

    /// What is halted; `None` if that is not known, and [`WhenStale`](super::WhenStale) says to stop.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.order().map(|order| &order.target)
    }

    /// Who halted it.
    #[must_use]
    pub fn by(&self) -> Option<&OperatorId> {
        self.order().map(|order| &order.by)
    }

    /// Why, in the operator's words. Not for a model.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.order().map(|order| &*order.why)
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.order().map(|order| order.since)
    }

    /// The place of the halt among the changes of its tenant; `None` if it is not stored yet.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.order().and_then(|order| order.epoch)
    }

    /// Whether it is not the agent itself that is halted, but one that started it.
    #[must_use]
    pub const fn is_inherited(&self) -> bool {
        matches!(
            self.because,
            Because::Ordered {
                inherited: true,
                ..
            }
        )
    }

    /// Which answer it asks for: [`ErrorKind::Denied`], or [`ErrorKind::Unavailable`] if it is not known
    /// whether it is halted.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self.because {
            Because::Ordered { .. } => ErrorKind::Denied,
            Because::Stale => ErrorKind::Unavailable,
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> String {
        let reason = match &self.because {
            Because::Ordered {
                inherited: true, ..
            } => "an agent that started this one is halted",
            Because::Ordered { order, .. } => match order.target {
                Target::Everything | Target::Tenant => "all agents are halted",
                Target::Agent(_) => "the agent is halted",
                Target::Session(..) => "the session is halted",
            },
            Because::Stale => "it is not known whether the agent is halted",
        };
        reason.to_owned()
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self.because {
            Because::Ordered { .. } => "stop; only an operator can let it go on",
            Because::Stale => "stop; try again when the database can be reached",
        }
    }

    /// The one word of it in the audit trail.
    pub(super) fn word(&self) -> &'static str {
        match &self.because {
            Because::Ordered { order, .. } => order.target.word(),
            Because::Stale => "stale",
        }
    }
}

impl fmt::Debug for Halted {
    /// Without the operator's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halted")
            .field("because", &self.word())
            .field("epoch", &self.epoch())
            .field("inherited", &self.is_inherited())
            .finish_non_exhaustive()
    }
}

/// Why the halt switch could not be turned or asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HaltError {
    /// The name is an agent's, and agents let nobody go on.
    #[error("{}; {}", self.reason(), self.remedy())]
    NotAnOperator,
    /// What was given cannot be used.
    #[error("{field} {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The database did not take or give a halt. One that was to be set is in force in this process,
    /// and stored as soon as the database takes it. One that was to be lifted stands.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl HaltError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAnOperator => ErrorKind::Denied,
            Self::Invalid { .. } => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::NotAnOperator => "an agent may not let anybody go on".to_owned(),
            Self::Invalid { .. } | Self::Store(_) => self.to_string(),
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotAnOperator => "an operator must resume it, under a name that no agent has",
            Self::Invalid { .. } => "correct it",
            Self::Store(_) => {
                "check the database; resume as the operator role, which migrate --operator-role grants"
            }
        }
    }
}
