//! Every SQL statement of the loop module, and nothing else.

use std::time::Duration;

use uuid::Uuid;

use crate::ids::{AgentId, SessionId};
use crate::store::{ExecuteIn as _, InStore as _, Store, StoreError};

/// A session.
pub(super) type Of = (AgentId, SessionId);

/// What one process saw of a session, as it is stored: agent, session, calls, MAC, writer.
pub(super) type Row = (String, String, Vec<u8>, Vec<u8>, Uuid);

/// What is to be stored of one session.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) of: Of,
    pub(super) calls: Vec<u8>,
    pub(super) mac: [u8; 32],
}

#[derive(Clone, Debug)]
pub(super) struct LoopStore {
    store: Store,
}

impl LoopStore {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    /// Stores what `writer` saw of these sessions.
    //
    // A row belongs to one process, and one task of it writes: nobody else's calls can be lost.
    pub(super) async fn write(&self, writer: Uuid, all: &[Written]) -> Result<(), StoreError> {
        let agents: Vec<&str> = all.iter().map(|one| one.of.0.as_str()).collect();
        let sessions: Vec<&str> = all.iter().map(|one| one.of.1.as_str()).collect();
        let calls: Vec<&[u8]> = all.iter().map(|one| one.calls.as_slice()).collect();
        let macs: Vec<&[u8]> = all.iter().map(|one| one.mac.as_slice()).collect();
        let work = async || {
            sqlx::query(
                "INSERT INTO portcullis.loop_windows AS w
                        (tenant_id, agent_id, session_id, writer, calls, mac, updated_at)
                 SELECT $1, given.agent_id, given.session_id, $2, given.calls, given.mac,
                        coalesce($7, now())
                   FROM unnest($3::text[], $4::text[], $5::bytea[], $6::bytea[])
                     AS given (agent_id, session_id, calls, mac)
                 ON CONFLICT (tenant_id, agent_id, session_id, writer) DO UPDATE
                    SET calls = excluded.calls,
                        mac = excluded.mac,
                        updated_at = excluded.updated_at",
            )
            .bind(self.store.tenant().as_str())
            .bind(writer)
            .bind(&agents)
            .bind(&sessions)
            .bind(&calls)
            .bind(&macs)
            .bind(self.store.database_now())
            .execute_in(&self.store)
            .await
        };
        let operation = "store what was seen of sessions";
        self.store.run_idempotent(operation, work).await.map(drop)
    }

    /// What others than `writer` saw of these sessions.
    pub(super) async fn read(&self, writer: Uuid, of: &[Of]) -> Result<Vec<Row>, StoreError> {
        let agents: Vec<&str> = of.iter().map(|one| one.0.as_str()).collect();
        let sessions: Vec<&str> = of.iter().map(|one| one.1.as_str()).collect();
        let work = async || {
            sqlx::query_as(
                "SELECT w.agent_id, w.session_id, w.calls, w.mac, w.writer
                   FROM unnest($2::text[], $3::text[]) AS given (agent_id, session_id)
                   JOIN portcullis.loop_windows w
                     ON w.tenant_id = $1
                    AND w.agent_id = given.agent_id
                    AND w.session_id = given.session_id
                  WHERE w.writer <> $4",
            )
            .bind(self.store.tenant().as_str())
            .bind(&agents)
            .bind(&sessions)
            .bind(writer)
            .fetch_all_in(&self.store)
            .await
        };
        self.store
            .run_idempotent("read what was seen of sessions", work)
            .await
    }

    /// Removes what nobody can need any more: calls of longer ago than the longest window.
    pub(super) async fn sweep(&self, older_than: Duration) -> Result<u64, StoreError> {
        let seconds = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let work = async || {
            sqlx::query(
                "DELETE FROM portcullis.loop_windows
                  WHERE tenant_id = $1
                    AND updated_at < coalesce($2, now()) - $3 * interval '1 second'",
            )
            .bind(self.store.tenant().as_str())
            .bind(self.store.database_now())
            .bind(seconds)
            .execute_in(&self.store)
            .await
        };
        let done = self
            .store
            .run_idempotent("remove what was seen of old sessions", work)
            .await?;
        Ok(done.rows_affected())
    }
}
