//! Using what was granted: held for a moment, then used or given back.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::GateStore;
use crate::ids::RequestId;
use crate::store::{ExecuteIn as _, InStore as _, StoreError};

/// For how long a call may be about to use an approval: longer than all gates behind it may take. If
/// its process dies meanwhile, the approval can be used again after that.
pub(in crate::gates) const HOLD: Duration = Duration::from_secs(30);

impl GateStore {
    /// Holds what was granted for this call, under this policy.
    //
    // Of those that race, the first locks the row and changes it; the others then see that it is
    // held, and change nothing.
    pub(in crate::gates) async fn try_take(
        &self,
        digest: &[u8; 32],
        policy_hash: &str,
        hold: Uuid,
    ) -> Result<Option<RequestId>, StoreError> {
        let hold_micros = i64::try_from(HOLD.as_micros()).unwrap_or(i64::MAX / 2);
        let work = async || {
            sqlx::query_as(
                "UPDATE portcullis.approval_requests
                    SET held_by = $4, held_until = coalesce($5, now()) + $6 * interval '1 microsecond'
                  WHERE tenant_id = $1
                    AND request_id = (SELECT r.request_id
                                        FROM portcullis.approval_requests r
                                       WHERE r.tenant_id = $1 AND r.approved_digest = $2
                                         AND r.state = 'granted' AND r.policy_hash = $3
                                         AND r.expires_at > coalesce($5, now())
                                         AND (r.held_until IS NULL OR r.held_until <= coalesce($5, now()))
                                       ORDER BY r.requested_at
                                       LIMIT 1)
                    AND state = 'granted' AND expires_at > coalesce($5, now())
                    AND (held_until IS NULL OR held_until <= coalesce($5, now()))
                 RETURNING request_id",
            )
            .bind(self.store.tenant().as_str())
            .bind(digest.as_slice())
            .bind(policy_hash)
            .bind(hold)
            .bind(self.store.database_now())
            .bind(hold_micros)
            .fetch_optional_in(&self.store)
            .await
        };
        let row: Option<(Uuid,)> = self.store.run("take an approval", work).await?;
        Ok(row.map(|(id,)| RequestId::from_uuid(id)))
    }

    /// Uses what is held; says whether it is used by this call now.
    //
    // Conditional on the hold: a call that was paused past it, and lost it to another one, changes
    // nothing. After a lost answer it is found to be used by this hold.
    pub(in crate::gates) async fn try_consume_in_tx(
        &self,
        tx: &mut PgConnection,
        id: RequestId,
        hold: Uuid,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE portcullis.approval_requests
                SET state = 'consumed', ended_at = coalesce($4, now())
              WHERE tenant_id = $1 AND request_id = $2 AND held_by = $3 AND state = 'granted'
                AND expires_at > coalesce($4, now())",
        )
        .bind(self.store.tenant().as_str())
        .bind(id.as_uuid())
        .bind(hold)
        .bind(self.store.database_now())
        .persistent(false)
        .execute(tx)
        .await
        .map_err(StoreError::during("use an approval"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives back what is held and was not used.
    pub(in crate::gates) async fn give_back(
        &self,
        id: RequestId,
        hold: Uuid,
    ) -> Result<(), StoreError> {
        let work = async || {
            sqlx::query(
                "UPDATE portcullis.approval_requests
                    SET held_by = NULL, held_until = NULL
                  WHERE tenant_id = $1 AND request_id = $2 AND held_by = $3 AND state = 'granted'",
            )
            .bind(self.store.tenant().as_str())
            .bind(id.as_uuid())
            .bind(hold)
            .execute_in(&self.store)
            .await
        };
        let operation = "give an approval back";
        self.store.run_idempotent(operation, work).await.map(drop)
    }
}
