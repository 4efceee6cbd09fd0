//! Changing the key under which a tenant's entries are written.
//!
//! A rotation is one transaction over all chains of the tenant: the last entry under the old key
//! names the new one and its fingerprint, the first under the new key follows it and says the
//! same, and every writer is fenced. Whoever has the new key goes on with it; whoever has not
//! stops, with an error that says so. Entries of before stay as they are and are verified with the
//! old key, which must be kept for that.
//!
//! | The store is | [`Audit::rotate`] |
//! |---|---|
//! | reachable | all chains are handed over, or none |
//! | unreachable | an error; nothing has changed, or everything has: call it again |
//!
//! ```no_run
//! # async fn example(database: portcullis::Database) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::TenantId;
//! use portcullis::audit::{Audit, AuditKeys, KeySource, Rotation};
//!
//! let keys = AuditKeys::builder()
//!     .key(1, KeySource::file("/etc/portcullis/audit-1.key"))
//!     .key(2, KeySource::file("/etc/portcullis/audit-2.key"))
//!     .build()?;
//! let audit = Audit::open(&database, keys, TenantId::single()).await?;
//! audit.rotate(2, Rotation::Planned).await?;
//! # Ok(())
//! # }
//! ```

mod current;
mod marker;

pub(in crate::audit) use self::current::{Choice, Locked, choose, to_store};
pub(in crate::audit) use self::marker::{KIND, Marker, Side};

use sqlx::PgConnection;

use super::keys::{MacKey, Purpose, Tag};
use super::row::{Row, mac};
use super::store::chain::Head;
use super::store::heads;
use super::store::keyring::{self as sql, Half, LockedChain, Retired, StoredKey};
use super::{Audit, AuditError};
use crate::canon::{Fields, Metadata};
use crate::ids::EventId;
use crate::store::{StoreError, StoreFault};
use crate::time::Timestamp;

const OPERATION: &str = "rotate the audit key";
/// How often the keyring is looked at while others change it.
const LOOKS: u32 = 8;

/// Why a key is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rotation {
    /// Because it was time to.
    Planned,
    /// Because somebody else has the old key, or may have.
    Compromise {
        /// Since when, as far as is known.
        since: Option<Timestamp>,
    },
}

impl Rotation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Compromise { .. } => "compromise",
        }
    }
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotated {
    /// The number of the key that is current now.
    pub to: u32,
    /// How many chains were handed over; none if the rotation had been made already.
    pub chains: usize,
}

impl Audit {
    /// Makes the key with the number `to` the current one of this tenant.
    ///
    /// The key must be in this process' [`AuditKeys`](super::AuditKeys), beside the old one, and
    /// have a higher number than any before. Give it to every process first: one that does not
    /// have it can write nothing afterwards.
    ///
    /// # Errors
    ///
    /// * [`AuditError::NotRotated`] if the key is not one that can follow.
    /// * [`AuditError::KeyNotHeld`], [`AuditError::WrongKey`] if this process does not have the old
    ///   key.
    /// * [`AuditError::Store`] if the database did not take it in time. It may still have been made;
    ///   calling it again finds out, and does nothing if it was.
    ///
    /// # Cancel safety
    ///
    /// All or nothing; calling it again is safe.
    pub async fn rotate(&self, to: u32, reason: Rotation) -> Result<Rotated, AuditError> {
        let work = || async {
            let mut transaction = self.store().begin().await?;
            let done = self.rotate_in(&mut transaction, to, reason).await?;
            match &done {
                Ok(_) => transaction.commit().await?,
                Err(_) => transaction.rollback().await?,
            }
            Ok(done)
        };
        let rotated = self.store().run(OPERATION, work).await??;
        self.writer.adopt(to);
        if rotated.chains > 0 {
            tracing::warn!(
                to,
                chains = rotated.chains,
                reason = reason.as_str(),
                "the audit key was rotated; keep the old one for verifying, and make a checkpoint"
            );
        }
        Ok(rotated)
    }

    /// Learns which key is current, without beginning anything.
    ///
    /// # Errors
    ///
    /// As for appending: this process does not have it.
    pub(crate) async fn learn_key(&self) -> Result<(), AuditError> {
        let store = self.store();
        let tenant = store.tenant();
        let look = || async {
            let mut transaction = store.begin().await?;
            let stored = sql::fetch_current(&mut transaction, tenant.as_str()).await?;
            transaction.commit().await?;
            Ok(stored)
        };
        let stored = store
            .run_idempotent("learn the current audit key", look)
            .await?;
        match choose(self.keys(), tenant, &stored, 0)? {
            Choice::Use(key_id) | Choice::Begin(key_id) => self.writer.adopt(key_id),
        }
        Ok(())
    }

    /// All of it but the commit. Inside, an error of the database undoes it; outside is a refusal.
    async fn rotate_in(
        &self,
        transaction: &mut PgConnection,
        to: u32,
        reason: Rotation,
    ) -> Result<Result<Rotated, AuditError>, sqlx::Error> {
        let (store, keys) = (self.store(), self.keys());
        let (tenant, now) = (store.tenant(), store.database_now());
        sql::begin_rotation(transaction).await?;
        let current = match self.lock_current(transaction).await? {
            Ok(current) => current,
            Err(error) => return Ok(Err(error)),
        };
        if current.key_id == to {
            return Ok(Ok(Rotated { to, chains: 0 }));
        }
        let refused = |problem| Ok(Err(AuditError::NotRotated { to, problem }));
        let Some(next) = to_store(keys, tenant, to) else {
            return refused("this process does not have it; add it to the keys");
        };
        for old in sql::list_keys(transaction, tenant.as_str()).await? {
            if old.key_id >= to {
                return refused(
                    "numbers only go up; give the new key a higher one than any before",
                );
            }
            let same = keys.fingerprint(to, tenant, old.fingerprint.salt);
            if same.is_some_and(|same| same.is(&old.fingerprint)) {
                return refused("its secret was used before; make one with `openssl rand -hex 32`");
            }
        }
        let chains = sql::lock_chains(transaction, tenant.as_str()).await?;
        let (stopped, mut going): (Vec<_>, Vec<_>) =
            chains.into_iter().partition(|c| c.stopped || c.occupied);
        for chain in stopped.iter().filter(|chain| !chain.stopped) {
            sql::stop_occupied(transaction, tenant.as_str(), chain.chain_no).await?;
        }
        // A chain under any other key was tampered with; a verification says that it stayed behind.
        going.retain(|chain| chain.key_id == i64::from(current.key_id));
        let salt = next.fingerprint.salt;
        let Some(from_print) = keys.fingerprint(current.key_id, tenant, salt) else {
            return Ok(Err(Locked::NotHeld {
                current: current.key_id,
            }
            .into()));
        };
        let marker = Marker {
            from: current.key_id,
            to,
            from_print,
            to_print: next.fingerprint,
            reason,
            stopped: stopped.iter().map(|c| (no(c), c.head.next_seq)).collect(),
        };
        for chain in &going {
            if let Err(error) = self.hand_over(transaction, chain, &marker).await? {
                return Ok(Err(error));
            }
        }
        let retired = Retired {
            key_id: current.key_id,
            reason: reason.as_str(),
            since: match reason {
                Rotation::Compromise { since } => since,
                Rotation::Planned => None,
            },
            now,
        };
        sql::replace_current(transaction, tenant.as_str(), retired, &next).await?;
        Ok(Ok(Rotated {
            to,
            chains: going.len(),
        }))
    }

    /// Locks the key that entries are written under now, and makes sure that we have it.
    async fn lock_current(
        &self,
        transaction: &mut PgConnection,
    ) -> Result<Result<StoredKey, AuditError>, sqlx::Error> {
        let (store, keys) = (self.store(), self.keys());
        let tenant = store.tenant();
        for _ in 0..LOOKS {
            // Locked before it is looked at: of two rotations the second sees what the first did.
            let locked = sql::lock_current(transaction, tenant.as_str()).await?;
            let stored = sql::fetch_current(transaction, tenant.as_str()).await?;
            match (choose(keys, tenant, &stored, 0), locked) {
                (Ok(Choice::Use(key_id)), Some(key)) if key.key_id == key_id => return Ok(Ok(key)),
                // Begun by somebody else between the two statements.
                (Ok(Choice::Use(_)), _) => {}
                (Ok(Choice::Begin(key_id)), _) => {
                    let Some(first) = to_store(keys, tenant, key_id) else {
                        return Ok(Err(Locked::NotHeld { current: key_id }.into()));
                    };
                    let now = store.database_now();
                    sql::insert_first(transaction, tenant.as_str(), &first, now).await?;
                }
                // The new key may be the only one that we have, and the work done.
                (Err(locked), _) => return Ok(Err(locked.into())),
            }
        }
        // Retired keys only, which nobody writes.
        Ok(Err(StoreError::new(OPERATION, StoreFault::Malformed).into()))
    }

    /// Appends the two entries to one chain.
    async fn hand_over(
        &self,
        transaction: &mut PgConnection,
        chain: &LockedChain,
        marker: &Marker,
    ) -> Result<Result<(), AuditError>, sqlx::Error> {
        let store = self.store();
        let tenant = store.tenant().as_str();
        let recorded = store.now().max(chain.head.recorded);
        let halves = match self.halves(chain, marker, recorded) {
            Ok(halves) => halves,
            Err(error) => return Ok(Err(error)),
        };
        let now = store.database_now();
        let done = sql::try_hand_over(transaction, tenant, chain, recorded, &halves, now).await?;
        let [_, new] = &halves;
        let after = Head {
            next_seq: chain.head.next_seq.saturating_add(2),
            mac: new.mac,
            recorded,
        };
        // The chain may stay as it is for long: its head is signed, as after every batch.
        if done && let Some(signed) = self.writer.sign_head(no(chain), &after) {
            let seq = after.seq().saturating_sub(1);
            heads::insert(transaction, tenant, chain.chain_no, seq, &signed).await?;
        }
        // The chain is locked: only what nobody writes could be in the way.
        Ok(if done {
            Ok(())
        } else {
            Err(StoreError::new(OPERATION, StoreFault::Malformed).into())
        })
    }

    fn halves(
        &self,
        chain: &LockedChain,
        marker: &Marker,
        recorded: Timestamp,
    ) -> Result<[Half; 2], AuditError> {
        let old = self.half(
            chain,
            0,
            recorded,
            &chain.head.mac,
            marker.from,
            &marker.metadata(Side::Old)?,
        )?;
        let new = self.half(
            chain,
            1,
            recorded,
            &old.mac,
            marker.to,
            &marker.metadata(Side::New)?,
        )?;
        Ok([old, new])
    }

    fn half(
        &self,
        chain: &LockedChain,
        place: u64,
        recorded: Timestamp,
        previous: &Tag,
        key_id: u32,
        metadata: &Metadata,
    ) -> Result<Half, AuditError> {
        let tenant = self.store().tenant();
        let key: Option<MacKey> = self.keys().derive_under(key_id, tenant, Purpose::Chain);
        let key = key.ok_or(Locked::NotHeld { current: key_id })?;
        let event_id = EventId::new();
        let row = Row {
            tenant: tenant.as_str(),
            chain_no: no(chain),
            seq: chain.head.next_seq + place,
            key_id,
            kind: KIND,
            occurred_us: recorded.as_micros(),
            recorded_us: recorded.as_micros(),
            event_id: event_id.as_bytes(),
            session: None,
            agent: None,
            user: None,
            agent_key: None,
            parent: None,
            model: None,
            input_hash: None,
            output_hash: None,
            decision: None,
            metadata: metadata.as_str(),
            sealed: None,
            ingest: "live",
            origin_journal: None,
            origin_seq: None,
            origin_mac: None,
        };
        let mut bytes = Fields::default();
        row.encode(&mut bytes);
        Ok(Half {
            key_id,
            event_id: event_id.as_uuid(),
            metadata: metadata.as_str().to_owned(),
            mac: mac(&key, &bytes, previous),
        })
    }
}

/// The chain's number, as its entries have it.
fn no(chain: &LockedChain) -> u32 {
    chain.chain_no.cast_unsigned()
}
