//! Which hashes a proof is made of, before any of them is read.
//!
//! A tree's proofs consist of roots of ranges of leaves; each is folded from complete subtrees,
//! which never change once they are complete. A [`Plan`] names those, so that whoever keeps them
//! (in tiles, in a database) reads just these, all at once.

use super::error::LogError;
use super::hash::TreeHash;

/// A complete subtree of 2^level leaves, the `index`th of its size from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "two coordinates, for ever")]
pub struct Subtree {
    /// The height: 0 is a leaf.
    pub level: u8,
    /// The number among those of its height, from 0.
    pub index: u64,
}

/// The hashes of a proof, in its order, each as the complete subtrees that it is folded from.
///
/// ```
/// use portcullis::tlog::{Plan, TreeHash, verify_inclusion};
///
/// let leaves = [TreeHash::of_leaf(b"a"), TreeHash::of_leaf(b"b"), TreeHash::of_leaf(b"c")];
/// let ab = TreeHash::of_node(&leaves[0], &leaves[1]);
/// let root = TreeHash::of_node(&ab, &leaves[2]);
///
/// let plan = Plan::inclusion(2, 3)?;
/// let proof = plan.fold(|subtree| match (subtree.level, subtree.index) {
///     (1, 0) => Ok::<_, std::convert::Infallible>(ab),
///     (_, index) => Ok(leaves[index as usize]),
/// });
/// verify_inclusion(2, 3, &leaves[2], &proof.unwrap(), &root)?;
/// # Ok::<(), portcullis::tlog::LogError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    hashes: Vec<Vec<Subtree>>,
}

impl Plan {
    /// The proof that the leaf at `index` is in the tree of `size` leaves (RFC 6962 section 2.1.1).
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfRange`] if the tree has no such leaf.
    pub fn inclusion(index: u64, size: u64) -> Result<Self, LogError> {
        if index >= size {
            return Err(LogError::OutOfRange);
        }
        let (mut low, mut high) = (0, size);
        let mut hashes = Vec::new();
        while high - low > 1 {
            let middle = low + split(high - low);
            if index < middle {
                hashes.push(cover(middle, high));
                high = middle;
            } else {
                hashes.push(cover(low, middle));
                low = middle;
            }
        }
        hashes.reverse();
        Ok(Self { hashes })
    }

    /// The proof that the tree of `old` leaves is the beginning of that of `new` (RFC 6962 section
    /// 2.1.2).
    ///
    /// # Errors
    ///
    /// * [`LogError::EmptyAnchor`] if `old` is 0: the empty tree is the beginning of any.
    /// * [`LogError::OutOfRange`] if `old` is larger than `new`.
    pub fn consistency(old: u64, new: u64) -> Result<Self, LogError> {
        if old == 0 {
            return Err(LogError::EmptyAnchor);
        }
        if old > new {
            return Err(LogError::OutOfRange);
        }
        let (mut low, mut high) = (0, new);
        let mut hashes = Vec::new();
        // Down to the subtree that ends where the old tree did.
        while high > old {
            let middle = low + split(high - low);
            if old <= middle {
                hashes.push(cover(middle, high));
                high = middle;
            } else {
                hashes.push(cover(low, middle));
                low = middle;
            }
        }
        // If that is the whole old tree, the verifier has its root already.
        if low > 0 {
            hashes.push(cover(low, high));
        }
        hashes.reverse();
        Ok(Self { hashes })
    }

    /// The root of the tree of `size` leaves: one hash, or none for the empty tree.
    #[must_use]
    pub fn root(size: u64) -> Self {
        let peaks = cover(0, size);
        Self {
            hashes: if peaks.is_empty() {
                vec![]
            } else {
                vec![peaks]
            },
        }
    }

    /// Every subtree whose hash is needed.
    pub fn subtrees(&self) -> impl Iterator<Item = Subtree> {
        self.hashes.iter().flatten().copied()
    }

    /// The proof, from the hashes of the subtrees.
    ///
    /// # Errors
    ///
    /// The first error of `hash_of`.
    pub fn fold<E>(
        &self,
        mut hash_of: impl FnMut(Subtree) -> Result<TreeHash, E>,
    ) -> Result<Vec<TreeHash>, E> {
        let mut proof = Vec::with_capacity(self.hashes.len());
        for subtrees in &self.hashes {
            let hashes: Vec<_> = subtrees
                .iter()
                .map(|&subtree| hash_of(subtree))
                .collect::<Result<_, _>>()?;
            // INVARIANT: no list is empty; `cover` of a range that is not empty has an element.
            proof.extend(TreeHash::fold(&hashes));
        }
        Ok(proof)
    }
}

/// The largest power of two below `n`, which is at least 2.
const fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The complete subtrees over the leaves from `low` to before `high`, the largest first. `low` is
/// where a subtree at least as large as the range begins.
fn cover(low: u64, high: u64) -> Vec<Subtree> {
    let mut subtrees = Vec::new();
    let mut at = low;
    while at < high {
        let level = u64::BITS - 1 - (high - at).leading_zeros();
        subtrees.push(Subtree {
            // INVARIANT: below 64.
            level: u8::try_from(level).unwrap_or(u8::MAX),
            index: at >> level,
        });
        at += 1 << level;
    }
    subtrees
}
