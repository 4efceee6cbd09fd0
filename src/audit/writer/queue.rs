//! What waits to be appended, and how many lanes may work on it.
//!
//! There is no dispatcher: idle lanes take their share of what is queued by themselves, so that a
//! single caller's event goes to the connection without another task in between. Nothing lingers;
//! while a lane commits, the next batch gathers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use crate::audit::error::AuditError;
use crate::audit::model::{Committed, Draft, Journalled, Sealed};
use crate::audit::several::Several;

/// The most groups that wait; callers past it wait themselves.
const CAPACITY: usize = 8_192;
/// The most entries of one batch, unless one group alone has more.
const BATCH: usize = 1_000;
/// How many rounds over the runnable tasks the callers of a batch get to queue their next events.
const CROWD_ROUNDS: usize = 8;
/// With this many events in the writer's hands, a second chain pays, and a fourth. Measured: below,
/// two smaller batches cost the server more than working on both at once gains.
const TWO_LANES: usize = 48;
const FOUR_LANES: usize = 256;
/// The same where there are no more cores than lanes already. Measured on two, with the server on them
/// too: of 512 events, four lanes cost the server an eighth more than two, and nothing was idle before.
const FOUR_LANES_ON_TWO_CORES: usize = 1_024;
/// How long the last lane keeps its chain without work, and how long the others do.
const LAST_IDLE: Duration = Duration::from_mins(1);
const EXTRA_IDLE: Duration = Duration::from_secs(10);

/// Who waits for a group's answer.
pub(in crate::audit) type Reply = oneshot::Sender<Result<Taken, AuditError>>;

/// What became of a group.
#[derive(Debug)]
pub(in crate::audit) enum Taken {
    /// It is committed.
    Placed(Several<Placed>),
    /// It is in the journal.
    Journalled(Vec<Journalled>),
}

/// Events that go into one batch next to each other, or not at all.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) drafts: Arc<Sealed>,
    /// In the journal or the outbox already, or nothing that happened: if it cannot be committed,
    /// nothing is lost, and it is not for the journal.
    pub(super) kept: bool,
    /// One for each draft.
    pub(super) placed: Several<Placed>,
    pub(super) queued: Instant,
    /// `None` where nothing waits.
    pub(super) reply: Option<Reply>,
}

/// Where a draft will stand, or stands already.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Placed {
    pub(in crate::audit) at: Committed,
    /// Found on record: it is not written again.
    pub(in crate::audit) on_record: bool,
}

impl Group {
    pub(super) fn new(drafts: Arc<Sealed>, queued: Instant, reply: Option<Reply>) -> Self {
        let nowhere = |draft: &Draft| Placed {
            at: Committed {
                id: draft.id,
                chain_no: 0,
                seq: 0,
            },
            on_record: false,
        };
        Self {
            placed: drafts.each(nowhere),
            drafts,
            kept: false,
            queued,
            reply,
        }
    }

    /// Events that are kept in the journal or the outbox, or none, to see whether the store takes
    /// them.
    pub(super) fn kept(drafts: Arc<Sealed>, reply: Reply) -> Self {
        Self {
            kept: true,
            ..Self::new(drafts, Instant::now(), Some(reply))
        }
    }

    pub(super) fn answer(self, answer: Result<(), AuditError>) {
        if let Some(reply) = self.reply {
            // Who stopped waiting does not need it.
            let _ = reply.send(answer.map(|()| Taken::Placed(self.placed)));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// Shut down: what is queued is still appended.
    Draining,
    /// The last handle was dropped.
    Abandoned,
}

#[derive(Debug)]
struct Inner {
    door: Door,
    groups: VecDeque<Group>,
    /// Events that are queued, and that lanes have in hand.
    queued: usize,
    in_hand: usize,
    /// Lanes that take work, and those of them that have some.
    lanes: usize,
    busy: usize,
    /// Lanes that have not ended, those that are giving their chain back included.
    alive: usize,
}

/// The queue of one writer.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    room: Semaphore,
    work: Notify,
    ended: Notify,
    /// From how many events on there are four lanes.
    four_lanes: usize,
}

/// What the caller of [`Queue::push`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Pushed {
    Taken,
    /// Start one more lane.
    StartLane,
}

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for work.
    Idle,
    /// Has so many events in hand.
    Busy(usize),
    /// Takes no more work, and gives its chain back.
    Releasing,
}

/// A lane's share of the queue.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) groups: Vec<Group>,
    pub(super) events: usize,
    /// Start one more lane.
    pub(super) start_lane: bool,
}

impl Queue {
    /// A queue on a machine of so many cores.
    pub(super) fn new(cores: usize) -> Self {
        Self {
            four_lanes: if cores > 2 {
                FOUR_LANES
            } else {
                FOUR_LANES_ON_TWO_CORES
            },
            inner: Mutex::new(Inner {
                door: Door::Open,
                groups: VecDeque::new(),
                queued: 0,
                in_hand: 0,
                lanes: 0,
                busy: 0,
                alive: 0,
            }),
            room: Semaphore::new(CAPACITY),
            work: Notify::new(),
            ended: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for one group.
    pub(super) async fn wait_for_room(&self) -> Result<(), AuditError> {
        match self.room.acquire().await {
            Ok(permit) => {
                permit.forget();
                Ok(())
            }
            Err(_) => Err(AuditError::Closed),
        }
    }

    /// Takes room for one group if there is some.
    pub(super) fn try_room(&self) -> Result<(), AuditError> {
        match self.room.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Ok(())
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(AuditError::Overloaded),
            Err(tokio::sync::TryAcquireError::Closed) => Err(AuditError::Closed),
        }
    }

    /// Queues a group, for which room was taken.
    pub(super) fn push(&self, group: Group) -> Result<Pushed, AuditError> {
        let mut inner = self.lock();
        if inner.door != Door::Open {
            return Err(AuditError::Closed);
        }
        inner.queued += group.drafts.len();
        inner.groups.push_back(group);
        Ok(if self.rouse(&mut inner) {
            Pushed::StartLane
        } else {
            Pushed::Taken
        })
    }

    /// How many lanes should work.
    const fn wanted(&self, inner: &Inner) -> usize {
        match inner.queued + inner.in_hand {
            0..TWO_LANES => 1,
            load if load < self.four_lanes => 2,
            _ => 4,
        }
    }

    /// Wakes an idle lane if one more may work; says whether to start one instead.
    fn rouse(&self, inner: &mut Inner) -> bool {
        let wanted = self.wanted(inner);
        if inner.groups.is_empty() || inner.busy >= wanted {
            return false;
        }
        if inner.lanes > inner.busy {
            // The one that fell idle last, so that the others stay idle and end.
            self.work.notify_last();
            return false;
        }
        inner.lanes += 1;
        inner.alive += 1;
        true
    }

    /// The next share of the work; `None` once the lane should end.
    ///
    /// The lane counts as idle while it waits, as busy from then on.
    /// `crowd` says that its last batch had several callers.
    pub(super) async fn next(&self, crowd: bool) -> Option<Share> {
        loop {
            if crowd {
                self.let_callers_queue().await;
            }
            let roused = self.work.notified();
            tokio::pin!(roused);
            roused.as_mut().enable();
            let idle = {
                let mut inner = self.lock();
                if let Some(share) = self.share(&mut inner) {
                    return Some(share);
                }
                if inner.door != Door::Open {
                    inner.lanes = inner.lanes.saturating_sub(1);
                    return None;
                }
                if inner.lanes > 1 {
                    EXTRA_IDLE
                } else {
                    LAST_IDLE
                }
            };
            if tokio::time::timeout(idle, roused).await.is_ok() {
                continue;
            }
            let mut inner = self.lock();
            if inner.groups.is_empty() {
                inner.lanes = inner.lanes.saturating_sub(1);
                return None;
            }
        }
    }

    /// Lets the callers of the last batch run, who are about to queue what they have next: the first
    /// of them would make a batch of its own.
    ///
    /// This is no linger: it ends when a round over the runnable tasks has queued nothing, and a
    /// lone caller's event goes at once.
    async fn let_callers_queue(&self) {
        let mut queued = self.lock().queued;
        for _ in 0..CROWD_ROUNDS {
            tokio::task::yield_now().await;
            let now = self.lock().queued;
            if now == queued {
                return;
            }
            queued = now;
        }
    }

    fn share(&self, inner: &mut Inner) -> Option<Share> {
        let wanted = self.wanted(inner);
        if inner.groups.is_empty() || (inner.busy >= wanted && inner.door == Door::Open) {
            return None;
        }
        // Leave to each lane that will join as much as this one takes.
        let joining = wanted.saturating_sub(inner.busy).max(1);
        let most = inner.queued.div_ceil(joining).min(BATCH);
        let mut share = Share {
            groups: Vec::with_capacity(most.min(inner.groups.len())),
            events: 0,
            start_lane: false,
        };
        while let Some(next) = inner.groups.front() {
            let events = next.drafts.len();
            if share.events > 0 && share.events + events > most {
                break;
            }
            share.events += events;
            share.groups.extend(inner.groups.pop_front());
        }
        inner.queued = inner.queued.saturating_sub(share.events);
        inner.in_hand += share.events;
        inner.busy += 1;
        self.room.add_permits(share.groups.len());
        share.start_lane = self.rouse(inner);
        Some(share)
    }

    /// A lane has so many events in hand that were not queued.
    pub(super) fn take_up(&self, events: usize) {
        self.lock().in_hand += events;
    }

    /// So many events in hand are about to be answered: their callers' next ones are no more load.
    pub(super) fn answered(&self, events: usize) {
        let mut inner = self.lock();
        inner.in_hand = inner.in_hand.saturating_sub(events);
    }

    /// The lane has no work in hand any more, but for `events` that were not counted as answered.
    pub(super) fn done(&self, events: usize) {
        let mut inner = self.lock();
        inner.in_hand = inner.in_hand.saturating_sub(events);
        inner.busy = inner.busy.saturating_sub(1);
    }

    /// The lane has ended, by itself or with its runtime.
    pub(super) fn ended(&self, stage: Stage) {
        let mut inner = self.lock();
        if let Stage::Busy(events) = stage {
            inner.in_hand = inner.in_hand.saturating_sub(events);
            inner.busy = inner.busy.saturating_sub(1);
        }
        if stage != Stage::Releasing {
            inner.lanes = inner.lanes.saturating_sub(1);
        }
        inner.alive = inner.alive.saturating_sub(1);
        drop(inner);
        self.ended.notify_waiters();
    }

    /// Takes no more, and waits until all lanes have drained the queue and ended.
    pub(super) async fn drain(&self) {
        {
            let mut inner = self.lock();
            if inner.door == Door::Open {
                inner.door = Door::Draining;
            }
        }
        self.room.close();
        self.work.notify_waiters();
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.lock().alive == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Takes no more and gives up what is queued; says how many events are lost by it.
    pub(super) fn abandon(&self) -> usize {
        let mut inner = self.lock();
        inner.door = Door::Abandoned;
        let lost = {
            let at_stake = inner.groups.iter().filter(|group| !group.kept);
            at_stake.map(|group| group.drafts.len()).sum()
        };
        inner.groups.clear();
        inner.queued = 0;
        drop(inner);
        self.room.close();
        self.work.notify_waiters();
        lost
    }

    /// Whether events are still taken.
    pub(super) fn is_open(&self) -> bool {
        self.lock().door == Door::Open
    }

    /// Events that are queued or in a lane's hands.
    pub(super) fn waiting(&self) -> usize {
        let inner = self.lock();
        inner.queued + inner.in_hand
    }

    /// Lanes at this moment.
    pub(super) fn alive(&self) -> usize {
        self.lock().alive
    }
}

#[cfg(test)]
mod tests;
