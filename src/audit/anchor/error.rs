//! What can go wrong with an anchor.

use crate::error::ErrorKind;
use crate::tlog::LogError;

/// Why an anchor did not answer, or did not take a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// It could not be reached, read or written.
    #[error("the anchor cannot be used: {0}")]
    Away(&'static str),
    /// It did not answer in time.
    #[error("the anchor did not answer in time")]
    TimedOut,
    /// It does not take checkpoints of this log, or not in this form.
    #[error("the anchor refuses the checkpoint: {0}")]
    Refused(&'static str),
    /// It was set up in a way that cannot work.
    #[error("the anchor is not set up rightly: {0}")]
    Settings(&'static str),
    /// It holds a checkpoint of a larger tree than the one that was to be published.
    #[error("the anchor holds a checkpoint of {held} entries, which is more than was published")]
    Ahead {
        /// How many entries are under what it holds.
        held: u64,
    },
    /// It holds a tree that is not the beginning of the one that was to be published.
    #[error("the anchor holds another tree of {held} entries than the one that was published")]
    Mismatch {
        /// How many entries are under what it holds.
        held: u64,
    },
    /// It holds less than it took before.
    #[error(
        "the anchor holds less than the {published} entries that it took: its content was removed, or another place has its name; if that is right, give the new place another name"
    )]
    Lost {
        /// How many entries were under what it took.
        published: u64,
    },
    /// What it answered, or holds, is not what it must be.
    #[error("the anchor's answer is not right: {0}")]
    Invalid(&'static str),
    /// What it holds is not a checkpoint that the log signed.
    #[error("what the anchor holds is not the log's: {0}")]
    Log(#[from] LogError),
}

impl AnchorError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Away(_) | Self::TimedOut => ErrorKind::Unavailable,
            Self::Refused(_) | Self::Settings(_) => ErrorKind::Misuse,
            Self::Ahead { .. }
            | Self::Mismatch { .. }
            | Self::Lost { .. }
            | Self::Invalid(_)
            | Self::Log(_) => ErrorKind::Integrity,
        }
    }
}
