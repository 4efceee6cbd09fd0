//! The tree of a bundle, tile by tile from the root down: each is believed once it is under one that
//! is.
//!
//! So what is wrong has a place: the tile, or the entry, whose hash is not the one above it.

use std::collections::BTreeMap;

use crate::tlog::{Frontier, Growth, LogError, TILE_WIDTH, Tile, TreeHash};

/// The levels that a tree of 2^64 leaves has.
const LEVELS: u8 = 8;

/// What is known of the tree so far: constant in size.
#[derive(Debug)]
pub(super) struct Tree {
    size: u64,
    /// The tiles that are not full, by level: their hashes make the root.
    edge: BTreeMap<u8, (u64, Vec<TreeHash>)>,
    /// The last full tile of each level; without hashes if it is not to be believed.
    full: BTreeMap<u8, (u64, Option<Vec<TreeHash>>)>,
}

impl Tree {
    /// The tree of `size` leaves with the root `root`, from the tiles that it has begun.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] or [`LogError::Unproved`] if they are not of that tree.
    pub(super) fn new(
        size: u64,
        root: &TreeHash,
        edge: Vec<(Tile, Vec<TreeHash>)>,
    ) -> Result<Self, LogError> {
        let begun: BTreeMap<_, _> = edge
            .iter()
            .map(|(tile, hashes)| (tile.level(), (tile.number(), hashes.clone())))
            .collect();
        if Growth::resume(size, edge)?.root() != *root {
            return Err(LogError::Unproved);
        }
        Ok(Self {
            size,
            edge: begun,
            full: BTreeMap::new(),
        })
    }

    /// The full tiles that have to be shown before `leaf` is, the highest first.
    pub(super) fn missing(&self, leaf: u64) -> Vec<Tile> {
        let mut missing = Vec::new();
        let mut number = leaf / u64::from(TILE_WIDTH);
        for level in 0..LEVELS {
            let begun = self.edge.get(&level).is_some_and(|(n, _)| *n == number);
            let shown = self.full.get(&level).is_some_and(|(n, _)| *n == number);
            if leaf >= self.size || begun || shown {
                break;
            }
            missing.extend(Tile::new(level, number, TILE_WIDTH));
            number /= u64::from(TILE_WIDTH);
        }
        missing.reverse();
        missing
    }

    /// Takes a full tile, and says whether it is the one in the tree.
    pub(super) fn take(&mut self, tile: Tile, hashes: Vec<TreeHash>) -> bool {
        let mut over = Frontier::new();
        for hash in &hashes {
            over.push(*hash);
        }
        let known = self.hash_at(tile.level() + 1, tile.number());
        let full = over.size() == u64::from(TILE_WIDTH) && tile.is_full();
        let believed = full && known.is_some_and(|known| known == over.root());
        let slot = (tile.number(), believed.then_some(hashes));
        self.full.insert(tile.level(), slot);
        believed
    }

    /// The hash of a leaf, if its tile was shown and is to be believed.
    pub(super) fn leaf(&self, leaf: u64) -> Option<TreeHash> {
        self.hash_at(0, leaf)
    }

    /// The `index`th hash of a level.
    fn hash_at(&self, level: u8, index: u64) -> Option<TreeHash> {
        let number = index / u64::from(TILE_WIDTH);
        let place = usize::try_from(index % u64::from(TILE_WIDTH)).ok()?;
        let begun = self.edge.get(&level).filter(|(n, _)| *n == number);
        let hashes = match begun {
            Some((_, hashes)) => hashes,
            None => match self.full.get(&level) {
                Some((n, Some(hashes))) if *n == number => hashes,
                _ => return None,
            },
        };
        hashes.get(place).copied()
    }
}

/// The bytes of a tile as C2SP has them.
pub(super) fn bytes_of(hashes: &[TreeHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// The hashes of a tile; `None` if the bytes are not whole hashes.
pub(super) fn hashes_of(bytes: &[u8]) -> Option<Vec<TreeHash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty()
        .then(|| hashes.iter().copied().map(TreeHash::from_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u64) -> TreeHash {
        TreeHash::of_leaf(&n.to_be_bytes())
    }

    type Tiles = Vec<(Tile, Vec<TreeHash>)>;
    type Full = BTreeMap<Tile, Vec<TreeHash>>;

    /// The trees of these sizes: each root and begun tiles; and every full tile of the last one.
    fn grown(sizes: &[u64]) -> (Vec<(TreeHash, Tiles)>, Full) {
        let (mut tree, mut full, mut trees) = (Growth::new(), BTreeMap::new(), Vec::new());
        for size in sizes {
            while tree.size() < *size {
                tree.push(leaf(tree.size()), |tile, hashes| {
                    full.insert(tile, hashes.to_vec());
                });
            }
            let edge = tree.unfinished();
            let edge = edge.map(|(tile, hashes)| (tile, hashes.to_vec()));
            trees.push((tree.root(), edge.collect()));
        }
        (trees, full)
    }

    #[test]
    fn every_leaf_of_every_tree_is_found_under_its_root_by_the_tiles_that_are_asked_for() {
        let sizes = [1, 2, 255, 256, 257, 600, 65_536, 65_537];
        let (trees, full) = grown(&sizes);
        for (size, (root, edge)) in sizes.into_iter().zip(trees) {
            let mut tree = Tree::new(size, &root, edge).unwrap();
            for n in (0..size).step_by(if size > 1_000 { 197 } else { 1 }) {
                for tile in tree.missing(n) {
                    assert!(tree.take(tile, full[&tile].clone()), "{size} {n} {tile}");
                }
                assert_eq!(tree.leaf(n), Some(leaf(n)), "{size} {n}");
            }
            assert!(tree.missing(size).is_empty());
            assert_eq!(tree.leaf(size), None);
        }
    }

    #[test]
    fn a_tile_that_is_not_the_one_in_the_tree_is_not_believed() {
        let (mut trees, full) = grown(&[600]);
        let (root, edge) = trees.remove(0);
        let tile = Tile::new(0, 1, TILE_WIDTH).unwrap();
        for at in [0, 17, 255] {
            let mut tree = Tree::new(600, &root, edge.clone()).unwrap();
            let mut bad = full[&tile].clone();
            bad[at] = leaf(9_999);
            assert!(!tree.take(tile, bad));
            assert_eq!(tree.leaf(256), None);
            assert!(tree.missing(256).is_empty(), "it was shown");
            assert!(!tree.take(tile, full[&tile][..255].to_vec()));
            // The right hashes of another place.
            let other = Tile::new(0, 0, TILE_WIDTH).unwrap();
            assert!(!tree.take(other, full[&tile].clone()));
        }
        let mut bad = edge.clone();
        bad[0].1[3] = leaf(9_999);
        assert_eq!(Tree::new(600, &root, bad).unwrap_err(), LogError::Unproved);
        assert!(Tree::new(601, &root, edge).is_err());
    }
}
