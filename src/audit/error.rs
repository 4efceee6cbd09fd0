//! What can go wrong with the audit trail.

use super::journal::JournalError;
use super::kind::InvalidKind;
use crate::canon::JsonError;
use crate::error::ErrorKind;
use crate::ids::EventId;
use crate::store::StoreError;
use crate::tlog::LogError;

/// Why an event was not recorded, or the trail not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The event's kind is not one that a caller may write.
    #[error(transparent)]
    Kind(#[from] InvalidKind),
    /// The event's metadata has no canonical form.
    #[error(transparent)]
    Metadata(#[from] JsonError),
    /// A text of the event is too long or has a NUL character.
    #[error("the event's {field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The event's id was used for another event, which stands unchanged.
    #[error("the event id {id} was used for a different event; make a new id for each event")]
    IdReused {
        /// The id.
        id: EventId,
    },
    /// The queue is full: events come in faster than the database takes them.
    #[error("the audit queue is full; slow down, or give the database more")]
    Overloaded,
    /// The writer was shut down.
    #[error("the audit writer was shut down; append before calling shutdown")]
    Closed,
    /// An entry that was read is not the one that was written.
    #[error("entry {seq} of chain {chain_no} is not as it was written; run a full verification")]
    Tampered {
        /// The chain.
        chain_no: u32,
        /// The entry's place in it.
        seq: u64,
    },
    /// The tenant's key was rotated to one that this process does not have. It writes nothing
    /// under the old one.
    #[error(
        "audit entries are now written under key {current}, which this process does not have; give it that key and start it again"
    )]
    KeyNotHeld {
        /// The number of the current key.
        current: u32,
    },
    /// The secret under the current number is another one than the tenant's entries are under.
    #[error(
        "the secret given as audit key {key_id} is not the one that entries are written under; give this process the right one"
    )]
    WrongKey {
        /// The number of the current key.
        key_id: u32,
    },
    /// The keyring in the database names an older key than is in use.
    #[error(
        "the keyring names audit key {current}, but key {newest} is in use: it was set back; look for a restored backup, and verify the trail"
    )]
    KeySetBack {
        /// What the keyring says.
        current: u32,
        /// What was in use before.
        newest: u32,
    },
    /// The key cannot follow the current one.
    #[error("cannot rotate to audit key {to}: {problem}")]
    NotRotated {
        /// The number of the key.
        to: u32,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// What is stored is not the tree that was signed last.
    #[error(
        "the stored tree is not the one that was signed last, or was signed by another key; verify everything against a checkpoint kept elsewhere"
    )]
    Tree,
    /// The name of an anchor is not one.
    #[error("the name of an anchor {problem}")]
    AnchorName {
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// An anchor holds more than the database does: entries were removed, or a backup restored.
    #[error(
        "the anchor `{anchor}` holds a checkpoint of {held} entries and the database one of {signed}: nothing is signed; look for a restored backup, and run verify_checkpoints"
    )]
    AnchorAhead {
        /// The anchor.
        anchor: String,
        /// How many entries are under what it holds.
        held: u64,
        /// How many are under the newest checkpoint in the database.
        signed: u64,
    },
    /// An anchor holds a tree that is not the beginning of the one in the database.
    #[error(
        "the anchor `{anchor}` holds another tree of {held} entries than the database, whose checkpoint has {signed}: nothing is signed; two histories were signed, or the trail was rewritten; run verify_checkpoints"
    )]
    AnchorFork {
        /// The anchor.
        anchor: String,
        /// How many entries are under what it holds.
        held: u64,
        /// How many are under the newest checkpoint in the database.
        signed: u64,
    },
    /// No anchor said what it holds.
    #[error(
        "none of the {anchors} anchors said what it holds, so nothing is signed; see health for why"
    )]
    AnchorsSilent {
        /// How many could have.
        anchors: usize,
    },
    /// The event is under no checkpoint, or there is none.
    #[error("the event is not under a checkpoint; make one, after the event was committed")]
    NoCheckpoint,
    /// The event is not in the trail, and an archive has entries of its time.
    #[error(
        "the event is not in the trail any more, if it ever was; the archive {file} has entries of its time: look there"
    )]
    Archived {
        /// The archive's file.
        file: String,
    },
    /// A key, note or proof of the log is not right.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The token that a verification should go on from was made by none of this trail, under none of
    /// these keys, or was changed.
    #[error(
        "the token to resume from was not made by a verification of this trail under these keys; leave it out to verify everything"
    )]
    Resume,
    /// What to verify was not said in full.
    #[error("cannot verify against {what} without the log's public key; give it with Verify::log")]
    NoLog {
        /// What was given without it.
        what: &'static str,
    },
    /// The cursor of a page is none of ours.
    #[error("invalid page cursor; use the one that the last page gave")]
    Cursor,
    /// The database is away, and the journal on the local disk did not take it either.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The database did not take or give it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AuditError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Kind(_)
            | Self::Metadata(_)
            | Self::Field { .. }
            | Self::IdReused { .. }
            | Self::Closed
            | Self::KeyNotHeld { .. }
            | Self::WrongKey { .. }
            | Self::NotRotated { .. }
            | Self::NoCheckpoint
            | Self::Resume
            | Self::NoLog { .. }
            | Self::AnchorName { .. }
            | Self::Archived { .. }
            | Self::Cursor => ErrorKind::Misuse,
            Self::Overloaded | Self::AnchorsSilent { .. } => ErrorKind::Unavailable,
            Self::Tampered { .. }
            | Self::KeySetBack { .. }
            | Self::Tree
            | Self::AnchorAhead { .. }
            | Self::AnchorFork { .. } => ErrorKind::Integrity,
            Self::Journal(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
