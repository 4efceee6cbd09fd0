//! What a verification of a bundle says.

use std::fmt;

use super::stamp::{Stamp, Stamps, TimestampToken, Timestamps};
use crate::audit::Verdict;
use crate::audit::anchor::AnchorError;
use crate::time::Timestamp;
use crate::tlog::{Checkpoint, LogError, LogVerifier, TreeHash, WitnessVerifier};

/// The most findings that are kept; all are counted.
const MAX_FINDINGS: usize = 1_000;
/// The most anchors of one bundle.
const MAX_ANCHORS: usize = 1_000;

/// Whom the auditor believes: public keys that came by another way than the bundle did.
///
/// ```
/// use portcullis::audit::bundle::Trust;
/// use portcullis::tlog::LogVerifier;
///
/// let log = LogVerifier::parse("audit.example/chain-1+35908a36+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4")?;
/// let trust = Trust::in_log(log);
/// # Ok::<(), portcullis::tlog::LogError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Trust {
    pub(super) log: Option<LogVerifier>,
    pub(super) sealers: Vec<LogVerifier>,
    pub(super) witnesses: Vec<WitnessVerifier>,
    pub(super) kept: Option<Checkpoint>,
    pub(super) timestamps: Option<Timestamps>,
}

impl Trust {
    /// In nobody: what is verified is that the bundle fits together, and never that it is clean.
    pub fn in_nobody() -> Self {
        Self::default()
    }

    /// In the log with this key.
    pub fn in_log(log: LogVerifier) -> Self {
        Self {
            log: Some(log),
            ..Self::default()
        }
    }

    /// Also in whoever seals bundles with this key. Without any, only the log's own key is believed
    /// for that; with one, a bundle that another key sealed is a finding.
    pub fn sealer(mut self, key: LogVerifier) -> Self {
        self.sealers.push(key);
        self
    }

    /// Also in this witness.
    pub fn witness(mut self, key: WitnessVerifier) -> Self {
        self.witnesses.push(key);
        self
    }

    /// Also in timestamp authorities: `check` is given a checkpoint's note and the token that was kept
    /// for it, and says when it was stamped and by whom, or what is wrong, which is a finding.
    /// `adapters::anchors::TimestampRoots` does that. Without it, tokens are counted and not checked.
    pub fn timestamps(
        mut self,
        check: impl Fn(&str, &[u8]) -> Result<Stamp, AnchorError> + Send + Sync + 'static,
    ) -> Self {
        self.timestamps = Some(Timestamps::new(check));
        self
    }

    /// And remembers this checkpoint, which the auditor kept: a bundle of a smaller tree, or of one
    /// that does not go on from it, is a finding.
    ///
    /// # Errors
    ///
    /// [`LogError`] if the note is not a checkpoint of the log that was named, or of an empty tree.
    pub fn kept(mut self, note: &str) -> Result<Self, LogError> {
        let log = self.log.as_ref().ok_or(LogError::Unsigned)?;
        let kept = Checkpoint::open(note, log)?;
        if kept.size() == 0 {
            return Err(LogError::EmptyAnchor);
        }
        self.kept = Some(kept);
        Ok(self)
    }

    /// Whether this key may seal.
    pub(super) fn believes(&self, key: &LogVerifier) -> bool {
        self.sealers.contains(key) || self.log.as_ref() == Some(key)
    }
}

/// What sort of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// A line is none, or stands where it must not.
    Format,
    /// The file ends before it should.
    Truncated,
    /// The first line says what is not so.
    Claim,
    /// A checkpoint is not the log's, or not of this tree.
    Checkpoint,
    /// What an anchor gave is for another tree, or wrong.
    Anchor,
    /// A tile is not the one in the signed tree.
    Tree,
    /// An entry is not the one in the signed tree.
    Entry,
    /// A leaf is neither shown nor withheld, or both.
    Gap,
    /// The entries of a chain do not follow each other.
    Order,
    /// An agent's signature does not hold, or its key is not borne out.
    Signature,
    /// The seal is not of this file, or not of its signer.
    Seal,
}

impl Class {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Truncated => "truncated",
            Self::Claim => "claim",
            Self::Checkpoint => "checkpoint",
            Self::Anchor => "anchor",
            Self::Tree => "tree",
            Self::Entry => "entry",
            Self::Gap => "gap",
            Self::Order => "order",
            Self::Signature => "signature",
            Self::Seal => "seal",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What sort of thing.
    pub class: Class,
    /// The line, from 1.
    pub line: u64,
    /// The leaf, from 0, if it is about one.
    pub leaf: Option<u64>,
    /// In words.
    pub detail: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in line {}", self.class, self.line)?;
        if let Some(leaf) = self.leaf {
            write!(f, ", leaf {leaf}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// What one anchor gave, as far as the bundle has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnchorReport {
    /// The anchor's name.
    pub anchor: String,
    /// What sort it is.
    pub kind: String,
    /// How many receipts of it there are.
    pub receipts: u64,
    /// The largest tree that it took, as the exporter says.
    pub size: u64,
    /// The largest tree for which one of the witnesses that were named signed, and when.
    pub witnessed: Option<(u64, Timestamp)>,
}

/// That somebody took entries out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redacted {
    /// How many entries were taken out.
    pub entries: u64,
    /// Whether the seal of before is of a key that was named.
    pub believed: bool,
}

/// The answer. It is never one boolean; [`limits`](Self::limits) says what it does not prove.
#[derive(Clone, Debug, Default)]
#[must_use = "a verification that nobody looks at finds nothing"]
pub struct Report {
    pub(super) tenant: Option<String>,
    pub(super) origin: Option<String>,
    pub(super) log_named: bool,
    pub(super) sealed_by: Option<String>,
    pub(super) sealer_believed: bool,
    pub(super) size: u64,
    pub(super) root: Option<TreeHash>,
    pub(super) entries: u64,
    pub(super) proved: u64,
    pub(super) withheld: u64,
    pub(super) signed: u64,
    pub(super) late: u64,
    pub(super) keys: u64,
    pub(super) checkpoints: u64,
    pub(super) anchors: Vec<AnchorReport>,
    pub(super) cosigned: Option<(u64, Timestamp)>,
    pub(super) stamps: Stamps,
    pub(super) redacted: Vec<Redacted>,
    /// Whether the kept checkpoint is among the bundle's; `None` if none was named.
    pub(super) kept: Option<bool>,
    pub(super) lines: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) total: u64,
}

impl Report {
    pub(super) fn find(&mut self, finding: Finding) {
        self.total += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// The report of an anchor; `None` if there are too many.
    pub(super) fn anchor(&mut self, name: &str, kind: &str) -> Option<&mut AnchorReport> {
        let known = self.anchors.iter().position(|known| known.anchor == name);
        let at = match known {
            Some(at) => at,
            None if self.anchors.len() >= MAX_ANCHORS => return None,
            None => {
                self.anchors.push(AnchorReport {
                    anchor: name.to_owned(),
                    kind: kind.to_owned(),
                    receipts: 0,
                    size: 0,
                    witnessed: None,
                });
                self.anchors.len() - 1
            }
        };
        self.anchors.get_mut(at)
    }

    /// What the whole comes to. Without the log's key, or without an entry, it is
    /// [`Verdict::Nothing`]: nothing was proved.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.total > 0 {
            Verdict::Findings
        } else if self.log_named && self.entries > 0 && self.proved == self.entries {
            Verdict::Clean
        } else {
            Verdict::Nothing
        }
    }

    /// Whether there is an entry, every one that is shown is in the tree that the named log signed,
    /// and nothing else was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict() == Verdict::Clean
    }

    /// What is wrong: the first thousand.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings there are, the ones that were not kept included.
    #[must_use]
    pub const fn finding_count(&self) -> u64 {
        self.total
    }

    /// Whose trail it is.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The log: of the key that was named, or, without one, as the bundle says.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// How many entries the signed tree has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the signed tree.
    #[must_use]
    pub const fn root(&self) -> Option<TreeHash> {
        self.root
    }

    /// How many entries are shown.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many of them are in the signed tree.
    #[must_use]
    pub const fn proved(&self) -> u64 {
        self.proved
    }

    /// How many entries of the tree are not shown.
    #[must_use]
    pub const fn withheld(&self) -> u64 {
        self.withheld
    }

    /// How many entries an agent signed, and the signature holds.
    #[must_use]
    pub const fn signed(&self) -> u64 {
        self.signed
    }

    /// How many entries are signed by a key that was revoked before they were recorded, and came by
    /// way of a journal or a transaction: nothing shows that they were signed before.
    #[must_use]
    pub const fn late_signatures(&self) -> u64 {
        self.late
    }

    /// How many agents' keys are listed.
    #[must_use]
    pub const fn keys(&self) -> u64 {
        self.keys
    }

    /// How many checkpoints there are, each signed by the log and the beginning of the next.
    #[must_use]
    pub const fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// What the anchors gave.
    #[must_use]
    pub fn anchors(&self) -> &[AnchorReport] {
        &self.anchors
    }

    /// The largest tree that a named witness cosigned, and when.
    #[must_use]
    pub const fn cosigned(&self) -> Option<(u64, Timestamp)> {
        self.cosigned
    }

    /// The timestamp tokens that anchors gave, and what became of each: the first thousand.
    #[must_use]
    pub fn tokens(&self) -> &[TimestampToken] {
        &self.stamps.tokens
    }

    /// How many timestamp tokens there are, the ones that were not kept included; and how many of
    /// them were not checked, because no authority was named.
    #[must_use]
    pub const fn token_counts(&self) -> (u64, u64) {
        (self.stamps.total, self.stamps.unchecked)
    }

    /// The largest tree that an authority that was named stamped, and the stamp.
    #[must_use]
    pub fn stamped(&self) -> Option<(u64, &Stamp)> {
        self.stamps
            .largest
            .as_ref()
            .map(|(size, stamp)| (*size, stamp))
    }

    /// Who took entries out, the first one first.
    #[must_use]
    pub fn redacted(&self) -> &[Redacted] {
        &self.redacted
    }

    /// Whether the tree goes on from the checkpoint that was kept; `false` if the bundle does not
    /// have it, `None` if none was named.
    #[must_use]
    pub const fn goes_on_from_kept(&self) -> Option<bool> {
        self.kept
    }

    /// The public key that the bundle is sealed with, and whether it is one that was named.
    #[must_use]
    pub fn sealed_by(&self) -> Option<(&str, bool)> {
        let key = self.sealed_by.as_deref()?;
        Some((key, self.sealer_believed))
    }

    /// What this does not prove, in sentences for the report.
    #[must_use]
    pub fn limits(&self) -> Vec<&'static str> {
        let mut limits = vec![
            "anything about entries after the checkpoint",
            "the MACs of the entries, which take the audit secret: who signed the checkpoint checked them",
        ];
        let mut add = |is: bool, limit| {
            if is {
                limits.push(limit);
            }
        };
        add(
            !self.log_named,
            "whose log it is: a bundle's own copy of the key proves nothing; name the log's key",
        );
        add(
            !self.sealer_believed,
            "what the first line says was selected, and that nothing was taken out since: the key of the seal was not named",
        );
        add(
            self.late > 0,
            "that entries were signed before their agent's key was revoked: they came later, by way of a journal or a transaction",
        );
        add(
            self.kept == Some(false),
            "that the tree goes on from the checkpoint that was kept: it is not in the bundle; ask for a bundle of everything",
        );
        add(
            self.withheld > 0,
            "that no withheld entry belongs to what was selected, or revokes a key",
        );
        let alone = self.cosigned.is_none() && self.anchors.iter().all(|a| a.witnessed.is_none());
        add(
            alone && self.stamps.largest.is_none(),
            "when the tree was signed, and that the log showed nobody another one: no witness that was named vouches for it",
        );
        add(
            alone && self.stamps.largest.is_some(),
            "that the log showed nobody another tree: no witness that was named vouches for it",
        );
        add(
            self.stamps.unchecked > 0,
            "what timestamp tokens say of when the tree was signed: they were not checked; name the roots of their authorities",
        );
        limits
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict() {
            Verdict::Clean => write!(f, "clean: ")?,
            Verdict::Findings => write!(f, "{} findings: ", self.total)?,
            Verdict::Nothing => write!(f, "nothing proved: ")?,
        }
        writeln!(
            f,
            "{} entries shown, {} of them in the signed tree, {} withheld",
            self.entries, self.proved, self.withheld
        )?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let kept = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        if self.total > kept {
            writeln!(f, "and {} more", self.total - kept)?;
        }
        for limit in self.limits() {
            writeln!(f, "not proved: {limit}")?;
        }
        Ok(())
    }
}
