//! What the switch knows, how old that is, and how it changes.
//!
//! In force is what the database had when it was last read, and what was ordered in this process and is
//! not stored yet. Reads are made one after another, so that a later one never knows less; orders are in
//! force before they are sent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex as Turn, Notify, watch};
use tokio::time::{Instant, timeout};

use super::engine::Known;
use super::error::Halted;
use super::evidence::{self, Refusals};
use super::model::{HaltSettings, HaltStatus, Order, Target, WhenStale};
use super::store::{self as sql, Epochs, Read};
use crate::audit::Audit;
use crate::call::Principal;
use crate::ids::{AgentId, EventId, SessionId};
use crate::store::{Store, StoreError};

#[derive(Debug)]
pub(super) struct Core {
    pub(super) store: Store,
    pub(super) audit: Audit,
    pub(super) settings: HaltSettings,
    pub(super) refusals: Refusals,
    /// Whether nothing is halted, and nothing else has to be looked at: all that a check costs then.
    calm: AtomicBool,
    known: ArcSwap<Known>,
    /// How often `known` has changed.
    epoch: AtomicU64,
    changed: watch::Sender<u64>,
    /// Before the question was sent that `known` answers, in microseconds since `origin`.
    asked: AtomicU64,
    origin: Instant,
    stale: AtomicBool,
    /// Told when the state is fresh again.
    pub(super) refreshed: Notify,
    state: Mutex<State>,
    /// Held by who reads.
    reading: Turn<()>,
}

#[derive(Debug, Default)]
struct State {
    /// As the database last had it.
    stored: Vec<Arc<Order>>,
    epochs: Epochs,
    /// In force here, and not known to be in `stored` yet.
    here: Vec<Pending>,
}

/// An order that was given in this process.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) order: Arc<Order>,
    pub(super) event: EventId,
    /// The epoch from which on a read has it, or has it no more.
    stored: Option<u64>,
    /// Whether the one who gave it was told that it is not stored, so that it is ours to store.
    adrift: bool,
}

impl Core {
    pub(super) fn new(store: Store, audit: Audit, settings: &HaltSettings) -> Self {
        let holds = settings.when_stale == WhenStale::HoldLastKnown;
        Self {
            store,
            audit,
            settings: settings.clone(),
            refusals: Refusals::default(),
            calm: AtomicBool::new(holds),
            known: ArcSwap::default(),
            epoch: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            asked: AtomicU64::new(0),
            origin: Instant::now(),
            stale: AtomicBool::new(false),
            refreshed: Notify::new(),
            state: Mutex::default(),
            reading: Turn::default(),
        }
    }

    // --- asking

    /// Whether nobody is halted, without looking at who asks.
    #[inline]
    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Acquire)
    }

    /// The decision, from memory. What is known to be halted is; past the bound, the setting decides of
    /// the rest.
    pub(super) fn decide(&self, who: &Principal) -> Result<(), Halted> {
        self.known.load().decide(who)?;
        if self.settings.when_stale == WhenStale::CountAsHalted && self.is_too_old() {
            return Err(Halted::stale());
        }
        Ok(())
    }

    /// Whether a session of an agent is halted, whoever started it.
    pub(super) fn is_halted(&self, agent: &AgentId, session: &SessionId) -> bool {
        self.known.load().of(agent, session).is_some()
    }

    /// How often what is known has changed.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How old what is known is.
    pub(super) fn age(&self) -> Duration {
        Instant::now().saturating_duration_since(self.asked_at())
    }

    pub(super) fn is_too_old(&self) -> bool {
        self.age() > self.settings.stale_after
    }

    /// From when on what is known is too old.
    pub(super) fn stale_from(&self) -> Instant {
        self.asked_at() + self.settings.stale_after
    }

    fn asked_at(&self) -> Instant {
        self.origin + Duration::from_micros(self.asked.load(Ordering::Acquire))
    }

    pub(super) fn status(&self) -> HaltStatus {
        let not_stored = {
            let state = self.state();
            let here = state.here.iter().filter(|p| p.stored.is_none());
            here.count()
        };
        let known = self.known.load();
        let mut halted: Vec<Order> = known.orders().map(|order| Order::clone(order)).collect();
        halted.sort_by_key(|order| order.since);
        HaltStatus {
            epoch: self.epoch(),
            age: self.age(),
            stale_after: self.settings.stale_after,
            stale: self.is_too_old(),
            heard: self.store.hears_changes(),
            not_stored,
            refused: self.refusals.total(),
            halted,
        }
    }

    // --- learning

    /// Looks whether anything has changed, and reads it if it has; reads it in any case if `something`
    /// is known to have.
    pub(super) async fn refresh(&self, something: bool) -> Result<(), StoreError> {
        let within = self.settings.look_within(self.store.deadline());
        match timeout(within, self.look(something)).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::timed_out("read what is halted")),
        }
    }

    /// The same, for as long as the database may take.
    pub(super) async fn look(&self, something: bool) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        // Stamped before the question is sent: the answer is as old as that, however long it took.
        let asked = Instant::now();
        if !something {
            let epochs = sql::fetch_epochs(&self.store).await?;
            if self.are(epochs) {
                self.fresh_since(asked);
                return Ok(());
            }
        }
        let asked = Instant::now();
        let read = sql::list_in_force(&self.store).await?;
        self.learn(read);
        self.fresh_since(asked);
        Ok(())
    }

    /// Whether a read with these epochs would tell nothing new.
    fn are(&self, epochs: Epochs) -> bool {
        let state = self.state();
        state.epochs == epochs && state.here.iter().all(|pending| pending.stored.is_none())
    }

    fn learn(&self, read: Read) {
        let mut state = self.state();
        let lost = lost(&state, &read);
        if !lost.is_empty() {
            tracing::error!(
                halts = lost.len(),
                "the database has lost halts that it had (a restored backup, a failover): they stay in force here and are stored again"
            );
        }
        state.here.retain(|pending| match pending.stored {
            Some(epoch) => epoch > newest(read.epochs, &pending.order.target),
            None => true,
        });
        state.here.extend(lost);
        state.epochs = read.epochs;
        state.stored = read.orders.into_iter().map(Arc::new).collect();
        self.publish(&state);
    }

    fn fresh_since(&self, asked: Instant) {
        let micros = asked.saturating_duration_since(self.origin).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        self.asked.fetch_max(micros, Ordering::AcqRel);
        self.refreshed.notify_one();
    }

    /// Takes into force what `state` says. Whoever checks from now on sees it.
    fn publish(&self, state: &State) {
        let here = state.here.iter().map(|pending| &pending.order);
        let known = Known::new(state.stored.iter().chain(here));
        if **self.known.load() == known {
            return;
        }
        let calm = known.is_empty() && self.settings.when_stale == WhenStale::HoldLastKnown;
        // In this order, so that nobody is calm about what is in force.
        if calm {
            self.known.store(Arc::new(known));
            self.calm.store(true, Ordering::Release);
        } else {
            self.calm.store(false, Ordering::Release);
            self.known.store(Arc::new(known));
        }
        self.tell();
    }

    /// Wakes whoever waits to be halted.
    fn tell(&self) {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.send_replace(epoch);
    }

    // --- being too old

    /// Says once, loudly, that what is known is older than its bound.
    pub(super) fn turn_stale(&self) {
        if self.stale.swap(true, Ordering::AcqRel) {
            return;
        }
        let settings = &self.settings;
        tracing::error!(
            bound = ?settings.stale_after,
            when_stale = ?settings.when_stale,
            "what is halted is not known any more: the database did not say for too long"
        );
        self.audit.log_detached(evidence::stale(
            self.age(),
            settings.stale_after,
            settings.when_stale,
            false,
        ));
        if settings.when_stale == WhenStale::CountAsHalted {
            self.tell();
        }
    }

    /// Says that it is known again, if it was not.
    pub(super) fn turn_fresh(&self) {
        if !self.stale.swap(false, Ordering::AcqRel) {
            return;
        }
        let settings = &self.settings;
        tracing::info!("what is halted is known again");
        self.audit.log_detached(evidence::stale(
            self.age(),
            settings.stale_after,
            settings.when_stale,
            true,
        ));
    }

    // --- changing

    /// Takes `order` into force here, before anybody else is asked. While one for the same target is
    /// not stored, that one stands: however often it is given, memory has it once.
    pub(super) fn halt_here(&self, order: Order) -> Pending {
        let waits = |p: &&Pending| p.stored.is_none() && p.order.target == order.target;
        if let Some(pending) = self.state().here.iter().find(waits) {
            return pending.clone();
        }
        let pending = Pending {
            order: Arc::new(order),
            event: EventId::new(),
            stored: None,
            adrift: false,
        };
        let mut state = self.state();
        state.here.push(pending.clone());
        self.publish(&state);
        pending
    }

    /// Changes what is noted of an order that was given here, if it still is.
    pub(super) fn note(&self, event: EventId, stored: Option<u64>) {
        let mut state = self.state();
        if let Some(pending) = state.here.iter_mut().find(|p| p.event == event) {
            pending.stored = pending.stored.or(stored);
            pending.adrift = stored.is_none();
        }
    }

    /// The orders that are ours to store; of `target` alone, those too that somebody is storing now.
    pub(super) fn adrift(&self, target: Option<&Target>) -> Vec<Pending> {
        let state = self.state();
        let ours = state.here.iter().filter(|pending| {
            let wanted = match target {
                Some(target) => pending.order.target == *target,
                None => pending.adrift,
            };
            wanted && pending.stored.is_none()
        });
        ours.cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The halts that were in force and that a database which has gone back knows nothing of.
//
// Epochs only grow: one that is lower than before means that commits were lost. Nobody resumed what is
// missing then, or the resumption was lost, too; holding on is the safe side of that.
fn lost(state: &State, read: &Read) -> Vec<Pending> {
    let missing = |order: &&Arc<Order>| {
        let had = order.epoch.unwrap_or(0);
        let gone_back = newest(read.epochs, &order.target) < newest(state.epochs, &order.target);
        let there = |now: &Order| now.target == order.target;
        gone_back && had > newest(read.epochs, &order.target) && !read.orders.iter().any(there)
    };
    let again = |order: &Arc<Order>| Pending {
        order: Arc::new(Order {
            epoch: None,
            ..Order::clone(order)
        }),
        event: EventId::new(),
        stored: None,
        adrift: true,
    };
    state.stored.iter().filter(missing).map(again).collect()
}

const fn newest(epochs: Epochs, target: &Target) -> u64 {
    match target {
        Target::Everything => epochs.everything,
        _ => epochs.tenant,
    }
}
