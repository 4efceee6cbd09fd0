//! Learning which key is current, before a chain is held.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::PgConnection;
use tokio::time::timeout;

use super::lane::{Lane, alone};
use super::outcome::{Failure, Fault};
use super::{Keys, Shared};
use crate::audit::keys::Purpose;
use crate::audit::rotate::{Choice, Locked, choose, to_store};
use crate::audit::store::keyring;
use crate::store::{StoreError, StoreFault};

const LEARN: &str = "learn the current audit key";
/// How often the keyring is looked at while others begin it.
const LOOKS: u32 = 4;

impl Lane<'_> {
    /// Makes sure that this lane writes under the tenant's current key, and begins the keyring of a
    /// tenant that has none.
    pub(super) async fn learn_key(&mut self) -> Result<(), Failure> {
        let shared = self.shared;
        let (store, ring) = (&shared.store, &shared.ring);
        let tenant = store.tenant();
        for _ in 0..LOOKS {
            let Some(connection) = self.connection.as_mut() else {
                return Err(Failure::unreachable(LEARN));
            };
            shared.stats.statement();
            let work = alone!(store, connection, keyring::fetch_current, tenant.as_str());
            let stored = Self::answer(LEARN, timeout(self.limit, work).await);
            let stored = Self::heed(&mut self.connection, stored)?;
            let known = shared.newest.load(Ordering::Acquire);
            match choose(ring, tenant, &stored, known).map_err(Failure::locked)? {
                Choice::Use(key_id) => {
                    shared.adopt(key_id);
                    shared.newest.fetch_max(key_id, Ordering::AcqRel);
                    self.keys = shared.keys.load_full();
                    return Ok(());
                }
                Choice::Begin(key_id) => {
                    let first = to_store(ring, tenant, key_id)
                        .ok_or(Locked::NotHeld { current: key_id })
                        .map_err(Failure::locked)?;
                    let Some(connection) = self.connection.as_mut() else {
                        return Err(Failure::unreachable(LEARN));
                    };
                    shared.stats.statement();
                    let now = shared.store.database_now();
                    let work = alone!(
                        store,
                        connection,
                        keyring::insert_first,
                        tenant.as_str(),
                        &first,
                        now
                    );
                    let begun = Self::answer(LEARN, timeout(self.limit, work).await);
                    Self::heed(&mut self.connection, begun)?;
                }
            }
        }
        // Retired keys only, which nobody writes.
        Err(Failure {
            fault: Fault::Refused,
            error: StoreError::new(LEARN, StoreFault::Malformed),
        })
    }
}

impl Shared {
    /// Seals and writes under `key_id` from now on.
    pub(super) fn adopt(&self, key_id: u32) {
        if self.keys.load().key_id == key_id {
            return;
        }
        let tenant = self.store.tenant();
        let derive = |purpose| self.ring.derive_under(key_id, tenant, purpose);
        if let (Some(chain), Some(content), Some(outbox)) = (
            derive(Purpose::Chain),
            derive(Purpose::Content),
            derive(Purpose::Outbox),
        ) {
            tracing::info!(key_id, "going on under another audit key");
            self.keys.store(Arc::new(Keys {
                key_id,
                chain,
                content,
                outbox,
            }));
        }
    }
}
