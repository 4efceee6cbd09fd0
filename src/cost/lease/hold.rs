//! One slice that this process holds: the amounts in memory, until when they may be spent, and the
//! books that agree with the store.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::record;
use super::slice::{Amounts, ENDLESS, NOTHING, Slice, Spent, UNITS};
use super::store::{Answer, News, Renewal};
use crate::call::Principal;
use crate::cost::settle::Core;
use crate::cost::window::Period;
use crate::ids::BudgetName;
use crate::store::{StoreError, StoreFault};

const OPERATION: &str = "report what a call cost beyond its ceiling";

/// Which slice: of which limit, in which session or on which day.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Of {
    pub(super) budget: BudgetName,
    pub(super) period: Period,
    pub(super) key: String,
}

/// A slice that this process holds.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) slice: Slice,
    pub(super) of: Of,
    /// For whom it was taken first.
    pub(super) who: Principal,
    /// Nothing is spent of it later than this by the monotonic clock; nothing at all at 0.
    until: AtomicU64,
    /// Nor later than this by the clock on the wall, which goes on while the machine is suspended.
    until_wall: AtomicI64,
    /// What a slice is, far from the limit.
    full: [AtomicI64; UNITS],
    /// Whether it could not be reported or renewed the last time.
    failing: AtomicBool,
    /// Whether the keeper has been told that it is short.
    pub(super) told: AtomicBool,
    /// It is not spent from any more.
    dead: AtomicBool,
    /// Until when nothing is taken, because the limit is near.
    dry_until: AtomicU64,
    books: Mutex<Books>,
}

impl Of {
    /// Whether it is of a day or a month that `today` is not in.
    pub(super) fn is_other_day(&self, today: &str) -> bool {
        match self.period {
            Period::Day | Period::Month => !today.starts_with(&self.key),
            _ => false,
        }
    }
}

/// What the store knows of it.
#[derive(Debug, Default)]
pub(super) struct Books {
    lease: Option<Uuid>,
    is_open: bool,
    epoch: i64,
    /// What was granted, less what was given back: `free + reserved + settled - over`.
    granted: Amounts,
    limited: Option<[bool; UNITS]>,
    reported: Spent,
    /// Sent, and not answered yet. It is sent again before anything else.
    pending: Option<Renewal>,
    failed: Option<(u64, StoreError)>,
    renewed_at: u64,
    /// How it stood when it was last seen to move, and when.
    seen: (Spent, Amounts),
    moved_at: u64,
    /// All of it was given back.
    closed: bool,
    pub(super) lost: bool,
}

/// What is to be done with a slice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// Take more.
    pub(super) want: bool,
    /// Give back what is free, and all of it where nothing is reserved.
    pub(super) give_back: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Held {
        /// Whether a full slice could not be had.
        near: bool,
    },
    /// All of it was given back, or it ran out.
    Gone,
}

impl Hold {
    pub(super) fn new(of: Of, who: Principal, mono: u64) -> Self {
        Self {
            slice: Slice::default(),
            of,
            who,
            until: AtomicU64::new(0),
            until_wall: AtomicI64::new(0),
            full: Default::default(),
            failing: AtomicBool::new(false),
            told: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            dry_until: AtomicU64::new(0),
            books: Mutex::new(Books {
                moved_at: mono,
                ..Books::default()
            }),
        }
    }

    /// Whether what was just taken may be spent. Asked after it was taken: a process that is stopped
    /// in between wakes up to the right answer.
    pub(super) fn is_current(&self, mono: u64, wall: i64) -> bool {
        mono < self.until.load(Ordering::Acquire) && wall < self.until_wall.load(Ordering::Acquire)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn is_dry(&self, mono: u64) -> bool {
        mono < self.dry_until.load(Ordering::Acquire)
    }

    pub(super) fn dry(&self, until: u64) {
        self.dry_until.store(until, Ordering::Release);
    }

    /// For as long as `old`, whose place it takes.
    pub(super) fn dry_as(&self, old: &Self) {
        self.dry(old.dry_until.load(Ordering::Acquire));
    }

    /// Whether less than half of a slice is left.
    pub(super) fn is_low(&self) -> bool {
        let [usd, tokens, calls] = &self.full;
        let full = [usd, tokens, calls].map(|full| full.load(Ordering::Relaxed));
        self.slice.is_low(&full)
    }

    /// Whether `asked` is more than a slice ever is.
    pub(super) fn exceeds_slice(&self, asked: &Amounts) -> bool {
        let mut units = self.full.iter().zip(asked);
        units.any(|(full, asked)| {
            let full = full.load(Ordering::Relaxed);
            full > 0 && *asked > full
        })
    }

    pub(super) fn kill(&self) {
        self.until.store(0, Ordering::Release);
        self.dead.store(true, Ordering::Release);
    }

    /// Whether it could not be reported or renewed the last time.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Whether something is spent of it that is not reported; so it is while it is being reported.
    pub(super) fn is_unreported(&self) -> bool {
        let books = self.books.try_lock();
        books.map_or(true, |books| self.slice.spent() != books.reported)
    }

    pub(super) async fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().await
    }

    /// Takes more, unless somebody else just has; while the store is away, one caller finds out for
    /// all that wait.
    pub(super) async fn refill(
        &self,
        core: &Core,
        asked: &Amounts,
        came: u64,
    ) -> Result<Outcome, StoreError> {
        let mut books = self.books.lock().await;
        let free = self.slice.free();
        let enough = free.iter().zip(asked).all(|(free, asked)| free >= asked);
        if enough && self.is_current(core.leases.mono(), core.store.now().as_micros()) {
            return Ok(Outcome::Held { near: false });
        }
        if self.is_dead() {
            return Ok(Outcome::Gone);
        }
        books.failed_since(came)?;
        let wish = Wish {
            want: true,
            give_back: false,
        };
        self.exchange(core, &mut books, wish).await
    }

    /// Gives back what is free; while the store is away, one caller finds out for all that wait.
    pub(super) async fn give_back(&self, core: &Core, came: u64) -> Result<Outcome, StoreError> {
        let wish = Wish {
            give_back: true,
            want: false,
        };
        let mut books = self.books.lock().await;
        books.failed_since(came)?;
        self.exchange(core, &mut books, wish).await
    }

    /// Reports what calls took beyond their ceilings, unless it was told by now.
    //
    // If this process dies, what it has of a slice is charged for what it did not report; what it took
    // beyond that would not be.
    pub(super) async fn report_overrun(&self, core: &Core, came: u64) -> Result<(), StoreError> {
        let mut books = self.books.lock().await;
        if books.pending.is_none() && books.reported.over == self.slice.spent().over {
            return Ok(());
        }
        books.failed_since(came)?;
        self.exchange(core, &mut books, Wish::default()).await?;
        if books.lost {
            // It is said when every call of the slice has ended.
            return Err(StoreError::new(OPERATION, StoreFault::Aborted));
        }
        Ok(())
    }

    /// Tells the store what was spent, and does as `wish` says.
    ///
    /// Cancel safe: what was sent is sent again the next time, and done once.
    pub(super) async fn exchange(
        &self,
        core: &Core,
        books: &mut Books,
        wish: Wish,
    ) -> Result<Outcome, StoreError> {
        let lease = *books.lease.get_or_insert_with(Uuid::now_v7);
        // Of one that was given back, nothing is renewed: somebody may have waited while it was.
        if books.lost || books.closed {
            return Ok(Outcome::Gone);
        }
        let answer = self.exchange_once(core, books, lease, wish).await;
        self.failing.store(answer.is_err(), Ordering::Release);
        if let Err(error) = &answer {
            core.fault("report what was spent of a slice", &error.clone().into());
            books.failed = Some((core.leases.mono(), error.clone()));
        }
        answer
    }

    async fn exchange_once(
        &self,
        core: &Core,
        books: &mut Books,
        lease: Uuid,
        wish: Wish,
    ) -> Result<Outcome, StoreError> {
        let lasts = core.settings.leases.lease;
        if !books.is_open {
            core.store
                .open_lease(lease, &self.of, core.leases.holder, &self.who, lasts)
                .await?;
            books.is_open = true;
        }
        if let Some(pending) = books.pending.clone()
            && self.send(core, books, pending).await? == Outcome::Gone
        {
            return Ok(Outcome::Gone);
        }
        loop {
            let renewal = self.renewal(books, lease, wish, lasts);
            match self.send(core, books, renewal).await? {
                // It was done by an earlier try: what holds now is heard by another one.
                Outcome::Held { .. } if books.pending.is_some() => books.pending = None,
                outcome => return Ok(outcome),
            }
        }
    }

    fn renewal(&self, books: &mut Books, lease: Uuid, wish: Wish, lasts: Duration) -> Renewal {
        let drained = if wish.give_back {
            self.slice.drain()
        } else {
            NOTHING
        };
        let now = self.slice.spent();
        let limited = books.limited.unwrap_or_default();
        let mut back = drained;
        for (back, limited) in back.iter_mut().zip(limited) {
            *back = if limited { *back } else { 0 };
        }
        books.granted = minus(books.granted, drained);
        // Nothing is reserved, and nothing can be: all is drained.
        let close = wish.give_back && !wish.want && rest(books.granted, &now) == NOTHING;
        Renewal {
            lease,
            epoch: books.epoch,
            spent: minus(now.settled, books.reported.settled),
            over: minus(now.over, books.reported.over),
            back,
            free: self.slice.free(),
            want: wish.want && !self.is_dead(),
            close,
            lasts,
        }
    }

    // INVARIANT: `books.pending` is set while it is not known whether the renewal took effect, so that
    // its amounts are told once, and what it gives back is not spent meanwhile.
    async fn send(
        &self,
        core: &Core,
        books: &mut Books,
        renewal: Renewal,
    ) -> Result<Outcome, StoreError> {
        let (mono, wall) = (core.leases.mono(), core.store.now());
        books.pending = Some(renewal.clone());
        let renewed = match core.store.renew_lease(&renewal).await? {
            Answer::Renewed(renewed) => renewed,
            Answer::Lost { applied } => {
                books.pending = None;
                if applied {
                    self.told(core, books, &renewal);
                }
                books.lost = true;
                self.kill();
                tracing::warn!(budget = %self.of.budget, "a slice of a budget ran out before it was renewed; what was not reported is of unknown outcome");
                return Ok(Outcome::Gone);
            }
        };
        books.epoch += 1;
        books.failed = None;
        self.told(core, books, &renewal);
        if let Some(crossed) = renewed.crossed.as_deref() {
            core.warn(std::slice::from_ref(crossed));
        }
        books.granted = plus(books.granted, renewed.granted);
        if renewal.close {
            self.kill();
            books.pending = None;
            books.closed = true;
            return Ok(Outcome::Gone);
        }
        let Some(news) = renewed.news else {
            self.slice.give(&renewed.granted);
            return Ok(Outcome::Held { near: true });
        };
        books.pending = None;
        books.renewed_at = mono;
        if !news.leased || books.limited.is_some_and(|before| before != news.limited) {
            self.kill();
        }
        books.limited = Some(news.limited);
        if renewal.want && !self.is_dead() {
            let endless = self.endless(&news);
            books.granted = plus(books.granted, endless);
            self.slice.give(&endless);
        }
        self.slice.give(&renewed.granted);
        if !self.is_dead() {
            self.extend(&news, core.settings.leases.lease, mono, wall.as_micros());
        }
        Ok(Outcome::Held { near: news.near })
    }

    /// The window has what the renewal says that was spent.
    fn told(&self, core: &Core, books: &mut Books, renewal: &Renewal) {
        books.reported = Spent {
            settled: plus(books.reported.settled, renewal.spent),
            over: plus(books.reported.over, renewal.over),
        };
        if renewal.spent != NOTHING {
            core.audit
                .log_detached(record::spent_of_slice(self, renewal));
        }
    }

    /// What is added to units without a limit.
    fn endless(&self, news: &News) -> Amounts {
        let mut endless = NOTHING;
        let units = endless.iter_mut().zip(news.limited).zip(self.slice.free());
        for ((endless, limited), free) in units {
            *endless = if limited { 0 } else { (ENDLESS - free).max(0) };
        }
        endless
    }

    /// Spends well inside of the lease, and not beyond its window; counted from before the statement
    /// was sent, so that the store's clock is never behind.
    fn extend(&self, news: &News, lease: Duration, mono: u64, wall: i64) {
        let lasts = news.lasts.min(lease.saturating_sub(lease / 5));
        for (slot, full) in self.full.iter().zip(news.full) {
            slot.store(full, Ordering::Relaxed);
        }
        let micros = i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX);
        self.until_wall
            .store(wall.saturating_add(micros), Ordering::Release);
        self.until
            .store(mono.saturating_add(nanos(lasts)), Ordering::Release);
    }
}

impl Books {
    /// The slice's id, if the store has heard of it.
    pub(super) fn lease(&self) -> Option<Uuid> {
        self.lease.filter(|_| self.is_open)
    }

    /// Whether `unit` of the window has a limit.
    pub(super) fn limited(&self) -> [bool; UNITS] {
        self.limited.unwrap_or_default()
    }

    /// What left the slice for a reservation of its own.
    pub(super) fn moved_out(&mut self, amounts: Amounts) {
        self.granted = minus(self.granted, amounts);
    }

    /// What has been spent, and how much of it was reported, once nothing is reserved any more.
    pub(super) fn spent(&mut self, slice: &Slice) -> Option<(Amounts, Amounts)> {
        self.granted = minus(self.granted, slice.drain());
        let spent = slice.spent();
        (rest(self.granted, &spent) == NOTHING).then_some((spent.settled, self.reported.settled))
    }

    /// What the store said to somebody else, since a caller came.
    fn failed_since(&self, came: u64) -> Result<(), StoreError> {
        match &self.failed {
            Some((at, error)) if *at >= came => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Whether there is something to tell, or the lease should be renewed.
    pub(super) fn is_due(&self, slice: &Slice, mono: u64, lease: Duration) -> bool {
        self.pending.is_some()
            || slice.spent() != self.reported
            || mono.saturating_sub(self.renewed_at) >= nanos(lease / 3)
    }

    /// For how long nothing has moved.
    pub(super) fn idle_for(&mut self, slice: &Slice, mono: u64) -> Duration {
        let seen = (slice.spent(), slice.free());
        if seen != self.seen {
            self.seen = seen;
            self.moved_at = mono;
        }
        Duration::from_nanos(mono.saturating_sub(self.moved_at))
    }
}

/// What is reserved, where nothing is free.
fn rest(granted: Amounts, spent: &Spent) -> Amounts {
    minus(plus(granted, spent.over), spent.settled)
}

pub(super) fn plus(mut left: Amounts, right: Amounts) -> Amounts {
    for (left, right) in left.iter_mut().zip(right) {
        *left += right;
    }
    left
}

pub(super) fn minus(mut left: Amounts, right: Amounts) -> Amounts {
    for (left, right) in left.iter_mut().zip(right) {
        *left -= right;
    }
    left
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
