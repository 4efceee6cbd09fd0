//! Which entries, and how many.

use super::cursor::Cursor;
use crate::audit::store::read::PageOf;
use crate::audit::{Entry, Kind};
use crate::ids::{AgentId, EventId, SessionId, TenantId};
use crate::time::Timestamp;

/// The most entries of a page.
const MAX_LIMIT: usize = 1_000;
const DEFAULT_LIMIT: usize = 100;

/// Which entries to read. Filters narrow: an entry must pass all of them.
///
/// Session, agent, parent and time are found by an index; a kind is a condition on what they find,
/// so over a long trail combine it with one of them.
///
/// ```
/// use portcullis::audit::{Kind, Query};
/// use portcullis::SessionId;
///
/// let session = SessionId::parse("run-7")?;
/// let query = Query::all().session(&session).kind(&Kind::ToolCallCompleted).newest_first().limit(20);
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Query {
    session: Option<SessionId>,
    agent: Option<AgentId>,
    kind: Option<Kind>,
    kind_prefix: Option<String>,
    parent: Option<EventId>,
    from: Timestamp,
    to: Timestamp,
    limit: usize,
    after: Option<Cursor>,
    newest_first: bool,
}

impl Query {
    /// Every entry, oldest first, a hundred at a time.
    pub const fn all() -> Self {
        Self {
            session: None,
            agent: None,
            kind: None,
            kind_prefix: None,
            parent: None,
            from: Timestamp::MIN,
            to: Timestamp::MAX,
            limit: DEFAULT_LIMIT,
            after: None,
            newest_first: false,
        }
    }

    /// Only entries of `session`.
    pub fn session(mut self, session: &SessionId) -> Self {
        self.session = Some(session.clone());
        self
    }

    /// Only entries of `agent`.
    pub fn agent(mut self, agent: &AgentId) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    /// Only entries of `kind`.
    pub fn kind(mut self, kind: &Kind) -> Self {
        self.kind = Some(kind.clone());
        self
    }

    /// Only entries whose kind begins with `prefix`: `tool.` for all that tools did.
    pub fn kind_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.kind_prefix = Some(prefix.into());
        self
    }

    /// Only entries that were led to directly by `parent`.
    pub const fn parent(mut self, parent: EventId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Only entries recorded at `from` or later, and before `to`.
    pub const fn between(mut self, from: Timestamp, to: Timestamp) -> Self {
        self.from = from;
        self.to = to;
        self
    }

    /// At most `entries` on a page: 1 to 1,000.
    pub fn limit(mut self, entries: usize) -> Self {
        self.limit = entries.clamp(1, MAX_LIMIT);
        self
    }

    /// The page after the one that ended at `cursor`, of the same query.
    pub const fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// The newest entries first.
    pub const fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    pub(super) const fn size(&self) -> usize {
        self.limit
    }

    /// Whether an entry passes every filter.
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<_>, found: &Option<_>| wanted.is_none() || wanted == found;
        is(&self.session, &entry.session)
            && self
                .agent
                .as_ref()
                .is_none_or(|agent| entry.agent.as_ref() == Some(agent))
            && self.kind.as_ref().is_none_or(|kind| entry.kind == *kind)
            && self
                .kind_prefix
                .as_ref()
                .is_none_or(|prefix| entry.kind.as_str().starts_with(prefix))
            && self
                .parent
                .is_none_or(|parent| entry.parent == Some(parent))
            && (self.from..self.to).contains(&entry.recorded_at)
    }

    pub(super) fn page_of<'q>(&'q self, tenant: &'q TenantId, with_previous: bool) -> PageOf<'q> {
        let after = match (&self.after, self.newest_first) {
            (Some(cursor), _) => cursor.place(),
            (None, false) => (self.from, i32::MIN, i64::MIN),
            (None, true) => (self.to, i32::MAX, i64::MAX),
        };
        PageOf {
            tenant,
            lead: self.lead(),
            newest_first: self.newest_first,
            session: self.session.as_ref().map(SessionId::as_str),
            agent: self.agent.as_ref().map(AgentId::as_str),
            parent: self.parent,
            kind: self.kind.as_ref().map(Kind::as_str),
            kind_prefix: self.kind_prefix.as_deref(),
            from: self.from,
            to: self.to,
            after,
            // One more than is shown says whether there is a next page.
            limit: i64::try_from(self.limit)
                .unwrap_or(i64::MAX)
                .saturating_add(1),
            with_previous,
        }
    }

    /// The index that finds fewest: a parent has few children, a session fewer entries than an agent.
    const fn lead(&self) -> Lead {
        if self.parent.is_some() {
            Lead::Parent
        } else if self.session.is_some() {
            Lead::Session
        } else if self.agent.is_some() {
            Lead::Agent
        } else {
            Lead::Time
        }
    }
}

/// The index that leads a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) enum Lead {
    Session,
    Agent,
    Parent,
    Time,
}

/// Some entries, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The entries, in the order that was asked for.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` if this was the last when it was read.
    pub next: Option<Cursor>,
}
