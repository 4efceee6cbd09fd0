//! Requests: made, found, ended.

use sqlx::{PgConnection, Row as _};

use super::{GateStore, Stored};
use crate::ids::RequestId;
use crate::store::{InStore as _, StoreError};
use crate::time::Timestamp;

/// How many requests are listed by one statement.
const PAGE: i64 = 500;

/// A request to be stored.
#[derive(Clone, Debug)]
pub(in crate::gates) struct NewRequest {
    pub(in crate::gates) id: RequestId,
    pub(in crate::gates) is_call: bool,
    pub(in crate::gates) label: String,
    pub(in crate::gates) agent: String,
    pub(in crate::gates) session: String,
    pub(in crate::gates) user: Option<String>,
    pub(in crate::gates) operator: Option<String>,
    pub(in crate::gates) ancestors: Vec<String>,
    pub(in crate::gates) call_digest: [u8; 32],
    pub(in crate::gates) frame_digest: [u8; 32],
    pub(in crate::gates) policy_hash: String,
    pub(in crate::gates) approvers: Vec<String>,
    pub(in crate::gates) quorum: u32,
    pub(in crate::gates) barred: Vec<String>,
    pub(in crate::gates) operator_known: bool,
    pub(in crate::gates) life_micros: i64,
}

impl GateStore {
    /// The request about this call: the one that lives, or else the newest.
    pub(in crate::gates) async fn find_request(
        &self,
        digest: &[u8; 32],
    ) -> Result<Option<Stored>, StoreError> {
        let work = async || {
            let row = sqlx::query(
                "SELECT request_id, subject, label, agent_id, session_id, user_id, operator_id,
                        ancestors, call_digest, frame_digest, policy_hash, state, approvers, quorum,
                        barred, operator_known, voters, approved_digest, life_micros, requested_at,
                        expires_at, revision, terms_mac,
                        expires_at <= coalesce($3, now()) AS due,
                        coalesce(held_until > coalesce($3, now()), false) AS held,
                        coalesce($3, now()) AS now
                   FROM portcullis.approval_requests
                  WHERE tenant_id = $1 AND call_digest = $2
                  ORDER BY state IN ('pending', 'granted') DESC, requested_at DESC, request_id DESC
                  LIMIT 1",
            )
            .bind(self.store.tenant().as_str())
            .bind(digest.as_slice())
            .bind(self.store.database_now())
            .fetch_optional_in(&self.store)
            .await?;
            row.as_ref().map(Stored::read).transpose()
        };
        let operation = "find a request for approval";
        self.store.run_idempotent(operation, work).await
    }

    pub(in crate::gates) async fn fetch_request(
        &self,
        id: RequestId,
    ) -> Result<Option<Stored>, StoreError> {
        let work = async || {
            let row = sqlx::query(
                "SELECT request_id, subject, label, agent_id, session_id, user_id, operator_id,
                        ancestors, call_digest, frame_digest, policy_hash, state, approvers, quorum,
                        barred, operator_known, voters, approved_digest, life_micros, requested_at,
                        expires_at, revision, terms_mac,
                        expires_at <= coalesce($3, now()) AS due,
                        coalesce(held_until > coalesce($3, now()), false) AS held,
                        coalesce($3, now()) AS now
                   FROM portcullis.approval_requests
                  WHERE tenant_id = $1 AND request_id = $2",
            )
            .bind(self.store.tenant().as_str())
            .bind(id.as_uuid())
            .bind(self.store.database_now())
            .fetch_optional_in(&self.store)
            .await?;
            row.as_ref().map(Stored::read).transpose()
        };
        let operation = "read a request for approval";
        self.store.run_idempotent(operation, work).await
    }

    /// The requests after `after` that can be decided now, oldest first, and the last that was looked at; at the end
    /// none. One that cannot be read is left out: nobody who may insert a row shall keep the others from being
    /// seen.
    pub(in crate::gates) async fn list_pending(
        &self,
        after: Option<RequestId>,
    ) -> Result<(Vec<Stored>, Option<RequestId>), StoreError> {
        let work = async || {
            let rows = sqlx::query(
                "SELECT request_id, subject, label, agent_id, session_id, user_id, operator_id,
                        ancestors, call_digest, frame_digest, policy_hash, state, approvers, quorum,
                        barred, operator_known, voters, approved_digest, life_micros, requested_at,
                        expires_at, revision, terms_mac,
                        false AS due, false AS held, coalesce($3, now()) AS now
                   FROM portcullis.approval_requests
                  WHERE tenant_id = $1 AND state = 'pending' AND expires_at > coalesce($3, now())
                    AND ($2::uuid IS NULL OR request_id > $2)
                  ORDER BY request_id
                  LIMIT $4",
            )
            .bind(self.store.tenant().as_str())
            .bind(after.map(RequestId::as_uuid))
            .bind(self.store.database_now())
            .bind(PAGE)
            .fetch_all_in(&self.store)
            .await?;
            let (mut found, mut last) = (Vec::new(), None);
            for row in &rows {
                let id = RequestId::from_uuid(row.try_get("request_id")?);
                last = Some(id);
                match Stored::read(row) {
                    Ok(stored) => found.push(stored),
                    Err(_) => {
                        tracing::error!(request = %id, "a stored request for approval cannot be read; nobody can decide it");
                    }
                }
            }
            Ok((found, last))
        };
        let operation = "list requests for approval";
        self.store.run_idempotent(operation, work).await
    }

    /// Stores a request; says whether it did, and until when it lives.
    //
    // Two that ask at once meet at the unique index of what lives: one waits for the other's commit
    // and then stores nothing. The same request again (from a journal) meets at the primary key.
    pub(in crate::gates) async fn insert_request_in_tx(
        &self,
        tx: &mut PgConnection,
        new: &NewRequest,
        terms_mac: &[u8],
    ) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        sqlx::query_as(
            "INSERT INTO portcullis.approval_requests
                    (tenant_id, request_id, subject, label, agent_id, session_id, user_id, operator_id,
                     ancestors, call_digest, frame_digest, policy_hash, state, approvers, quorum, barred,
                     operator_known, voters, life_micros, requested_at, expires_at, revision,
                     terms_mac)
             VALUES ($1, $2, CASE WHEN $3 THEN 'call' ELSE 'raise' END, $4, $5, $6, $7, $8, $9, $10, $11,
                     $12, 'pending', $13, $14, $15, $16, '{}', $17::bigint, coalesce($18, now()),
                     coalesce($18, now()) + $17::bigint * interval '1 microsecond', 0, $19)
             ON CONFLICT DO NOTHING
             RETURNING requested_at, expires_at",
        )
        .bind(self.store.tenant().as_str())
        .bind(new.id.as_uuid())
        .bind(new.is_call)
        .bind(&new.label)
        .bind(&new.agent)
        .bind(&new.session)
        .bind(&new.user)
        .bind(&new.operator)
        .bind(&new.ancestors)
        .bind(new.call_digest.as_slice())
        .bind(new.frame_digest.as_slice())
        .bind(&new.policy_hash)
        .bind(&new.approvers)
        .bind(i32::try_from(new.quorum).unwrap_or(i32::MAX))
        .bind(&new.barred)
        .bind(new.operator_known)
        .bind(new.life_micros)
        .bind(self.store.database_now())
        .bind(terms_mac)
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during("store a request for approval"))
    }

    /// Ends a request whose time is up; says whether this did it.
    //
    // Conditional on all that makes it so, as the row is when it is locked. One that a call is about
    // to use is left to it.
    pub(in crate::gates) async fn try_expire_in_tx(
        &self,
        tx: &mut PgConnection,
        id: RequestId,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE portcullis.approval_requests
                SET state = 'expired', ended_at = coalesce($3, now())
              WHERE tenant_id = $1 AND request_id = $2 AND state IN ('pending', 'granted')
                AND expires_at <= coalesce($3, now())
                AND (held_until IS NULL OR held_until <= coalesce($3, now()))",
        )
        .bind(self.store.tenant().as_str())
        .bind(id.as_uuid())
        .bind(self.store.database_now())
        .persistent(false)
        .execute(tx)
        .await
        .map_err(StoreError::during("expire a request for approval"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a request back, pending or granted; answers with the state that it has then, `None` if
    /// it had ended before.
    //
    // A call that is about to use it has not yet: it will find that it cannot.
    pub(in crate::gates) async fn try_withdraw_in_tx(
        &self,
        tx: &mut PgConnection,
        id: RequestId,
    ) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar(
            "UPDATE portcullis.approval_requests
                SET state = CASE state WHEN 'pending' THEN 'withdrawn' ELSE 'revoked' END,
                    ended_at = coalesce($3, now())
              WHERE tenant_id = $1 AND request_id = $2 AND state IN ('pending', 'granted')
             RETURNING state",
        )
        .bind(self.store.tenant().as_str())
        .bind(id.as_uuid())
        .bind(self.store.database_now())
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during("withdraw a request for approval"))
    }

    /// Gives a pending request other approvers, or more time; says until when it lives.
    //
    // The revision counts, so that nobody decides under approvers that are no longer asked.
    pub(in crate::gates) async fn try_escalate_in_tx(
        &self,
        tx: &mut PgConnection,
        id: RequestId,
        approvers: &[String],
        life_micros: Option<i64>,
    ) -> Result<Option<Timestamp>, StoreError> {
        sqlx::query_scalar(
            "UPDATE portcullis.approval_requests
                SET approvers = CASE WHEN cardinality($3::text[]) > 0 THEN $3 ELSE approvers END,
                    life_micros = coalesce($4::bigint, life_micros),
                    expires_at = CASE WHEN $4::bigint IS NULL THEN expires_at
                                      ELSE coalesce($5, now()) + $4::bigint * interval '1 microsecond' END,
                    revision = revision + 1
              WHERE tenant_id = $1 AND request_id = $2 AND state = 'pending'
                AND expires_at > coalesce($5, now())
             RETURNING expires_at",
        )
        .bind(self.store.tenant().as_str())
        .bind(id.as_uuid())
        .bind(approvers)
        .bind(life_micros)
        .bind(self.store.database_now())
        .persistent(false)
        .fetch_optional(tx)
        .await
        .map_err(StoreError::during("escalate a request for approval"))
    }
}
