//! What was published outside of the database.

use sqlx::Row as _;

use crate::store::{ExecuteIn as _, InStore as _, Store, StoreError};
use crate::time::Timestamp;
use crate::tlog::TreeHash;

/// What one anchor answered to one checkpoint.
#[derive(Clone, Debug)]
pub(in crate::audit) struct ReceiptRow<'r> {
    pub(in crate::audit) anchor: &'r str,
    pub(in crate::audit) size: u64,
    pub(in crate::audit) root: TreeHash,
    pub(in crate::audit) kind: &'r str,
    pub(in crate::audit) receipt: &'r [u8],
}

/// Remembers a receipt. Of two for one checkpoint the first stays: it is the older witness.
pub(in crate::audit) async fn insert_receipt(
    store: &Store,
    row: &ReceiptRow<'_>,
) -> Result<(), StoreError> {
    let work = || async {
        sqlx::query(
            "INSERT INTO portcullis.anchor_receipts
                    (tenant_id, anchor, size, root, kind, receipt, kept_at)
             VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()))
             ON CONFLICT (tenant_id, anchor, size) DO NOTHING",
        )
        .bind(store.tenant().as_str())
        .bind(row.anchor)
        .bind(row.size.cast_signed())
        .bind(row.root.as_bytes().as_slice())
        .bind(row.kind)
        .bind(row.receipt)
        .bind(store.database_now())
        .execute_in(store)
        .await
        .map(drop)
    };
    store
        .run_idempotent("remember what an anchor answered", work)
        .await
}

/// When the first checkpoint of more than `size` entries was made.
pub(in crate::audit) async fn fetch_first_missed(
    store: &Store,
    size: u64,
) -> Result<Option<Timestamp>, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT c.made_at
               FROM portcullis.checkpoints c
              WHERE c.tenant_id = $1 AND c.size > $2
              ORDER BY c.size
              LIMIT 1",
        )
        .bind(store.tenant().as_str())
        .bind(size.cast_signed())
        .fetch_optional_in(store)
        .await?;
        row.map(|row| row.try_get(0)).transpose()
    };
    store
        .run_idempotent("read what was not published", work)
        .await
}

/// The size of the last tree that `anchor` took, as far as we remember.
pub(in crate::audit) async fn fetch_last_published(
    store: &Store,
    anchor: &str,
) -> Result<Option<u64>, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT r.size
               FROM portcullis.anchor_receipts r
              WHERE r.tenant_id = $1 AND r.anchor = $2
              ORDER BY r.size DESC
              LIMIT 1",
        )
        .bind(store.tenant().as_str())
        .bind(anchor)
        .fetch_optional_in(store)
        .await?;
        row.map(|row| row.try_get::<i64, _>(0).map(i64::cast_unsigned))
            .transpose()
    };
    store.run_idempotent("read what was published", work).await
}
