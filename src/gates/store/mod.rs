//! Every SQL statement of the approvals, and nothing else.

mod decide;
mod held;
mod requests;
mod standing;
mod teams;

use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row as _, Transaction};
use uuid::Uuid;

pub(super) use decide::{Looked, Vote, Voted};
pub(super) use requests::NewRequest;
pub(super) use standing::{NewGrant, StandingRow};

use super::approver::ApproverRef;
use super::engine::RequestState;
use super::request::ApprovalRequest;
use crate::ids::{AgentId, RequestId, SessionId, is_well_formed};
use crate::store::{Store, StoreError, Topic};
use crate::time::Timestamp;

#[derive(Clone, Debug)]
pub(super) struct GateStore {
    pub(super) store: Store,
}

/// A request as it is stored.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "columns, which are independent"
)]
pub(super) struct Stored {
    pub(super) shown: ApprovalRequest,
    pub(super) is_call: bool,
    pub(super) call_digest: [u8; 32],
    pub(super) frame_digest: [u8; 32],
    pub(super) policy_hash: String,
    pub(super) barred: Vec<String>,
    pub(super) operator_known: bool,
    pub(super) user: Option<String>,
    pub(super) operator: Option<String>,
    pub(super) ancestors: Vec<String>,
    pub(super) life_micros: i64,
    pub(super) terms_mac: Vec<u8>,
    pub(super) voters: Vec<String>,
    pub(super) approved_digest: Option<[u8; 32]>,
    pub(super) revision: i32,
    /// Whether its time is up, by the database's clock.
    pub(super) due: bool,
    /// Whether a call is about to use it.
    pub(super) held: bool,
    /// The database's clock.
    pub(super) now: Timestamp,
}

impl Stored {
    /// What every look at a request reads; see the statements for the order.
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let torn = || sqlx::Error::Decode("a request for approval is torn".into());
        let id = |column: &str| -> Result<Uuid, sqlx::Error> { row.try_get(column) };
        let digest = |column: &str| -> Result<[u8; 32], sqlx::Error> {
            let bytes: Vec<u8> = row.try_get(column)?;
            bytes.try_into().map_err(|_| torn())
        };
        let text = |column: &str| -> Result<String, sqlx::Error> { row.try_get(column) };
        // They are shown, on terminals too; whoever may ask could have written anything.
        let label = text("label")?;
        let approvers: Vec<String> = row.try_get("approvers")?;
        if !is_well_formed(label.strip_prefix("budget:").unwrap_or(&label))
            || approvers.iter().any(|one| ApproverRef::parse(one).is_err())
        {
            return Err(torn());
        }
        let voters: Vec<String> = row.try_get("voters")?;
        let quorum: i32 = row.try_get("quorum")?;
        let approved: Option<Vec<u8>> = row.try_get("approved_digest")?;
        Ok(Self {
            shown: ApprovalRequest {
                id: RequestId::from_uuid(id("request_id")?),
                state: RequestState::parse(&text("state")?).ok_or_else(torn)?,
                label,
                agent: AgentId::parse(text("agent_id")?).map_err(|_| torn())?,
                session: SessionId::parse(text("session_id")?).map_err(|_| torn())?,
                approvers,
                quorum: u32::try_from(quorum).map_err(|_| torn())?,
                votes: u32::try_from(voters.len()).map_err(|_| torn())?,
                requested_at: row.try_get("requested_at")?,
                expires_at: row.try_get("expires_at")?,
            },
            is_call: text("subject")? == "call",
            call_digest: digest("call_digest")?,
            frame_digest: digest("frame_digest")?,
            policy_hash: text("policy_hash")?,
            barred: row.try_get("barred")?,
            operator_known: row.try_get("operator_known")?,
            user: row.try_get("user_id")?,
            operator: row.try_get("operator_id")?,
            ancestors: row.try_get("ancestors")?,
            life_micros: row.try_get("life_micros")?,
            terms_mac: row.try_get("terms_mac")?,
            voters,
            approved_digest: match approved {
                Some(bytes) => Some(bytes.try_into().map_err(|_| torn())?),
                None => None,
            },
            revision: row.try_get("revision")?,
            due: row.try_get("due")?,
            held: row.try_get("held")?,
            now: row.try_get("now")?,
        })
    }
}

impl GateStore {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    /// Begins a change that is recorded in the same transaction.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begun = self.store.begin().await;
        begun.map_err(StoreError::during("begin a change of approvals"))
    }

    pub(super) async fn commit(tx: Transaction<'static, Postgres>) -> Result<(), StoreError> {
        let done = tx.commit().await;
        done.map_err(StoreError::during("commit a change of approvals"))
    }

    /// Wakes those who wait for the request, when the transaction commits.
    pub(super) async fn notify_in_tx(
        &self,
        tx: &mut PgConnection,
        id: RequestId,
    ) -> Result<(), StoreError> {
        let payload = Topic::Approvals.payload(self.store.tenant(), &id.to_string());
        sqlx::query("SELECT pg_notify('portcullis', $1)")
            .bind(payload)
            .persistent(false)
            .execute(tx)
            .await
            .map(drop)
            .map_err(StoreError::during("tell of a change of approvals"))
    }
}
