//! Transparency logs: what makes a trail evidence to somebody who does not hold its keys.
//!
//! A log is a Merkle tree over entries, as in Certificate Transparency. A [`Checkpoint`] names its
//! size and root and is signed by the log's key; a [`LogProof`] shows, offline, that one entry is
//! in the tree of a checkpoint; a consistency proof shows that one tree is the beginning of
//! another. Formats are those of RFC 6962 / RFC 9162 and of C2SP (`signed-note`,
//! `tlog-checkpoint`, `tlog-cosignature`, `tlog-tiles`, `tlog-proof`), so that others' tools read
//! them.
//!
//! No I/O: hashes, text and signatures. Who the log is (its origin and key) is always the caller's
//! [`LogVerifier`], never taken from the data.
//!
//! ```
//! use portcullis::tlog::{Checkpoint, Frontier, LogKey, TreeHash};
//!
//! let key = LogKey::new("audit.example/acme", &portcullis::Secret::generate()?)?;
//! let mut tree = Frontier::new();
//! tree.push(TreeHash::of_leaf(b"first"));
//! let note = key.sign(&Checkpoint::new(key.origin(), tree.size(), tree.root())?)?;
//!
//! // Elsewhere, with nothing but the text of the key:
//! let log = portcullis::tlog::LogVerifier::parse(&key.verifier().to_string())?;
//! let checkpoint = Checkpoint::open(&note.to_string(), &log)?;
//! assert_eq!(checkpoint.size(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checkpoint;
mod cosignature;
mod error;
mod frontier;
mod growth;
mod hash;
mod key;
mod merkle;
mod note;
mod plan;
mod proof;
mod tile;

pub use checkpoint::Checkpoint;
pub use cosignature::{WitnessKey, WitnessVerifier};
pub use error::LogError;
pub use frontier::Frontier;
pub use growth::Growth;
pub use hash::TreeHash;
pub use key::{LogKey, LogVerifier};
pub use merkle::{verify_consistency, verify_inclusion};
pub use note::{MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteSignature};
pub use plan::{Plan, Subtree};
pub use proof::LogProof;
pub use tile::{TILE_WIDTH, Tile};

#[cfg(test)]
mod tests;
