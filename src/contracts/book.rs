//! Which contracts apply to a call: those registered in the code of this process and those stored, both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::declared::Named;
use super::error::InvalidContract;
use super::model::{Check, Condition, Contract, Promise};
use crate::audit::sha256;
use crate::call::Action;
use crate::ids::is_well_formed;
use crate::store::{PolicyChanges, PolicyRow, hash_in_force};

type All = BTreeMap<String, Arc<Contract>>;

/// The contracts of both layers, and the checks that they can name. Read without a lock.
#[derive(Debug, Default)]
pub(super) struct Book {
    pinned: ArcSwap<All>,
    stored: ArcSwap<Stored>,
    checks: ArcSwap<BTreeMap<String, Check>>,
}

/// What is stored.
#[derive(Clone, Debug, Default)]
struct Stored {
    contracts: All,
    /// Names of those that cannot be read. The last good version of some is in `contracts`.
    unreadable: BTreeSet<String>,
}

/// A stored contract, as it was read.
#[derive(Debug)]
pub(super) struct Read {
    name: String,
    /// `None`: it was removed.
    contract: Option<Result<Contract, InvalidContract>>,
}

pub(super) fn read(row: PolicyRow) -> Read {
    let named = |contract: Contract| {
        // Under another name it would be replaced and removed as another.
        let right = contract.name == row.name;
        right.then_some(contract).ok_or(InvalidContract {
            field: "name",
            problem: "is not the one that it is stored under; store it again",
        })
    };
    let contract = row
        .document
        .map(|text| Contract::from_json(&text).and_then(named));
    Read {
        name: row.name,
        contract,
    }
}

impl Stored {
    fn apply(&mut self, Read { name, contract }: Read) {
        self.unreadable.remove(&name);
        match contract {
            None => drop(self.contracts.remove(&name)),
            Some(Ok(contract)) => drop(self.contracts.insert(name, Arc::new(contract))),
            Some(Err(error)) => {
                let known = self.contracts.contains_key(&name);
                tracing::error!(contract = shown(&name), %error, known, "a stored contract cannot be read; its last good version applies, or else every call is refused");
                self.unreadable.insert(name);
            }
        }
    }
}

impl Book {
    /// Those that apply to calls of `action`.
    ///
    /// # Errors
    ///
    /// The name of a stored contract of which no good version is known: it may apply to any call.
    pub(super) fn of(&self, action: &Action) -> Result<Vec<Arc<Contract>>, String> {
        let (pinned, stored) = (self.pinned.load(), self.stored.load());
        if let Some(name) = stored.broken().next() {
            return Err(shown(name).to_owned());
        }
        let all = pinned.values().chain(stored.contracts.values());
        let of = all.filter(|contract| contract.applies_to(action));
        Ok(of.cloned().collect())
    }

    /// The check that goes by a name, with the deadline of who names it.
    pub(super) fn check(&self, named: &Named) -> Option<Check> {
        let checks = self.checks.load();
        let mut check = checks.get(&named.name)?.clone();
        if let Some(deadline) = named.deadline {
            check.deadline = check.deadline.min(deadline);
        }
        Some(check)
    }

    pub(super) fn define(&self, check: &Check) {
        self.checks.rcu(|checks| {
            let mut checks = BTreeMap::clone(checks);
            checks.insert(check.name.clone(), check.clone());
            checks
        });
    }

    pub(super) fn pin(&self, contract: Contract) {
        let contract = Arc::new(contract);
        self.pinned.rcu(|all| {
            let mut all = All::clone(all);
            all.insert(contract.name.clone(), Arc::clone(&contract));
            all
        });
    }

    /// Takes into force what changed of what is stored, at once. One writer at a time: the watch.
    pub(super) fn apply(&self, changes: PolicyChanges<Read>) {
        let mut stored = Stored::clone(&self.stored.load());
        if changes.whole {
            // What is gone goes; a broken one that is still there keeps its last good version.
            let there: BTreeSet<&str> = changes.rows.iter().map(|row| row.name.as_str()).collect();
            stored
                .contracts
                .retain(|name, _| there.contains(name.as_str()));
            stored
                .unreadable
                .retain(|name| there.contains(name.as_str()));
        }
        for row in changes.rows {
            stored.apply(row);
        }
        self.stored.store(Arc::new(stored));
    }

    pub(super) fn pinned(&self) -> Vec<String> {
        self.pinned.load().keys().cloned().collect()
    }

    pub(super) fn stored(&self) -> Vec<Contract> {
        let stored = self.stored.load();
        stored
            .contracts
            .values()
            .map(|one| Contract::clone(one))
            .collect()
    }

    /// Names of stored contracts that cannot be read: with a last good version, and without.
    pub(super) fn unreadable(&self) -> (Vec<String>, Vec<String>) {
        let stored = self.stored.load();
        let names = |name: &String| shown(name).to_owned();
        let kept = stored
            .unreadable
            .iter()
            .filter(|name| stored.contracts.contains_key(*name));
        (
            kept.map(names).collect(),
            stored.broken().map(names).collect(),
        )
    }

    /// The checks that contracts in force name and this process has not defined.
    pub(super) fn undefined(&self) -> Vec<String> {
        let (pinned, stored) = (self.pinned.load(), self.stored.load());
        let checks = self.checks.load();
        let all = pinned.values().chain(stored.contracts.values());
        let named: BTreeSet<&str> = all.flat_map(|contract| names(contract)).collect();
        let missing = named.into_iter().filter(|name| !checks.contains_key(*name));
        missing.map(str::to_owned).collect()
    }

    /// Names everything that is in force. Of checks that are code, the names are all that can be told.
    pub(super) fn hash(&self) -> [u8; 32] {
        let (pinned, stored) = (self.pinned.load(), self.stored.load());
        let of = |origin: &'static str, all: &All| -> Vec<(String, &'static str, [u8; 32])> {
            let one = |contract: &Arc<Contract>| {
                let hash = sha256(contract.written().as_bytes());
                (contract.name.clone(), origin, hash)
            };
            all.values().map(one).collect()
        };
        let mut all = of("pinned", &pinned);
        all.extend(of("stored", &stored.contracts));
        all.extend(
            stored
                .unreadable
                .iter()
                .map(|name| (name.clone(), "broken", [0; 32])),
        );
        let named = all
            .iter()
            .map(|(name, origin, hash)| (name.as_str(), *origin, &hash[..]));
        hash_in_force("portcullis/contracts-in-force/v1", named.collect())
    }
}

impl Stored {
    /// Those of which no good version is known.
    fn broken(&self) -> impl Iterator<Item = &String> {
        let unread = self.unreadable.iter();
        unread.filter(|name| !self.contracts.contains_key(*name))
    }
}

fn names(contract: &Contract) -> impl Iterator<Item = &str> {
    let before = contract
        .requires
        .iter()
        .filter_map(|condition| match condition {
            Condition::Named(named) => Some(named),
            _ => None,
        });
    let after = contract.ensures.iter().filter_map(|promise| match promise {
        Promise::Named(named) => Some(named),
        _ => None,
    });
    before.chain(after).map(|named| named.name.as_str())
}

/// The name of a row, which somebody may have written by hand.
fn shown(name: &str) -> &str {
    if is_well_formed(name) {
        name
    } else {
        "unnamed"
    }
}
