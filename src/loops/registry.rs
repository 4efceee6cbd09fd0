//! Policies coming into force, and what is known of them.

use std::sync::atomic::Ordering;

use super::error::LoopError;
use super::model::LoopPolicy;
use super::{Loops, Shared, evidence, rules};
use crate::audit::sha256;
use crate::ids::AgentId;
use crate::time::Timestamp;

impl Loops {
    /// Puts a policy in force that belongs to this program: it is not stored, no reload drops it, and
    /// no other program knows it. It replaces what was pinned for its agent before.
    ///
    /// Where a policy is stored, too, both apply: what either calls a loop is one, and the stricter
    /// action is taken. So what is stored can make it stricter, and never laxer.
    ///
    /// # Errors
    ///
    /// [`LoopError::Policy`] names the setting that cannot be.
    ///
    /// # Cancel safety
    ///
    /// Once begun it is in force; its entry may be missing if the future is dropped.
    pub async fn pin(&self, policy: LoopPolicy) -> Result<(), LoopError> {
        let shared = self.on()?;
        let hash = hex::encode(sha256(policy.document().as_bytes()));
        shared.rules.pin(|layer| layer.set(&policy))?;
        evidence::changed(&shared.audit, policy.agent(), "pinned", Some(&hash)).await;
        Ok(())
    }

    /// Stores a policy in place of the one that the same agent had: in force here when it returns, in
    /// other processes within a second. On record as `loop.policy_registered`.
    ///
    /// # Errors
    ///
    /// * [`LoopError::Policy`] names the setting that cannot be.
    /// * [`LoopError::Store`] if it may not have been stored. What was in force still is; register it
    ///   again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn register(&self, policy: LoopPolicy) -> Result<(), LoopError> {
        let shared = self.on()?;
        policy.compile()?;
        let document = policy.document();
        let hash = hex::encode(sha256(document.as_bytes()));
        let name = rules::name_of(policy.agent());
        shared.stored.upsert_all(vec![(name, document)]).await?;
        evidence::changed(&shared.audit, policy.agent(), "registered", Some(&hash)).await;
        Ok(())
    }

    /// Removes the stored policy of `agent`, or the one for any agent; says whether there was one.
    /// What this or another process [pinned](Self::pin) stays in force there.
    ///
    /// # Errors
    ///
    /// [`LoopError::Store`] if it may not have been removed. It is then still in force.
    ///
    /// # Cancel safety
    ///
    /// As [`register`](Self::register).
    pub async fn remove(&self, agent: Option<&AgentId>) -> Result<bool, LoopError> {
        let shared = self.on()?;
        let found = shared.stored.delete(rules::name_of(agent)).await?;
        if found {
            evidence::changed(&shared.audit, agent, "removed", None).await;
        }
        Ok(found)
    }

    /// Reads all stored policies again, and takes them into force together.
    ///
    /// # Errors
    ///
    /// [`LoopError::Store`] if they could not be read. What was in force still is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written.
    pub async fn reload(&self) -> Result<(), LoopError> {
        Ok(self.on()?.stored.reread().await?)
    }

    /// Names what is in force: the same in every process in which the same is.
    pub(crate) fn in_force(&self) -> [u8; 32] {
        self.shared.rules.hash()
    }

    /// What is in force, and what is known.
    #[must_use]
    pub fn status(&self) -> LoopStatus {
        let Shared {
            rules,
            windows,
            sharing,
            ..
        } = &*self.shared;
        let (pinned, stored) = rules.count();
        let watch = self.shared.stored.status();
        LoopStatus {
            pinned,
            stored,
            broken: rules.broken(),
            revision: watch.revision,
            looked_at: watch.looked_at,
            heard: watch.heard,
            failing: watch.failing,
            switched_off: self.off.is_some(),
            sessions: windows.len(),
            capacity: windows.capacity(),
            crowded: windows.crowded(),
            sharing_away: sharing.away.load(Ordering::Relaxed),
            unreadable: sharing.unreadable.load(Ordering::Relaxed),
        }
    }
}

/// What is in force, and what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct LoopStatus {
    /// Policies that this process pinned.
    pub pinned: usize,
    /// Policies that are stored.
    pub stored: usize,
    /// The agents whose stored policy cannot be read, `*` for the one for any agent: its last good
    /// version applies, or else the defaults.
    pub broken: Vec<String>,
    /// Counts the changes of stored policies, up to what is in force here.
    pub revision: i64,
    /// When what is stored was last known to be in force.
    pub looked_at: Option<Timestamp>,
    /// Whether changes are heard at once. Otherwise they are found by looking every second.
    pub heard: bool,
    /// The last look failed: what is in force may be older than what is stored.
    pub failing: bool,
    /// The host switched the gate off.
    pub switched_off: bool,
    /// Sessions that are remembered.
    pub sessions: usize,
    /// How many there can be at once.
    pub capacity: usize,
    /// How often a session in which calls had come back had to give way to another, because
    /// there were none without: loops may have gone unseen.
    pub crowded: u64,
    /// Whether the database could not be asked about shared sessions the last time.
    pub sharing_away: bool,
    /// Stored windows that were not as they were written. They are not counted.
    pub unreadable: u64,
}

impl LoopStatus {
    /// Whether all that is stored is in force, and no loop can have gone unseen.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let known = self.crowded == 0 && !self.sharing_away && self.unreadable == 0;
        self.switched_off || (known && self.broken.is_empty() && !self.failing)
    }
}
