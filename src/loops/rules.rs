//! Which policies apply to an agent: those pinned in the code of this process and those stored, both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::error::InvalidLoopPolicy;
use super::model::{LoopPolicy, Rule, WhenAway};
use super::windows::Both;
use crate::audit::sha256;
use crate::ids::AgentId;
use crate::store::{PolicyChanges, PolicyRow, hash_in_force};

/// The name of the policy for any agent, which is no agent's.
const ANY: &str = "*";

/// The rules of one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    of: HashMap<AgentId, Arc<Rule>, RandomState>,
    /// For agents that have none of their own.
    others: Option<Arc<Rule>>,
    /// The names of stored policies that cannot be read.
    broken: BTreeSet<String>,
    /// The hash of each policy, by its name.
    hashes: BTreeMap<String, [u8; 32]>,
}

/// A stored policy, as it was read.
#[derive(Debug)]
pub(super) struct Read {
    name: String,
    /// `None`: it was removed.
    policy: Option<Result<LoopPolicy, InvalidLoopPolicy>>,
}

/// Under which name a policy is stored.
pub(super) fn name_of(agent: Option<&AgentId>) -> String {
    agent.map_or(ANY, |agent| agent.as_str()).to_owned()
}

pub(super) fn read(row: PolicyRow) -> Read {
    let named = |policy: LoopPolicy| {
        // Under another name it would be another agent's.
        let right = name_of(policy.agent()) == row.name;
        right.then_some(policy).ok_or(InvalidLoopPolicy {
            field: "agent",
            problem: "is not the one that the policy is stored for; register it again",
        })
    };
    let policy = row
        .document
        .map(|text| LoopPolicy::from_document(&text).and_then(named));
    Read {
        name: row.name,
        policy,
    }
}

impl Layer {
    fn apply(&mut self, Read { name, policy }: Read) {
        self.broken.remove(&name);
        let agent = AgentId::parse(&name).ok();
        if agent.is_none() && name != ANY {
            tracing::error!("a stored loop policy has an agent id that is none");
            return;
        }
        let error = match policy {
            None => {
                self.remove(agent.as_ref());
                return;
            }
            Some(Ok(policy)) => match self.set(&policy) {
                Ok(()) => return,
                Err(error) => error,
            },
            Some(Err(error)) => error,
        };
        let known = agent.as_ref().map_or(self.others.is_some(), |agent| {
            self.of.contains_key(agent.as_str())
        });
        tracing::error!(agent = name, %error, known, "a stored loop policy cannot be read; its last good version applies, or else the defaults");
        if !known {
            // What an operator wrote is not known: the defaults, which refuse.
            let stand_in = agent.map_or_else(LoopPolicy::for_any_agent, LoopPolicy::new);
            let _ = self.set(&stand_in);
        }
        self.broken.insert(name);
    }

    pub(super) fn set(&mut self, policy: &LoopPolicy) -> Result<(), InvalidLoopPolicy> {
        let rule = Arc::new(policy.compile()?);
        let hash = sha256(policy.document().as_bytes());
        self.hashes.insert(name_of(policy.agent()), hash);
        match policy.agent() {
            Some(agent) => drop(self.of.insert(agent.clone(), rule)),
            None => self.others = Some(rule),
        }
        Ok(())
    }

    fn remove(&mut self, agent: Option<&AgentId>) {
        self.hashes.remove(&name_of(agent));
        match agent {
            Some(agent) => drop(self.of.remove(agent.as_str())),
            None => self.others = None,
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

/// How sessions are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) when_away: WhenAway,
    /// How far back calls count, in microseconds.
    pub(super) window: i64,
}

impl Shared {
    /// Of two rules, refusing is the stricter.
    fn of(both: Both<'_>) -> Option<Self> {
        let of = |rule: &&Rule| {
            let window = rule.window;
            rule.shared.map(|when_away| Self { when_away, window })
        };
        let stricter = |one: Self, other: Self| Self {
            when_away: if other.when_away == WhenAway::Refuse {
                WhenAway::Refuse
            } else {
                one.when_away
            },
            window: one.window.max(other.window),
        };
        both.iter().flatten().filter_map(of).reduce(stricter)
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

    /// Whether anything applies to `agent`; and if its sessions are shared, how strictly.
    #[expect(clippy::option_option, reason = "the two questions are asked together")]
    pub(super) fn applies(&self, agent: &AgentId) -> Option<Option<Shared>> {
        self.with(agent, |both| {
            let any = both.iter().flatten().next().is_some();
            any.then(|| Shared::of(both))
        })
    }

    /// Whether the sessions of `agent` are shared, and how strictly.
    pub(super) fn shared(&self, agent: &AgentId) -> Option<Shared> {
        self.applies(agent).flatten()
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

    /// Takes into force what changed of what is stored, at once. One writer at a time: the watch.
    pub(super) fn apply(&self, changes: PolicyChanges<Read>) {
        let before = self.stored.load();
        let mut layer = Layer::clone(&before);
        if changes.whole {
            // What is gone goes; a broken one that is still there keeps its last good version.
            let there: BTreeSet<&str> = changes.rows.iter().map(|row| row.name.as_str()).collect();
            layer.of.retain(|agent, _| there.contains(agent.as_str()));
            layer.broken.retain(|name| there.contains(name.as_str()));
            layer.hashes.retain(|name, _| there.contains(name.as_str()));
            if !there.contains(ANY) {
                layer.others = None;
            }
        }
        for row in changes.rows {
            layer.apply(row);
        }
        self.stored.store(Arc::new(layer));
    }

    /// The names of stored policies that cannot be read.
    pub(super) fn broken(&self) -> Vec<String> {
        self.stored.load().broken.iter().cloned().collect()
    }

    /// Names everything that is in force.
    pub(super) fn hash(&self) -> [u8; 32] {
        let (pinned, stored) = (self.pinned.load(), self.stored.load());
        let all = [("pinned", &pinned), ("stored", &stored)]
            .into_iter()
            .flat_map(|(origin, layer)| {
                layer.hashes.iter().map(move |(name, hash)| {
                    let is_broken = layer.broken.contains(name);
                    (
                        name.as_str(),
                        if is_broken { "broken" } else { origin },
                        &hash[..],
                    )
                })
            });
        hash_in_force("portcullis/loops-in-force/v1", all.collect())
    }

    /// How many policies are in force: pinned, stored.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.pinned.load().len(), self.stored.load().len())
    }
}
