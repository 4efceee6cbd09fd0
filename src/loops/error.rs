//! Why a loop check says no, and what is wrong with a policy.

use std::fmt;
use std::time::Duration;

use super::engine::Pattern;
use crate::canon::JsonError;
use crate::error::{Disabled, ErrorKind};
use crate::halt::Halted;
use crate::store::StoreError;

/// A no of the loop gate, or why it could not be asked or changed.
///
/// Safe to show to a model: it names neither the tool nor its arguments, nor the policy's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopError {
    /// The agent is halted.
    Halted(Halted),
    /// The agent goes round in circles.
    Looping {
        /// How.
        pattern: Pattern,
        /// When the same call is possible again, if it is not tried until then. Another call may be
        /// made at once.
        retry_after: Duration,
        /// Whether the agent is being halted for it.
        halts: bool,
    },
    /// What other processes have seen of the session could not be read, and the policy does not go
    /// on without it.
    Unavailable(StoreError),
    /// The tool has no valid name.
    Tool,
    /// The arguments have no canonical form.
    Arguments(JsonError),
    /// A policy that was given is none.
    Policy(InvalidLoopPolicy),
    /// The database did not take or give a policy.
    Store(StoreError),
    /// The host switched the gate off.
    Disabled(Disabled),
}

impl LoopError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Halted(_) | Self::Looping { .. } => ErrorKind::Denied,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Tool | Self::Arguments(_) | Self::Policy(_) => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
            Self::Disabled(disabled) => disabled.kind(),
        }
    }

    /// Why, without the remedy.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Halted(_) => "the agent is halted",
            Self::Looping { pattern, .. } => pattern.reason(),
            Self::Unavailable(_) => "what other processes saw of the session could not be read",
            Self::Tool => "the tool has no valid name",
            Self::Arguments(_) => "the arguments cannot be hashed",
            Self::Policy(_) => "the loop policy is invalid",
            Self::Store(_) => "the loop policies could not be read or written",
            Self::Disabled(disabled) => disabled.reason(),
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Halted(halted) => halted.remedy(),
            Self::Looping { halts: true, .. } => "stop; only an operator can let it go on",
            Self::Looping { pattern, .. } => pattern.remedy(),
            Self::Unavailable(_) => "try again; an operator must check the database",
            Self::Tool => "correct the tool's name",
            Self::Arguments(_) => "correct the arguments",
            Self::Policy(_) => "correct it and register it again",
            Self::Store(_) => "check the database and try again",
            Self::Disabled(disabled) => disabled.remedy(),
        }
    }

    /// When to try again; `None` if waiting does not help.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Looping {
                retry_after,
                halts: false,
                ..
            } => Some(*retry_after),
            _ => None,
        }
    }
}

impl Pattern {
    /// What it looks like, in words for a model.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Repetition { .. } => {
                "the same call was made again and again, and nothing new came of it"
            }
            Self::Changing { .. } => "the same call was made again and again",
            Self::Cycle { .. } => "the same few calls were made in turns, again and again",
            Self::Polling => "this tool was asked more often than it may be",
        }
    }

    /// What to do instead, in words for a model.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Repetition { .. } | Self::Changing { .. } => {
                "use what you have learned so far: call another tool, or this one with other arguments, or report that you cannot get further; the same call is possible again after a pause"
            }
            Self::Cycle { .. } => {
                "do something else than the next step of the round, or report that you cannot get further; a different call ends the round"
            }
            Self::Polling => "go on with other work, and ask again later",
        }
    }
}

impl fmt::Display for LoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted(halted) => fmt::Display::fmt(halted, f),
            Self::Policy(error) => fmt::Display::fmt(error, f),
            Self::Store(error) => fmt::Display::fmt(error, f),
            other => write!(f, "{}; {}", other.reason(), other.remedy()),
        }
    }
}

impl std::error::Error for LoopError {}

impl From<Halted> for LoopError {
    fn from(halted: Halted) -> Self {
        Self::Halted(halted)
    }
}

impl From<Disabled> for LoopError {
    fn from(disabled: Disabled) -> Self {
        Self::Disabled(disabled)
    }
}

impl From<InvalidLoopPolicy> for LoopError {
    fn from(error: InvalidLoopPolicy) -> Self {
        Self::Policy(error)
    }
}

impl From<StoreError> for LoopError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What is wrong with a loop policy: which setting, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
#[non_exhaustive]
pub struct InvalidLoopPolicy {
    /// The setting, by the name of the method that takes it.
    pub field: &'static str,
    /// What it must be.
    pub problem: &'static str,
}
