//! The statements on a tenant's keyring: which key is current, and handing all chains to the next.

use sqlx::PgConnection;
use uuid::Uuid;

use super::chain::Head;
use crate::audit::keys::{Fingerprint, Tag};
use crate::time::Timestamp;

/// A key, as the keyring has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) struct StoredKey {
    pub(in crate::audit) key_id: u32,
    pub(in crate::audit) fingerprint: Fingerprint,
}

/// What a tenant's entries are written under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Current {
    /// `None` for a tenant that has no keyring yet.
    pub(in crate::audit) key: Option<StoredKey>,
    /// The newest key that a chain is under, if there are chains.
    pub(in crate::audit) chains: Option<u32>,
}

type KeyRow = (i64, Vec<u8>, Vec<u8>);

impl StoredKey {
    fn read(row: KeyRow) -> Result<Self, sqlx::Error> {
        let malformed = || sqlx::Error::Decode("a key of the keyring is malformed".into());
        let (key_id, salt, tag) = row;
        Ok(Self {
            key_id: u32::try_from(key_id).map_err(|_| malformed())?,
            fingerprint: Fingerprint {
                salt: salt.try_into().map_err(|_| malformed())?,
                tag: tag.try_into().map_err(|_| malformed())?,
            },
        })
    }
}

/// Which key is current.
//
// One statement is one snapshot, and a rotation changes the keyring and the chains in one
// transaction: that a chain is under a newer key than the current one is never seen halfway.
pub(in crate::audit) async fn fetch_current(
    connection: &mut PgConnection,
    tenant: &str,
) -> Result<Current, sqlx::Error> {
    type Row = (Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>);
    let (key_id, salt, fingerprint, chains): Row = sqlx::query_as(
        "SELECT k.key_id, k.salt, k.fingerprint, c.newest
           FROM (SELECT max(key_id) AS newest
                   FROM portcullis.chains
                  WHERE tenant_id = $1) AS c
           LEFT JOIN portcullis.keyring AS k
             ON k.tenant_id = $1 AND k.retired_at IS NULL",
    )
    .bind(tenant)
    .persistent(false)
    .fetch_one(connection)
    .await?;
    let key = match (key_id, salt, fingerprint) {
        (Some(key_id), Some(salt), Some(tag)) => Some(StoredKey::read((key_id, salt, tag))?),
        _ => None,
    };
    Ok(Current {
        key,
        chains: chains.and_then(|newest| u32::try_from(newest).ok()),
    })
}

/// Makes `key` the tenant's first.
//
// Two processes that begin at once: the primary key or the index on the current key lets one in,
// and the other inserts nothing. Both look again.
pub(in crate::audit) async fn insert_first(
    connection: &mut PgConnection,
    tenant: &str,
    key: &StoredKey,
    now: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.keyring (tenant_id, key_id, salt, fingerprint, started_at)
         SELECT $1, $2, $3, $4, coalesce($5, now())
          WHERE NOT EXISTS (SELECT FROM portcullis.keyring WHERE tenant_id = $1)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(i64::from(key.key_id))
    .bind(key.fingerprint.salt.as_slice())
    .bind(key.fingerprint.tag.as_slice())
    .bind(now)
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}

/// Prepares the transaction of a rotation: it is evidence, and must outlive a crash of the server.
pub(in crate::audit) async fn begin_rotation(
    transaction: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('transaction_isolation', 'read committed', true),
                CASE WHEN current_setting('synchronous_commit') = 'off'
                     THEN set_config('synchronous_commit', 'on', true) END",
    )
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// Locks the tenant's current key; `None` if it has no keyring.
//
// Two rotations: the second waits here, and finds another key. Whoever opens a chain meanwhile
// waits for the same lock, and then opens it under the new key or not at all.
pub(in crate::audit) async fn lock_current(
    transaction: &mut PgConnection,
    tenant: &str,
) -> Result<Option<StoredKey>, sqlx::Error> {
    sqlx::query_as::<_, KeyRow>(
        "SELECT key_id, salt, fingerprint
           FROM portcullis.keyring
          WHERE tenant_id = $1
            AND retired_at IS NULL
            FOR UPDATE",
    )
    .bind(tenant)
    .persistent(false)
    .fetch_optional(transaction)
    .await?
    .map(StoredKey::read)
    .transpose()
}

/// Every key that the tenant ever had.
pub(in crate::audit) async fn list_keys(
    transaction: &mut PgConnection,
    tenant: &str,
) -> Result<Vec<StoredKey>, sqlx::Error> {
    let rows = sqlx::query_as::<_, KeyRow>(
        "SELECT key_id, salt, fingerprint
           FROM portcullis.keyring
          WHERE tenant_id = $1
          ORDER BY key_id",
    )
    .bind(tenant)
    .persistent(false)
    .fetch_all(transaction)
    .await?;
    rows.into_iter().map(StoredKey::read).collect()
}

/// A chain that is about to be handed to the next key.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct LockedChain {
    pub(in crate::audit) chain_no: i32,
    pub(in crate::audit) head: Head,
    pub(in crate::audit) key_id: i64,
    pub(in crate::audit) stopped: bool,
    /// There are entries past its head.
    pub(in crate::audit) occupied: bool,
}

/// Locks every chain of the tenant: nothing is appended until the rotation is over.
//
// In the order of their numbers, and after the keyring. An append locks one chain and nothing
// else, so nothing waits in a circle.
pub(in crate::audit) async fn lock_chains(
    transaction: &mut PgConnection,
    tenant: &str,
) -> Result<Vec<LockedChain>, sqlx::Error> {
    type Row = (i32, i64, Vec<u8>, Timestamp, i64, bool, bool);
    let rows = sqlx::query_as::<_, Row>(
        "SELECT c.chain_no, c.next_seq, c.head_mac, c.recorded_at, c.key_id, c.stopped,
                EXISTS (SELECT
                          FROM portcullis.entries AS e
                         WHERE e.tenant_id = c.tenant_id
                           AND e.chain_no = c.chain_no
                           AND e.seq >= c.next_seq)
           FROM portcullis.chains AS c
          WHERE c.tenant_id = $1
          ORDER BY c.chain_no
            FOR UPDATE OF c",
    )
    .bind(tenant)
    .persistent(false)
    .fetch_all(transaction)
    .await?;
    let malformed = || sqlx::Error::Decode("a chain's head is malformed".into());
    rows.into_iter()
        .map(
            |(chain_no, next_seq, mac, recorded, key_id, stopped, occupied)| {
                Ok(LockedChain {
                    chain_no,
                    head: Head {
                        next_seq: u64::try_from(next_seq).map_err(|_| malformed())?,
                        mac: Tag::try_from(mac).map_err(|_| malformed())?,
                        recorded,
                    },
                    key_id,
                    stopped,
                    occupied,
                })
            },
        )
        .collect()
}

/// Stops a chain that is locked and not where it was left, for ever.
pub(in crate::audit) async fn stop_occupied(
    transaction: &mut PgConnection,
    tenant: &str,
    chain_no: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portcullis.chains
            SET stopped = true,
                epoch = epoch + 1
          WHERE tenant_id = $1
            AND chain_no = $2",
    )
    .bind(tenant)
    .bind(chain_no)
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// One of the two entries of a rotation.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Half {
    pub(in crate::audit) key_id: u32,
    pub(in crate::audit) event_id: Uuid,
    pub(in crate::audit) metadata: String,
    pub(in crate::audit) mac: Tag,
}

/// Appends the two entries of a rotation to a chain that is locked, and puts it under the new key;
/// says whether the chain was where it was believed to be.
//
// The epoch fences whoever holds the chain, and the lease is over, so that it can be claimed at
// once by a process that has the new key.
pub(in crate::audit) async fn try_hand_over(
    transaction: &mut PgConnection,
    tenant: &str,
    chain: &LockedChain,
    recorded: Timestamp,
    halves: &[Half; 2],
    now: Option<Timestamp>,
) -> Result<bool, sqlx::Error> {
    let [old, new] = halves;
    let done = sqlx::query(
        "WITH head AS (
             UPDATE portcullis.chains
                SET epoch = epoch + 1,
                    key_id = $3,
                    next_seq = next_seq + 2,
                    head_mac = $4,
                    recorded_at = $5,
                    lease_until = coalesce($6, now()) - interval '1 second'
              WHERE tenant_id = $1
                AND chain_no = $2
                AND next_seq = $7
                AND NOT stopped
             RETURNING chain_no)
         INSERT INTO portcullis.entries
             (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id, metadata, ingest, mac)
         SELECT $1, head.chain_no, $7 + half.place, half.key_id, 'chain.key_rotated', $5, $5,
                half.event_id, half.metadata, 'live', half.mac
           FROM head,
                (VALUES (0, $8::bigint, $9::uuid, $10::text, $11::bytea),
                        (1, $3, $12, $13, $4)) AS half(place, key_id, event_id, metadata, mac)",
    )
    .bind(tenant)
    .bind(chain.chain_no)
    .bind(i64::from(new.key_id))
    .bind(new.mac.as_slice())
    .bind(recorded)
    .bind(now)
    .bind(chain.head.seq())
    .bind(i64::from(old.key_id))
    .bind(old.event_id)
    .bind(&old.metadata)
    .bind(old.mac.as_slice())
    .bind(new.event_id)
    .bind(&new.metadata)
    .execute(transaction)
    .await?;
    Ok(done.rows_affected() == 2)
}

/// Why and when a key was retired.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Retired {
    pub(in crate::audit) key_id: u32,
    pub(in crate::audit) reason: &'static str,
    pub(in crate::audit) since: Option<Timestamp>,
    pub(in crate::audit) now: Option<Timestamp>,
}

/// Makes `next` the tenant's current key in the place of the one that was locked.
pub(in crate::audit) async fn replace_current(
    transaction: &mut PgConnection,
    tenant: &str,
    old: Retired,
    next: &StoredKey,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portcullis.keyring
            SET retired_at = coalesce($5, now()), reason = $3, since = $4
          WHERE tenant_id = $1
            AND key_id = $2",
    )
    .bind(tenant)
    .bind(i64::from(old.key_id))
    .bind(old.reason)
    .bind(old.since)
    .bind(old.now)
    .persistent(false)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO portcullis.keyring (tenant_id, key_id, salt, fingerprint, started_at)
         VALUES ($1, $2, $3, $4, coalesce($5, now()))",
    )
    .bind(tenant)
    .bind(i64::from(next.key_id))
    .bind(next.fingerprint.salt.as_slice())
    .bind(next.fingerprint.tag.as_slice())
    .bind(old.now)
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}
