//! Agents' own signatures: an entry that only the holder of an agent's key could have made.
//!
//! The chain's MAC proves an entry to whoever has the audit secret, who could also have forged it. A
//! signature proves it to anybody who has the agent's public key, which is on record in the chain
//! itself (`identity.key_registered`). It covers what happened, with the event's id, and not its
//! place; so it is made by the caller, and cannot be moved to another entry.
//!
//! A signature is no gate: an entry whose agent has no key here is recorded without one, counted in
//! [`AuditStats::unsigned`](super::AuditStats::unsigned), warned of, and said in the trail itself
//! (`identity.unsigned_local_failure`).
//!
//! A process can also sign where its chains end, once for each commit ([`HeadPolicy`]): cheaper than
//! a signature for each entry, and it covers all of them, and the order that they stand in. It says
//! which process recorded something, and not which agent did it.
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
mod missing;
mod process;
mod record;
mod registry;
mod signer;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(in crate::audit) use self::key::PublicKey;
pub use self::key::{AgentKey, AgentKeyId};
pub(in crate::audit) use self::process::SignedHead;
pub use self::process::{HeadPolicy, ProcessKey};
pub(in crate::audit) use self::record::{Said, read as read_record};
pub(in crate::audit) use self::registry::{Registry, Wrong};
pub(in crate::audit) use self::signer::Signer;

use super::kind::Kind;
use super::{Audit, AuditError, AuditEvent, KeySource, Recorded};
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

/// The keys that this process has, and what is signed with them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Signing {
    policy: SignPolicy,
    /// `None` for a key that could not be loaded.
    keys: Arc<BTreeMap<AgentId, Option<Arc<AgentKey>>>>,
    heads: HeadPolicy,
    process: Option<Arc<ProcessKey>>,
}

impl Signing {
    /// Whether nothing is to be signed.
    pub(crate) fn is_none(&self) -> bool {
        self.policy == SignPolicy::None && self.heads == HeadPolicy::None
    }

    /// Without keys yet: every entry that `policy` covers goes unsigned, and is counted.
    #[must_use]
    pub fn new(policy: SignPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Adds an agent's key, in the place of one that it had.
    #[must_use]
    pub fn key(mut self, key: AgentKey) -> Self {
        let agent = key.agent().clone();
        Arc::make_mut(&mut self.keys).insert(agent, Some(Arc::new(key)));
        self
    }

    /// Adds the key of `agent` from `source`. What cannot be loaded stops nobody: it is logged, and
    /// the agent's entries go unsigned, which is counted, unhealthy, and on record.
    #[must_use]
    pub fn load_key(mut self, agent: AgentId, source: KeySource) -> Self {
        match AgentKey::load(agent.clone(), source) {
            Ok(key) => self.key(key),
            Err(error) => {
                tracing::error!(%agent, %error, "the agent's key cannot be used; its entries go unsigned");
                Arc::make_mut(&mut self.keys).insert(agent, None);
                self
            }
        }
    }

    /// Also signs where the chains end, with `key`.
    #[must_use]
    pub fn heads(mut self, policy: HeadPolicy, key: ProcessKey) -> Self {
        (self.heads, self.process) = (policy, Some(Arc::new(key)));
        self
    }

    /// Also signs where the chains end, with the key from `source`. What cannot be loaded stops
    /// nobody: it is logged, and the heads go unsigned, which is counted, unhealthy, and on record.
    #[must_use]
    pub fn load_heads(mut self, policy: HeadPolicy, source: KeySource) -> Self {
        match ProcessKey::load(source) {
            Ok(key) => self.heads(policy, key),
            Err(error) => {
                tracing::error!(%error, "the process's key cannot be used; the heads of its audit chains go unsigned");
                (self.heads, self.process) = (policy, None);
                self
            }
        }
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
    /// This process stops signing with it, and first records what it and its outbox still hold. Take
    /// the key from the others before: what they sign and record with it afterwards is a finding.
    /// What comes later by way of a journal or a transaction may have been signed before, and nothing
    /// shows when it was: a verification lists it as not proved
    /// ([`Verification::late_signatures`](super::Verification::late_signatures)).
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
        self.revoke(Some(agent), key, effective).await
    }

    /// Revokes the key that a process signs heads with: a head that it signed holds if its last entry
    /// was recorded no later than `effective`. Without a moment, it is now.
    ///
    /// This process stops signing with it, if it is its own.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn revoke_process_key(
        &self,
        key: AgentKeyId,
        effective: Option<Timestamp>,
    ) -> Result<Recorded, AuditError> {
        self.revoke(None, key, effective).await
    }

    async fn revoke(
        &self,
        agent: Option<&AgentId>,
        key: AgentKeyId,
        effective: Option<Timestamp>,
    ) -> Result<Recorded, AuditError> {
        self.writer.retire(agent, key);
        if agent.is_some() {
            self.writer.settle().await;
        }
        let event: AuditEvent = record::revoked(agent, key, effective);
        self.append(event).await
    }
}
