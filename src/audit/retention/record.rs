//! What the trail says of retention: entries in, facts out. No I/O.

use serde_json::Value;

use super::hold::LegalHold;
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::row::Row;
use crate::canon::Metadata;
use crate::ids::{AgentId, EventId, SessionId};
use crate::time::Timestamp;

/// One entry about retention whose MAC is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: EventId,
    /// When it was recorded.
    pub(super) at: Timestamp,
    /// When it was done: under the guard, which a removal and a hold take one after the other.
    pub(super) occurred: Timestamp,
    pub(super) said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Policy {
        min_months: u32,
    },
    HoldSet(LegalHold),
    HoldReleased(EventId),
    Purged(Purge),
    /// An entry of ours that does not say what it should.
    Unreadable,
}

/// What an entry `retention.purged` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Purge {
    pub(super) sha256: Tag,
    /// How many entries may be gone of its ranges.
    pub(super) removed: u64,
    /// The first and the last leaf of each run of ranges.
    pub(super) leaves: Vec<(u64, u64)>,
    /// When the youngest entry happened or was recorded.
    pub(super) youngest: Timestamp,
    /// The holds that were open, none of which had any of the entries.
    pub(super) holds: Vec<EventId>,
}

impl Purge {
    /// Whether a range of the tree is in the archive.
    pub(super) fn has(&self, first: u64, last: u64) -> bool {
        let inside = |(from, to): &(u64, u64)| *from <= first && last <= *to;
        self.leaves.iter().any(inside)
    }
}

impl Record {
    /// Reads an entry; `None` if it is about something else.
    pub(super) fn of(row: &Row<'_>) -> Option<Self> {
        let value = Metadata::stored(row.metadata.to_owned()).to_value();
        let said = match Kind::parse(row.kind)? {
            Kind::RetentionPolicySet => number(&value, "min_months")
                .and_then(|months| u32::try_from(months).ok())
                .map(|min_months| Said::Policy { min_months }),
            Kind::LegalHoldSet => hold(&value).map(Said::HoldSet),
            Kind::LegalHoldReleased => event(&value, "hold").map(Said::HoldReleased),
            Kind::RetentionPurged => purge(&value).map(Said::Purged),
            _ => return None,
        };
        Some(Self {
            id: EventId::from_uuid(uuid::Uuid::from_slice(row.event_id).ok()?),
            at: Timestamp::from_micros(row.recorded_us),
            occurred: Timestamp::from_micros(row.occurred_us),
            said: said.unwrap_or(Said::Unreadable),
        })
    }
}

fn hold(value: &Value) -> Option<LegalHold> {
    let mut hold = LegalHold::everything();
    if let Some(session) = value.get("session") {
        hold = hold.session(SessionId::parse(session.as_str()?).ok()?);
    }
    if let Some(agent) = value.get("agent") {
        hold = hold.agent(AgentId::parse(agent.as_str()?).ok()?);
    }
    if value.get("from").is_some() {
        hold = hold.since(time(value, "from")?);
    }
    if value.get("to").is_some() {
        hold = hold.until(time(value, "to")?);
    }
    Some(hold)
}

fn purge(value: &Value) -> Option<Purge> {
    let mut sha256 = Tag::default();
    hex::decode_to_slice(value.get("sha256")?.as_str()?, &mut sha256).ok()?;
    let run = |run: &Value| {
        let [first, last] = run.as_array()?.as_slice() else {
            return None;
        };
        Some((first.as_u64()?, last.as_u64()?))
    };
    let holds = value.get("holds")?.as_array()?.iter();
    Some(Purge {
        sha256,
        removed: number(value, "removed")?,
        leaves: value
            .get("leaves")?
            .as_array()?
            .iter()
            .map(run)
            .collect::<Option<_>>()?,
        youngest: time(value, "youngest")?,
        holds: holds
            .map(|id| EventId::parse(id.as_str()?).ok())
            .collect::<Option<_>>()?,
    })
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key)?.as_u64()
}

fn event(value: &Value, key: &str) -> Option<EventId> {
    EventId::parse(value.get(key)?.as_str()?).ok()
}

fn time(value: &Value, key: &str) -> Option<Timestamp> {
    Timestamp::parse(value.get(key)?.as_str()?).ok()
}
