//! Archiving: write, read back, mark, record, remove; at each step a kill leaves a state that the
//! next run goes on from.
//!
//! 1. The file is written and synced. Killed here: a file that no record names; all is still there.
//! 2. It is read back, entry by entry, against the tree that the kept checkpoint signs.
//! 3. The ranges are marked and `retention.purged` is queued, in one transaction. Killed here: the
//!    next run checks the file again and goes on.
//! 4. The entry is in its chain. Only now does the trigger let anything go.
//! 5. The ranges are removed, each as a whole. Killed here: as after 3.

use std::path::Path;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::check::{self, ArchiveCheck};
use super::error::RetentionError;
use super::file::{Directory, Writer, unsound};
use super::line::{EntryLine, FORMAT, Header, Line, Range};
use super::model::{ArchiveProgress, ArchiveReport, Archived, Archiving, KeptNote};
use crate::audit::checkpoint::read_stored;
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::model::AuditEvent;
use crate::audit::store::archive::{self as sql, ArchiveRow, Inspected};
use crate::audit::store::checkpoint::RangeRow;
use crate::audit::store::retention::{fetch_policy, list_open_holds};
use crate::audit::store::verify;
use crate::audit::{Audit, AuditError};
use crate::canon::Fields;
use crate::ids::EventId;
use crate::store::StoreError;
use crate::time::Timestamp;
use crate::tlog::{Checkpoint, LogError, LogVerifier};

/// A file takes no further range once it has so many entries, ranges, or runs of ranges: what is
/// read back at once, and what the entry `retention.purged` has room for.
const MAX_ENTRIES: u64 = 250_000;
const MAX_RANGES: usize = 10_000;
const MAX_RUNS: usize = 256;
/// More open holds than the entry has room for.
const MAX_HOLDS: usize = 1_000;
/// About how many entries one transaction removes.
const BATCH: u64 = 50_000;

pub(super) async fn run(
    audit: &Audit,
    what: &Archiving,
    mut progress: impl FnMut(ArchiveProgress) + Send,
) -> Result<ArchiveReport, RetentionError> {
    let policy = fetch_policy(audit.store()).await?;
    let min_months = policy.ok_or(RetentionError::NoPolicy)?.min_months;
    let months = what.months.unwrap_or(min_months);
    if months < min_months {
        return Err(RetentionError::BelowPolicy {
            asked: months,
            min_months,
        });
    }
    let (kept, checkpoint) = anchored(audit, &what.kept, &what.log).await?;
    let directory = Directory::prepare(&what.directory)?;
    let mut archival = Archival {
        audit,
        log: &what.log,
        directory,
        kept,
        checkpoint,
        months,
        min_months,
        connection: verify::open(audit.store()).await?,
        report: ArchiveReport::default(),
        progress: ArchiveProgress::default(),
    };
    for pending in sql::list_pending(audit.store()).await? {
        archival.resume(&pending).await?;
        progress(archival.progress);
    }
    let mut from = 0;
    while let Some(next) = archival.next(&mut from, &mut progress).await? {
        progress(next);
    }
    let _ = archival.connection.close().await;
    Ok(archival.report)
}

/// The largest of the checkpoints that are kept outside, each of which must be of the stored tree.
pub(super) async fn anchored(
    audit: &Audit,
    kept: &[KeptNote],
    log: &LogVerifier,
) -> Result<(KeptNote, Checkpoint), RetentionError> {
    let mut largest: Option<(KeptNote, Checkpoint)> = None;
    for note in kept {
        let checkpoint = Checkpoint::open(&note.note, log)?;
        if checkpoint.size() == 0 {
            return Err(LogError::EmptyAnchor.into());
        }
        let mismatch = || RetentionError::AnchorMismatch {
            anchor: note.anchor.clone(),
        };
        let proof = match audit.prove_consistency(checkpoint.size()).await {
            Ok(proof) => proof,
            Err(AuditError::Log(_) | AuditError::NoCheckpoint | AuditError::Tree) => {
                return Err(mismatch());
            }
            Err(error) => return Err(error.into()),
        };
        proof.verify(&checkpoint, log).map_err(|_| mismatch())?;
        if largest
            .as_ref()
            .is_none_or(|(_, known)| known.size() < checkpoint.size())
        {
            largest = Some((note.clone(), checkpoint));
        }
    }
    largest.ok_or(RetentionError::NotAnchored)
}

struct Archival<'a> {
    audit: &'a Audit,
    log: &'a LogVerifier,
    directory: Directory,
    kept: KeptNote,
    checkpoint: Checkpoint,
    months: u32,
    min_months: u32,
    connection: PgConnection,
    report: ArchiveReport,
    progress: ArchiveProgress,
}

/// The ranges of one file.
#[derive(Default)]
struct Batch {
    ranges: Vec<(RangeRow, Inspected)>,
    entries: u64,
    runs: Vec<(u64, u64)>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.entries >= MAX_ENTRIES
            || self.ranges.len() >= MAX_RANGES
            || self.runs.len() >= MAX_RUNS
    }

    fn push(&mut self, range: RangeRow, inspected: Inspected) {
        let last = range.first_leaf + (range.to_seq - range.from_seq);
        match self.runs.last_mut() {
            Some((_, end)) if *end + 1 == range.first_leaf => *end = last,
            _ => self.runs.push((range.first_leaf, last)),
        }
        self.entries += inspected.entries;
        self.ranges.push((range, inspected));
    }
}

impl Archival<'_> {
    /// Archives and removes what fits into the next file, from a leaf on; `None` if there is no more.
    async fn next(
        &mut self,
        from: &mut u64,
        progress: &mut (impl FnMut(ArchiveProgress) + Send),
    ) -> Result<Option<ArchiveProgress>, RetentionError> {
        let store = self.audit.store();
        let mut batch = Batch::default();
        let mut more = true;
        while more && !batch.is_full() {
            let size = self.checkpoint.size();
            let page = sql::list_candidates(store, (*from, size), self.months).await?;
            more = page.len() == sql::PAGE;
            for range in page {
                if batch.is_full() {
                    more = true;
                    break;
                }
                *from = range.first_leaf + 1;
                let inspected = sql::inspect_range(store, &range, self.months).await?;
                if inspected.held {
                    self.report.held += 1;
                } else if inspected.removable > 0 && !inspected.young {
                    batch.push(range, inspected);
                }
            }
        }
        if batch.ranges.is_empty() {
            return Ok(None);
        }
        let archive = self.write(&batch).await?;
        self.progress.archived += archive.entries;
        progress(self.progress);
        self.mark(&batch, &archive).await?;
        let ranges: Vec<_> = batch.ranges.iter().map(|(range, _)| *range).collect();
        self.remove(&ranges).await?;
        self.report.archives.push(Archived {
            id: archive.id,
            file: self.directory.path_of(&archive.file_name),
            entries: archive.entries,
            ranges: ranges.len(),
            sha256: archive.sha256,
        });
        Ok(Some(self.progress))
    }

    /// Writes the ranges of a batch to a file, and reads it back.
    async fn write(&mut self, batch: &Batch) -> Result<ArchiveRow, RetentionError> {
        let store = self.audit.store();
        let id = EventId::new();
        let name = Directory::name(id);
        let header = Header {
            format: FORMAT.to_owned(),
            archive: id.to_string(),
            tenant: store.tenant().as_str().to_owned(),
            anchor: self.kept.anchor.clone(),
            checkpoint: self.kept.note.clone(),
        };
        let mut writer = Writer::create(&self.directory, &name, header)?;
        let mut encoded = Fields::default();
        for (range, _) in &batch.ranges {
            writer.line(&Line::Range(Range {
                first_leaf: range.first_leaf,
                chain: range.chain_no.cast_unsigned(),
                from: range.from_seq,
                to: range.to_seq,
            }));
            let mut next = range.from_seq;
            let mut broken = None;
            let bounds = (range.from_seq, range.to_seq);
            read_stored(
                &mut self.connection,
                store,
                range.chain_no,
                bounds,
                |stored| {
                    let stored = stored.filter(|stored| stored.row.seq == next);
                    match stored.and_then(|stored| EntryLine::of(stored, &mut encoded)) {
                        Some(line) => {
                            writer.line(&Line::Entry(Box::new(line)));
                            next += 1;
                        }
                        None => broken = broken.or(Some(next)),
                    }
                },
            )
            .await?;
            if broken.is_some() || next != range.to_seq + 1 {
                let seq = broken.unwrap_or(next);
                let chain_no = range.chain_no.cast_unsigned();
                return Err(AuditError::Tampered { chain_no, seq }.into());
            }
        }
        let written = writer.finish().await?;
        let check = self.checked(&name, id, &written).await?;
        let (first_event, last_event) = check.events.unwrap_or((id, id));
        Ok(ArchiveRow {
            id,
            file_name: name,
            sha256: written,
            entries: check.entries,
            tree_size: self.checkpoint.size(),
            first_event,
            last_event,
        })
    }

    /// Reads a file back and lets nothing pass that is not proved.
    async fn checked(
        &self,
        name: &str,
        id: EventId,
        sha256: &Tag,
    ) -> Result<ArchiveCheck, RetentionError> {
        let path = self.directory.path_of(name);
        let check = check::file(self.audit, &path, self.log).await?;
        if let Some(first) = check.findings().first() {
            return Err(unsound(first.line, first.problem));
        }
        if !check.is_clean() || check.archive != id || check.sha256 != *sha256 {
            return Err(unsound(0, "it is not the file that was written"));
        }
        Ok(check)
    }

    /// Marks the ranges and puts `retention.purged` on record.
    async fn mark(&self, batch: &Batch, archive: &ArchiveRow) -> Result<(), RetentionError> {
        let store = self.audit.store();
        let leaves: Vec<u64> = batch.ranges.iter().map(|(r, _)| r.first_leaf).collect();
        let during = StoreError::during("mark what was archived");
        let mut tx = store.begin().await.map_err(&during)?;
        verify::unhurry(&mut tx).await.map_err(&during)?;
        let (tenant, now) = (store.tenant(), store.database_now());
        let marked = sql::insert_archive_in_tx(&mut tx, tenant, archive, &leaves, now).await;
        marked.map_err(contended("mark what was archived"))?;
        // The guard is ours since then: whoever sets a hold now comes after this archive.
        let holds = list_open_holds(&mut tx, tenant).await.map_err(&during)?;
        if holds.len() > MAX_HOLDS {
            return Err(RetentionError::Field {
                field: "the number of open legal holds",
                problem: "is above 1000; release some, or set one on everything",
            });
        }
        let held = !holds.is_empty()
            && sql::is_held_in_tx(&mut tx, tenant, &leaves)
                .await
                .map_err(&during)?;
        if held {
            return Err(RetentionError::Held);
        }
        let holds = holds.iter().map(|hold| hold.id).collect::<Vec<_>>();
        let event = self.purged(batch, archive, &holds);
        self.audit.append_in_tx(&mut tx, event).await?;
        tx.commit().await.map_err(during)?;
        self.on_record(archive.id).await
    }

    /// What the trail says of an archive.
    fn purged(&self, batch: &Batch, archive: &ArchiveRow, holds: &[EventId]) -> AuditEvent {
        let all = batch.ranges.iter().map(|(_, inspected)| inspected);
        let youngest = all.clone().map(|inspected| inspected.youngest).max();
        let removed: u64 = all.map(|inspected| inspected.removable).sum();
        let holds: Vec<String> = holds.iter().map(EventId::to_string).collect();
        AuditEvent::system(None, Kind::RetentionPurged)
            .with_id(archive.id)
            .with("file", &archive.file_name)
            .with("sha256", hex::encode(archive.sha256))
            .with("entries", archive.entries)
            .with("removed", removed)
            .with("ranges", batch.ranges.len())
            .with("leaves", &batch.runs)
            .with("youngest", youngest.unwrap_or(Timestamp::MAX).to_string())
            .with("min_months", self.min_months)
            .with("anchor", &self.kept.anchor)
            .with("tree_size", self.checkpoint.size())
            .with("root", self.checkpoint.root().to_string())
            .with("holds", holds)
    }

    /// Makes sure that the entry of an archive is in its chain.
    async fn on_record(&self, id: EventId) -> Result<(), RetentionError> {
        self.audit.move_outbox().await?;
        match self.audit.event(id).await? {
            Some(_) => Ok(()),
            None => Err(AuditError::Store(StoreError::timed_out("record an archive")).into()),
        }
    }

    /// Goes on with an archive of before, once its file was verified again.
    async fn resume(&mut self, archive: &ArchiveRow) -> Result<(), RetentionError> {
        let path = self.directory.path_of(&archive.file_name);
        if !is_there(&path) {
            return Err(RetentionError::FileMissing {
                archive: archive.id,
            });
        }
        let check = self
            .checked(&archive.file_name, archive.id, &archive.sha256)
            .await?;
        self.on_record(archive.id).await?;
        let store = self.audit.store();
        let mut ranges = Vec::new();
        for range in &check.ranges {
            let row = RangeRow {
                first_leaf: range.first_leaf,
                chain_no: range.chain.cast_signed(),
                from_seq: range.from,
                to_seq: range.to,
                to_mac: Tag::default(),
            };
            let inspected = sql::inspect_range(store, &row, self.min_months).await?;
            if inspected.held {
                self.report.held += 1;
            } else if inspected.removable > 0 && !inspected.young {
                ranges.push(row);
            }
        }
        self.report.resumed += 1;
        self.remove(&ranges).await
    }

    /// Removes ranges that are in a file which was just verified; some in each transaction.
    async fn remove(&mut self, ranges: &[RangeRow]) -> Result<(), RetentionError> {
        let during = StoreError::during("remove what was archived");
        let tenant = self.audit.store().tenant();
        let mut rest = ranges.iter().peekable();
        while rest.peek().is_some() {
            let (mut leaves, mut entries) = (Vec::new(), 0);
            while entries < BATCH
                && let Some(range) = rest.next()
            {
                leaves.push(range.first_leaf);
                entries += range.to_seq - range.from_seq;
            }
            let mut tx = self.connection.begin().await.map_err(&during)?;
            verify::unhurry(&mut tx).await.map_err(&during)?;
            let removed = sql::delete_ranges(&mut tx, tenant, &leaves).await;
            let removed = removed.map_err(&during)?;
            tx.commit().await.map_err(&during)?;
            self.report.removed += removed;
            self.progress.removed += removed;
        }
        Ok(())
    }
}

fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// For `map_err`: another process took the same place.
pub(super) fn contended(operation: &'static str) -> impl Fn(sqlx::Error) -> RetentionError {
    move |error| {
        let error = StoreError::from_driver(operation, &error);
        if error.sqlstate() == Some("23505") {
            RetentionError::Contended
        } else {
            error.into()
        }
    }
}
