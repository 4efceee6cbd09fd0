//! What an archival is asked for, and what it says that it did.

use std::path::PathBuf;

use crate::ids::EventId;
use crate::time::Timestamp;
use crate::tlog::LogVerifier;

/// What to archive, and where to.
#[derive(Clone, Debug)]
#[must_use = "nothing is archived before it is handed to Retention::archive"]
pub struct Archiving {
    pub(super) directory: PathBuf,
    pub(super) log: LogVerifier,
    pub(super) kept: Vec<KeptNote>,
    pub(super) months: Option<u32>,
}

/// A checkpoint that somebody keeps outside of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptNote {
    pub(super) anchor: String,
    pub(super) note: String,
    pub(super) since: Option<Timestamp>,
}

impl KeptNote {
    /// A note as the anchor called `anchor` gave it back.
    #[must_use]
    pub fn new(anchor: impl Into<String>, note: impl Into<String>) -> Self {
        Self {
            anchor: anchor.into(),
            note: note.into(),
            since: None,
        }
    }

    /// Since when the anchor has it, as the anchor says (and not the database).
    #[must_use]
    pub const fn since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }
}

impl Archiving {
    /// Everything that is older than the policy's minimum, into files in `directory`, which must be
    /// its owner's alone; it is made if it is not there. `log` checks the checkpoints.
    pub fn into_directory(directory: impl Into<PathBuf>, log: LogVerifier) -> Self {
        Self {
            directory: directory.into(),
            log,
            kept: Vec::new(),
            months: None,
        }
    }

    /// A checkpoint that is kept outside of the database. Only what is under one is archived.
    pub fn kept(mut self, kept: KeptNote) -> Self {
        self.kept.push(kept);
        self
    }

    /// Only what is older than so many calendar months, which must not be fewer than the policy's.
    pub const fn older_than_months(mut self, months: u32) -> Self {
        self.months = Some(months);
        self
    }
}

/// How far an archival has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveProgress {
    /// Entries in files, verified and durable.
    pub archived: u64,
    /// Entries removed.
    pub removed: u64,
}

/// One archive that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Archived {
    /// Its id, which is also that of its entry `retention.purged`.
    pub id: EventId,
    /// Its file.
    pub file: PathBuf,
    /// How many entries are in it.
    pub entries: u64,
    /// How many ranges of checkpoints they are.
    pub ranges: usize,
    /// The file's hash.
    pub sha256: [u8; 32],
}

/// What an archival did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveReport {
    /// The archives that were written now.
    pub archives: Vec<Archived>,
    /// Archives of before that were verified again, because something of them was still to be removed.
    pub resumed: usize,
    /// How many entries were removed.
    pub removed: u64,
    /// Ranges that are old enough and stay, because a legal hold has some of them.
    pub held: u64,
}
