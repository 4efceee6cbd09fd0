//! The hashes of a tree: RFC 6962 section 2.1, over SHA-256.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The hash of a leaf, of an inner node, or of a whole tree.
///
/// ```
/// use portcullis::tlog::TreeHash;
///
/// let leaf = TreeHash::of_leaf(b"");
/// assert_eq!(leaf.to_string(), "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=");
/// assert_eq!(TreeHash::parse(&leaf.to_string()), Some(leaf));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash([u8; 32]);

impl TreeHash {
    /// The root of the tree without leaves.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self(Sha256::digest(b"").into())
    }

    /// The hash of a leaf whose content is `data`.
    #[must_use]
    pub fn of_leaf(data: &[u8]) -> Self {
        Self::of_leaf_parts(&[data])
    }

    /// The hash of a leaf whose content is `parts`, one after the other.
    pub(crate) fn of_leaf_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new_with_prefix([0]);
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The hash of the node over `left` and `right`. Its prefix differs from a leaf's, so that no
    /// leaf can pass for a node.
    #[must_use]
    pub fn of_node(left: &Self, right: &Self) -> Self {
        let mut hasher = Sha256::new_with_prefix([1]);
        hasher.update(left.0);
        hasher.update(right.0);
        Self(hasher.finalize().into())
    }

    /// A hash that was stored as bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads base64: the standard alphabet, padded, and no other text for the same bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The root over complete subtrees that stand next to each other, the largest first.
    pub(crate) fn fold(subtrees: &[Self]) -> Option<Self> {
        let (last, before) = subtrees.split_last()?;
        let join = |right: Self, left: &Self| Self::of_node(left, &right);
        Some(before.iter().rev().fold(*last, join))
    }
}

/// Base64, as checkpoints and proofs write it.
impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeHash({self})")
    }
}
