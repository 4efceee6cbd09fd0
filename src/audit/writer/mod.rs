//! The one writer of a process and tenant: a queue, and lanes that append what is in it.

mod batch;
mod chain;
mod key;
mod lane;
mod mover;
mod outcome;
mod queue;
#[cfg(test)]
#[cfg(feature = "embedded")]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::lane::Lane;
pub use self::mover::Moved;
use self::mover::Mover;
use self::queue::{Group, Pushed, Queue, Reply, Stage};
use super::error::AuditError;
use super::keys::{AuditKeys, MacKey, Purpose};
use super::model::{AuditEvent, Committed, Draft};
use crate::ids::EventId;
use crate::store::{Store, StoreError, StoreFault};

/// The handle. Dropping the last one ends the lanes.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    last: Arc<Last>,
}

/// Knows when the last handle is gone. The lanes hold [`Shared`] and not this.
#[derive(Debug)]
struct Last {
    shared: Arc<Shared>,
}

/// What handles and lanes share.
#[derive(Debug)]
struct Shared {
    store: Store,
    /// Every key that this process has.
    ring: AuditKeys,
    /// Those that are current, as far as it knows.
    keys: ArcSwap<Keys>,
    /// The newest key that it has written under; 0 if it has written nothing.
    newest: AtomicU32,
    queue: Queue,
    stats: Stats,
    mover: Mover,
    /// Where lanes run: events may be handed over from threads that are in no runtime.
    runtime: Option<Handle>,
}

/// The keys of one tenant that writing takes.
#[derive(Debug)]
struct Keys {
    key_id: u32,
    chain: MacKey,
    content: MacKey,
    outbox: MacKey,
}

impl Writer {
    pub(super) fn start(store: Store, keys: &AuditKeys) -> Self {
        let tenant = store.tenant();
        let current = Keys {
            key_id: keys.key_id(),
            chain: keys.derive(tenant, Purpose::Chain),
            content: keys.derive(tenant, Purpose::Content),
            outbox: keys.derive(tenant, Purpose::Outbox),
        };
        let shared = Shared {
            store,
            ring: keys.clone(),
            keys: ArcSwap::from_pointee(current),
            newest: AtomicU32::new(0),
            queue: Queue::new(),
            stats: Stats::default(),
            mover: Mover::default(),
            runtime: Handle::try_current().ok(),
        };
        let shared = Arc::new(shared);
        shared.watch_outbox();
        Self {
            last: Arc::new(Last { shared }),
        }
    }

    /// Appends `events` in one batch and waits for the commit, but not past the deadline.
    pub(super) async fn append(
        &self,
        events: Vec<AuditEvent>,
    ) -> Result<Vec<Committed>, AuditError> {
        let shared = &self.last.shared;
        let drafts = shared.seal(events)?;
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        shared.commit(drafts).await
    }

    /// Queues `event` in the transaction of `connection`.
    pub(super) async fn append_in_tx(
        &self,
        connection: &mut PgConnection,
        event: AuditEvent,
    ) -> Result<EventId, AuditError> {
        self.last.shared.append_in_tx(connection, event).await
    }

    /// Moves what was committed to the outbox into a chain.
    pub(super) async fn move_outbox(&self) -> Result<Moved, AuditError> {
        self.last.shared.move_outbox().await
    }

    /// Hands `event` over without waiting for anything.
    pub(super) fn append_detached(&self, event: AuditEvent) {
        let shared = &self.last.shared;
        let handed_over = shared.seal(vec![event]).and_then(|drafts| {
            shared.queue.try_room()?;
            shared.push(drafts, None)
        });
        if let Err(error) = handed_over {
            shared.stats.lose(1);
            tracing::warn!(%error, "an audit event was lost");
        }
    }

    /// The number of the current key, as far as this process knows.
    pub(super) fn key_id(&self) -> u32 {
        self.last.shared.keys.load().key_id
    }

    /// Goes on with the key `key_id`, which is current.
    pub(super) fn adopt(&self, key_id: u32) {
        self.last.shared.adopt(key_id);
    }

    /// Takes no more events, appends those that are queued, and gives the chains back.
    pub(super) async fn shutdown(&self) {
        let shared = &self.last.shared;
        // What others queued, others move; so does whoever is started next.
        if shared.mover.was_used()
            && let Err(error) = shared.move_outbox().await
        {
            tracing::debug!(%error, "events are left in the outbox; they are moved by another process, or at the next start");
        }
        shared.queue.drain().await;
        shared.mover.ring();
    }

    pub(super) fn stats(&self) -> AuditStats {
        let shared = &self.last.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AuditStats {
            batches: read(&shared.stats.batches),
            statements: read(&shared.stats.statements),
            events: read(&shared.stats.events),
            lost: read(&shared.stats.lost),
            lanes: shared.queue.alive(),
            waiting: shared.queue.waiting(),
            moved: read(&shared.mover.moved),
            outbox_refused: read(&shared.mover.refused),
        }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        let lost = self.shared.queue.abandon();
        self.shared.mover.ring();
        if lost > 0 {
            self.shared.stats.lose(lost);
            tracing::warn!(
                events = lost,
                "the audit writer was dropped before these events were committed; call shutdown first"
            );
        }
    }
}

impl Shared {
    /// Checks all of `events`: one bad event must not fail its neighbours in a batch.
    fn seal(&self, events: Vec<AuditEvent>) -> Result<Vec<Draft>, AuditError> {
        let now = self.store.now();
        let keys = self.keys.load();
        let drafts = events
            .into_iter()
            .map(|event| event.seal(now, &keys.content))
            .collect::<Result<Vec<_>, _>>()?;
        for (at, draft) in drafts.iter().enumerate() {
            if drafts.iter().take(at).any(|other| other.id == draft.id) {
                return Err(AuditError::IdReused { id: draft.id });
            }
        }
        Ok(drafts)
    }

    /// Appends `drafts` in one batch and waits for the commit, but not past the deadline.
    async fn commit(self: &Arc<Self>, drafts: Vec<Draft>) -> Result<Vec<Committed>, AuditError> {
        let deadline = self.store.deadline();
        let queued = async {
            self.queue.wait_for_room().await?;
            let (reply, answer) = oneshot::channel();
            self.push(drafts, Some(reply))?;
            Ok::<_, AuditError>(answer)
        };
        let started = tokio::time::Instant::now();
        let answer = match timeout(deadline, queued).await {
            Ok(answer) => answer?,
            Err(_) => return Err(AuditError::Overloaded),
        };
        match timeout(deadline.saturating_sub(started.elapsed()), answer).await {
            Ok(Ok(answer)) => answer,
            // The lane died with its runtime.
            Ok(Err(_)) => Err(AuditError::Closed),
            Err(_) => Err(StoreError::timed_out("append to the audit trail").into()),
        }
    }

    fn push(self: &Arc<Self>, drafts: Vec<Draft>, reply: Option<Reply>) -> Result<(), AuditError> {
        match self.queue.push(Group::new(drafts, reply))? {
            Pushed::Taken => Ok(()),
            Pushed::StartLane => self.start_lane(),
        }
    }

    /// Starts a lane, which the queue has counted already.
    fn start_lane(self: &Arc<Self>) -> Result<(), AuditError> {
        let ending = Ending {
            shared: Arc::clone(self),
            stage: Stage::Idle,
        };
        // Outside any runtime nothing can be appended; the lane is counted out again.
        let Some(runtime) = self.runtime.clone().or_else(|| Handle::try_current().ok()) else {
            return Err(StoreError::new("start the audit writer", StoreFault::Unreachable).into());
        };
        runtime.spawn(ending.run());
        Ok(())
    }
}

/// A lane's task. Counts the lane out however it ends.
struct Ending {
    shared: Arc<Shared>,
    stage: Stage,
}

impl Ending {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut lane = Lane::new(&shared);
        let mut crowd = false;
        while let Some(share) = shared.queue.next(crowd).await {
            crowd = share.groups.len() > 1;
            self.stage = Stage::Busy(share.events);
            if share.start_lane {
                // It cannot fail: this task runs in a runtime.
                let _ = shared.start_lane();
            }
            let answered = lane.commit(share.groups).await;
            shared.queue.done(share.events.saturating_sub(answered));
            self.stage = Stage::Idle;
        }
        self.stage = Stage::Releasing;
        lane.release().await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.queue.ended(self.stage);
    }
}

/// What was done so far.
#[derive(Debug, Default)]
struct Stats {
    batches: AtomicU64,
    statements: AtomicU64,
    events: AtomicU64,
    lost: AtomicU64,
}

impl Stats {
    fn statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    fn batch(&self, events: u64) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    fn lose(&self, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.lost.fetch_add(events, Ordering::Relaxed);
    }
}

/// What the audit writer of this process has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditStats {
    /// Batches that were committed.
    pub batches: u64,
    /// Round trips to the database, connecting and claiming included.
    pub statements: u64,
    /// Events that were committed.
    pub events: u64,
    /// Events that were handed over and could not be committed. Each was warned of.
    pub lost: u64,
    /// Chains and connections in use.
    pub lanes: usize,
    /// Events that are queued or on their way.
    pub waiting: usize,
    /// Events of [`append_in_tx`](super::Audit::append_in_tx), of any process, that were moved from
    /// the outbox into the trail.
    pub moved: u64,
    /// Rows that lay in the outbox at the last look and are not as we write them. Each was warned of.
    pub outbox_refused: u64,
}
