//! Which slices a caller spends from, found without a lock.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::hold::Hold;
use super::slice::Amounts;
use super::{Asked, slice};
use crate::call::Principal;
use crate::cost::price::Price;
use crate::ids::ModelName;
use crate::money::Usd;

/// The most slices that one call is charged to; what is leased beyond them is charged by statement.
pub(super) const MOST_SHARES: usize = 4;
/// In how many parts plans are kept, each of which is copied to be changed.
const SHARDS: usize = 64;
/// The most plans of a part; beyond it they are made anew.
const MOST_PLANS: usize = 1_024;

/// What the calls of one caller are charged to.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Plan {
    pub(super) who: Principal,
    /// Of which model the calls are: some budgets are for one.
    pub(super) model: Option<ModelName>,
    /// Plans of an earlier generation are made anew.
    pub(super) generation: u64,
    pub(super) shares: Vec<Share>,
    /// Whether there are limits besides, which are charged by statement.
    pub(super) others: bool,
}

impl Plan {
    pub(super) const fn who(&self) -> &Principal {
        &self.who
    }

    /// Whether its slices may be spent from.
    pub(super) fn is_alive(&self) -> bool {
        !self.shares.is_empty() && self.shares.iter().all(|share| !share.hold.is_dead())
    }

    /// Whether it is for calls of `model`, and of this generation.
    pub(super) fn is_for(&self, model: Option<&ModelName>, generation: u64) -> bool {
        self.generation == generation && self.model.as_ref() == model
    }
}

/// One leased limit.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) hold: Arc<Hold>,
    /// Whether it needs a price, if the call is of a model.
    pub(super) allows: bool,
    pub(super) usd_limited: bool,
    pub(super) fallback: Option<Price>,
}

impl Share {
    /// What `asked` comes to here; `None` where the statement must say why not.
    pub(super) fn amounts(&self, asked: &Asked<'_>) -> Option<Amounts> {
        let usd = match (asked.usd, self.fallback) {
            (Some(usd), _) => usd,
            (None, Some(price)) => {
                let split = &asked.split;
                of_split(&price, split.input, split.output, split.either)?
            }
            (None, None) if !self.allows || (asked.model.is_none() && !self.usd_limited) => {
                Usd::ZERO
            }
            (None, None) => return None,
        };
        let tokens = i64::try_from(asked.tokens).ok()?;
        let most = usd.as_nanos().max(tokens);
        (most <= slice::MOST).then_some([usd.as_nanos(), tokens, 1])
    }
}

/// Tokens at a fallback price, as the admitting statement prices them.
pub(super) fn of_split(price: &Price, input: u64, output: u64, either: u64) -> Option<Usd> {
    let dearest = price.input.max(price.output);
    let parts = [
        (price.input, input),
        (price.output, output),
        (dearest, either),
    ];
    parts
        .into_iter()
        .try_fold(Usd::ZERO, |sum, (price, tokens)| {
            sum.checked_add(price.per_million(tokens)?)
        })
}

/// The plans of all callers.
#[derive(Debug)]
pub(super) struct Plans {
    shards: Vec<ArcSwap<HashMap<u64, Arc<Plan>, Known>>>,
    hash: foldhash::quality::RandomState,
}

/// The key is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known(u64);

impl std::hash::BuildHasher for Known {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for Known {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Plans {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            hash: foldhash::quality::RandomState::default(),
        }
    }

    /// The plan of `who`, if there is one of this generation.
    pub(super) fn find(
        &self,
        who: &Principal,
        model: Option<&ModelName>,
        generation: u64,
    ) -> Option<Arc<Plan>> {
        let plan = self.find_any(who, model)?;
        (plan.generation == generation).then_some(plan)
    }

    /// The plan of `who`, although budgets may have changed since it was made.
    pub(super) fn find_any(&self, who: &Principal, model: Option<&ModelName>) -> Option<Arc<Plan>> {
        let hash = self.hash(who, model);
        let plans = self.shard(hash)?.load();
        let plan = plans.get(&hash)?;
        (plan.model.as_ref() == model && plan.who == *who).then(|| Arc::clone(plan))
    }

    pub(super) fn keep(&self, plan: &Arc<Plan>) {
        let hash = self.hash(&plan.who, plan.model.as_ref());
        let Some(shard) = self.shard(hash) else {
            return;
        };
        shard.rcu(|plans| {
            let mut plans = if plans.len() < MOST_PLANS {
                HashMap::clone(plans)
            } else {
                HashMap::default()
            };
            plans.retain(|_, kept| kept.generation == plan.generation || kept.is_alive());
            plans.insert(hash, Arc::clone(plan));
            plans
        });
    }

    fn hash(&self, who: &Principal, model: Option<&ModelName>) -> u64 {
        let mut hasher = self.hash.build_hasher();
        hasher.write(who.agent_id().as_str().as_bytes());
        hasher.write(who.session_id().as_str().as_bytes());
        if let Some(model) = model {
            hasher.write(model.as_str().as_bytes());
        }
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> Option<&ArcSwap<HashMap<u64, Arc<Plan>, Known>>> {
        let at = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        self.shards.get(at)
    }
}
