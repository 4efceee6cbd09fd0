//! All loaded policies: read without a lock, changed a shard at a time.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::engine::Known;
use crate::ids::AgentId;

/// How many shards. Registering one of a million agents copies four thousand pairs of pointers.
const SHARDS: usize = 256;

type Shard = HashMap<AgentId, Arc<Known>, RandomState>;

/// What is known of every agent.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[ArcSwap<Shard>]>,
    place: RandomState,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            place: RandomState::default(),
        }
    }

    /// Looks at what is known of `agent`. Takes no lock and allocates nothing.
    pub(super) fn with<T>(&self, agent: &AgentId, look: impl FnOnce(Option<&Known>) -> T) -> T {
        match self.shards.get(self.place_of(agent)) {
            Some(shard) => look(shard.load().get(agent.as_str()).map(Arc::as_ref)),
            None => look(None),
        }
    }

    /// Sets or removes what is known of some agents; of the others nothing changes. One writer at
    /// a time: the caller holds the lock.
    pub(super) fn change(&self, changes: Vec<(AgentId, Option<Known>)>) {
        let mut by_shard: HashMap<usize, Vec<_>> = HashMap::new();
        for change in changes {
            let place = self.place_of(&change.0);
            by_shard.entry(place).or_default().push(change);
        }
        for (place, changes) in by_shard {
            let Some(slot) = self.shards.get(place) else {
                continue;
            };
            let mut shard = Shard::clone(&slot.load());
            for (agent, known) in changes {
                match known {
                    Some(known) => shard.insert(agent, Arc::new(known)),
                    None => shard.remove(&agent),
                };
            }
            slot.store(Arc::new(shard));
        }
    }

    /// Replaces everything. One writer at a time: the caller holds the lock.
    pub(super) fn replace(&self, all: Vec<(AgentId, Known)>) {
        let mut shards: Vec<Shard> = (0..SHARDS).map(|_| Shard::default()).collect();
        for (agent, known) in all {
            if let Some(shard) = shards.get_mut(self.place_of(&agent)) {
                shard.insert(agent, Arc::new(known));
            }
        }
        for (slot, shard) in self.shards.iter().zip(shards) {
            slot.store(Arc::new(shard));
        }
    }

    /// How many agents are known.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    /// The agents whose policies cannot be read, in order.
    pub(super) fn broken(&self) -> Vec<AgentId> {
        let mut broken = Vec::new();
        for shard in &self.shards {
            for (agent, known) in shard.load().iter() {
                if matches!(**known, Known::Broken) {
                    broken.push(agent.clone());
                }
            }
        }
        broken.sort_unstable();
        broken
    }

    // The middle bits: the tables within use the low and the high ones.
    #[expect(clippy::cast_possible_truncation, reason = "eight bits are wanted")]
    fn place_of(&self, agent: &AgentId) -> usize {
        usize::from((self.place.hash_one(agent.as_str()) >> 32) as u8)
    }
}
