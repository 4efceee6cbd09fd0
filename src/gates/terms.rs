//! On which terms a request is decided: those it was asked for on. The row alone is not believed: whoever may ask
//! can write one.

use std::time::Duration;

use super::approver::fold;
use super::book::Known;
use super::core::Core;
use super::engine::RequestState;
use super::error::GateError;
use super::policy::{ApprovalPolicy, Terms};
use super::store::{Looked, NewRequest, Stored};
use crate::canon::Fields;
use crate::ids::AgentId;

/// How much later than now a request may have been made: two reads of one clock, a moment apart.
const AHEAD: Duration = Duration::from_mins(1);

/// What a request says, wherever it is said.
#[derive(Clone, Copy, Debug)]
struct Said<'r> {
    id: &'r [u8; 16],
    is_call: bool,
    label: &'r str,
    agent: &'r str,
    session: &'r str,
    user: Option<&'r str>,
    operator: Option<&'r str>,
    ancestors: &'r [String],
    call_digest: &'r [u8; 32],
    frame_digest: &'r [u8; 32],
    policy_hash: &'r str,
    barred: &'r [String],
    operator_known: bool,
    approvers: &'r [String],
    quorum: u32,
    life_micros: i64,
}

impl<'r> From<&'r NewRequest> for Said<'r> {
    fn from(new: &'r NewRequest) -> Self {
        Self {
            id: new.id.as_bytes(),
            is_call: new.is_call,
            label: &new.label,
            agent: &new.agent,
            session: &new.session,
            user: new.user.as_deref(),
            operator: new.operator.as_deref(),
            ancestors: &new.ancestors,
            call_digest: &new.call_digest,
            frame_digest: &new.frame_digest,
            policy_hash: &new.policy_hash,
            barred: &new.barred,
            operator_known: new.operator_known,
            approvers: &new.approvers,
            quorum: new.quorum,
            life_micros: new.life_micros,
        }
    }
}

impl<'r> From<&'r Stored> for Said<'r> {
    fn from(stored: &'r Stored) -> Self {
        Self {
            id: stored.shown.id.as_bytes(),
            is_call: stored.is_call,
            label: &stored.shown.label,
            agent: stored.shown.agent.as_str(),
            session: stored.shown.session.as_str(),
            user: stored.user.as_deref(),
            operator: stored.operator.as_deref(),
            ancestors: &stored.ancestors,
            call_digest: &stored.call_digest,
            frame_digest: &stored.frame_digest,
            policy_hash: &stored.policy_hash,
            barred: &stored.barred,
            operator_known: stored.operator_known,
            approvers: &stored.shown.approvers,
            quorum: stored.shown.quorum,
            life_micros: stored.life_micros,
        }
    }
}

impl Said<'_> {
    /// What never changes.
    fn fixed(&self) -> Fields {
        let mut fields = Fields::labelled("portcullis/request/v1");
        fields
            .present(self.id)
            .present(&[u8::from(self.is_call)])
            .present(self.label.as_bytes())
            .present(self.agent.as_bytes())
            .present(self.session.as_bytes())
            .text(self.user)
            .text(self.operator);
        list(&mut fields, self.ancestors);
        fields
            .present(self.call_digest)
            .present(self.frame_digest)
            .present(self.policy_hash.as_bytes());
        list(&mut fields, self.barred);
        fields.present(&[u8::from(self.operator_known)]);
        fields
    }

    /// That, and what an escalation may change.
    fn whole(&self) -> Fields {
        let mut fields = Fields::labelled("portcullis/request-terms/v1");
        fields.present(self.fixed().as_bytes());
        list(&mut fields, self.approvers);
        fields
            .present(&self.quorum.to_be_bytes())
            .present(&self.life_micros.to_be_bytes());
        fields
    }
}

/// Its length first: two lists are never read as others.
fn list(fields: &mut Fields, entries: &[String]) {
    fields.present(&(entries.len() as u64).to_be_bytes());
    for entry in entries {
        fields.present(entry.as_bytes());
    }
}

impl Core {
    /// What is stored with a request, so that it is known again.
    pub(super) fn terms_mac(&self, new: &NewRequest) -> Vec<u8> {
        let said = Said::from(new);
        let fixed = self.audit.terms_mac(said.fixed().as_bytes());
        let whole = self.audit.terms_mac(said.whole().as_bytes());
        [fixed, whole].concat()
    }

    /// The terms of the policy of `agent` that is stored, and its hash. Where it cannot be read, what was in force is.
    pub(super) fn policy_of(
        &self,
        agent: &AgentId,
        document: Option<&str>,
    ) -> Option<(Terms, String)> {
        if let Ok((policy, hash)) = ApprovalPolicy::from_document(agent, document?) {
            return Some((policy.terms(), hash));
        }
        match self.book.find(agent) {
            Some(Known::Policy(last)) => Some((last.policy.terms(), last.hash.clone())),
            _ => None,
        }
    }

    /// Whether it is known who operates the agents of the request, or need not be.
    pub(super) fn is_operator_known(&self, looked: &Looked) -> bool {
        let request = &looked.request;
        // Where nobody started it the row itself says who operates it, and the policy whether that matters.
        let says_itself = !request.ancestors.is_empty()
            || request.operator.is_some()
            || request.policy_hash.is_empty()
            || self
                .policy_of(&request.shown.agent, looked.policy.as_deref())
                .is_some_and(|(terms, _)| terms.unknown_operator);
        looked.operator_seen || (request.operator_known && says_itself)
    }

    /// Refuses to have a pending request decided that is not as it was asked for, or whose policy is not the one
    /// that is stored.
    pub(super) fn check_terms(&self, looked: &Looked) -> Result<(), GateError> {
        let request = &looked.request;
        let pending = request.shown.state == RequestState::Pending;
        if !pending || (self.is_ours(request) && self.is_of_policy(looked)) {
            return Ok(());
        }
        tracing::warn!(request = %request.shown.id, "a request for approval is not on the terms that it was to be asked for on");
        Err(GateError::OtherTerms)
    }

    /// Whether this crate made it, with the key that is current, and nobody changed it.
    pub(super) fn is_ours(&self, request: &Stored) -> bool {
        let said = Said::from(request);
        let Some((fixed, whole)) = request.terms_mac.split_at_checked(32) else {
            return false;
        };
        let latest = request.now.plus(AHEAD);
        self.audit.is_terms_mac(said.fixed().as_bytes(), fixed)
            // Others are asked since, by somebody who may.
            && (request.revision > 0 || self.audit.is_terms_mac(said.whole().as_bytes(), whole))
            && request.shown.requested_at <= latest
    }

    /// Whether it is on the terms of the policy that asked for it, where one did.
    fn is_of_policy(&self, looked: &Looked) -> bool {
        let request = &looked.request;
        if request.policy_hash.is_empty() {
            return true;
        }
        let found = self.policy_of(&request.shown.agent, looked.policy.as_deref());
        found.is_some_and(|(terms, hash)| {
            let asked = request.shown.approvers == terms.approvers
                && u128::try_from(request.life_micros) == Ok(terms.life.as_micros());
            hash == request.policy_hash
                && request.shown.quorum == terms.quorum
                && (request.revision > 0 || asked)
        })
    }

    /// Whether an agent is named like that, as far as anything here knows.
    pub(super) async fn is_agent(&self, folded: &str) -> Result<bool, GateError> {
        Ok(self.is_agent_here(folded) || self.store.is_agent(folded).await?)
    }

    /// Whether this process knows an agent that is named like that, which others may not.
    pub(super) fn is_agent_here(&self, folded: &str) -> bool {
        let others = self.others.list();
        self.book.names(folded) || others.iter().any(|agent| fold(agent.as_str()) == folded)
    }
}
