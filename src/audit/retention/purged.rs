//! What was archived and removed, as a verification sees it.
//!
//! A place in a chain may be empty if it lies in a range that is marked as archived *and* an entry
//! `retention.purged`, proved by its MAC, names the range. Marks alone excuse nothing: they are rows
//! that whoever writes the database can make.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::record::{Purge, Record, Said};
use crate::audit::keys::Tag;
use crate::audit::read::is_sound;
use crate::audit::store::archive::{self as sql, MarkRow};
use crate::audit::store::checkpoint::fetch_last;
use crate::audit::store::retention::list_retention_entries;
use crate::audit::verify::Keyring;
use crate::audit::{Audit, Finding, FindingClass};
use crate::ids::EventId;
use crate::store::StoreError;

/// No more than six calendar months.
const LEAST_KEPT: Duration = Duration::from_hours(181 * 24);

/// What is known of entries that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) enum Gap {
    /// They are archived, and the trail says so.
    Archived,
    /// They are marked as archived, and no entry of the trail says so.
    Unrecorded,
    /// They should be there.
    Missing,
}

impl Gap {
    /// How a gap is said that is not excused.
    pub(in crate::audit) const fn detail(self) -> &'static str {
        match self {
            Self::Unrecorded => {
                "entries are missing; they are marked as archived, and no entry of the trail says so"
            }
            Self::Archived | Self::Missing => "entries are missing",
        }
    }
}

/// The ranges that were archived, and the MACs that are kept of what was removed.
#[derive(Debug, Default)]
pub(in crate::audit) struct Purged {
    /// By chain and last entry.
    ranges: BTreeMap<(i32, u64), Range>,
    links: BTreeMap<(i32, u64), Tag>,
    marks: usize,
    /// The youngest archive: what is in it is older than its own entry.
    youngest: Option<Uuid>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    from: u64,
    recorded: bool,
}

impl Purged {
    /// Reads it, and finds what is marked without being under a checkpoint.
    pub(in crate::audit) async fn load(
        audit: &Audit,
        keys: &Keyring,
    ) -> Result<(Self, Vec<Finding>), StoreError> {
        let store = audit.store();
        let marks = sql::list_marks(store, None).await?;
        if marks.is_empty() {
            return Ok((Self::default(), Vec::new()));
        }
        let links = sql::list_links(store).await?.into_iter().collect();
        let on_record: BTreeMap<EventId, Purge> = records(audit, keys)
            .await?
            .into_iter()
            .filter_map(|record| match record.said {
                Said::Purged(purge) => Some((record.id, purge)),
                _ => None,
            })
            .collect();
        let work = || async {
            let mut tx = store.begin().await?;
            let last = fetch_last(&mut *tx, store.tenant()).await?;
            tx.commit().await?;
            Ok(last)
        };
        let last = store
            .run_idempotent("read the last checkpoint", work)
            .await?;
        let size = last.map_or(0, |last| last.size);
        let mut purged = Self {
            ranges: BTreeMap::new(),
            links,
            marks: marks.len(),
            youngest: marks.iter().map(|mark| mark.archive.as_uuid()).max(),
        };
        let findings = marks.iter().filter_map(|mark| {
            let recorded = |last| {
                let purge = on_record.get(&mark.archive);
                purge.is_some_and(|purge| purge.has(mark.first_leaf, last))
            };
            let (chain_no, from, to) = mark.range?;
            let last = mark.first_leaf.saturating_add(to.saturating_sub(from));
            let range = Range {
                from,
                recorded: recorded(last),
            };
            purged.ranges.insert((chain_no, to), range);
            (last >= size).then(|| uncovered(mark, chain_no, (from, to)))
        });
        let mut findings: Vec<Finding> = findings.collect();
        let without_range = marks.iter().filter(|mark| mark.range.is_none());
        findings.extend(
            without_range.map(|mark| uncovered(mark, 0, (mark.first_leaf, mark.first_leaf))),
        );
        for (archive, present) in sql::list_present(store).await? {
            let Some(purge) = on_record.get(&archive) else {
                continue;
            };
            findings.extend(overdrawn(&marks, archive, present, purge.removed));
        }
        Ok((purged, findings))
    }

    /// What is known of the entries of a chain from one to another, which are not there.
    pub(in crate::audit) fn gap(&self, chain_no: i32, from: u64, through: u64) -> Gap {
        // The first range that ends after them: its last entry stays, so none is of two ranges.
        let after = (chain_no, through.saturating_add(1))..=(chain_no, u64::MAX);
        match self.ranges.range(after).next() {
            Some((_, range)) if range.from > from => Gap::Missing,
            Some((_, range)) if !range.recorded => Gap::Unrecorded,
            Some(_) if self.stays(chain_no, from, through) => Gap::Missing,
            Some(_) => Gap::Archived,
            None => Gap::Missing,
        }
    }

    /// Whether one of the entries should have stayed.
    fn stays(&self, chain_no: i32, from: u64, through: u64) -> bool {
        let mut kept = self.links.range((chain_no, from)..=(chain_no, through));
        kept.next().is_some()
    }

    /// Whether nothing was archived.
    pub(in crate::audit) fn is_empty(&self) -> bool {
        self.marks == 0
    }

    /// The MAC that is kept of the entry before this one.
    pub(in crate::audit) fn link(&self, chain_no: i32, seq: u64) -> Option<Tag> {
        self.links.get(&(chain_no, seq)).copied()
    }

    /// Whether lines of a journal of this id may be archived: it was begun more than six months, the
    /// least that any policy keeps, before the youngest archive was made.
    pub(in crate::audit) fn may_have(&self, journal: Uuid) -> bool {
        let millis = |id: Uuid| id.as_u128() >> 80;
        let archived = self.youngest.map_or(0, millis);
        millis(journal) <= archived.saturating_sub(LEAST_KEPT.as_millis())
    }

    /// Whether more was archived than this knows.
    pub(in crate::audit) async fn is_outdated(&self, audit: &Audit) -> Result<bool, StoreError> {
        let marks = sql::list_marks(audit.store(), None).await?;
        Ok(marks.len() != self.marks)
    }
}

fn uncovered(mark: &MarkRow, chain_no: i32, (from, to): (u64, u64)) -> Finding {
    tracing::error!(archive = %mark.archive, "a range is archived that is under no checkpoint");
    let detail = "a range is marked as archived that is under no checkpoint";
    let class = FindingClass::Checkpoint;
    Finding::new(class, chain_no.cast_unsigned(), (from, to), detail)
}

/// An archive of whose ranges more is gone than was removed: entries that stay were deleted, together
/// with what says that they stay.
fn overdrawn(marks: &[MarkRow], archive: EventId, present: u64, removed: u64) -> Option<Finding> {
    let ranges = marks.iter().filter(|mark| mark.archive == archive);
    let ranges: Vec<_> = ranges.filter_map(|mark| mark.range).collect();
    let all: u64 = ranges.iter().map(|(_, from, to)| to - from + 1).sum();
    let (chain_no, from, _) = *ranges.first()?;
    let (_, _, to) = *ranges.iter().rfind(|range| range.0 == chain_no)?;
    let detail = "more entries are gone from ranges of an archive than it removed";
    let class = FindingClass::Gap;
    let finding = || Finding::new(class, chain_no.cast_unsigned(), (from, to), detail);
    (all.saturating_sub(present) > removed).then(finding)
}

/// What the trail says of retention, by entries whose MACs are right.
pub(super) async fn records(audit: &Audit, keys: &Keyring) -> Result<Vec<Record>, StoreError> {
    let malformed = |_| StoreError::malformed("read what is on record of retention");
    let store = audit.store();
    let mut records = Vec::new();
    for fetched in list_retention_entries(store).await? {
        let stored = fetched.stored(store.tenant()).map_err(malformed)?;
        if let Ok(stored) = stored
            && is_sound(keys, &stored, &fetched).map_err(malformed)?
        {
            records.extend(Record::of(&stored.row));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_excused_within_one_range_that_is_marked_and_on_record() {
        let mut purged = Purged::default();
        for (chain_no, from, to, recorded) in
            [(1, 1, 10, true), (1, 11, 20, false), (2, 5, 9, true)]
        {
            let range = Range { from, recorded };
            purged.ranges.insert((chain_no, to), range);
        }
        // Some entry within stays, too.
        purged.links.insert((1, 7), Tag::default());
        for (chain_no, from, through, expected) in [
            (1, 1, 6, Gap::Archived),
            (1, 4, 4, Gap::Archived),
            (1, 8, 9, Gap::Archived),
            (1, 1, 9, Gap::Missing),
            (1, 7, 7, Gap::Missing),
            // The last entry of a range stays.
            (1, 1, 10, Gap::Missing),
            (1, 10, 10, Gap::Missing),
            (1, 11, 19, Gap::Unrecorded),
            (1, 9, 12, Gap::Missing),
            (1, 21, 21, Gap::Missing),
            (2, 5, 8, Gap::Archived),
            (2, 4, 8, Gap::Missing),
            (3, 1, 1, Gap::Missing),
        ] {
            let found = purged.gap(chain_no, from, through);
            assert_eq!(found, expected, "{chain_no}: {from}..={through}");
        }
    }

    #[test]
    fn only_a_journal_from_six_months_before_an_archive_may_have_lines_in_it() {
        const DAY: u128 = 24 * 60 * 60 * 1_000;
        let at = |millis: u128| Uuid::from_u128((millis << 80) | 7);
        let archived = 20_000 * DAY;
        let purged = Purged {
            youngest: Some(at(archived)),
            ..Purged::default()
        };
        assert!(purged.may_have(at(archived - 181 * DAY)));
        assert!(!purged.may_have(at(archived - 181 * DAY + 1)));
        assert!(!purged.may_have(at(archived)));
        // Where nothing is archived, nothing is excused.
        assert!(!Purged::default().may_have(at(1)));
    }
}
