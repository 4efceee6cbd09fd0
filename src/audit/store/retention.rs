//! The retention policy and the legal holds.
//!
//! Every change of them rewrites the tenant's row in `portcullis.retention_guards` (by triggers, so
//! that nobody can forget it), which whoever removes entries has locked: it is before or after.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::columns::columns;
use super::read::{Fetched, previous};
use crate::ids::{EventId, TenantId};
use crate::store::{InStore as _, Store, StoreError};
use crate::time::Timestamp;

/// A version of the policy.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct PolicyRow {
    pub(in crate::audit) min_months: u32,
    pub(in crate::audit) max_months: Option<u32>,
    pub(in crate::audit) set_at: Timestamp,
}

/// A hold as it is stored.
#[derive(Clone, Debug)]
pub(in crate::audit) struct HoldRow {
    pub(in crate::audit) id: EventId,
    pub(in crate::audit) session: Option<String>,
    pub(in crate::audit) agent: Option<String>,
    pub(in crate::audit) from: Option<Timestamp>,
    pub(in crate::audit) to: Option<Timestamp>,
    pub(in crate::audit) set_at: Timestamp,
}

/// The policy in force.
pub(in crate::audit) async fn fetch_policy(store: &Store) -> Result<Option<PolicyRow>, StoreError> {
    let work = || async {
        let row = sqlx::query(
            "SELECT p.min_months, p.max_months, p.set_at
               FROM portcullis.retention_policies p
              WHERE p.tenant_id = $1
              ORDER BY p.version DESC
              LIMIT 1",
        )
        .bind(store.tenant().as_str())
        .persistent(false)
        .fetch_optional_in(store)
        .await?;
        row.as_ref().map(policy).transpose()
    };
    store
        .run_idempotent("read the retention policy", work)
        .await
}

fn policy(row: &PgRow) -> Result<PolicyRow, sqlx::Error> {
    let months = |n: i32| u32::try_from(n).map_err(|_| malformed());
    Ok(PolicyRow {
        min_months: months(row.try_get(0)?)?,
        max_months: row.try_get::<Option<i32>, _>(1)?.map(months).transpose()?,
        set_at: row.try_get(2)?,
    })
}

/// Makes a policy the newest one, in the caller's transaction.
//
// Two at once take the same number; the second waits for the first at the guard, and fails by the
// primary key.
pub(in crate::audit) async fn insert_policy_in_tx(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    (min_months, max_months): (u32, Option<u32>),
    event: EventId,
    now: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.retention_policies
                (tenant_id, version, min_months, max_months, set_at, event_id)
         SELECT $1, coalesce(max(p.version), 0) + 1, $2, $3, coalesce($4, now()), $5
           FROM portcullis.retention_policies p
          WHERE p.tenant_id = $1",
    )
    .bind(tenant.as_str())
    .bind(min_months.cast_signed())
    .bind(max_months.map(u32::cast_signed))
    .bind(now)
    .bind(event.as_uuid())
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// Sets a hold, in the caller's transaction. Waits for a removal that is under way.
pub(in crate::audit) async fn insert_hold_in_tx(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    hold: &HoldRow,
    now: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.legal_holds
                (tenant_id, hold_id, session_id, agent_id, from_time, to_time, set_at)
         VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()))",
    )
    .bind(tenant.as_str())
    .bind(hold.id.as_uuid())
    .bind(hold.session.as_deref())
    .bind(hold.agent.as_deref())
    .bind(hold.from)
    .bind(hold.to)
    .bind(now)
    .persistent(false)
    .execute(transaction)
    .await
    .map(drop)
}

/// Releases a hold that is open, in the caller's transaction; says whether there was one.
pub(in crate::audit) async fn try_release_in_tx(
    transaction: &mut PgConnection,
    tenant: &TenantId,
    hold: EventId,
    event: EventId,
    now: Option<Timestamp>,
) -> Result<bool, sqlx::Error> {
    let released = sqlx::query(
        "UPDATE portcullis.legal_holds
            SET released_at = coalesce($3, now()), release_event = $4
          WHERE tenant_id = $1 AND hold_id = $2 AND released_at IS NULL",
    )
    .bind(tenant.as_str())
    .bind(hold.as_uuid())
    .bind(now)
    .bind(event.as_uuid())
    .persistent(false)
    .execute(transaction)
    .await?;
    Ok(released.rows_affected() == 1)
}

/// The holds that are open, oldest first.
pub(in crate::audit) async fn list_open_holds(
    transaction: &mut PgConnection,
    tenant: &TenantId,
) -> Result<Vec<HoldRow>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT h.hold_id, h.session_id, h.agent_id, h.from_time, h.to_time, h.set_at
           FROM portcullis.legal_holds h
          WHERE h.tenant_id = $1 AND h.released_at IS NULL
          ORDER BY h.set_at, h.hold_id",
    )
    .bind(tenant.as_str())
    .persistent(false)
    .fetch_all(transaction)
    .await?;
    rows.iter().map(hold).collect()
}

fn hold(row: &PgRow) -> Result<HoldRow, sqlx::Error> {
    Ok(HoldRow {
        id: EventId::from_uuid(row.try_get(0)?),
        session: row.try_get(1)?,
        agent: row.try_get(2)?,
        from: row.try_get(3)?,
        to: row.try_get(4)?,
        set_at: row.try_get(5)?,
    })
}

/// Every entry that says something of retention, each with the MAC before it, in their order.
pub(in crate::audit) async fn list_retention_entries(
    store: &Store,
) -> Result<Vec<Fetched>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!("e"),
        ", ",
        previous!("true"),
        "
           FROM portcullis.entries e
          WHERE e.tenant_id = $1
            AND e.kind IN ('legal_hold.released', 'legal_hold.set', 'retention.policy_set', 'retention.purged')
          ORDER BY e.recorded_at, e.chain_no, e.seq"
    );
    let work = || async {
        sqlx::query(SQL)
            .bind(store.tenant().as_str())
            .persistent(false)
            .fetch_all_in(store)
            .await
    };
    let rows = store
        .run_idempotent("read what is on record of retention", work)
        .await?;
    Ok(rows.into_iter().map(|row| Fetched::new(row, 0)).collect())
}

/// When the trail began, as its entries say; `None` if it is empty.
pub(in crate::audit) async fn fetch_beginning(
    store: &Store,
) -> Result<Option<Timestamp>, StoreError> {
    let work = || async {
        let row: Option<(Timestamp,)> = sqlx::query_as(
            "SELECT e.recorded_at
               FROM portcullis.entries e
              WHERE e.tenant_id = $1
              ORDER BY e.recorded_at
              LIMIT 1",
        )
        .bind(store.tenant().as_str())
        .persistent(false)
        .fetch_optional_in(store)
        .await?;
        Ok(row.map(|(first,)| first))
    };
    store
        .run_idempotent("read when the trail began", work)
        .await
}

fn malformed() -> sqlx::Error {
    sqlx::Error::Decode("a retention policy is malformed".into())
}
