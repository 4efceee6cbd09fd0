//! Bringing the journal into the trail: in order, each event once, and nothing bad in the way.
//!
//! What a line holds is in the trail exactly once in the end, because an event's id is: a line that
//! was committed without our hearing of it, or drained before a crash, is found there and counted.
//! A file is removed only when everything in it is committed or set aside.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Shared;
use super::notes::Redeemed;
use super::outcome::is_poison;
use super::queue::{Group, Placed, Taken};
use super::report::{DrainReport, JournalFinding};
use super::tally::Tally;
use crate::audit::error::AuditError;
use crate::audit::journal::{
    Chunk, Context, Found, Item, Journal, JournalError, Note, Reader, Said, quarantine,
};
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::model::{Draft, Evidence, Sealed};
use crate::ids::JournalId;
use crate::time::Timestamp;

/// Drains the journal of this writer, and what others left. One at a time.
#[derive(Debug, Default)]
pub(super) struct Drainer {
    /// Where we are in our own journal.
    reader: Option<Reader>,
    tally: Tally,
}

/// How thorough one pass is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thoroughness {
    /// Look for what others left.
    pub(super) others: bool,
    /// Remove the file being written too, once it is drained.
    pub(super) close: bool,
}

impl Drainer {
    /// Drains what there is.
    pub(super) async fn pass(
        &mut self,
        shared: &Arc<Shared>,
        how: Thoroughness,
        report: &mut DrainReport,
    ) -> Result<(), AuditError> {
        let Some(journal) = &shared.journal else {
            return Ok(());
        };
        if shared.outage.is_known() {
            // Nothing to be written, by the way that everything is written.
            push(shared, Vec::new()).await?;
            shared.outage.back();
            tracing::info!("the audit trail can be committed again; draining the journal");
        }
        let drained = self.own(shared, journal, how, report).await;
        if let Err(AuditError::Store(error)) = &drained {
            shared
                .outage
                .begin(&shared.store, &shared.keys.load(), journal, error);
        }
        drained?;
        if how.others {
            others(shared, journal, report).await?;
        }
        Ok(())
    }

    async fn own(
        &mut self,
        shared: &Arc<Shared>,
        journal: &Journal,
        how: Thoroughness,
        report: &mut DrainReport,
    ) -> Result<(), AuditError> {
        let ledger = journal.ledger();
        while let Some(front) = ledger.front() {
            let reader = self
                .reader
                .clone()
                .unwrap_or_else(|| Reader::new(Arc::clone(journal.context()), true));
            let upto = (!front.closed).then_some(front.len);
            let (reader, chunk) = read(reader, Arc::clone(&front.file), upto).await?;
            if !chunk.end {
                let job = Job {
                    shared,
                    journal: journal.id(),
                    path: &front.path,
                };
                let lines = job.commit(chunk, &mut self.tally, report).await?;
                ledger.since(lines.next);
                ledger.drained(lines.all);
                // Only now: after an error the same lines are read again.
                self.reader = Some(reader);
                continue;
            }
            if !front.closed {
                self.end(shared, journal.id()).await?;
                let spooling = shared.evidence == Evidence::Spooled;
                let at_rest = how.close || !spooling;
                if !at_rest {
                    break;
                }
                // Closed, it is read once more, to its real end; not closed, there are new lines.
                journal.close(front.no, front.len).await;
                continue;
            }
            if self.tally.is_owed(shared.outage.open().is_some()) {
                account(shared, journal.id(), &mut self.tally).await?;
            }
            let (directory, path) = (journal.directory().clone(), front.path.clone());
            blocking(move || directory.remove(&path)).await?;
            ledger.pop(front.no);
            let mut reader = reader;
            reader.next_file();
            self.reader = Some(reader);
        }
        self.end(shared, journal.id()).await
    }

    /// Puts the end of an outage on record, if one is open and everything is drained.
    async fn end(&mut self, shared: &Arc<Shared>, journal: JournalId) -> Result<(), AuditError> {
        let Some(outage) = shared.outage.open() else {
            return Ok(());
        };
        self.tally.outage = Some(outage.to_string());
        push(shared, vec![self.tally.degraded_end(shared, journal)?]).await?;
        tracing::info!(%outage, drained = self.tally.drained, "the audit trail is whole again");
        shared.outage.end();
        self.tally = Tally::default();
        Ok(())
    }
}

/// Puts on record which lines are no entries of their own, before the file that holds them goes: if
/// this process dies after it, nobody could tell them from lines that were taken away.
async fn account(
    shared: &Arc<Shared>,
    journal: JournalId,
    tally: &mut Tally,
) -> Result<(), AuditError> {
    push(shared, vec![tally.account(shared, journal)?]).await?;
    tally.told();
    Ok(())
}

/// Drains what writers that are gone have left.
async fn others(
    shared: &Arc<Shared>,
    journal: &Journal,
    report: &mut DrainReport,
) -> Result<(), AuditError> {
    let directory = journal.directory().clone();
    let found = blocking(move || directory.found()).await?;
    for files in found.chunk_by(|a, b| a.journal == b.journal) {
        match files.first() {
            Some(first) if first.journal != journal.id() => {
                match left(shared, journal, files, report).await {
                    // One file that cannot be read keeps nobody from the others.
                    Err(AuditError::Journal(error)) => {
                        tracing::error!(%error, journal = %first.journal, "a file of the audit journal could not be drained");
                        report.in_use += 1;
                    }
                    done => done?,
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Drains the files of one journal whose writer is gone.
async fn left(
    shared: &Arc<Shared>,
    journal: &Journal,
    files: &[Found],
    report: &mut DrainReport,
) -> Result<(), AuditError> {
    let Some(id) = files.first().map(|file| file.journal) else {
        return Ok(());
    };
    let context: Arc<Context> = Arc::new(journal.context().for_journal(id));
    let mut reader = Reader::new(context, false);
    let mut tally = Tally::default();
    for (at, found) in files.iter().enumerate() {
        let (directory, path) = (journal.directory().clone(), found.path.clone());
        let file = match blocking(move || directory.take(&path)).await {
            Ok(Some(file)) => Arc::new(file),
            // Its writer lives, or another process is at it: the later files are theirs, too.
            Ok(None) => {
                report.in_use += 1;
                return Ok(());
            }
            Err(AuditError::Journal(error)) => {
                tracing::warn!(%error, journal = %id, "a file of the audit journal was left alone");
                report.foreign += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        reader.next_file();
        loop {
            let (next, chunk) = read(reader, Arc::clone(&file), None).await?;
            reader = next;
            if chunk.foreign {
                report.foreign += 1;
                return Ok(());
            }
            if chunk.end {
                break;
            }
            let job = Job {
                shared,
                journal: id,
                path: &found.path,
            };
            match job.commit(chunk, &mut tally, report).await {
                // It has notes for a module that this process does not have, or whose store is away.
                Err(AuditError::Closed | AuditError::Overloaded) if shared.queue.is_open() => {
                    report.in_use += 1;
                    return Ok(());
                }
                done => done?,
            };
        }
        if at + 1 < files.len() && tally.is_owed(true) {
            account(shared, id, &mut tally).await?;
        }
        // Also where nothing is left to drain: whoever drained the files before this one was killed before
        // it could say that the journal ends here.
        if at + 1 == files.len() && tally.reach(reader.reached()) {
            push(shared, vec![tally.degraded_end(shared, id)?]).await?;
            tracing::info!(journal = %id, drained = tally.drained, "drained a journal that was left behind");
        }
        let (directory, path) = (journal.directory().clone(), found.path.clone());
        blocking(move || directory.remove(&path)).await?;
        // The lock goes with the file, once that is gone.
        drop(file);
    }
    Ok(())
}

/// What a commit of a chunk settled.
struct Settled {
    /// Lines that need not be looked at again.
    all: u64,
    /// When the last of them was written.
    next: Option<Timestamp>,
}

/// One file being drained.
struct Job<'j> {
    shared: &'j Arc<Shared>,
    journal: JournalId,
    path: &'j Path,
}

/// What a chunk holds, by what is to be done with it.
#[derive(Default)]
struct Sorted {
    events: Vec<Event>,
    notes: Vec<(u64, Note, Vec<u8>)>,
    aside: Vec<Vec<u8>>,
    findings: Vec<JournalFinding>,
    missing: u64,
    /// When the last intact line was written.
    at: Option<Timestamp>,
}

impl Job<'_> {
    /// Commits what is intact in `chunk`, and sets aside what is not.
    async fn commit(
        &self,
        chunk: Chunk,
        tally: &mut Tally,
        report: &mut DrainReport,
    ) -> Result<Settled, AuditError> {
        let mut sorted = self.sort(chunk);
        let all = sorted.events.len() + sorted.notes.len() + sorted.aside.len();
        let mut done = Tally::default();
        self.commit_events(&mut sorted, &mut done).await?;
        self.redeem_notes(&mut sorted, &mut done).await?;
        let Sorted {
            aside,
            findings,
            missing,
            at,
            ..
        } = sorted;
        done.quarantined = u64::try_from(aside.len()).unwrap_or(u64::MAX);
        done.missing = missing;
        if done.quarantined > 0 {
            let path: PathBuf = self.path.to_owned();
            blocking(move || Ok(quarantine(&path, &aside)?)).await?;
            if let Some(journal) = &self.shared.journal {
                journal.ledger().quarantined(done.quarantined);
            }
        }
        report.drained += done.drained;
        report.already_present += done.present();
        report.notes += done.notes;
        report.quarantined += done.quarantined;
        report.missing += done.missing;
        for finding in findings {
            report.find(finding);
        }
        tally.add(done);
        Ok(Settled {
            all: u64::try_from(all).unwrap_or(u64::MAX),
            next: at,
        })
    }

    fn sort(&self, chunk: Chunk) -> Sorted {
        let mut sorted = Sorted::default();
        for item in chunk.items {
            match item {
                Item::Line(line, raw) => {
                    sorted.at = Some(line.at);
                    let (seq, mac) = (line.seq, line.mac);
                    match line.said {
                        Said::Note(note) => sorted.notes.push((seq, note, raw)),
                        Said::Event(draft) => sorted.events.push(Event {
                            seq,
                            mac,
                            draft: *draft,
                            raw,
                        }),
                    }
                }
                Item::Bad { seq, raw, why } => {
                    sorted.findings.push(self.finding(seq, seq, why));
                    sorted.aside.push(raw);
                }
                Item::Hole { from, through } => {
                    let finding = self.finding(from, through, "lines are missing");
                    sorted.findings.push(finding);
                    sorted.missing += through - from + 1;
                }
                Item::Stray { seq } => {
                    let why = "the line is not where it was written";
                    sorted.findings.push(self.finding(seq, seq, why));
                }
            }
        }
        sorted
    }

    const fn finding(&self, line: u64, through: u64, detail: &'static str) -> JournalFinding {
        JournalFinding::new(self.journal, line, through, detail)
    }

    async fn commit_events(&self, sorted: &mut Sorted, done: &mut Tally) -> Result<(), AuditError> {
        let mut parts = one_of_each(std::mem::take(&mut sorted.events));
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let drafts = part.iter().map(|line| line.draft.clone()).collect();
            match push(self.shared, drafts).await {
                Ok(placed) => {
                    for (line, placed) in part.iter().zip(&placed) {
                        done.count((line.seq, line.mac), &line.draft, placed.on_record);
                    }
                }
                Err(error) if !is_for_good(&error) => return Err(error),
                // Apart from each other, one bad line stops no other.
                Err(_) if part.len() > 1 => {
                    let second = part.split_off(part.len().div_ceil(2));
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) => {
                    for line in part {
                        let finding = self.finding(line.seq, line.seq, why(&error));
                        sorted.findings.push(finding);
                        sorted.aside.push(line.raw);
                    }
                }
            }
        }
        Ok(())
    }

    async fn redeem_notes(&self, sorted: &mut Sorted, done: &mut Tally) -> Result<(), AuditError> {
        for (seq, note, raw) in std::mem::take(&mut sorted.notes) {
            match self.shared.notes.redeem(note).await {
                Some(Redeemed::Done) => done.notes += 1,
                // As long as it waits, so does its file.
                Some(Redeemed::Later) => return Err(AuditError::Overloaded),
                Some(Redeemed::Never) => {
                    let why = "the module that wrote the line cannot use it";
                    sorted.findings.push(self.finding(seq, seq, why));
                    sorted.aside.push(raw);
                }
                None => return Err(AuditError::Closed),
            }
        }
        Ok(())
    }
}

/// An intact line that holds an event.
struct Event {
    seq: u64,
    mac: Tag,
    draft: Draft,
    raw: Vec<u8>,
}

/// Lines apart from those of the same event: one entry for each event in one batch. What is to be
/// committed first is last.
fn one_of_each(mut lines: Vec<Event>) -> Vec<Vec<Event>> {
    let mut parts = Vec::new();
    while !lines.is_empty() {
        let mut seen = HashSet::new();
        let (first, again) = lines
            .into_iter()
            .partition(|line: &Event| seen.insert(line.draft.id));
        parts.insert(0, first);
        lines = again;
    }
    parts
}

/// Whether trying again would end the same.
fn is_for_good(error: &AuditError) -> bool {
    match error {
        AuditError::IdReused { .. } => true,
        AuditError::Store(error) => is_poison(error),
        _ => false,
    }
}

fn why(error: &AuditError) -> &'static str {
    match error {
        AuditError::IdReused { .. } => "another event with the line's id is in the trail",
        _ => "the database does not take the line",
    }
}

/// Appends through the queue, as everything is; what cannot be committed stays where it is.
pub(super) async fn push(
    shared: &Arc<Shared>,
    drafts: Vec<Draft>,
) -> Result<Vec<Placed>, AuditError> {
    shared.queue.wait_for_room().await?;
    let (reply, answer) = oneshot::channel();
    shared.push(Group::kept(Arc::new(Sealed::new(drafts)), reply))?;
    match answer.await {
        Ok(Ok(Taken::Placed(placed))) => Ok(placed.into_vec()),
        Ok(Err(error)) => Err(error),
        // The lane died with its runtime.
        Ok(Ok(Taken::Journalled(_))) | Err(_) => Err(AuditError::Closed),
    }
}

async fn read(
    mut reader: Reader,
    file: Arc<File>,
    upto: Option<u64>,
) -> Result<(Reader, Chunk), AuditError> {
    blocking(move || {
        let chunk = reader.read(&file, upto)?;
        Ok((reader, chunk))
    })
    .await
}

/// Does what waits for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, AuditError> {
    match spawn_blocking(work).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(AuditError::Closed),
    }
}

/// Whether a draft begins an outage.
pub(super) fn begins_outage(draft: &Draft) -> bool {
    draft.kind == Kind::ChainDegradedStart
}
