//! What a host does with approvals. Every call answers [`GateError::Disabled`] where the host switched
//! the gate off.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::ask::Subject;
use super::core::Under;
use super::error::GateError;
use super::notify::ApprovalNotifier;
use super::request::{ApprovalRequest, Ask, Decision, Escalation, Requested, Withdrawer};
use super::standing::{StandingApproval, StandingGrant};
use super::store::GateStore;
use super::token::ApprovalToken;
use super::{
    Approval, ApprovalPolicy, ApproverRef, Decided, Gates, GatesStatus, InvalidApprovalPolicy,
    RequestState, show,
};
use crate::audit::{AuditEvent, Kind};
use crate::call::{Call, Parts};
use crate::ids::{AgentId, GrantId, OperatorId, RequestId};
use crate::time::Timestamp;

/// The most members of a team.
const MAX_MEMBERS: usize = 4_096;

impl Gates {
    /// Sets the approval policy of its agent, replacing the one it had: stored, in force here, and
    /// within a second in all other processes. Approvals under another policy can no longer be used.
    ///
    /// # Errors
    ///
    /// * [`GateError::Policy`] if it could never be met.
    /// * [`GateError::Store`] if it may not have been stored. What was in force still is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn register(&self, policy: ApprovalPolicy) -> Result<(), GateError> {
        let core = self.on()?;
        let text = policy.document()?;
        let agent = policy.agent().clone();
        let documents = vec![(agent.to_string(), text.text)];
        core.watch.upsert_all(documents).await?;
        let event = AuditEvent::system(None, Kind::GatePolicyRegistered)
            .with("agent_id", agent.as_str())
            .with("policy_hash", text.hash);
        self.record(event).await;
        Ok(())
    }

    /// Takes the approval policy of `agent` away, so that its calls need no approval any more; says
    /// whether it had one.
    ///
    /// # Errors
    ///
    /// [`GateError::Store`] if it may not have been removed. It is then still in force.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn remove(&self, agent: &AgentId) -> Result<bool, GateError> {
        let found = self.on()?.watch.delete(agent.to_string()).await?;
        if found {
            let event = AuditEvent::system(None, Kind::GatePolicyRegistered)
                .decision("removed")
                .with("agent_id", agent.as_str());
            self.record(event).await;
        }
        Ok(found)
    }

    /// What is in force is so whether or not it could be recorded; that it could not is said.
    async fn record(&self, event: AuditEvent) {
        if let Some(error) = self.core.audit.log(event).await.lost() {
            tracing::error!(%error, "a changed approval policy is not on record");
        }
    }

    /// The policies in force, in the order of their agents.
    #[must_use]
    pub fn policies(&self) -> Vec<ApprovalPolicy> {
        let all = self.core.book.all();
        all.iter().map(|found| found.policy.clone()).collect()
    }

    /// What is in force.
    #[must_use]
    pub fn status(&self) -> GatesStatus {
        let watched = self.core.watch.status();
        let hash =
            |found: &Arc<super::book::InForce>| (found.policy.agent().clone(), found.hash.clone());
        GatesStatus {
            policies: self.core.book.all().iter().map(hash).collect(),
            broken: self.core.book.broken(),
            kept: self.core.book.kept(),
            revision: watched.revision,
            heard: watched.heard,
            failing: watched.failing,
            looked_at: watched.looked_at,
            switched_off: !self.is_on(),
        }
    }

    /// Sets who belongs to `team:<id>`: those `user:<id>`, and nobody else.
    ///
    /// # Errors
    ///
    /// * [`GateError::Policy`] if `team` is no team, a member no person, or there are too many.
    /// * [`GateError::Store`] if it may not have been stored.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is one transaction; dropped while it commits, it may or may not be made.
    pub async fn register_team(
        &self,
        team: &ApproverRef,
        members: impl IntoIterator<Item = ApproverRef>,
    ) -> Result<(), GateError> {
        let core = self.on()?;
        let mut ids = Vec::new();
        for (index, member) in members.into_iter().enumerate() {
            if !member.is_person() {
                let fault = super::InvalidApprover::Form;
                return Err(InvalidApprovalPolicy::Approver { index, fault }.into());
            }
            ids.push(member.id().to_owned());
        }
        ids.sort_unstable();
        ids.dedup();
        if team.is_person() || ids.len() > MAX_MEMBERS {
            return Err(InvalidApprovalPolicy::TooMany { list: "members" }.into());
        }
        let work = async {
            let mut tx = core.store.begin().await?;
            core.store
                .replace_team_in_tx(&mut tx, team.id(), &ids)
                .await?;
            let event = AuditEvent::system(None, Kind::GatePolicyRegistered)
                .with("team", team.id())
                .with("members", ids.len());
            core.audit.append_in_tx(&mut tx, event).await?;
            Ok(GateStore::commit(tx).await?)
        };
        core.within("store a team of approvers", work).await
    }

    /// Also tells `notifier` of requests from now on.
    pub fn notify_with(&self, notifier: impl ApprovalNotifier) {
        self.tell(Arc::new(notifier));
    }

    pub(crate) fn tell(&self, notifier: Arc<dyn ApprovalNotifier>) {
        match self.on() {
            Ok(core) => core.desk.add(notifier),
            Err(disabled) => disabled.say_once(),
        }
    }

    /// Asks for approval of `call`, on the terms of the agent's policy, or of `ask` where none covers
    /// it. Asking again finds the same request as long as it is pending, or granted and not used, or
    /// for as long as a refusal holds: also from another process, with the same session.
    ///
    /// # Errors
    ///
    /// * [`GateError::Call`] and [`GateError::Policy`] if the call or the terms are none.
    /// * [`GateError::BrokenPolicy`] if the agent's stored policy cannot be read.
    /// * [`GateError::Audit`] if neither the database nor the journal took it.
    /// * [`GateError::Store`] if the database does not take it for what it is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: ask again, and the same request is found.
    pub async fn request(&self, call: &Call, ask: Ask) -> Result<Requested, GateError> {
        let core = self.on()?;
        let parts = call.parts().map_err(Clone::clone)?;
        let (subject, under) = self.asked(&parts, &ask)?;
        Box::pin(core.ask(&subject, &under)).await
    }

    /// Takes the approval of `call`, so that nobody else can use it; asks for one if there is none.
    /// For hosts that make calls past [`Governance::authorize`](crate::Governance::authorize), which
    /// does it by itself where a policy says so.
    ///
    /// # Errors
    ///
    /// * [`GateError::Pending`], [`GateError::Denied`], [`GateError::Narrowed`],
    ///   [`GateError::Journalled`]: the call must not be made, and why.
    /// * [`GateError::NotHeld`] if another caller has it just now.
    /// * [`GateError::Halted`] if the agent is.
    /// * Others as [`request`](Self::request).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was taken can be taken again half a minute later.
    pub async fn redeem(&self, call: &Call, ask: Ask) -> Result<Approval, GateError> {
        let core = self.on()?;
        let parts = call.parts().map_err(Clone::clone)?;
        let (subject, under) = self.asked(&parts, &ask)?;
        Box::pin(core.admit(&subject, Some(&parts), &under)).await
    }

    fn asked<'p>(&self, parts: &Parts<'p>, ask: &Ask) -> Result<(Subject<'p>, Under), GateError> {
        let under = match self.core.requirement(parts)? {
            Some(found) => Under::from(&*found),
            None => Under {
                terms: ask.terms.clone(),
                policy_hash: String::new(),
            },
        };
        under.terms.validate()?;
        let digest = self.core.audit.call_digest(parts);
        Ok((self.subject(parts, digest), under))
    }

    /// The request as it stands.
    ///
    /// # Errors
    ///
    /// [`GateError::NoRequest`] if there is none, [`GateError::Store`] if it could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn find(&self, id: RequestId) -> Result<ApprovalRequest, GateError> {
        let core = self.on()?;
        core.within("read a request for approval", core.read(id))
            .await
    }

    /// The requests after `after` that can be decided now, oldest first, some hundreds at a time; at
    /// the end none. One that cannot be read is left out, and said so in the log.
    ///
    /// # Errors
    ///
    /// [`GateError::Store`] if they could not be read.
    pub async fn pending(
        &self,
        after: Option<RequestId>,
    ) -> Result<Vec<ApprovalRequest>, GateError> {
        let core = self.on()?;
        let mut next = after;
        loop {
            let (found, last) = core.store.list_pending(next).await?;
            // A page on which nothing can be read is not the end.
            if found.is_empty() && last.is_some() {
                next = last;
                continue;
            }
            return Ok(found.into_iter().map(|stored| stored.shown).collect());
        }
    }

    /// Waits until the request is pending no more, for `at_most`; answers with how it stands then,
    /// which may be pending still.
    ///
    /// # Errors
    ///
    /// * [`GateError::NoRequest`] if there is none; also while it is only in the journal.
    /// * [`GateError::Store`] if the database was away to the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait(
        &self,
        id: RequestId,
        at_most: Duration,
    ) -> Result<ApprovalRequest, GateError> {
        self.on()?.wait(id, at_most).await
    }

    /// Decides as `approver`, whom the host has made sure of. One who refuses ends the request; where
    /// several must agree it is pending until the last of them does.
    ///
    /// # Errors
    ///
    /// * [`GateError::SelfApproval`], [`GateError::UnknownOperator`]: he may be who asks. On record.
    /// * [`GateError::NotApprover`], [`GateError::TeamCannotDecide`], [`GateError::AlreadyVoted`].
    /// * [`GateError::OtherTerms`] if the request is not as it was asked for, or the policy is another one by now.
    /// * [`GateError::NotPending`] if it was decided before, or is past its time.
    /// * [`GateError::OtherArguments`] if others agreed to something else.
    /// * [`GateError::NotWhatWasAsked`] if it is narrowed from other arguments.
    /// * [`GateError::Store`] if the decision may not be made; [`find`](Self::find) says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is one transaction; dropped while it commits, it may or may not be made.
    pub async fn decide(
        &self,
        id: RequestId,
        approver: &ApproverRef,
        decision: Decision,
    ) -> Result<Decided, GateError> {
        self.on()?.decide(id, approver, &decision).await
    }

    /// Gives a pending request other approvers, or more time; answers until when it lives. On record,
    /// with `by`, whom the host has made sure of.
    ///
    /// # Errors
    ///
    /// * [`GateError::NotPending`] if there is nothing left to decide.
    /// * [`GateError::SelfApproval`] if `by` may not decide it: what he, his agents or his operator ask for.
    ///   On record.
    /// * [`GateError::Policy`] if the life is none.
    /// * [`GateError::Store`] if the change may not be made.
    ///
    /// # Cancel safety
    ///
    /// As [`decide`](Self::decide).
    pub async fn escalate(
        &self,
        id: RequestId,
        by: &OperatorId,
        escalation: Escalation,
    ) -> Result<Timestamp, GateError> {
        let core = self.on()?;
        if escalation
            .life
            .is_some_and(|life| !super::policy::is_life(life))
        {
            return Err(InvalidApprovalPolicy::Life.into());
        }
        let work = core.escalate(id, by, &escalation);
        core.within("escalate a request", work).await
    }

    /// Takes a request back, or what was granted and not used; answers with its state then.
    ///
    /// # Errors
    ///
    /// * [`GateError::NotRequester`] if another agent, or another session of it, made it.
    /// * [`GateError::NotPending`] if it has ended.
    /// * [`GateError::Store`] if the change may not be made.
    ///
    /// # Cancel safety
    ///
    /// As [`decide`](Self::decide).
    pub async fn withdraw(
        &self,
        id: RequestId,
        by: Withdrawer<'_>,
    ) -> Result<RequestState, GateError> {
        let core = self.on()?;
        let work = core.withdraw(id, by);
        core.within("withdraw a request", work).await
    }

    /// A token by which whoever has it makes this one decision as `approver`, once, within `life` (a
    /// day at most). Five to thirty minutes are enough for most.
    ///
    /// # Errors
    ///
    /// As [`decide`](Self::decide): nobody gets a token for what he could not do himself. Also
    /// [`GateError::Store`] if that it was given out could not be stored, as with a database role that may not
    /// decide: a token that was not given out decides nothing.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a token that nobody got may be stored as given out, and decides nothing.
    pub async fn token_for(
        &self,
        id: RequestId,
        approver: &ApproverRef,
        decision: &Decision,
        life: Duration,
    ) -> Result<ApprovalToken, GateError> {
        self.on()?.token_for(id, approver, decision, life).await
    }

    /// Makes the decision that a token is for. Everything is looked at as in
    /// [`decide`](Self::decide), at this moment.
    ///
    /// # Errors
    ///
    /// * [`GateError::Token`] if it is not one of ours, has expired, or was used: the last on record.
    /// * Others as [`decide`](Self::decide).
    ///
    /// # Cancel safety
    ///
    /// As [`decide`](Self::decide).
    pub async fn decide_by_token(&self, token: &str) -> Result<Decided, GateError> {
        self.on()?.decide_by_token(token).await
    }

    /// Agrees in advance, as `approver`, whom the host has made sure of.
    ///
    /// # Errors
    ///
    /// * [`GateError::NoStanding`] if the agent's policy does not allow it, or not so much.
    /// * [`GateError::NotApprover`], [`GateError::SelfApproval`] as [`decide`](Self::decide). That he
    ///   does not operate the agent is looked at each time it is used.
    /// * [`GateError::Store`] if it may not be stored; [`standing`](Self::standing) says.
    ///
    /// # Cancel safety
    ///
    /// As [`decide`](Self::decide).
    pub async fn grant_standing(
        &self,
        grant: StandingGrant,
        approver: &ApproverRef,
    ) -> Result<GrantId, GateError> {
        self.on()?.grant_standing(&grant, approver).await
    }

    /// Takes back what was agreed to in advance; says whether it was in force.
    ///
    /// # Errors
    ///
    /// [`GateError::Store`] if the change may not be made.
    ///
    /// # Cancel safety
    ///
    /// As [`decide`](Self::decide).
    pub async fn revoke_standing(&self, id: GrantId, by: &OperatorId) -> Result<bool, GateError> {
        self.on()?.revoke_standing(id, by).await
    }

    /// What was agreed to in advance for `agent` and is in force.
    ///
    /// # Errors
    ///
    /// [`GateError::Store`] if it could not be read.
    pub async fn standing(&self, agent: &AgentId) -> Result<Vec<StandingApproval>, GateError> {
        self.on()?.list_standing(agent).await
    }

    /// What to show to an approver: the call, in the very form that is hashed, with every character
    /// written out that is not seen or moves others.
    ///
    /// # Errors
    ///
    /// * [`GateError::Call`] if it is not well formed.
    /// * [`GateError::Disabled`] if the host switched the gate off.
    pub fn canonical(&self, call: &Call) -> Result<String, GateError> {
        self.on()?;
        Ok(show::text_of(call)?)
    }

    /// Whether `args` are the arguments of the call that the request is about: what an approver is
    /// shown must be.
    ///
    /// # Errors
    ///
    /// * [`GateError::NoRequest`] if there is none.
    /// * [`GateError::Call`] if they have no canonical form.
    /// * [`GateError::Store`] if it could not be read.
    pub async fn is_about(&self, id: RequestId, args: &impl Serialize) -> Result<bool, GateError> {
        self.on()?.is_about(id, args).await
    }
}
