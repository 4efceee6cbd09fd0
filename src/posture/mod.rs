//! What protects, and how: for an operator's eyes, for evidence, and for
//! [`strict`](crate::GovernanceBuilder::strict).

mod lines;
mod model;

pub use model::{
    Freshness, GatePosture, GrantsPosture, Loaded, Posture, StoreAway, TrailPosture, Unprotected,
};

use crate::governance::Governance;
use crate::store::{StoreError, StoreHealth};
use crate::time::Timestamp;

/// What was found when the database was last asked how things stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLook {
    grants: Option<GrantsPosture>,
    pub(crate) checkpoint_at: Option<Timestamp>,
}

impl Governance {
    /// Every gate in the order in which it is asked: what it does while the store is away, what is
    /// loaded, and what is missing; and how the trail stands. From memory: nobody is asked.
    ///
    /// Naming what is loaded takes a second where there are a million policies.
    #[must_use]
    pub fn posture(&self) -> Posture {
        let LastLook {
            grants,
            checkpoint_at,
        } = self.last_look().clone();
        let stats = self.audit().stats();
        Posture {
            // A module that decides has its line here.
            gates: vec![
                self.halt_line(),
                self.scope_line(),
                self.loops_line(),
                self.contracts_line(),
                self.approval_line(),
                self.cost_line(),
                self.evidence_line(),
            ],
            trail: TrailPosture {
                committed_at: stats.committed_at,
                waiting: stats.waiting,
                degraded: stats.degraded,
                journal_depth: stats.depth,
                oldest_undrained: stats.oldest_undrained,
                checkpoint_at,
                anchors: self.audit().anchor_health(),
            },
            coverage: self.coverage().status(),
            grants,
            switched_off: self.switches().off().collect(),
            strict: self.settings().strict,
        }
    }

    /// Asks the database how things stand, and remembers what posture is to say of it.
    pub(crate) async fn look(&self) -> Result<StoreHealth, StoreError> {
        let health = self.store().health().await;
        self.cost().look().await;
        let backlog = self.audit().backlog().await;
        let now = self.store().now();
        let mut last = self.last_look();
        if let Ok(health) = &health {
            let grants = health.checks.iter().find(|check| check.name == "grants");
            last.grants = grants.map(|check| GrantsPosture {
                ok: check.ok,
                detail: check.detail.clone(),
                at: now,
            });
        }
        if let Ok((_, age)) = backlog {
            let age = age.and_then(|millis| i64::try_from(millis).ok());
            last.checkpoint_at = age.map(|millis| {
                let micros = millis.saturating_mul(1_000);
                Timestamp::from_micros(now.as_micros().saturating_sub(micros))
            });
        }
        health
    }

    /// Refuses, if the builder was told to be strict, what does not protect.
    pub(crate) async fn hold_to_strict(&self) -> Result<(), Unprotected> {
        if !self.settings().strict {
            return Ok(());
        }
        let mut missing = self.posture().missing();
        if let Err(error) = self.audit().prepare_journal().await {
            missing.push(format!("audit: the journal cannot be used: {error}"));
        }
        match self.look().await {
            Ok(health) => {
                let failed = health.checks.into_iter().filter(|check| !check.ok);
                missing.extend(failed.map(|check| format!("{}: {}", check.name, check.detail)));
            }
            Err(error) => missing.push(error.to_string()),
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Unprotected { missing })
        }
    }
}
