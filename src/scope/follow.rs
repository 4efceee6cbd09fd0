//! From a stored row to what can be taken into force.

use super::engine::{Compiled, Policy};
use super::error::InvalidPolicy;
use super::model::{ScopePolicy, hash_of};
use crate::ids::AgentId;
use crate::store::PolicyRow;

/// One agent's policy, as it was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) agent: AgentId,
    pub(super) found: Found,
}

/// What was found of an agent.
#[derive(Debug)]
pub(super) enum Found {
    /// Its policy.
    Policy(Policy),
    /// It was removed.
    Gone,
    /// It has one, and it cannot be read.
    Broken(InvalidPolicy),
}

/// Reads a row; `None` if it can be nobody's.
pub(super) fn read(row: &PolicyRow) -> Option<Read> {
    let Ok(agent) = AgentId::parse(&row.name) else {
        // No principal can have this id, so nothing has to be denied.
        tracing::error!("a stored scope policy has an agent id that is none");
        return None;
    };
    let found = match &row.document {
        None => Found::Gone,
        Some(text) => match ScopePolicy::from_document(&agent, text) {
            Ok(policy) => Found::Policy(Policy {
                compiled: Compiled::new(&policy),
                hash: hash_of(text),
            }),
            Err(error) => Found::Broken(error),
        },
    };
    Some(Read { agent, found })
}
