//! Leaves of the stored tree, proved to be those under a signed root.

use std::collections::BTreeMap;

use crate::audit::store::checkpoint as sql;
use crate::audit::{Audit, AuditError};
use crate::tlog::{Checkpoint, Plan, Subtree, TILE_WIDTH, Tile, TreeHash, verify_inclusion};

/// The leaves from `first` on, as the tree of `checkpoint` has them.
///
/// The proof of one leaf in a tile folds all others of that tile, so that one proof for each tile is
/// a proof of every leaf in it.
pub(super) async fn proved(
    audit: &Audit,
    checkpoint: &Checkpoint,
    first: u64,
    count: u64,
) -> Result<Vec<TreeHash>, AuditError> {
    let (size, root) = (checkpoint.size(), checkpoint.root());
    let wide = u64::from(TILE_WIDTH);
    let end = first.saturating_add(count);
    if count == 0 || end > size {
        return Err(AuditError::Tree);
    }
    let numbers = first / wide..=(end - 1) / wide;
    let mut plans = Vec::new();
    let mut tiles = Vec::new();
    for number in numbers.clone() {
        let (level, index) = (0, number * wide);
        let plan = Plan::inclusion(index, size)?;
        tiles.push(Tile::of(Subtree { level, index }, size)?);
        for subtree in plan.subtrees() {
            tiles.push(Tile::of(subtree, size)?);
        }
        plans.push((index, plan));
    }
    tiles.sort();
    tiles.dedup();
    let stored = tiles_of(audit, &tiles).await?;
    let hashes_of = |tile: Tile| {
        let hashes = stored.get(&(tile.level(), tile.number()));
        hashes.map_or(&[][..], Vec::as_slice)
    };
    for (index, plan) in plans {
        let leaf = hashes_of(Tile::of(Subtree { level: 0, index }, size)?);
        let leaf = leaf.first().ok_or(AuditError::Tree)?;
        let hashes = plan
            .fold(|subtree| {
                let tile = Tile::of(subtree, size)?;
                tile.hash_of(subtree, hashes_of(tile))
            })
            .map_err(|_: crate::tlog::LogError| AuditError::Tree)?;
        verify_inclusion(index, size, leaf, &hashes, &root).map_err(|_| AuditError::Tree)?;
    }
    let leaf = |place: u64| {
        let hashes = stored.get(&(0, place / wide))?;
        hashes.get(usize::try_from(place % wide).ok()?).copied()
    };
    (first..end)
        .map(|place| leaf(place).ok_or(AuditError::Tree))
        .collect()
}

async fn tiles_of(
    audit: &Audit,
    tiles: &[Tile],
) -> Result<BTreeMap<(u8, u64), Vec<TreeHash>>, AuditError> {
    let store = audit.store();
    let work = || async {
        let mut tx = store.begin().await?;
        let tiles = sql::list_tiles(&mut *tx, store.tenant(), tiles).await?;
        tx.commit().await?;
        Ok(tiles)
    };
    let stored = store.run_idempotent("read the tree", work).await?;
    let keyed = |(level, number, hashes)| ((level, number), hashes);
    Ok(stored.into_iter().map(keyed).collect())
}
