//! The tree: tiles, entries, and what is withheld, leaf after leaf.

use super::{Class, Stage, Verifier};
use crate::audit::bundle::keys::is_key_entry;
use crate::audit::bundle::line::{EntryLine, TileLine, WithheldLine, leaf_of};
use crate::audit::bundle::tree::{Tree, hashes_of};
use crate::audit::identity::Wrong;
use crate::tlog::{Growth, Tile, TreeHash};

/// The most chains that one trail may have, so that a file cannot take up all memory.
const MAX_CHAINS: usize = 1 << 16;

/// The last entry of a chain that was shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChainEnd {
    seq: u64,
    recorded_us: Option<i64>,
    /// How many leaves before it were not shown, or not proved.
    unseen: u64,
}

impl Verifier<'_> {
    pub(super) fn take_tile(&mut self, line: &TileLine) {
        let Some(size) = self.claimed.as_ref().map(|claimed| claimed.header.size) else {
            return;
        };
        if self.stage < Stage::Edge {
            self.stage = Stage::Edge;
        }
        let read = Tile::parse(&line.path).ok().zip(hashes_of(&line.hashes.0));
        let Some((tile, hashes)) = read else {
            self.lost = true;
            self.find(Class::Format, "not a tile");
            return;
        };
        if self.stage == Stage::Edge {
            self.take_edge(size, tile, hashes);
            return;
        }
        let Some(tree) = &mut self.tree else { return };
        if tree.missing(self.next).first() != Some(&tile) {
            if !self.lost {
                self.find_at(self.next, Class::Format, "not the tile of the next leaf");
            }
            return;
        }
        self.after_tile = true;
        if !tree.take(tile, hashes) {
            self.find_at(
                self.next,
                Class::Tree,
                "the tile is not the one in the signed tree",
            );
        }
    }

    /// One of the tiles that make the root.
    fn take_edge(&mut self, size: u64, tile: Tile, hashes: Vec<TreeHash>) {
        let mut due = Growth::edge_of(size).skip(self.edge.len());
        if due.next() != Some(tile) {
            self.find(
                Class::Format,
                "not the tile that is due at the edge of the tree",
            );
            return;
        }
        self.edge.push((tile, hashes));
        if due.next().is_some() {
            return;
        }
        self.stage = Stage::Body;
        let edge = std::mem::take(&mut self.edge);
        let root = self.claimed.as_ref().map(|claimed| claimed.root);
        match root.map(|root| Tree::new(size, &root, edge)) {
            Some(Ok(tree)) => self.tree = Some(tree),
            _ => self.find(
                Class::Tree,
                "the tiles at the edge of the tree do not make its root",
            ),
        }
    }

    /// Whether something may be said of `leaf` now.
    fn arrive(&mut self, leaf: u64, count: u64) -> bool {
        let size = self
            .claimed
            .as_ref()
            .map_or(0, |claimed| claimed.header.size);
        let end = leaf.checked_add(count).filter(|end| *end <= size);
        if self.stage != Stage::Body || end.is_none() || count == 0 {
            self.find_at(
                leaf,
                Class::Format,
                "a leaf that the tree does not have, or not here",
            );
            return false;
        }
        if leaf != self.next && !self.lost {
            let detail = if leaf > self.next {
                "leaves before this one are neither shown nor withheld"
            } else {
                "the leaf was shown or withheld before"
            };
            self.find_at(leaf, Class::Gap, detail);
        }
        self.lost = false;
        self.next = end.unwrap_or(size);
        true
    }

    pub(super) fn take_withheld(&mut self, line: &WithheldLine) {
        if self.after_withheld || self.after_tile {
            let detail = "withheld leaves follow withheld leaves, or a tile without an entry";
            self.find_at(line.from, Class::Format, detail);
        }
        if self.arrive(line.from, line.count) {
            self.report.withheld += line.count;
        }
        (self.after_withheld, self.after_tile) = (true, false);
    }

    pub(super) fn take_entry(&mut self, line: &EntryLine) {
        (self.after_withheld, self.after_tile) = (false, false);
        if !self.arrive(line.leaf, 1) {
            return;
        }
        self.report.entries += 1;
        let Some(tenant) = self
            .claimed
            .as_ref()
            .map(|claimed| claimed.header.tenant.clone())
        else {
            return;
        };
        let stored = line.stored(&tenant);
        let Some(tree) = &self.tree else { return };
        if !tree.missing(line.leaf).is_empty() {
            self.find_at(
                line.leaf,
                Class::Tree,
                "the tile of the entry is not shown before it",
            );
            return;
        }
        // Without a hash, the tile was a finding already.
        let Some(known) = tree.leaf(line.leaf) else {
            return;
        };
        if leaf_of(&stored, &mut self.encoded) != Some(known) {
            let detail = "the entry is not the one in the signed tree";
            self.find_at(line.leaf, Class::Entry, detail);
            return;
        }
        self.report.proved += 1;
        self.follow(line);
        let claimed = self.claimed.as_ref();
        let selected = claimed.is_some_and(|c| c.header.selection.covers(&stored.row));
        if !selected && !is_key_entry(stored.row.kind) {
            let detail = "an entry that is not of what the first line says was selected";
            self.find_at(line.leaf, Class::Claim, detail);
        }
        if let Some(detail) = self.listed.hear(&stored.row, line.leaf) {
            self.find_at(line.leaf, Class::Signature, detail);
        }
        match self.listed.wrong(&stored) {
            Some(Wrong::Fault(detail)) => self.find_at(line.leaf, Class::Signature, detail),
            Some(Wrong::Late) => self.report.late += 1,
            None => self.report.signed += u64::from(stored.signature.is_some()),
        }
    }

    /// Within a chain, entries follow each other without a gap that withheld leaves do not fill.
    fn follow(&mut self, line: &EntryLine) {
        let unseen = line.leaf.saturating_sub(self.report.proved - 1);
        let before = self.chains.get(&line.chain).copied().unwrap_or_default();
        if self.chains.len() >= MAX_CHAINS && before.seq == 0 {
            self.find_at(line.leaf, Class::Order, "more than 65,536 chains");
            return;
        }
        let recorded_us = line.recorded.0.as_micros();
        match line.seq.checked_sub(before.seq) {
            None | Some(0) => {
                let detail = "the entry does not stand after the one before it in its chain";
                self.find_at(line.leaf, Class::Order, detail);
            }
            Some(step) if step - 1 > unseen.saturating_sub(before.unseen) => {
                let detail = "entries of the chain are missing before this one";
                self.find_at(line.leaf, Class::Order, detail);
            }
            Some(_) => {}
        }
        if before
            .recorded_us
            .is_some_and(|before| before > recorded_us)
        {
            let detail = "the entry was recorded before the one before it in its chain";
            self.find_at(line.leaf, Class::Order, detail);
        }
        self.chains.insert(
            line.chain,
            ChainEnd {
                seq: line.seq,
                recorded_us: Some(recorded_us),
                unseen,
            },
        );
    }
}
