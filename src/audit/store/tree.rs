//! What a verification reads of the tree: nothing of it is believed, and nothing that was forged
//! keeps it from being read.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::checkpoint::{CheckpointRow, RangeRow, count, hash, range};
use crate::ids::TenantId;
use crate::store::StoreError;
use crate::tlog::TreeHash;

/// The most ranges that one statement reads.
pub(in crate::audit) const PAGE: usize = 1_000;

/// How far the tree went when it was looked at, and what its own row says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Extent {
    /// What the newest range and the newest checkpoint come to, whichever is more.
    pub(in crate::audit) size: u64,
    /// The size and root of the newest checkpoint.
    pub(in crate::audit) last: Option<(i64, Vec<u8>)>,
    /// Origin, size and root.
    pub(in crate::audit) tree: Option<(String, i64, Vec<u8>)>,
    /// How many tiles there are.
    pub(in crate::audit) tiles: u64,
}

/// How far the tree goes.
//
// One statement is one snapshot, and a checkpoint is one transaction. Sums that a forged row would
// make too large are cut off: the row is found out where it is read.
pub(in crate::audit) async fn fetch_extent(
    connection: &mut PgConnection,
    tenant: &TenantId,
) -> Result<Extent, StoreError> {
    type Row = (
        Option<i64>,
        Option<i64>,
        Option<Vec<u8>>,
        Option<String>,
        Option<i64>,
        Option<Vec<u8>>,
        i64,
    );
    let (ranged, last, last_root, origin, size, root, tiles): Row = sqlx::query_as(
        "SELECT ranged.size, last.size, last.root, t.origin, t.size, t.root,
                (SELECT count(*) FROM portcullis.tree_tiles n WHERE n.tenant_id = $1)
           FROM (SELECT 1) AS one
           LEFT JOIN portcullis.trees t
             ON t.tenant_id = $1
           LEFT JOIN LATERAL (
             SELECT c.size, c.root
               FROM portcullis.checkpoints c
              WHERE c.tenant_id = $1
              ORDER BY c.size DESC
              LIMIT 1) last ON true
           LEFT JOIN LATERAL (
             SELECT least(r.first_leaf, 1::bigint << 61)
                  + least(r.to_seq, 1::bigint << 61) - greatest(r.from_seq, 0) + 1 AS size
               FROM portcullis.checkpoint_ranges r
              WHERE r.tenant_id = $1
              ORDER BY r.first_leaf DESC
              LIMIT 1) ranged ON true",
    )
    .bind(tenant.as_str())
    .persistent(false)
    .fetch_one(connection)
    .await
    .map_err(StoreError::during("read how far the checkpoints go"))?;
    let at_least_none = |n: i64| u64::try_from(n).unwrap_or(0);
    let known = |n: Option<i64>| n.map_or(0, at_least_none);
    Ok(Extent {
        size: known(ranged).max(known(last)),
        last: last.map(|size| (size, last_root.unwrap_or_default())),
        tree: origin.map(|origin| (origin, size.unwrap_or(-1), root.unwrap_or_default())),
        tiles: at_least_none(tiles),
    })
}

/// The next ranges from a leaf on, each with the checkpoint at its end if there is one. What cannot
/// be read in them is nought, which is what they are found by.
pub(in crate::audit) async fn list_ranges(
    connection: &mut PgConnection,
    tenant: &TenantId,
    from_leaf: u64,
) -> Result<Vec<(RangeRow, Option<CheckpointRow>)>, StoreError> {
    let during = StoreError::during("read the checkpoints");
    let rows = sqlx::query(
        "SELECT r.first_leaf, r.chain_no, r.from_seq, r.to_seq, r.to_mac, c.size, c.root, c.note
           FROM portcullis.checkpoint_ranges r
           LEFT JOIN portcullis.checkpoints c
             ON c.tenant_id = r.tenant_id
            AND c.size = least(r.first_leaf, 1::bigint << 61)
                       + least(r.to_seq, 1::bigint << 61) - greatest(r.from_seq, 0) + 1
          WHERE r.tenant_id = $1 AND r.first_leaf >= $2
          ORDER BY r.first_leaf
          LIMIT 1000",
    )
    .bind(tenant.as_str())
    .bind(from_leaf.cast_signed())
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(&during)?;
    let read = |row: &PgRow| {
        let size: Option<i64> = row.try_get(5)?;
        let checkpoint = size.map(|size| CheckpointRow {
            size: u64::try_from(size).unwrap_or(0),
            root: hash(row, 6).unwrap_or(TreeHash::from_bytes([0; 32])),
            note: row.try_get(7).unwrap_or_default(),
        });
        Ok((any_range(row), checkpoint))
    };
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(during)
}

/// How many checkpoints there are of sizes above one and up to another.
pub(in crate::audit) async fn count_checkpoints(
    connection: &mut PgConnection,
    tenant: &TenantId,
    (above, to): (u64, u64),
) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(c.size)
           FROM portcullis.checkpoints c
          WHERE c.tenant_id = $1 AND ($2 = 0 OR c.size > $2) AND c.size <= $3",
    )
    .bind(tenant.as_str())
    .bind(above.cast_signed())
    .bind(to.cast_signed())
    .persistent(false)
    .fetch_one(connection)
    .await
    .map_err(StoreError::during("count the checkpoints"))?;
    Ok(count.cast_unsigned())
}

/// A range, be it one that was never written so.
fn any_range(row: &PgRow) -> RangeRow {
    RangeRow {
        first_leaf: count(row, 0).unwrap_or(0),
        chain_no: row.try_get(1).unwrap_or(0),
        from_seq: count(row, 2).unwrap_or(0),
        to_seq: count(row, 3).unwrap_or(0),
        to_mac: range(row).map_or([0; 32], |range| range.to_mac),
    }
}
