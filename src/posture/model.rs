//! What posture says.

use std::fmt;
use std::time::Duration;

use crate::audit::anchor::AnchorHealth;
use crate::coverage::CoverageStatus;
use crate::error::{ErrorKind, Gate, Module};
use crate::time::Timestamp;

/// What protects, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posture {
    /// The gates, in the order in which they are asked.
    pub gates: Vec<GatePosture>,
    /// How the trail stands, which holds the proof of all of it.
    pub trail: TrailPosture,
    /// The wrapped clients that this process knows. A call that goes past them is seen by nobody.
    pub coverage: CoverageStatus,
    /// Whether the grants of this program's role were as they must be, when they were last looked at:
    /// by [`health`](crate::Governance::health), or by `strict`. `None` if nobody has looked.
    pub grants: Option<GrantsPosture>,
    /// What the host switched off.
    pub switched_off: Vec<Module>,
    /// Whether the handle would not have opened with something missing.
    pub strict: bool,
}

impl Posture {
    /// The line of one gate.
    #[must_use]
    pub fn of(&self, gate: Gate) -> Option<&GatePosture> {
        self.gates.iter().find(|line| line.gate == gate)
    }

    /// What should protect and does not, gate by gate; empty if all is well.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let lines = self.gates.iter();
        lines
            .flat_map(|line| {
                line.missing
                    .iter()
                    .map(|what| format!("{}: {what}", line.gate))
            })
            .collect()
    }
}

/// How one gate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatePosture {
    /// The gate.
    pub gate: Gate,
    /// What it does while the store is away.
    pub store_away: StoreAway,
    /// What is loaded; `None` for a gate that loads nothing, or is switched off.
    pub loaded: Option<Loaded>,
    /// How old what the halt switch knows may be, and is; `None` for every other gate.
    pub freshness: Option<Freshness>,
    /// What should protect and does not.
    pub missing: Vec<String>,
}

impl GatePosture {
    pub(super) const fn new(gate: Gate, store_away: StoreAway) -> Self {
        Self {
            gate,
            store_away,
            loaded: None,
            freshness: None,
            missing: Vec::new(),
        }
    }

    pub(super) fn off(self) -> Self {
        Self {
            store_away: StoreAway::SwitchedOff,
            ..self
        }
    }

    pub(super) fn lacks(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }
}

/// What a gate does while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreAway {
    /// Decides from what is loaded. What has to ask the store is then refused: a contract's condition on
    /// a budget or an approval, a session that moved here and whose loop policy says so.
    Memory,
    /// Decides from what is loaded until that is older than its bound; then refuses.
    MemoryUntilStale,
    /// Refuses.
    Closed,
    /// Lets through, and says so in the trail.
    Open,
    /// Goes on with the entry in the journal on the local disk; refuses if that cannot be written.
    Journal,
    /// Nothing, at any time: the host switched it off.
    SwitchedOff,
}

/// What a gate has loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// How many policies are stored.
    pub stored: usize,
    /// How many this program pinned.
    pub pinned: usize,
    /// Counts the changes of what is stored.
    pub revision: i64,
    /// SHA-256 in hex, over the hashes of all policies in force: the same in every process in which
    /// the same is in force.
    pub hash: String,
    /// When what is in force was last known to be what is stored.
    pub as_of: Option<Timestamp>,
    /// The names of what is in force, where it is this program's own: contracts.
    pub names: Vec<String>,
}

/// How old what the halt switch knows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freshness {
    /// Its age.
    pub age: Duration,
    /// The published bound on that.
    pub bound: Duration,
    /// Whether it is older.
    pub stale: bool,
    /// Whether changes are heard at once, and not only found by polling.
    pub heard: bool,
}

/// How the trail stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrailPosture {
    /// When this process last committed to it; `None` if it has not.
    pub committed_at: Option<Timestamp>,
    /// Entries on their way.
    pub waiting: usize,
    /// Whether the database is away, or the end of the time that it was is not on record yet.
    pub degraded: bool,
    /// Lines of the journal that wait to be drained.
    pub journal_depth: u64,
    /// When the oldest of them was written.
    pub oldest_undrained: Option<Timestamp>,
    /// The newest checkpoint of any process, when [`health`](crate::Governance::health) or `strict` last
    /// looked; `None` if there was none, or nobody has looked.
    pub checkpoint_at: Option<Timestamp>,
    /// The places outside of the database, as the last look found them.
    pub anchors: Vec<AnchorHealth>,
}

/// Whether the grants of this program's role are as they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantsPosture {
    /// Whether they are.
    pub ok: bool,
    /// What was found, and what to do.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// Something that should protect does not, and the builder was told to be strict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprotected {
    pub(super) missing: Vec<String>,
}

impl Unprotected {
    /// What does not protect, and what to do about each.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Which answer it asks for: [`ErrorKind::Misuse`].
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Misuse
    }
}

impl fmt::Display for Unprotected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "strict: not everything protects: {}",
            self.missing.join("; ")
        )
    }
}

impl std::error::Error for Unprotected {}
