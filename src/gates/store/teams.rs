//! Who is of which team, who is an agent, and what the policy is.

use sqlx::PgConnection;

use super::GateStore;
use crate::store::{InStore as _, StoreError};

impl GateStore {
    /// Sets the members of `team`: those, and no others.
    //
    // A decision that is made meanwhile sees the one or the other, as of its own look.
    pub(in crate::gates) async fn replace_team_in_tx(
        &self,
        tx: &mut PgConnection,
        team: &str,
        members: &[String],
    ) -> Result<(), StoreError> {
        let operation = "store a team of approvers";
        sqlx::query(
            "DELETE FROM portcullis.approval_teams
              WHERE tenant_id = $1 AND team_id = $2 AND NOT member_id = ANY ($3)",
        )
        .bind(self.store.tenant().as_str())
        .bind(team)
        .bind(members)
        .persistent(false)
        .execute(&mut *tx)
        .await
        .map_err(StoreError::during(operation))?;
        sqlx::query(
            "INSERT INTO portcullis.approval_teams (tenant_id, team_id, member_id)
             SELECT $1, $2, m.member_id
               FROM unnest($3::text[]) AS m (member_id)
              ORDER BY m.member_id COLLATE \"C\"
             ON CONFLICT DO NOTHING",
        )
        .bind(self.store.tenant().as_str())
        .bind(team)
        .bind(members)
        .persistent(false)
        .execute(tx)
        .await
        .map(drop)
        .map_err(StoreError::during(operation))
    }

    /// Whether `member` belongs to one of `teams`.
    pub(in crate::gates) async fn is_member(
        &self,
        teams: &[String],
        member: &str,
    ) -> Result<bool, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT EXISTS (SELECT 1
                                  FROM portcullis.approval_teams
                                 WHERE tenant_id = $1 AND member_id = $2 AND team_id = ANY ($3))",
            )
            .bind(self.store.tenant().as_str())
            .bind(member)
            .bind(teams)
            .fetch_optional_in(&self.store)
            .await
        };
        let found: Option<(bool,)> = self
            .store
            .run_idempotent("look into a team of approvers", work)
            .await?;
        Ok(found.is_some_and(|(found,)| found))
    }

    /// Whether anything that is stored knows an agent of that name, however it is written.
    pub(in crate::gates) async fn is_agent(&self, folded: &str) -> Result<bool, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT EXISTS (SELECT FROM portcullis.policies s
                                 WHERE s.tenant_id = $1 AND s.module IN ('scope', 'gates', 'loops')
                                   AND portcullis.folded(s.name) = $2)
                     OR EXISTS (SELECT FROM portcullis.presence p
                                 WHERE p.tenant_id = $1 AND portcullis.folded(p.agent_id) = $2)
                     OR EXISTS (SELECT FROM portcullis.halts h
                                 WHERE h.tenant_id = $1 AND portcullis.folded(h.agent_id) = $2)
                     OR EXISTS (SELECT FROM portcullis.approval_requests r
                                 WHERE r.tenant_id = $1 AND portcullis.folded(r.agent_id) = $2)",
            )
            .bind(self.store.tenant().as_str())
            .bind(folded)
            .fetch_optional_in(&self.store)
            .await
        };
        let found: Option<(bool,)> = self
            .store
            .run_idempotent("look for an agent of that name", work)
            .await?;
        // Nothing read is no proof that there is none.
        Ok(found.is_none_or(|(found,)| found))
    }

    /// The approval policy of `agent`, as it is stored.
    pub(in crate::gates) async fn fetch_policy(
        &self,
        agent: &str,
    ) -> Result<Option<String>, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT p.document
                   FROM portcullis.policies p
                  WHERE p.tenant_id = $1 AND p.module = 'gates' AND p.name = $2",
            )
            .bind(self.store.tenant().as_str())
            .bind(agent)
            .fetch_optional_in(&self.store)
            .await
        };
        let operation = "read an approval policy";
        let found: Option<(Option<String>,)> = self.store.run_idempotent(operation, work).await?;
        Ok(found.and_then(|(document,)| document))
    }

    /// As [`fetch_policy`](Self::fetch_policy), as it is when an approval is used.
    pub(in crate::gates) async fn fetch_policy_in_tx(
        &self,
        tx: &mut PgConnection,
        agent: &str,
    ) -> Result<Option<String>, StoreError> {
        let found: Option<Option<String>> = sqlx::query_scalar(
            "SELECT p.document
               FROM portcullis.policies p
              WHERE p.tenant_id = $1 AND p.module = 'gates' AND p.name = $2",
        )
        .bind(self.store.tenant().as_str())
        .bind(agent)
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during("read an approval policy"))?;
        Ok(found.flatten())
    }
}
