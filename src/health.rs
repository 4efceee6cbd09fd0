//! What is looked at to say that all is well.

use crate::audit::AuditStats;
use crate::audit::anchor::AnchorHealth;
use crate::governance::Governance;
use crate::halt::HaltStatus;
use crate::scope::ScopeStatus;
use crate::store::{StoreError, StoreHealth};

impl Governance {
    /// Looks at everything that must hold, now.
    pub async fn health(&self) -> Health {
        Health {
            store: self.store().health().await,
            audit: self.audit().stats(),
            anchors: self.audit().anchor_health(),
            halt: self.halt().status(),
            scope: self.scope().status(),
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
}

impl Health {
    /// Whether all is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let audit = &self.audit;
        self.store.as_ref().is_ok_and(StoreHealth::is_ok)
            && audit.lost == 0
            && audit.unsigned == 0
            && audit.unsigned_heads == 0
            && audit.quarantined == 0
            && audit.outbox_refused == 0
            && !audit.degraded
            && self.halt.is_ok()
            && self.scope.is_ok()
            && self.anchors.iter().all(AnchorHealth::is_ok)
    }
}
