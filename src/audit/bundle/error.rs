//! Why a bundle was not written.

use std::io;

use crate::audit::AuditError;
use crate::error::ErrorKind;
use crate::store::StoreError;
use crate::tlog::LogError;

/// Why a bundle was not exported, or nothing taken out of one. What was written is no bundle: it
/// has no seal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The trail could not be read, or is not the one that was signed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Everything was asked for, and some of it is archived.
    #[error(
        "some entries are archived, so that a bundle cannot show everything; select a time, a session or an agent, and hand over the archives' files"
    )]
    Archived,
    /// The file could not be read or written.
    #[error("the bundle's file: {0}")]
    Io(#[from] io::Error),
    /// The bundle to take something out of is not sound: whoever seals it anew would vouch for it.
    #[error(
        "line {line} of the bundle: {detail}; nothing is taken out of a bundle that does not verify"
    )]
    NotSound {
        /// The first line with a finding.
        line: u64,
        /// What is wrong.
        detail: &'static str,
    },
    /// Something that was to be taken out is not in the bundle.
    #[error("the bundle shows no entry of {what}; check what to take out, nothing was written off")]
    NotThere {
        /// What: an event's id, or a kind of name.
        what: String,
    },
    /// An entry that puts a key on record, or takes it off, cannot be taken out.
    #[error(
        "entry {event} says whose a key is, which the signatures in the bundle need; take the entries out that are signed with it"
    )]
    KeyEntry {
        /// The event's id.
        event: String,
    },
    /// The bundle was redacted too often for one more seal.
    #[error("the bundle was redacted sixteen times; take everything out of the first one at once")]
    TooOften,
}

impl BundleError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Audit(error) => error.kind(),
            Self::Io(_) => ErrorKind::Unavailable,
            Self::NotSound { .. } => ErrorKind::Integrity,
            Self::Archived | Self::NotThere { .. } | Self::KeyEntry { .. } | Self::TooOften => {
                ErrorKind::Misuse
            }
        }
    }
}

impl From<StoreError> for BundleError {
    fn from(error: StoreError) -> Self {
        Self::Audit(error.into())
    }
}

impl From<LogError> for BundleError {
    fn from(error: LogError) -> Self {
        Self::Audit(error.into())
    }
}
