//! Signing what is about to be queued, and where a chain ends with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::OnceCell;

use super::key::{AgentKey, AgentKeyId};
use super::missing::Missing;
use super::process::{HeadPolicy, ProcessKey, SignedHead};
use super::{SignPolicy, Signing, digest, record};
use crate::audit::error::AuditError;
use crate::audit::model::{AuditEvent, Draft, Signed};
use crate::ids::{AgentId, TenantId};
use crate::time::Timestamp;

/// Why something is not signed, as its entry says it.
const NOT_HERE: &str = "this process has no key of the agent";
const NOT_LOADED: &str = "the key could not be loaded; the log of this process says why";
const REVOKED: &str = "this process has revoked the key";

/// One writer's keys, and which of them it has put on record.
#[derive(Debug)]
pub(in crate::audit) struct Signer {
    policy: SignPolicy,
    tenant: TenantId,
    keys: BTreeMap<AgentId, Held>,
    /// Agents whose keys could not be loaded.
    unloaded: Vec<AgentId>,
    heads: HeadPolicy,
    process: Option<Process>,
    unsigned: AtomicU64,
    unsigned_heads: AtomicU64,
    warned: AtomicBool,
    missing: Missing,
}

#[derive(Debug)]
struct Held {
    key: Arc<AgentKey>,
    on_record: OnceCell<()>,
    retired: AtomicBool,
}

#[derive(Debug)]
struct Process {
    key: Arc<ProcessKey>,
    on_record: AtomicBool,
    retired: AtomicBool,
}

impl Signer {
    pub(in crate::audit) fn new(signing: &Signing, tenant: &TenantId) -> Self {
        let held = |(agent, key): (&AgentId, &Option<Arc<AgentKey>>)| {
            let held = Held {
                key: Arc::clone(key.as_ref()?),
                on_record: OnceCell::new(),
                retired: AtomicBool::new(false),
            };
            Some((agent.clone(), held))
        };
        let unloaded = signing.keys.iter().filter(|(_, key)| key.is_none());
        Self {
            policy: signing.policy,
            tenant: tenant.clone(),
            keys: signing.keys.iter().filter_map(held).collect(),
            unloaded: unloaded.map(|(agent, _)| agent.clone()).collect(),
            heads: signing.heads,
            process: signing.process.as_ref().map(|key| Process {
                key: Arc::clone(key),
                on_record: AtomicBool::new(false),
                retired: AtomicBool::new(false),
            }),
            unsigned: AtomicU64::new(0),
            unsigned_heads: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            missing: Missing::default(),
        }
    }

    /// Entries that should have been signed and were not.
    pub(in crate::audit) fn unsigned(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    /// Batches whose heads should have been signed and were not.
    pub(in crate::audit) fn unsigned_heads(&self) -> u64 {
        self.unsigned_heads.load(Ordering::Relaxed)
    }

    /// Signs those of `drafts` that the policy covers; answers with entries that are due on those
    /// that could not be.
    pub(in crate::audit) fn sign(&self, drafts: &mut [Draft], now: Timestamp) -> Vec<AuditEvent> {
        let mut due = Vec::new();
        for draft in drafts {
            let Some(agent) = self.signs(draft) else {
                continue;
            };
            match self.held(agent) {
                Ok(held) => {
                    let key = &held.key;
                    let digest = digest::of_draft(&self.tenant, key.id().as_bytes(), draft);
                    draft.signed = Some(key.sign(&digest));
                }
                Err(reason) => {
                    self.unsigned.fetch_add(1, Ordering::Relaxed);
                    if !self.warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            %agent,
                            reason,
                            "audit entries of this agent are not signed; others are counted in the statistics"
                        );
                    }
                    due.extend(self.missing.count(Some(agent), reason, now));
                }
            }
        }
        due
    }

    /// What is not said yet of entries that could not be signed.
    pub(in crate::audit) fn unsaid(&self) -> Vec<AuditEvent> {
        self.missing.rest()
    }

    /// Puts the keys on record that `drafts` are signed with and that are not yet, by `append`.
    pub(in crate::audit) async fn register<F, Fut>(
        &self,
        drafts: &[Draft],
        append: F,
    ) -> Result<(), AuditError>
    where
        F: Fn(AuditEvent) -> Fut,
        Fut: Future<Output = Result<(), AuditError>>,
    {
        for held in drafts.iter().filter_map(|draft| self.unrecorded(draft)) {
            let registration = || append(record::registered(&self.tenant, &held.key));
            held.on_record.get_or_try_init(registration).await?;
        }
        Ok(())
    }

    /// The registrations that `draft` needs before it, where nothing can be waited for.
    pub(in crate::audit) fn registration(&self, draft: &Draft) -> Option<AuditEvent> {
        let held = self.unrecorded(draft)?;
        Some(record::registered(&self.tenant, &held.key))
    }

    /// The entry that a signed head needs before it; `None` if it is on record, or no head is signed.
    pub(in crate::audit) fn process_registration(&self) -> Option<AuditEvent> {
        let process = self.process()?;
        let on_record = process.on_record.load(Ordering::Acquire);
        (!on_record).then(|| record::process_registered(&self.tenant, &process.key, self.heads))
    }

    /// The entry of [`process_registration`](Self::process_registration) is on record.
    pub(in crate::audit) fn process_is_on_record(&self) {
        if let Some(process) = &self.process {
            process.on_record.store(true, Ordering::Release);
        }
    }

    /// It could not be put there: the batches until the next try go unsigned.
    pub(in crate::audit) fn process_is_not_on_record(&self) {
        self.unsigned_heads.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("the process's key is not on record yet; heads of audit chains go unsigned");
    }

    /// Signs the head of a chain, if that is the policy and the key is here and on record.
    pub(in crate::audit) fn sign_head(
        &self,
        chain_no: u32,
        seq: u64,
        mac: &[u8; 32],
    ) -> Option<Signed> {
        let process = self.process()?;
        process.on_record.load(Ordering::Acquire).then(|| {
            process.key.sign(&SignedHead {
                tenant: &self.tenant,
                chain_no,
                seq,
                mac,
            })
        })
    }

    /// Takes note of a batch whose head was not signed; answers with an entry if one is due.
    pub(in crate::audit) fn head_unsigned(&self, now: Timestamp) -> Option<AuditEvent> {
        // Before the key is on record, the batches that put it there are covered by the next.
        if self.heads == HeadPolicy::None || self.process().is_some() {
            return None;
        }
        self.unsigned_heads.fetch_add(1, Ordering::Relaxed);
        let reason = if self.process.is_some() {
            REVOKED
        } else {
            NOT_LOADED
        };
        let due = self.missing.count(None, reason, now);
        if due.is_some() {
            tracing::warn!(reason, "the heads of audit chains are not signed");
        }
        due
    }

    /// Signs with this key no more: an agent's, or without one the process's own.
    pub(in crate::audit) fn retire(&self, agent: Option<&AgentId>, key: AgentKeyId) {
        let retired = if let Some(agent) = agent {
            let held = self.keys.get(agent).filter(|held| held.key.id() == key);
            held.map(|held| &held.retired)
        } else {
            let process = self.process.as_ref();
            let process = process.filter(|process| process.key.id() == key);
            process.map(|process| &process.retired)
        };
        if let Some(retired) = retired {
            retired.store(true, Ordering::Relaxed);
        }
    }

    fn process(&self) -> Option<&Process> {
        let process = self.process.as_ref()?;
        (self.heads != HeadPolicy::None && !process.retired.load(Ordering::Relaxed))
            .then_some(process)
    }

    fn signs<'d>(&self, draft: &'d Draft) -> Option<&'d AgentId> {
        use crate::audit::kind::Kind::{
            IdentityKeyRegistered, IdentityKeyRevoked, IdentityUnsignedLocalFailure,
        };
        // What is said about a key is not said by it.
        let about_keys = matches!(
            draft.kind,
            IdentityKeyRegistered | IdentityKeyRevoked | IdentityUnsignedLocalFailure
        );
        draft
            .agent
            .as_ref()
            .filter(|_| !about_keys && self.policy.covers(&draft.kind))
    }

    /// The agent's key, or why there is none.
    fn held(&self, agent: &AgentId) -> Result<&Held, &'static str> {
        match self.keys.get(agent) {
            Some(held) if held.retired.load(Ordering::Relaxed) => Err(REVOKED),
            Some(held) => Ok(held),
            None if self.unloaded.contains(agent) => Err(NOT_LOADED),
            None => Err(NOT_HERE),
        }
    }

    fn unrecorded(&self, draft: &Draft) -> Option<&Held> {
        let signed = draft.signed.as_ref()?;
        let held = self.keys.get(draft.agent.as_ref()?)?;
        (!held.on_record.initialized() && held.key.id().as_bytes() == &signed.key).then_some(held)
    }
}
