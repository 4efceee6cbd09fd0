//! Heartbeats on their way: the newest of each session, in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::model::{PresenceStats, Status};
use crate::call::Principal;
use crate::ids::{AgentId, OperatorId, SessionId};

pub(super) type Key = (AgentId, SessionId);

/// The newest that a session told of itself.
#[derive(Clone, Debug)]
pub(super) struct Beat {
    pub(super) operator: Option<OperatorId>,
    pub(super) status: Status,
    /// `None`: nothing new.
    pub(super) metadata: Option<Arc<str>>,
    pub(super) at: Instant,
}

impl Beat {
    /// This one, and then `next`.
    fn then(self, next: Self) -> Self {
        Self {
            // The first who is known to operate it stays.
            operator: self.operator.or(next.operator),
            status: self.status.then(next.status),
            metadata: next.metadata.or(self.metadata),
            at: self.at.max(next.at),
        }
    }
}

#[derive(Debug)]
pub(super) struct Beats {
    waiting: Mutex<HashMap<Key, Beat>>,
    most: usize,
    dropped: AtomicU64,
    pub(super) without_metadata: AtomicU64,
}

impl Beats {
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            most,
            dropped: AtomicU64::new(0),
            without_metadata: AtomicU64::new(0),
        }
    }

    /// Takes a heartbeat. Waits for nothing but another one.
    pub(super) fn take(&self, who: &Principal, status: Status, metadata: Option<Arc<str>>) {
        let key = (who.agent_id().clone(), who.session_id().clone());
        let next = Beat {
            operator: who.operator_id().cloned(),
            status,
            metadata,
            at: Instant::now(),
        };
        self.put(&mut self.waiting(), key, next, Beat::then);
    }

    /// All that wait, for who writes them.
    pub(super) fn drain(&self) -> Taken<'_> {
        Taken {
            beats: self,
            left: self.waiting().drain().collect(),
        }
    }

    fn put(
        &self,
        waiting: &mut HashMap<Key, Beat>,
        key: Key,
        beat: Beat,
        join: impl FnOnce(Beat, Beat) -> Beat,
    ) {
        let full = waiting.len() >= self.most;
        match waiting.entry(key) {
            Entry::Occupied(mut there) => {
                let joined = join(there.get().clone(), beat);
                there.insert(joined);
            }
            Entry::Vacant(_) if full => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Entry::Vacant(free) => {
                free.insert(beat);
            }
        }
    }

    pub(super) fn stats(&self) -> PresenceStats {
        PresenceStats {
            waiting: self.waiting().len(),
            dropped: self.dropped.load(Ordering::Relaxed),
            without_metadata: self.without_metadata.load(Ordering::Relaxed),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Beat>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Heartbeats that are being written. Dropped, those that were not go back: what came meanwhile is newer.
#[derive(Debug)]
pub(super) struct Taken<'b> {
    beats: &'b Beats,
    left: Vec<(Key, Beat)>,
}

impl Taken<'_> {
    /// Some of those that are left to write; none at the end.
    pub(super) fn batch(&self, most: usize) -> &[(Key, Beat)] {
        self.left.rchunks(most).next().unwrap_or_default()
    }

    /// So many are written.
    pub(super) fn written(&mut self, count: usize) {
        self.left.truncate(self.left.len().saturating_sub(count));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut waiting = self.beats.waiting();
        for (key, beat) in self.left.drain(..) {
            let beats = self.beats;
            beats.put(&mut waiting, key, beat, |newer, older| older.then(newer));
        }
    }
}
