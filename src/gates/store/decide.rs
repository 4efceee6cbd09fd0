//! Decisions: what must be known before, the decision itself, and tokens that make it.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::{GateStore, Stored};
use crate::gates::approver::{barred_in, fold};
use crate::gates::engine::RequestState;
use crate::ids::RequestId;
use crate::store::{ExecuteIn as _, InStore as _, StoreError};
use crate::time::Timestamp;

/// What is looked at before somebody decides.
#[derive(Debug)]
pub(in crate::gates) struct Looked {
    pub(in crate::gates) request: Stored,
    /// Who may never, folded: as the request says, as its ids say, and as others know.
    pub(in crate::gates) barred: Vec<String>,
    /// Whether heartbeats say who operates the first agent of its line.
    pub(in crate::gates) operator_seen: bool,
    /// The policy of its agent as it is stored, where one asked for it.
    pub(in crate::gates) policy: Option<String>,
    /// Whether he belongs to one of the teams that are asked.
    pub(in crate::gates) in_team: bool,
    /// Whether an agent has that name.
    pub(in crate::gates) is_agent: bool,
}

/// Somebody who operates an agent of a line.
#[derive(Clone, Debug)]
pub(in crate::gates) struct Known {
    pub(in crate::gates) operator: String,
    /// Whether it is the first of them, in its very session: who operates that one operates the others.
    first: bool,
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
        let Some(request) = self.fetch_request(id).await? else {
            return Ok(None);
        };
        let (barred, operator_seen) = self.barred_of(&request).await?;
        let policy = if request.policy_hash.is_empty() {
            None
        } else {
            self.fetch_policy(request.shown.agent.as_str()).await?
        };
        let is_agent = self.is_agent(&fold(voter)).await?;
        let asked = request.shown.approvers.iter();
        let asked: Vec<String> = asked
            .filter_map(|approver| approver.strip_prefix("team:"))
            .map(str::to_owned)
            .collect();
        let in_team = !asked.is_empty() && self.is_member(&asked, voter).await?;
        Ok(Some(Looked {
            request,
            barred,
            operator_seen,
            policy,
            in_team,
            is_agent,
        }))
    }

    /// Who may never decide the request, and whether heartbeats say who operates the first of its line.
    pub(in crate::gates) async fn barred_of(
        &self,
        request: &Stored,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let (agent, session) = (&request.shown.agent, &request.shown.session);
        let known = self.operators_of(agent.as_str(), session.as_str(), &request.ancestors);
        let known = known.await?;
        let mut barred: Vec<String> = barred_in(request).collect();
        barred.extend(request.barred.iter().cloned());
        barred.extend(known.iter().map(|known| fold(&known.operator)));
        Ok((barred, known.iter().any(|known| known.first)))
    }

    /// Who operates the agents of a line, beyond what the last of them says itself: as other requests say of its own
    /// session, of those that started it, and of agents that it started; and as heartbeats say of its agent, in
    /// whichever session, and of those that started it.
    pub(in crate::gates) async fn operators_of(
        &self,
        agent: &str,
        session: &str,
        ancestors: &[String],
    ) -> Result<Vec<Known>, StoreError> {
        let work = async || {
            let rows = sqlx::query(
                "SELECT r.operator_id, false AS first
                   FROM portcullis.approval_requests r
                  WHERE r.tenant_id = $1 AND r.operator_id IS NOT NULL
                    AND r.ancestors @> ARRAY[$2::text || ' ' || $3::text]
                  UNION
                 SELECT r.operator_id, false
                   FROM portcullis.approval_requests r
                  WHERE r.tenant_id = $1 AND r.agent_id = $2 AND r.session_id = $3
                    AND r.operator_id IS NOT NULL
                  UNION
                 SELECT r.operator_id, false
                   FROM unnest($4::text[]) AS a (line)
                   JOIN portcullis.approval_requests r
                     ON r.tenant_id = $1 AND r.agent_id = split_part(a.line, ' ', 1)
                    AND r.session_id = split_part(a.line, ' ', 2)
                  WHERE r.operator_id IS NOT NULL
                  UNION
                 SELECT p.operator_id, p.session_id = $3 AND cardinality($4::text[]) = 0
                   FROM portcullis.presence p
                  WHERE p.tenant_id = $1 AND p.agent_id = $2 AND p.operator_id IS NOT NULL
                  UNION
                 SELECT p.operator_id, a.place = cardinality($4::text[])
                   FROM unnest($4::text[]) WITH ORDINALITY AS a (line, place)
                   JOIN portcullis.presence p
                     ON p.tenant_id = $1 AND p.agent_id = split_part(a.line, ' ', 1)
                    AND p.session_id = split_part(a.line, ' ', 2)
                  WHERE p.operator_id IS NOT NULL",
            )
            .bind(self.store.tenant().as_str())
            .bind(agent)
            .bind(session)
            .bind(ancestors)
            .fetch_all_in(&self.store)
            .await?;
            let known = |row: &PgRow| {
                Ok(Known {
                    operator: row.try_get("operator_id")?,
                    first: row.try_get("first")?,
                })
            };
            rows.iter().map(known).collect()
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

    /// Stores that a token was given out.
    //
    // Its id is drawn at random for it: a repetition after a lost answer is the same row.
    pub(in crate::gates) async fn issue_token(
        &self,
        token: &[u8; 16],
        request: RequestId,
        claims_hash: &[u8; 32],
    ) -> Result<(), StoreError> {
        let work = async || {
            sqlx::query(
                "INSERT INTO portcullis.approval_tokens_issued
                        (tenant_id, token_id, request_id, claims_hash, issued_at)
                 VALUES ($1, $2, $3, $4, coalesce($5, now()))
                 ON CONFLICT DO NOTHING",
            )
            .bind(self.store.tenant().as_str())
            .bind(token.as_slice())
            .bind(request.as_uuid())
            .bind(claims_hash.as_slice())
            .bind(self.store.database_now())
            .execute_in(&self.store)
            .await
        };
        let operation = "give a token out";
        self.store.run_idempotent(operation, work).await.map(drop)
    }

    /// Whether a token that says this was given out.
    pub(in crate::gates) async fn is_token_issued(
        &self,
        token: &[u8; 16],
        request: RequestId,
        claims_hash: &[u8; 32],
    ) -> Result<bool, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT EXISTS (SELECT 1
                                  FROM portcullis.approval_tokens_issued
                                 WHERE tenant_id = $1 AND token_id = $2 AND request_id = $3
                                   AND claims_hash = $4)",
            )
            .bind(self.store.tenant().as_str())
            .bind(token.as_slice())
            .bind(request.as_uuid())
            .bind(claims_hash.as_slice())
            .fetch_optional_in(&self.store)
            .await
        };
        let operation = "look for a token that was given out";
        let found: Option<(bool,)> = self.store.run_idempotent(operation, work).await?;
        Ok(found.is_some_and(|(issued,)| issued))
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
