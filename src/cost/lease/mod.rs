//! Leased budgets: slices of a budget's window that a process spends from memory.
//!
//! A slice is charged to its window as held when it is taken, so that whatever is spent of it, here or
//! by any other process, `settled + held + asked <= limit`. It may be spent until its lease is over, or
//! its window, as this process's clocks tell it from before it was granted; the store takes it away no
//! sooner. What was spent is reported within moments, and what a call cost beyond its ceiling before it
//! is said to be settled; what a process that died had not reported is a reservation of unknown outcome.
//!
//! | The store is | a call of a leased budget |
//! |---|---|
//! | reachable | is decided in memory; near the limit, or larger than a slice, by one statement |
//! | unreachable or hung | is decided in memory, until the slice or its lease is used up; then refused |

mod ending;
mod hold;
mod keeper;
mod part;
mod plan;
mod record;
mod slice;
mod slow;
mod store;
#[cfg(test)]
mod tests;
mod unknown;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use ending::{About, Ended};
pub(super) use keeper::{keep, return_all};
pub(super) use part::Part;
pub(super) use plan::Plan;
pub(super) use slow::Slow;
pub(super) use unknown::Left;

use self::hold::{Hold, Of, nanos};
use self::plan::{MOST_SHARES, Plans};
use super::engine::Split;
use super::settle::Core;
use super::status::Slices;
use crate::call::Principal;
use crate::ids::{BudgetName, ModelName};
use crate::money::Usd;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Before the name of a budget whose slices are asked back; no name begins with it.
const ASKED: char = '?';
/// For how long nothing is taken of a budget whose limit is near, or whose slices are asked back.
const DRY: Duration = Duration::from_millis(500);

/// Of how many budgets it is remembered that other holders were asked.
const MOST_ASKED: usize = 1_024;

/// How slices of [leased budgets](super::Budget::leased) are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseSettings {
    /// How long a slice outlives its last report (30 seconds): so long, less a fifth, a process goes on
    /// without the store, and so long a dead one's slice is taken for spent before its outcome is unknown.
    pub lease: Duration,
    /// How often what was spent is reported (every second).
    pub report_every: Duration,
    /// How long a slice may lie unused before it is given back (10 seconds).
    pub idle: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            report_every: Duration::from_secs(1),
            idle: Duration::from_secs(10),
        }
    }
}

impl LeaseSettings {
    /// How long a slice outlives its last report; at least a second.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// How often what was spent is reported; at least every tenth of a second apart.
    #[must_use]
    pub fn report_every(mut self, every: Duration) -> Self {
        self.report_every = every.max(Duration::from_millis(100));
        self
    }

    /// How long a slice may lie unused before it is given back.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }
}

/// What a call asks for, before it is known of which budgets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'c> {
    pub(super) usd: Option<Usd>,
    pub(super) tokens: u64,
    pub(super) split: Split,
    pub(super) model: Option<&'c ModelName>,
}

/// When something failed last, and how: whoever has waited since before then is told so, too.
type Failed = Option<(u64, StoreError)>;
/// When other holders of a budget were asked last, and whether it helped.
type Asking = tokio::sync::Mutex<(u64, bool)>;

/// The slices that this process holds.
#[derive(Debug)]
pub(super) struct Leases {
    /// This process, among holders.
    holder: Uuid,
    origin: Instant,
    /// Whether a leased budget has been seen; else nothing here is looked at.
    seen: AtomicBool,
    /// Goes up when budgets may have changed.
    generation: AtomicU64,
    plans: Plans,
    current: Mutex<HashMap<Of, Arc<Hold>>>,
    /// Not spent from any more; calls that took from them are still going on.
    old: Mutex<Vec<Arc<Hold>>>,
    unknown: Mutex<Vec<Left>>,
    /// How many calls of unknown outcome are on their way to the store.
    leaving: AtomicUsize,
    /// Held while they are written.
    recording: tokio::sync::Mutex<Failed>,
    /// Wakes the keeper.
    wake: Notify,
    /// Callers that find out about windows and budgets wait for one of them to do it.
    planning: tokio::sync::Mutex<Failed>,
    /// Whether the last one could not.
    away: AtomicBool,
    asking: Mutex<HashMap<BudgetName, Arc<Asking>>>,
    keeping: AtomicBool,
    closed: AtomicBool,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            holder: Uuid::now_v7(),
            origin: Instant::now(),
            seen: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            plans: Plans::new(),
            current: Mutex::default(),
            old: Mutex::default(),
            unknown: Mutex::default(),
            leaving: AtomicUsize::new(0),
            recording: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            planning: tokio::sync::Mutex::default(),
            away: AtomicBool::new(false),
            asking: Mutex::default(),
            keeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Whether there may be slices to spend from.
    pub(super) fn is_on(&self) -> bool {
        self.seen.load(Ordering::Relaxed) && !self.closed.load(Ordering::Acquire)
    }

    pub(super) fn is_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    /// A budget of this tenant is leased.
    pub(super) fn see(&self) {
        self.seen.store(true, Ordering::Relaxed);
    }

    /// Whether somebody must yet start the keeper, who then does.
    pub(super) fn must_be_kept(&self) -> bool {
        !self.keeping.load(Ordering::Relaxed) && !self.keeping.swap(true, Ordering::AcqRel)
    }

    /// Budgets may have changed: every caller's are looked up again.
    pub(super) fn forget_plans(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Nanoseconds since this was made, by the monotonic clock.
    fn mono(&self) -> u64 {
        nanos(self.origin.elapsed())
    }

    fn current(&self) -> MutexGuard<'_, HashMap<Of, Arc<Hold>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they come to.
    pub(super) fn count(&self) -> Slices {
        let mut all = Slices {
            leaving: self.leaving.load(Ordering::Acquire),
            ..Slices::default()
        };
        let old = self.old().clone();
        let current: Vec<_> = self.current().values().cloned().collect();
        for hold in old.iter().chain(&current) {
            all.held += 1;
            all.unreported += usize::from(hold.is_unreported());
            all.failing += usize::from(hold.is_failing());
        }
        all
    }

    /// For who asks the other holders of `budget`.
    fn asking(&self, budget: &BudgetName) -> Arc<Asking> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.len() >= MOST_ASKED {
            asking.retain(|_, one| Arc::strong_count(one) > 1);
        }
        Arc::clone(asking.entry(budget.clone()).or_default())
    }

    fn old(&self) -> MutexGuard<'_, Vec<Arc<Hold>>> {
        self.old.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what `asked` comes to from all slices of `who`, at once, or nothing; `None` also where
    /// limits besides are charged by statement.
    pub(super) fn take(
        &self,
        who: &Principal,
        asked: &Asked<'_>,
        at: Timestamp,
        now: &dyn Fn() -> Timestamp,
    ) -> Option<Part> {
        let plan = self.plans.find(who, asked.model, self.generation())?;
        self.take_all(plan, asked, at, now)
    }

    /// As [`take`](Self::take), by the plan that `who` keeps for itself.
    pub(super) fn take_kept(
        &self,
        kept: &ArcSwapOption<Plan>,
        who: &Principal,
        asked: &Asked<'_>,
        at: Timestamp,
        now: &dyn Fn() -> Timestamp,
    ) -> Option<Part> {
        let generation = self.generation();
        let known = kept.load();
        let plan = match &*known {
            Some(plan) if plan.is_for(asked.model, generation) => Arc::clone(plan),
            _ => {
                let plan = self.plans.find(who, asked.model, generation)?;
                let own = Arc::new(Plan::clone(&plan));
                kept.store(Some(Arc::clone(&own)));
                own
            }
        };
        let part = self.take_all(plan, asked, at, now);
        if part.is_none() {
            // Its slices may be gone, and others taken by now.
            kept.store(None);
        }
        part
    }

    fn take_all(
        &self,
        plan: Arc<Plan>,
        asked: &Asked<'_>,
        at: Timestamp,
        now: &dyn Fn() -> Timestamp,
    ) -> Option<Part> {
        if plan.others || plan.shares.is_empty() {
            return None;
        }
        let part = self.take_from(plan, asked, at, now);
        part.is_whole().then_some(part)
    }

    /// Takes from every slice that has enough.
    //
    // INVARIANT: what is taken is looked at after it is taken, by both clocks, which are read after it:
    // a process that was stopped in between finds that it may not spend it.
    fn take_from(
        &self,
        plan: Arc<Plan>,
        asked: &Asked<'_>,
        at: Timestamp,
        now: &dyn Fn() -> Timestamp,
    ) -> Part {
        let shares = plan.shares.len().min(MOST_SHARES);
        let mut part = Part::empty(plan, at);
        for share in 0..shares {
            part.take(share, asked);
        }
        part.seen_at = now();
        let wall = part.seen_at;
        self.check(&mut part, wall);
        part
    }

    fn check(&self, part: &mut Part, wall: Timestamp) {
        let mono = self.mono();
        for share in 0..MOST_SHARES {
            let Some(hold) = part.hold(share) else { break };
            if !hold.is_current(mono, wall.as_micros()) {
                part.untake(share);
            } else if hold.is_low() {
                self.tell(hold);
            }
        }
    }

    fn tell(&self, hold: &Hold) {
        if !hold.told.load(Ordering::Relaxed)
            && !hold.is_dry(self.mono())
            && !hold.told.swap(true, Ordering::AcqRel)
        {
            self.wake.notify_one();
        }
    }
}

impl Core {
    /// Whether slices are given back now, because the process is about to end.
    pub(super) fn returns_slices(&self) -> bool {
        self.leases.closed.load(Ordering::Acquire)
    }
}
