//! Approvals against a real Postgres.

mod decisions;
mod outage;
mod races;
mod requests;
mod roles;
mod standing;
mod states;
mod terms;
mod tokens;
mod walls;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use portcullis::gates::{
    Approval, ApprovalPolicy, ApprovalRequest, ApproverRef, Ask, Decided, Decision, GateError,
    Gates, RequestState, Requested,
};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Call, Database, Governance, ManualClock, OperatorId, Principal, RequestId, SessionId,
    Timestamp, UserId,
};
use serde_json::{Value, json};

use crate::common::keys;

/// A handle, with a clock that is moved by hand.
pub(crate) struct Gate {
    pub(crate) test: TestDatabase,
    pub(crate) gov: Governance,
    pub(crate) clock: Arc<ManualClock>,
}

impl Gate {
    pub(crate) async fn new() -> Self {
        let test = TestDatabase::fresh().await.unwrap();
        let noon = Timestamp::parse("2026-11-21T12:00:00Z").unwrap();
        let clock = Arc::new(ManualClock::at(noon));
        let gov = connected(&test.database(), &clock).await;
        Self { test, gov, clock }
    }

    /// With a policy for the agent of the tests.
    pub(crate) async fn with_policy() -> Self {
        let gate = Self::new().await;
        gate.gates().register(policy()).await.unwrap();
        gate
    }

    pub(crate) fn gates(&self) -> &Gates {
        self.gov.gates()
    }

    /// Another process: its own pool, its own memory, the same database.
    pub(crate) async fn another(&self) -> Governance {
        connected(&self.test.database(), &self.clock).await
    }

    pub(crate) async fn ask(&self, call: &Call) -> ApprovalRequest {
        match self.gates().request(call, Ask::policy()).await.unwrap() {
            Requested::Stored(request) => request,
            Requested::Journalled { .. } => panic!("the database is there"),
        }
    }

    pub(crate) async fn grant(&self, id: RequestId) -> Decided {
        self.decide(id, "user:erin", Decision::grant())
            .await
            .unwrap()
    }

    pub(crate) async fn decide(
        &self,
        id: RequestId,
        who: &str,
        decision: Decision,
    ) -> Result<Decided, GateError> {
        let who = ApproverRef::parse(who).unwrap();
        self.gates().decide(id, &who, decision).await
    }

    pub(crate) async fn redeem(&self, call: &Call) -> Result<Approval, GateError> {
        self.gates().redeem(call, Ask::policy()).await
    }

    pub(crate) async fn state(&self, id: RequestId) -> RequestState {
        self.gates().find(id).await.unwrap().state
    }

    /// The metadata of the entries of a kind, with the decision as `decision`.
    pub(crate) async fn entries(&self, kind: &str) -> Vec<Value> {
        recorded(&self.test, &self.gov, kind).await
    }
}

pub(crate) async fn recorded(test: &TestDatabase, gov: &Governance, kind: &str) -> Vec<Value> {
    gov.audit().move_outbox().await.unwrap();
    // What was handed to the background stands before what is waited for.
    let me = crate::common::principal("observer");
    let event = portcullis::audit::AuditEvent::new(&me, "app.look");
    let _ = gov.audit().append(event).await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT metadata, decision FROM portcullis.entries WHERE kind = $1 ORDER BY recorded_at, chain_no, seq",
    )
    .bind(kind)
    .fetch_all(&pool)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(metadata, decision)| {
            let mut value: Value = serde_json::from_str(&metadata).unwrap();
            value["decision"] = json!(decision);
            value
        })
        .collect()
}

pub(crate) async fn connected(database: &Database, clock: &Arc<ManualClock>) -> Governance {
    Governance::builder(database.clone(), keys())
        .shared_clock(clock.clone())
        .connect()
        .await
        .unwrap()
}

pub(crate) fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

/// The agent of the tests, in a session that it keeps, operated by Dana on behalf of a user.
pub(crate) fn me() -> Principal {
    Principal::agent(agent())
        .session(SessionId::parse("s-1").unwrap())
        .operated_by(OperatorId::parse("dana").unwrap())
        .on_behalf_of(UserId::parse("u_17").unwrap())
}

pub(crate) fn refund(amount: i64) -> Call {
    Call::tool(&me(), "refund").args(&json!({"invoice": "inv_381", "amount": amount}))
}

pub(crate) fn policy() -> ApprovalPolicy {
    ApprovalPolicy::new(agent())
        .require_for_tools(["refund", "payments.*"])
        .unwrap()
        .approvers([
            "user:erin",
            "user:frank",
            "team:finance",
            "user:dana",
            "user:u_17",
        ])
        .unwrap()
        .expires_after(Duration::from_mins(10))
}
