//! What a verification says.

use std::fmt;

use crate::audit::error::AuditError;
use crate::audit::rotate::{Marker, Rotation};
use crate::time::Timestamp;

/// The most findings that are kept; the rest is counted.
pub(super) const MAX_FINDINGS: usize = 1_000;
/// The most unproved ranges that are kept; the rest is counted.
const MAX_RANGES: usize = 1_000;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingClass {
    /// The entry is not what was written there, under any predecessor that is known.
    BadMac,
    /// Entries between others (or before them) are gone.
    Gap,
    /// Two entries at one place, or a head that names another last entry than there is.
    Fork,
    /// Entries at the end are gone, or the head that says where the end is.
    Truncated,
    /// Intact entries past the head: the head was set back.
    Rollback,
    /// The entry (or the head) names a key that we do not have.
    UnknownKey,
    /// The entry is under a key that did not hold at its place, be its MAC right: under an old one
    /// after a rotation, or under a new one before it.
    KeyWindow,
    /// The two entries of a rotation are not there, not next to each other, or name another key; or
    /// a chain was left behind under an old key.
    Rotation,
    /// The agent's signature is wrong, missing, by a key that is not on record or was revoked, or of
    /// another agent.
    Signature,
    /// The entry has a column that this crate never writes so, be its MAC good or not computable.
    Encoding,
    /// The entry, or the stored tree, is not what a signed checkpoint says.
    Checkpoint,
    /// The entry was recorded earlier than the one before it.
    Time,
    /// A line of a journal is not what was written there, or lines are gone.
    Journal,
}

impl FindingClass {
    /// The class, as reports spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadMac => "bad_mac",
            Self::Gap => "gap",
            Self::Fork => "fork",
            Self::Truncated => "truncated",
            Self::Rollback => "rollback",
            Self::UnknownKey => "unknown_key",
            Self::KeyWindow => "key_window",
            Self::Rotation => "rotation",
            Self::Signature => "signature",
            Self::Encoding => "encoding",
            Self::Checkpoint => "checkpoint",
            Self::Time => "time",
            Self::Journal => "journal",
        }
    }
}

impl fmt::Display for FindingClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What.
    pub class: FindingClass,
    /// In which chain.
    pub chain_no: u32,
    /// At which entry; of several, the first.
    pub seq: u64,
    /// The last entry that it is about; `seq` itself where it is about one.
    pub through: u64,
    /// In words.
    pub detail: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chain {} seq {}", self.class, self.chain_no, self.seq)?;
        if self.through > self.seq {
            write!(f, "..{}", self.through)?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// The findings as they come in: a bounded list and a count.
#[derive(Debug, Default)]
pub(in crate::audit) struct Findings {
    kept: Vec<Finding>,
    total: u64,
}

impl Findings {
    pub(in crate::audit) fn push(&mut self, finding: Finding) {
        self.total += 1;
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(finding);
        }
    }

    /// Takes back a suspicion that turned out to be the neighbour's fault.
    pub(super) fn withdraw(&mut self, class: FindingClass, chain_no: u32, seq: u64) {
        self.total = self.total.saturating_sub(1);
        // One only: of two entries at one place each has its own.
        let mut all = self.kept.iter();
        if let Some(at) = all.position(|f| (f.class, f.chain_no, f.seq) == (class, chain_no, seq)) {
            self.kept.remove(at);
        }
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn extend(&mut self, finding: Option<Finding>) {
        if let Some(finding) = finding {
            self.push(finding);
        }
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> &[Finding] {
        &self.kept
    }
}

/// What was verified of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainReport {
    /// The chain.
    pub chain_no: u32,
    /// The first entry that was asked for.
    pub from: u64,
    /// The last entry that was asked for: where the chain ended when the verification began, or
    /// sooner.
    pub to: u64,
    /// How many entries were read.
    pub entries: u64,
    /// How many of them are proved by a key: each as it was written, after the one before it.
    pub proved: u64,
    /// The entries that nothing proves, because what they follow is gone or changed.
    pub unproved: Vec<(u64, u64)>,
    /// The keys that proved entries, and how many each.
    pub keys: Vec<(u32, u64)>,
    /// Where the chain's head says that it ends; `None` if it has no head.
    pub head: Option<u64>,
    /// The key that holds at its end, if an entry is proved.
    pub(super) last_key: Option<u32>,
    /// The rotations in it that both keys attest.
    pub(super) rotations: Vec<Marker>,
}

impl ChainReport {
    pub(in crate::audit) fn new(chain_no: u32, from: u64, to: u64, head: Option<u64>) -> Self {
        Self {
            chain_no,
            from,
            to,
            entries: 0,
            proved: 0,
            unproved: Vec::new(),
            keys: Vec::new(),
            head,
            last_key: None,
            rotations: Vec::new(),
        }
    }

    pub(in crate::audit) fn prove(&mut self, key_id: u32) {
        self.proved += 1;
        match self.keys.iter_mut().find(|(id, _)| *id == key_id) {
            Some((_, count)) => *count += 1,
            None => self.keys.push((key_id, 1)),
        }
    }

    pub(super) fn leave_unproved(&mut self, seq: u64) {
        let kept = self.unproved.len();
        match self.unproved.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ if kept < MAX_RANGES => self.unproved.push((seq, seq)),
            _ => {}
        }
    }

    /// Takes back `leave_unproved` for an entry that was proved later.
    pub(super) fn prove_late(&mut self, seq: u64, key_id: u32) {
        self.unproved.retain(|range| *range != (seq, seq));
        self.prove(key_id);
    }
}

/// What the whole comes to. Exhaustive on purpose: nothing is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a report must treat each")]
pub enum Verdict {
    /// There were entries, and each is as it was written.
    Clean,
    /// Something is wrong; the findings say what.
    Findings,
    /// There was nothing to verify. That is not the same as clean.
    Nothing,
}

/// A key that somebody else may have had, as a rotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompromisedKey {
    /// Its number.
    pub key_id: u32,
    /// Since when, as far as was known at the rotation.
    pub since: Option<Timestamp>,
}

impl fmt::Display for CompromisedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key_id;
        write!(
            f,
            "that entries under key {key} are as they were first written: it was compromised"
        )?;
        match self.since {
            Some(since) => write!(
                f,
                " at {since}; up to the rotation they are as good as the last checkpoint from before that"
            ),
            None => write!(
                f,
                "; up to the rotation they are as good as the last checkpoint that is trusted"
            ),
        }
    }
}

/// The answer of a verification: what was found, and what was verified by what.
///
/// It is never one boolean. [`limits`](Self::limits) says what it does not prove.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a verification that nobody looks at finds nothing"]
pub struct Verification {
    findings: Vec<Finding>,
    total: u64,
    chains: Vec<ChainReport>,
    limits: &'static [&'static str],
}

impl Verification {
    pub(in crate::audit) fn new(
        findings: Findings,
        chains: Vec<ChainReport>,
        limits: &'static [&'static str],
    ) -> Self {
        Self {
            findings: findings.kept,
            total: findings.total,
            chains,
            limits,
        }
    }

    /// What the whole comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.total > 0 {
            Verdict::Findings
        } else if self.proved() > 0 && self.proved() == self.entries() {
            Verdict::Clean
        } else {
            Verdict::Nothing
        }
    }

    /// Whether there were entries and each is as it was written. Zero entries are not clean.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict() == Verdict::Clean
    }

    /// What is wrong: the first thousand, chain by chain.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings there are, the ones that were not kept included.
    #[must_use]
    pub const fn finding_count(&self) -> u64 {
        self.total
    }

    /// How many entries were read.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.chains.iter().map(|chain| chain.entries).sum()
    }

    /// How many entries are proved by a key.
    #[must_use]
    pub fn proved(&self) -> u64 {
        self.chains.iter().map(|chain| chain.proved).sum()
    }

    /// How many entries were read and are not proved: they are tampered with, or what they follow
    /// is gone.
    #[must_use]
    pub fn unproved(&self) -> u64 {
        self.entries().saturating_sub(self.proved())
    }

    /// What was verified of each chain.
    #[must_use]
    pub fn chains(&self) -> &[ChainReport] {
        &self.chains
    }

    /// The keys that proved entries, and how many each.
    #[must_use]
    pub fn keys(&self) -> Vec<(u32, u64)> {
        let mut keys: Vec<(u32, u64)> = Vec::new();
        for (id, count) in self.chains.iter().flat_map(|chain| &chain.keys) {
            match keys.iter_mut().find(|(known, _)| known == id) {
                Some((_, sum)) => *sum += count,
                None => keys.push((*id, *count)),
            }
        }
        keys
    }

    /// What this verification does not prove, in sentences for the report.
    #[must_use]
    pub const fn limits(&self) -> &'static [&'static str] {
        self.limits
    }

    /// The keys that somebody else may have had while entries were written under them, as their
    /// rotation says. The MACs under such a key prove less; the report says what.
    #[must_use]
    pub fn compromised_keys(&self) -> Vec<CompromisedKey> {
        let mut keys: Vec<CompromisedKey> = Vec::new();
        for marker in self.chains.iter().flat_map(|chain| &chain.rotations) {
            let Rotation::Compromise { since } = marker.reason else {
                continue;
            };
            if keys.iter().all(|known| known.key_id != marker.from) {
                keys.push(CompromisedKey {
                    key_id: marker.from,
                    since,
                });
            }
        }
        keys
    }

    /// The proof that everything in the scope is as it was written, or the first finding.
    ///
    /// # Errors
    ///
    /// [`AuditError::Tampered`] with the place of the first finding.
    pub fn into_result(self) -> Result<Self, AuditError> {
        match self.findings.first() {
            Some(first) => Err(AuditError::Tampered {
                chain_no: first.chain_no,
                seq: first.seq,
            }),
            None => Ok(self),
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict() {
            Verdict::Clean => writeln!(
                f,
                "clean: {} entries in {} chains, each proved by key",
                self.entries(),
                self.chains.len()
            )?,
            Verdict::Findings => writeln!(
                f,
                "{} findings in {} entries; {} proved by key",
                self.total,
                self.entries(),
                self.proved()
            )?,
            Verdict::Nothing => writeln!(f, "nothing verified: there were no entries to prove")?,
        }
        writeln!(
            f,
            "{:>8} {:>12} {:>12} {:>12} {:>12} {:>12}",
            "chain", "from", "to", "head", "entries", "proved"
        )?;
        for chain in &self.chains {
            let head = chain
                .head
                .map_or_else(|| "none".to_owned(), |seq| seq.to_string());
            writeln!(
                f,
                "{:>8} {:>12} {:>12} {head:>12} {:>12} {:>12}",
                chain.chain_no, chain.from, chain.to, chain.entries, chain.proved
            )?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let kept = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        if self.total > kept {
            writeln!(f, "and {} more", self.total - kept)?;
        }
        for key in self.compromised_keys() {
            writeln!(f, "not proved: {key}")?;
        }
        for limit in self.limits {
            writeln!(f, "not proved: {limit}")?;
        }
        Ok(())
    }
}
