//! The one writer of a process and tenant: a queue, and lanes that append what is in it.

mod batch;
mod chain;
mod drain;
mod key;
mod lane;
mod mover;
mod notes;
mod outage;
mod outcome;
mod queue;
mod recover;
mod report;
mod sign;
mod spill;
mod stats;
mod tally;
#[cfg(test)]
#[cfg(feature = "embedded")]
mod tests;

use std::num::NonZero;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};

pub(super) use self::queue::{Reply, Taken};
pub use self::report::{DrainReport, JournalFinding};
pub use self::stats::AuditStats;

use self::drain::Drainer;
use self::lane::Lane;
pub use self::mover::Moved;
use self::mover::Mover;
use self::notes::Notes;
pub(crate) use self::notes::{Redeem, Redeemed};
use self::outage::Outage;
use self::queue::{Group, Pushed, Queue, Stage};
use self::stats::Stats;
use super::AuditOptions;
use super::error::AuditError;
use super::identity::{AgentKeyId, Signer, Signing};
use super::journal::{Context, Journal, JournalError, Note};
use super::keys::{AuditKeys, MacKey, Purpose};
use super::model::{AuditEvent, Draft, Evidence, Recorded, Sealed, Signed};
use super::several::Several;
use super::store::chain::Head;
use crate::ids::{AgentId, EventId};
use crate::store::{Store, StoreError, StoreFault};
use crate::task;

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
    signer: OnceLock<Signer>,
    queue: Queue,
    stats: Stats,
    mover: Mover,
    evidence: Evidence,
    journal: Option<Journal>,
    outage: Outage,
    notes: Notes,
    drainer: Mutex<Drainer>,
    /// Ends the draining in the background.
    stop: Notify,
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

/// A handle that does not keep the lanes.
#[derive(Debug)]
pub(super) struct WeakWriter(Weak<Last>);

impl WeakWriter {
    pub(super) fn upgrade(&self) -> Option<Writer> {
        let last = self.0.upgrade()?;
        Some(Writer { last })
    }
}

impl Writer {
    pub(super) fn downgrade(&self) -> WeakWriter {
        WeakWriter(Arc::downgrade(&self.last))
    }

    pub(super) fn start(store: Store, keys: &AuditKeys, options: &AuditOptions) -> Self {
        let journal = Journal::new(&options.journal, Context::new(&store, keys));
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
            signer: OnceLock::new(),
            queue: Queue::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
            stats: Stats::default(),
            mover: Mover::default(),
            evidence: options.evidence,
            journal,
            outage: Outage::none(),
            notes: Notes::default(),
            drainer: Mutex::default(),
            stop: Notify::new(),
            runtime: Handle::try_current().ok(),
        };
        let shared = Arc::new(shared);
        shared.watch_outbox();
        recover::start(&shared);
        Self {
            last: Arc::new(Last { shared }),
        }
    }

    /// Makes sure, in spooled mode, that there can be a journal; says so else if there cannot.
    pub(super) async fn prepare(&self) -> Result<(), JournalError> {
        let shared = &self.last.shared;
        match (&shared.journal, shared.evidence) {
            (_, Evidence::Spooled) => self.prepare_journal().await,
            (Some(journal), Evidence::Durable) => {
                if let Err(error) = journal.look().await {
                    tracing::warn!(%error, "the audit journal could not be used if the database went away");
                }
                Ok(())
            }
            (None, Evidence::Durable) => Ok(()),
        }
    }

    /// Makes sure that there can be a journal.
    pub(super) async fn prepare_journal(&self) -> Result<(), JournalError> {
        match &self.last.shared.journal {
            Some(journal) => journal.prepare().await,
            None => Err(JournalError::Disk(std::io::ErrorKind::NotFound)),
        }
    }

    /// Checks `events`, which are to go into one batch.
    //
    // Apart from `append`, so that no future holds the events themselves.
    pub(super) fn seal(&self, events: Several<AuditEvent>) -> Result<Arc<Sealed>, AuditError> {
        let drafts = self.last.shared.seal(events)?;
        Ok(Arc::new(Sealed::new(drafts)))
    }

    /// Appends `events` in one batch and waits until they are durable, but not past the deadline.
    pub(super) async fn append(
        &self,
        events: &Arc<Sealed>,
    ) -> Result<Several<Recorded>, AuditError> {
        let shared = &self.last.shared;
        if events.is_empty() {
            return Ok(Vec::new().into());
        }
        if !shared.queue.is_open() {
            return Err(AuditError::Closed);
        }
        shared.register_keys(events).await?;
        shared.record(events).await
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
        let handed_over = shared.seal(Several::one(event)).and_then(|mut drafts| {
            let signer = shared.signer.get();
            let first = drafts.first().zip(signer);
            if let Some(key) = first.and_then(|(draft, signer)| signer.registration(draft)) {
                let mut both = shared.seal(Several::one(key))?.into_vec();
                both.extend(drafts.into_vec());
                drafts = both.into();
            }
            shared.record_detached(&Arc::new(Sealed::new(drafts)))
        });
        if let Err(error) = handed_over {
            shared.stats.lose(1);
            tracing::warn!(%error, "an audit event was lost");
        }
    }

    /// Signs what is appended from now on, unless something is signed already.
    pub(super) fn sign_with(&self, signing: &Signing) {
        let shared = &self.last.shared;
        shared
            .signer
            .get_or_init(|| Signer::new(signing, shared.store.tenant()));
    }

    /// Signs with this key no more.
    pub(super) fn retire(&self, agent: Option<&AgentId>, key: AgentKeyId) {
        if let Some(signer) = self.last.shared.signer.get() {
            signer.retire(agent, key);
        }
    }

    /// Records what is queued and waits, as far as the deadline allows.
    pub(super) async fn settle(&self) {
        self.last.shared.settle().await;
    }

    /// Signs where a chain ends, if that is the policy.
    pub(super) fn sign_head(&self, chain_no: u32, head: &Head) -> Option<Signed> {
        self.last.shared.sign_head(chain_no, head)
    }

    /// The number of the current key, as far as this process knows.
    pub(super) fn key_id(&self) -> u32 {
        self.last.shared.keys.load().key_id
    }

    /// Goes on with the key `key_id`, which is current.
    pub(super) fn adopt(&self, key_id: u32) {
        self.last.shared.adopt(key_id);
    }

    /// Has the journal keep a note, which `drain` hands back.
    pub(super) async fn note(&self, note: Note) -> Result<(), AuditError> {
        self.last.shared.note(note).await
    }

    /// Takes the notes of a module from now on.
    pub(super) fn redeem(&self, module: &'static str, redeem: Redeem) {
        self.last.shared.notes.register(module, redeem);
    }

    /// Brings what is in journals into the trail.
    pub(super) async fn drain(&self) -> Result<DrainReport, AuditError> {
        recover::drain(&self.last.shared).await
    }

    /// Takes no more events, appends those that are queued, and gives the chains back.
    pub(super) async fn shutdown(&self) {
        let shared = &self.last.shared;
        if let Some(signer) = shared.signer.get() {
            shared.say_unsigned(signer.unsaid());
        }
        // What others queued, others move; so does whoever is started next.
        if shared.mover.was_used()
            && let Err(error) = shared.move_outbox().await
        {
            tracing::debug!(%error, "events are left in the outbox; they are moved by another process, or at the next start");
        }
        recover::finish(shared).await;
        shared.queue.drain().await;
        shared.mover.ring();
        if let Some(journal) = &shared.journal {
            journal.flush().await;
            let left = journal.ledger().counts().depth;
            if left > 0 {
                tracing::warn!(
                    events = left,
                    "audit events remain in the journal; the next start drains it"
                );
            }
        }
    }

    pub(super) fn stats(&self) -> AuditStats {
        self.last.shared.stats()
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
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
    fn seal(self: &Arc<Self>, events: Several<AuditEvent>) -> Result<Several<Draft>, AuditError> {
        let now = self.store.now();
        let keys = self.keys.load();
        let mut drafts = events.try_map(|event| event.seal(now, &keys.content))?;
        if let Some(signer) = self.signer.get() {
            let due = signer.sign(&mut drafts, now);
            self.say_unsigned(due);
        }
        for (at, draft) in drafts.iter().enumerate() {
            if drafts.iter().take(at).any(|other| other.id == draft.id) {
                return Err(AuditError::IdReused { id: draft.id });
            }
        }
        Ok(drafts)
    }

    fn push(self: &Arc<Self>, group: Group) -> Result<(), AuditError> {
        match self.queue.push(group)? {
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
        task::spawn_on(&runtime, ending.run());
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
