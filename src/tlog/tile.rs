//! Tiles: a tree in pieces of 256 hashes (c2sp.org/tlog-tiles).
//!
//! Tile `number` of `level` holds the hashes of the complete subtrees of height `8 * level` that
//! stand from `256 * number` on. A full one never changes.

use std::fmt;

use super::error::LogError;
use super::frontier::Frontier;
use super::hash::TreeHash;
use super::plan::Subtree;

/// How many hashes a full tile has.
pub const TILE_WIDTH: u16 = 256;
/// How many levels of a tree one tile spans.
const HEIGHT: u8 = 8;
/// The levels that a path can name.
const MAX_LEVEL: u8 = 63;

/// The coordinates of a tile.
///
/// ```
/// use portcullis::tlog::Tile;
///
/// let tile = Tile::parse("tile/3/x001/x234/067.p/17")?;
/// assert_eq!((tile.level(), tile.number(), tile.width()), (3, 1_234_067, 17));
/// assert_eq!(tile.to_string(), "tile/3/x001/x234/067.p/17");
/// # Ok::<(), portcullis::tlog::LogError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: u8,
    number: u64,
    width: u16,
}

impl Tile {
    /// The tile with these coordinates, `width` hashes wide.
    ///
    /// # Errors
    ///
    /// [`LogError::Tile`] if the level is above 63, or the width 0 or above 256.
    pub const fn new(level: u8, number: u64, width: u16) -> Result<Self, LogError> {
        if level > MAX_LEVEL || width == 0 || width > TILE_WIDTH {
            return Err(LogError::Tile);
        }
        Ok(Self {
            level,
            number,
            width,
        })
    }

    /// The level: 0 holds the leaves.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The number within its level, from 0.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }

    /// How many hashes it has.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Whether it is complete, and will never change.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The tile that holds the hash of `subtree`, or the hashes below it, as wide as a tree of
    /// `size` leaves has it.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] if the tree does not have the whole subtree.
    pub fn of(subtree: Subtree, size: u64) -> Result<Self, LogError> {
        let level = subtree.level / HEIGHT;
        let inside = subtree.level % HEIGHT;
        let number = subtree.index >> (HEIGHT - inside);
        let width = width(level, number, size);
        let from = (subtree.index << inside) % u64::from(TILE_WIDTH);
        if from + (1 << inside) > u64::from(width) {
            return Err(LogError::OutOfRange);
        }
        Ok(Self {
            level,
            number,
            width,
        })
    }

    /// The hash of `subtree`, from the `hashes` of this tile.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] if the tile does not have the whole of it.
    pub fn hash_of(self, subtree: Subtree, hashes: &[TreeHash]) -> Result<TreeHash, LogError> {
        let inside = subtree.level % HEIGHT;
        if subtree.level / HEIGHT != self.level || subtree.index >> (HEIGHT - inside) != self.number
        {
            return Err(LogError::OutOfRange);
        }
        let from = (subtree.index << inside) % u64::from(TILE_WIDTH);
        let from = usize::try_from(from).map_err(|_| LogError::OutOfRange)?;
        let below = hashes
            .get(from..from + (1 << inside))
            .ok_or(LogError::OutOfRange)?;
        Ok(Frontier::over(below).root())
    }

    /// The tiles that are new or wider when a tree of `old` leaves has grown to `new`: level by
    /// level, in order, the last of each level perhaps not full.
    pub fn grown(old: u64, new: u64) -> impl Iterator<Item = Self> {
        let levels = (0..=MAX_LEVEL / HEIGHT).take_while(move |level| at_level(new, *level) > 0);
        levels.flat_map(move |level| {
            let (old, new) = (at_level(old, level), at_level(new, level));
            let wide = u64::from(TILE_WIDTH);
            let range = if old < new {
                old / wide..new.div_ceil(wide)
            } else {
                0..0
            };
            range.map(move |number| Self {
                level,
                number,
                width: clip(new, number),
            })
        })
    }

    /// The last tile of each level of a tree of `size` leaves.
    pub(super) fn edge(size: u64) -> impl Iterator<Item = Self> {
        let levels = (0..=MAX_LEVEL / HEIGHT).take_while(move |level| at_level(size, *level) > 0);
        levels.map(move |level| {
            let count = at_level(size, level);
            let number = (count - 1) / u64::from(TILE_WIDTH);
            Self {
                level,
                number,
                width: clip(count, number),
            }
        })
    }

    /// Reads a path, as [`Display`](fmt::Display) writes it and in no other form.
    ///
    /// # Errors
    ///
    /// [`LogError::Tile`] if it is none.
    pub fn parse(path: &str) -> Result<Self, LogError> {
        let tile = Self::read(path).ok_or(LogError::Tile)?;
        // One tile, one path: what is written with other zeros or groups is another text.
        if tile.to_string() == path {
            Ok(tile)
        } else {
            Err(LogError::Tile)
        }
    }

    fn read(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => (groups, width.parse().ok()?),
            None => (rest, TILE_WIDTH),
        };
        let mut number = 0_u64;
        for group in groups.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let digits: u64 = digits.parse().ok().filter(|n| *n < 1000)?;
            number = number.checked_mul(1000)?.checked_add(digits)?;
        }
        Self::new(level.parse().ok()?, number, width).ok()
    }
}

/// The path, such as `tile/0/x001/234.p/17`.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups = Vec::new();
        let mut rest = self.number;
        loop {
            groups.push(rest % 1000);
            rest /= 1000;
            if rest == 0 {
                break;
            }
        }
        write!(f, "tile/{}/", self.level)?;
        while let Some(group) = groups.pop() {
            if groups.is_empty() {
                write!(f, "{group:03}")?;
            } else {
                write!(f, "x{group:03}/")?;
            }
        }
        if !self.is_full() {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

/// How many hashes a level of a tree of `size` leaves has.
const fn at_level(size: u64, level: u8) -> u64 {
    // INVARIANT: level is at most 7 where a size is asked for; a larger one has no hashes.
    match size.checked_shr(HEIGHT as u32 * level as u32) {
        Some(count) => count,
        None => 0,
    }
}

fn width(level: u8, number: u64, size: u64) -> u16 {
    clip(at_level(size, level), number)
}

/// How many of `count` hashes tile `number` has.
fn clip(count: u64, number: u64) -> u16 {
    let wide = u64::from(TILE_WIDTH);
    let from = number.saturating_mul(wide);
    // INVARIANT: at most 256.
    u16::try_from(count.saturating_sub(from).min(wide)).unwrap_or(TILE_WIDTH)
}
