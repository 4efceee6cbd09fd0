//! What can go wrong with the journal.

use std::io;

use crate::error::ErrorKind;

/// Why the journal on the local disk did not take an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Its files have reached the limit of [`JournalSettings`](super::JournalSettings).
    #[error("the audit journal is at its limit; bring the database back, or raise the limit")]
    Full,
    /// The operating system did not write it.
    #[error("the audit journal could not be written ({0}); make room, or name another directory")]
    Disk(io::ErrorKind),
    /// The directory or a file is not ours alone.
    #[error(
        "the audit journal's directory is not a directory of this account's alone; give it one with mode 0700 and no links"
    )]
    Untrusted,
    /// The disk did not answer in time. It may still be written.
    #[error("the disk of the audit journal did not answer in time; look for a disk that hangs")]
    TimedOut,
    /// The writer has ended.
    #[error("the audit journal is closed; append before calling shutdown")]
    Closed,
}

impl JournalError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Full | Self::Disk(_) | Self::TimedOut => ErrorKind::Unavailable,
            Self::Untrusted | Self::Closed => ErrorKind::Misuse,
        }
    }
}

impl From<io::Error> for JournalError {
    /// Keeps the kind alone: the text may hold a path.
    fn from(error: io::Error) -> Self {
        Self::Disk(error.kind())
    }
}
