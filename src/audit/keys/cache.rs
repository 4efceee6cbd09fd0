//! Derived keys that were used lately, so that a call does not derive its own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{MacKey, Purpose};
use crate::ids::TenantId;

/// The most keys that are kept. Past it the one used longest ago goes, and is wiped as it does.
const MOST: usize = 1_024;

/// Which key: whose, under which secret, for what.
type Name = (TenantId, u32, Purpose);

#[derive(Default)]
pub(super) struct Cache {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    keys: HashMap<Name, (MacKey, u64)>,
    /// Counts the uses.
    clock: u64,
}

impl Cache {
    /// The key `name`, made by `derive` if it is not here.
    pub(super) fn get(&self, name: Name, derive: impl FnOnce() -> MacKey) -> MacKey {
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
