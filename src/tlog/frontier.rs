//! The right edge of a tree: enough to append and to know the root, in constant memory.

use super::error::LogError;
use super::hash::TreeHash;

/// A tree that only grows, as the roots of its complete subtrees, the largest first: one for each
/// bit of its size.
///
/// ```
/// use portcullis::tlog::{Frontier, TreeHash};
///
/// let mut tree = Frontier::new();
/// for n in 0_u8..100 {
///     tree.push(TreeHash::of_leaf(&[n]));
/// }
/// let restored = Frontier::from_bytes(&tree.to_bytes())?;
/// assert_eq!((restored.size(), restored.root()), (100, tree.root()));
/// # Ok::<(), portcullis::tlog::LogError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<TreeHash>,
}

impl Frontier {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves whose complete subtrees have the roots `peaks`, the largest first.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] if there is not one for each bit of the size.
    pub fn from_peaks(size: u64, peaks: Vec<TreeHash>) -> Result<Self, LogError> {
        if u32::try_from(peaks.len()) == Ok(size.count_ones()) {
            Ok(Self { size, peaks })
        } else {
            Err(LogError::OutOfRange)
        }
    }

    /// The tree over these hashes, as if they were leaves.
    pub(super) fn over(hashes: &[TreeHash]) -> Self {
        let mut tree = Self::new();
        for hash in hashes {
            tree.push(*hash);
        }
        tree
    }

    pub(super) fn into_peaks(self) -> Vec<TreeHash> {
        self.peaks
    }

    /// How many leaves it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: TreeHash) {
        let mut node = leaf;
        // Each trailing one of the size is a complete subtree of the size of what stands right of
        // it now: they become one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = TreeHash::of_node(&left, &node);
            }
        }
        self.peaks.push(node);
        // A tree of 2^64 leaves is never reached.
        self.size = self.size.saturating_add(1);
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        TreeHash::fold(&self.peaks).unwrap_or_else(TreeHash::of_nothing)
    }

    /// The tree as bytes: its size, big-endian, and then its hashes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        for peak in &self.peaks {
            bytes.extend_from_slice(peak.as_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] if the bytes are of another length than their size asks for.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(LogError::OutOfRange)?;
        let (peaks, excess) = rest.as_chunks::<32>();
        if !excess.is_empty() {
            return Err(LogError::OutOfRange);
        }
        let peaks = peaks.iter().copied().map(TreeHash::from_bytes).collect();
        Self::from_peaks(u64::from_be_bytes(*size), peaks)
    }
}
