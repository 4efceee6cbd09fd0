//! Moves what was committed to the outbox into a chain.
//!
//! Each process looks in by itself: often for a while after it has queued something, rarely
//! otherwise, so that nothing is left lying when a process dies. Several may move the same rows at
//! once: an event's id is chained once, and who comes second finds it on record.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::Shared;
use super::drain::push;
use super::outcome::is_poison;
use crate::audit::error::AuditError;
use crate::audit::keys::Purpose;
use crate::audit::model::{AuditEvent, Draft};
use crate::audit::outbox::{Queued, Unfit};
use crate::audit::several::Several;
use crate::audit::store::outbox::{self as sql, Found, PAGE};
use crate::ids::EventId;
use crate::store::StoreError;
use crate::task;

/// How soon to look after something was queued here; doubled for each look after, up to the rare one.
const SOON: Duration = Duration::from_millis(50);
const RARELY: Duration = Duration::from_secs(8);
/// The rows that were warned of are remembered, so that each is warned of once; so many at most.
const REMEMBERED: usize = 10_000;

/// What [`Audit::move_outbox`](crate::audit::Audit::move_outbox) found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Events that were moved, and are now in the trail.
    pub moved: u64,
    /// Rows that stay in the outbox because they are not as we write them. Each was warned of.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Mover {
    /// Rung when something was queued, and when it is over.
    bell: Notify,
    watching: AtomicBool,
    used: AtomicBool,
    pub(super) moved: AtomicU64,
    pub(super) refused: AtomicU64,
    /// One round at a time. Holds the rows that were warned of.
    round: Mutex<HashSet<Uuid>>,
}

impl Mover {
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Whether anything was queued through this handle.
    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

/// An event of the outbox that is ours.
struct Ours {
    place: Uuid,
    draft: Draft,
    /// Its row is not deleted by an append, because there will be none.
    on_record: bool,
}

impl Shared {
    /// Queues `event` in the transaction of `connection`.
    pub(super) async fn append_in_tx(
        self: &Arc<Self>,
        connection: &mut PgConnection,
        event: AuditEvent,
    ) -> Result<EventId, AuditError> {
        const OPERATION: &str = "queue an audit event in a transaction";
        if !self.queue.is_open() {
            return Err(AuditError::Closed);
        }
        let keys = self.keys.load_full();
        let drafts = self.seal(Several::one(event))?;
        self.register_keys(&drafts).await?;
        let Some(draft) = drafts.last() else {
            return Err(AuditError::Closed);
        };
        let (id, tenant) = (draft.id, self.store.tenant());
        // Ids of version 7 of one process only ever grow: its rows keep their order.
        let place = Uuid::now_v7();
        let queued = Queued::seal(draft, place, tenant, keys.key_id, &keys.outbox);
        let now = self.store.database_now();
        let work = sql::insert_in_tx(connection, tenant.as_str(), &queued, now);
        match timeout(self.store.deadline(), work).await {
            Ok(done) => done.map_err(StoreError::during(OPERATION))?,
            Err(_) => return Err(StoreError::timed_out(OPERATION).into()),
        }
        self.mover.used.store(true, Ordering::Relaxed);
        self.watch_outbox();
        self.mover.ring();
        Ok(id)
    }

    /// Starts looking into the outbox, once, as soon as there is a runtime.
    pub(super) fn watch_outbox(self: &Arc<Self>) {
        let runtime = self.runtime.clone();
        let runtime = runtime.or_else(|| tokio::runtime::Handle::try_current().ok());
        if let Some(runtime) = runtime
            && !self.mover.watching.swap(true, Ordering::Relaxed)
        {
            task::spawn_on(&runtime, watch(Arc::clone(self)));
        }
    }

    /// Moves everything that is committed, in order.
    pub(super) async fn move_outbox(self: &Arc<Self>) -> Result<Moved, AuditError> {
        let mut warned = self.mover.round.lock().await;
        let mut round = Moved::default();
        let mut after = Uuid::nil();
        loop {
            let page = sql::list_after(&self.store, after).await?;
            let Some(last) = page.last() else { break };
            after = last.place;
            let full = page.len() == PAGE as usize;
            self.move_page(page, &mut round, &mut warned).await?;
            if !full {
                break;
            }
        }
        self.mover.refused.store(round.refused, Ordering::Relaxed);
        Ok(round)
    }

    /// Moves one page: in one batch, next to each other, unless something is wrong with one of them.
    async fn move_page(
        self: &Arc<Self>,
        page: Vec<Found>,
        round: &mut Moved,
        warned: &mut HashSet<Uuid>,
    ) -> Result<(), AuditError> {
        let mut refuse = |place: Uuid, why: Unfit| {
            round.refused += 1;
            if warned.len() < REMEMBERED && warned.insert(place) {
                let why = why.as_str();
                tracing::warn!(%place, why, "a row of the outbox is not chained; look who wrote it, and delete it");
            }
        };
        let mut ids = HashSet::with_capacity(page.len());
        let (mut once, mut again) = (Vec::new(), Vec::new());
        for found in page {
            match self.open(found) {
                // An event that was queued twice is found on record the second time, by itself: it
                // may be another one under the same id.
                Ok(ours) if !ids.insert(ours.draft.id) => again.push(vec![Ours {
                    on_record: true,
                    ..ours
                }]),
                Ok(ours) => once.push(ours),
                Err((place, why)) => refuse(place, why),
            }
        }
        again.reverse();
        let mut parts = again;
        parts.push(once);
        let mut moved = 0;
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let drafts = part.iter().map(|ours| ours.draft.clone()).collect();
            match push(self, drafts).await {
                Ok(_) => {
                    moved += part.len() as u64;
                    self.clear_recorded(&part).await?;
                }
                Err(AuditError::IdReused { id }) => {
                    part.retain(|ours| {
                        let reused = ours.draft.id == id;
                        if reused {
                            refuse(ours.place, Unfit::IdReused);
                        }
                        !reused
                    });
                    parts.push(part);
                }
                Err(AuditError::Store(error)) if is_poison(&error) => {
                    let half = part.split_off(part.len() / 2);
                    match half.as_slice() {
                        [alone] if part.is_empty() => refuse(alone.place, Unfit::Refused),
                        _ => parts.extend([half, part]),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        round.moved += moved;
        self.mover.moved.fetch_add(moved, Ordering::Relaxed);
        Ok(())
    }

    fn open(&self, found: Found) -> Result<Ours, (Uuid, Unfit)> {
        let place = found.place;
        let open = || {
            let queued = found.queued.ok_or(Unfit::Torn)?;
            // Also one that was queued before a rotation.
            let (tenant, number) = (self.store.tenant(), u32::try_from(queued.key_id));
            let key = number
                .ok()
                .and_then(|number| self.ring.derive_under(number, tenant, Purpose::Outbox));
            queued.open(tenant, &key.ok_or(Unfit::Key)?)
        };
        match open() {
            Ok(draft) => Ok(Ours {
                place,
                draft,
                on_record: found.on_record,
            }),
            Err(why) => Err((place, why)),
        }
    }

    async fn clear_recorded(&self, part: &[Ours]) -> Result<(), AuditError> {
        let recorded = part.iter().filter(|ours| ours.on_record);
        let places: Vec<Uuid> = recorded.map(|ours| ours.place).collect();
        if !places.is_empty() {
            sql::delete_recorded(&self.store, &places).await?;
        }
        Ok(())
    }
}

/// Looks into the outbox until the writer is closed.
async fn watch(shared: Arc<Shared>) {
    let mut interval = SOON;
    let mut next = Instant::now();
    while shared.queue.is_open() {
        let rung = timeout_at(next, shared.mover.bell.notified()).await.is_ok();
        if rung {
            interval = SOON;
            next = next.min(Instant::now() + SOON);
            continue;
        }
        if let Err(error) = shared.move_outbox().await {
            tracing::debug!(%error, "could not move the outbox; trying again later");
        }
        interval = (interval * 2).min(rarely());
        next = Instant::now() + interval;
    }
}

/// Eight to twelve seconds: processes that were started together do not look together for ever.
fn rarely() -> Duration {
    let [.., random] = *Uuid::now_v7().as_bytes();
    RARELY + Duration::from_millis(16) * u32::from(random)
}
