//! The walk along one chain: stored entries in, findings out. No I/O.
//!
//! Each entry's MAC covers the entry and the MAC before it. A MAC that is right *after some known
//! predecessor* proves the entry, whatever that predecessor was: nobody makes one without the key.
//! So after a bad entry both the MAC that is stored for it and the one that it should have are
//! accepted as the predecessor of the next, which says which of the two lied, and one changed
//! entry is one finding:
//!
//! * its content was changed: the next follows the stored MAC; one [`BadMac`](FindingClass::BadMac);
//! * its MAC was changed: the next follows the computed MAC; one `BadMac`;
//! * it was moved here from elsewhere: its MAC is remembered, and the entry that followed it where
//!   it was is proved by it.
//!
//! Content and MAC replaced together leave nothing to prove the next entry by; it is reported too,
//! and says so. After a gap, the next entry is counted as unproved, but not accused.

use subtle::ConstantTimeEq as _;

use super::assurance::ChainReport;
use super::doubt::Doubt;
use super::finding::{Finding, FindingClass, Findings};
use super::keyring::Keyring;
use super::strange::strange;
use super::window::{self, Window};
use crate::audit::identity::{Registry, Wrong};
use crate::audit::keys::Tag;
use crate::audit::retention::{Gap, Purged};
use crate::audit::row::{self, GENESIS};
use crate::audit::stored::{Stored, Torn};
use crate::canon::Fields;

/// Where a chain says that it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) next_seq: u64,
    pub(super) mac: Option<Tag>,
    pub(super) key_id: Option<u32>,
    pub(super) recorded_us: i64,
}

/// Which part of a chain is walked, and what is known of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) chain_no: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) head: Option<Head>,
    /// The last entry that is stored, whatever the head says.
    pub(super) max_seq: u64,
}

impl Part {
    /// The whole of a chain.
    pub(super) fn whole(chain_no: u32, head: Option<Head>, max_seq: u64) -> Self {
        let part = Self {
            chain_no,
            from: 1,
            to: u64::MAX,
            head,
            max_seq,
        };
        Self {
            to: part.last(),
            ..part
        }
    }

    /// The last entry that there is or should be.
    pub(super) fn last(&self) -> u64 {
        self.head_seq().unwrap_or(0).max(self.max_seq)
    }

    /// Where to begin reading: two entries early, so that the first one's predecessor is known,
    /// and is not accused of the change of its own.
    pub(super) fn lead_in(&self) -> u64 {
        self.from.saturating_sub(2).max(1)
    }

    /// What is wrong with the key of some entries, if they are of this part.
    fn finding_in(&self, (class, seq, through, detail): window::Fault) -> Option<Finding> {
        let place = (seq.max(self.from), through);
        (through >= self.from).then(|| Finding::new(class, self.chain_no, place, detail))
    }

    fn head_seq(&self) -> Option<u64> {
        self.head.map(|head| head.next_seq.saturating_sub(1))
    }
}

/// What an entry follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// An entry that is proved.
    Proved(Tag),
    /// An entry that is not; what is known of its MAC is in [`Doubt`].
    Doubtful,
    /// Nothing that is known.
    Unknown,
}

/// The walk, after some of the entries.
#[derive(Debug)]
pub(super) struct Walk<'k> {
    keys: &'k Keyring,
    /// `None` where signatures are not looked at.
    registry: Option<&'k Registry>,
    /// What was archived; `None` where nothing was.
    purged: Option<&'k Purged>,
    part: Part,
    report: ChainReport,
    before: Before,
    doubt: Doubt,
    /// The sequence number that comes next.
    next: u64,
    /// What `before` was for the last entry, where a second one at the same place belongs.
    fork: Before,
    last_recorded: Option<i64>,
    /// Intact entries past the head.
    beyond: Option<(u64, u64)>,
    window: Window,
    /// Whether it goes on from an entry that is known, be there any after it.
    resumed: bool,
    encoded: Fields,
}

impl<'k> Walk<'k> {
    pub(super) fn new(keys: &'k Keyring, part: Part) -> Self {
        let head = part.head_seq();
        let next = part.lead_in();
        let before = if next == 1 {
            Before::Proved(GENESIS)
        } else {
            Before::Unknown
        };
        Self {
            keys,
            registry: None,
            purged: None,
            part,
            report: ChainReport::new(part.chain_no, part.from, part.to, head),
            before,
            doubt: Doubt::default(),
            next,
            fork: before,
            last_recorded: None,
            beyond: None,
            window: Window::default(),
            resumed: false,
            encoded: Fields::default(),
        }
    }

    /// A walk that goes on after `boundary`, an entry that is known to be right.
    pub(super) fn resume(keys: &'k Keyring, part: Part, boundary: &Stored<'_>) -> Self {
        let (seq, mac) = (boundary.row.seq, boundary.mac.copied());
        let from = seq.saturating_add(1);
        let mut walk = Self::new(keys, Part { from, ..part });
        walk.before = mac.map_or(Before::Unknown, Before::Proved);
        (walk.next, walk.fork) = (from, walk.before);
        walk.last_recorded = Some(boundary.row.recorded_us);
        walk.resumed = true;
        if let Some(head) = part.head_seq().filter(|&head| head < seq) {
            walk.beyond = Some((head + 1, seq));
        }
        // What it says of itself was found right before.
        walk.window.proved(&boundary.row, keys, |_| ());
        walk
    }

    /// Also checks the agents' signatures, by the keys that are on record.
    pub(super) const fn signed(mut self, registry: &'k Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Also goes on past what was archived.
    pub(super) const fn past(mut self, purged: &'k Purged) -> Self {
        self.purged = Some(purged);
        self
    }

    /// The bytes of the last entry.
    pub(super) const fn encoded(&self) -> &Fields {
        &self.encoded
    }

    /// Takes the next entry; says whether it is proved. Entries come in the order of their sequence
    /// numbers.
    pub(super) fn entry(&mut self, stored: &Stored<'_>, findings: &mut Findings) -> bool {
        let row = &stored.row;
        row.encode(&mut self.encoded);
        self.arrive(row.seq, findings);
        let Some(key) = self.keys.key(row.key_id) else {
            let detail = "the entry names a key that is not in the keyring";
            self.find(FindingClass::UnknownKey, row.seq, detail, findings);
            self.leave_unproved(row.seq);
            self.follow_unproved(stored.mac);
            return false;
        };
        let good = match (self.before, stored.mac) {
            (_, None) | (Before::Unknown, _) => false,
            (Before::Proved(previous), Some(mac)) => {
                bool::from(row::mac(key, &self.encoded, &previous).ct_eq(mac))
            }
            (Before::Doubtful, Some(mac)) => self.doubt.explains(key, &self.encoded, mac),
        };
        // A gap may have been made by moving an entry that came by earlier.
        let good = good
            || matches!((self.before, stored.mac), (Before::Unknown, Some(mac))
                if self.doubt.has_displaced(key, &self.encoded, mac));
        match stored.mac.filter(|_| good) {
            Some(mac) => self.proved(stored, mac, findings),
            None => self.unproved(stored, findings),
        }
        good
    }

    /// Takes an entry that cannot be read.
    pub(super) fn torn(&mut self, torn: &Torn<'_>, findings: &mut Findings) {
        let seq = torn.seq.and_then(|seq| u64::try_from(seq).ok());
        if let Some(seq) = seq.filter(|&seq| seq > 0) {
            self.arrive(seq, findings);
            self.find(FindingClass::Encoding, seq, torn.column, findings);
            self.leave_unproved(seq);
            self.follow_unproved(torn.mac);
        } else {
            let detail = "an entry has a place before the first";
            self.report.entries += 1;
            findings.push(self.finding(FindingClass::Encoding, 0, 0, detail));
        }
    }

    /// Takes note of the end, after the last entry.
    pub(super) fn finish(mut self, findings: &mut Findings) -> ChainReport {
        if self.part.from > self.part.to && !self.resumed {
            // It was asked for what lies past the end.
            return self.report;
        }
        let last = self.next.saturating_sub(1);
        let part = self.part;
        self.window.finish(part.to >= part.last(), |fault| {
            findings.extend(part.finding_in(fault));
        });
        if let Some((first, through)) = self.beyond {
            let detail = "intact entries stand past the head; it was set back";
            findings.push(self.finding(FindingClass::Rollback, first, through, detail));
        }
        match self.part.head {
            Some(head) => self.finish_at(&head, last, findings),
            None if self.part.to >= self.part.max_seq => {
                let detail = "the chain's head is gone, and with it where the chain ended";
                findings.push(self.finding(FindingClass::Truncated, last + 1, last + 1, detail));
            }
            None => {
                let to = self.part.to;
                self.miss(last, to, findings);
            }
        }
        (self.report.last_key, self.report.rotations) = self.window.into_parts();
        self.report
    }

    fn finish_at(&mut self, head: &Head, last: u64, findings: &mut Findings) {
        let head_seq = head.next_seq.saturating_sub(1);
        self.miss(last, head_seq.min(self.part.to), findings);
        if self.part.to < head_seq {
            return;
        }
        if head.key_id.is_none_or(|id| self.keys.key(id).is_none()) {
            let detail = "the head names a key that is not in the keyring";
            findings.push(self.finding(FindingClass::UnknownKey, head_seq, head_seq, detail));
        }
        let (ours, theirs) = (self.window.key(), head.key_id);
        if last == head_seq && ours.is_some() && theirs.is_some() && ours != theirs {
            let known = theirs.is_some_and(|id| self.keys.key(id).is_some());
            if known && matches!(self.before, Before::Proved(_)) {
                let detail = "the head names another key than the last entry is under";
                findings.push(self.finding(FindingClass::KeyWindow, head_seq, head_seq, detail));
            }
        }
        // Where entries are missing or past the head, its MAC is that of no entry here.
        if last != head_seq {
            return;
        }
        if matches!(self.before, Before::Proved(_))
            && self
                .last_recorded
                .is_some_and(|last| head.recorded_us != last)
        {
            let detail = "the head was recorded at another time than the last entry";
            findings.push(self.finding(FindingClass::Time, head_seq, head_seq, detail));
        }
        let agrees = |mac: &Tag| head.mac.is_some_and(|head| bool::from(head.ct_eq(mac)));
        let fits = match &self.before {
            Before::Proved(mac) => agrees(mac),
            // That last entry has a finding of its own, or none of its predecessors is known; the
            // head can only contradict what is stored for it.
            Before::Doubtful => self.doubt.macs().any(agrees) || self.doubt.is_reported(),
            Before::Unknown => true,
        };
        if !fits {
            let detail = "the head names another last entry than the one that is stored";
            findings.push(self.finding(FindingClass::Fork, head_seq, head_seq, detail));
        }
    }

    /// Reports what is missing after `last`, if it should go on to `to`.
    fn miss(&mut self, last: u64, to: u64, findings: &mut Findings) {
        let last = last.max(self.part.from.saturating_sub(1));
        if last >= to {
            return;
        }
        let gap = self.gap(last + 1, to);
        if gap == Gap::Archived {
            return;
        }
        let finding = if self.part.max_seq > to {
            self.finding(FindingClass::Gap, last + 1, to, gap.detail())
        } else {
            let detail = "entries at the end are missing; the head says that they were there";
            self.finding(FindingClass::Truncated, last + 1, to, detail)
        };
        findings.push(finding);
    }

    /// What is known of entries that are not there; those that are archived are counted.
    fn gap(&mut self, from: u64, through: u64) -> Gap {
        let chain_no = self.part.chain_no.cast_signed();
        let gap = match self.purged {
            Some(purged) if from <= through => purged.gap(chain_no, from, through),
            _ => Gap::Missing,
        };
        if gap == Gap::Archived {
            let asked = from.max(self.part.from)..=through;
            self.report.archived += (asked.end() + 1).saturating_sub(*asked.start());
        }
        gap
    }

    /// The MAC that is kept of the archived entry before this one.
    fn kept_before(&self, seq: u64) -> Option<Tag> {
        self.purged?.link(self.part.chain_no.cast_signed(), seq)
    }

    /// Comes to the place `seq`: counts it, and reports what is missing before it.
    fn arrive(&mut self, seq: u64, findings: &mut Findings) {
        if seq >= self.part.from {
            self.report.entries += 1;
        }
        if seq < self.next {
            let detail = "two entries stand at one place";
            self.find(FindingClass::Fork, seq, detail, findings);
            // The next entry follows one of them, and is not to blame.
            if let Before::Proved(mac) = self.before {
                self.doubt.displace(self.keys, &mac);
            }
            self.before = self.fork;
            return;
        }
        if seq > self.next {
            // Past the head nothing is known to have been, so nothing is known to be missing.
            let through = match self.part.head_seq() {
                Some(head) => (seq - 1).min(head),
                None => seq - 1,
            };
            let gap = self.gap(self.next, through);
            // A predecessor that is missing is the range's business too.
            if gap != Gap::Archived && through >= self.next && through + 1 >= self.part.from {
                let detail = gap.detail();
                findings.push(self.finding(FindingClass::Gap, self.next, through, detail));
            }
            self.before = self
                .kept_before(seq)
                .map_or(Before::Unknown, Before::Proved);
        }
        self.fork = self.before;
        self.next = seq.saturating_add(1);
    }

    fn proved(&mut self, stored: &Stored<'_>, mac: &Tag, findings: &mut Findings) {
        let row = &stored.row;
        if row.seq >= self.part.from {
            self.report.prove(row.seq, row.key_id);
        }
        if self
            .last_recorded
            .is_some_and(|last| row.recorded_us < last)
        {
            let detail = "the entry was recorded earlier than the one before it";
            self.find(FindingClass::Time, row.seq, detail, findings);
        }
        if let Some(detail) = strange(row) {
            self.find(FindingClass::Encoding, row.seq, detail, findings);
        }
        if let Some(registry) = self.registry.filter(|_| row.seq >= self.part.from)
            && let Some(wrong) = registry.wrong(stored)
        {
            match wrong {
                Wrong::Fault(detail) => {
                    self.find(FindingClass::Signature, row.seq, detail, findings);
                }
                Wrong::Late => self.report.leave_undated(row.seq),
            }
        }
        let part = self.part;
        self.window.proved(row, self.keys, |fault| {
            findings.extend(part.finding_in(fault));
        });
        if self.part.head_seq().is_some_and(|head| row.seq > head) {
            let first = self.beyond.map_or(row.seq, |(first, _)| first);
            self.beyond = Some((first, row.seq));
        }
        self.last_recorded = Some(row.recorded_us);
        self.before = Before::Proved(*mac);
        self.doubt.settle();
    }

    fn unproved(&mut self, stored: &Stored<'_>, findings: &mut Findings) {
        let seq = stored.row.seq;
        let beyond = self.part.head_seq().is_some_and(|head| seq > head);
        let lost = self.before == Before::Unknown && stored.mac.is_some() && !beyond;
        self.leave_unproved(seq);
        if !lost {
            let detail = match self.before {
                Before::Proved(_) => "the entry is not what was written there",
                _ => {
                    "the entry is not what was written there, or the MAC of the one before it was replaced"
                }
            };
            self.find(FindingClass::BadMac, seq, detail, findings);
        }
        let Some(key) = self.keys.key(stored.row.key_id) else {
            return;
        };
        if let (Before::Unknown | Before::Doubtful, Some(mac)) = (self.before, stored.mac) {
            self.doubt
                .remember(seq, stored.row.key_id, &self.encoded, mac, lost);
        }
        let follows = match self.before {
            Before::Proved(mac) => Some(mac),
            _ => None,
        };
        self.doubt
            .enter(key, &self.encoded, follows, stored.mac, !lost);
        if let Some(mac) = stored.mac.filter(|_| !lost) {
            for late in self.doubt.displace(self.keys, mac) {
                if late.seq < self.part.from {
                    continue;
                }
                if !late.lost {
                    findings.withdraw(FindingClass::BadMac, self.part.chain_no, late.seq);
                }
                self.report.prove_late(late.seq, late.key_id);
            }
        }
        self.before = Before::Doubtful;
    }

    fn leave_unproved(&mut self, seq: u64) {
        if seq >= self.part.from {
            self.report.leave_unproved(seq);
        }
    }

    /// Goes on after an entry whose MAC cannot be computed.
    fn follow_unproved(&mut self, mac: Option<&Tag>) {
        self.before = if mac.is_some() {
            self.doubt.replace(mac);
            Before::Doubtful
        } else {
            Before::Unknown
        };
    }

    fn find(&self, class: FindingClass, seq: u64, detail: &'static str, findings: &mut Findings) {
        if seq >= self.part.from {
            findings.push(self.finding(class, seq, seq, detail));
        }
    }

    fn finding(
        &self,
        class: FindingClass,
        seq: u64,
        through: u64,
        detail: &'static str,
    ) -> Finding {
        Finding::new(class, self.part.chain_no, (seq, through), detail)
    }
}

#[cfg(test)]
mod tests;
