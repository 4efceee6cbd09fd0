//! What contracts put on record: names and words, never content.

use super::about::About;
use super::error::Violation;
use super::model::{Condition, Contract, Of, Promise};
use crate::audit::{AuditEvent, Kind};
use crate::call::Action;

/// How many tools are named.
const NAMED: usize = 32;

/// A violation, with both sides.
pub(super) fn violated(
    about: &About,
    violation: &Violation,
    when: When,
    fails: bool,
) -> AuditEvent {
    of(about, Kind::ContractViolated)
        .decision(if fails { "deny" } else { "report" })
        .with("contract", &violation.contract)
        .with("when", when.as_str())
        .with("required", &violation.required)
        .with("found", violation.found)
}

/// A contract that a call kept.
pub(super) fn passed(about: &About, contract: &str, when: When) -> AuditEvent {
    of(about, Kind::ContractPassed)
        .decision("allow")
        .with("contract", contract)
        .with("when", when.as_str())
}

/// A contract that came into force: in this process, or in all.
pub(super) fn registered(contract: &Contract, decision: &str) -> AuditEvent {
    let requires: Vec<String> = contract.requires.iter().map(Condition::word).collect();
    let ensures: Vec<String> = contract.ensures.iter().map(Promise::word).collect();
    let tools: Vec<&str> = match &contract.of {
        Of::Tools(tools) => tools.iter().take(NAMED).map(String::as_str).collect(),
        Of::Any | Of::Nothing | Of::Both => vec!["*"],
    };
    AuditEvent::system(None, Kind::ContractPolicyRegistered)
        .decision(decision)
        .with("contract", &contract.name)
        .with("tools", tools)
        .with("requires", requires)
        .with("ensures", ensures)
        .with("fails_when_broken", contract.fails_when_broken())
}

/// A stored contract that is in force no more.
pub(super) fn removed(name: &str) -> AuditEvent {
    AuditEvent::system(None, Kind::ContractPolicyRegistered)
        .decision("removed")
        .with("contract", name)
}

/// On which side of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

impl When {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

fn of(about: &About, kind: Kind) -> AuditEvent {
    let event = AuditEvent::system(Some(about.principal()), kind)
        .with("call_digest", hex::encode(about.digest));
    let event = match about.action() {
        Action::Tool(name) => event.with("tool", name.as_str()),
        Action::Model(name) => event.model(name),
    };
    match about.completed() {
        None => event,
        Some(true) => event.with("ended", "completed"),
        Some(false) => event.with("ended", "failed"),
    }
}
