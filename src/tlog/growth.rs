//! A tree that grows by tiles: leaves in, finished tiles out, in constant memory.

use super::error::LogError;
use super::frontier::Frontier;
use super::hash::TreeHash;
use super::tile::{TILE_WIDTH, Tile};

/// The right edge of a tree with its unfinished tiles: at most 255 hashes a level.
///
/// ```
/// use portcullis::tlog::{Growth, TreeHash};
///
/// let mut tree = Growth::new();
/// let mut finished = Vec::new();
/// for n in 0..300_u32 {
///     tree.push(TreeHash::of_leaf(&n.to_be_bytes()), |tile, _hashes| finished.push(tile));
/// }
/// let names: Vec<_> = finished.iter().map(ToString::to_string).collect();
/// assert_eq!(names, ["tile/0/000"]);
/// let names: Vec<_> = tree.unfinished().map(|(tile, _)| tile.to_string()).collect();
/// assert_eq!(names, ["tile/0/001.p/44", "tile/1/000.p/1"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    frontier: Frontier,
    edge: Vec<Vec<TreeHash>>,
}

impl Growth {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves, from its unfinished tiles.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] if they are not those of that size.
    pub fn resume(
        size: u64,
        unfinished: impl IntoIterator<Item = (Tile, Vec<TreeHash>)>,
    ) -> Result<Self, LogError> {
        let mut tree = Self::default();
        for wanted in Self::edge_of(size) {
            let level = usize::from(wanted.level());
            if tree.edge.len() <= level {
                tree.edge.resize_with(level + 1, Vec::new);
            }
        }
        let mut wanted: Vec<Tile> = Self::edge_of(size).collect();
        for (tile, hashes) in unfinished {
            let place = wanted.iter().position(|other| *other == tile);
            wanted.swap_remove(place.ok_or(LogError::OutOfRange)?);
            if hashes.len() != usize::from(tile.width()) {
                return Err(LogError::OutOfRange);
            }
            if let Some(slot) = tree.edge.get_mut(usize::from(tile.level())) {
                *slot = hashes;
            }
        }
        if !wanted.is_empty() {
            return Err(LogError::OutOfRange);
        }
        let mut peaks = Vec::new();
        for hashes in tree.edge.iter().rev() {
            // The roots within a tile are peaks of the tree, the tile's leaves being as high as
            // they are.
            peaks.extend(Frontier::over(hashes).into_peaks());
        }
        tree.frontier = Frontier::from_peaks(size, peaks)?;
        Ok(tree)
    }

    /// The tiles that a tree of `size` leaves has begun and not finished.
    pub fn edge_of(size: u64) -> impl Iterator<Item = Tile> {
        let last_of_level = |tile: &Tile| !tile.is_full();
        Tile::edge(size).filter(last_of_level)
    }

    /// How many leaves it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Its right edge.
    #[must_use]
    pub const fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.frontier.root()
    }

    /// Appends a leaf, and hands the tiles that it completes to `finished`, the lowest first.
    pub fn push(&mut self, leaf: TreeHash, mut finished: impl FnMut(Tile, &[TreeHash])) {
        self.frontier.push(leaf);
        let mut hash = leaf;
        let mut count = self.frontier.size();
        for level in 0_u8.. {
            let slot = usize::from(level);
            if self.edge.len() <= slot {
                self.edge.push(Vec::with_capacity(usize::from(TILE_WIDTH)));
            }
            let Some(hashes) = self.edge.get_mut(slot) else {
                return;
            };
            hashes.push(hash);
            if hashes.len() < usize::from(TILE_WIDTH) {
                return;
            }
            count /= u64::from(TILE_WIDTH);
            if let Ok(tile) = Tile::new(level, count - 1, TILE_WIDTH) {
                finished(tile, hashes);
            }
            hash = Frontier::over(hashes).root();
            hashes.clear();
        }
    }

    /// The tiles that are not full, the lowest first.
    pub fn unfinished(&self) -> impl Iterator<Item = (Tile, &[TreeHash])> {
        let tiles = Self::edge_of(self.size());
        tiles.filter_map(|tile| Some((tile, self.edge.get(usize::from(tile.level()))?.as_slice())))
    }
}
