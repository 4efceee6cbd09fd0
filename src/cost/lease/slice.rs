//! One slice in memory: what is free of it, and what was spent. No clock, no store, no lock.
//!
//! What a slice was granted is at every moment `free + reserved + settled - over`, so that never more
//! is reserved and settled than was granted, except by calls that cost more than their ceilings.
//!
//! It lies in stripes, of which each thread uses one: threads that spend from the same slice do not
//! wait for each other's cache lines. Only the sums over all stripes mean anything. A stripe that is
//! short takes from the others.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// How many units there are.
pub(in crate::cost) const UNITS: usize = 3;

/// An amount of each unit: nano-dollars, tokens, calls.
pub(in crate::cost) type Amounts = [i64; UNITS];

/// Nothing of any unit.
pub(in crate::cost) const NOTHING: Amounts = [0; UNITS];

/// What is free of a unit that is not limited: it is taken from like any other.
pub(super) const ENDLESS: i64 = 1 << 61;

/// The most that one call can be charged from memory: a thousand of it can be added up.
pub(in crate::cost) const MOST: i64 = 1 << 53;

/// How many threads spend from a slice without meeting; a power of two.
pub(super) const STRIPES: usize = 8;
/// A stripe with less than this part of a slice looks what the others have.
const SHORT: i64 = 32;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// The stripe of this thread.
fn own() -> usize {
    // A thread that is just ending has none any more.
    STRIPE.try_with(|stripe| *stripe).unwrap_or(0)
}

/// A slice.
#[derive(Debug, Default)]
pub(super) struct Slice {
    stripes: [Stripe; STRIPES],
}

/// The counters of one stripe, in cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    free: [AtomicI64; UNITS],
    /// All that calls have cost.
    settled: [AtomicI64; UNITS],
    /// The part of it beyond their ceilings.
    over: [AtomicI64; UNITS],
}

/// What was spent of a slice so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) settled: Amounts,
    pub(super) over: Amounts,
}

impl Slice {
    /// Takes `asked`, or nothing of any unit.
    pub(super) fn take(&self, asked: &Amounts) -> bool {
        self.take_at(own(), asked)
    }

    /// Gives back what was taken, or adds what was granted.
    pub(super) fn give(&self, amounts: &Amounts) {
        self.give_at(own(), amounts);
    }

    /// Charges `cost` for a call that had taken `asked`.
    pub(super) fn settle(&self, asked: &Amounts, cost: &Amounts) {
        self.settle_at(own(), asked, cost);
    }

    pub(super) fn take_at(&self, own: usize, asked: &Amounts) -> bool {
        for (unit, &amount) in asked.iter().enumerate() {
            if amount != 0 && !self.take_unit(own, unit, amount) {
                let mut undone = *asked;
                for later in undone.iter_mut().skip(unit) {
                    *later = 0;
                }
                self.give_at(own, &undone);
                return false;
            }
        }
        true
    }

    pub(super) fn give_at(&self, own: usize, amounts: &Amounts) {
        if let Some(stripe) = self.stripes.get(own) {
            for (free, &amount) in stripe.free.iter().zip(amounts) {
                give(free, amount);
            }
        }
    }

    pub(super) fn settle_at(&self, own: usize, asked: &Amounts, cost: &Amounts) {
        let Some(stripe) = self.stripes.get(own) else {
            return;
        };
        let counters = stripe.free.iter().zip(&stripe.settled).zip(&stripe.over);
        for (((free, settled), over), (&asked, &cost)) in counters.zip(asked.iter().zip(cost)) {
            if cost > asked {
                over.fetch_add(cost - asked, Ordering::AcqRel);
            }
            if cost != 0 {
                settled.fetch_add(cost, Ordering::AcqRel);
            }
            give(free, (asked - cost).max(0));
        }
    }

    /// Takes all that is free. What is just on its way from one stripe to another stays.
    pub(super) fn drain(&self) -> Amounts {
        self.sum(|stripe| &stripe.free, |free| free.swap(0, Ordering::AcqRel))
    }

    /// What is free.
    pub(super) fn free(&self) -> Amounts {
        self.sum(
            |stripe| &stripe.free,
            |counter| counter.load(Ordering::Acquire),
        )
    }

    /// What was spent so far. `settled - over` is never more than what was reserved.
    pub(super) fn spent(&self) -> Spent {
        let load = |counter: &AtomicI64| counter.load(Ordering::Acquire);
        // In this order: an excess is counted before the cost that it is part of.
        let settled = self.sum(|stripe| &stripe.settled, load);
        let over = self.sum(|stripe| &stripe.over, load);
        Spent { settled, over }
    }

    /// Whether less than half of `full` is free of a unit. Looks at other stripes only where this
    /// thread's own is short: less than a quarter of a slice may be left before it is noticed.
    pub(super) fn is_low(&self, full: &Amounts) -> bool {
        let own = own();
        full.iter()
            .enumerate()
            .any(|(unit, &full)| self.is_unit_low(own, unit, full))
    }

    fn is_unit_low(&self, own: usize, unit: usize, full: i64) -> bool {
        let enough = if full < SHORT * SHORT {
            full
        } else {
            full / SHORT
        };
        let Some(mine) = self.counter(own, unit) else {
            return false;
        };
        if mine.load(Ordering::Relaxed) >= enough {
            return false;
        }
        let all = (0..STRIPES).filter_map(|at| self.counter(at, unit));
        let free: i64 = all.map(|free| free.load(Ordering::Relaxed)).sum();
        if free < full / 2 {
            return true;
        }
        // The others have it: not to look again for each call.
        self.gather(own, unit, enough.min(full / SHORT));
        false
    }

    fn take_unit(&self, own: usize, unit: usize, amount: i64) -> bool {
        let Some(mine) = self.counter(own, unit) else {
            return false;
        };
        take(mine, amount) || (self.gather(own, unit, amount) && take(mine, amount))
    }

    /// Brings what is free of other stripes to this one until it has `amount`: half of what each has, so
    /// that neither is soon short again, or more where it is needed.
    //
    // INVARIANT: what is taken from one is given to the other, so that the sum stays, or is for a moment
    // less: nobody takes what is not there.
    fn gather(&self, own: usize, unit: usize, amount: i64) -> bool {
        let Some(mine) = self.counter(own, unit) else {
            return false;
        };
        for step in 1..STRIPES {
            let lacking = amount - mine.load(Ordering::Relaxed);
            if lacking <= 0 {
                return true;
            }
            if let Some(other) = self.counter((own + step) % STRIPES, unit) {
                give(mine, take_some(other, lacking));
            }
        }
        mine.load(Ordering::Relaxed) >= amount
    }

    fn counter(&self, stripe: usize, unit: usize) -> Option<&AtomicI64> {
        self.stripes.get(stripe)?.free.get(unit)
    }

    fn sum(
        &self,
        of: impl Fn(&Stripe) -> &[AtomicI64; UNITS],
        read: impl Fn(&AtomicI64) -> i64,
    ) -> Amounts {
        let mut sum = NOTHING;
        for stripe in &self.stripes {
            for (sum, counter) in sum.iter_mut().zip(of(stripe)) {
                *sum += read(counter);
            }
        }
        sum
    }
}

fn take(free: &AtomicI64, amount: i64) -> bool {
    let mut now = free.load(Ordering::Relaxed);
    while now >= amount {
        match free.compare_exchange_weak(now, now - amount, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(other) => now = other,
        }
    }
    false
}

/// Half of it, or up to `lacking` where that is more.
fn take_some(free: &AtomicI64, lacking: i64) -> i64 {
    let mut now = free.load(Ordering::Relaxed);
    while now > 0 {
        let some = lacking.max(now / 2).min(now);
        match free.compare_exchange_weak(now, now - some, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return some,
            Err(other) => now = other,
        }
    }
    0
}

fn give(free: &AtomicI64, amount: i64) {
    if amount != 0 {
        free.fetch_add(amount, Ordering::AcqRel);
    }
}
