//! Requests, as they are made, found and decided.

use std::time::Duration;

use super::approver::{ApproverRef, InvalidApprover};
use super::engine::RequestState;
use super::narrow::Narrower;
use super::policy::{DEFAULT_LIFE, InvalidApprovalPolicy, Terms};
use crate::call::Principal;
use crate::ids::{AgentId, OperatorId, RequestId, SessionId};
use crate::time::Timestamp;

/// The longest reason, in bytes.
const MAX_REASON: usize = 1_024;

/// On which terms to ask where no policy says it: whom, how many of them, for how long.
///
/// Where a policy covers the call, its terms stand, whatever is said here.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before request"]
pub struct Ask {
    pub(super) terms: Terms,
}

impl Ask {
    /// Asks `approvers` (`user:<id>`, `team:<id>`), one of whom must agree within 15 minutes.
    ///
    /// # Errors
    ///
    /// [`InvalidApprover`] if an entry is none.
    pub fn of<S: AsRef<str>>(
        approvers: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidApprover> {
        let mut refs = Vec::new();
        for entry in approvers {
            refs.push(ApproverRef::parse(entry)?.to_string());
        }
        refs.sort_unstable();
        refs.dedup();
        Ok(Self {
            terms: Terms {
                approvers: refs,
                quorum: 1,
                life: DEFAULT_LIFE,
                unknown_operator: false,
            },
        })
    }

    /// Leaves all terms to the policy of the agent, which must cover the call.
    pub const fn policy() -> Self {
        Self {
            terms: Terms {
                approvers: Vec::new(),
                quorum: 1,
                life: DEFAULT_LIFE,
                unknown_operator: false,
            },
        }
    }

    /// How many different people must agree (1); at most 16.
    pub const fn quorum(mut self, people: u32) -> Self {
        self.terms.quorum = people;
        self
    }

    /// For how long it can be decided, and, once granted, used.
    pub const fn expires_after(mut self, life: Duration) -> Self {
        self.terms.life = life;
        self
    }

    /// Lets an approver decide though nobody knows who operates the agent (refused).
    pub const fn allow_unknown_operator(mut self) -> Self {
        self.terms.unknown_operator = true;
        self
    }
}

/// What became of a request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a host must say what it does with each"
)]
pub enum Requested {
    /// It is stored, now or since somebody asked before.
    Stored(ApprovalRequest),
    /// The database is away: it is in the journal on the local disk, and nobody has been asked yet.
    /// It is stored, and its life begins, when the database is back.
    Journalled {
        /// Its id, which it keeps.
        id: RequestId,
    },
}

impl Requested {
    /// The id of the request.
    #[must_use]
    pub const fn id(&self) -> RequestId {
        match self {
            Self::Stored(request) => request.id,
            Self::Journalled { id } => *id,
        }
    }

    /// Where it stands; `None` while it is only in the journal.
    #[must_use]
    pub const fn state(&self) -> Option<RequestState> {
        match self {
            Self::Stored(request) => Some(request.state),
            Self::Journalled { .. } => None,
        }
    }
}

/// A request for approval, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApprovalRequest {
    /// Its name.
    pub id: RequestId,
    /// Where it stands.
    pub state: RequestState,
    /// The tool or model, or `budget:<name>`.
    pub label: String,
    /// Who asks.
    pub agent: AgentId,
    /// In which session.
    pub session: SessionId,
    /// Who may decide: `user:<id>`, `team:<id>`.
    pub approvers: Vec<String>,
    /// How many people must agree.
    pub quorum: u32,
    /// How many have.
    pub votes: u32,
    /// When it was made.
    pub requested_at: Timestamp,
    /// Until when it can be decided, or, once granted, used: by the database's clock.
    pub expires_at: Timestamp,
}

/// What somebody decides, and why.
///
/// The reason enters the audit trail, for ever: no content, no personal data.
#[derive(Clone, Debug)]
#[must_use = "nothing is decided before decide"]
pub struct Decision {
    pub(super) verdict: Verdict,
    pub(super) reason: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Grant,
    Narrow(Narrower),
    Deny,
}

impl Decision {
    /// Agrees to the call as it was asked for.
    pub const fn grant() -> Self {
        Self::of(Verdict::Grant)
    }

    /// Agrees to the call with narrower arguments only.
    pub const fn narrow(to: Narrower) -> Self {
        Self::of(Verdict::Narrow(to))
    }

    /// Refuses. One is enough.
    pub const fn deny() -> Self {
        Self::of(Verdict::Deny)
    }

    const fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            reason: None,
        }
    }

    /// Why, for the record; of more than 1,024 bytes the rest is left out.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(short(reason.into()));
        self
    }
}

/// The beginning of a reason that is too long.
pub(super) fn short(mut reason: String) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

/// Gives a request more time, or other approvers.
#[derive(Clone, Debug)]
#[must_use = "nothing changes before escalate"]
pub struct Escalation {
    pub(super) approvers: Vec<String>,
    pub(super) life: Option<Duration>,
    pub(super) reason: Option<String>,
}

impl Escalation {
    /// Asks `approvers` instead.
    ///
    /// # Errors
    ///
    /// [`InvalidApprovalPolicy`] if an entry is none.
    pub fn to<S: AsRef<str>>(
        approvers: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidApprovalPolicy> {
        let mut refs = Vec::new();
        for (index, entry) in approvers.into_iter().enumerate() {
            let approver = ApproverRef::parse(entry)
                .map_err(|fault| InvalidApprovalPolicy::Approver { index, fault })?;
            refs.push(approver.to_string());
        }
        refs.sort_unstable();
        refs.dedup();
        if refs.is_empty() {
            return Err(InvalidApprovalPolicy::NoApprovers);
        }
        Ok(Self {
            approvers: refs,
            life: None,
            reason: None,
        })
    }

    /// Leaves the approvers, and lets the request live for `life` from now.
    pub const fn longer(life: Duration) -> Self {
        Self {
            approvers: Vec::new(),
            life: Some(life),
            reason: None,
        }
    }

    /// Lets it live for `life` from now, too.
    pub const fn for_another(mut self, life: Duration) -> Self {
        self.life = Some(life);
        self
    }

    /// Why, for the record.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(short(reason.into()));
        self
    }
}

/// Who takes a request back.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is no third one")]
pub enum Withdrawer<'w> {
    /// The agent that made it, in the same session.
    Requester(&'w Principal),
    /// Somebody who operates agents, as the host has made sure.
    Operator(&'w OperatorId),
}
