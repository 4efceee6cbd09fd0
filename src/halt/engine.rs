//! What is halted, made ready for look-ups, and the pure decision.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::error::Halted;
use super::model::{Order, Target};
use crate::call::Principal;
use crate::ids::{AgentId, SessionId};

/// What is halted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    everything: Option<Arc<Order>>,
    tenant: Option<Arc<Order>>,
    agents: HashMap<AgentId, OfAgent, RandomState>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct OfAgent {
    whole: Option<Arc<Order>>,
    sessions: HashMap<SessionId, Arc<Order>, RandomState>,
}

impl Known {
    /// Of two halts of one target the first counts.
    pub(super) fn new<'o>(orders: impl Iterator<Item = &'o Arc<Order>>) -> Self {
        let mut known = Self::default();
        for order in orders {
            let order = Arc::clone(order);
            match &order.target {
                Target::Everything => drop(known.everything.get_or_insert(order)),
                Target::Tenant => drop(known.tenant.get_or_insert(order)),
                Target::Agent(agent) => {
                    let of = known.agents.entry(agent.clone()).or_default();
                    of.whole.get_or_insert(order);
                }
                Target::Session(agent, session) => {
                    let of = known.agents.entry(agent.clone()).or_default();
                    let session = session.clone();
                    of.sessions.entry(session).or_insert(order);
                }
            }
        }
        known
    }

    pub(super) fn is_empty(&self) -> bool {
        self.everything.is_none() && self.tenant.is_none() && self.agents.is_empty()
    }

    /// Every halt, in no order.
    pub(super) fn orders(&self) -> impl Iterator<Item = &Arc<Order>> {
        let all = self.everything.iter().chain(&self.tenant);
        let agents = self.agents.values();
        all.chain(agents.flat_map(|of| of.whole.iter().chain(of.sessions.values())))
    }

    /// The halt that stops an agent in a session, whoever started it.
    pub(super) fn of(&self, agent: &AgentId, session: &SessionId) -> Option<&Arc<Order>> {
        let all = self.everything.as_ref().or(self.tenant.as_ref());
        all.or_else(|| {
            let of = self.agents.get(agent)?;
            of.whole.as_ref().or_else(|| of.sessions.get(session))
        })
    }

    /// Decides; the one rule of this module. Who was started by what is halted is halted.
    pub(super) fn decide(&self, who: &Principal) -> Result<(), Halted> {
        let mut next = Some(who);
        let mut inherited = false;
        while let Some(one) = next {
            if let Some(order) = self.of(one.agent_id(), one.session_id()) {
                return Err(Halted::ordered(Arc::clone(order), inherited));
            }
            next = one.parent();
            inherited = true;
        }
        Ok(())
    }
}
