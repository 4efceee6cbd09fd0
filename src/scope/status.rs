//! What is in force, told.

use super::Scope;
use super::index::Fault;
use crate::ids::AgentId;
use crate::time::Timestamp;

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeStatus {
    /// How many agents have a stored policy.
    pub agents: usize,
    /// The agents that this program has [pinned](Scope::pin) a policy for, in order.
    pub pinned: Vec<AgentId>,
    /// The agents whose stored policies cannot be read, and of which this program has seen no good
    /// one. They are denied everything.
    pub broken: Vec<AgentId>,
    /// The agents whose stored policies cannot be read. The last good ones are in force.
    pub kept: Vec<AgentId>,
    /// Counts the changes of stored policies, up to what is in force here.
    pub revision: i64,
    /// When what is in force was last known to be what is stored; `None` if it never was, and
    /// nothing is in force but what is pinned.
    pub loaded_at: Option<Timestamp>,
    /// Whether changes are heard at once. Otherwise they are found by looking every second.
    pub heard: bool,
    /// The last look failed: what is in force may be older than what is stored.
    pub failing: bool,
    /// The host switched the gate off.
    pub switched_off: bool,
}

impl ScopeStatus {
    /// Whether what is stored could be read, all of it, at the last look.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.switched_off || (self.broken.is_empty() && self.kept.is_empty() && !self.failing)
    }
}

impl Scope {
    /// The newest change of a stored policy that is in force here.
    pub(crate) fn revision(&self) -> i64 {
        self.shared.watch.status().revision
    }

    /// What is in force: what is stored, and what this program pinned.
    #[must_use]
    pub fn status(&self) -> ScopeStatus {
        let index = &self.shared.index;
        let watch = self.shared.watch.status();
        let pinned = index.pinned();
        ScopeStatus {
            agents: index.stored(),
            pinned: pinned.iter().map(|policy| policy.agent().clone()).collect(),
            broken: index.broken(Fault::Denied),
            kept: index.broken(Fault::Kept),
            revision: watch.revision,
            loaded_at: watch.looked_at,
            heard: watch.heard,
            failing: watch.failing,
            switched_off: !self.is_on(),
        }
    }

    /// Names what is in force: the same in every process in which the same is.
    pub(crate) fn in_force(&self) -> [u8; 32] {
        self.shared.index.hash()
    }
}
