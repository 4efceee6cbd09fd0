//! What the writer does about signatures: keys on record first, heads, and what went unsigned.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::queue::{Group, Taken};
use super::{Shared, recover};
use crate::audit::error::AuditError;
use crate::audit::model::{AuditEvent, Draft, Sealed, Signed};
use crate::audit::several::Several;
use crate::audit::store::chain::Head;

type Answered = oneshot::Receiver<Result<Taken, AuditError>>;

impl Shared {
    /// Puts the keys on record first that `drafts` are signed with: no signature is on record before
    /// its key.
    pub(super) async fn register_keys(
        self: &Arc<Self>,
        drafts: &[Draft],
    ) -> Result<(), AuditError> {
        let Some(signer) = self.signer.get() else {
            return Ok(());
        };
        let put = |event| async {
            let key = self.seal(Several::one(event))?;
            self.record(&Arc::new(Sealed::new(key))).await.map(drop)
        };
        signer.register(drafts, put).await
    }

    /// The entry that a signed head needs before it, if it is not on record yet. It is no caller's:
    /// if it cannot be committed now, the next lane to commit something tries again.
    pub(super) fn process_registration(&self) -> Option<(Group, Answered)> {
        let event = self.signer.get()?.process_registration()?;
        let draft = event
            .seal(self.store.now(), &self.keys.load().content)
            .ok()?;
        let (reply, answer) = oneshot::channel();
        Some((
            Group::kept(Arc::new(Sealed::new(Several::one(draft))), reply),
            answer,
        ))
    }

    /// What became of that entry.
    pub(super) fn process_registered(&self, on_record: bool) {
        match self.signer.get() {
            Some(signer) if on_record => signer.process_is_on_record(),
            Some(signer) => signer.process_is_not_on_record(),
            None => {}
        }
    }

    /// Signs where a chain ends, if that is the policy.
    pub(super) fn sign_head(&self, chain_no: u32, head: &Head) -> Option<Signed> {
        let signer = self.signer.get()?;
        signer.sign_head(chain_no, head.next_seq.saturating_sub(1), &head.mac)
    }

    /// Takes note of a batch whose head is not signed.
    pub(super) fn head_unsigned(self: &Arc<Self>) {
        if let Some(signer) = self.signer.get() {
            let due = signer.head_unsigned(self.store.now());
            self.say_unsigned(due);
        }
    }

    /// Records what could not be signed, behind everybody's back.
    pub(super) fn say_unsigned(self: &Arc<Self>, events: impl IntoIterator<Item = AuditEvent>) {
        for event in events {
            if !self.queue.is_open() {
                return;
            }
            let sealed = event.seal(self.store.now(), &self.keys.load().content);
            let said = sealed.and_then(|draft| {
                self.record_detached(&Arc::new(Sealed::new(Several::one(draft))))
            });
            if let Err(error) = said {
                self.stats.lose(1);
                tracing::warn!(%error, "that entries are not signed could not be recorded");
            }
        }
    }

    /// Records what is queued and waits, as far as the deadline allows: the outbox, and our journal.
    pub(super) async fn settle(self: &Arc<Self>) {
        let all = async {
            self.move_outbox().await?;
            let ours = |journal: &&crate::audit::journal::Journal| {
                !journal.is_on_request() && journal.ledger().front().is_some()
            };
            if self.journal.as_ref().is_some_and(|journal| ours(&journal)) {
                recover::drain(self).await?;
            }
            Ok::<(), AuditError>(())
        };
        match timeout(self.store.deadline(), all).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "audit entries that were signed are not all on record yet");
            }
            Err(_) => tracing::warn!("audit entries that were signed are not all on record yet"),
        }
    }
}
