//! Every SQL statement of presence, and nothing else.

use std::time::Duration;

use tokio::time::Instant;

use super::beats::{Beat, Key};
use super::model::{Filter, Operators, Status};
use crate::canon::Metadata;
use crate::ids::{AgentId, OperatorId, SessionId};
use crate::store::{ExecuteIn as _, InStore as _, Store, StoreError};
use crate::time::Timestamp;

/// How many sessions become unresponsive in one statement.
const MARKED: i64 = 1_000;

/// A session as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) agent: AgentId,
    pub(super) session: SessionId,
    pub(super) operator: Option<OperatorId>,
    pub(super) status: Status,
    pub(super) metadata: Metadata,
    pub(super) first_seen: Timestamp,
    pub(super) last_seen: Timestamp,
    /// Whether it has not been heard of for too long.
    pub(super) late: bool,
}

type Row = (
    String,
    String,
    Option<String>,
    String,
    String,
    Timestamp,
    Timestamp,
    bool,
);

/// Writes the newest heartbeat of each session.
//
// One statement: whose heartbeat is the newest is decided by the row, which is locked. Of one process
// the later write counts, and its heartbeat may seem a moment older, for its age was taken here and the
// time there; what waited out an outage is older by more than that second, and changes nothing that
// another process said since. In the order of the key, so that two
// batches wait for each other instead of deadlocking. A session that was closed stays as it is.
pub(super) async fn upsert(store: &Store, beats: &[(Key, Beat)]) -> Result<(), StoreError> {
    let now = Instant::now();
    let of = |beat: &Beat| micros(now.saturating_duration_since(beat.at));
    let agents: Vec<&str> = beats.iter().map(|(key, _)| key.0.as_str()).collect();
    let sessions: Vec<&str> = beats.iter().map(|(key, _)| key.1.as_str()).collect();
    let operators: Vec<Option<&str>> = beats
        .iter()
        .map(|(_, beat)| beat.operator.as_ref().map(AsRef::as_ref))
        .collect();
    let statuses: Vec<&str> = beats.iter().map(|(_, beat)| beat.status.as_str()).collect();
    let metadata: Vec<&str> = beats
        .iter()
        .map(|(_, beat)| beat.metadata.as_deref().unwrap_or("{}"))
        .collect();
    let ages: Vec<i64> = beats.iter().map(|(_, beat)| of(beat)).collect();
    let work = async || {
        sqlx::query(
            "INSERT INTO portcullis.presence AS p
                    (tenant_id, agent_id, session_id, operator_id, status, metadata, first_seen, last_seen)
             SELECT $1, b.agent_id, b.session_id, b.operator_id, b.status, b.metadata,
                    coalesce($8, now()) - b.age * interval '1 microsecond',
                    coalesce($8, now()) - b.age * interval '1 microsecond'
               FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
                    AS b (agent_id, session_id, operator_id, status, metadata, age)
              ORDER BY b.agent_id COLLATE \"C\", b.session_id COLLATE \"C\"
             ON CONFLICT (tenant_id, agent_id, session_id) DO UPDATE
                SET operator_id = coalesce(p.operator_id, excluded.operator_id),
                    status = CASE WHEN excluded.last_seen > p.last_seen - interval '1 second'
                                    OR excluded.status = 'closed'
                                  THEN excluded.status ELSE p.status END,
                    metadata = CASE WHEN excluded.last_seen > p.last_seen - interval '1 second'
                                     AND excluded.metadata <> '{}'
                                    THEN excluded.metadata ELSE p.metadata END,
                    last_seen = greatest(p.last_seen, excluded.last_seen),
                    unresponsive_at = CASE WHEN excluded.last_seen <= p.last_seen - interval '1 second'
                                           THEN p.unresponsive_at END
              WHERE p.status <> 'closed'",
        )
        .bind(store.tenant().as_str())
        .bind(&agents)
        .bind(&sessions)
        .bind(&operators)
        .bind(&statuses)
        .bind(&metadata)
        .bind(&ages)
        .bind(store.database_now())
        .execute_in(store)
        .await
    };
    store.run_idempotent("write heartbeats", work).await?;
    Ok(())
}

/// The sessions after `after` that the filter's agent and operator fit, in order.
pub(super) async fn list_after(
    store: &Store,
    filter: &Filter,
    after: (&str, &str),
    silence: Duration,
    page: usize,
) -> Result<Vec<Stored>, StoreError> {
    let work = async || {
        sqlx::query_as::<_, Row>(
            "SELECT p.agent_id, p.session_id, p.operator_id, p.status, p.metadata,
                    p.first_seen, p.last_seen,
                    p.last_seen < coalesce($6, now()) - $7 * interval '1 microsecond'
               FROM portcullis.presence p
              WHERE p.tenant_id = $1 AND (p.agent_id, p.session_id) > ($2, $3)
                AND ($4::text IS NULL OR p.agent_id = $4)
                AND ($5::text IS NULL OR p.operator_id = $5)
              ORDER BY p.agent_id, p.session_id
              LIMIT $8",
        )
        .bind(store.tenant().as_str())
        .bind(after.0)
        .bind(after.1)
        .bind(filter.agent.as_ref().map(AsRef::<str>::as_ref))
        .bind(filter.operator.as_ref().map(AsRef::<str>::as_ref))
        .bind(store.database_now())
        .bind(micros(silence))
        .bind(i64::try_from(page).unwrap_or(i64::MAX))
        .fetch_all_in(store)
        .await
    };
    let operation = "list who is there";
    let rows = store.run_idempotent(operation, work).await?;
    read_all(rows, operation)
}

/// Marks the sessions that have not been heard of for `silence`, and returns them: each once, whoever
/// asks, until it is heard of again.
//
// One statement: the rows are locked and looked at again before they are changed, and those that
// another process has locked are left to it.
pub(super) async fn try_mark_unresponsive(
    store: &Store,
    silence: Duration,
) -> Result<Vec<Stored>, StoreError> {
    let work = async || {
        sqlx::query_as::<_, Row>(
            "WITH late AS MATERIALIZED (
                 SELECT p.agent_id, p.session_id
                   FROM portcullis.presence p
                  WHERE p.tenant_id = $1 AND p.status <> 'closed' AND p.unresponsive_at IS NULL
                    AND p.last_seen < coalesce($2, now()) - $3 * interval '1 microsecond'
                  ORDER BY p.last_seen
                  LIMIT $4
                    FOR UPDATE SKIP LOCKED)
             UPDATE portcullis.presence p
                SET unresponsive_at = coalesce($2, now())
               FROM late
              WHERE p.tenant_id = $1 AND p.agent_id = late.agent_id AND p.session_id = late.session_id
                AND p.unresponsive_at IS NULL
             RETURNING p.agent_id, p.session_id, p.operator_id, p.status, p.metadata,
                       p.first_seen, p.last_seen, true",
        )
        .bind(store.tenant().as_str())
        .bind(store.database_now())
        .bind(micros(silence))
        .bind(MARKED)
        .fetch_all_in(store)
        .await
    };
    let operation = "look who is not heard of";
    // Not again after a lost connection: whoever was marked then would be returned to nobody.
    let rows = store.run(operation, work).await?;
    read_all(rows, operation)
}

/// Who operates the sessions of `agent`.
pub(super) async fn list_operators(
    store: &Store,
    agent: &AgentId,
) -> Result<Operators, StoreError> {
    let operation = "look who operates an agent";
    let work = async || {
        sqlx::query_as::<_, (Option<String>,)>(
            "SELECT DISTINCT p.operator_id
               FROM portcullis.presence p
              WHERE p.tenant_id = $1 AND p.agent_id = $2",
        )
        .bind(store.tenant().as_str())
        .bind(agent.as_str())
        .fetch_all_in(store)
        .await
    };
    let rows = store.run_idempotent(operation, work).await?;
    let mut operators = Operators {
        unknown: rows.is_empty(),
        ..Operators::default()
    };
    for (operator,) in rows {
        match operator.map(OperatorId::parse) {
            Some(Ok(operator)) => drop(operators.known.insert(operator)),
            Some(Err(_)) | None => operators.unknown = true,
        }
    }
    Ok(operators)
}

fn read_all(rows: Vec<Row>, operation: &'static str) -> Result<Vec<Stored>, StoreError> {
    let read = |row| read(row).ok_or_else(|| StoreError::malformed(operation));
    rows.into_iter().map(read).collect()
}

fn read(row: Row) -> Option<Stored> {
    let (agent, session, operator, status, metadata, first_seen, last_seen, late) = row;
    Some(Stored {
        agent: AgentId::parse(agent).ok()?,
        session: SessionId::parse(session).ok()?,
        operator: operator.map(OperatorId::parse).transpose().ok()?,
        status: Status::parse(&status)?,
        metadata: Metadata::stored(metadata),
        first_seen,
        last_seen,
        late,
    })
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
