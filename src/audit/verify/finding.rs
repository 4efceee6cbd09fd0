//! What a verification says.

use std::fmt;

/// The most findings that are kept; the rest is counted.
const MAX_FINDINGS: usize = 1_000;

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
    /// another agent; a process's signature of a head is, or heads are not signed though all should be.
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
    /// Which of the checkpoints kept elsewhere says so, where one does.
    pub anchor: Option<String>,
}

impl Finding {
    /// About the entries of a chain from `seq` to `through`; chain 0 is the tree over all of them.
    pub(in crate::audit) const fn new(
        class: FindingClass,
        chain_no: u32,
        (seq, through): (u64, u64),
        detail: &'static str,
    ) -> Self {
        Self {
            class,
            chain_no,
            seq,
            through,
            detail,
            anchor: None,
        }
    }

    /// The tree has `size` entries, and one that was kept elsewhere has more.
    pub(super) const fn beyond(size: u64, kept: u64) -> Self {
        let (class, detail) = if size == 0 {
            let detail = "nothing is left of the tree that a checkpoint kept elsewhere signs";
            (FindingClass::Truncated, detail)
        } else {
            let detail = "the tree is smaller than a checkpoint kept elsewhere: entries were removed, or a backup restored";
            (FindingClass::Rollback, detail)
        };
        Self::new(class, 0, (size + 1, kept), detail)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chain {} seq {}", self.class, self.chain_no, self.seq)?;
        if self.through > self.seq {
            write!(f, "..{}", self.through)?;
        }
        write!(f, ": {}", self.detail)?;
        match &self.anchor {
            Some(anchor) => write!(f, " ({anchor})"),
            None => Ok(()),
        }
    }
}

/// The findings as they come in: a bounded list and a count.
#[derive(Debug, Default)]
pub(in crate::audit) struct Findings {
    kept: Vec<Finding>,
    total: u64,
}

impl Findings {
    /// What the tree says of entries next to each other is one finding.
    pub(in crate::audit) fn push(&mut self, finding: Finding) {
        if finding.class == FindingClass::Checkpoint
            && let Some(last) = self.kept.last_mut()
            && (last.class, last.chain_no, last.detail, last.through + 1)
                == (finding.class, finding.chain_no, finding.detail, finding.seq)
            && finding.chain_no > 0
        {
            last.through = finding.through;
            return;
        }
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

    pub(in crate::audit) const fn total(&self) -> u64 {
        self.total
    }

    /// The findings, chain by chain, and how many there are.
    pub(super) fn into_parts(mut self) -> (Vec<Finding>, u64) {
        self.kept
            .sort_by_key(|finding| (finding.chain_no, finding.seq));
        (self.kept, self.total)
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
