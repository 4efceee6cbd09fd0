//! The tree of a tenant's entries, as it is stored: ranges, tiles, signed checkpoints.
//!
//! What makes a checkpoint holds the lock of the tenant's row in `portcullis.trees` from before it
//! reads until it commits, so there is one at a time, across processes. Ranges, tiles, checkpoint
//! and the tree's new size and root are one transaction: each of them is there, or none.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{PgExecutor, Row as _};

use crate::audit::keys::Tag;
use crate::ids::TenantId;
use crate::store::{InStore as _, Store, StoreError};
use crate::time::Timestamp;
use crate::tlog::{Tile, TreeHash};

/// The tree as it was last signed.
#[derive(Clone, Debug)]
pub(in crate::audit) struct TreeRow {
    pub(in crate::audit) origin: String,
    pub(in crate::audit) size: u64,
    pub(in crate::audit) root: TreeHash,
}

/// A range of a chain, and where it stands in the tree.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct RangeRow {
    pub(in crate::audit) first_leaf: u64,
    pub(in crate::audit) chain_no: i32,
    pub(in crate::audit) from_seq: u64,
    pub(in crate::audit) to_seq: u64,
    pub(in crate::audit) to_mac: Tag,
}

/// A checkpoint as it is stored.
#[derive(Clone, Debug)]
pub(in crate::audit) struct CheckpointRow {
    pub(in crate::audit) size: u64,
    pub(in crate::audit) root: TreeHash,
    pub(in crate::audit) note: String,
}

/// Locks the tenant's tree, which is made if there is none; `None` if another tenant has `origin`.
//
// Waits for whoever makes a checkpoint now, for at most the statement's time limit. The row is
// read after the lock was had, so it is what the one before has committed.
pub(in crate::audit) async fn lock_tree(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    origin: &str,
    empty: &TreeHash,
) -> Result<Option<TreeRow>, sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.trees (tenant_id, origin, size, root)
         VALUES ($1, $2, 0, $3)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(origin)
    .bind(empty.as_bytes().as_slice())
    .persistent(false)
    .execute(&mut *transaction)
    .await?;
    let row = sqlx::query(
        "SELECT t.origin, t.size, t.root
           FROM portcullis.trees t
          WHERE t.tenant_id = $1
            FOR UPDATE",
    )
    .bind(tenant.as_str())
    .persistent(false)
    .fetch_optional(transaction)
    .await?;
    row.map(|row| {
        Ok(TreeRow {
            origin: row.try_get(0)?,
            size: count(&row, 1)?,
            root: hash(&row, 2)?,
        })
    })
    .transpose()
}

/// The last range of each chain that stands before a leaf.
//
// The chains are found by hopping along the index, so that their many older ranges cost nothing.
pub(in crate::audit) async fn list_last_ranges(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    before: u64,
) -> Result<Vec<RangeRow>, sqlx::Error> {
    let rows = sqlx::query(
        "WITH RECURSIVE present (chain_no) AS (
             (SELECT r.chain_no
                FROM portcullis.checkpoint_ranges r
               WHERE r.tenant_id = $1
               ORDER BY r.chain_no
               LIMIT 1)
             UNION ALL
             SELECT (SELECT r.chain_no
                       FROM portcullis.checkpoint_ranges r
                      WHERE r.tenant_id = $1 AND r.chain_no > p.chain_no
                      ORDER BY r.chain_no
                      LIMIT 1)
               FROM present p
              WHERE p.chain_no IS NOT NULL
         )
         SELECT last.first_leaf, p.chain_no, last.from_seq, last.to_seq, last.to_mac
           FROM present p
          CROSS JOIN LATERAL (
             SELECT r.first_leaf, r.from_seq, r.to_seq, r.to_mac
               FROM portcullis.checkpoint_ranges r
              WHERE r.tenant_id = $1 AND r.chain_no = p.chain_no AND r.first_leaf < $2
              ORDER BY r.from_seq DESC
              LIMIT 1) last
          ORDER BY p.chain_no",
    )
    .bind(tenant.as_str())
    .bind(i64::try_from(before).unwrap_or(i64::MAX))
    .persistent(false)
    .fetch_all(transaction)
    .await?;
    rows.iter().map(range).collect()
}

/// The range that holds an entry, if it is under a checkpoint.
pub(in crate::audit) async fn fetch_range_of(
    store: &Store,
    chain_no: u32,
    seq: u64,
) -> Result<Option<RangeRow>, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT r.first_leaf, r.chain_no, r.from_seq, r.to_seq, r.to_mac
               FROM portcullis.checkpoint_ranges r
              WHERE r.tenant_id = $1 AND r.chain_no = $2 AND r.from_seq <= $3 AND r.to_seq >= $3
              ORDER BY r.from_seq DESC
              LIMIT 1",
        )
        .bind(store.tenant().as_str())
        .bind(chain_no.cast_signed())
        .bind(seq.cast_signed())
        .persistent(false)
        .fetch_optional_in(store)
        .await?;
        row.as_ref().map(range).transpose()
    };
    store
        .run_idempotent("find an entry's place in the tree", work)
        .await
}

/// The newest checkpoint.
pub(in crate::audit) async fn fetch_last<'c>(
    executor: impl PgExecutor<'c>,
    tenant: &TenantId,
) -> Result<Option<CheckpointRow>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT c.size, c.root, c.note
           FROM portcullis.checkpoints c
          WHERE c.tenant_id = $1
          ORDER BY c.size DESC
          LIMIT 1",
    )
    .bind(tenant.as_str())
    .persistent(false)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(|row| checkpoint(row, 0)).transpose()
}

/// The checkpoint of a size.
pub(in crate::audit) async fn fetch_checkpoint<'c>(
    executor: impl PgExecutor<'c>,
    tenant: &TenantId,
    size: u64,
) -> Result<Option<CheckpointRow>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT c.size, c.root, c.note
           FROM portcullis.checkpoints c
          WHERE c.tenant_id = $1 AND c.size = $2",
    )
    .bind(tenant.as_str())
    .bind(size.cast_signed())
    .persistent(false)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(|row| checkpoint(row, 0)).transpose()
}

/// The hashes of these tiles, those that there are; as many as are stored, which may be more than
/// the tile is wide.
pub(in crate::audit) async fn list_tiles<'c>(
    executor: impl PgExecutor<'c>,
    tenant: &TenantId,
    tiles: &[Tile],
) -> Result<Vec<(u8, u64, Vec<TreeHash>)>, sqlx::Error> {
    let levels: Vec<i16> = tiles.iter().map(|tile| tile.level().into()).collect();
    let numbers: Vec<i64> = tiles
        .iter()
        .map(|tile| tile.number().cast_signed())
        .collect();
    let rows = sqlx::query(
        "SELECT t.level, t.tile_no, t.hashes
           FROM unnest($2::smallint[], $3::bigint[]) AS w (level, tile_no)
           JOIN portcullis.tree_tiles t
             ON t.tenant_id = $1 AND t.level = w.level AND t.tile_no = w.tile_no",
    )
    .bind(tenant.as_str())
    .bind(levels)
    .bind(numbers)
    .persistent(false)
    .fetch_all(executor)
    .await?;
    let read = |row: &PgRow| {
        let level: i16 = row.try_get(0)?;
        let bytes: &[u8] = row.try_get(2)?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        let level = u8::try_from(level).map_err(|_| malformed())?;
        let hashes = hashes.iter().copied().map(TreeHash::from_bytes);
        // Half a hash is a wrong one: then the tile is not as wide as it should be.
        let excess = (!rest.is_empty()).then(TreeHash::of_nothing);
        Ok((level, count(row, 1)?, hashes.chain(excess).collect()))
    };
    rows.iter().map(read).collect()
}

/// What one checkpoint adds.
#[derive(Debug)]
pub(in crate::audit) struct Growth<'g> {
    pub(in crate::audit) tenant: &'g TenantId,
    pub(in crate::audit) before: &'g TreeRow,
    pub(in crate::audit) ranges: &'g [RangeRow],
    pub(in crate::audit) tiles: &'g [(Tile, Vec<TreeHash>)],
    pub(in crate::audit) checkpoint: &'g CheckpointRow,
    pub(in crate::audit) made_at: Option<Timestamp>,
}

/// Stores a checkpoint with everything that it adds; `false` if the tree is not the one that it was
/// made from, which the lock rules out for as long as nobody writes past it.
pub(in crate::audit) async fn insert_checkpoint(
    transaction: &mut PgConnection,
    growth: &Growth<'_>,
) -> Result<bool, sqlx::Error> {
    insert_ranges(transaction, growth).await?;
    upsert_tiles(transaction, growth).await?;
    let (tenant, added) = (growth.tenant.as_str(), growth.checkpoint);
    sqlx::query(
        "INSERT INTO portcullis.checkpoints (tenant_id, size, root, note, made_at)
         VALUES ($1, $2, $3, $4, coalesce($5, now()))",
    )
    .bind(tenant)
    .bind(added.size.cast_signed())
    .bind(added.root.as_bytes().as_slice())
    .bind(&added.note)
    .bind(growth.made_at)
    .persistent(false)
    .execute(&mut *transaction)
    .await?;
    let advanced = sqlx::query(
        "UPDATE portcullis.trees
            SET size = $4, root = $5
          WHERE tenant_id = $1 AND size = $2 AND root = $3",
    )
    .bind(tenant)
    .bind(growth.before.size.cast_signed())
    .bind(growth.before.root.as_bytes().as_slice())
    .bind(added.size.cast_signed())
    .bind(added.root.as_bytes().as_slice())
    .persistent(false)
    .execute(transaction)
    .await?;
    Ok(advanced.rows_affected() == 1)
}

async fn insert_ranges(
    transaction: &mut PgConnection,
    growth: &Growth<'_>,
) -> Result<(), sqlx::Error> {
    let ranges = growth.ranges;
    let column = |of: fn(&RangeRow) -> u64| -> Vec<i64> {
        ranges.iter().map(|range| of(range).cast_signed()).collect()
    };
    sqlx::query(
        "INSERT INTO portcullis.checkpoint_ranges
                (tenant_id, first_leaf, chain_no, from_seq, to_seq, to_mac)
         SELECT $1, r.first_leaf, r.chain_no, r.from_seq, r.to_seq, r.to_mac
           FROM unnest($2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::bytea[])
                AS r (first_leaf, chain_no, from_seq, to_seq, to_mac)",
    )
    .bind(growth.tenant.as_str())
    .bind(column(|range| range.first_leaf))
    .bind(
        ranges
            .iter()
            .map(|range| range.chain_no)
            .collect::<Vec<_>>(),
    )
    .bind(column(|range| range.from_seq))
    .bind(column(|range| range.to_seq))
    .bind(
        ranges
            .iter()
            .map(|range| range.to_mac.to_vec())
            .collect::<Vec<_>>(),
    )
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

async fn upsert_tiles(
    transaction: &mut PgConnection,
    growth: &Growth<'_>,
) -> Result<(), sqlx::Error> {
    let tiles = growth.tiles;
    let bytes = |hashes: &Vec<TreeHash>| -> Vec<u8> {
        hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
    };
    sqlx::query(
        "INSERT INTO portcullis.tree_tiles (tenant_id, level, tile_no, hashes)
         SELECT $1, t.level, t.tile_no, t.hashes
           FROM unnest($2::smallint[], $3::bigint[], $4::bytea[]) AS t (level, tile_no, hashes)
             ON CONFLICT (tenant_id, level, tile_no) DO UPDATE
            SET hashes = excluded.hashes",
    )
    .bind(growth.tenant.as_str())
    .bind(
        tiles
            .iter()
            .map(|(tile, _)| tile.level().into())
            .collect::<Vec<i16>>(),
    )
    .bind(
        tiles
            .iter()
            .map(|(tile, _)| tile.number().cast_signed())
            .collect::<Vec<i64>>(),
    )
    .bind(
        tiles
            .iter()
            .map(|(_, hashes)| bytes(hashes))
            .collect::<Vec<_>>(),
    )
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// How many entries are under no checkpoint yet, and how old the last checkpoint is, in
/// milliseconds; `None` if there is none.
pub(in crate::audit) async fn fetch_backlog<'c>(
    executor: impl PgExecutor<'c>,
    tenant: &TenantId,
    now: Option<Timestamp>,
) -> Result<(u64, Option<u64>), sqlx::Error> {
    let row = sqlx::query(
        "SELECT coalesce((SELECT sum(c.next_seq - 1)
                            FROM portcullis.chains c
                           WHERE c.tenant_id = $1), 0)::bigint
              - coalesce(last.size, 0),
                (extract(epoch FROM coalesce($2, now()) - last.made_at) * 1000)::bigint
           FROM (SELECT 1) AS one
           LEFT JOIN LATERAL (
             SELECT k.size, k.made_at
               FROM portcullis.checkpoints k
              WHERE k.tenant_id = $1
              ORDER BY k.size DESC
              LIMIT 1) last ON true",
    )
    .bind(tenant.as_str())
    .bind(now)
    .persistent(false)
    .fetch_one(executor)
    .await?;
    let (entries, age): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    let at_least_none = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok((at_least_none(entries), age.map(at_least_none)))
}

pub(super) fn range(row: &PgRow) -> Result<RangeRow, sqlx::Error> {
    let to_mac: &[u8] = row.try_get(4)?;
    Ok(RangeRow {
        first_leaf: count(row, 0)?,
        chain_no: row.try_get(1)?,
        from_seq: count(row, 2)?,
        to_seq: count(row, 3)?,
        to_mac: to_mac.try_into().map_err(|_| malformed())?,
    })
}

pub(super) fn checkpoint(row: &PgRow, first: usize) -> Result<CheckpointRow, sqlx::Error> {
    Ok(CheckpointRow {
        size: count(row, first)?,
        root: hash(row, first + 1)?,
        note: row.try_get(first + 2)?,
    })
}

pub(super) fn count(row: &PgRow, column: usize) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    number.try_into().map_err(|_| malformed())
}

pub(super) fn hash(row: &PgRow, column: usize) -> Result<TreeHash, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    let bytes = bytes.try_into().map_err(|_| malformed())?;
    Ok(TreeHash::from_bytes(bytes))
}

fn malformed() -> sqlx::Error {
    sqlx::Error::Decode("a part of the tree is malformed".into())
}
