//! The journal: where events go while the database is away, and first of all in spooled mode.
//!
//! One file per writer at a time, JSON lines, each under a MAC of the journal's own key that covers
//! the line before it. A line is acknowledged once it is on the disk (synced, but for spooled mode),
//! and its file is removed once everything in it is committed. Files are never shared: each is
//! locked by its writer, and whoever gets the lock of a file knows that its writer is gone.
//!
//! | The disk is | what happens |
//! |---|---|
//! | writable | lines are acknowledged after one write and one sync, which answer all callers that wait |
//! | full, read-only, or at the settable limit | [`JournalError`]; what has nowhere to go is `Lost`, loudly |
//! | torn or tampered with | what is intact is committed; what is not is moved into a `.quarantine` file and reported |
//!
//! ```
//! use portcullis::audit::JournalSettings;
//!
//! let journal = JournalSettings::in_directory("/var/lib/agent/journal").limit(64 << 20);
//! # let _ = journal;
//! ```

mod desk;
mod directory;
mod error;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzed;
mod ledger;
mod line;
mod note;
mod read;
mod settings;
mod spelling;
mod spool;

#[cfg(test)]
mod tests;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

pub use self::error::JournalError;
pub use self::settings::JournalSettings;

use self::desk::Desk;
pub(super) use self::directory::{Directory, Found};
pub(super) use self::ledger::Ledger;
pub(super) use self::line::{Context, Said};
pub(crate) use self::note::Note;
pub(super) use self::read::{Chunk, Item, Reader, quarantine};
use self::spool::{Request, Spool};
use super::error::AuditError;
use super::model::{Draft, Journalled, Sealed};
use crate::ids::{EventId, JournalId};

/// Who waits for lines to be written.
pub(super) type Written = oneshot::Sender<Result<Vec<Journalled>, AuditError>>;

/// What is to be written, and how.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) content: Content,
    pub(super) mode: Mode,
    pub(super) answer: Answer,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Events(Arc<Sealed>),
    Note(Arc<Note>),
}

impl Content {
    /// How many lines it takes.
    fn lines(&self) -> u64 {
        match self {
            Self::Events(events) => u64::try_from(events.len()).unwrap_or(u64::MAX),
            Self::Note(_) => 1,
        }
    }

    fn ids(&self) -> Vec<EventId> {
        match self {
            Self::Events(events) => events.iter().map(|draft| draft.id).collect(),
            Self::Note(note) => vec![note.id],
        }
    }
}

/// What a line is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The database is away: synced before it is acknowledged, and lost if it cannot be.
    Fallback,
    /// The start of an outage: as [`Fallback`](Self::Fallback), but owed until it can be written.
    Marker,
    /// Written ahead of the commit, not synced; what cannot be is committed at once instead.
    Ahead,
}

/// Who hears what became of an order.
#[derive(Debug)]
pub(super) enum Answer {
    Nobody,
    Writer(Written),
    /// A caller of the writer's queue, who expects the queue's answer.
    Queue(super::writer::Reply),
}

/// The journal of one writer. Its thread and its first file are made when they are first needed.
#[derive(Debug)]
pub(super) struct Journal {
    context: Arc<Context>,
    directory: Directory,
    on_request: bool,
    ledger: Arc<Ledger>,
    desk: Arc<Desk>,
    thread: Mutex<Option<Sender<Request>>>,
}

impl Journal {
    /// `None` if there is to be none, or nowhere to put it.
    pub(super) fn new(settings: &JournalSettings, context: Context) -> Option<Self> {
        let directory = Directory::at(settings.place()?);
        let (context, ledger) = (Arc::new(context), Arc::new(Ledger::new()));
        let spool = Spool::new(
            Arc::clone(&context),
            directory.clone(),
            settings,
            Arc::clone(&ledger),
        );
        Some(Self {
            context,
            directory,
            on_request: settings.is_on_request(),
            ledger,
            desk: Arc::new(Desk::new(spool)),
            thread: Mutex::new(None),
        })
    }

    /// Whether it is drained only when somebody asks for it.
    pub(super) const fn is_on_request(&self) -> bool {
        self.on_request
    }

    pub(super) fn id(&self) -> JournalId {
        self.context.journal
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) const fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) const fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Hands an order to the thread that writes. Never waits.
    pub(super) fn write(&self, order: Order) {
        if let Err(Request::Write(order)) = self.send(Request::Write(order)) {
            spool::refuse(order, JournalError::Closed, &self.ledger);
        }
    }

    /// Makes the directory, and makes sure that it is ours.
    pub(super) async fn prepare(&self) -> Result<(), JournalError> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || directory.prepare())
            .await
            .unwrap_or(Err(JournalError::Closed))
    }

    /// Makes sure that the directory, if there is one, is ours.
    pub(super) async fn look(&self) -> Result<(), JournalError> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || directory.found().map(drop))
            .await
            .unwrap_or(Err(JournalError::Closed))
    }

    /// Writes ahead of the commit.
    pub(super) async fn write_ahead(
        &self,
        events: Arc<Sealed>,
    ) -> Result<Vec<Journalled>, AuditError> {
        if let Some(first) = self.desk.write_ahead(&events) {
            // The spool is free again: it wakes somebody, which takes as long as a line.
            self.ledger.written.notify_one();
            let line = |(line, draft): (u64, &Draft)| Journalled {
                id: draft.id,
                journal: self.context.journal,
                line,
            };
            return Ok((first..).zip(events.iter()).map(line).collect());
        }
        let (written, answer) = oneshot::channel();
        self.write(Order {
            content: Content::Events(events),
            mode: Mode::Ahead,
            answer: Answer::Writer(written),
        });
        answer
            .await
            .unwrap_or(Err(AuditError::Journal(JournalError::Closed)))
    }

    /// Closes the file being written if it ends at `len`; says whether it did.
    pub(super) async fn close(&self, segment: u32, len: u64) -> bool {
        let (answer, closed) = oneshot::channel();
        let request = Request::Close {
            segment,
            len,
            answer,
        };
        self.send(request).is_ok() && closed.await.unwrap_or(false)
    }

    /// Syncs what was written, and waits for it.
    pub(super) async fn flush(&self) {
        // Without a thread nothing was written.
        if self.lock().is_none() {
            return;
        }
        let (answer, done) = oneshot::channel();
        if self.send(Request::Flush(answer)).is_ok() {
            let _ = done.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Sender<Request>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, request: Request) -> Result<(), Request> {
        let mut thread = self.lock();
        if thread.is_none() {
            let (sender, requests) = channel();
            let desk = Arc::clone(&self.desk);
            let started = std::thread::Builder::new()
                .name("portcullis-journal".to_owned())
                .spawn(move || desk.run(&requests));
            if started.is_err() {
                return Err(request);
            }
            *thread = Some(sender);
        }
        match thread.as_ref() {
            Some(sender) => {
                self.desk.expect();
                sender.send(request).map_err(|unsent| {
                    self.desk.done(1);
                    unsent.0
                })
            }
            None => Err(request),
        }
    }
}
