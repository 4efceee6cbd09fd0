//! Agents' own signatures: an entry that only the holder of an agent's key could have made.
//!
//! The chain's MAC proves an entry to whoever has the audit secret, who could also have forged it. A
//! signature proves it to anybody who has the agent's public key, which is on record in the chain
//! itself (`identity.key_registered`). It covers what happened, with the event's id, and not its
//! place; so it is made by the caller, and cannot be moved to another entry.
//!
//! A signature is no gate: an entry whose agent has no key here is recorded without one, counted in
//! [`AuditStats::unsigned`](super::AuditStats::unsigned) and warned of.
//!
//! ```no_run
//! # async fn example(audit: portcullis::audit::Audit) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::AgentId;
//! use portcullis::audit::{AgentKey, KeySource, SignPolicy, Signing};
//!
//! let agent = AgentId::parse("billing-agent")?;
//! let key = AgentKey::load(agent, KeySource::file("/etc/portcullis/billing-agent.key"))?;
//! let audit = audit.sign_with(&Signing::new(SignPolicy::All).key(key));
//! # Ok(())
//! # }
//! ```

mod digest;
mod key;
mod record;
mod registry;
mod signer;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::key::{AgentKey, AgentKeyId};
pub(in crate::audit) use self::registry::Registry;
pub(in crate::audit) use self::signer::Signer;

use super::kind::Kind;
use super::{Audit, AuditError, AuditEvent, Recorded};
use crate::ids::AgentId;
use crate::time::Timestamp;

/// Which entries of an agent are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignPolicy {
    /// None.
    #[default]
    None,
    /// Those that record a decision: of the policy, a gate, a person.
    Decisions,
    /// All that name an agent.
    All,
}

impl SignPolicy {
    pub(super) const fn covers(self, kind: &Kind) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Decisions => matches!(
                kind,
                Kind::PolicyDecision
                    | Kind::PolicyApproved
                    | Kind::ScopeViolation
                    | Kind::BudgetExceeded
                    | Kind::GateRequested
                    | Kind::GateGranted
                    | Kind::GateDenied
                    | Kind::GateExpired
                    | Kind::GateTokenConsumed
                    | Kind::GateTokenReplayBlocked
                    | Kind::GateSelfApprovalBlocked
                    | Kind::OverrideRecorded
                    | Kind::AgentHaltBlockedCall
                    | Kind::OutputBlocked
                    | Kind::CodeExecBlocked
            ),
        }
    }
}

/// The agents' keys that this process has, and what is signed with them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Signing {
    pub(super) policy: SignPolicy,
    pub(super) keys: Arc<BTreeMap<AgentId, Arc<AgentKey>>>,
}

impl Signing {
    /// Whether nothing is to be signed.
    pub(crate) fn is_none(&self) -> bool {
        self.policy == SignPolicy::None
    }

    /// Without keys yet: every entry that `policy` covers goes unsigned, and is counted.
    #[must_use]
    pub fn new(policy: SignPolicy) -> Self {
        Self {
            policy,
            keys: Arc::default(),
        }
    }

    /// Adds an agent's key, in the place of one that it had.
    #[must_use]
    pub fn key(mut self, key: AgentKey) -> Self {
        Arc::make_mut(&mut self.keys).insert(key.agent().clone(), Arc::new(key));
        self
    }
}

impl Audit {
    /// Signs what `signing` says from now on. Of several calls, on this handle and its clones, the
    /// first counts; call it before anything is recorded.
    ///
    /// A key is put on record with the first entry that it signs.
    #[must_use]
    pub fn sign_with(self, signing: &Signing) -> Self {
        self.writer.sign_with(signing);
        self
    }

    /// Revokes an agent's key: a signature by it on an entry recorded after `effective` fails
    /// verification; one before it still holds. Without a moment, it is now.
    ///
    /// This process stops signing with it. Take it from the others first: what they sign with it
    /// afterwards is a finding, and so is what was signed just before and is recorded after.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn revoke_key(
        &self,
        agent: &AgentId,
        key: AgentKeyId,
        effective: Option<Timestamp>,
    ) -> Result<Recorded, AuditError> {
        self.writer.retire(agent, key);
        let event: AuditEvent = record::revoked(agent, key, effective);
        self.append(event).await
    }
}
