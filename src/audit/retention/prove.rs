//! Proving an entry that was archived, with its file.

use std::path::Path;

use super::file::Reader;
use super::{Retention, RetentionError};
use crate::audit::EventProof;
use crate::ids::EventId;
use crate::tlog::{Checkpoint, LogVerifier};

impl Retention {
    /// Proves that the entry of event `id`, which is in an archive's file, is under the newest
    /// checkpoint. The tree is whole, whatever was removed; the file has what the leaf is of.
    ///
    /// # Errors
    ///
    /// * [`AuditError::NoCheckpoint`](crate::audit::AuditError::NoCheckpoint) within if the file does
    ///   not have the event.
    /// * [`AuditError::Tampered`](crate::audit::AuditError::Tampered) within if what the file has is
    ///   not what was signed.
    /// * Others as [`verify_archive`](Self::verify_archive).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn prove(
        &self,
        file: &Path,
        log: &LogVerifier,
        id: EventId,
    ) -> Result<EventProof, RetentionError> {
        let (reader, header) = Reader::open(file, self.audit.store().tenant().as_str())?;
        Checkpoint::open(&header.checkpoint, log)?;
        let found = reader.find(id).await?;
        let (chain_no, seq, content) = found.ok_or(crate::audit::AuditError::NoCheckpoint)?;
        Ok(self.audit.prove_content(chain_no, seq, content).await?)
    }
}
