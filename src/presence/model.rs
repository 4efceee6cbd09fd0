//! What is known of a session, and how presence behaves.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::PresenceError;
use crate::canon::Metadata;
use crate::ids::{AgentId, OperatorId, SessionId};
use crate::time::Timestamp;

/// The longest metadata of a heartbeat, in bytes of canonical text.
pub(super) const MAX_METADATA: usize = 4 * 1024;

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It is heard of.
    Live,
    /// It is heard of, and has nothing to do.
    Idle,
    /// It has not been heard of for too long.
    Unresponsive,
    /// It is halted and has not ended: the halt switch says so, whatever else it says of itself.
    Halted,
    /// It has ended; nothing follows.
    Closed,
}

/// What a session says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Live,
    Idle,
    Closed,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Idle => "idle",
            Self::Closed => "closed",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Live, Self::Idle, Self::Closed]
            .into_iter()
            .find(|status| status.as_str() == text)
    }

    /// What it is after it says `next`: the end is the end.
    pub(super) const fn then(self, next: Self) -> Self {
        match self {
            Self::Closed => Self::Closed,
            Self::Live | Self::Idle => next,
        }
    }
}

impl State {
    /// The state in a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Idle => "idle",
            Self::Unresponsive => "unresponsive",
            Self::Halted => "halted",
            Self::Closed => "closed",
        }
    }

    /// The one rule of it: what others say of a session comes before what it says of itself, save that it has ended;
    /// nothing that has does anything any more.
    pub(super) const fn of(status: Status, late: bool, halted: bool) -> Self {
        match status {
            Status::Closed => Self::Closed,
            _ if halted => Self::Halted,
            _ if late => Self::Unresponsive,
            Status::Live => Self::Live,
            Status::Idle => Self::Idle,
        }
    }
}

/// A session of an agent, as it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// The agent.
    pub agent: AgentId,
    /// The session.
    pub session: SessionId,
    /// Who operates it, if that is known. The first one that was told stays.
    pub operator: Option<OperatorId>,
    /// How it stands.
    pub state: State,
    /// What it last told of itself. Shown as it was told; nothing is concluded from it.
    pub metadata: Metadata,
    /// When it was first heard of, by the database's clock.
    pub first_seen: Timestamp,
    /// When it was last heard of, by the database's clock.
    pub last_seen: Timestamp,
}

/// Which sessions to list.
#[derive(Clone, Debug, Default)]
#[must_use = "a filter lists nothing by itself"]
pub struct Filter {
    pub(super) agent: Option<AgentId>,
    pub(super) operator: Option<OperatorId>,
    pub(super) state: Option<State>,
    pub(super) after: Option<Cursor>,
    pub(super) most: Option<usize>,
}

impl Filter {
    /// All of them.
    pub fn all() -> Self {
        Self::default()
    }

    /// Of this agent.
    pub fn agent(mut self, agent: AgentId) -> Self {
        self.agent = Some(agent);
        self
    }

    /// Of this operator.
    pub fn operator(mut self, operator: OperatorId) -> Self {
        self.operator = Some(operator);
        self
    }

    /// In this state.
    pub fn state(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// Those after the page that ended with `cursor`.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// At most so many on a page (100; 1 to 1,000).
    pub fn at_most(mut self, sessions: usize) -> Self {
        self.most = Some(sessions);
        self
    }

    pub(super) fn page(&self) -> usize {
        self.most.unwrap_or(100).clamp(1, 1_000)
    }
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(super) agent: AgentId,
    pub(super) session: SessionId,
}

impl Cursor {
    /// Goes on after this session of this agent, for a list that is begun anew.
    #[must_use]
    pub const fn after(agent: AgentId, session: SessionId) -> Self {
        Self { agent, session }
    }

    /// The agent of the last session of the page.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The last session of the page.
    #[must_use]
    pub const fn session(&self) -> &SessionId {
        &self.session
    }

    pub(super) fn at(seen: &Seen) -> Self {
        Self {
            agent: seen.agent.clone(),
            session: seen.session.clone(),
        }
    }
}

/// Some of the sessions, in the order of agent and session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The sessions.
    pub sessions: Vec<Seen>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Who operates an agent, over all its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operators {
    /// Those that are known.
    pub known: BTreeSet<OperatorId>,
    /// Whether a session was heard of whose operator is not known, or none was heard of at all.
    pub unknown: bool,
}

/// How presence behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceSettings {
    pub(super) flush_every: Duration,
    pub(super) unresponsive_after: Duration,
    pub(super) most_waiting: usize,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self {
            flush_every: Duration::from_secs(1),
            unresponsive_after: Duration::from_mins(1),
            most_waiting: 10_000,
        }
    }
}

impl PresenceSettings {
    /// How often heartbeats are written, all that came meanwhile at once (1 second; 10 milliseconds to a
    /// minute).
    #[must_use]
    pub const fn flush_every(mut self, every: Duration) -> Self {
        self.flush_every = every;
        self
    }

    /// When an agent that is not heard of counts as unresponsive (1 minute; at least three times
    /// `flush_every`, at most a day).
    #[must_use]
    pub const fn unresponsive_after(mut self, silence: Duration) -> Self {
        self.unresponsive_after = silence;
        self
    }

    /// For how many sessions a heartbeat may wait in memory (10,000): while the database is away, those of
    /// further sessions are dropped and counted.
    #[must_use]
    pub const fn most_waiting(mut self, sessions: usize) -> Self {
        self.most_waiting = sessions;
        self
    }

    /// Refuses what would make heartbeats meaningless.
    pub(crate) fn check(&self) -> Result<(), PresenceError> {
        let wrong = |field, problem| Err(PresenceError::Invalid { field, problem });
        let flushes = Duration::from_millis(10)..=Duration::from_mins(1);
        if !flushes.contains(&self.flush_every) {
            return wrong("flush_every", "must be 10 milliseconds to a minute");
        }
        if self.unresponsive_after < self.flush_every * 3 {
            return wrong(
                "unresponsive_after",
                "must be at least three times flush_every",
            );
        }
        if self.unresponsive_after > Duration::from_hours(24) {
            return wrong("unresponsive_after", "must be at most a day");
        }
        if self.most_waiting == 0 {
            return wrong("most_waiting", "must be at least 1");
        }
        Ok(())
    }
}

/// What became of heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceStats {
    /// Sessions whose newest heartbeat is not written yet.
    pub waiting: usize,
    /// Heartbeats that were dropped, because too many sessions waited.
    pub dropped: u64,
    /// Heartbeats whose metadata was left out, because it was too long.
    pub without_metadata: u64,
    /// The host switched presence off.
    pub switched_off: bool,
}

impl PresenceStats {
    /// Whether every session's heartbeat was taken.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.switched_off || self.dropped == 0
    }
}
