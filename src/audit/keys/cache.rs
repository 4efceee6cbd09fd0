//! Derived keys that were used lately, so that a call does not derive its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::{MacKey, Purpose};
use crate::ids::TenantId;

/// The most keys that are kept. Past it the one used longest ago goes, and is wiped as it does.
const MOST: usize = 1_024;
/// How many of them are found without a lock: those of one tenant, as a rule.
const AT_HAND: usize = 16;

/// Which key: whose, under which secret, for what.
type Name = (TenantId, u32, Purpose);

#[derive(Default)]
pub(super) struct Cache {
    /// The ones asked for last, for every call's digests.
    at_hand: ArcSwap<Vec<(Name, MacKey)>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    keys: HashMap<Name, (MacKey, u64)>,
    /// Counts the uses.
    clock: u64,
}

impl Cache {
    /// The key of `tenant` under the secret `key_id` for `purpose`, made by `derive` if it is not here.
    pub(super) fn get(
        &self,
        (tenant, key_id, purpose): (&TenantId, u32, Purpose),
        derive: impl FnOnce() -> MacKey,
    ) -> MacKey {
        let at_hand = self.at_hand.load();
        let found = at_hand
            .iter()
            .find(|((whose, id, what), _)| *id == key_id && *what == purpose && whose == tenant);
        if let Some((_, key)) = found {
            return key.clone();
        }
        let name = (tenant.clone(), key_id, purpose);
        let key = self.get_kept(name.clone(), derive);
        self.at_hand.rcu(|before| {
            let others = before.iter().filter(|(other, _)| *other != name);
            let first = std::iter::once((name.clone(), key.clone()));
            Arc::new(
                first
                    .chain(others.cloned())
                    .take(AT_HAND)
                    .collect::<Vec<_>>(),
            )
        });
        key
    }

    fn get_kept(&self, name: Name, derive: impl FnOnce() -> MacKey) -> MacKey {
        // Nothing under the lock can panic half-way through a change.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clock = kept.clock.wrapping_add(1);
        let now = kept.clock;
        if let Some((key, used)) = kept.keys.get_mut(&name) {
            *used = now;
            return key.clone();
        }
        if kept.keys.len() >= MOST {
            let oldest = kept.keys.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                kept.keys.remove(&oldest);
            }
        }
        let key = derive();
        kept.keys.insert(name, (key.clone(), now));
        key
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().unwrap().keys.len()
    }
}
