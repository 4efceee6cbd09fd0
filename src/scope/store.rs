//! Every SQL statement of the scope module, and nothing else.

use std::time::Duration;

use super::model::PolicyText;
use crate::ids::AgentId;
use crate::store::{ExecuteIn as _, InStore as _, Store, StoreError};

/// How many policies are written by one statement.
const WRITE: usize = 1_000;
/// How many policies are read by one statement.
const PAGE: i64 = 1_000;

/// The agent and its policy, as they are stored.
pub(super) type Row = (String, String);

#[derive(Clone, Debug)]
pub(super) struct ScopeStore {
    store: Store,
}

impl ScopeStore {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    /// Stores all of `policies`, each agent's once, or none.
    //
    // Two programs that register the same agents lock the rows in the same order (byte order of the
    // agent), so that they wait for each other instead of deadlocking; the one that commits last
    // is the one that stands.
    pub(super) async fn upsert_all(
        &self,
        policies: &[(AgentId, PolicyText)],
    ) -> Result<(), StoreError> {
        let operation = "store scope policies";
        let mut sorted: Vec<&(AgentId, PolicyText)> = policies.iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        // The deadline holds for each statement, since there may be a million policies.
        let mut tx = self.within(operation, self.store.begin()).await?;
        for chunk in sorted.chunks(WRITE) {
            let agents: Vec<&str> = chunk.iter().map(|(agent, _)| agent.as_str()).collect();
            let texts: Vec<&str> = chunk.iter().map(|(_, text)| text.text.as_str()).collect();
            let insert = sqlx::query(
                "INSERT INTO portcullis.scope_policies AS p
                        (tenant_id, agent_id, policy, version, updated_at)
                 SELECT $1, given.agent_id, given.policy, 1, coalesce($4, now())
                   FROM unnest($2::text[], $3::text[]) AS given (agent_id, policy)
                  ORDER BY given.agent_id COLLATE \"C\"
                 ON CONFLICT (tenant_id, agent_id) DO UPDATE
                    SET policy = excluded.policy,
                        version = p.version + 1,
                        updated_at = excluded.updated_at",
            )
            .bind(self.store.tenant().as_str())
            .bind(agents)
            .bind(texts)
            .bind(self.store.database_now())
            .persistent(false);
            self.within(operation, insert.execute(&mut *tx)).await?;
        }
        self.within(operation, tx.commit()).await
    }

    /// Removes the policy of `agent`; says whether it had one.
    //
    // One statement; after a lost connection it is done again, and then finds nothing to remove:
    // the policy is gone either way, only the answer may be `false`.
    pub(super) async fn delete(&self, agent: &AgentId) -> Result<bool, StoreError> {
        let work = async || {
            sqlx::query(
                "DELETE FROM portcullis.scope_policies
                  WHERE tenant_id = $1 AND agent_id = $2",
            )
            .bind(self.store.tenant().as_str())
            .bind(agent.as_str())
            .execute_in(&self.store)
            .await
        };
        let done = self
            .store
            .run_idempotent("remove a scope policy", work)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The policies of the agents after `after`, in order; at the end fewer than a page, or none.
    //
    // A page is a snapshot, the whole is not: a policy that another program changes meanwhile is
    // seen as it was or as it is, never half.
    pub(super) async fn list_after(&self, after: &str) -> Result<Vec<Row>, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT agent_id, policy
                   FROM portcullis.scope_policies
                  WHERE tenant_id = $1 AND agent_id > $2
                  ORDER BY agent_id
                  LIMIT $3",
            )
            .bind(self.store.tenant().as_str())
            .bind(after)
            .bind(PAGE)
            .fetch_all_in(&self.store)
            .await
        };
        self.store.run_idempotent("read scope policies", work).await
    }

    /// Waits for one statement, not longer than the deadline.
    async fn within<T>(
        &self,
        operation: &'static str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let deadline: Duration = self.store.deadline();
        match tokio::time::timeout(deadline, statement).await {
            Ok(answer) => answer.map_err(StoreError::during(operation)),
            Err(_) => Err(StoreError::timed_out(operation)),
        }
    }
}
