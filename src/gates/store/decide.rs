//! Decisions: what must be known before, the decision itself, and tokens that make it.

use sqlx::{PgConnection, Row as _};

use super::{GateStore, Stored};
use crate::gates::approver::{fold, spellings};
use crate::gates::engine::RequestState;
use crate::ids::RequestId;
use crate::store::{InStore as _, StoreError};
use crate::time::Timestamp;

/// What is looked at before somebody decides.
#[derive(Debug)]
pub(in crate::gates) struct Looked {
    pub(in crate::gates) request: Stored,
    /// Whether he belongs to one of the teams that are asked.
    pub(in crate::gates) in_team: bool,
    /// Whether an agent has that name.
    pub(in crate::gates) is_agent: bool,
}

/// One person's decision.
#[derive(Clone, Copy, Debug)]
pub(in crate::gates) struct Vote<'v> {
    pub(in crate::gates) id: RequestId,
    /// Folded.
    pub(in crate::gates) voter: &'v str,
    /// What he agrees to; `None` if he refuses.
    pub(in crate::gates) grants: Option<[u8; 32]>,
    pub(in crate::gates) revision: i32,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::gates) struct Voted {
    pub(in crate::gates) state: RequestState,
    pub(in crate::gates) votes: u32,
    pub(in crate::gates) expires_at: Timestamp,
}

impl GateStore {
    /// The request, and what `voter` is to it.
    pub(in crate::gates) async fn look(
        &self,
        id: RequestId,
        voter: &str,
    ) -> Result<Option<Looked>, StoreError> {
        let Some(mut request) = self.fetch_request(id).await? else {
            return Ok(None);
        };
        for operator in self.operators_of(&request).await? {
            request.operator_known = true;
            request.barred.push(fold(&operator));
        }
        let is_agent = self.is_agent(&spellings(voter)).await?;
        let asked = request.shown.approvers.iter();
        let asked: Vec<String> = asked
            .filter_map(|approver| approver.strip_prefix("team:"))
            .map(str::to_owned)
            .collect();
        let in_team = !asked.is_empty() && self.is_member(&asked, voter).await?;
        Ok(Some(Looked {
            request,
            in_team,
            is_agent,
        }))
    }

    /// Who operates the agents of the request, beyond what it says itself: those of agents that its
    /// agent started, and of its own session in other requests.
    /// And whoever heartbeats say that operates its agent, in whichever session, or an agent that started
    /// it.
    async fn operators_of(&self, request: &Stored) -> Result<Vec<String>, StoreError> {
        let work = async || {
            let rows = sqlx::query(
                "SELECT r.operator_id
                   FROM portcullis.approval_requests r
                  WHERE r.tenant_id = $1 AND r.operator_id IS NOT NULL
                    AND r.request_id <> $4
                    AND r.ancestors @> ARRAY[$2::text || ' ' || $3::text]
                  UNION
                 SELECT p.operator_id
                   FROM portcullis.presence p
                  WHERE p.tenant_id = $1 AND p.agent_id = $2 AND p.operator_id IS NOT NULL
                  UNION
                 SELECT p.operator_id
                   FROM portcullis.approval_requests q
                  CROSS JOIN LATERAL unnest(q.ancestors) AS a (line)
                   JOIN portcullis.presence p
                     ON p.tenant_id = q.tenant_id AND p.agent_id = split_part(a.line, ' ', 1)
                    AND p.session_id = split_part(a.line, ' ', 2)
                  WHERE q.tenant_id = $1 AND q.request_id = $4 AND p.operator_id IS NOT NULL",
            )
            .bind(self.store.tenant().as_str())
            .bind(request.shown.agent.as_str())
            .bind(request.shown.session.as_str())
            .bind(request.shown.id.as_uuid())
            .fetch_all_in(&self.store)
            .await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        };
        self.store
            .run_idempotent("look who operates an agent", work)
            .await
    }

    /// Counts a decision, if the request can still be decided so; `None` if not.
    //
    // One conditional UPDATE of one row. Those that race wait for its lock and then see the row as
    // the one before left it: the votes are in it, so none is counted twice, none is lost, and the
    // one that makes the quorum is the only one that grants.
    pub(in crate::gates) async fn try_vote_in_tx(
        &self,
        tx: &mut PgConnection,
        vote: &Vote<'_>,
    ) -> Result<Option<Voted>, StoreError> {
        let row: Option<(String, i32, Timestamp)> = sqlx::query_as(
            "UPDATE portcullis.approval_requests
                SET voters = voters || $3::text,
                    approved_digest = CASE WHEN $4::bytea IS NULL THEN approved_digest ELSE $4 END,
                    state = CASE WHEN $4::bytea IS NULL THEN 'denied'
                                 WHEN cardinality(voters) + 1 >= quorum THEN 'granted'
                                 ELSE 'pending' END,
                    expires_at = CASE WHEN $4::bytea IS NOT NULL AND cardinality(voters) + 1 >= quorum
                                      THEN coalesce($6, now()) + life_micros * interval '1 microsecond'
                                      ELSE expires_at END,
                    ended_at = CASE WHEN $4::bytea IS NULL THEN coalesce($6, now()) END
              WHERE tenant_id = $1 AND request_id = $2 AND state = 'pending' AND revision = $5
                AND expires_at > coalesce($6, now())
                AND NOT $3 = ANY (voters) AND NOT $3 = ANY (barred)
                AND ($4::bytea IS NULL OR approved_digest IS NULL OR approved_digest = $4)
             RETURNING state, cardinality(voters), expires_at",
        )
        .bind(self.store.tenant().as_str())
        .bind(vote.id.as_uuid())
        .bind(vote.voter)
        .bind(vote.grants.as_ref().map(<[u8; 32]>::as_slice))
        .bind(vote.revision)
        .bind(self.store.database_now())
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during("decide a request for approval"))?;
        let Some((state, votes, expires_at)) = row else {
            return Ok(None);
        };
        let torn = || StoreError::malformed("decide a request for approval");
        Ok(Some(Voted {
            state: RequestState::parse(&state).ok_or_else(torn)?,
            votes: u32::try_from(votes).map_err(|_| torn())?,
            expires_at,
        }))
    }

    /// Uses a token up, at the database's time; `None` if somebody has before.
    //
    // Whoever inserts the row first is the one; the others wait for his commit and store nothing.
    pub(in crate::gates) async fn use_token_in_tx(
        &self,
        tx: &mut PgConnection,
        token: &[u8; 16],
        request: RequestId,
    ) -> Result<Option<Timestamp>, StoreError> {
        sqlx::query_scalar(
            "INSERT INTO portcullis.approval_tokens (tenant_id, token_id, request_id, used_at)
             VALUES ($1, $2, $3, coalesce($4, now()))
             ON CONFLICT DO NOTHING
             RETURNING used_at",
        )
        .bind(self.store.tenant().as_str())
        .bind(token.as_slice())
        .bind(request.as_uuid())
        .bind(self.store.database_now())
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during("use a token up"))
    }

    pub(in crate::gates) async fn is_token_used(
        &self,
        token: &[u8; 16],
    ) -> Result<bool, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT EXISTS (SELECT 1
                                  FROM portcullis.approval_tokens
                                 WHERE tenant_id = $1 AND token_id = $2)",
            )
            .bind(self.store.tenant().as_str())
            .bind(token.as_slice())
            .fetch_optional_in(&self.store)
            .await
        };
        let found: Option<(bool,)> = self.store.run_idempotent("look for a token", work).await?;
        Ok(found.is_some_and(|(used,)| used))
    }
}
