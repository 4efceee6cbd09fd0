//! Who is of which team.

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

    /// Whether an agent has that name, however it is written.
    pub(in crate::gates) async fn is_agent(
        &self,
        spellings: &[String],
    ) -> Result<bool, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT EXISTS (SELECT 1
                                  FROM portcullis.policies
                                 WHERE tenant_id = $1 AND module IN ('scope', 'gates')
                                   AND lower(translate(name, '._-:/+=@', '')) = ANY ($2))",
            )
            .bind(self.store.tenant().as_str())
            .bind(spellings)
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
}
