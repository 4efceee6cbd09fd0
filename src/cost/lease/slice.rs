//! One slice in memory: what is free of it, and what was spent. No clock, no store, no lock.
//!
//! What a slice was granted is at every moment `free + reserved + settled - over`, so that never more
//! is reserved and settled than was granted, except by calls that cost more than their ceilings.

use std::sync::atomic::{AtomicI64, Ordering};

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

/// The counters of one unit.
#[derive(Debug, Default)]
struct Unit {
    free: AtomicI64,
    /// All that calls have cost.
    settled: AtomicI64,
    /// The part of it beyond their ceilings.
    over: AtomicI64,
}

/// A slice. One cache line, so that a call moves one between cores.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Slice {
    units: [Unit; UNITS],
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
        for (at, (unit, &amount)) in self.units.iter().zip(asked).enumerate() {
            if amount != 0 && !unit.take(amount) {
                for (unit, &amount) in self.units.iter().zip(asked).take(at) {
                    unit.give(amount);
                }
                return false;
            }
        }
        true
    }

    /// Gives back what was taken, or adds what was granted.
    pub(super) fn give(&self, amounts: &Amounts) {
        for (unit, &amount) in self.units.iter().zip(amounts) {
            unit.give(amount);
        }
    }

    /// Charges `cost` for a call that had taken `asked`.
    pub(super) fn settle(&self, asked: &Amounts, cost: &Amounts) {
        for ((unit, &asked), &cost) in self.units.iter().zip(asked).zip(cost) {
            unit.settle(asked, cost);
        }
    }

    /// Takes all that is free.
    pub(super) fn drain(&self) -> Amounts {
        let mut drained = NOTHING;
        for (unit, slot) in self.units.iter().zip(&mut drained) {
            *slot = unit.free.swap(0, Ordering::AcqRel);
        }
        drained
    }

    /// What is free.
    pub(super) fn free(&self) -> Amounts {
        let mut free = NOTHING;
        for (unit, slot) in self.units.iter().zip(&mut free) {
            *slot = unit.free.load(Ordering::Acquire);
        }
        free
    }

    /// Whether less than half of `full` is free of a unit.
    pub(super) fn is_low(&self, full: &Amounts) -> bool {
        let mut units = self.units.iter().zip(full);
        units.any(|(unit, &full)| unit.free.load(Ordering::Relaxed) < full / 2)
    }

    /// What was spent so far. `settled - over` is never more than what was reserved.
    pub(super) fn spent(&self) -> Spent {
        let mut spent = Spent::default();
        let slots = spent.settled.iter_mut().zip(&mut spent.over);
        for (unit, (settled, over)) in self.units.iter().zip(slots) {
            // In this order: an excess is counted before the cost that it is part of.
            *settled = unit.settled.load(Ordering::Acquire);
            *over = unit.over.load(Ordering::Acquire);
        }
        spent
    }
}

impl Unit {
    fn take(&self, amount: i64) -> bool {
        let mut free = self.free.load(Ordering::Relaxed);
        while free >= amount {
            let rest = free - amount;
            match self
                .free
                .compare_exchange_weak(free, rest, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }

    fn give(&self, amount: i64) {
        if amount != 0 {
            self.free.fetch_add(amount, Ordering::AcqRel);
        }
    }

    fn settle(&self, asked: i64, cost: i64) {
        if cost > asked {
            self.over.fetch_add(cost - asked, Ordering::AcqRel);
        }
        if cost != 0 {
            self.settled.fetch_add(cost, Ordering::AcqRel);
        }
        self.give((asked - cost).max(0));
    }
}
