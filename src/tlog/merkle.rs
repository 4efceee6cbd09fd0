//! Checking proofs: RFC 9162 sections 2.1.3.2 and 2.1.4.2, step by step.

use subtle::ConstantTimeEq as _;

use super::error::LogError;
use super::hash::TreeHash;

/// Checks that `leaf` is at `index` in the tree of `size` leaves with the root `root`.
///
/// The size is the checkpoint's, as signed: a proof alone does not prove it (several sizes can have
/// the same path).
///
/// # Errors
///
/// * [`LogError::OutOfRange`] if the tree has no such leaf.
/// * [`LogError::Unproved`] if it is another leaf, place, tree or proof.
pub fn verify_inclusion(
    index: u64,
    size: u64,
    leaf: &TreeHash,
    proof: &[TreeHash],
    root: &TreeHash,
) -> Result<(), LogError> {
    if index >= size {
        return Err(LogError::OutOfRange);
    }
    let mut path = Path::new(index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        hash = match path.step().ok_or(LogError::Unproved)? {
            Side::Left => TreeHash::of_node(sibling, &hash),
            Side::Right => TreeHash::of_node(&hash, sibling),
        };
    }
    if path.at_root() && same(&hash, root) {
        Ok(())
    } else {
        Err(LogError::Unproved)
    }
}

/// Checks that the tree of `old_size` leaves is the beginning of that of `new_size`.
///
/// # Errors
///
/// * [`LogError::EmptyAnchor`] if the old tree is empty, which would prove nothing.
/// * [`LogError::OutOfRange`] if the old tree is the larger one.
/// * [`LogError::Inconsistent`] if it is not.
pub fn verify_consistency(
    old_size: u64,
    new_size: u64,
    old_root: &TreeHash,
    new_root: &TreeHash,
    proof: &[TreeHash],
) -> Result<(), LogError> {
    if old_size == 0 {
        return Err(LogError::EmptyAnchor);
    }
    if old_size > new_size {
        return Err(LogError::OutOfRange);
    }
    if old_size == new_size {
        let fits = proof.is_empty() && same(old_root, new_root);
        return fits.then_some(()).ok_or(LogError::Inconsistent);
    }
    // A complete old tree is a node of the new one, and the proof leaves it out.
    let (first, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(LogError::Inconsistent)?
    };
    let mut path = Path::new(old_size - 1, new_size - 1);
    path.climb_while_right();
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        match path.step().ok_or(LogError::Inconsistent)? {
            Side::Left => {
                old = TreeHash::of_node(sibling, &old);
                new = TreeHash::of_node(sibling, &new);
            }
            Side::Right => new = TreeHash::of_node(&new, sibling),
        }
    }
    if path.at_root() && same(&old, old_root) && same(&new, new_root) {
        Ok(())
    } else {
        Err(LogError::Inconsistent)
    }
}

/// Where the sibling stands.
enum Side {
    Left,
    Right,
}

/// The way from a node to the root: `fn` and `sn` of the RFC.
struct Path {
    node: u64,
    last: u64,
}

impl Path {
    const fn new(node: u64, last: u64) -> Self {
        Self { node, last }
    }

    /// Where the next sibling stands, and a step up; `None` at the root, where there is none.
    const fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if !self.node.is_multiple_of(2) || self.node == self.last {
            // A node without a sibling rises until it has one.
            while self.node.is_multiple_of(2) && self.node != 0 {
                self.up();
            }
            Side::Left
        } else {
            Side::Right
        };
        self.up();
        Some(side)
    }

    const fn climb_while_right(&mut self) {
        while !self.node.is_multiple_of(2) {
            self.up();
        }
    }

    const fn at_root(&self) -> bool {
        self.last == 0
    }

    const fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

fn same(a: &TreeHash, b: &TreeHash) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}
