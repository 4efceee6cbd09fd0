//! What a verification says of each anchor.

use std::fmt;

use super::{AnchorError, KeptAt};
use crate::audit::Finding;
use crate::time::Timestamp;

/// How an anchor stands to the trail that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a report must treat each")]
pub enum Standing {
    /// The trail goes on from what it holds, and it holds the newest checkpoint.
    InStep,
    /// The trail goes on from what it holds, and it misses checkpoints since a short while.
    Behind,
    /// It misses checkpoints for longer than it may. A finding.
    Stale,
    /// It could not be asked, or its answer is no good; a finding if no other one answered.
    Silent,
    /// It holds what the trail does not go on from. A finding.
    Contradicts,
}

impl Standing {
    /// The standing, as reports spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InStep => "in_step",
            Self::Behind => "behind",
            Self::Stale => "stale",
            Self::Silent => "silent",
            Self::Contradicts => "contradicts",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a verification found about one anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnchorReport {
    /// Its name.
    pub anchor: String,
    /// What sort it is.
    pub kind: &'static str,
    /// How many entries are under what it holds.
    pub held: Option<u64>,
    /// When it was kept, as the place says.
    pub at: Option<Timestamp>,
    /// How it stands to the trail.
    pub standing: Standing,
    /// Why it did not answer.
    pub error: Option<AnchorError>,
    /// The finding that it gave rise to, which is among those of the verification, too.
    pub finding: Option<Finding>,
}

impl AnchorReport {
    pub(in crate::audit) fn of(kept: &KeptAt) -> Self {
        let held = kept.held();
        Self {
            anchor: kept.anchor().to_owned(),
            kind: kept.kind(),
            held: held.map(super::Held::size),
            at: held.and_then(super::Held::at),
            standing: match kept.found() {
                Ok(_) => Standing::InStep,
                Err(_) => Standing::Silent,
            },
            error: kept.found().err().cloned(),
            finding: None,
        }
    }
}

impl fmt::Display for AnchorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "anchor {} ({}): {}",
            self.anchor, self.kind, self.standing
        )?;
        if let Some(held) = self.held {
            write!(f, ", holds {held} entries")?;
        }
        if let Some(at) = self.at {
            write!(f, " since {at}")?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        match &self.finding {
            Some(finding) => write!(f, "; {finding}"),
            None => Ok(()),
        }
    }
}
