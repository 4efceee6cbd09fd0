//! Writing a bundle: lines in their order, counted and hashed, and the seal at the end.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use super::error::BundleError;
use super::line::{EntryLine, Header, Line, SealLine, TileLine, WithheldLine};
use super::seal::Seal;
use super::text::Base64;
use super::tree::bytes_of;
use crate::store::StoreError;
use crate::tlog::{LogKey, Tile, TreeHash};

/// What was sealed.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) seal: Seal,
    /// The seal as it stands in the file.
    pub(super) note: String,
}

/// A bundle that is being written.
#[derive(Debug)]
pub(super) struct Sink<W> {
    out: W,
    hasher: Sha256,
    entries: u64,
    withheld: u64,
    next_leaf: u64,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            hasher: Sha256::new(),
            entries: 0,
            withheld: 0,
            next_leaf: 0,
        }
    }

    pub(super) fn header(&mut self, header: Header) -> Result<(), BundleError> {
        self.put(&Line::Bundle(Box::new(header)))
    }

    /// Writes a line that needs no book-keeping.
    pub(super) fn put(&mut self, line: &Line) -> Result<(), BundleError> {
        let mut text = line
            .write()
            .ok_or_else(|| StoreError::malformed("write a line of a bundle"))?;
        text.push('\n');
        self.hasher.update(text.as_bytes());
        Ok(self.out.write_all(text.as_bytes())?)
    }

    pub(super) fn tile(&mut self, tile: Tile, hashes: &[TreeHash]) -> Result<(), BundleError> {
        self.put(&Line::Tile(TileLine {
            hashes: Base64(bytes_of(hashes)),
            path: tile.to_string(),
        }))
    }

    /// Says of the leaves up to `leaf` that nothing was said of that they are withheld.
    pub(super) fn withhold_to(&mut self, leaf: u64) -> Result<(), BundleError> {
        let (from, count) = (self.next_leaf, leaf.saturating_sub(self.next_leaf));
        if count == 0 {
            return Ok(());
        }
        self.next_leaf = leaf;
        self.withheld += count;
        self.put(&Line::Withheld(WithheldLine { count, from }))
    }

    /// Writes an entry, whose leaf is the next one.
    pub(super) fn entry(&mut self, entry: EntryLine) -> Result<(), BundleError> {
        self.next_leaf = entry.leaf + 1;
        self.entries += 1;
        self.put(&Line::Entry(Box::new(entry)))
    }

    /// Seals what was written.
    pub(super) fn seal(
        mut self,
        size: u64,
        root: TreeHash,
        signer: &LogKey,
    ) -> Result<Sealed, BundleError> {
        self.withhold_to(size)?;
        let seal = Seal {
            sha256: self.hasher.clone().finalize().into(),
            size,
            root,
            entries: self.entries,
            withheld: self.withheld,
        };
        let note = seal.sign(signer)?.to_string();
        let line = SealLine { note: note.clone() };
        self.put(&Line::Seal(line))?;
        self.out.flush()?;
        Ok(Sealed { seal, note })
    }
}
