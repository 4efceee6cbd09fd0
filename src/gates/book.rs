//! The approval policies that are in force: read without a lock, changed all at once.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::approver::fold;
use super::policy::ApprovalPolicy;
use crate::ids::AgentId;
use crate::store::{PolicyChanges, PolicyRow};

/// What is known of an agent's policy.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Policy(Arc<InForce>),
    /// What is stored cannot be read, and nothing that could be was seen before.
    Broken,
}

/// A policy, and the hash that an approval under it is bound to.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) policy: ApprovalPolicy,
    pub(super) hash: String,
}

type Map = HashMap<AgentId, Known, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
pub(super) struct Book {
    held: ArcSwap<Map>,
}

/// One row, as it was read.
pub(super) type Read = (AgentId, Option<Result<InForce, ()>>);

impl Book {
    pub(super) fn find(&self, agent: &AgentId) -> Option<Known> {
        self.held.load().get(agent.as_str()).cloned()
    }

    /// The policies in force, in the order of their agents.
    pub(super) fn all(&self) -> Vec<Arc<InForce>> {
        let held = self.held.load();
        let good = held.values().filter_map(|known| match known {
            Known::Policy(policy) => Some(Arc::clone(policy)),
            Known::Broken => None,
        });
        let mut all: Vec<_> = good.collect();
        all.sort_unstable_by(|a, b| a.policy.agent().cmp(b.policy.agent()));
        all
    }

    /// The agents that may do nothing, because what is stored of them cannot be read.
    pub(super) fn broken(&self) -> Vec<AgentId> {
        let held = self.held.load();
        let broken = held
            .iter()
            .filter(|(_, known)| matches!(known, Known::Broken));
        let mut all: Vec<_> = broken.map(|(agent, _)| agent.clone()).collect();
        all.sort_unstable();
        all
    }

    /// Whether an agent that has a policy is named like that.
    pub(super) fn names(&self, folded: &str) -> bool {
        let held = self.held.load();
        held.keys().any(|agent| fold(agent.as_str()) == folded)
    }

    /// One stored row, read with the same eyes as a new policy; `None` if its name is no agent's.
    pub(super) fn read(row: &PolicyRow) -> Option<Read> {
        let Ok(agent) = AgentId::parse(&row.name) else {
            // No principal can have this id, so nothing has to be held back.
            tracing::error!("a stored approval policy has an agent id that is none");
            return None;
        };
        let read = row.document.as_ref().map(|text| {
            ApprovalPolicy::from_document(&agent, text)
                .map(|(policy, hash)| InForce { policy, hash })
                .map_err(|error| {
                    tracing::error!(%agent, %error, "a stored approval policy cannot be read: what was in force stays, and without any the agent may do nothing");
                })
        });
        Some((agent, read))
    }

    /// Takes what changed into force, together.
    pub(super) fn apply(&self, changes: PolicyChanges<Option<Read>>) {
        let before = self.held.load_full();
        let mut next = if changes.whole {
            Map::default()
        } else {
            Map::clone(&before)
        };
        for (agent, read) in changes.rows.into_iter().flatten() {
            match read {
                None => drop(next.remove(agent.as_str())),
                Some(Ok(policy)) => drop(next.insert(agent, Known::Policy(Arc::new(policy)))),
                Some(Err(())) => {
                    let last = before.get(agent.as_str()).cloned();
                    next.insert(agent, last.unwrap_or(Known::Broken));
                }
            }
        }
        self.held.store(Arc::new(next));
    }
}
