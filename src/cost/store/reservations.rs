//! Reservations, one at a time and by their leases.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{CostStore, largest, maybe, parsed};
use crate::ids::{AgentId, ModelName, ReservationId, SessionId, UserId};
use crate::money::Usd;
use crate::store::{InStore as _, StoreError};
use crate::time::Timestamp;

/// The most leases that one statement sweeps.
const SWEPT_AT_ONCE: i64 = 500;

/// Whose reservation it is, and for what.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Stored {
    pub(in crate::cost) agent: AgentId,
    pub(in crate::cost) session: SessionId,
    pub(in crate::cost) user: Option<UserId>,
    pub(in crate::cost) model: Option<ModelName>,
    pub(in crate::cost) provider: Option<String>,
    pub(in crate::cost) reserved_at: Timestamp,
}

/// A reservation whose lease ran out.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Swept {
    pub(in crate::cost) id: ReservationId,
    pub(in crate::cost) stored: Stored,
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) tokens: i64,
}

impl CostStore {
    /// Whose reservation it is, and for what.
    pub(in crate::cost) async fn fetch_reservation(
        &self,
        id: ReservationId,
    ) -> Result<Option<Stored>, StoreError> {
        self.store
            .run_idempotent("read a reservation", || async move {
                sqlx::query(
                    "SELECT agent_id, session_id, user_id, model, provider, reserved_at
                       FROM portcullis.reservations
                      WHERE tenant_id = $1 AND reservation_id = $2",
                )
                .bind(self.tenant())
                .bind(id.as_uuid())
                .fetch_optional_in(&self.store)
                .await?
                .map(|row| stored(&row))
                .transpose()
            })
            .await
    }

    /// Marks reservations whose lease has run out as unknown; a few hundred at a time. They stay
    /// charged, so no window changes.
    //
    // Safe under concurrency: each row is changed, and so reported, by the one sweeper that locked it
    // while it was held; the others pass over it.
    pub(in crate::cost) async fn try_sweep(&self, by: Uuid) -> Result<Vec<Swept>, StoreError> {
        self.store
            .run("sweep expired reservations", || async move {
                sqlx::query(
                    "WITH due AS MATERIALIZED (
                         SELECT reservation_id
                           FROM portcullis.reservations
                          WHERE tenant_id = $1::text AND state = 'held'
                            AND lease_until < coalesce($2::timestamptz, now())
                          ORDER BY lease_until
                          LIMIT $4
                            FOR NO KEY UPDATE SKIP LOCKED
                     )
                     UPDATE portcullis.reservations r
                        SET state = 'unknown', ended_at = coalesce($2, now()), ended_by = $3
                       FROM due
                      WHERE r.tenant_id = $1 AND r.reservation_id = due.reservation_id
                     RETURNING r.reservation_id, r.agent_id, r.session_id, r.user_id, r.model,
                               r.provider, r.reserved_at, r.charged_tokens, r.charged_usd",
                )
                .bind(self.tenant())
                .bind(self.store.database_now())
                .bind(by)
                .bind(SWEPT_AT_ONCE)
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(|row| {
                    Ok(Swept {
                        id: ReservationId::from_uuid(row.try_get("reservation_id")?),
                        stored: stored(row)?,
                        usd: largest(row.try_get::<Vec<Usd>, _>("charged_usd")?),
                        tokens: row.try_get("charged_tokens")?,
                    })
                })
                .collect()
            })
            .await
    }
}

pub(in crate::cost) fn stored(row: &PgRow) -> Result<Stored, sqlx::Error> {
    Ok(Stored {
        agent: parsed(row, "agent_id")?,
        session: parsed(row, "session_id")?,
        user: maybe(row, "user_id")?,
        model: maybe(row, "model")?,
        provider: row.try_get("provider")?,
        reserved_at: row.try_get("reserved_at")?,
    })
}
