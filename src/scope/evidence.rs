//! What the scope gate puts on record.

use super::engine::Target;
use super::error::ScopeError;
use super::model::PolicyHash;
use super::url::ApiUrl;
use crate::audit::{Audit, AuditEvent, Kind, Receipt};
use crate::call::Principal;
use crate::ids::{AgentId, is_well_formed};

/// How many policies are put on record at once.
const BATCH: usize = 1_000;
/// How many withheld tools are named.
const NAMED: usize = 16;

/// A refusal. Of a URL only scheme, host and port are kept: the rest may hold secrets.
pub(super) fn violation(
    who: &Principal,
    target: Target<'_>,
    error: &ScopeError,
    hidden: bool,
) -> AuditEvent {
    let (of, name) = match target {
        Target::Tool(name) => ("tool", valid(name).to_owned()),
        Target::Model(name) => ("model", valid(name).to_owned()),
        Target::Api(url) => ("api", origin(url)),
    };
    let reason = if hidden { "hidden" } else { error.word() };
    AuditEvent::system(Some(who), Kind::ScopeViolation)
        .decision("deny")
        .with("target", of)
        .with(of, name)
        .with("reason", reason)
}

/// Tools that were taken out of what a model is shown.
pub(super) fn withheld(who: &Principal, hidden: &[String]) -> AuditEvent {
    let names: Vec<&str> = hidden.iter().take(NAMED).map(|name| valid(name)).collect();
    AuditEvent::system(Some(who), Kind::ToolHidden)
        .with("count", hidden.len())
        .with("tools", names)
}

/// Puts policies that are in force on record, each by the hash of its stored text.
pub(super) async fn record_registered(audit: &Audit, policies: &[(AgentId, PolicyHash)]) {
    if let [(agent, hash)] = policies {
        record(audit, changed("registered", agent, hash)).await;
        return;
    }
    for batch in policies.chunks(BATCH) {
        let events = batch
            .iter()
            .map(|(agent, hash)| changed("registered", agent, hash));
        if let Err(error) = audit.append_all(events.collect()).await {
            tracing::error!(%error, policies = batch.len(), "registered scope policies are not on record");
        }
    }
}

/// Puts on record that a program has a policy of its own in force.
pub(super) async fn record_pinned(audit: &Audit, agent: &AgentId, hash: &PolicyHash) {
    record(audit, changed("pinned", agent, hash)).await;
}

/// Puts on record that an agent has no stored policy any more.
pub(super) async fn record_removed(audit: &Audit, agent: &AgentId) {
    let event = AuditEvent::system(None, Kind::ScopePolicyRegistered)
        .decision("removed")
        .with("agent", agent.as_str());
    record(audit, event).await;
}

fn changed(how: &'static str, agent: &AgentId, hash: &PolicyHash) -> AuditEvent {
    AuditEvent::system(None, Kind::ScopePolicyRegistered)
        .decision(how)
        .with("agent", agent.as_str())
        .with("policy_hash", hex::encode(hash))
}

async fn record(audit: &Audit, event: AuditEvent) {
    if let Receipt::Lost { id, error } = audit.log(event).await {
        tracing::error!(%id, %error, "a change of a scope policy is not on record");
    }
}

/// A name, if it is one: what an agent makes up must not become a way to write into the trail.
fn valid(name: &str) -> &str {
    if is_well_formed(name) {
        name
    } else {
        "invalid"
    }
}

fn origin(url: &str) -> String {
    ApiUrl::parse(url).map_or_else(|_| "invalid".to_owned(), |url| url.origin())
}
