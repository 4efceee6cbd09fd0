//! Why a scope check says no, and what is wrong with a policy.

use std::fmt;

use super::pattern::PatternProblem;
use super::url::UrlProblem;
use crate::canon::BadDocument;
use crate::error::{Disabled, ErrorKind};
use crate::halt::Halted;
use crate::ids::InvalidId;
use crate::store::StoreError;

/// A no of the scope gate, or why it could not be asked or changed.
///
/// Safe to show to a model: it names neither what was asked for nor what else is allowed, and a
/// hidden tool has the same error as one that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScopeError {
    /// The agent is halted.
    Halted(Halted),
    /// The agent has no policy, so it may do nothing.
    UnknownAgent,
    /// The tool is not on the agent's list, or it is hidden from the agent.
    ToolDenied,
    /// The API is not on the agent's list.
    ApiDenied,
    /// The model is not on the agent's list.
    ModelDenied,
    /// The URL can be read in more than one way, so it is not compared with anything.
    InvalidUrl(UrlProblem),
    /// The agent's stored policy cannot be read and this process has seen no good one, so it may do
    /// nothing.
    BrokenPolicy,
    /// A policy that was given is none.
    Policy(InvalidPolicy),
    /// The host switched the gate off.
    Disabled(Disabled),
    /// The database could not be opened.
    Database,
    /// The database did not take or give a policy.
    Store(StoreError),
}

impl ScopeError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Halted(_)
            | Self::UnknownAgent
            | Self::ToolDenied
            | Self::ApiDenied
            | Self::ModelDenied
            | Self::InvalidUrl(_) => ErrorKind::Denied,
            Self::BrokenPolicy => ErrorKind::Integrity,
            Self::Policy(_) => ErrorKind::Misuse,
            Self::Disabled(disabled) => disabled.kind(),
            Self::Database => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    /// Why, without the remedy.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Halted(_) => "the agent is halted",
            Self::UnknownAgent => "the agent has no scope policy",
            Self::ToolDenied => "the agent may not use this tool",
            Self::ApiDenied => "the agent may not call this API",
            Self::ModelDenied => "the agent may not call this model",
            Self::InvalidUrl(_) => "the URL is not in the one form that is compared",
            Self::BrokenPolicy => "the agent's stored scope policy cannot be read",
            Self::Policy(_) => "the scope policy is invalid",
            Self::Disabled(disabled) => disabled.reason(),
            Self::Database => "the database of the scope policies could not be opened",
            Self::Store(_) => "the scope policies could not be read or written",
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Halted(halted) => halted.remedy(),
            Self::UnknownAgent => "an operator must register a scope policy for it",
            Self::ToolDenied => "use another tool, or have an operator extend allow_tools",
            Self::ApiDenied => "use another API, or have an operator extend allow_apis",
            Self::ModelDenied => "use another model, or have an operator extend allow_models",
            Self::InvalidUrl(problem) => problem.remedy(),
            Self::BrokenPolicy => "an operator must register it again",
            Self::Policy(_) => "correct it and register it again",
            Self::Disabled(disabled) => disabled.remedy(),
            Self::Database => "check its URL and that it runs",
            Self::Store(_) => "check the database and try again",
        }
    }

    /// The one word of it in the audit trail.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Halted(_) => "halted",
            Self::UnknownAgent => "unknown_agent",
            Self::ToolDenied | Self::ApiDenied | Self::ModelDenied => "not_allowed",
            Self::InvalidUrl(_) => "invalid_url",
            Self::BrokenPolicy => "broken_policy",
            Self::Policy(_) | Self::Disabled(_) | Self::Database | Self::Store(_) => "failed",
        }
    }
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted(halted) => fmt::Display::fmt(halted, f),
            Self::Policy(error) => fmt::Display::fmt(error, f),
            Self::Store(error) => fmt::Display::fmt(error, f),
            other => write!(f, "{}; {}", other.reason(), other.remedy()),
        }
    }
}

impl std::error::Error for ScopeError {}

impl From<InvalidPolicy> for ScopeError {
    fn from(error: InvalidPolicy) -> Self {
        Self::Policy(error)
    }
}

impl From<Halted> for ScopeError {
    fn from(halted: Halted) -> Self {
        Self::Halted(halted)
    }
}

impl From<Disabled> for ScopeError {
    fn from(disabled: Disabled) -> Self {
        Self::Disabled(disabled)
    }
}

impl From<StoreError> for ScopeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What is wrong with a scope policy: the list, the entry's place in it, and how to write it.
///
/// Never repeats the entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPolicy {
    /// An entry that is no pattern.
    #[error("{list}: entry {index} {problem}")]
    Entry {
        /// The list, by the name of the method that takes it.
        list: &'static str,
        /// The entry's place in what was given, from 0.
        index: usize,
        /// What is wrong with it, and how to write it.
        problem: PatternProblem,
    },
    /// More entries than a list may have.
    #[error("{list}: more than 16384 entries; use prefixes such as `fs.*`, or split the agent")]
    TooMany {
        /// The list, by the name of the method that takes it.
        list: &'static str,
    },
    /// The whole is longer than can be stored.
    #[error("the policy is longer than 8 MiB; use prefixes such as `fs.*`, or split the agent")]
    TooLong,
    /// A document with an unknown or missing field, or none at all.
    #[error(
        "the policy document is not one of this version: `{field}` {problem}; it has the fields agent, tools, apis, hidden, models and any_model, each once"
    )]
    Document {
        /// The field, cut to 80 characters; empty for the whole.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The document's agent is not a valid id.
    #[error("agent: {0}")]
    Agent(InvalidId),
    /// The document is stored under another agent.
    #[error(
        "the policy document names another agent than the one it is stored for; register it again"
    )]
    OtherAgent,
}

impl From<BadDocument> for InvalidPolicy {
    fn from(BadDocument { field, problem }: BadDocument) -> Self {
        Self::Document { field, problem }
    }
}
