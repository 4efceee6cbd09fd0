//! Which policies apply to an agent: those pinned in the code of this process and those stored, both.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::error::InvalidLoopPolicy;
use super::model::{LoopPolicy, Rule, WhenAway};
use super::windows::Both;
use crate::ids::AgentId;

/// The rules of one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    of: HashMap<AgentId, Arc<Rule>, RandomState>,
    /// For agents that have none of their own.
    others: Option<Arc<Rule>>,
}

impl Layer {
    pub(super) fn set(&mut self, policy: &LoopPolicy) -> Result<(), InvalidLoopPolicy> {
        let rule = Arc::new(policy.compile()?);
        match policy.agent() {
            Some(agent) => drop(self.of.insert(agent.clone(), rule)),
            None => self.others = Some(rule),
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, agent: Option<&AgentId>) -> bool {
        match agent {
            Some(agent) => self.of.remove(agent).is_some(),
            None => self.others.take().is_some(),
        }
    }

    fn get(&self, agent: &AgentId) -> Option<&Rule> {
        let own = self.of.get(agent.as_str());
        own.or(self.others.as_ref()).map(Arc::as_ref)
    }

    fn len(&self) -> usize {
        self.of.len() + usize::from(self.others.is_some())
    }
}

/// Both layers. Read without a lock.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pinned: ArcSwap<Layer>,
    stored: ArcSwap<Layer>,
}

impl Rules {
    /// Looks at what applies to `agent`.
    pub(super) fn with<T>(&self, agent: &AgentId, look: impl FnOnce(Both<'_>) -> T) -> T {
        let (pinned, stored) = (self.pinned.load(), self.stored.load());
        look([pinned.get(agent), stored.get(agent)])
    }

    /// Whether the sessions of `agent` are shared, and how strictly: refusing is the stricter.
    pub(super) fn shared(&self, agent: &AgentId) -> Option<(WhenAway, i64)> {
        self.with(agent, |both| {
            let shared = |rule: &&Rule| rule.shared.map(|when| (when, rule.window));
            let mut all = both.iter().flatten().filter_map(shared);
            let first = all.next()?;
            Some(all.fold(first, |(when, time), (other, longer)| {
                let stricter = when == WhenAway::Refuse || other == WhenAway::Refuse;
                let when = if stricter { WhenAway::Refuse } else { when };
                (when, time.max(longer))
            }))
        })
    }

    /// Changes what is pinned.
    pub(super) fn pin<T>(&self, change: impl Fn(&mut Layer) -> T) -> T {
        let mut answer = None;
        self.pinned.rcu(|layer| {
            let mut layer = Layer::clone(layer);
            answer = Some(change(&mut layer));
            layer
        });
        answer.unwrap_or_else(|| change(&mut Layer::default()))
    }

    /// Replaces everything that is stored, at once.
    pub(super) fn replace_stored(&self, layer: Layer) {
        self.stored.store(Arc::new(layer));
    }

    /// How many policies are in force: pinned, stored.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.pinned.load().len(), self.stored.load().len())
    }
}
