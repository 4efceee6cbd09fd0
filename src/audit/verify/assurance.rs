//! What stands behind which entries, chain by chain, and what lies beyond.

use std::fmt;
use std::time::Duration;

use super::spans::Spans;
use crate::audit::identity::AgentKeyId;
use crate::audit::rotate::Marker;
use crate::time::Timestamp;

/// The most ranges of late signatures that are kept.
const MAX_RANGES: usize = 1_000;

/// What stands behind entries, from nothing up. Each level has what the ones before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "a report must treat each")]
pub enum Assurance {
    /// Nothing: the entry has a finding, follows one that is gone, or is under a key that is not
    /// here.
    Unproved,
    /// Its MAC, right after the entry before it: nobody wrote it who does not hold the key.
    Keyed,
    /// A checkpoint that is stored in the database too, of which it is a leaf: nobody wrote it
    /// anew who does not hold the log's key as well.
    Signed,
    /// A checkpoint that is kept outside of the database too: it is what it was when that was made,
    /// whoever holds which keys.
    Anchored,
    /// The verification that this one went on from. It was not read again.
    Resumed,
}

impl Assurance {
    /// Every level, from nothing up.
    pub const ALL: [Self; 5] = [
        Self::Unproved,
        Self::Keyed,
        Self::Signed,
        Self::Anchored,
        Self::Resumed,
    ];

    /// The level, as reports spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unproved => "unproved",
            Self::Keyed => "keyed",
            Self::Signed => "signed",
            Self::Anchored => "anchored",
            Self::Resumed => "resumed",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Entries next to each other that have the same behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssuredRange {
    /// What is behind them.
    pub assurance: Assurance,
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
}

/// How far checkpoints reach into one chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) resumed: u64,
    pub(super) anchored: u64,
    pub(super) signed: u64,
}

/// What was verified of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainReport {
    /// The chain.
    pub chain_no: u32,
    /// The first entry that was asked for.
    pub from: u64,
    /// The last entry that was asked for and should be there.
    pub to: u64,
    /// How many entries were read.
    pub entries: u64,
    /// How many of them are proved.
    pub proved: u64,
    /// How many more are in archives: removed by a role that may, on record in the trail, under a
    /// checkpoint. They are not read here; [`Retention::verify_archive`] reads them.
    ///
    /// [`Retention::verify_archive`]: crate::audit::retention::Retention::verify_archive
    pub archived: u64,
    /// What stands behind which entries, in their order. An entry that is missing is in none.
    pub ranges: Vec<AssuredRange>,
    /// The keys that proved entries, and how many each.
    pub keys: Vec<(u32, u64)>,
    /// Where the chain's head says that it ends; `None` if it has no head.
    pub head: Option<u64>,
    /// The entries whose agent's key was revoked before they were recorded, which came by way of a
    /// journal or a transaction. The signature is the key's; nothing shows that it is from before.
    pub late_signatures: Vec<(u64, u64)>,
    /// The processes' keys that signed heads, and how many each. Compare them with those that you
    /// know: whoever has the audit secret can put one on record.
    pub head_keys: Vec<(AgentKeyId, u64)>,
    /// The entries at the end that no signed head covers, where it is on record that heads are
    /// signed, but not that all are.
    pub unsigned_tail: Option<(u64, u64)>,
    /// The last place that a signed head covers.
    signed_through: Option<u64>,
    /// The key that holds at its end, if an entry is proved.
    pub(super) last_key: Option<u32>,
    /// The rotations in it that both keys attest.
    pub(super) rotations: Vec<Marker>,
    pub(super) spans: Spans,
}

impl ChainReport {
    pub(super) fn new(chain_no: u32, from: u64, to: u64, head: Option<u64>) -> Self {
        Self {
            chain_no,
            from,
            to,
            entries: 0,
            proved: 0,
            archived: 0,
            ranges: Vec::new(),
            keys: Vec::new(),
            head,
            late_signatures: Vec::new(),
            head_keys: Vec::new(),
            unsigned_tail: None,
            signed_through: None,
            last_key: None,
            rotations: Vec::new(),
            spans: Spans::default(),
        }
    }

    /// The last entry that a signed head covers; `None` if there is none.
    #[must_use]
    pub const fn signed_through(&self) -> Option<u64> {
        self.signed_through
    }

    /// How many entries have this behind them.
    #[must_use]
    pub fn count(&self, assurance: Assurance) -> u64 {
        let ranges = self.ranges.iter();
        ranges
            .filter(|range| range.assurance == assurance)
            .map(|range| range.to - range.from + 1)
            .sum()
    }

    pub(super) fn prove(&mut self, seq: u64, key_id: u32) {
        self.spans.add(seq, true);
        self.count_key(key_id);
    }

    pub(super) fn leave_unproved(&mut self, seq: u64) {
        self.spans.add(seq, false);
    }

    /// Takes note of a signature that may be from before its key was revoked, or after.
    pub(super) fn leave_undated(&mut self, seq: u64) {
        let kept = self.late_signatures.len();
        match self.late_signatures.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ if kept < MAX_RANGES => self.late_signatures.push((seq, seq)),
            _ => {}
        }
    }

    /// A head at `seq` is signed by `key`.
    pub(super) fn sign(&mut self, key: AgentKeyId, seq: u64) {
        self.signed_through = self.signed_through.max(Some(seq));
        match self.head_keys.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += 1,
            None => self.head_keys.push((key, 1)),
        }
    }

    /// Takes back `leave_unproved` for an entry that was proved later.
    pub(super) fn prove_late(&mut self, seq: u64, key_id: u32) {
        self.spans.set(seq, seq, true);
        self.count_key(key_id);
    }

    /// Takes back `prove` for entries that a signed root contradicts, be their MACs right.
    pub(super) fn contradict(&mut self, from: u64, to: u64) {
        let changed = self.spans.set(from, to, false);
        self.proved = self.proved.saturating_sub(changed);
    }

    fn count_key(&mut self, key_id: u32) {
        self.proved += 1;
        match self.keys.iter_mut().find(|(id, _)| *id == key_id) {
            Some((_, count)) => *count += 1,
            None => self.keys.push((key_id, 1)),
        }
    }

    /// Says what stands behind which entries.
    pub(super) fn rank(&mut self, marks: Marks) {
        let mut ranges = Vec::new();
        let mut push = |assurance, from, to| {
            if from <= to {
                ranges.push(AssuredRange {
                    assurance,
                    from,
                    to,
                });
            }
        };
        push(Assurance::Resumed, 1, marks.resumed);
        for run in self.spans.runs() {
            if !run.proved {
                push(Assurance::Unproved, run.from, run.to);
                continue;
            }
            let signed = marks.signed.max(marks.anchored);
            push(Assurance::Anchored, run.from, run.to.min(marks.anchored));
            let after = run.from.max(marks.anchored + 1);
            push(Assurance::Signed, after, run.to.min(signed));
            push(Assurance::Keyed, run.from.max(signed + 1), run.to);
        }
        self.ranges = ranges;
    }
}

/// What could be removed or written anew, by somebody who holds every key, without a verification
/// finding it: what lies after the newest checkpoint that is kept outside of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exposure {
    /// The newest checkpoint that is kept outside of the database and that the trail fits, by the
    /// name that it was given; `None` if there is none, and everything is exposed.
    pub anchor: Option<String>,
    /// How many entries are under it.
    pub size: u64,
    /// How many entries lie after it.
    pub entries: u64,
    /// When the last entry under it was recorded.
    pub since: Option<Timestamp>,
    /// When this was looked at.
    pub until: Timestamp,
}

impl Exposure {
    /// How much time lies after the newest anchored entry; `None` if everything is exposed.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        let micros = self
            .until
            .as_micros()
            .saturating_sub(self.since?.as_micros());
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(anchor) = &self.anchor else {
            return write!(
                f,
                "everything, {} entries: no checkpoint that is kept outside of the database fits",
                self.entries
            );
        };
        let entries = self.entries;
        match self.time() {
            _ if entries == 0 => write!(f, "nothing"),
            Some(time) => write!(f, "{entries} entries in the last {} s", time.as_secs()),
            None => write!(f, "{entries} entries"),
        }?;
        write!(f, ", after the {} entries that {anchor} holds", self.size)
    }
}
