//! Approvals, without a runtime.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::runtime::Background;
use crate::gates::{
    ApprovalNotifier, ApprovalPolicy, ApprovalRequest, ApprovalToken, ApproverRef, Ask, Decided,
    Decision, Escalation, GateError, GatesStatus, RequestState, Requested, StandingApproval,
    StandingGrant, UsedApproval, Withdrawer,
};
use crate::{AgentId, Call, GrantId, OperatorId, RequestId, Timestamp, gates};

/// [`portcullis::gates::Gates`](gates::Gates), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Gates {
    gates: gates::Gates,
    background: Arc<Background>,
}

impl Gates {
    pub(super) fn new(gates: gates::Gates, background: &Arc<Background>) -> Self {
        Self {
            gates,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the gate itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&gates::Gates) -> T) -> T {
        self.background.wait(async { work(&self.gates).await })
    }

    /// Sets the approval policy of its agent: [`Gates::register`](gates::Gates::register).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, policy: ApprovalPolicy) -> Result<(), GateError> {
        self.background.wait(self.gates.register(policy))
    }

    /// Takes the approval policy of `agent` away; says whether it had one:
    /// [`Gates::remove`](gates::Gates::remove).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&self, agent: &AgentId) -> Result<bool, GateError> {
        self.background.wait(self.gates.remove(agent))
    }

    /// The policies in force: [`Gates::policies`](gates::Gates::policies).
    #[must_use]
    pub fn policies(&self) -> Vec<ApprovalPolicy> {
        self.gates.policies()
    }

    /// What is in force: [`Gates::status`](gates::Gates::status).
    #[must_use]
    pub fn status(&self) -> GatesStatus {
        self.gates.status()
    }

    /// Sets who belongs to a team: [`Gates::register_team`](gates::Gates::register_team).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_team(
        &self,
        team: &ApproverRef,
        members: impl IntoIterator<Item = ApproverRef>,
    ) -> Result<(), GateError> {
        self.background
            .wait(self.gates.register_team(team, members))
    }

    /// Also tells `notifier` of requests: [`Gates::notify_with`](gates::Gates::notify_with).
    pub fn notify_with(&self, notifier: impl ApprovalNotifier) {
        self.gates.notify_with(notifier);
    }

    /// Asks for approval of `call`: [`Gates::request`](gates::Gates::request).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request(&self, call: &Call, ask: Ask) -> Result<Requested, GateError> {
        self.background.wait(self.gates.request(call, ask))
    }

    /// Takes the approval of `call`, so that nobody else can use it:
    /// [`Gates::redeem`](gates::Gates::redeem).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn redeem(&self, call: &Call, ask: Ask) -> Result<Approval, GateError> {
        let approval = self.background.wait(self.gates.redeem(call, ask))?;
        Ok(Approval {
            approval,
            background: Arc::clone(&self.background),
        })
    }

    /// The request as it stands: [`Gates::find`](gates::Gates::find).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn find(&self, id: RequestId) -> Result<ApprovalRequest, GateError> {
        self.background.wait(self.gates.find(id))
    }

    /// The requests after `after` that can be decided now: [`Gates::pending`](gates::Gates::pending).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pending(&self, after: Option<RequestId>) -> Result<Vec<ApprovalRequest>, GateError> {
        self.background.wait(self.gates.pending(after))
    }

    /// Waits until the request is pending no more, or for `at_most`: [`Gates::wait`](gates::Gates::wait).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn wait(&self, id: RequestId, at_most: Duration) -> Result<ApprovalRequest, GateError> {
        self.background.wait(self.gates.wait(id, at_most))
    }

    /// Decides as `approver`, whom the host has made sure of: [`Gates::decide`](gates::Gates::decide).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decide(
        &self,
        id: RequestId,
        approver: &ApproverRef,
        decision: Decision,
    ) -> Result<Decided, GateError> {
        self.background
            .wait(self.gates.decide(id, approver, decision))
    }

    /// Gives a request other approvers, or more time: [`Gates::escalate`](gates::Gates::escalate).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn escalate(
        &self,
        id: RequestId,
        by: &OperatorId,
        escalation: Escalation,
    ) -> Result<Timestamp, GateError> {
        self.background
            .wait(self.gates.escalate(id, by, escalation))
    }

    /// Takes a request back: [`Gates::withdraw`](gates::Gates::withdraw).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn withdraw(&self, id: RequestId, by: Withdrawer<'_>) -> Result<RequestState, GateError> {
        self.background.wait(self.gates.withdraw(id, by))
    }

    /// A token for one decision: [`Gates::token_for`](gates::Gates::token_for).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn token_for(
        &self,
        id: RequestId,
        approver: &ApproverRef,
        decision: &Decision,
        life: Duration,
    ) -> Result<ApprovalToken, GateError> {
        self.background
            .wait(self.gates.token_for(id, approver, decision, life))
    }

    /// Makes the decision that a token is for: [`Gates::decide_by_token`](gates::Gates::decide_by_token).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decide_by_token(&self, token: &str) -> Result<Decided, GateError> {
        self.background.wait(self.gates.decide_by_token(token))
    }

    /// Agrees in advance: [`Gates::grant_standing`](gates::Gates::grant_standing).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn grant_standing(
        &self,
        grant: StandingGrant,
        approver: &ApproverRef,
    ) -> Result<GrantId, GateError> {
        self.background
            .wait(self.gates.grant_standing(grant, approver))
    }

    /// Takes back what was agreed to in advance: [`Gates::revoke_standing`](gates::Gates::revoke_standing).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn revoke_standing(&self, id: GrantId, by: &OperatorId) -> Result<bool, GateError> {
        self.background.wait(self.gates.revoke_standing(id, by))
    }

    /// What was agreed to in advance: [`Gates::standing`](gates::Gates::standing).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn standing(&self, agent: &AgentId) -> Result<Vec<StandingApproval>, GateError> {
        self.background.wait(self.gates.standing(agent))
    }

    /// What to show to an approver: [`Gates::canonical`](gates::Gates::canonical).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn canonical(&self, call: &Call) -> Result<String, GateError> {
        self.gates.canonical(call)
    }

    /// Whether `args` are those of the request: [`Gates::is_about`](gates::Gates::is_about).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn is_about(&self, id: RequestId, args: &impl Serialize) -> Result<bool, GateError> {
        self.background.wait(self.gates.is_about(id, args))
    }
}

/// A [`portcullis::gates::Approval`](gates::Approval) that is used without a runtime.
///
/// It reads as the approval that it holds. Dropped, it is given back.
#[derive(Debug)]
#[must_use = "an approval that is dropped is given back: use it up before the call"]
pub struct Approval {
    approval: gates::Approval,
    background: Arc<Background>,
}

impl Approval {
    /// Uses it up, for good: [`Approval::use_up`](gates::Approval::use_up).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn use_up(self) -> Result<UsedApproval, GateError> {
        let Self {
            approval,
            background,
        } = self;
        background.wait(approval.use_up())
    }

    /// Leaves it to the next try of the same call: [`Approval::give_back`](gates::Approval::give_back).
    pub fn give_back(self) {
        let Self {
            approval,
            background,
        } = self;
        background.wait(approval.give_back());
    }
}

impl Deref for Approval {
    type Target = gates::Approval;

    fn deref(&self) -> &gates::Approval {
        &self.approval
    }
}
