//! What an export reads beside the entries: checkpoints, receipts of anchors, which keys signed.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use super::checkpoint::CheckpointRow;
use super::tree::PAGE;
use super::verify::unhurry;
use crate::ids::TenantId;
use crate::store::StoreError;
use crate::time::Timestamp;
use crate::tlog::TreeHash;

/// A receipt as it is stored.
#[derive(Clone, Debug)]
pub(in crate::audit) struct KeptRow {
    pub(in crate::audit) anchor: String,
    pub(in crate::audit) size: u64,
    pub(in crate::audit) root: TreeHash,
    pub(in crate::audit) kind: String,
    pub(in crate::audit) receipt: Vec<u8>,
    pub(in crate::audit) kept_at: Timestamp,
}

/// The next checkpoints larger than `after`, up to `to`; a page of them.
pub(in crate::audit) async fn list_checkpoints(
    connection: &mut PgConnection,
    tenant: &TenantId,
    after: u64,
    to: u64,
) -> Result<Vec<CheckpointRow>, StoreError> {
    let during = StoreError::during("read the checkpoints");
    let rows = sqlx::query(
        "SELECT c.size, c.root, c.note
           FROM portcullis.checkpoints c
          WHERE c.tenant_id = $1 AND c.size > $2 AND c.size <= $3
          ORDER BY c.size
          LIMIT 1000",
    )
    .bind(tenant.as_str())
    .bind(after.cast_signed())
    .bind(to.cast_signed())
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(&during)?;
    debug_assert!(rows.len() <= PAGE);
    let read = |row: &PgRow| super::checkpoint::checkpoint(row, 0);
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(during)
}

/// What the anchors gave for the trees larger than `after`, up to `to`.
pub(in crate::audit) async fn list_receipts(
    connection: &mut PgConnection,
    tenant: &TenantId,
    after: u64,
    to: u64,
) -> Result<Vec<KeptRow>, StoreError> {
    let during = StoreError::during("read the anchors' receipts");
    let rows = sqlx::query(
        "SELECT r.anchor, r.size, r.root, r.kind, r.receipt, r.kept_at
           FROM portcullis.anchor_receipts r
          WHERE r.tenant_id = $1 AND r.size > $2 AND r.size <= $3
          ORDER BY r.size, r.anchor",
    )
    .bind(tenant.as_str())
    .bind(after.cast_signed())
    .bind(to.cast_signed())
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(&during)?;
    rows.iter()
        .map(kept)
        .collect::<Result<_, _>>()
        .map_err(during)
}

/// The last thing that each anchor gave for a tree of `to` entries or fewer.
pub(in crate::audit) async fn list_last_receipts(
    connection: &mut PgConnection,
    tenant: &TenantId,
    to: u64,
) -> Result<Vec<KeptRow>, StoreError> {
    let during = StoreError::during("read the anchors' last receipts");
    let rows = sqlx::query(
        "SELECT DISTINCT ON (r.anchor) r.anchor, r.size, r.root, r.kind, r.receipt, r.kept_at
           FROM portcullis.anchor_receipts r
          WHERE r.tenant_id = $1 AND r.size <= $2
          ORDER BY r.anchor, r.size DESC",
    )
    .bind(tenant.as_str())
    .bind(to.cast_signed())
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(&during)?;
    rows.iter()
        .map(kept)
        .collect::<Result<_, _>>()
        .map_err(during)
}

/// The keys that signed the entries of a session, an agent, a time.
//
// Planned for each call anew, with what is asked for: an index leads it where there is one.
pub(in crate::audit) async fn list_used_keys(
    connection: &mut PgConnection,
    tenant: &TenantId,
    (session, agent, from, to): (Option<&str>, Option<&str>, Timestamp, Timestamp),
) -> Result<Vec<Vec<u8>>, StoreError> {
    let during = StoreError::during("find the keys that signed");
    let mut transaction = connection.begin().await.map_err(&during)?;
    unhurry(&mut transaction).await.map_err(&during)?;
    let keys = sqlx::query_scalar(
        "SELECT DISTINCT e.agent_key
           FROM portcullis.entries e
          WHERE e.tenant_id = $1
            AND e.agent_key IS NOT NULL
            AND ($2::text IS NULL OR e.session_id = $2)
            AND ($3::text IS NULL OR e.agent_id = $3)
            AND e.recorded_at >= $4
            AND e.recorded_at < $5",
    )
    .bind(tenant.as_str())
    .bind(session)
    .bind(agent)
    .bind(from)
    .bind(to)
    .persistent(false)
    .fetch_all(&mut *transaction)
    .await
    .map_err(&during)?;
    transaction.commit().await.map_err(during)?;
    Ok(keys)
}

fn kept(row: &PgRow) -> Result<KeptRow, sqlx::Error> {
    let size: i64 = row.try_get(1)?;
    let root: &[u8] = row.try_get(2)?;
    let malformed = || sqlx::Error::Decode("a receipt is malformed".into());
    Ok(KeptRow {
        anchor: row.try_get(0)?,
        size: size.try_into().map_err(|_| malformed())?,
        root: TreeHash::from_bytes(root.try_into().map_err(|_| malformed())?),
        kind: row.try_get(3)?,
        receipt: row.try_get(4)?,
        kept_at: row.try_get(5)?,
    })
}
