//! Policies coming into force, and what is known of them.

use std::sync::atomic::Ordering;

use super::error::LoopError;
use super::model::LoopPolicy;
use super::{Loops, Shared, evidence, rules};
use crate::audit::sha256;
use crate::ids::AgentId;
use crate::time::Timestamp;

impl Loops {
    /// Puts a policy in force, in this process only, in place of the one that the same agent had from
    /// here. Where there is also a stored one, both apply: what either calls a loop is one, and
    /// the stricter action is taken.
    ///
    /// # Errors
    ///
    /// [`LoopError::Policy`] names the setting that cannot be.
    pub fn pin(&self, policy: &LoopPolicy) -> Result<(), LoopError> {
        Ok(self.shared.rules.pin(|layer| layer.set(policy))?)
    }

    /// Takes back what was [pinned](Self::pin) for `agent`, or for any agent; says whether there was
    /// something. What is stored stays in force.
    pub fn unpin(&self, agent: Option<&AgentId>) -> bool {
        self.shared.rules.pin(|layer| layer.remove(agent))
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
        policy.compile()?;
        let document = policy.document()?;
        let hash = hex::encode(sha256(document.as_bytes()));
        let name = rules::name_of(policy.agent());
        self.shared.stored.upsert_all(vec![(name, document)]).await?;
        let audit = &self.shared.audit;
        evidence::changed(audit, policy.agent(), "registered", Some(&hash)).await;
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
        let found = self.shared.stored.delete(rules::name_of(agent)).await?;
        if found {
            evidence::changed(&self.shared.audit, agent, "removed", None).await;
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
        Ok(self.shared.stored.reread().await?)
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
            looked_at: watch.looked_at,
            failing: watch.failing,
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
pub struct LoopStatus {
    /// Policies that this process pinned.
    pub pinned: usize,
    /// Policies that are stored.
    pub stored: usize,
    /// The agents whose stored policy cannot be read, `*` for the one for any agent: its last good
    /// version applies, or else the defaults.
    pub broken: Vec<String>,
    /// When what is stored was last known to be in force.
    pub looked_at: Option<Timestamp>,
    /// Whether the last look at what is stored failed.
    pub failing: bool,
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
