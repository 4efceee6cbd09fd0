//! The entries that say which keys are whose.

use super::columns::columns;
use super::read::{Fetched, previous};
use crate::store::{InStore as _, Store, StoreError};

/// Every registration and revocation of the tenant, each with the MAC before it; registrations
/// first.
pub(in crate::audit) async fn list_key_entries(store: &Store) -> Result<Vec<Fetched>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!("e"),
        ", ",
        previous!("true"),
        "
           FROM portcullis.entries e
          WHERE e.tenant_id = $1
            AND e.kind IN ('identity.key_registered', 'identity.key_revoked')
          ORDER BY e.kind"
    );
    let work = || async {
        sqlx::query(SQL)
            .bind(store.tenant().as_str())
            .persistent(false)
            .fetch_all_in(store)
            .await
    };
    let rows = store.run_idempotent("read the agents' keys", work).await?;
    Ok(rows.into_iter().map(|row| Fetched::new(row, 0)).collect())
}
