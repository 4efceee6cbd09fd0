//! The statements on a writer's chains: claiming, opening, finding out, giving back.
//!
//! They run on a writer's own connection, outside the pool, and outside `Store::run`: the writer
//! decides what an error means, since only it knows what it has sent.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::audit::keys::Tag;
use crate::time::Timestamp;

/// Which chain, and as whom: what every statement on a chain names.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Hold<'h> {
    pub(in crate::audit) tenant: &'h str,
    pub(in crate::audit) chain_no: u32,
    pub(in crate::audit) epoch: i64,
    pub(in crate::audit) holder: Uuid,
    pub(in crate::audit) key_id: u32,
    /// What to bind where SQL says `coalesce($n, now())`.
    pub(in crate::audit) now: Option<Timestamp>,
}

/// Where a chain ends: what the next entry follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Head {
    pub(in crate::audit) next_seq: u64,
    pub(in crate::audit) mac: Tag,
    pub(in crate::audit) recorded: Timestamp,
}

impl Hold<'_> {
    /// The chain's number, as SQL has it.
    pub(super) fn number(&self) -> i32 {
        // INVARIANT: chain numbers come from an integer column.
        i32::try_from(self.chain_no).unwrap_or(i32::MAX)
    }
}

impl Head {
    /// The place of the next entry, as SQL has it.
    pub(in crate::audit) fn seq(&self) -> i64 {
        // INVARIANT: at a million entries a second, a chain reaches this in 290,000 years.
        i64::try_from(self.next_seq).unwrap_or(i64::MAX)
    }
}

/// A chain's row, read back.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct StoredChain {
    pub(in crate::audit) chain_no: u32,
    pub(in crate::audit) epoch: i64,
    pub(in crate::audit) head: Head,
    pub(in crate::audit) stopped: bool,
}

type ChainRow = (i32, i64, i64, Vec<u8>, Timestamp, bool);

impl StoredChain {
    fn read(row: ChainRow) -> Result<Self, sqlx::Error> {
        let (chain_no, epoch, next_seq, mac, recorded, stopped) = row;
        // No constraint of the table makes these hold; what breaks them is refused here.
        let malformed = || sqlx::Error::Decode("a chain's head is malformed".into());
        Ok(Self {
            chain_no: u32::try_from(chain_no).map_err(|_| malformed())?,
            epoch,
            head: Head {
                next_seq: u64::try_from(next_seq).map_err(|_| malformed())?,
                mac: Tag::try_from(mac).map_err(|_| malformed())?,
                recorded,
            },
            stopped,
        })
    }
}

/// The genesis entry of a chain that is being opened.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Genesis<'g> {
    pub(in crate::audit) recorded: Timestamp,
    pub(in crate::audit) event_id: Uuid,
    pub(in crate::audit) kind: &'g str,
    pub(in crate::audit) metadata: &'g str,
    pub(in crate::audit) mac: Tag,
}

/// Prepares a new connection for appending.
//
// `synchronous_commit` off would acknowledge entries that a crash of the server then loses; a host
// may have set it for its own tables. The generic plan spares planning each batch.
pub(in crate::audit) async fn prepare_session(
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', $1, false),
                set_config('default_transaction_isolation', 'read committed', false),
                set_config('plan_cache_mode', 'force_generic_plan', false),
                set_config('jit', 'off', false),
                CASE WHEN current_setting('synchronous_commit') = 'off'
                     THEN set_config('synchronous_commit', 'on', false) END",
    )
    .bind(limit.as_millis().to_string())
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}

/// Takes a chain that nobody holds, if there is one.
//
// Two claimers cannot take one chain: the row is locked, and READ COMMITTED checks the lease again
// on the row as it is once the lock is held. SKIP LOCKED only saves the waiting. The epoch fences
// whoever held it before.
pub(in crate::audit) async fn try_claim(
    connection: &mut PgConnection,
    tenant: &str,
    holder: Uuid,
    key_id: u32,
    now: Option<Timestamp>,
) -> Result<Option<StoredChain>, sqlx::Error> {
    sqlx::query_as::<_, ChainRow>(
        "WITH free AS MATERIALIZED (
             SELECT chain_no
               FROM portcullis.chains
              WHERE tenant_id = $1
                AND key_id = $3
                AND NOT stopped
                AND lease_until < coalesce($4, now())
              ORDER BY chain_no
              LIMIT 1
                FOR UPDATE SKIP LOCKED)
         UPDATE portcullis.chains AS c
            SET epoch = c.epoch + 1,
                holder = $2,
                lease_until = coalesce($4, now()) + interval '90 seconds'
           FROM free
          WHERE c.tenant_id = $1
            AND c.chain_no = free.chain_no
         RETURNING c.chain_no, c.epoch, c.next_seq, c.head_mac, c.recorded_at, c.stopped",
    )
    .bind(tenant)
    .bind(holder)
    .bind(i64::from(key_id))
    .bind(now)
    .persistent(false)
    .fetch_optional(connection)
    .await?
    .map(StoredChain::read)
    .transpose()
}

/// The number that the tenant's next chain should have.
pub(in crate::audit) async fn fetch_next_chain_no(
    connection: &mut PgConnection,
    tenant: &str,
) -> Result<u32, sqlx::Error> {
    let next: i32 = sqlx::query_scalar(
        "SELECT coalesce(max(chain_no), 0) + 1 FROM portcullis.chains WHERE tenant_id = $1",
    )
    .bind(tenant)
    .persistent(false)
    .fetch_one(connection)
    .await?;
    u32::try_from(next).map_err(|_| sqlx::Error::Decode("no chain number is left".into()))
}

/// Opens a chain together with its first entry; says whether the number was still free and the key
/// still the current one.
//
// Two openers of one number: the primary key lets one in, and the other inserts nothing at all.
// A rotation at the same moment: it holds the lock on the key, which is looked at again once it is
// free, and is no longer current.
pub(in crate::audit) async fn try_open(
    connection: &mut PgConnection,
    hold: Hold<'_>,
    genesis: &Genesis<'_>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "WITH current AS (
             SELECT key_id
               FROM portcullis.keyring
              WHERE tenant_id = $1
                AND key_id = $6
                AND retired_at IS NULL
                FOR SHARE),
         chain AS (
             INSERT INTO portcullis.chains
                 (tenant_id, chain_no, epoch, holder, lease_until, key_id, next_seq, head_mac, recorded_at)
             SELECT $1, $2, $3, $4, coalesce($5, now()) + interval '90 seconds', current.key_id, 2, $11, $7
               FROM current
             ON CONFLICT (tenant_id, chain_no) DO NOTHING
             RETURNING chain_no)
         INSERT INTO portcullis.entries
             (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id, metadata, ingest, mac)
         SELECT $1, chain.chain_no, 1, $6, $9, $7, $7, $8, $10, 'live', $11
           FROM chain",
    )
    .bind(hold.tenant)
    .bind(hold.number())
    .bind(hold.epoch)
    .bind(hold.holder)
    .bind(hold.now)
    .bind(i64::from(hold.key_id))
    .bind(genesis.recorded)
    .bind(genesis.event_id)
    .bind(genesis.kind)
    .bind(genesis.metadata)
    .bind(genesis.mac.as_slice())
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Finds out where our chain ends, once and for all: takes it again, under the next epoch.
///
/// `attempts` claims of this kind may have been made before without an answer.
//
// Reading the head would not do: the statement whose answer was lost may still be running in the
// server. This one waits for the row's lock, and fences it by the epoch if it has not begun.
pub(in crate::audit) async fn try_reclaim(
    connection: &mut PgConnection,
    hold: Hold<'_>,
    attempts: i64,
) -> Result<Option<StoredChain>, sqlx::Error> {
    sqlx::query_as::<_, ChainRow>(
        "UPDATE portcullis.chains
            SET epoch = epoch + 1,
                lease_until = coalesce($5, now()) + interval '90 seconds'
          WHERE tenant_id = $1
            AND chain_no = $2
            AND epoch BETWEEN $3 AND $3 + $7
            AND holder = $4
            AND key_id = $6
            AND NOT stopped
         RETURNING chain_no, epoch, next_seq, head_mac, recorded_at, stopped",
    )
    .bind(hold.tenant)
    .bind(hold.number())
    .bind(hold.epoch)
    .bind(hold.holder)
    .bind(hold.now)
    .bind(i64::from(hold.key_id))
    .bind(attempts)
    .persistent(false)
    .fetch_optional(connection)
    .await?
    .map(StoredChain::read)
    .transpose()
}

/// A chain as it stands.
pub(in crate::audit) async fn fetch_chain(
    connection: &mut PgConnection,
    hold: Hold<'_>,
) -> Result<Option<StoredChain>, sqlx::Error> {
    sqlx::query_as::<_, ChainRow>(
        "SELECT chain_no, epoch, next_seq, head_mac, recorded_at, stopped
           FROM portcullis.chains
          WHERE tenant_id = $1
            AND chain_no = $2",
    )
    .bind(hold.tenant)
    .bind(hold.number())
    .persistent(false)
    .fetch_optional(connection)
    .await?
    .map(StoredChain::read)
    .transpose()
}

/// Stops a chain for ever; whoever holds it is fenced.
//
// Setting what is set changes nothing, so it may be done twice and by several.
pub(in crate::audit) async fn stop(
    connection: &mut PgConnection,
    hold: Hold<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portcullis.chains
            SET stopped = true,
                epoch = epoch + 1
          WHERE tenant_id = $1
            AND chain_no = $2
            AND NOT stopped",
    )
    .bind(hold.tenant)
    .bind(hold.number())
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}

/// Gives a chain back, if it is still ours.
//
// The epoch and the holder keep it from ending the lease of whoever has claimed the chain since.
pub(in crate::audit) async fn give_back(
    connection: &mut PgConnection,
    hold: Hold<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portcullis.chains
            SET lease_until = coalesce($5, now()) - interval '1 second'
          WHERE tenant_id = $1
            AND chain_no = $2
            AND epoch = $3
            AND holder = $4",
    )
    .bind(hold.tenant)
    .bind(hold.number())
    .bind(hold.epoch)
    .bind(hold.holder)
    .bind(hold.now)
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}
