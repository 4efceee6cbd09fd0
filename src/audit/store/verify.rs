//! What a verification reads: the heads in one statement, then entries by binary COPY.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::columns::columns;
use crate::audit::keys::Tag;
use crate::ids::{SessionId, TenantId};
use crate::store::{Store, StoreError};
use crate::time::Timestamp;

/// The most entries that one transaction reads: a long snapshot slows every hot row.
pub(in crate::audit) const RANGE: u64 = 250_000;

/// A chain as it was when the verification began.
#[derive(Clone, Debug)]
pub(in crate::audit) struct ChainRow {
    pub(in crate::audit) chain_no: i32,
    /// The last entry that is stored; `None` if none is.
    pub(in crate::audit) max_seq: Option<i64>,
    /// Where the chain's own row says that it ends; `None` if there is no such row.
    pub(in crate::audit) head: Option<HeadRow>,
    /// Whether a writer holds it now, by the database's clock.
    pub(in crate::audit) held: bool,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct HeadRow {
    pub(in crate::audit) next_seq: i64,
    pub(in crate::audit) mac: Option<Tag>,
    pub(in crate::audit) key_id: Option<u32>,
    pub(in crate::audit) recorded_at: Timestamp,
}

/// A connection of the verification's own: what is dropped in the middle of a COPY is closed, and
/// a host's pool is not held up for minutes.
pub(in crate::audit) async fn open(store: &Store) -> Result<PgConnection, StoreError> {
    let operation = "connect to verify the audit trail";
    let options = store.connect_options();
    match tokio::time::timeout(store.deadline(), PgConnection::connect_with(&options)).await {
        Ok(opened) => opened.map_err(StoreError::during(operation)),
        Err(_) => Err(StoreError::timed_out(operation)),
    }
}

/// Every chain of the tenant, those that have entries but no row of their own included.
//
// One statement is one snapshot, and an append changes head and entries in one transaction: on an
// intact trail they agree whatever is appended meanwhile. The chain numbers that have entries are
// found by hopping along the primary key, not by reading it all.
pub(in crate::audit) async fn list_chains(
    connection: &mut PgConnection,
    tenant: &TenantId,
    now: Option<Timestamp>,
) -> Result<Vec<ChainRow>, StoreError> {
    let during = StoreError::during("read the heads of the audit trail");
    let rows = sqlx::query(
        "WITH RECURSIVE present (chain_no) AS (
             (SELECT e.chain_no
                FROM portcullis.entries e
               WHERE e.tenant_id = $1
               ORDER BY e.chain_no
               LIMIT 1)
             UNION ALL
             SELECT (SELECT e.chain_no
                       FROM portcullis.entries e
                      WHERE e.tenant_id = $1 AND e.chain_no > p.chain_no
                      ORDER BY e.chain_no
                      LIMIT 1)
               FROM present p
              WHERE p.chain_no IS NOT NULL
         ), numbers (chain_no) AS (
             SELECT p.chain_no FROM present p WHERE p.chain_no IS NOT NULL
             UNION
             SELECT c.chain_no FROM portcullis.chains c WHERE c.tenant_id = $1
         )
         SELECT n.chain_no, last.seq, c.next_seq, c.head_mac, c.key_id, c.recorded_at,
                coalesce(c.lease_until > coalesce($2, now()) AND NOT c.stopped, false)
           FROM numbers n
           LEFT JOIN portcullis.chains c
             ON c.tenant_id = $1 AND c.chain_no = n.chain_no
           LEFT JOIN LATERAL (
             SELECT e.seq
               FROM portcullis.entries e
              WHERE e.tenant_id = $1 AND e.chain_no = n.chain_no
              ORDER BY e.seq DESC
              LIMIT 1) last ON true
          ORDER BY n.chain_no",
    )
    .bind(tenant.as_str())
    .bind(now)
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(&during)?;
    rows.iter()
        .map(chain)
        .collect::<Result<_, _>>()
        .map_err(during)
}

fn chain(row: &PgRow) -> Result<ChainRow, sqlx::Error> {
    let mac: Option<&[u8]> = row.try_get(3)?;
    let key_id: Option<i64> = row.try_get(4)?;
    let recorded_at: Option<Timestamp> = row.try_get(5)?;
    let head = row.try_get::<Option<i64>, _>(2)?.map(|next_seq| HeadRow {
        next_seq,
        mac: mac.and_then(|bytes| bytes.try_into().ok()),
        key_id: key_id.and_then(|id| u32::try_from(id).ok()),
        recorded_at: recorded_at.unwrap_or(Timestamp::MIN),
    });
    Ok(ChainRow {
        chain_no: row.try_get(0)?,
        max_seq: row.try_get(1)?,
        head,
        held: row.try_get(6)?,
    })
}

/// The entry that came from the next line of a journal, after one that is not there.
//
// No index helps; it is asked where something was found wrong.
pub(in crate::audit) async fn fetch_after_line(
    connection: &mut PgConnection,
    tenant: &TenantId,
    journal: Uuid,
    line: u64,
) -> Result<Option<(i32, i64)>, StoreError> {
    sqlx::query_as(
        "SELECT e.chain_no, e.seq
           FROM portcullis.entries e
          WHERE e.tenant_id = $1 AND e.origin_journal = $2 AND e.origin_seq > $3
          ORDER BY e.origin_seq
          LIMIT 1",
    )
    .bind(tenant.as_str())
    .bind(journal)
    .bind(line.cast_signed())
    .persistent(false)
    .fetch_optional(connection)
    .await
    .map_err(StoreError::during("find the entries of a journal"))
}

/// The first and last entry of `session` in each chain.
pub(in crate::audit) async fn list_session_ranges(
    connection: &mut PgConnection,
    tenant: &TenantId,
    session: &SessionId,
) -> Result<Vec<(i32, i64, i64)>, StoreError> {
    sqlx::query_as(
        "SELECT e.chain_no, min(e.seq), max(e.seq)
           FROM portcullis.entries e
          WHERE e.tenant_id = $1 AND e.session_id = $2
          GROUP BY e.chain_no
          ORDER BY e.chain_no",
    )
    .bind(tenant.as_str())
    .bind(session.as_str())
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("find a session in the audit trail"))
}

/// How many entries the tenant's chains say that they have.
//
// It is no evidence: a verification only asks whether somebody writes.
pub(in crate::audit) async fn count_heads(
    transaction: &mut PgConnection,
    tenant: &TenantId,
) -> Result<u64, StoreError> {
    let heads: i64 = sqlx::query_scalar(
        "SELECT least(coalesce(sum(c.next_seq), 0), 9223372036854775807)::bigint
           FROM portcullis.chains c
          WHERE c.tenant_id = $1",
    )
    .bind(tenant.as_str())
    .persistent(false)
    .fetch_one(transaction)
    .await
    .map_err(StoreError::during("look at the heads of the audit trail"))?;
    Ok(u64::try_from(heads).unwrap_or(0))
}

/// Lifts the statement's time limit for the transaction: a verification takes as long as it takes.
/// Sorting and compiling are never worth it along the primary key.
pub(in crate::audit) async fn unhurry(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', '0', true),
                set_config('idle_in_transaction_session_timeout', '5min', true),
                set_config('jit', 'off', true),
                set_config('enable_sort', 'off', true),
                set_config('enable_bitmapscan', 'off', true)",
    )
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// Which entries [`COPY_RANGE`] sends: those of a chain after a place, up to another, and how many at
/// most.
pub(in crate::audit) async fn set_range(
    connection: &mut PgConnection,
    tenant: &TenantId,
    chain_no: i32,
    (after, to): (i64, i64),
    most: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('portcullis.tenant', $1, true),
                set_config('portcullis.chain_no', $2, true),
                set_config('portcullis.after', $3, true),
                set_config('portcullis.to', $4, true),
                set_config('portcullis.most', $5, true)",
    )
    .bind(tenant.as_str())
    .bind(chain_no.to_string())
    .bind(after.to_string())
    .bind(to.to_string())
    .bind(most.min(RANGE).to_string())
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}

/// The next entries of a chain, at most so many; with ties, so that a second entry at the last
/// place is not passed over. COPY takes no parameters, so they are settings of the transaction.
const COPY_RANGE: &str = concat!(
    "COPY (SELECT ",
    columns!("e"),
    " FROM portcullis.entries e
       WHERE e.tenant_id = current_setting('portcullis.tenant')
         AND e.chain_no = current_setting('portcullis.chain_no')::integer
         AND e.seq > current_setting('portcullis.after')::bigint
         AND e.seq <= current_setting('portcullis.to')::bigint
       ORDER BY e.seq
       FETCH FIRST (current_setting('portcullis.most')::bigint) ROWS WITH TIES
    ) TO STDOUT (FORMAT binary)"
);

/// Streams the range that [`set_range`] named through `feed`, message by message.
pub(in crate::audit) async fn copy_range(
    transaction: &mut PgConnection,
    patience: Duration,
    mut feed: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    const OPERATION: &str = "verify the audit trail";
    let during = StoreError::during(OPERATION);
    let mut messages = transaction
        .copy_out_raw(COPY_RANGE)
        .await
        .map_err(&during)?;
    let mut messages = messages.as_mut();
    loop {
        // A timer only where something has to be waited for.
        let ready = poll_fn(|cx| Poll::Ready(messages.as_mut().poll_next(cx))).await;
        let message = match ready {
            Poll::Ready(message) => message,
            Poll::Pending => {
                let next = poll_fn(|cx| messages.as_mut().poll_next(cx));
                tokio::time::timeout(patience, next)
                    .await
                    .map_err(|_| StoreError::timed_out(OPERATION))?
            }
        };
        let Some(message) = message else {
            return Ok(());
        };
        feed(&message.map_err(&during)?)?;
    }
}
