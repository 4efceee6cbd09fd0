//! The proof that a person agreed, and that nobody else uses the agreement.

use std::fmt;
use std::sync::Arc;

use sqlx::PgConnection;
use uuid::Uuid;

use super::core::Core;
use super::error::GateError;
use super::record::{self, About};
use super::store::GateStore;
use crate::audit::Kind;
use crate::call::Principal;
use crate::ids::{EventId, GrantId, RequestId};

/// A person's agreement to one call, held by that call and not used yet.
///
/// It has no public constructor. [`use_up`](Self::use_up) it just before the call is made; where
/// something else refuses the call first, [`give_back`](Self::give_back) leaves it for the next try.
/// Dropped, it is given back in the background. While it is held nobody else can use it; if the
/// process dies before it is used up, it can be used again half a minute later. Of what was agreed to in
/// advance nothing is held: a use is counted when it is used up, and of those that race for the last one
/// the others are told then.
#[must_use = "the agreement is held until it is used up or given back"]
pub struct Approval {
    live: Option<Live>,
}

struct Live {
    core: Arc<Core>,
    by: By,
    hold: Uuid,
    about: About,
    who: Principal,
}

/// What was agreed to.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Request(RequestId),
    Standing(GrantId),
}

/// Proof that an approval was used up by this call. It has no public constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsedApproval {
    /// The request, or `None` if it was agreed to in advance.
    pub request: Option<RequestId>,
    /// What was agreed to in advance.
    pub grant: Option<GrantId>,
    /// The keyed hash of the call.
    pub digest: [u8; 32],
    /// The entry that says so.
    pub entry: EventId,
}

impl Approval {
    pub(super) fn new(core: Arc<Core>, by: By, hold: Uuid, about: About, who: &Principal) -> Self {
        Self {
            live: Some(Live {
                core,
                by,
                hold,
                about,
                who: who.clone(),
            }),
        }
    }

    /// The keyed hash of the call that it is for.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.live.as_ref().map(|live| live.about.digest)
    }

    /// The request that was granted; `None` if it was agreed to in advance.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        match self.live.as_ref()?.by {
            By::Request(id) => Some(id),
            By::Standing(_) => None,
        }
    }

    /// Uses it up, for good, and puts it on record. What made it valid is looked at once more: its
    /// time, the policy, the halt switch, and that it is still held.
    ///
    /// # Errors
    ///
    /// * [`GateError::NotHeld`] if it was held for too long, taken back, or is past its time.
    /// * [`GateError::Halted`] if the agent is.
    /// * [`GateError::Store`] if the database did not answer. It **may be used up**: that is how it
    ///   is never used twice.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped while it waits, it may be used up. Nothing is used twice.
    pub async fn use_up(mut self) -> Result<UsedApproval, GateError> {
        let Some(live) = self.live.take() else {
            return Err(GateError::NotHeld);
        };
        // Dropped on the way out it is given back, which finds nothing if it was used.
        let kept = Self { live: Some(live) };
        let used = match &kept.live {
            Some(live) => Box::pin(live.use_up()).await?,
            None => return Err(GateError::NotHeld),
        };
        kept.forget();
        Ok(used)
    }

    /// Leaves it to the next try of the same call. Of what was agreed to in advance nothing was taken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is given back in the background.
    pub async fn give_back(mut self) {
        if let Some(live) = self.live.take() {
            let core = Arc::clone(&live.core);
            let (said, done) = tokio::sync::oneshot::channel();
            core.detach(async move {
                live.give_back().await;
                let _ = said.send(());
            });
            let _ = done.await;
        }
    }

    fn forget(mut self) {
        self.live = None;
    }
}

impl Live {
    async fn use_up(&self) -> Result<UsedApproval, GateError> {
        let core = &self.core;
        core.halt.check(&self.who)?;
        if !core.is_in_force(&self.who, &self.about.policy_hash) {
            return Err(GateError::NotHeld);
        }
        let event = self.about.event_of(&self.who, Kind::GateConsumed);
        match self.by {
            By::Request(id) => {
                let entry = event.id();
                let work = async {
                    let mut tx = core.store.begin().await?;
                    let hold = self.hold;
                    if !core.store.try_consume_in_tx(&mut tx, id, hold).await?
                        || !self.is_stored_policy(&mut tx).await?
                    {
                        return Err(GateError::NotHeld);
                    }
                    core.audit.append_in_tx(&mut tx, event).await?;
                    Ok(GateStore::commit(tx).await?)
                };
                core.within("use an approval", work).await?;
                Ok(UsedApproval {
                    request: Some(id),
                    grant: None,
                    digest: self.about.digest,
                    entry,
                })
            }
            By::Standing(grant) => {
                let agent = self.who.agent_id();
                let event = record::standing(agent, grant, Kind::GateConsumed)
                    .with("label", &self.about.label)
                    .with("session", self.who.session_id().as_str())
                    .with("call_digest", hex::encode(self.about.digest));
                let entry = event.id();
                let work = async {
                    let mut tx = core.store.begin().await?;
                    if !core.store.try_use_standing_in_tx(&mut tx, grant).await?
                        || !self.is_stored_policy(&mut tx).await?
                    {
                        return Err(GateError::NotHeld);
                    }
                    core.audit.append_in_tx(&mut tx, event).await?;
                    Ok(GateStore::commit(tx).await?)
                };
                core.within("use an approval", work).await?;
                Ok(UsedApproval {
                    request: None,
                    grant: Some(grant),
                    digest: self.about.digest,
                    entry,
                })
            }
        }
    }

    /// Whether the policy that asked is the one that is stored: this process may not have heard of another one yet.
    /// Asked last, for it is not locked.
    async fn is_stored_policy(&self, tx: &mut PgConnection) -> Result<bool, GateError> {
        let (core, hash) = (&self.core, &self.about.policy_hash);
        if hash.is_empty() {
            return Ok(true);
        }
        let agent = self.who.agent_id();
        let document = core.store.fetch_policy_in_tx(tx, agent.as_str()).await?;
        let stored = core.policy_of(agent, document.as_deref());
        Ok(stored.is_some_and(|(_, stored)| stored == *hash))
    }

    async fn give_back(self) {
        // Of what was agreed to in advance nothing was taken.
        let By::Request(id) = self.by else { return };
        let given = self.core.store.give_back(id, self.hold).await;
        if let Err(error) = given {
            tracing::warn!(%error, "an approval was not given back; it can be used again when it is no longer held");
        }
    }
}

impl Drop for Approval {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            let core = Arc::clone(&live.core);
            core.detach(live.give_back());
        }
    }
}

impl fmt::Debug for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approval")
            .field("by", &self.live.as_ref().map(|live| live.by))
            .finish_non_exhaustive()
    }
}
