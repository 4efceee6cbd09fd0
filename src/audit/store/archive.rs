//! What may be archived, what was, and its removal.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::audit::keys::Tag;
use crate::audit::store::checkpoint::RangeRow;
use crate::ids::{EventId, TenantId};
use crate::store::{InStore as _, Store, StoreError};
use crate::time::Timestamp;

/// The most ranges that one statement reads.
pub(in crate::audit) const PAGE: usize = 1_000;

/// What is in a range, looked at before it is archived.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Inspected {
    pub(in crate::audit) entries: u64,
    /// How many may be removed: neither the last nor of a kind that stays.
    pub(in crate::audit) removable: u64,
    pub(in crate::audit) youngest: Timestamp,
    pub(in crate::audit) young: bool,
    pub(in crate::audit) held: bool,
}

/// An archive as it is stored.
#[derive(Clone, Debug)]
pub(in crate::audit) struct ArchiveRow {
    pub(in crate::audit) id: EventId,
    pub(in crate::audit) file_name: String,
    pub(in crate::audit) sha256: Tag,
    pub(in crate::audit) entries: u64,
    pub(in crate::audit) tree_size: u64,
    pub(in crate::audit) first_event: EventId,
    pub(in crate::audit) last_event: EventId,
}

/// A range that is marked as archived.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct MarkRow {
    pub(in crate::audit) archive: EventId,
    pub(in crate::audit) first_leaf: u64,
    /// Chain, first and last entry; `None` if no such range is stored.
    pub(in crate::audit) range: Option<(i32, u64, u64)>,
}

/// The next ranges from a leaf on that are under a tree of `size`, not archived yet, and end with an
/// entry that is old enough.
pub(in crate::audit) async fn list_candidates(
    store: &Store,
    (from_leaf, size): (u64, u64),
    months: u32,
) -> Result<Vec<RangeRow>, StoreError> {
    let work = || async {
        let rows = sqlx::query(
            "SELECT r.first_leaf, r.chain_no, r.from_seq, r.to_seq, r.to_mac
               FROM portcullis.checkpoint_ranges r
               JOIN portcullis.entries e
                 ON e.tenant_id = r.tenant_id AND e.chain_no = r.chain_no AND e.seq = r.to_seq
              WHERE r.tenant_id = $1
                AND r.first_leaf >= $2
                AND r.first_leaf + (r.to_seq - r.from_seq) < $3
                AND r.to_seq > r.from_seq
                AND (e.recorded_at AT TIME ZONE 'UTC' + make_interval(months => $4)) AT TIME ZONE 'UTC'
                    <= coalesce($5, now())
                AND NOT EXISTS (SELECT
                                  FROM portcullis.archive_ranges m
                                 WHERE m.tenant_id = r.tenant_id AND m.first_leaf = r.first_leaf)
              ORDER BY r.first_leaf
              LIMIT 1000",
        )
        .bind(store.tenant().as_str())
        .bind(from_leaf.cast_signed())
        .bind(size.cast_signed())
        .bind(months.cast_signed())
        .bind(store.database_now())
        .persistent(false)
        .fetch_all_in(store)
        .await?;
        rows.iter().map(range).collect()
    };
    store
        .run_idempotent("look for entries to archive", work)
        .await
}

/// Looks at every entry of a range.
pub(in crate::audit) async fn inspect_range(
    store: &Store,
    range: &RangeRow,
    months: u32,
) -> Result<Inspected, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT count(e.seq),
                    count(e.seq) FILTER (WHERE e.seq < $4 AND e.kind <> ALL (portcullis.kept_kinds())),
                    coalesce(max(greatest(e.recorded_at, e.occurred_at)), 'epoch'),
                    coalesce(bool_or((greatest(e.recorded_at, e.occurred_at) AT TIME ZONE 'UTC'
                                      + make_interval(months => $5)) AT TIME ZONE 'UTC'
                                     > coalesce($6, now())), true),
                    coalesce(bool_or(EXISTS (
                        SELECT
                          FROM portcullis.legal_holds h
                         WHERE h.tenant_id = e.tenant_id
                           AND h.released_at IS NULL
                           AND (h.session_id IS NULL OR h.session_id = e.session_id)
                           AND (h.agent_id IS NULL OR h.agent_id = e.agent_id)
                           AND (h.from_time IS NULL
                                OR h.from_time <= greatest(e.recorded_at, e.occurred_at))
                           AND (h.to_time IS NULL
                                OR h.to_time > least(e.recorded_at, e.occurred_at)))), false)
               FROM portcullis.entries e
              WHERE e.tenant_id = $1 AND e.chain_no = $2 AND e.seq >= $3 AND e.seq <= $4",
        )
        .bind(store.tenant().as_str())
        .bind(range.chain_no)
        .bind(range.from_seq.cast_signed())
        .bind(range.to_seq.cast_signed())
        .bind(months.cast_signed())
        .bind(store.database_now())
        .persistent(false)
        .fetch_optional_in(store)
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
        Ok(Inspected {
            entries: count(&row, 0)?,
            removable: count(&row, 1)?,
            youngest: row.try_get(2)?,
            young: row.try_get(3)?,
            held: row.try_get(4)?,
        })
    };
    store.run_idempotent("look into a range", work).await
}

/// Marks the ranges of an archive, in the caller's transaction, and keeps the MAC before each entry
/// that stays: it may go, and which ones stay is on record.
pub(in crate::audit) async fn insert_archive_in_tx(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    archive: &ArchiveRow,
    first_leaves: &[u64],
    now: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.archives
                (tenant_id, archive_id, file_name, sha256, entries, tree_size, first_event,
                 last_event, archived_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, now()))",
    )
    .bind(tenant.as_str())
    .bind(archive.id.as_uuid())
    .bind(&archive.file_name)
    .bind(archive.sha256.as_slice())
    .bind(archive.entries.cast_signed())
    .bind(archive.tree_size.cast_signed())
    .bind(archive.first_event.as_uuid())
    .bind(archive.last_event.as_uuid())
    .bind(now)
    .persistent(false)
    .execute(&mut *transaction)
    .await?;
    let leaves: Vec<i64> = first_leaves.iter().map(|leaf| leaf.cast_signed()).collect();
    sqlx::query(
        "INSERT INTO portcullis.archive_ranges (tenant_id, first_leaf, archive_id)
         SELECT $1, w.first_leaf, $3
           FROM unnest($2::bigint[]) AS w (first_leaf)",
    )
    .bind(tenant.as_str())
    .bind(&leaves)
    .bind(archive.id.as_uuid())
    .persistent(false)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO portcullis.archive_links (tenant_id, chain_no, seq, previous_mac)
         SELECT k.tenant_id, k.chain_no, k.seq, b.mac
           FROM unnest($2::bigint[]) AS w (first_leaf)
           JOIN portcullis.checkpoint_ranges r
             ON r.tenant_id = $1 AND r.first_leaf = w.first_leaf
           JOIN portcullis.entries k
             ON k.tenant_id = $1 AND k.chain_no = r.chain_no
            AND k.seq >= r.from_seq AND k.seq <= r.to_seq
           JOIN portcullis.entries b
             ON b.tenant_id = $1 AND b.chain_no = k.chain_no AND b.seq = k.seq - 1
          WHERE k.seq = r.to_seq OR k.kind = ANY (portcullis.kept_kinds())",
    )
    .bind(tenant.as_str())
    .bind(&leaves)
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// Whether an open hold has an entry of the ranges.
pub(in crate::audit) async fn is_held_in_tx(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    first_leaves: &[u64],
) -> Result<bool, sqlx::Error> {
    let leaves: Vec<i64> = first_leaves.iter().map(|leaf| leaf.cast_signed()).collect();
    sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT
               FROM unnest($2::bigint[]) AS w (first_leaf)
               JOIN portcullis.checkpoint_ranges r
                 ON r.tenant_id = $1 AND r.first_leaf = w.first_leaf
               JOIN portcullis.entries e
                 ON e.tenant_id = $1 AND e.chain_no = r.chain_no
                AND e.seq >= r.from_seq AND e.seq <= r.to_seq
               JOIN portcullis.legal_holds h
                 ON h.tenant_id = $1
                AND h.released_at IS NULL
                AND (h.session_id IS NULL OR h.session_id = e.session_id)
                AND (h.agent_id IS NULL OR h.agent_id = e.agent_id)
                AND (h.from_time IS NULL OR h.from_time <= greatest(e.recorded_at, e.occurred_at))
                AND (h.to_time IS NULL OR h.to_time > least(e.recorded_at, e.occurred_at)))",
    )
    .bind(tenant.as_str())
    .bind(&leaves)
    .persistent(false)
    .fetch_one(transaction)
    .await
}

/// When the youngest entry was recorded that stayed at the end of an archive's ranges.
pub(in crate::audit) async fn list_youngest(
    store: &Store,
) -> Result<Vec<(EventId, Timestamp)>, StoreError> {
    let work = || async {
        let rows = sqlx::query(
            "SELECT m.archive_id, max(e.recorded_at)
               FROM portcullis.archive_ranges m
               JOIN portcullis.checkpoint_ranges r
                 ON r.tenant_id = m.tenant_id AND r.first_leaf = m.first_leaf
               JOIN portcullis.entries e
                 ON e.tenant_id = m.tenant_id AND e.chain_no = r.chain_no AND e.seq = r.to_seq
              WHERE m.tenant_id = $1
              GROUP BY m.archive_id",
        )
        .bind(store.tenant().as_str())
        .persistent(false)
        .fetch_all_in(store)
        .await?;
        let read = |row: &PgRow| Ok((EventId::from_uuid(row.try_get(0)?), row.try_get(1)?));
        rows.iter().map(read).collect()
    };
    store.run_idempotent("read what is archived", work).await
}

/// Removes the entries of ranges that are marked, as a whole or not at all; says how many.
//
// Nothing is decided here: the trigger looks at what is gone, under the tenant's guard, after
// whoever sets a hold now or before.
pub(in crate::audit) async fn delete_ranges(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    first_leaves: &[u64],
) -> Result<u64, sqlx::Error> {
    let leaves: Vec<i64> = first_leaves.iter().map(|leaf| leaf.cast_signed()).collect();
    let removed = sqlx::query(
        "DELETE FROM portcullis.entries e
          USING portcullis.checkpoint_ranges r
          WHERE e.tenant_id = $1
            AND r.tenant_id = $1
            AND r.first_leaf = ANY ($2::bigint[])
            AND e.chain_no = r.chain_no
            AND e.seq >= r.from_seq
            AND e.seq < r.to_seq
            AND e.kind <> ALL (portcullis.kept_kinds())",
    )
    .bind(tenant.as_str())
    .bind(&leaves)
    .persistent(false)
    .execute(transaction)
    .await?;
    Ok(removed.rows_affected())
}

/// The archives that have a range of which something is still there to be removed.
pub(in crate::audit) async fn list_pending(store: &Store) -> Result<Vec<ArchiveRow>, StoreError> {
    let work = || async {
        let rows = sqlx::query(
            "SELECT a.archive_id, a.file_name, a.sha256, a.entries, a.tree_size, a.first_event, a.last_event
               FROM portcullis.archives a
              WHERE a.tenant_id = $1
                AND EXISTS (SELECT
                              FROM portcullis.archive_ranges m
                              JOIN portcullis.checkpoint_ranges r
                                ON r.tenant_id = $1 AND r.first_leaf = m.first_leaf
                              JOIN portcullis.entries e
                                ON e.tenant_id = $1 AND e.chain_no = r.chain_no
                               AND e.seq >= r.from_seq AND e.seq < r.to_seq
                             WHERE m.tenant_id = $1
                               AND m.archive_id = a.archive_id
                               AND e.kind <> ALL (portcullis.kept_kinds()))
              ORDER BY a.archive_id",
        )
        .bind(store.tenant().as_str())
        .persistent(false)
        .fetch_all_in(store)
        .await?;
        rows.iter().map(archive).collect()
    };
    store
        .run_idempotent("look for archives that are not removed yet", work)
        .await
}

/// One archive.
pub(in crate::audit) async fn fetch_archive(
    store: &Store,
    id: EventId,
) -> Result<Option<ArchiveRow>, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT a.archive_id, a.file_name, a.sha256, a.entries, a.tree_size, a.first_event, a.last_event
               FROM portcullis.archives a
              WHERE a.tenant_id = $1 AND a.archive_id = $2",
        )
        .bind(store.tenant().as_str())
        .bind(id.as_uuid())
        .persistent(false)
        .fetch_optional_in(store)
        .await?;
        row.as_ref().map(archive).transpose()
    };
    store.run_idempotent("read an archive's record", work).await
}

/// The first archive that may hold an event, by the time in its id.
pub(in crate::audit) async fn fetch_archive_of(
    store: &Store,
    event: EventId,
) -> Result<Option<ArchiveRow>, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT a.archive_id, a.file_name, a.sha256, a.entries, a.tree_size, a.first_event, a.last_event
               FROM portcullis.archives a
              WHERE a.tenant_id = $1 AND a.first_event <= $2 AND a.last_event >= $2
              ORDER BY a.archive_id
              LIMIT 1",
        )
        .bind(store.tenant().as_str())
        .bind(event.as_uuid())
        .persistent(false)
        .fetch_optional_in(store)
        .await?;
        row.as_ref().map(archive).transpose()
    };
    store
        .run_idempotent("look for an event's archive", work)
        .await
}

/// The ranges that are marked as archived; of one archive, or of all.
pub(in crate::audit) async fn list_marks(
    store: &Store,
    of: Option<EventId>,
) -> Result<Vec<MarkRow>, StoreError> {
    let work = || async {
        let rows = sqlx::query(
            "SELECT m.archive_id, m.first_leaf, r.chain_no, r.from_seq, r.to_seq
               FROM portcullis.archive_ranges m
               LEFT JOIN portcullis.checkpoint_ranges r
                 ON r.tenant_id = m.tenant_id AND r.first_leaf = m.first_leaf
              WHERE m.tenant_id = $1 AND ($2::uuid IS NULL OR m.archive_id = $2)
              ORDER BY m.first_leaf",
        )
        .bind(store.tenant().as_str())
        .bind(of.map(EventId::as_uuid))
        .persistent(false)
        .fetch_all_in(store)
        .await?;
        rows.iter().map(mark).collect()
    };
    store.run_idempotent("read what is archived", work).await
}

/// How many entries are still there of the ranges of each archive.
pub(in crate::audit) async fn list_present(
    store: &Store,
) -> Result<Vec<(EventId, u64)>, StoreError> {
    let work = || async {
        let rows = sqlx::query(
            "SELECT m.archive_id, count(e.seq)
               FROM portcullis.archive_ranges m
               JOIN portcullis.checkpoint_ranges r
                 ON r.tenant_id = m.tenant_id AND r.first_leaf = m.first_leaf
               LEFT JOIN portcullis.entries e
                 ON e.tenant_id = m.tenant_id AND e.chain_no = r.chain_no
                AND e.seq >= r.from_seq AND e.seq <= r.to_seq
              WHERE m.tenant_id = $1
              GROUP BY m.archive_id",
        )
        .bind(store.tenant().as_str())
        .persistent(false)
        .fetch_all_in(store)
        .await?;
        let read = |row: &PgRow| Ok((EventId::from_uuid(row.try_get(0)?), count(row, 1)?));
        rows.iter().map(read).collect()
    };
    store.run_idempotent("read what is archived", work).await
}

/// The MACs before the entries that stay, each with its entry.
pub(in crate::audit) async fn list_links(
    store: &Store,
) -> Result<Vec<((i32, u64), Tag)>, StoreError> {
    let work = || async {
        let rows = sqlx::query(
            "SELECT l.chain_no, l.seq, l.previous_mac
               FROM portcullis.archive_links l
              WHERE l.tenant_id = $1",
        )
        .bind(store.tenant().as_str())
        .persistent(false)
        .fetch_all_in(store)
        .await?;
        let link = |row: &PgRow| Ok(((row.try_get(0)?, count(row, 1)?), tag(row, 2)?));
        rows.iter().map(link).collect()
    };
    store.run_idempotent("read what is archived", work).await
}

/// The ranges of one chain that are marked, and overlap with some of its entries.
pub(in crate::audit) async fn list_marked_in(
    store: &Store,
    chain_no: i32,
    (from, to): (i64, i64),
) -> Result<Vec<(i64, i64)>, StoreError> {
    let work = || async {
        sqlx::query_as(
            "SELECT r.from_seq, r.to_seq
               FROM portcullis.checkpoint_ranges r
               JOIN portcullis.archive_ranges m
                 ON m.tenant_id = r.tenant_id AND m.first_leaf = r.first_leaf
              WHERE r.tenant_id = $1 AND r.chain_no = $2 AND r.from_seq <= $4 AND r.to_seq >= $3
              ORDER BY r.from_seq",
        )
        .bind(store.tenant().as_str())
        .bind(chain_no)
        .bind(from)
        .bind(to)
        .persistent(false)
        .fetch_all_in(store)
        .await
    };
    store.run_idempotent("read what is archived", work).await
}

fn range(row: &PgRow) -> Result<RangeRow, sqlx::Error> {
    Ok(RangeRow {
        first_leaf: count(row, 0)?,
        chain_no: row.try_get(1)?,
        from_seq: count(row, 2)?,
        to_seq: count(row, 3)?,
        to_mac: tag(row, 4)?,
    })
}

fn archive(row: &PgRow) -> Result<ArchiveRow, sqlx::Error> {
    Ok(ArchiveRow {
        id: EventId::from_uuid(row.try_get(0)?),
        file_name: row.try_get(1)?,
        sha256: tag(row, 2)?,
        entries: count(row, 3)?,
        tree_size: count(row, 4)?,
        first_event: EventId::from_uuid(row.try_get(5)?),
        last_event: EventId::from_uuid(row.try_get(6)?),
    })
}

fn mark(row: &PgRow) -> Result<MarkRow, sqlx::Error> {
    let range = match row.try_get::<Option<i32>, _>(2)? {
        Some(chain_no) => Some((chain_no, count(row, 3)?, count(row, 4)?)),
        None => None,
    };
    Ok(MarkRow {
        archive: EventId::from_uuid(row.try_get(0)?),
        first_leaf: count(row, 1)?,
        range,
    })
}

fn tag(row: &PgRow, column: usize) -> Result<Tag, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(|_| malformed())
}

fn count(row: &PgRow, column: usize) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    number.try_into().map_err(|_| malformed())
}

fn malformed() -> sqlx::Error {
    sqlx::Error::Decode("the record of an archive is malformed".into())
}
