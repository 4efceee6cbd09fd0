//! Verifying an archive's file: entry by entry against the tree, and against its record.

use std::path::Path;

use super::RetentionError;
use super::file::{Item, Reader, unsound};
use super::leaves::proved;
use super::line::Range;
use crate::audit::keys::Tag;
use crate::audit::store::archive as sql;
use crate::audit::verify::Keyring;
use crate::audit::{Audit, AuditError};
use crate::ids::EventId;
use crate::tlog::{Checkpoint, LogVerifier, TreeHash};

use super::purged::records;
use super::record::Said;

/// The most findings that are kept; the rest is counted.
const MAX_FINDINGS: usize = 1_000;

/// One thing that is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveFinding {
    /// At which line, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What.
    pub problem: &'static str,
}

/// What verifying an archive's file came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a verification that nobody looks at finds nothing"]
pub struct ArchiveCheck {
    pub(super) archive: EventId,
    pub(super) sha256: Tag,
    pub(super) entries: u64,
    pub(super) proved: u64,
    pub(super) ranges: Vec<Range>,
    pub(super) events: Option<(EventId, EventId)>,
    findings: Vec<ArchiveFinding>,
    total: u64,
}

impl ArchiveCheck {
    /// The archive's id, as the file says, which is also that of its entry `retention.purged`.
    #[must_use]
    pub const fn archive(&self) -> EventId {
        self.archive
    }

    /// The file's hash.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// How many entries are in the file.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many of them are leaves of the signed tree, at their places.
    #[must_use]
    pub const fn proved(&self) -> u64 {
        self.proved
    }

    /// What is wrong: the first thousand.
    #[must_use]
    pub fn findings(&self) -> &[ArchiveFinding] {
        &self.findings
    }

    /// How many findings there are, those that were not kept included.
    #[must_use]
    pub const fn finding_count(&self) -> u64 {
        self.total
    }

    /// Whether there are entries, and each is the one that was signed.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.total == 0 && self.entries > 0 && self.proved == self.entries
    }

    pub(super) fn find(&mut self, line: u64, problem: &'static str) {
        self.total += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(ArchiveFinding { line, problem });
        }
    }
}

/// Reads a file and compares each entry with the leaf of the tree that its checkpoint signs.
pub(super) async fn file(
    audit: &Audit,
    path: &Path,
    log: &LogVerifier,
) -> Result<ArchiveCheck, RetentionError> {
    let (mut reader, header) = Reader::open(path, audit.store().tenant().as_str())?;
    let checkpoint = Checkpoint::open(&header.checkpoint, log)?;
    let archive = EventId::parse(&header.archive);
    let archive = archive.map_err(|_| unsound(1, "it has no id"))?;
    let mut checking = Checking {
        audit,
        checkpoint,
        range: None,
        pending: Vec::new(),
        ended: false,
        check: ArchiveCheck {
            archive,
            sha256: Tag::default(),
            entries: 0,
            proved: 0,
            ranges: Vec::new(),
            events: None,
            findings: Vec::new(),
            total: 0,
        },
    };
    loop {
        let (next, items) = reader.chunk().await?;
        reader = next;
        if items.is_empty() {
            break;
        }
        for (line, item) in items {
            checking.take(line, item).await?;
        }
        checking.compare().await?;
    }
    checking.end_range().await?;
    if !checking.ended {
        let problem = "the file has no end: it is cut off";
        checking.check.find(0, problem);
    }
    checking.check.sha256 = reader.sha256();
    Ok(checking.check)
}

/// Compares a file that was checked with what the database and the trail say of it.
pub(super) async fn against_record(
    audit: &Audit,
    check: &mut ArchiveCheck,
) -> Result<(), AuditError> {
    let Some(row) = sql::fetch_archive(audit.store(), check.archive).await? else {
        check.find(
            0,
            "no such archive is on record; its entries should still be in the trail",
        );
        return Ok(());
    };
    if row.sha256 != check.sha256 || row.entries != check.entries {
        check.find(0, "the file is not the one that the database has on record");
    }
    let marks = sql::list_marks(audit.store(), Some(check.archive)).await?;
    let marked: Vec<_> = marks.iter().map(|mark| Some(mark.first_leaf)).collect();
    let mut in_file: Vec<_> = check.ranges.iter().map(|r| Some(r.first_leaf)).collect();
    in_file.sort_unstable();
    if marked != in_file {
        check.find(
            0,
            "the ranges in the file are not those that are marked as archived",
        );
    }
    let keys = Keyring::new(audit.keys(), audit.store().tenant());
    let records = records(audit, &keys).await?;
    let purge = records
        .iter()
        .find_map(|record| match (&record.said, record.id) {
            (Said::Purged(purge), id) if id == check.archive => Some(purge),
            _ => None,
        });
    match purge {
        None => check.find(
            0,
            "no entry retention.purged of the trail proves this archive",
        ),
        Some(purge) if purge.sha256 != check.sha256 => {
            check.find(0, "the file is not the one that the trail has on record");
        }
        Some(_) => {}
    }
    Ok(())
}

struct Checking<'c> {
    audit: &'c Audit,
    checkpoint: Checkpoint,
    /// The range that is read, and its next entry.
    range: Option<(Range, u64)>,
    /// Entries that were not compared yet, next to each other in the tree.
    pending: Vec<(u64, u64, TreeHash)>,
    ended: bool,
    check: ArchiveCheck,
}

impl Checking<'_> {
    async fn take(&mut self, line: u64, item: Item) -> Result<(), AuditError> {
        if self.ended {
            self.check.find(line, "something stands after the end");
            return Ok(());
        }
        match item {
            Item::Bad(problem) => {
                self.check.find(line, problem);
                // It stood for an entry, most likely: those after it are not to blame.
                if let Some((_, next)) = &mut self.range {
                    *next += 1;
                }
            }
            Item::Range(range) => {
                self.end_range().await?;
                if !self.is_stored(&range).await? {
                    let problem = "the range is none of the stored tree under the checkpoint";
                    self.check.find(line, problem);
                }
                self.check.ranges.push(range);
                self.range = Some((range, range.from));
            }
            Item::Entry(chain, seq, event, leaf) => {
                self.check.entries += 1;
                // Others (of registered keys) say nothing of when they were made.
                if event.as_uuid().get_version_num() == 7 {
                    let (first, last) = self.check.events.unwrap_or((event, event));
                    self.check.events = Some((first.min(event), last.max(event)));
                }
                match &mut self.range {
                    Some((range, next))
                        if range.chain == chain && seq <= range.to && *next == seq =>
                    {
                        *next += 1;
                        let place = range.first_leaf.saturating_add(seq - range.from);
                        self.pending.push((line, place, leaf));
                    }
                    _ => {
                        let problem = "the entry is not the next one of its range";
                        self.check.find(line, problem);
                    }
                }
            }
            Item::End(end) => {
                self.end_range().await?;
                self.ended = true;
                let ranges = u64::try_from(self.check.ranges.len()).unwrap_or(u64::MAX);
                if (end.entries, end.ranges) != (self.check.entries, ranges) {
                    self.check
                        .find(line, "the counts at the end are not those of the file");
                }
            }
        }
        Ok(())
    }

    async fn end_range(&mut self) -> Result<(), AuditError> {
        self.compare().await?;
        if let Some((range, next)) = self.range.take()
            && next != range.to.saturating_add(1)
        {
            self.check.find(0, "entries of a range are missing");
        }
        Ok(())
    }

    /// Compares what was read with the leaves of the signed tree.
    async fn compare(&mut self) -> Result<(), AuditError> {
        let pending = std::mem::take(&mut self.pending);
        let place = |at: Option<&(u64, u64, TreeHash)>| at.map(|(_, place, _)| *place);
        let (Some(first), Some(last)) = (place(pending.first()), place(pending.last())) else {
            return Ok(());
        };
        let leaves = match proved(self.audit, &self.checkpoint, first, last - first + 1).await {
            Ok(leaves) => leaves,
            Err(AuditError::Tree) => {
                let problem =
                    "the stored tree does not prove it: it is not the one that was signed";
                for (line, ..) in pending {
                    self.check.find(line, problem);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (line, place, leaf) in pending {
            let at = usize::try_from(place - first).ok();
            if at.and_then(|at| leaves.get(at)) == Some(&leaf) {
                self.check.proved += 1;
            } else {
                self.check
                    .find(line, "the entry is not the one that was signed");
            }
        }
        Ok(())
    }

    /// Whether the range is one of the tree's, at its place.
    async fn is_stored(&self, range: &Range) -> Result<bool, AuditError> {
        let stored = crate::audit::store::checkpoint::fetch_range_of(
            self.audit.store(),
            range.chain,
            range.to,
        )
        .await?;
        let same = stored.is_some_and(|stored| {
            (stored.first_leaf, stored.from_seq, stored.to_seq)
                == (range.first_leaf, range.from, range.to)
        });
        Ok(same && range.last_leaf() < self.checkpoint.size())
    }
}
