//! The tree of the leaves that are stored beside the tree of what the entries are now. No I/O.
//!
//! Where they differ, the root that was signed says which is right: an entry that was changed is
//! named by its place, and is not confused with a tile that was. As long as they agree they are one
//! tree, and cost one.

use std::collections::{BTreeMap, VecDeque};

use super::assurance::Marks;
use super::finding::{Finding, FindingClass, Findings};
use crate::audit::keys::Tag;
use crate::audit::retention::{Gap, Purged};
use crate::audit::store::checkpoint::{CheckpointRow, RangeRow};
use crate::tlog::{Checkpoint, Frontier, Growth, LogVerifier, Tile, TreeHash};

/// The most suspicions that are kept until a signed root decides them.
const MAX_SUSPECTS: usize = 1_000;

/// How many of the last checkpoints are remembered, for entries that tell of them.
const REMEMBERED: usize = 64;

/// A checkpoint that was kept outside of the database, and the name of the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) checkpoint: Checkpoint,
}

/// Entries whose leaves are not the stored ones, until a root decides which are right.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    chain_no: i32,
    from: u64,
    to: u64,
}

/// The leaves of one chain that are being read, some thousand at a time.
#[derive(Debug)]
pub(super) struct Leaves {
    chain_no: i32,
    next: u64,
    to: u64,
    stored: std::vec::IntoIter<Option<TreeHash>>,
    /// Whether there is anything of them at all: entries, or hashes of them.
    any: bool,
    last_mac: Option<Tag>,
}

impl Leaves {
    /// The entries of a chain from `from` to `to`, with the hashes that are stored for them.
    pub(super) fn new(
        chain_no: i32,
        (from, to): (u64, u64),
        stored: Vec<Option<TreeHash>>,
    ) -> Self {
        Self {
            chain_no,
            next: from,
            to,
            any: stored.iter().any(Option::is_some),
            stored: stored.into_iter(),
            last_mac: None,
        }
    }

    pub(super) const fn chain(&self) -> i32 {
        self.chain_no
    }

    /// The MAC of the last entry, if that is there and its hash is the stored one.
    pub(super) const fn last_mac(&self) -> Option<Tag> {
        self.last_mac
    }
}

/// What one entry is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) leaf: TreeHash,
    pub(super) mac: Tag,
    pub(super) recorded_us: i64,
}

#[derive(Debug)]
pub(super) struct Trees<'t> {
    log: &'t LogVerifier,
    purged: &'t Purged,
    /// The largest last: the next one is popped.
    kept: Vec<Kept>,
    /// The tree of the stored leaves.
    tree: Growth,
    /// The tree of what the entries are now, where that is another one.
    entries: Option<Frontier>,
    /// Tiles above the leaves that were finished and not compared yet.
    finished: Vec<(Tile, Vec<TreeHash>)>,
    suspects: Vec<Suspect>,
    /// What a signed root has decided against.
    accused: Vec<Suspect>,
    marks: BTreeMap<i32, Marks>,
    /// Where each chain was read to as leaves.
    ends: BTreeMap<i32, u64>,
    /// The chains that have come further since the last good checkpoint.
    touched: Vec<i32>,
    recorded_us: Option<i64>,
    /// The newest checkpoint kept elsewhere that fits, and when the last entry under it was recorded.
    anchor: Option<(String, u64, Option<i64>)>,
    /// The newest stored checkpoint that is signed and over what was read.
    signed: Option<(u64, String)>,
    /// What was found of checkpoints kept elsewhere that do not fit.
    contradictions: Vec<Finding>,
    /// The last checkpoints that were stored.
    seen: VecDeque<(u64, TreeHash)>,
}

impl<'t> Trees<'t> {
    pub(super) fn new(log: &'t LogVerifier, purged: &'t Purged, mut kept: Vec<Kept>) -> Self {
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.checkpoint.size()));
        Self {
            log,
            purged,
            kept,
            tree: Growth::new(),
            entries: None,
            finished: Vec::new(),
            suspects: Vec::new(),
            accused: Vec::new(),
            marks: BTreeMap::new(),
            ends: BTreeMap::new(),
            touched: Vec::new(),
            recorded_us: None,
            anchor: None,
            signed: None,
            contradictions: Vec::new(),
            seen: VecDeque::new(),
        }
    }

    /// Goes on from a tree that was verified before, and where its chains ended; what was kept of
    /// it or of less is known to fit.
    pub(super) fn resume(&mut self, tree: Growth, ends: &[(i32, u64)], recorded_us: Option<i64>) {
        let size = tree.size();
        self.seen.push_back((size, tree.root()));
        self.tree = tree;
        self.recorded_us = recorded_us;
        for (chain_no, end) in ends {
            self.ends.insert(*chain_no, *end);
            let marks = self.marks.entry(*chain_no).or_default();
            (marks.resumed, marks.signed) = (*end, *end);
        }
        while let Some(kept) = self.kept.pop_if(|kept| kept.checkpoint.size() <= size) {
            // The token itself is the largest of them.
            self.hold(kept.name, kept.checkpoint.size());
        }
    }

    /// What was kept of trees up to this size.
    pub(super) fn kept_up_to(&self, size: u64) -> impl Iterator<Item = &Checkpoint> {
        let kept = self.kept.iter().map(|kept| &kept.checkpoint);
        kept.filter(move |kept| kept.size() <= size)
    }

    /// The log's name.
    pub(super) fn origin(&self) -> &str {
        self.log.origin()
    }

    /// How many leaves were read.
    pub(super) const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Where a chain was read to as leaves.
    pub(super) fn end_of(&self, chain_no: i32) -> u64 {
        self.ends.get(&chain_no).copied().unwrap_or(0)
    }

    pub(super) fn marks_of(&self, chain_no: i32) -> Marks {
        self.marks.get(&chain_no).copied().unwrap_or_default()
    }

    /// The entries of each chain that a signed root contradicts.
    pub(super) fn accused(&self) -> impl Iterator<Item = (i32, u64, u64)> {
        let accused = self.accused.iter();
        accused.map(|suspect| (suspect.chain_no, suspect.from, suspect.to))
    }

    pub(super) fn anchor(&self) -> Option<&(String, u64, Option<i64>)> {
        self.anchor.as_ref()
    }

    /// The newest stored checkpoint that is good.
    pub(super) fn signed(&self) -> Option<&(u64, String)> {
        self.signed.as_ref()
    }

    /// What was found of checkpoints kept elsewhere, each with the name of its place.
    pub(super) fn contradictions(&self) -> &[Finding] {
        &self.contradictions
    }

    /// The tiles that are to be compared with what is stored.
    pub(super) fn finished(&mut self) -> Vec<(Tile, Vec<TreeHash>)> {
        std::mem::take(&mut self.finished)
    }

    /// The tiles that are not full, at the end.
    pub(super) fn edge(&self) -> Vec<(Tile, Vec<TreeHash>)> {
        let edge = self.tree.unfinished();
        edge.map(|(tile, hashes)| (tile, hashes.to_vec())).collect()
    }

    /// Takes an entry of the range that is being read, in the order of their places; a second one
    /// at a place is the walk's business.
    pub(super) fn entry(
        &mut self,
        leaves: &mut Leaves,
        seq: u64,
        now: Option<Now>,
        findings: &mut Findings,
    ) {
        leaves.any = true;
        while leaves.next < seq.min(leaves.to + 1) {
            self.next(leaves, None, findings);
        }
        if leaves.next == seq && seq <= leaves.to {
            self.next(leaves, Some(now), findings);
        }
    }

    /// Takes note that there are no more entries; `false` if there is nothing of them at all.
    pub(super) fn close(&mut self, leaves: &mut Leaves, findings: &mut Findings) -> bool {
        while leaves.any && leaves.next <= leaves.to {
            self.next(leaves, None, findings);
        }
        if leaves.any {
            self.ends.insert(leaves.chain_no, leaves.to);
            self.touched.push(leaves.chain_no);
        }
        leaves.any
    }

    /// Takes one place of the tree: `None` if no entry stands there, `Some(None)` one that cannot
    /// be read.
    #[expect(clippy::option_option, reason = "absent, or there and unreadable")]
    fn next(&mut self, leaves: &mut Leaves, found: Option<Option<Now>>, findings: &mut Findings) {
        let (chain_no, seq) = (leaves.chain_no, leaves.next);
        let stored = leaves.stored.next().flatten();
        leaves.next += 1;
        let now = found.flatten();
        let leaf = now.map(|now| now.leaf);
        let same = stored.is_some() && stored == leaf;
        leaves.last_mac = now.map(|now| now.mac).filter(|_| same);
        if found.is_none() {
            // What was archived is in the tree by its hash.
            let archived = || self.purged.gap(chain_no, seq, seq) == Gap::Archived;
            if stored.is_none() || !archived() {
                let detail = "an entry under a checkpoint is gone";
                find(findings, FindingClass::Checkpoint, chain_no, seq, detail);
            }
        } else if !same {
            self.suspect(chain_no, seq);
        }
        self.recorded_us = self.recorded_us.max(now.map(|now| now.recorded_us));
        // Where one of them is missing, the other stands in, so that what follows can be compared.
        let nothing = TreeHash::of_nothing();
        let entry = leaf.or(stored).unwrap_or(nothing);
        let kept_leaf = stored.or(leaf).unwrap_or(nothing);
        if entry != kept_leaf && self.entries.is_none() {
            self.entries = Some(self.tree.frontier().clone());
        }
        if let Some(entries) = &mut self.entries {
            entries.push(entry);
        }
        let finished = &mut self.finished;
        self.tree.push(kept_leaf, |tile, hashes| {
            if tile.level() > 0 {
                finished.push((tile, hashes.to_vec()));
            }
        });
        let size = self.tree.size();
        while let Some(kept) = self.kept.pop_if(|kept| kept.checkpoint.size() <= size) {
            self.ends.insert(chain_no, seq);
            self.compare_kept(kept, findings);
        }
    }

    fn suspect(&mut self, chain_no: i32, seq: u64) {
        let full = self.suspects.len() >= MAX_SUSPECTS;
        match self.suspects.last_mut() {
            Some(last) if last.chain_no == chain_no && (full || last.to + 1 == seq) => {
                last.to = seq;
            }
            // Not one by one any more, but said: everything there is wrong of this chain so far.
            _ if full => {
                let all = self.suspects.iter_mut();
                if let Some(first) = all.into_iter().find(|s| s.chain_no == chain_no) {
                    first.to = seq;
                } else {
                    self.suspects.push(Suspect {
                        chain_no,
                        from: seq,
                        to: seq,
                    });
                }
            }
            _ => self.suspects.push(Suspect {
                chain_no,
                from: seq,
                to: seq,
            }),
        }
    }

    fn entries_root(&self) -> TreeHash {
        let entries = self.entries.as_ref().map(Frontier::root);
        entries.unwrap_or_else(|| self.tree.root())
    }

    /// The tree has come to the size of a checkpoint that was kept elsewhere.
    fn compare_kept(&mut self, kept: Kept, findings: &mut Findings) {
        let root = kept.checkpoint.root();
        if root == self.tree.root() {
            self.accuse("the entry is not the one that was signed", findings);
        } else if root == self.entries_root() {
            let detail = "the stored hash of the entry is not the one that was signed";
            self.accuse(detail, findings);
        } else {
            let detail = "the history is another than a checkpoint kept elsewhere signs";
            let size = kept.checkpoint.size();
            let class = FindingClass::Fork;
            let finding = Finding::new(class, 0, (size, size), detail);
            self.contradict(kept.name, finding, findings);
            return;
        }
        self.hold(kept.name, kept.checkpoint.size());
    }

    /// A checkpoint kept elsewhere fits what was read so far.
    fn hold(&mut self, name: String, size: u64) {
        for (chain_no, end) in &self.ends {
            self.marks.entry(*chain_no).or_default().anchored = *end;
        }
        self.anchor = Some((name, size, self.recorded_us));
    }

    /// An entry under a checkpoint tells of the one before it, which must be stored: otherwise one
    /// could be removed, and with it what it says of when.
    pub(super) fn told(&self, (size, root): (u64, TreeHash), findings: &mut Findings) {
        let known = |seen: &&(u64, TreeHash)| seen.0 == size;
        let judged = self.seen.front().is_some_and(|(oldest, _)| *oldest <= size)
            || (self.seen.is_empty() && size > 0);
        if judged && self.seen.iter().find(known) != Some(&(size, root)) {
            let detail =
                "the trail tells of a checkpoint of this size, and it is not stored, or is another";
            find(findings, FindingClass::Checkpoint, 0, size, detail);
        }
    }

    /// A checkpoint that is stored: signed, and over this tree?
    pub(super) fn checkpoint(&mut self, row: CheckpointRow, findings: &mut Findings) {
        let size = self.tree.size();
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((row.size, row.root));
        let signed = Checkpoint::open(&row.note, self.log).ok();
        let signed = signed.filter(|signed| {
            (signed.size(), signed.root()) == (row.size, row.root) && row.size == size
        });
        let Some(signed) = signed else {
            let detail = "a stored checkpoint is not signed by the log, or not over this tree";
            find(findings, FindingClass::Checkpoint, 0, row.size, detail);
            return;
        };
        let (tree, entries) = (self.tree.root(), self.entries_root());
        if signed.root() == tree {
            self.accuse("the entry is not the one that was signed", findings);
            // The signed tree goes on; what was wrong before it has been said.
            self.entries = None;
        } else if signed.root() == entries {
            let detail = "the stored hash of the entry is not the one that was signed";
            self.accuse(detail, findings);
        } else {
            let detail = "the entry, or its stored hash, or both are not what was signed";
            self.accuse(detail, findings);
            let detail = "what is stored does not lead to the root that was signed";
            find(findings, FindingClass::Checkpoint, 0, size, detail);
            return;
        }
        for chain_no in self.touched.drain(..) {
            let end = self.ends.get(&chain_no).copied().unwrap_or(0);
            self.marks.entry(chain_no).or_default().signed = end;
        }
        self.signed = Some((size, row.note));
    }

    fn accuse(&mut self, detail: &'static str, findings: &mut Findings) {
        for suspect in self.suspects.drain(..) {
            findings.push(Finding::new(
                FindingClass::Checkpoint,
                suspect.chain_no.cast_unsigned(),
                (suspect.from, suspect.to),
                detail,
            ));
            self.accused.push(suspect);
        }
    }

    /// A range begins: does it go on where the one before it ended?
    pub(super) fn range(&self, range: &RangeRow, findings: &mut Findings) {
        let last = self.end_of(range.chain_no);
        if range.first_leaf != self.tree.size()
            || range.from_seq != last + 1
            || range.to_seq < range.from_seq
        {
            let (class, detail) = (
                FindingClass::Checkpoint,
                "a stored range does not go on where the one before it ended",
            );
            find(findings, class, range.chain_no, range.from_seq, detail);
        }
    }

    /// There are no more ranges: has the tree come as far as it was known to be?
    pub(super) fn finish(&mut self, findings: &mut Findings) {
        if !self.suspects.is_empty() {
            let detail = "the entry is not the one in the tree, and no checkpoint decides";
            self.accuse(detail, findings);
        }
        let size = self.tree.size();
        while let Some(kept) = self.kept.pop() {
            let finding = Finding::beyond(size, kept.checkpoint.size());
            self.contradict(kept.name, finding, findings);
        }
    }

    fn contradict(&mut self, name: String, mut finding: Finding, findings: &mut Findings) {
        finding.anchor = Some(name);
        self.contradictions.push(finding.clone());
        findings.push(finding);
    }
}

/// A finding about one place.
pub(super) fn find(
    findings: &mut Findings,
    class: FindingClass,
    chain_no: i32,
    seq: u64,
    detail: &'static str,
) {
    let chain_no = chain_no.cast_unsigned();
    findings.push(Finding::new(class, chain_no, (seq, seq), detail));
}
