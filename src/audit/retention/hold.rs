//! Legal holds: what nothing may be removed of.

use crate::ids::{AgentId, EventId, SessionId};
use crate::time::Timestamp;

/// What a legal hold is on. Every part that is given must fit; without any it is on everything.
///
/// ```
/// use portcullis::audit::retention::LegalHold;
/// use portcullis::{AgentId, Timestamp};
///
/// let of_one_agent = LegalHold::everything()
///     .agent(AgentId::parse("billing-agent")?)
///     .since(Timestamp::parse("2026-03-01T00:00:00Z")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a hold holds once it is set"]
pub struct LegalHold {
    pub(super) session: Option<SessionId>,
    pub(super) agent: Option<AgentId>,
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
}

impl LegalHold {
    /// On everything of the tenant.
    pub fn everything() -> Self {
        Self::default()
    }

    /// On one session only.
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// On one agent only.
    pub fn agent(mut self, agent: AgentId) -> Self {
        self.agent = Some(agent);
        self
    }

    /// On what happened, or was recorded, then or later.
    pub const fn since(mut self, from: Timestamp) -> Self {
        self.from = Some(from);
        self
    }

    /// On what happened, or was recorded, before then.
    pub const fn until(mut self, to: Timestamp) -> Self {
        self.to = Some(to);
        self
    }
}

/// A hold that is set and not released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHold {
    pub(super) id: EventId,
    pub(super) hold: LegalHold,
    pub(super) set_at: Timestamp,
}

impl OpenHold {
    /// Its id, which is also that of the entry `legal_hold.set`.
    #[must_use]
    pub const fn id(&self) -> EventId {
        self.id
    }

    /// The session that it is on, if it is on one.
    #[must_use]
    pub const fn session(&self) -> Option<&SessionId> {
        self.hold.session.as_ref()
    }

    /// The agent that it is on, if it is on one.
    #[must_use]
    pub const fn agent(&self) -> Option<&AgentId> {
        self.hold.agent.as_ref()
    }

    /// From when on, and until when.
    #[must_use]
    pub const fn times(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.hold.from, self.hold.to)
    }

    /// When it was set.
    #[must_use]
    pub const fn set_at(&self) -> Timestamp {
        self.set_at
    }
}
