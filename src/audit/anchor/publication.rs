//! A checkpoint on its way to an anchor.

use std::fmt;

use super::AnchorError;
use crate::audit::Audit;
use crate::tlog::{Checkpoint, LogVerifier, Plan, TreeHash};

/// A checkpoint that is to be kept, and what can be told of it.
pub struct Publication {
    pub(super) audit: Audit,
    pub(super) log: LogVerifier,
    pub(super) checkpoint: Checkpoint,
    pub(super) note: String,
    /// The size that the anchor took last, as far as our record says.
    pub(super) previous: Option<u64>,
}

impl Publication {
    /// The signed note: what is to be kept, byte for byte.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The checkpoint that the note signs.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.checkpoint.origin()
    }

    /// What verifies the log's signatures.
    #[must_use]
    pub const fn log(&self) -> &LogVerifier {
        &self.log
    }

    /// The size of the tree that this anchor took last, as far as the receipts say. A memory, not a
    /// proof.
    #[must_use]
    pub const fn previous(&self) -> Option<u64> {
        self.previous
    }

    /// The proof that the tree of the first `old_size` entries is the beginning of this one, in the
    /// order of RFC 9162 section 2.1.4; empty for a size of 0 and for its own.
    ///
    /// # Errors
    ///
    /// * [`AnchorError::Ahead`] if this tree is smaller than that.
    /// * [`AnchorError::Away`] if the stored tree could not be read.
    pub async fn proof_from(&self, old_size: u64) -> Result<Vec<TreeHash>, AnchorError> {
        let size = self.checkpoint.size();
        if old_size > size {
            return Err(AnchorError::Ahead { held: old_size });
        }
        if old_size == 0 || old_size == size {
            return Ok(Vec::new());
        }
        let plan = Plan::consistency(old_size, size)?;
        self.audit
            .fold(&plan, size)
            .await
            .map_err(|_| AnchorError::Away("the stored tree could not be read for a proof"))
    }

    /// The root that the log signed for a tree of `size` entries, as our own record says; `None` if
    /// it signed none of that size.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Away`] if the record could not be read.
    pub async fn signed_at(&self, size: u64) -> Result<Option<TreeHash>, AnchorError> {
        let own = &self.checkpoint;
        if size == own.size() {
            return Ok(Some(own.root()));
        }
        self.audit
            .signed_at(&self.log, size)
            .await
            .map_err(|_| AnchorError::Away("our record of what was signed could not be read"))
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("checkpoint", &self.checkpoint)
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}
