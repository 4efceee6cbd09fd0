//! Signing what is about to be queued.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::OnceCell;

use super::key::{AgentKey, AgentKeyId};
use super::{SignPolicy, Signing, digest, record};
use crate::audit::error::AuditError;
use crate::audit::model::{AuditEvent, Draft};
use crate::ids::{AgentId, TenantId};

/// One writer's keys, and which of them it has put on record.
#[derive(Debug)]
pub(in crate::audit) struct Signer {
    policy: SignPolicy,
    tenant: TenantId,
    keys: BTreeMap<AgentId, Held>,
    unsigned: AtomicU64,
    warned: AtomicBool,
}

#[derive(Debug)]
struct Held {
    key: Arc<AgentKey>,
    on_record: OnceCell<()>,
    retired: AtomicBool,
}

impl Signer {
    pub(in crate::audit) fn new(signing: &Signing, tenant: &TenantId) -> Self {
        let held = |(agent, key): (&AgentId, &Arc<AgentKey>)| {
            let held = Held {
                key: Arc::clone(key),
                on_record: OnceCell::new(),
                retired: AtomicBool::new(false),
            };
            (agent.clone(), held)
        };
        Self {
            policy: signing.policy,
            tenant: tenant.clone(),
            keys: signing.keys.iter().map(held).collect(),
            unsigned: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        }
    }

    /// Entries that should have been signed and were not.
    pub(in crate::audit) fn unsigned(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    /// Signs those of `drafts` that the policy covers.
    pub(in crate::audit) fn sign(&self, drafts: &mut [Draft]) {
        for draft in drafts {
            let Some(agent) = self.signs(draft) else {
                continue;
            };
            if let Some(held) = self.held(agent) {
                let key = &held.key;
                let digest = digest::of_draft(&self.tenant, key.id().as_bytes(), draft);
                draft.signed = Some(key.sign(&digest));
            } else {
                self.unsigned.fetch_add(1, Ordering::Relaxed);
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %agent,
                        "audit entries of this agent are not signed: its key is not here; others are counted in the statistics"
                    );
                }
            }
        }
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

    /// Signs with this key no more.
    pub(in crate::audit) fn retire(&self, agent: &AgentId, key: AgentKeyId) {
        if let Some(held) = self.keys.get(agent).filter(|held| held.key.id() == key) {
            held.retired.store(true, Ordering::Relaxed);
        }
    }

    fn signs<'d>(&self, draft: &'d Draft) -> Option<&'d AgentId> {
        use crate::audit::kind::Kind::{IdentityKeyRegistered, IdentityKeyRevoked};
        // What is said about a key is not said by it.
        let about_keys = matches!(draft.kind, IdentityKeyRegistered | IdentityKeyRevoked);
        draft
            .agent
            .as_ref()
            .filter(|_| !about_keys && self.policy.covers(&draft.kind))
    }

    fn held(&self, agent: &AgentId) -> Option<&Held> {
        let held = self.keys.get(agent)?;
        (!held.retired.load(Ordering::Relaxed)).then_some(held)
    }

    fn unrecorded(&self, draft: &Draft) -> Option<&Held> {
        let signed = draft.signed.as_ref()?;
        let held = self.keys.get(draft.agent.as_ref()?)?;
        (!held.on_record.initialized() && held.key.id().as_bytes() == &signed.key).then_some(held)
    }
}
