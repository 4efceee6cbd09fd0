//! Which entries a bundle shows.

use serde::{Deserialize, Serialize};

use super::text::Moment;
use crate::audit::row::Row;
use crate::ids::{AgentId, SessionId};
use crate::time::Timestamp;

/// Which entries to show; the others are withheld, as hashes whose number and places are seen.
/// Conditions narrow: an entry must meet all of them.
///
/// ```
/// use portcullis::audit::bundle::Selection;
/// use portcullis::{SessionId, Timestamp};
///
/// let session = SessionId::parse("s-381")?;
/// let selection = Selection::all().session(&session);
/// assert_ne!(selection, Selection::all());
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct Selection {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Moment>,
}

impl Selection {
    /// Every entry.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only entries of `session`.
    pub fn session(mut self, session: &SessionId) -> Self {
        self.session = Some(session.as_str().to_owned());
        self
    }

    /// Only entries of `agent`.
    pub fn agent(mut self, agent: &AgentId) -> Self {
        self.agent = Some(agent.as_str().to_owned());
        self
    }

    /// Only entries recorded at `from` or later.
    pub const fn from(mut self, from: Timestamp) -> Self {
        self.from = Some(Moment(from));
        self
    }

    /// Only entries recorded before `to`.
    pub const fn to(mut self, to: Timestamp) -> Self {
        self.to = Some(Moment(to));
        self
    }

    pub(super) fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn covers(&self, row: &Row<'_>) -> bool {
        let same = |wanted: &Option<String>, has: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == has
        };
        same(&self.session, row.session)
            && same(&self.agent, row.agent)
            && self
                .from
                .is_none_or(|from| row.recorded_us >= from.0.as_micros())
            && self.to.is_none_or(|to| row.recorded_us < to.0.as_micros())
    }

    /// The conditions as SQL takes them.
    pub(super) fn conditions(&self) -> (Option<&str>, Option<&str>, Timestamp, Timestamp) {
        (
            self.session.as_deref(),
            self.agent.as_deref(),
            self.from.map_or(Timestamp::MIN, |from| from.0),
            self.to.map_or(Timestamp::MAX, |to| to.0),
        )
    }
}
