//! What the enforcement point writes into the trail.

use super::outcome::{Outcome, Status};
use crate::audit::{AuditEvent, Kind};
use crate::call::{Action, Parts, Principal};
use crate::cost::Reservation;
use crate::error::Refusal;
use crate::gates::UsedApproval;
use crate::ids::{CallId, EventId};

/// The longest resource that is recorded; a longer one is bound by the digest alone.
const MAX_RESOURCE: usize = 1024;

/// The entries of one decision, in order.
pub(super) struct Decision {
    decision: AuditEvent,
    started: AuditEvent,
}

impl Decision {
    pub(super) const fn last_id(&self) -> EventId {
        self.started.id()
    }

    pub(super) fn into_events(self) -> Vec<AuditEvent> {
        vec![self.decision, self.started]
    }
}

/// The decision and the start of the call: one call id, one batch.
pub(super) fn permitted(
    parts: &Parts<'_>,
    call: CallId,
    digest: &[u8; 32],
    basis: &Basis<'_>,
) -> Decision {
    let mut decision = about(parts, Kind::PolicyDecision, call, digest).decision("allow");
    decision = decision
        .with("halt_epoch", basis.halt_epoch)
        .with("scope_revision", basis.scope_revision);
    if let Some(approval) = basis.approval {
        decision = decision.caused_by(approval.entry);
    }
    let kind = match parts.action {
        Action::Tool(_) => Kind::ToolCallStarted,
        Action::Model(_) => Kind::LlmCallStarted,
    };
    let mut started = about(parts, kind, call, digest).caused_by(decision.id());
    if let Some(args) = parts.args {
        started = started.input(args.as_bytes());
    }
    if let Some(reservation) = basis.reservation {
        started = started.with("reservation_id", reservation.id().to_string());
    }
    Decision { decision, started }
}

/// What a decision rests on.
pub(super) struct Basis<'b> {
    pub(super) reservation: Option<&'b Reservation>,
    pub(super) approval: Option<&'b UsedApproval>,
    /// What was known of halts.
    pub(super) halt_epoch: u64,
    /// The newest change of the scope policies that was in force.
    pub(super) scope_revision: i64,
}

/// A refusal, and the gate that it came from.
pub(super) fn refused(
    parts: &Parts<'_>,
    call: CallId,
    digest: &[u8; 32],
    refusal: &Refusal,
) -> AuditEvent {
    about(parts, Kind::PolicyDecision, call, digest)
        .decision("deny")
        .with("gate", refusal.gate().as_str())
        .with("reason", refusal.reason())
}

/// How a call ended.
pub(super) fn ended(call: &Ended<'_>, outcome: &Outcome) -> AuditEvent {
    let kind = match (call.action, outcome.status) {
        (Action::Tool(_), Status::Completed) => Kind::ToolCallCompleted,
        (Action::Tool(_), _) => Kind::ToolCallFailed,
        (Action::Model(_), Status::Completed) => Kind::LlmCallCompleted,
        (Action::Model(_), _) => Kind::LlmCallFailed,
    };
    let mut event = AuditEvent::system(Some(call.principal), kind)
        .caused_by(call.started)
        .with("call_id", call.id.to_string());
    event = match call.action {
        Action::Tool(name) => event.with("tool", name.as_str()),
        Action::Model(name) => {
            // The model that answered may be another version of the one that was asked.
            event.model(outcome.model.as_ref().unwrap_or(name))
        }
    };
    if let Some(output) = outcome.output {
        event = event.output_sha256(output);
    }
    if call.halted {
        event = event.with("halted_meanwhile", true);
    }
    match outcome.status {
        Status::Completed => event.decision("completed"),
        Status::Failed(code) => event.decision("failed").with("code", code),
        Status::Refunded(code) => event
            .decision("failed")
            .with("code", code)
            .with("refunded", true),
        Status::Unknown => event.decision("unknown"),
    }
}

/// A call that has ended.
pub(super) struct Ended<'c> {
    pub(super) principal: &'c Principal,
    pub(super) action: &'c Action,
    pub(super) id: CallId,
    pub(super) started: EventId,
    /// Whether somebody halted it while it was under way.
    pub(super) halted: bool,
}

fn about(parts: &Parts<'_>, kind: Kind, call: CallId, digest: &[u8; 32]) -> AuditEvent {
    let who = parts.principal;
    let mut event = AuditEvent::system(Some(who), kind)
        .with("call_id", call.to_string())
        .with("call_digest", hex::encode(digest));
    event = match parts.action {
        Action::Tool(name) => event.with("tool", name.as_str()),
        Action::Model(name) => event.model(name),
    };
    if let Some(operator) = who.operator_id() {
        event = event.with("operator_id", operator.as_str());
    }
    if let Some(parent) = who.parent() {
        event = event
            .with("parent_agent", parent.agent_id().as_str())
            .with("parent_session", parent.session_id().as_str());
    }
    if let Some(capability) = parts.capability {
        event = event.with("capability", capability);
    }
    if !parts.labels.is_empty() {
        event = event.with("labels", parts.labels);
    }
    if let Some(resource) = parts.resource.filter(|text| text.len() <= MAX_RESOURCE) {
        event = event.with("resource", resource);
    }
    event
}
