//! Provenance: what led to an event, and what it led to.

use crate::audit::store::lineage::{self as sql, Bounds};
use crate::audit::store::read::Fetched;
use crate::audit::{Audit, AuditError, Entry};
use crate::ids::EventId;
use crate::store::StoreError;

/// How far a lineage is walked, either way.
const MAX_DEPTH: i32 = 256;
/// How many relatives are given.
const MAX_ROWS: usize = 1_000;

/// The relatives of an event, nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lineage {
    /// The relatives.
    pub relatives: Vec<Relative>,
    /// Whether there are more than the thousand, or deeper than the 256 levels, that are walked.
    pub truncated: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relative {
    /// How many steps away, from 1.
    pub depth: u32,
    /// The entry.
    pub entry: Entry,
}

impl Audit {
    /// What led to the event: its parent, the parent's parent, and so on. One statement; an event
    /// that is not on record has none, and a cycle ends where it closes.
    ///
    /// # Errors
    ///
    /// As for [`events`](Self::events).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn ancestors(&self, id: EventId) -> Result<Lineage, AuditError> {
        let rows = sql::list_ancestors(self.store(), id, bounds(), self.checks_reads()).await?;
        self.lineage(rows)
    }

    /// What the event led to: its children, their children, and so on. One statement; an event that
    /// is not on record has none, and a cycle ends where it closes.
    ///
    /// # Errors
    ///
    /// As for [`events`](Self::events).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn descendants(&self, id: EventId) -> Result<Lineage, AuditError> {
        let rows = sql::list_descendants(self.store(), id, bounds(), self.checks_reads()).await?;
        self.lineage(rows)
    }

    fn lineage(&self, mut rows: Vec<Fetched>) -> Result<Lineage, AuditError> {
        let malformed = |_| StoreError::malformed("walk the lineage of an event");
        let depths: Vec<i32> = rows
            .iter()
            .map(Fetched::depth)
            .collect::<Result<_, _>>()
            .map_err(malformed)?;
        // One level and one row more were asked for than are shown.
        let near = depths
            .iter()
            .take_while(|&&depth| depth <= MAX_DEPTH)
            .count();
        let shown = near.min(MAX_ROWS);
        let truncated = rows.len() > shown;
        rows.truncate(shown);
        let entries = self.entries(&rows)?;
        let relatives = entries
            .into_iter()
            .zip(depths)
            .map(|(entry, depth)| Relative {
                depth: depth.cast_unsigned(),
                entry,
            });
        Ok(Lineage {
            relatives: relatives.collect(),
            truncated,
        })
    }
}

fn bounds() -> Bounds {
    Bounds {
        depth: MAX_DEPTH + 1,
        // The event itself is walked too.
        rows: i64::try_from(MAX_ROWS).unwrap_or(i64::MAX) + 2,
    }
}
