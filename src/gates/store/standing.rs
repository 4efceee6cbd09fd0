//! What was agreed to in advance.

use sqlx::PgConnection;
use uuid::Uuid;

use super::GateStore;
use crate::ids::GrantId;
use crate::store::{InStore as _, StoreError};
use crate::time::Timestamp;

/// How many grants are listed at most.
const PAGE: i64 = 500;

/// The columns that a list of grants reads.
pub(in crate::gates) type StandingRow = (
    Uuid,
    String,
    Vec<String>,
    bool,
    String,
    i32,
    i32,
    Timestamp,
    Timestamp,
);

/// A grant to be stored.
#[derive(Debug)]
pub(in crate::gates) struct NewGrant<'g> {
    pub(in crate::gates) id: GrantId,
    pub(in crate::gates) agent: &'g str,
    pub(in crate::gates) tools: &'g [String],
    pub(in crate::gates) what: Option<[u8; 32]>,
    pub(in crate::gates) policy_hash: &'g str,
    pub(in crate::gates) granted_by: &'g str,
    pub(in crate::gates) voter: &'g str,
    pub(in crate::gates) uses: u32,
    pub(in crate::gates) life_micros: i64,
}

impl GateStore {
    pub(in crate::gates) async fn insert_grant_in_tx(
        &self,
        tx: &mut PgConnection,
        new: &NewGrant<'_>,
    ) -> Result<Timestamp, StoreError> {
        sqlx::query_scalar(
            "INSERT INTO portcullis.approval_grants
                    (tenant_id, grant_id, agent_id, tools, what_digest, policy_hash, granted_by, voter,
                     uses, uses_left, granted_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, coalesce($11, now()),
                     coalesce($11, now()) + $10 * interval '1 microsecond')
             RETURNING expires_at",
        )
        .bind(self.store.tenant().as_str())
        .bind(new.id.as_uuid())
        .bind(new.agent)
        .bind(new.tools)
        .bind(new.what.as_ref().map(<[u8; 32]>::as_slice))
        .bind(new.policy_hash)
        .bind(new.granted_by)
        .bind(new.voter)
        .bind(i32::try_from(new.uses).unwrap_or(i32::MAX))
        .bind(new.life_micros)
        .bind(self.store.database_now())
        .persistent(false)
        .fetch_one(tx)
        .await
        .map_err(StoreError::during("agree in advance"))
    }

    /// Finds what was agreed to in advance for this tool, by somebody who may decide it: the narrowest first, then the
    /// one that ends first. Nothing is taken of it yet.
    pub(in crate::gates) async fn find_standing(
        &self,
        agent: &str,
        tool: &str,
        what: &[u8; 32],
        policy_hash: &str,
        barred: &[String],
    ) -> Result<Option<GrantId>, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT g.grant_id
                   FROM portcullis.approval_grants g
                  WHERE g.tenant_id = $1 AND g.agent_id = $2
                    AND g.uses_left > 0 AND g.revoked_at IS NULL
                    AND g.expires_at > coalesce($7, now())
                    AND $3 = ANY (g.tools) AND g.policy_hash = $5
                    AND (g.what_digest IS NULL OR g.what_digest = $4)
                    AND NOT g.voter = ANY ($6)
                  ORDER BY g.what_digest IS NULL, g.expires_at, g.grant_id
                  LIMIT 1",
            )
            .bind(self.store.tenant().as_str())
            .bind(agent)
            .bind(tool)
            .bind(what.as_slice())
            .bind(policy_hash)
            .bind(barred)
            .bind(self.store.database_now())
            .fetch_optional_in(&self.store)
            .await
        };
        let operation = "find what was agreed to in advance";
        let row: Option<(Uuid,)> = self.store.run_idempotent(operation, work).await?;
        Ok(row.map(|(id,)| GrantId::from_uuid(id)))
    }

    /// Uses one call of what was agreed to; says whether it could.
    //
    // Check and change in one: of those that race for the last use one changes the row, and whoever takes the grant
    // back does so before or after, never in between.
    pub(in crate::gates) async fn try_use_standing_in_tx(
        &self,
        tx: &mut PgConnection,
        id: GrantId,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE portcullis.approval_grants
                SET uses_left = uses_left - 1
              WHERE tenant_id = $1 AND grant_id = $2
                AND uses_left > 0 AND revoked_at IS NULL AND expires_at > coalesce($3, now())",
        )
        .bind(self.store.tenant().as_str())
        .bind(id.as_uuid())
        .bind(self.store.database_now())
        .persistent(false)
        .execute(tx)
        .await
        .map_err(StoreError::during("use what was agreed to in advance"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a grant back; says whether it was in force.
    pub(in crate::gates) async fn try_revoke_grant_in_tx(
        &self,
        tx: &mut PgConnection,
        id: GrantId,
    ) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar(
            "UPDATE portcullis.approval_grants
                SET revoked_at = coalesce($3, now())
              WHERE tenant_id = $1 AND grant_id = $2 AND revoked_at IS NULL
             RETURNING agent_id",
        )
        .bind(self.store.tenant().as_str())
        .bind(id.as_uuid())
        .bind(self.store.database_now())
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during(
            "take back what was agreed to in advance",
        ))
    }

    /// The grants of an agent that are in force.
    pub(in crate::gates) async fn list_grants(
        &self,
        agent: &str,
    ) -> Result<Vec<StandingRow>, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT grant_id, agent_id, tools, what_digest IS NOT NULL, granted_by, uses, uses_left,
                        granted_at, expires_at
                   FROM portcullis.approval_grants
                  WHERE tenant_id = $1 AND agent_id = $2 AND uses_left > 0 AND revoked_at IS NULL
                    AND expires_at > coalesce($3, now())
                  ORDER BY expires_at, grant_id
                  LIMIT $4",
            )
            .bind(self.store.tenant().as_str())
            .bind(agent)
            .bind(self.store.database_now())
            .bind(PAGE)
            .fetch_all_in(&self.store)
            .await
        };
        let operation = "list what was agreed to in advance";
        self.store.run_idempotent(operation, work).await
    }
}
