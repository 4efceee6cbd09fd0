//! Checkpoints: the whole trail of a tenant in one signed root, to be kept elsewhere.
//!
//! A chain shows what was changed inside it. That its end was cut off, that a chain or everything
//! is gone, that an old backup was restored: this shows only against something that was kept
//! outside of the database. A checkpoint is that thing: some 200 bytes, signed by a key that the
//! agents' processes need not have. Every entry under it can be proved to a third party, offline,
//! with nothing but the log's public key.
//!
//! The entries form an RFC 6962 tree; the leaf of an entry is `SHA-256(0x00 || row v1 || MAC)`.
//! The MAC in it keeps what is guessable from being guessed from a published hash, and ties tree
//! and chains together: each entry is read both as a link of its chain and as a leaf of the tree.
//!
//! | The store is | [`Audit::checkpoint`] |
//! |---|---|
//! | reachable | makes the next checkpoint, one process at a time |
//! | unreachable, or lost in the middle | an error; nothing is given out that is not stored |
//! | not as it was written | refuses to sign over it |
//!
//! ```no_run
//! # async fn example(audit: portcullis::audit::Audit) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{Secret, audit::Verify, tlog::LogKey};
//!
//! let key = LogKey::new("audit.example/acme", &Secret::parse(&std::env::var("LOG_KEY")?)?)?;
//! let checkpoint = audit.checkpoint(&key).await?;
//! std::fs::write("/mnt/worm/acme.checkpoint", checkpoint.note())?;
//!
//! // Later, perhaps by somebody else, with the note that was kept:
//! let kept = std::fs::read_to_string("/mnt/worm/acme.checkpoint")?;
//! let what = Verify::everything().log(key.verifier()).kept("worm", kept);
//! let report = audit.verify(what).await?;
//! assert!(report.is_clean(), "{report}");
//! # Ok(())
//! # }
//! ```

mod links;
mod make;
mod maker;
mod prove;
#[cfg(all(test, feature = "embedded"))]
mod tests;

pub(in crate::audit) use self::links::{leaf, read_stored};
pub use self::maker::CheckpointEvery;
pub(crate) use self::maker::Maker;
pub use self::prove::{ConsistencyProof, EventProof};

use super::store::checkpoint as sql;
use super::{Audit, AuditError};
use crate::tlog::{Checkpoint, LogKey, LogVerifier, TreeHash};

/// A checkpoint that was signed and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a checkpoint protects what is under it once its note is kept outside of the database"]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: String,
}

impl SignedCheckpoint {
    /// How many entries are under it.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.checkpoint.size()
    }

    /// The root of the tree over them.
    #[must_use]
    pub const fn root(&self) -> TreeHash {
        self.checkpoint.root()
    }

    /// The signed note. Keep it where who can write the database cannot.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl Audit {
    /// Signs the trail as it is now, and stores the checkpoint.
    ///
    /// An entry `chain.checkpoint` is recorded first, so that the tree has something new. Where
    /// another process makes a checkpoint, this one comes after it. A trail with much that is under
    /// no checkpoint yet gets several, of at most 250,000 entries each; the last one is returned.
    ///
    /// # Errors
    ///
    /// * [`AuditError::Tampered`] if an entry that is new, or the end of what was signed before, is
    ///   not as it was written. Nothing is signed over it.
    /// * [`AuditError::Tree`] if what is stored is not the tree that was signed last, or was signed
    ///   by another key.
    /// * [`AuditError::Log`] if the tenant's tree has another origin than the key, or another
    ///   tenant's tree has this one.
    /// * [`AuditError::Store`] if the database did not take it, or did not answer. The checkpoint
    ///   may still have been stored; it was not given out, and the next one is consistent with it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not committed is undone. The entry may remain.
    pub async fn checkpoint(&self, key: &LogKey) -> Result<SignedCheckpoint, AuditError> {
        make::next(self, key, None).await?.ok_or(AuditError::Closed)
    }

    /// The note of the newest checkpoint that is stored; nothing of it is checked.
    ///
    /// # Errors
    ///
    /// [`AuditError::Store`] if the database did not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn last_checkpoint(&self) -> Result<Option<String>, AuditError> {
        let store = self.store();
        let work = || async {
            let mut tx = store.begin().await?;
            let last = sql::fetch_last(&mut *tx, store.tenant()).await?;
            tx.commit().await?;
            Ok(last)
        };
        let last = store
            .run_idempotent("read the last checkpoint", work)
            .await?;
        Ok(last.map(|last| last.note))
    }

    /// How many entries are under no checkpoint yet, and how old the last checkpoint is, in
    /// milliseconds; `None` if there is none.
    pub(crate) async fn backlog(&self) -> Result<(u64, Option<u64>), AuditError> {
        let store = self.store();
        let work = || async {
            let mut tx = store.begin().await?;
            let now = store.database_now();
            let backlog = sql::fetch_backlog(&mut *tx, store.tenant(), now).await?;
            tx.commit().await?;
            Ok(backlog)
        };
        let operation = "look whether a checkpoint is due";
        Ok(store.run_idempotent(operation, work).await?)
    }

    /// The root that the log signed for a tree of `size` entries, as the stored checkpoint says.
    pub(in crate::audit) async fn signed_at(
        &self,
        log: &LogVerifier,
        size: u64,
    ) -> Result<Option<TreeHash>, AuditError> {
        let store = self.store();
        let work = || async {
            let mut tx = store.begin().await?;
            let stored = sql::fetch_checkpoint(&mut *tx, store.tenant(), size).await?;
            tx.commit().await?;
            Ok(stored)
        };
        let stored = store.run_idempotent("read a checkpoint", work).await?;
        let signed = stored.and_then(|stored| Checkpoint::open(&stored.note, log).ok());
        Ok(signed
            .filter(|signed| signed.size() == size)
            .map(|signed| signed.root()))
    }
}
