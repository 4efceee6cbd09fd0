//! What the loop gate puts on record.

use super::engine::{Found, Pattern};
use super::model::LoopAction;
use crate::audit::{Audit, AuditEvent, Kind, Receipt};
use crate::call::Principal;
use crate::ids::{AgentId, SessionId};
use crate::store::StoreError;

/// A loop, once for all the calls that belong to it. The tool's name is an id, not content.
pub(super) fn detected(
    who: &Principal,
    tool: &str,
    action: LoopAction,
    found: Found,
    observed: bool,
) -> AuditEvent {
    let event = AuditEvent::system(Some(who), Kind::LoopDetected)
        .decision(if observed {
            "observed"
        } else {
            action.as_str()
        })
        .with("tool", tool)
        .with("pattern", found.pattern.as_str());
    match found.pattern {
        Pattern::Repetition { times } | Pattern::Changing { times } => event.with("times", times),
        Pattern::Cycle { length, rounds } => event.with("length", length).with("rounds", rounds),
        Pattern::Polling => event,
    }
}

/// What other processes saw of a session could not be read.
pub(super) fn unavailable(
    agent: &AgentId,
    session: &SessionId,
    error: &StoreError,
    goes_on: bool,
) -> AuditEvent {
    let who = Principal::agent(agent.clone()).session(session.clone());
    AuditEvent::system(Some(&who), Kind::LoopStateUnavailable)
        .decision(if goes_on { "allow" } else { "deny" })
        .with("reason", error.to_string())
}

/// A policy that came into force, or went.
pub(super) async fn changed(
    audit: &Audit,
    agent: Option<&AgentId>,
    decision: &str,
    hash: Option<&str>,
) {
    let mut event = AuditEvent::system(None, Kind::LoopPolicyRegistered)
        .decision(decision)
        .with("agent", agent.map_or("*", |agent| agent.as_str()));
    if let Some(hash) = hash {
        event = event.with("policy_hash", hash);
    }
    if let Receipt::Lost { id, error } = audit.log(event).await {
        tracing::error!(%id, %error, "a change of a loop policy is not on record");
    }
}
