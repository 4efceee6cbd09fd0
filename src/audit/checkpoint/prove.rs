//! Proofs of single entries, and of one checkpoint's history in another.

use std::collections::BTreeMap;

use super::sql;
use crate::audit::store::{archive, read};
use crate::audit::{Audit, AuditError};
use crate::canon::Fields;
use crate::ids::EventId;
use crate::store::StoreError;
use crate::tlog::{
    Checkpoint, LogError, LogProof, LogVerifier, Note, Plan, Tile, TreeHash, verify_consistency,
    verify_inclusion,
};

/// That an event's entry is in the trail, for somebody who has the log's public key and nothing
/// else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventProof {
    content: Vec<u8>,
    proof: LogProof,
}

impl EventProof {
    /// The content of the leaf: the entry's fields as its MAC covers them (row v1), then its MAC.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The leaf. It discloses nothing of the entry.
    #[must_use]
    pub fn leaf(&self) -> TreeHash {
        TreeHash::of_leaf(&self.content)
    }

    /// The proof of the leaf; its text is a `.tlog-proof` file.
    #[must_use]
    pub const fn proof(&self) -> &LogProof {
        &self.proof
    }
}

/// That the tree of a checkpoint that was kept is the beginning of the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    old_size: u64,
    hashes: Vec<TreeHash>,
    note: String,
}

impl ConsistencyProof {
    /// The size of the tree that it begins with.
    #[must_use]
    pub const fn old_size(&self) -> u64 {
        self.old_size
    }

    /// The hashes, in the order of RFC 9162 section 2.1.4.
    #[must_use]
    pub fn hashes(&self) -> &[TreeHash] {
        &self.hashes
    }

    /// The signed note of the newest checkpoint.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Checks the proof against a checkpoint that was kept, and returns the newest one.
    ///
    /// # Errors
    ///
    /// * What [`Checkpoint::open`] says of the newest one.
    /// * [`LogError::Inconsistent`] if the kept tree is not its beginning.
    pub fn verify(&self, kept: &Checkpoint, log: &LogVerifier) -> Result<Checkpoint, LogError> {
        let newest = Checkpoint::open(&self.note, log)?;
        let (old, new) = ((kept.size(), kept.root()), (newest.size(), newest.root()));
        verify_consistency(old.0, new.0, &old.1, &new.1, &self.hashes)?;
        Ok(newest)
    }
}

impl Audit {
    /// Proves that the entry of event `id` is under the newest checkpoint. Reads a few tiles,
    /// however long the trail is.
    ///
    /// # Errors
    ///
    /// * [`AuditError::NoCheckpoint`] if the event is not on record, or under no checkpoint yet.
    /// * [`AuditError::Archived`] if it is not in the trail, and an archive has entries of its time:
    ///   prove it with the file, by [`Retention::prove`](crate::audit::retention::Retention::prove).
    /// * [`AuditError::Tampered`] if the entry is not the one that was checkpointed.
    /// * [`AuditError::Tree`] if the stored tree is not whole.
    /// * [`AuditError::Store`] if the database did not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn prove(&self, id: EventId) -> Result<EventProof, AuditError> {
        let store = self.store();
        let malformed = || StoreError::malformed("prove an entry");
        let Some(fetched) = read::fetch_entry(store, id, false).await? else {
            return Err(match archive::fetch_archive_of(store, id).await? {
                Some(archive) => AuditError::Archived {
                    file: archive.file_name,
                },
                None => AuditError::NoCheckpoint,
            });
        };
        let stored = fetched.stored(store.tenant()).map_err(|_| malformed())?;
        let stored = stored.map_err(|_| malformed())?;
        let (chain_no, seq) = (stored.row.chain_no, stored.row.seq);
        let mac = stored.mac.ok_or(AuditError::Tampered { chain_no, seq })?;
        let mut encoded = Fields::default();
        stored.row.encode(&mut encoded);
        let content = [encoded.as_bytes(), mac].concat();
        self.prove_content(chain_no, seq, content).await
    }

    /// Proves that `content` is the leaf of the entry at a place, wherever the entry itself is.
    pub(in crate::audit) async fn prove_content(
        &self,
        chain_no: u32,
        seq: u64,
        content: Vec<u8>,
    ) -> Result<EventProof, AuditError> {
        let range = sql::fetch_range_of(self.store(), chain_no, seq).await?;
        let range = range.ok_or(AuditError::NoCheckpoint)?;
        let index = range.first_leaf.saturating_add(seq - range.from_seq);
        let (checkpoint, note) = self.newest().await?;
        let (size, root) = (checkpoint.size(), checkpoint.root());
        let hashes = self.fold(&Plan::inclusion(index, size)?, size).await?;
        let leaf = TreeHash::of_leaf(&content);
        // Never hand out a proof that does not hold.
        verify_inclusion(index, size, &leaf, &hashes, &root)
            .map_err(|_| AuditError::Tampered { chain_no, seq })?;
        Ok(EventProof {
            content,
            proof: LogProof::new(index, hashes, Note::parse(&note)?)?,
        })
    }

    /// Proves that the tree of the first `old_size` entries, of which a checkpoint was kept, is the
    /// beginning of the newest one.
    ///
    /// # Errors
    ///
    /// * [`AuditError::NoCheckpoint`] if there is no checkpoint.
    /// * [`AuditError::Log`] if the size is 0, or larger than the newest tree.
    /// * [`AuditError::Tree`] if the stored tree is not whole.
    /// * [`AuditError::Store`] if the database did not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn prove_consistency(&self, old_size: u64) -> Result<ConsistencyProof, AuditError> {
        let (checkpoint, note) = self.newest().await?;
        let plan = Plan::consistency(old_size, checkpoint.size())?;
        Ok(ConsistencyProof {
            old_size,
            hashes: self.fold(&plan, checkpoint.size()).await?,
            note,
        })
    }

    /// The newest checkpoint. Its signature is for who gets the proof to check.
    async fn newest(&self) -> Result<(Checkpoint, String), AuditError> {
        let note = self.last_checkpoint().await?;
        let note = note.ok_or(AuditError::NoCheckpoint)?;
        let checkpoint = Checkpoint::parse(Note::parse(&note)?.text())?;
        Ok((checkpoint, note))
    }

    /// The hashes of a plan, from the tiles that it needs and no others.
    pub(in crate::audit) async fn fold(
        &self,
        plan: &Plan,
        size: u64,
    ) -> Result<Vec<TreeHash>, AuditError> {
        let mut tiles = plan
            .subtrees()
            .map(|subtree| Tile::of(subtree, size))
            .collect::<Result<Vec<_>, _>>()?;
        tiles.sort();
        tiles.dedup();
        let store = self.store();
        let work = || async {
            let mut tx = store.begin().await?;
            let tiles = sql::list_tiles(&mut *tx, store.tenant(), &tiles).await?;
            tx.commit().await?;
            Ok(tiles)
        };
        let stored: BTreeMap<(u8, u64), Vec<TreeHash>> = store
            .run_idempotent("read the tree", work)
            .await?
            .into_iter()
            .map(|(level, number, hashes)| ((level, number), hashes))
            .collect();
        plan.fold(|subtree| {
            let tile = Tile::of(subtree, size)?;
            let hashes = stored.get(&(tile.level(), tile.number()));
            tile.hash_of(subtree, hashes.map_or(&[], Vec::as_slice))
        })
        .map_err(|_: LogError| AuditError::Tree)
    }
}
