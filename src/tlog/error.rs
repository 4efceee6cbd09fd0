//! What can be wrong with a log's data.

use crate::error::ErrorKind;

/// Why a key, note, checkpoint or proof was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The name of a key or log is none.
    #[error(
        "the log's name is empty, longer than 512 bytes, or has white space, a control character or a plus; use a name like `audit.example/acme`"
    )]
    Name,
    /// The text of a public key is none.
    #[error("the verifier key is not `name+id+key` of this kind, or its id is not that of its key")]
    Key,
    /// The key is one under which anybody can sign.
    #[error("the public key is weak or not in its canonical encoding; make a new one")]
    WeakKey,
    /// The seed has another length than 32 bytes.
    #[error("the seed of the log's key is not 32 bytes long; make one with `openssl rand -hex 32`")]
    Seed,
    /// Not a signed note.
    #[error("not a signed note: {0}")]
    Note(&'static str),
    /// Not a checkpoint.
    #[error("not a checkpoint: {0}")]
    Checkpoint(&'static str),
    /// Not a proof file.
    #[error("not a proof: {0}")]
    Proof(&'static str),
    /// Not the path of a tile.
    #[error("not the path of a tile, such as tile/0/x001/234 or tile/1/000.p/17")]
    Tile,
    /// None of the note's signatures is of a key that is known.
    #[error("no signature of the key that was asked for; is it the right log's?")]
    Unsigned,
    /// A signature of a known key is wrong.
    #[error("a signature of the key that was asked for is wrong")]
    BadSignature,
    /// A checkpoint of another log, or signed under another name than its log's.
    #[error("the checkpoint is of another log than its signer's")]
    Origin,
    /// The proof does not lead to the root.
    #[error("the proof does not hold: entry and checkpoint do not belong together")]
    Unproved,
    /// One tree is not the beginning of the other.
    #[error("the trees are not consistent: the smaller is not the beginning of the larger")]
    Inconsistent,
    /// An empty tree is the beginning of every tree, and proves nothing.
    #[error(
        "a tree of size 0 proves nothing about a larger one; use a checkpoint that has entries"
    )]
    EmptyAnchor,
    /// An index or size that the tree does not have.
    #[error("the tree has no such entry or size")]
    OutOfRange,
}

impl LogError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Name
            | Self::Key
            | Self::WeakKey
            | Self::Seed
            | Self::Tile
            | Self::EmptyAnchor
            | Self::OutOfRange => ErrorKind::Misuse,
            Self::Note(_)
            | Self::Checkpoint(_)
            | Self::Proof(_)
            | Self::Unsigned
            | Self::BadSignature
            | Self::Origin
            | Self::Unproved
            | Self::Inconsistent => ErrorKind::Integrity,
        }
    }
}
