//! The answer of a verification: what was found, and what was verified by what.

use std::fmt;

use super::assurance::{Assurance, ChainReport, Exposure};
use super::finding::{Finding, Findings};
use crate::audit::anchor::AnchorReport;
use crate::audit::error::AuditError;
use crate::audit::rotate::{Marker, Rotation};
use crate::time::Timestamp;

/// What a whole verification comes to. Exhaustive on purpose: nothing is neither.
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
    limits: Vec<String>,
    anchors: Vec<AnchorReport>,
    exposure: Option<Exposure>,
    resumed_from: Option<u64>,
    resume_token: Option<String>,
    /// Rotations that the verification which was resumed had seen.
    pub(super) earlier: Vec<Marker>,
}

impl Verification {
    pub(super) fn new(findings: Findings, chains: Vec<ChainReport>, limits: Vec<String>) -> Self {
        let (findings, total) = findings.into_parts();
        Self {
            findings,
            total,
            chains,
            limits,
            anchors: Vec::new(),
            exposure: None,
            resumed_from: None,
            resume_token: None,
            earlier: Vec::new(),
        }
    }

    pub(super) fn set_anchors(&mut self, anchors: Vec<AnchorReport>) {
        self.anchors = anchors;
    }

    pub(super) fn set_exposure(&mut self, exposure: Exposure) {
        self.exposure = Some(exposure);
    }

    pub(super) fn set_resumed(&mut self, from: Option<u64>, earlier: Vec<Marker>) {
        (self.resumed_from, self.earlier) = (from, earlier);
    }

    pub(super) fn set_token(&mut self, token: Option<String>) {
        self.resume_token = token;
    }

    /// What the whole comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let something = self.proved() > 0 || self.resumed_from.is_some();
        if self.total > 0 {
            Verdict::Findings
        } else if something && self.proved() == self.entries() {
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

    /// How many entries are in archives and not in the trail any more. They are not proved here.
    #[must_use]
    pub fn archived(&self) -> u64 {
        self.chains.iter().map(|chain| chain.archived).sum()
    }

    /// How many entries are proved by a key, and contradicted by no checkpoint.
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

    /// How many entries have this behind them, and nothing more.
    #[must_use]
    pub fn count(&self, assurance: Assurance) -> u64 {
        self.chains.iter().map(|chain| chain.count(assurance)).sum()
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
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// How each anchor stands to the trail, where it was verified against checkpoints.
    #[must_use]
    pub fn anchors(&self) -> &[AnchorReport] {
        &self.anchors
    }

    /// What lies after the newest checkpoint that is kept outside of the database. `None` where
    /// only a part of the trail was verified.
    #[must_use]
    pub const fn exposure(&self) -> Option<&Exposure> {
        self.exposure.as_ref()
    }

    /// How many entries were not read again, because an earlier verification had read them.
    #[must_use]
    pub const fn resumed_from(&self) -> Option<u64> {
        self.resumed_from
    }

    /// What a later verification goes on from; see [`Verify::resume`](super::Verify::resume). There
    /// is one where nothing was found and a stored checkpoint is signed by the log. Keep it outside
    /// of the database: it holds that checkpoint's note, and so is one that is kept.
    #[must_use]
    pub fn resume_token(&self) -> Option<&str> {
        self.resume_token.as_deref()
    }

    /// The keys that somebody else may have had while entries were written under them, as their
    /// rotation says. The MACs under such a key prove less; the report says what.
    #[must_use]
    pub fn compromised_keys(&self) -> Vec<CompromisedKey> {
        let mut keys: Vec<CompromisedKey> = Vec::new();
        for marker in self.rotations() {
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

    /// Entries, as `(chain, from, through)`, that are signed by a key which was revoked before they
    /// were recorded, and came by way of a journal or a transaction. The agent may have signed them
    /// before and an outage held them up, or whoever stole the key may have signed them since and said
    /// that it was long ago: the trail cannot tell, calls them neither good nor forged, and lists them.
    #[must_use]
    pub fn late_signatures(&self) -> Vec<(u32, u64, u64)> {
        let of = |chain: &ChainReport| {
            let chain_no = chain.chain_no;
            let ranges = chain.late_signatures.clone();
            ranges
                .into_iter()
                .map(move |(from, to)| (chain_no, from, to))
        };
        self.chains.iter().flat_map(of).collect()
    }

    /// Entries, as `(chain, from, through)`, that no signed head covers, though heads are signed: by a
    /// process that does not sign, or by somebody who has the audit secret and not a process's key.
    #[must_use]
    pub fn unsigned_tails(&self) -> Vec<(u32, u64, u64)> {
        let of = |chain: &ChainReport| {
            let (from, to) = chain.unsigned_tail?;
            Some((chain.chain_no, from, to))
        };
        self.chains.iter().filter_map(of).collect()
    }

    /// What of this trail is not proved and is no finding, in sentences for the report: entries that
    /// are archived, late signatures, and what no signed head covers.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let archived = self.archived();
        if archived > 0 {
            doubts.push(format!(
                "{archived} entries that are archived; a checkpoint covers them, verify their files"
            ));
        }
        for (chain, from, to) in self.late_signatures() {
            doubts.push(format!(
                "that entries {from}..{to} of chain {chain} were signed before their agent's key was revoked: they came later, by way of a journal or a transaction"
            ));
        }
        for (chain, from, to) in self.unsigned_tails() {
            doubts.push(format!(
                "that entries {from}..{to} of chain {chain} are a process's: no signed head covers them"
            ));
        }
        doubts
    }

    /// The rotations that both keys attest, of each chain.
    pub(super) fn rotations(&self) -> impl Iterator<Item = &Marker> {
        let seen = self.chains.iter().flat_map(|chain| &chain.rotations);
        self.earlier.iter().chain(seen)
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
            "{:>8} {:>12} {:>12} {:>12} {:>12}  by",
            "chain", "from", "to", "head", "entries"
        )?;
        for chain in &self.chains {
            let head = chain
                .head
                .map_or_else(|| "none".to_owned(), |seq| seq.to_string());
            for range in &chain.ranges {
                writeln!(
                    f,
                    "{:>8} {:>12} {:>12} {head:>12} {:>12}  {}",
                    chain.chain_no,
                    range.from,
                    range.to,
                    range.to - range.from + 1,
                    range.assurance
                )?;
            }
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let kept = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        if self.total > kept {
            writeln!(f, "and {} more", self.total - kept)?;
        }
        if let Some(size) = self.resumed_from {
            writeln!(
                f,
                "not read again: the {size} entries of the verification that this one goes on from"
            )?;
        }
        if let Some(exposure) = &self.exposure {
            writeln!(f, "exposed: {exposure}")?;
        }
        for chain in &self.chains {
            for (key, heads) in &chain.head_keys {
                let chain = chain.chain_no;
                writeln!(
                    f,
                    "chain {chain}: {heads} heads signed by process key {key}"
                )?;
            }
        }
        for key in self.compromised_keys() {
            writeln!(f, "not proved: {key}")?;
        }
        for doubt in self.doubts() {
            writeln!(f, "not proved: {doubt}")?;
        }
        for anchor in &self.anchors {
            writeln!(f, "{anchor}")?;
        }
        for limit in &self.limits {
            writeln!(f, "not proved: {limit}")?;
        }
        Ok(())
    }
}
