//! Why a contract says no, and what is wrong with one.

use std::fmt;

use crate::call::InvalidCall;
use crate::error::{Disabled, ErrorKind};
use crate::store::StoreError;

/// A contract that a call did not keep, or one that cannot be.
///
/// Safe to show to a model: a contract and its conditions have names, which are the host's; nothing of
/// the call or its result is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContractError {
    /// A condition does not hold, so the call was not made.
    Unmet(Violation),
    /// A promise was broken: the call was made.
    Broken(Violation),
    /// The call is not well formed.
    Call(InvalidCall),
    /// A contract that was given is none.
    Contract(InvalidContract),
    /// The database did not take or give a contract.
    Store(StoreError),
    /// The host switched contracts off.
    Disabled(Disabled),
}

/// Both sides of a violation: what was required and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The contract.
    pub contract: String,
    /// The condition or promise, as the trail spells it: `audited`, `custom:<name>`.
    pub required: String,
    /// What was found instead, in a word.
    pub found: &'static str,
}

impl ContractError {
    /// Which answer it asks for.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unmet(violation) | Self::Broken(violation) => match violation.found {
                "unavailable" | "timed_out" | "lost" => ErrorKind::Unavailable,
                "not_defined" => ErrorKind::Misuse,
                "unreadable" => ErrorKind::Integrity,
                _ => ErrorKind::Denied,
            },
            Self::Call(_) | Self::Contract(_) => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
            Self::Disabled(disabled) => disabled.kind(),
        }
    }

    /// Why, without the remedy.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Unmet(violation) => format!(
                "the contract {} requires {}: {}",
                violation.contract, violation.required, violation.found
            ),
            Self::Broken(violation) => format!(
                "the contract {} ensures {}: {}",
                violation.contract, violation.required, violation.found
            ),
            Self::Call(_) => "the call is not well formed".to_owned(),
            Self::Contract(_) => "the contract is invalid".to_owned(),
            Self::Store(_) => "the contracts could not be read or written".to_owned(),
            Self::Disabled(disabled) => disabled.reason().to_owned(),
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unmet(violation) if violation.found == "not_defined" => {
                "this program must define the check (Contracts::define), or an operator take it out of the contract"
            }
            Self::Unmet(violation) if violation.found == "unreadable" => {
                "an operator must store the contract again, or remove it"
            }
            Self::Unmet(violation) => match violation.required.as_str() {
                "approved" => "have a person approve this very call, and make it again unchanged",
                "budget_available" => "make a smaller call, or have an operator raise the budget",
                "scope_allowed" => "use another tool, or have an operator extend the scope",
                "not_halted" => "stop; only an operator can let it go on",
                "audited" => "try again when the audit trail can be written",
                _ => "see to it that the condition holds, and try again",
            },
            Self::Broken(_) => {
                "the call was made and is not undone; look at what came of it before going on"
            }
            Self::Call(_) => "correct the call",
            Self::Contract(_) => "correct it and register it again",
            Self::Store(_) => "check the database and try again",
            Self::Disabled(disabled) => disabled.remedy(),
        }
    }

    /// The violation, if it is one.
    #[must_use]
    pub const fn violation(&self) -> Option<&Violation> {
        match self {
            Self::Unmet(violation) | Self::Broken(violation) => Some(violation),
            Self::Call(_) | Self::Contract(_) | Self::Store(_) | Self::Disabled(_) => None,
        }
    }
}

impl fmt::Display for ContractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => fmt::Display::fmt(error, f),
            Self::Contract(error) => fmt::Display::fmt(error, f),
            other => write!(f, "{}; {}", other.reason(), other.remedy()),
        }
    }
}

impl std::error::Error for ContractError {}

impl From<Disabled> for ContractError {
    fn from(disabled: Disabled) -> Self {
        Self::Disabled(disabled)
    }
}

impl From<StoreError> for ContractError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<InvalidContract> for ContractError {
    fn from(error: InvalidContract) -> Self {
        Self::Contract(error)
    }
}

/// What is wrong with a contract: which method said it, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
#[non_exhaustive]
pub struct InvalidContract {
    /// The method by which it was said.
    pub field: &'static str,
    /// What is wrong.
    pub problem: &'static str,
}
