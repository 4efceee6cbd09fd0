//! The entries that approvals leave in the trail: who asked, who decided, what came of it.

use super::store::Stored;
use crate::audit::{AuditEvent, Kind};
use crate::call::Principal;
use crate::ids::{AgentId, GrantId, RequestId, SessionId};

/// What every entry about one request says of it.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) id: RequestId,
    pub(super) label: String,
    pub(super) agent: AgentId,
    pub(super) session: SessionId,
    pub(super) digest: [u8; 32],
    pub(super) policy_hash: String,
}

impl From<&Stored> for About {
    fn from(stored: &Stored) -> Self {
        Self {
            id: stored.shown.id,
            label: stored.shown.label.clone(),
            agent: stored.shown.agent.clone(),
            session: stored.shown.session.clone(),
            digest: stored.call_digest,
            policy_hash: stored.policy_hash.clone(),
        }
    }
}

impl About {
    pub(super) fn event(&self, kind: Kind) -> AuditEvent {
        let who = Principal::agent(self.agent.clone()).session(self.session.clone());
        self.event_of(&who, kind)
    }

    /// As [`event`](Self::event), with all that is known of who asked.
    pub(super) fn event_of(&self, who: &Principal, kind: Kind) -> AuditEvent {
        let mut event = AuditEvent::system(Some(who), kind)
            .with("request_id", self.id.to_string())
            .with("label", &self.label)
            .with("call_digest", hex::encode(self.digest));
        if let Some(operator) = who.operator_id() {
            event = event.with("operator_id", operator.as_str());
        }
        if !self.policy_hash.is_empty() {
            event = event.with("policy_hash", &self.policy_hash);
        }
        event
    }
}

/// Adds why, if somebody said it.
pub(super) fn because(event: AuditEvent, reason: Option<&str>) -> AuditEvent {
    match reason {
        Some(reason) => event.with("reason", reason),
        None => event,
    }
}

/// An entry about what was agreed to in advance.
pub(super) fn standing(agent: &AgentId, id: GrantId, kind: Kind) -> AuditEvent {
    // Nobody's session: it is for those to come.
    AuditEvent::system(None, kind)
        .with("agent_id", agent.as_str())
        .with("grant_id", id.to_string())
}
