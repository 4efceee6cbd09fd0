//! The statements on signed heads. Appending one is part of the append: see [`append`](super::append).

use sqlx::PgConnection;

use crate::audit::keys::Tag;
use crate::audit::model::Signed;
use crate::ids::TenantId;
use crate::store::StoreError;
use crate::time::Timestamp;

/// How many are read at once.
pub(in crate::audit) const PAGE: usize = 10_000;

/// A signed head as it is stored, and the entry that it ends with.
#[derive(Clone, Debug)]
pub(in crate::audit) struct HeadRow {
    pub(in crate::audit) seq: i64,
    pub(in crate::audit) key: Vec<u8>,
    pub(in crate::audit) signature: Vec<u8>,
    /// `None` if there is no such entry, or its MAC is none.
    pub(in crate::audit) last: Option<(Tag, Timestamp)>,
}

type Row = (i64, Vec<u8>, Vec<u8>, Option<Vec<u8>>, Option<Timestamp>);

/// The signed heads of a chain after a place, up to another, in order.
//
// Each entry is looked up by its place: a join, planned without statistics, reads the whole chain.
pub(in crate::audit) async fn list_heads(
    connection: &mut PgConnection,
    tenant: &TenantId,
    chain_no: i32,
    after: i64,
    to: i64,
) -> Result<Vec<HeadRow>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT h.seq, h.key, h.signature, last.mac, last.recorded_at
           FROM portcullis.head_signatures h
           LEFT JOIN LATERAL (
             SELECT e.mac, e.recorded_at
               FROM portcullis.entries e
              WHERE e.tenant_id = h.tenant_id AND e.chain_no = h.chain_no AND e.seq = h.seq
              LIMIT 1) last ON true
          WHERE h.tenant_id = $1
            AND h.chain_no = $2
            AND h.seq > $3
            AND h.seq <= $4
          ORDER BY h.seq
          LIMIT 10000",
    )
    .bind(tenant.as_str())
    .bind(chain_no)
    .bind(after)
    .bind(to)
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("read the signed heads"))?;
    let read = |(seq, key, signature, mac, recorded): Row| HeadRow {
        seq,
        key,
        signature,
        last: mac.and_then(|mac| mac.try_into().ok()).zip(recorded),
    };
    Ok(rows.into_iter().map(read).collect())
}

/// The first entry of a chain after `after` and up to `to` that was recorded later than `since`.
pub(in crate::audit) async fn fetch_first_since(
    connection: &mut PgConnection,
    tenant: &TenantId,
    chain_no: i32,
    (after, to): (i64, i64),
    since: Timestamp,
) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar(
        "SELECT e.seq
           FROM portcullis.entries e
          WHERE e.tenant_id = $1
            AND e.chain_no = $2
            AND e.seq > $3
            AND e.seq <= $4
            AND e.recorded_at > $5
          ORDER BY e.seq
          LIMIT 1",
    )
    .bind(tenant.as_str())
    .bind(chain_no)
    .bind(after)
    .bind(to)
    .bind(since)
    .persistent(false)
    .fetch_optional(connection)
    .await
    .map_err(StoreError::during(
        "find entries after the last signed head",
    ))
}

/// Puts the signature of a head beside entries that the transaction has just appended.
pub(in crate::audit) async fn insert(
    transaction: &mut PgConnection,
    tenant: &str,
    chain_no: i32,
    seq: i64,
    signed: &Signed,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.head_signatures (tenant_id, chain_no, seq, key, signature)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(tenant)
    .bind(chain_no)
    .bind(seq)
    .bind(signed.key.as_slice())
    .bind(signed.signature.as_slice())
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}
