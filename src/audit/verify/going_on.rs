//! Going on from an earlier verification: its tree, and where its chains ended.
//!
//! Nothing of it is taken on the database's word. The tree's right edge comes from the tiles and must
//! have the root that was signed. Where a chain ended comes from the ranges: the last entry under
//! them is read, must be the leaf of its place in that tree, and says itself which chain and place it
//! is. The ends together must come to the size of the tree: then none is set back.

use super::pass::Pass;
use super::reader::Reader;
use super::resume::Point;
use super::tree::Trees;
use crate::audit::keys::AuditKeys;
use crate::audit::rotate::Marker;
use crate::audit::store::checkpoint::{self as sql, RangeRow};
use crate::audit::{Audit, AuditError};
use crate::ids::TenantId;
use crate::store::StoreError;
use crate::tlog::{Growth, Plan, TreeHash, verify_consistency, verify_inclusion};

impl Audit {
    pub(super) fn keys_of_tenant(&self) -> (&AuditKeys, &TenantId) {
        (self.keys(), self.store().tenant())
    }

    /// Has `pass` and `trees` go on from `point`: how many entries are not read again, and the
    /// rotations among them. `None` if the database does not have what was verified then; everything
    /// is read again, and says what is wrong.
    pub(super) async fn go_on(
        &self,
        point: Point,
        pass: &mut Pass<'_>,
        trees: &mut Trees<'_>,
    ) -> Result<Option<(u64, Vec<Marker>)>, AuditError> {
        let (size, root) = (point.checkpoint.size(), point.checkpoint.root());
        let Some(tree) = edge(&mut pass.reader, size).await? else {
            return Ok(None);
        };
        if tree.root() != root || !self.fits(trees, size, root).await? {
            return Ok(None);
        }
        let ranges =
            sql::list_last_ranges(&mut pass.reader.connection, self.store().tenant(), size);
        let ranges = ranges.await;
        let ranges = ranges.map_err(StoreError::during("read where a verification goes on"))?;
        let ends: Vec<(i32, u64)> = ranges.iter().map(|r| (r.chain_no, r.to_seq)).collect();
        let sum = ends
            .iter()
            .fold(0, |sum: u64, (_, end)| sum.saturating_add(*end));
        if sum != size {
            return Ok(None);
        }
        let (mut walks, mut recorded_us) = (Vec::new(), None);
        for range in &ranges {
            let Some(end) = pass.end(range.chain_no, range.to_seq).await? else {
                return Ok(None);
            };
            if !self.is_leaf(range, &end.leaf, (size, root)).await? {
                return Ok(None);
            }
            recorded_us = recorded_us.max(Some(end.recorded_us));
            walks.push((range, end.walk));
        }
        for (range, walk) in walks {
            pass.go_on(range.chain_no, range.to_seq, walk);
        }
        trees.resume(tree, &ends, recorded_us);
        pass.journals.resume(point.open);
        Ok(Some((size, point.rotations)))
    }

    /// Whether what was kept of less is the beginning of this tree.
    async fn fits(&self, trees: &Trees<'_>, size: u64, root: TreeHash) -> Result<bool, AuditError> {
        for kept in trees.kept_up_to(size) {
            let hashes = self
                .fold(&Plan::consistency(kept.size(), size)?, size)
                .await;
            let hashes = match hashes {
                Err(AuditError::Tree) => return Ok(false),
                hashes => hashes?,
            };
            let (old, new) = ((kept.size(), kept.root()), (size, root));
            if verify_consistency(old.0, new.0, &old.1, &new.1, &hashes).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `leaf` is the last one of `range` in the tree of this size and root.
    async fn is_leaf(
        &self,
        range: &RangeRow,
        leaf: &TreeHash,
        (size, root): (u64, TreeHash),
    ) -> Result<bool, AuditError> {
        let length = range.to_seq.saturating_sub(range.from_seq);
        let index = range.first_leaf.saturating_add(length);
        let Ok(plan) = Plan::inclusion(index, size) else {
            return Ok(false);
        };
        match self.fold(&plan, size).await {
            Err(AuditError::Tree) => Ok(false),
            hashes => Ok(verify_inclusion(index, size, leaf, &hashes?, &root).is_ok()),
        }
    }
}

/// The tree of `size` leaves, if its unfinished tiles are there: as wide as they were then.
async fn edge(reader: &mut Reader, size: u64) -> Result<Option<Growth>, AuditError> {
    let tiles: Vec<_> = Growth::edge_of(size).collect();
    let stored = reader.tiles(&tiles).await?;
    let wide = tiles.into_iter().map(|tile| {
        let hashes = stored.get(&(tile.level(), tile.number()));
        let hashes = hashes.map_or(&[][..], Vec::as_slice);
        let width = usize::from(tile.width()).min(hashes.len());
        (tile, hashes.get(..width).unwrap_or_default().to_vec())
    });
    Ok(Growth::resume(size, wide).ok())
}
