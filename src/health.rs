//! What is looked at to say that all is well.

use crate::audit::AuditStats;
use crate::audit::anchor::AnchorHealth;
use crate::contracts::ContractsStatus;
use crate::cost::CostStatus;
use crate::coverage::CoverageStatus;
use crate::gates::GatesStatus;
use crate::governance::Governance;
use crate::halt::HaltStatus;
use crate::loops::LoopStatus;
use crate::presence::PresenceStats;
use crate::scope::ScopeStatus;
use crate::store::{StoreError, StoreHealth};
use crate::time::Timestamp;

impl Governance {
    /// Looks at everything that must hold, now.
    pub async fn health(&self) -> Health {
        // First: what it finds is part of what posture says.
        let store = self.look().await;
        Health {
            store,
            audit: self.audit().stats(),
            anchors: self.audit().anchor_health(),
            halt: self.halt().status(),
            scope: self.scope().status(),
            loops: self.loops().status(),
            gates: self.gates().status(),
            cost: self.cost().status(),
            presence: self.presence().stats(),
            coverage: self.coverage().status(),
            contracts: self.contracts().status(),
            checkpoint_at: self.last_look().checkpoint_at,
        }
    }
}

/// What [`Governance::health`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The database: tables, triggers, grants, clock, pool; an error if it could not be asked.
    pub store: Result<StoreHealth, StoreError>,
    /// The audit writer: how much it wrote, what waits in the journal, what was lost, and what in the
    /// outbox is not ours.
    pub audit: AuditStats,
    /// Where checkpoints are kept outside of the database, as the last look found it.
    pub anchors: Vec<AnchorHealth>,
    /// What is halted, how old that is, and whether changes are heard.
    pub halt: HaltStatus,
    /// The scope policies: which stored ones cannot be read, and since when none could be.
    pub scope: ScopeStatus,
    /// The loop policies, and whether loops may have gone unseen.
    pub loops: LoopStatus,
    /// The approval policies: which stored ones cannot be read.
    pub gates: GatesStatus,
    /// The cost gate: whether leases that ran out are found, and whether what was spent is reported.
    pub cost: CostStatus,
    /// What became of heartbeats.
    pub presence: PresenceStats,
    /// The wrapped clients, and whether calls went uncounted.
    pub coverage: CoverageStatus,
    /// The contracts: which stored ones cannot be read, and which checks are not defined here.
    pub contracts: ContractsStatus,
    /// When the newest checkpoint was made, of any process; `None` if there is none, or it could not be
    /// asked for.
    pub checkpoint_at: Option<Timestamp>,
}

impl Health {
    /// Whether all is well: the database, the trail, and every module that is on.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.store.as_ref().is_ok_and(StoreHealth::is_ok)
            && self.trail_is_ok()
            && self.halt.is_ok()
            && self.scope.is_ok()
            && self.loops.is_ok()
            && self.gates.is_ok()
            && self.contracts.is_ok()
            && self.cost.is_ok()
            && self.presence.is_ok()
            && self.coverage.is_ok()
    }

    fn trail_is_ok(&self) -> bool {
        let audit = &self.audit;
        audit.lost == 0
            && audit.unsigned == 0
            && audit.unsigned_heads == 0
            && audit.quarantined == 0
            && audit.outbox_refused == 0
            && !audit.degraded
            && self.anchors.iter().all(AnchorHealth::is_ok)
    }
}
