//! Who is there, without a runtime.

use std::sync::Arc;
use std::time::Duration;

use super::runtime::Background;
use crate::audit::Metadata;
use crate::presence::{Filter, Operators, Page, PresenceError, PresenceStats, Seen};
use crate::{AgentId, Principal, presence};

/// [`portcullis::presence::Presence`](presence::Presence), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Presence {
    presence: presence::Presence,
    background: Arc<Background>,
}

impl Presence {
    pub(super) fn new(presence: presence::Presence, background: &Arc<Background>) -> Self {
        Self {
            presence,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the registry itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&presence::Presence) -> T) -> T {
        self.background.wait(async { work(&self.presence).await })
    }

    /// Says that `who` is there; waits for nothing:
    /// [`Presence::heartbeat`](presence::Presence::heartbeat).
    pub fn heartbeat(&self, who: &Principal) {
        self.presence.heartbeat(who);
    }

    /// The same, and something of itself:
    /// [`Presence::heartbeat_with`](presence::Presence::heartbeat_with).
    pub fn heartbeat_with(&self, who: &Principal, metadata: &Metadata) {
        self.presence.heartbeat_with(who, metadata);
    }

    /// Says that `who` has nothing to do: [`Presence::mark_idle`](presence::Presence::mark_idle).
    pub fn mark_idle(&self, who: &Principal) {
        self.presence.mark_idle(who);
    }

    /// Says that the session of `who` has ended: [`Presence::close`](presence::Presence::close).
    pub fn close(&self, who: &Principal) {
        self.presence.close(who);
    }

    /// Writes what waits now: [`Presence::flush`](presence::Presence::flush).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn flush(&self) -> Result<(), PresenceError> {
        self.background.wait(self.presence.flush())
    }

    /// One page of the sessions that were heard of: [`Presence::list`](presence::Presence::list).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn list(&self, filter: &Filter) -> Result<Page, PresenceError> {
        self.background.wait(self.presence.list(filter))
    }

    /// Who operates `agent`: [`Presence::operators_of`](presence::Presence::operators_of).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn operators_of(&self, agent: &AgentId) -> Result<Operators, PresenceError> {
        self.background.wait(self.presence.operators_of(agent))
    }

    /// Who has not been heard of for `silence`, each once:
    /// [`Presence::check_stale`](presence::Presence::check_stale).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_stale(&self, silence: Duration) -> Result<Vec<Seen>, PresenceError> {
        self.background.wait(self.presence.check_stale(silence))
    }

    /// What became of heartbeats: [`Presence::stats`](presence::Presence::stats).
    #[must_use]
    pub fn stats(&self) -> PresenceStats {
        self.presence.stats()
    }
}
