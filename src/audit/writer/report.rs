//! What draining a journal found.

use std::fmt;

use crate::audit::verify::FindingClass;
use crate::ids::JournalId;

/// The most findings that are kept; the counts are of all.
const MAX_FINDINGS: usize = 1_000;

/// What [`Audit::drain`](crate::audit::Audit::drain) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Lines that are in the trail now and were not before.
    pub drained: u64,
    /// Lines whose event was in the trail already: a commit whose outcome was not known, or a drain
    /// that was interrupted.
    pub already_present: u64,
    /// Lines that are no lines of ours, or that the database does not take. They are kept in a file
    /// beside the journal's, whose name ends in `.quarantine`.
    pub quarantined: u64,
    /// Lines that were no events: what other modules had kept there and have stored now.
    pub notes: u64,
    /// Numbers of lines that are in no file.
    pub missing: u64,
    /// Files of other databases, tenants or secrets, which were left alone.
    pub foreign: u64,
    /// Files that live writers hold, that other processes drain, or that must wait for a module.
    pub in_use: u64,
    findings: Vec<JournalFinding>,
}

impl DrainReport {
    /// Whether every line was as it was written.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.quarantined == 0 && self.missing == 0 && self.findings.is_empty()
    }

    /// What was wrong, at most the first thousand.
    #[must_use]
    pub fn findings(&self) -> &[JournalFinding] {
        &self.findings
    }

    pub(super) fn find(&mut self, finding: JournalFinding) {
        tracing::error!(%finding, "the audit journal is not as it was written");
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drained {}, already present {}, notes {}, quarantined {}, missing {}, files of others {}, files in use {}",
            self.drained,
            self.already_present,
            self.notes,
            self.quarantined,
            self.missing,
            self.foreign,
            self.in_use
        )?;
        self.findings
            .iter()
            .try_for_each(|finding| write!(f, "\n{finding}"))
    }
}

/// One thing that is wrong with a journal, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalFinding {
    /// [`FindingClass::Journal`].
    pub class: FindingClass,
    /// In which journal.
    pub journal: JournalId,
    /// At which line; of several, the first. Where the line's number cannot be read, the one that it
    /// should have had.
    pub line: u64,
    /// The last line that it is about; `line` itself where it is about one.
    pub through: u64,
    /// In words.
    pub detail: &'static str,
}

impl JournalFinding {
    pub(super) const fn new(
        journal: JournalId,
        line: u64,
        through: u64,
        detail: &'static str,
    ) -> Self {
        Self {
            class: FindingClass::Journal,
            journal,
            line,
            through,
            detail,
        }
    }
}

impl fmt::Display for JournalFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} line {}", self.class, self.journal, self.line)?;
        if self.through > self.line {
            write!(f, "..{}", self.through)?;
        }
        write!(f, ": {}", self.detail)
    }
}
