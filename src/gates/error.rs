//! Why a call waits for a person, and why somebody may not decide.

use std::fmt;
use std::time::Duration;

use super::engine::{Blocked, RequestState};
use super::narrow::NotNarrower;
use super::policy::InvalidApprovalPolicy;
use super::token::TokenFault;
use crate::audit::AuditError;
use crate::call::InvalidCall;
use crate::error::{Disabled, ErrorKind};
use crate::halt::Halted;
use crate::ids::RequestId;
use crate::store::StoreError;

/// When to ask again about a request that is pending.
const AGAIN: Duration = Duration::from_secs(5);

/// A no of the approval gate, or why it could not be asked.
///
/// Safe to show to a model: it names neither arguments nor approvers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GateError {
    /// The agent is halted.
    Halted(Halted),
    /// A person has to agree first, and has been asked.
    Pending {
        /// The request.
        request: RequestId,
    },
    /// A person has to agree first, and could not be asked yet: the request is in the journal.
    Journalled {
        /// The request.
        request: RequestId,
    },
    /// A person refused.
    Denied {
        /// The request.
        request: RequestId,
    },
    /// A person agreed to narrower arguments only.
    Narrowed {
        /// The request.
        request: RequestId,
    },
    /// The approval is another call's by now, or it was taken back.
    NotHeld,
    /// A contract wants a person's approval, and nobody was asked, or has agreed yet.
    NotAsked,
    /// The host switched the gate off.
    Disabled(Disabled),
    /// Nothing under this id.
    NoRequest,
    /// It has been decided, or has ended.
    NotPending {
        /// As what.
        state: RequestState,
    },
    /// Whoever wants to decide is one of those that may never.
    SelfApproval,
    /// Nobody knows who operates the agent, so that it may be whoever wants to decide.
    UnknownOperator,
    /// Whoever wants to decide was not asked.
    NotApprover,
    /// A team decides nothing; one of its members does.
    TeamCannotDecide,
    /// Whoever wants to decide has.
    AlreadyVoted,
    /// Others agreed to the call with other arguments.
    OtherArguments,
    /// The request is not as it was asked for, or its policy is no longer the one that is stored.
    OtherTerms,
    /// What was shown is not what was asked for.
    NotWhatWasAsked,
    /// The arguments that were agreed to are not narrower.
    NotNarrower(NotNarrower),
    /// The token lets nobody decide.
    Token(TokenFault),
    /// Whoever wants to take it back has not made it.
    NotRequester,
    /// The policy lets nobody agree in advance to this.
    NoStanding,
    /// The agent's stored approval policy cannot be read, so it may do nothing.
    BrokenPolicy,
    /// A policy, or the terms of a request, are none.
    Policy(InvalidApprovalPolicy),
    /// The call is not well formed.
    Call(InvalidCall),
    /// It could not be put on record.
    Audit(AuditError),
    /// The database did not answer.
    Store(StoreError),
}

impl GateError {
    /// Which answer it asks for.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Journalled { .. } => ErrorKind::Unavailable,
            Self::NoRequest
            | Self::TeamCannotDecide
            | Self::NotWhatWasAsked
            | Self::NotNarrower(_)
            | Self::NoStanding
            | Self::Policy(_)
            | Self::Call(_) => ErrorKind::Misuse,
            Self::Disabled(disabled) => disabled.kind(),
            Self::BrokenPolicy => ErrorKind::Integrity,
            Self::Audit(error) => error.kind(),
            Self::Store(error) => error.kind(),
            _ => ErrorKind::Denied,
        }
    }

    /// Why, without the remedy.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Halted(_) => "the agent is halted",
            Self::Pending { .. } | Self::NotAsked => "a person has to agree to this call first",
            Self::Journalled { .. } => {
                "a person has to agree to this call first, and cannot be asked now"
            }
            Self::Denied { .. } => "a person refused this call",
            Self::Narrowed { .. } => "a person agreed to this call with narrower arguments only",
            Self::NotHeld => "the approval was used by another call, or taken back",
            Self::Disabled(disabled) => disabled.reason(),
            Self::NoRequest => "there is no such request",
            Self::NotPending { .. } => "the request is not pending",
            Self::SelfApproval => "nobody decides what he, his agents or his operator ask for",
            Self::UnknownOperator => "nobody knows who operates the agent",
            Self::NotApprover => "this approver was not asked",
            Self::TeamCannotDecide => "a team decides nothing",
            Self::AlreadyVoted => "this approver has decided already",
            Self::OtherArguments => "others agreed to the call with other arguments",
            Self::OtherTerms => "the request is not on the terms that it has to be asked for on",
            Self::NotWhatWasAsked => "these arguments are not those of the request",
            Self::NotNarrower(_) => "the arguments are not narrower",
            Self::Token(_) => "the token lets nobody decide",
            Self::NotRequester => {
                "only its agent, in its session, or an operator takes a request back"
            }
            Self::NoStanding => "the policy lets nobody agree to this in advance",
            Self::BrokenPolicy => "the agent's stored approval policy cannot be read",
            Self::Policy(_) => "the approval policy is invalid",
            Self::Call(_) => "the call is not well formed",
            Self::Audit(_) => "the decision could not be put on record",
            Self::Store(_) => "the database of the approvals did not answer",
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Halted(halted) => halted.remedy(),
            Self::Pending { .. } => "wait for a person, then try the same call again, unchanged",
            Self::Journalled { .. } => {
                "the request is kept and is made when the database is back; try the same call again later"
            }
            Self::Denied { .. } => "do not try it again; do something else, or ask the person why",
            Self::Narrowed { .. } => "make the call with the arguments that were agreed to",
            Self::NotHeld => "try the same call again",
            Self::NotAsked => "have the host ask somebody, then try the same call again, unchanged",
            Self::Disabled(disabled) => disabled.remedy(),
            Self::NoRequest => "check its id",
            Self::NotPending { .. } => {
                "nothing is left to decide; make a new request if the call is still wanted"
            }
            Self::SelfApproval => "somebody else must decide",
            Self::UnknownOperator => {
                "say who operates the agent (operated_by), or have the policy allow it"
            }
            Self::NotApprover => "one of those who were asked must decide; escalate to ask others",
            Self::TeamCannotDecide => "decide as user:<id>, one of its members",
            Self::AlreadyVoted => "another person must decide too",
            Self::OtherArguments => "agree to the same arguments, or refuse",
            Self::OtherTerms => "have the call tried again, so that it is asked for anew",
            Self::NotWhatWasAsked => "show the arguments of the call that asked",
            Self::NotNarrower(_) => "agree to less than was asked for, or refuse",
            Self::Token(fault) => fault.remedy(),
            Self::NotRequester => "have its agent or an operator do it",
            Self::NoStanding => {
                "allow it with allow_standing, within its bounds, or decide call by call"
            }
            Self::BrokenPolicy => "an operator must register it again",
            Self::Policy(_) => "correct it and try again",
            Self::Call(_) => "correct the call",
            Self::Audit(_) => "try again when the audit trail can be written",
            Self::Store(_) => "check the database and try again",
        }
    }

    /// How long to wait before trying again; `None` if waiting does not help.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Pending { .. } | Self::Journalled { .. } => Some(AGAIN),
            Self::NotHeld => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// The request that it is about.
    #[must_use]
    pub const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Pending { request }
            | Self::Journalled { request }
            | Self::Denied { request }
            | Self::Narrowed { request } => Some(*request),
            _ => None,
        }
    }
}

impl fmt::Display for GateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted(halted) => fmt::Display::fmt(halted, f),
            Self::Policy(error) => fmt::Display::fmt(error, f),
            Self::NotNarrower(error) => fmt::Display::fmt(error, f),
            Self::Token(fault) => fmt::Display::fmt(fault, f),
            Self::Call(error) => fmt::Display::fmt(error, f),
            Self::Audit(error) => fmt::Display::fmt(error, f),
            Self::Store(error) => fmt::Display::fmt(error, f),
            Self::NotPending { state } => {
                write!(f, "the request is {}; {}", state.as_str(), self.remedy())
            }
            other => write!(f, "{}; {}", other.reason(), other.remedy()),
        }
    }
}

impl std::error::Error for GateError {}

impl From<Blocked> for GateError {
    fn from(blocked: Blocked) -> Self {
        match blocked {
            Blocked::Oneself | Blocked::Agent => Self::SelfApproval,
            Blocked::UnknownOperator => Self::UnknownOperator,
            Blocked::NotAsked => Self::NotApprover,
            Blocked::Again => Self::AlreadyVoted,
            Blocked::Team => Self::TeamCannotDecide,
        }
    }
}

macro_rules! from {
    ($($variant:ident($error:ty)),*) => {$(
        impl From<$error> for GateError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from!(
    Halted(Halted),
    NotNarrower(NotNarrower),
    Token(TokenFault),
    Policy(InvalidApprovalPolicy),
    Call(InvalidCall),
    Audit(AuditError),
    Store(StoreError)
);

impl From<Disabled> for GateError {
    fn from(disabled: Disabled) -> Self {
        Self::Disabled(disabled)
    }
}
