//! What can go wrong with retention.

use std::io;

use crate::audit::AuditError;
use crate::error::ErrorKind;
use crate::ids::EventId;
use crate::store::StoreError;
use crate::tlog::LogError;

/// Why nothing was set, archived or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// The policy is shorter than the law allows.
    #[error(
        "a retention of {months} months is too short: Article 19(1) and Article 26(6) of Regulation (EU) 2024/1689 ask for at least six months; set 6 or more"
    )]
    TooShort {
        /// What was asked for.
        months: u32,
    },
    /// A value is not right.
    #[error("{field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// There is no policy, so nothing is old enough.
    #[error("there is no retention policy; set one first, of six months or more")]
    NoPolicy,
    /// What was asked to be archived must stay longer.
    #[error(
        "the retention policy keeps entries for {min_months} months, and {asked} were asked for; ask for more, or set another policy"
    )]
    BelowPolicy {
        /// What was asked for.
        asked: u32,
        /// What the policy says.
        min_months: u32,
    },
    /// No checkpoint is known to be kept outside of the database.
    #[error(
        "no checkpoint was given that is kept outside of the database: without one, nobody could tell archived entries from deleted ones; give a note that an anchor holds"
    )]
    NotAnchored,
    /// A checkpoint that is kept outside is not of the tree that is stored.
    #[error(
        "the checkpoint kept by `{anchor}` is not of the stored tree, or larger; nothing is removed, run verify_checkpoints with it"
    )]
    AnchorMismatch {
        /// Who keeps it.
        anchor: String,
    },
    /// The hold is not there, or was released before.
    #[error("there is no open legal hold {hold}; list the open ones")]
    NoHold {
        /// Its id.
        hold: EventId,
    },
    /// A legal hold was set while an archive was made. Nothing of it is removed; its file is of no use.
    #[error(
        "a legal hold was set on what was being archived; nothing of it is removed, run it again"
    )]
    Held,
    /// Somebody else sets a policy or archives the same entries at this moment.
    #[error("somebody else changes the policy or archives the same entries now; try again")]
    Contended,
    /// An archive's file is not in the directory that was given.
    #[error(
        "the file of archive {archive} is not in the directory, and not all that is in it was removed yet; give the directory in which it is"
    )]
    FileMissing {
        /// The archive.
        archive: EventId,
    },
    /// An archive's file is not what was written. Nothing was removed for it.
    #[error("the archive's file is not right at line {line}: {problem}; nothing is removed for it")]
    Unsound {
        /// The line, from 1; 0 for the file as a whole.
        line: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A file or the directory could not be read or written.
    #[error("cannot {doing}: {kind}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        kind: io::ErrorKind,
    },
    /// A note or key of the log is not right.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The trail did not take or give it.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The database did not take or give it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RetentionError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::TooShort { .. }
            | Self::Field { .. }
            | Self::NoPolicy
            | Self::BelowPolicy { .. }
            | Self::NotAnchored
            | Self::NoHold { .. }
            | Self::FileMissing { .. } => ErrorKind::Misuse,
            Self::Held | Self::Contended | Self::File { .. } => ErrorKind::Unavailable,
            Self::AnchorMismatch { .. } | Self::Unsound { .. } => ErrorKind::Integrity,
            Self::Log(error) => error.kind(),
            Self::Audit(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// For `map_err`: what was being done with a file.
    pub(super) fn during(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::File {
            doing,
            kind: error.kind(),
        }
    }
}
