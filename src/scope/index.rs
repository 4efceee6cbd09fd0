//! Everything that is in force: read without a lock, changed in one swap.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};

use super::engine::{Compiled, Known, Stored};
use super::follow::{Found, Read};
use super::model::{PolicyHash, ScopePolicy};
use crate::canon::Fields;
use crate::ids::AgentId;
use crate::store::PolicyChanges;

/// How many shards. Registering one of a million agents copies four thousand pairs of pointers.
const SHARDS: usize = 256;

type Shard = HashMap<AgentId, Arc<Stored>, RandomState>;

/// What is known of every agent.
#[derive(Debug)]
pub(super) struct Index {
    table: ArcSwap<Table>,
    place: RandomState,
    /// Held by whoever makes the next table. Checks never wait for it.
    writing: Mutex<()>,
}

/// What is in force at one moment.
#[derive(Debug)]
struct Table {
    shards: Box<[Arc<Shard>]>,
    /// How many agents the shards hold.
    stored: usize,
    /// The agents whose stored policies cannot be read, and what is in force for them.
    broken: BTreeMap<AgentId, Fault>,
    pinned: Arc<HashMap<AgentId, Pinned, RandomState>>,
}

/// What is in force for an agent whose stored policy cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The last good version.
    Kept,
    /// Nothing: everything is denied.
    Denied,
}

#[derive(Clone, Debug)]
struct Pinned {
    policy: ScopePolicy,
    compiled: Arc<Compiled>,
    hash: PolicyHash,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            table: ArcSwap::from_pointee(Table {
                shards: (0..SHARDS).map(|_| Arc::default()).collect(),
                stored: 0,
                broken: BTreeMap::new(),
                pinned: Arc::default(),
            }),
            place: RandomState::default(),
            writing: Mutex::new(()),
        }
    }

    /// Looks at what is known of `agent`. Takes no lock and allocates nothing.
    pub(super) fn with<T>(&self, agent: &AgentId, look: impl FnOnce(Known<'_>) -> T) -> T {
        let table = self.table.load();
        let shard = table.shards.get(self.place_of(agent));
        let stored = shard.and_then(|shard| shard.get(agent.as_str()));
        // Most programs pin nothing, and need not look.
        let pinned = if table.pinned.is_empty() {
            None
        } else {
            table.pinned.get(agent.as_str())
        };
        look(Known {
            pinned: pinned.map(|pinned| &*pinned.compiled),
            stored: stored.map(Arc::as_ref),
        })
    }

    /// Takes what was read into force, all of it in one swap; says loudly what cannot be read.
    ///
    /// A broken policy leaves the last good one of its agent in force, if this process has seen one.
    pub(super) fn apply(&self, changes: PolicyChanges<Option<Read>>) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load_full();
        // A shard is copied when something in it changes; where everything is read again, none is.
        let mut shards: Vec<Option<Shard>> = if changes.whole {
            (0..SHARDS).map(|_| Some(Shard::default())).collect()
        } else {
            (0..SHARDS).map(|_| None).collect()
        };
        let mut broken = BTreeMap::new();
        if !changes.whole {
            broken.clone_from(&old.broken);
        }
        for Read { agent, found } in changes.rows.into_iter().flatten() {
            let place = self.place_of(&agent);
            let (Some(shard), Some(before)) = (shards.get_mut(place), old.shards.get(place)) else {
                continue;
            };
            let shard = shard.get_or_insert_with(|| Shard::clone(before));
            broken.remove(agent.as_str());
            let stored = match found {
                Found::Gone => {
                    shard.remove(agent.as_str());
                    continue;
                }
                Found::Policy(policy) => Stored::Policy(policy),
                Found::Broken(error) => {
                    let last = shard.get(agent.as_str()).or(before.get(agent.as_str()));
                    let kept = last.map_or(Stored::Broken, Stored::last_good);
                    let fault = if kept.policy().is_some() {
                        tracing::error!(%agent, %error, "a stored scope policy cannot be read: the last good version stays in force");
                        Fault::Kept
                    } else {
                        tracing::error!(%agent, %error, "a stored scope policy cannot be read: the agent is denied everything");
                        Fault::Denied
                    };
                    broken.insert(agent.clone(), fault);
                    kept
                }
            };
            shard.insert(agent, Arc::new(stored));
        }
        let shards: Box<[Arc<Shard>]> = shards
            .into_iter()
            .zip(&old.shards)
            .map(|(new, old)| new.map_or_else(|| Arc::clone(old), Arc::new))
            .collect();
        self.table.store(Arc::new(Table {
            stored: shards.iter().map(|shard| shard.len()).sum(),
            shards,
            broken,
            pinned: Arc::clone(&old.pinned),
        }));
    }

    /// Takes a policy of the program's own into force, beside what is stored.
    pub(super) fn pin(&self, policy: ScopePolicy, hash: PolicyHash) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load_full();
        let mut pinned = HashMap::clone(&old.pinned);
        let compiled = Arc::new(Compiled::new(&policy));
        let agent = policy.agent().clone();
        let pin = Pinned {
            policy,
            compiled,
            hash,
        };
        pinned.insert(agent, pin);
        self.table.store(Arc::new(Table {
            shards: old.shards.clone(),
            stored: old.stored,
            broken: old.broken.clone(),
            pinned: Arc::new(pinned),
        }));
    }

    /// How many agents have a stored policy.
    pub(super) fn stored(&self) -> usize {
        self.table.load().stored
    }

    /// The pinned policies, in the order of their agents.
    pub(super) fn pinned(&self) -> Vec<ScopePolicy> {
        let table = self.table.load();
        let mut pinned: Vec<_> = table
            .pinned
            .values()
            .map(|pin| pin.policy.clone())
            .collect();
        pinned.sort_unstable_by(|a, b| a.agent().cmp(b.agent()));
        pinned
    }

    /// The agents whose stored policies cannot be read, in order.
    pub(super) fn broken(&self, what: Fault) -> Vec<AgentId> {
        let table = self.table.load();
        let of = table.broken.iter().filter(|(_, fault)| **fault == what);
        of.map(|(agent, _)| agent.clone()).collect()
    }

    /// Names everything that is in force, the same in every process that has it in force. From the
    /// hashes of the policies, which the trail has too.
    pub(super) fn hash(&self) -> [u8; 32] {
        let table = self.table.load_full();
        let mut all: Vec<(&str, &str, &[u8])> = Vec::with_capacity(table.stored);
        for (agent, stored) in table.shards.iter().flat_map(|shard| shard.iter()) {
            let (origin, hash) = match &**stored {
                Stored::Policy(policy) => ("stored", &policy.hash[..]),
                Stored::Kept(_) => ("kept", stored.hash()),
                Stored::Broken => ("broken", stored.hash()),
            };
            all.push((agent.as_str(), origin, hash));
        }
        for (agent, pin) in &*table.pinned {
            all.push((agent.as_str(), "pinned", &pin.hash));
        }
        all.sort_unstable();
        let mut hash = Sha256::new();
        let mut fields = Fields::labelled("");
        for (agent, origin, policy) in all {
            fields.restart("portcullis/scope-in-force/v1");
            fields
                .present(agent.as_bytes())
                .present(origin.as_bytes())
                .present(policy);
            hash.update(fields.as_bytes());
        }
        hash.finalize().into()
    }

    // The middle bits: the tables within use the low and the high ones.
    #[expect(clippy::cast_possible_truncation, reason = "eight bits are wanted")]
    fn place_of(&self, agent: &AgentId) -> usize {
        usize::from((self.place.hash_one(agent.as_str()) >> 32) as u8)
    }
}
