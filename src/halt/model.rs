//! What can be halted, what is, and how the switch behaves.

use std::fmt;
use std::time::Duration;

use super::error::HaltError;
use crate::call::Principal;
use crate::ids::{AgentId, OperatorId, SessionId};
use crate::time::Timestamp;

/// The longest reason, in bytes.
const MAX_REASON: usize = 1_024;

/// What is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Every agent of every tenant of the installation.
    Everything,
    /// Every agent of the tenant.
    Tenant,
    /// An agent, in all its sessions, with every agent that it started.
    Agent(AgentId),
    /// One session of an agent, with every agent that it started in it.
    Session(AgentId, SessionId),
}

impl Target {
    /// The agent of `who`, in all its sessions.
    #[must_use]
    pub fn agent_of(who: &Principal) -> Self {
        Self::Agent(who.agent_id().clone())
    }

    /// The session of `who`.
    #[must_use]
    pub fn session_of(who: &Principal) -> Self {
        Self::Session(who.agent_id().clone(), who.session_id().clone())
    }

    /// The agent, if it is one agent or a session of one.
    #[must_use]
    pub const fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Agent(agent) | Self::Session(agent, _) => Some(agent),
            Self::Everything | Self::Tenant => None,
        }
    }

    /// The session, if it is one.
    #[must_use]
    pub const fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Session(_, session) => Some(session),
            _ => None,
        }
    }

    /// The one word of it in the audit trail.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Tenant => "tenant",
            Self::Agent(_) => "agent",
            Self::Session(..) => "session",
        }
    }
}

/// A halt that is in force: what, by whom, why, since when.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Order {
    /// What is halted.
    pub target: Target,
    /// Who halted it.
    pub by: OperatorId,
    /// Why.
    pub why: Box<str>,
    /// Since when, by the database's clock.
    pub since: Timestamp,
    /// Its place among the changes of the tenant; of everything, among those of the installation.
    /// `None` while the database has not taken it.
    pub epoch: Option<u64>,
}

/// What came of halting or resuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Whether there was something to change: not if it was halted already, or not halted.
    pub changed: bool,
    /// The place of the change among those of its tenant, if there was one.
    pub epoch: Option<u64>,
}

impl Change {
    pub(super) const fn made(epoch: u64) -> Self {
        Self {
            changed: true,
            epoch: Some(epoch),
        }
    }

    pub(super) const NONE: Self = Self {
        changed: false,
        epoch: None,
    };
}

/// What is decided when the last known state is older than its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum WhenStale {
    /// What was known goes on to hold, loudly: an error in the log, an entry `halt.state_stale`, and a
    /// health that is not well. A halt that is given meanwhile elsewhere is not seen.
    #[default]
    HoldLastKnown,
    /// Nobody may go on until the state is known again.
    CountAsHalted,
}

/// How the switch behaves.
///
/// `stale_after` is the published bound: whatever was halted longer ago than that, in any process, is
/// refused here, or the state is stale, and `when_stale` decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltSettings {
    pub(super) poll_every: Duration,
    pub(super) stale_after: Duration,
    pub(super) when_stale: WhenStale,
}

impl Default for HaltSettings {
    fn default() -> Self {
        Self {
            poll_every: Duration::from_secs(1),
            stale_after: Duration::from_secs(5),
            when_stale: WhenStale::HoldLastKnown,
        }
    }
}

impl HaltSettings {
    /// How often the database is asked, besides hearing of changes (1 second; 10 milliseconds to a
    /// minute).
    #[must_use]
    pub const fn poll_every(mut self, every: Duration) -> Self {
        self.poll_every = every;
        self
    }

    /// How old what is known may be (5 seconds; at least twice `poll_every`, at most an hour).
    #[must_use]
    pub const fn stale_after(mut self, bound: Duration) -> Self {
        self.stale_after = bound;
        self
    }

    /// What is decided past that ([`WhenStale::HoldLastKnown`]).
    #[must_use]
    pub const fn when_stale(mut self, what: WhenStale) -> Self {
        self.when_stale = what;
        self
    }

    /// Refuses what would make the bound none.
    pub(crate) fn check(&self) -> Result<(), HaltError> {
        let wrong = |field, problem| Err(HaltError::Invalid { field, problem });
        let polls = Duration::from_millis(10)..=Duration::from_mins(1);
        if !polls.contains(&self.poll_every) {
            return wrong("poll_every", "must be 10 milliseconds to a minute");
        }
        if self.stale_after < self.poll_every * 2 {
            return wrong("stale_after", "must be at least twice poll_every");
        }
        if self.stale_after > Duration::from_hours(1) {
            return wrong("stale_after", "must be at most an hour");
        }
        Ok(())
    }

    /// How long one look may take: a connection that hangs is given up in time for another one.
    pub(super) fn look_within(&self, deadline: Duration) -> Duration {
        (self.stale_after / 3).clamp(Duration::from_millis(10), deadline.max(self.poll_every))
    }
}

/// How the switch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HaltStatus {
    /// How often what this process knows has changed.
    pub epoch: u64,
    /// How old it is: since before the question was sent that it is the answer to.
    pub age: Duration,
    /// The bound on that.
    pub stale_after: Duration,
    /// Whether it is older than the bound.
    pub stale: bool,
    /// Whether changes are heard at once, and not only found by polling.
    pub heard: bool,
    /// Halts that are in force in this process alone, because the database has not taken them yet.
    pub not_stored: usize,
    /// How many calls were refused.
    pub refused: u64,
    /// What is halted.
    pub halted: Vec<Order>,
}

impl HaltStatus {
    /// Whether what is known can be relied on, here and elsewhere.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        !self.stale && self.not_stored == 0
    }
}

/// Why something is halted or resumed: 1 to 1,024 bytes, no control characters.
#[derive(Clone)]
pub(super) struct Why(Box<str>);

impl Why {
    pub(super) fn parse(text: &str) -> Result<Self, HaltError> {
        let wrong = |problem| {
            Err(HaltError::Invalid {
                field: "why",
                problem,
            })
        };
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_REASON {
            return wrong("must have 1 to 1024 bytes; say it in a sentence");
        }
        if text.chars().any(char::is_control) {
            return wrong("must have no control characters; write it in one line");
        }
        Ok(Self(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn into_text(self) -> Box<str> {
        self.0
    }
}

impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Why")
    }
}

/// Whether the operator's name is the agent's: in any case of its letters, and whatever kind of name it
/// says it is.
pub(super) fn names_the_agent(operator: &OperatorId, agent: &AgentId) -> bool {
    folded(operator) == agent.as_str().to_ascii_lowercase()
        || operator.as_str().eq_ignore_ascii_case(agent.as_str())
}

/// The operator's name as it is compared with those of agents.
pub(super) fn folded(operator: &OperatorId) -> String {
    let lower = operator.as_str().to_ascii_lowercase();
    for kind in ["user:", "agent:", "operator:"] {
        if let Some(rest) = lower.strip_prefix(kind) {
            return rest.to_owned();
        }
    }
    lower
}
