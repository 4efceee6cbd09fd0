//! The decisions about decisions, as pure functions: no database, no clock.

use super::approver::{ApproverRef, fold};

/// Where a request stands. Each of the ways between them is one conditional UPDATE, and a trigger
/// refuses all others.
///
/// ```text
/// pending -> granted | denied | expired | withdrawn
/// granted -> consumed | expired | revoked
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestState {
    /// Nobody has decided, or not enough have.
    Pending,
    /// Enough people agreed; the call can be made, once.
    Granted,
    /// Somebody refused.
    Denied,
    /// It was not decided, or not used, in time.
    Expired,
    /// It was taken back before it was decided.
    Withdrawn,
    /// The call was let through.
    Consumed,
    /// It was granted, and taken back before it was used.
    Revoked,
}

impl RequestState {
    pub(super) const ALL: [Self; 7] = [
        Self::Pending,
        Self::Granted,
        Self::Denied,
        Self::Expired,
        Self::Withdrawn,
        Self::Consumed,
        Self::Revoked,
    ];

    /// The state as it is stored and recorded.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Consumed => "consumed",
            Self::Revoked => "revoked",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing will change it any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Granted)
    }

    /// Whether a request may go from here to `next`.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (
                Self::Pending,
                Self::Granted | Self::Denied | Self::Expired | Self::Withdrawn
            ) | (
                Self::Granted,
                Self::Consumed | Self::Expired | Self::Revoked
            )
        )
    }
}

/// What is known of a request when somebody wants to decide it.
#[derive(Debug)]
pub(super) struct Facts<'f> {
    /// `user:` and `team:` refs.
    pub(super) approvers: &'f [String],
    /// Whether the voter belongs to one of these teams.
    pub(super) in_team: bool,
    /// Who may never, folded.
    pub(super) barred: &'f [String],
    /// Whether it is known who operates the agents, or need not be.
    pub(super) operator_known: bool,
    /// Whether the voter's name is that of an agent.
    pub(super) is_agent: bool,
    /// Who has, folded.
    pub(super) voters: &'f [String],
}

/// Why somebody may not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// He would agree with himself.
    Oneself,
    /// He may be an agent.
    Agent,
    /// Nobody can tell whether he would agree with himself.
    UnknownOperator,
    /// He is none of those who were asked.
    NotAsked,
    /// He has.
    Again,
    /// A team decides nothing; its members do.
    Team,
}

/// Whether `voter` may decide.
pub(super) fn may_decide(facts: &Facts<'_>, voter: &ApproverRef) -> Result<(), Blocked> {
    if !voter.is_person() {
        return Err(Blocked::Team);
    }
    let name = fold(voter.id());
    // Before anything that depends on the request: whoever is barred learns nothing else.
    if facts.barred.contains(&name) {
        return Err(Blocked::Oneself);
    }
    if facts.is_agent {
        return Err(Blocked::Agent);
    }
    if !facts.operator_known {
        return Err(Blocked::UnknownOperator);
    }
    let asked = facts.approvers.contains(&voter.to_string());
    if !asked && !facts.in_team {
        return Err(Blocked::NotAsked);
    }
    if facts.voters.contains(&name) {
        return Err(Blocked::Again);
    }
    Ok(())
}
