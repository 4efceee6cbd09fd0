//! Counts in memory, on their way to the database: bounded, and each added once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::model::{HostDigest, QUARTER_MICROS, Wrapped};
use crate::time::Timestamp;

/// How many rows may wait: a day of outage for a hundred clients. Then calls go uncounted, which a
/// comparison shows as a difference and never hides.
const MAX_ROWS: usize = 10_000;
/// How many clients of one process are remembered.
const MAX_KNOWN: usize = 10_000;

/// A client, by what is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) kind: Arc<str>,
    pub(super) host: HostDigest,
}

impl Name {
    pub(super) fn new(client: &Wrapped, host: HostDigest) -> Self {
        Self {
            kind: client.kind().into(),
            host,
        }
    }
}

/// What one client did since the last batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// Calls by the quarter in which they were made.
    pub(super) calls: BTreeMap<Timestamp, u64>,
}

impl Seen {
    /// All of its calls.
    pub(super) fn total(&self) -> u64 {
        self.calls
            .values()
            .fold(0, |sum, n| u64::saturating_add(sum, *n))
    }
}

/// Counts that are written together, and never changed once they were sealed: whether a batch
/// arrived may be unknown, and it is then sent again as it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) number: i64,
    pub(super) sealed_at: Timestamp,
    pub(super) seen: BTreeMap<Name, Seen>,
}

/// All counts of one process.
#[derive(Debug, Default)]
pub(super) struct Counts {
    waiting: BTreeMap<Name, Seen>,
    /// Rows that are waiting, in clients and quarters.
    rows: usize,
    sealed: Option<Arc<Batch>>,
    last_batch: i64,
    known: HashSet<Name>,
    uncounted: u64,
}

impl Counts {
    /// `name` was wrapped.
    pub(super) fn wrapped(&mut self, name: &Name, at: Timestamp) {
        if self.known.len() < MAX_KNOWN && !self.known.contains(name) {
            self.known.insert(name.clone());
        }
        self.touch(name, at);
    }

    /// `name` made a governed call.
    pub(super) fn called(&mut self, name: &Name, at: Timestamp) {
        let full = self.rows >= MAX_ROWS;
        let quarter = quarter_of(at);
        let Some(seen) = self.touch(name, at) else {
            return self.miss(1);
        };
        if let Some(calls) = seen.calls.get_mut(&quarter) {
            *calls = calls.saturating_add(1);
        } else if full {
            self.miss(1);
        } else {
            seen.calls.insert(quarter, 1);
            self.rows += 1;
        }
    }

    /// What waits of `name`, if there is room for it.
    fn touch(&mut self, name: &Name, at: Timestamp) -> Option<&mut Seen> {
        if !self.waiting.contains_key(name) {
            if self.rows >= MAX_ROWS {
                return None;
            }
            self.rows += 1;
            let seen = Seen {
                first: at,
                last: at,
                calls: BTreeMap::new(),
            };
            self.waiting.insert(name.clone(), seen);
        }
        let seen = self.waiting.get_mut(name)?;
        seen.first = seen.first.min(at);
        seen.last = seen.last.max(at);
        Some(seen)
    }

    /// The batch to be written now, if any: the one that may not have arrived, or else a new one.
    pub(super) fn seal(&mut self, now: Timestamp) -> Option<Arc<Batch>> {
        if self.sealed.is_none() && !self.waiting.is_empty() {
            self.last_batch += 1;
            self.rows = 0;
            self.sealed = Some(Arc::new(Batch {
                number: self.last_batch,
                sealed_at: now,
                seen: std::mem::take(&mut self.waiting),
            }));
        }
        self.sealed.clone()
    }

    /// The batch has arrived.
    pub(super) fn written(&mut self, batch: &Batch) {
        if self.sealed.as_deref() == Some(batch) {
            self.sealed = None;
        }
    }

    /// The batch is given up: its calls are missing from the counts from now on.
    pub(super) fn give_up(&mut self, batch: &Batch) {
        if self.sealed.as_deref() == Some(batch) {
            self.sealed = None;
            let calls = batch.seen.values().map(Seen::total);
            self.miss(calls.fold(0, u64::saturating_add));
        }
    }

    fn miss(&mut self, calls: u64) {
        if self.uncounted == 0 && calls > 0 {
            tracing::warn!("governed calls go uncounted, since the database is away for too long");
        }
        self.uncounted = self.uncounted.saturating_add(calls);
    }

    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sealed.is_none()
    }

    /// The clients that were wrapped in this process.
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }

    pub(super) fn waiting(&self) -> usize {
        let sealed = self.sealed.as_ref().map_or(0, |batch| {
            let rows = batch.seen.values().map(|seen| 1 + seen.calls.len());
            rows.sum()
        });
        self.rows + sealed
    }

    pub(super) const fn uncounted(&self) -> u64 {
        self.uncounted
    }
}

/// When the quarter of an hour began that `at` is in.
fn quarter_of(at: Timestamp) -> Timestamp {
    let micros = at.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(QUARTER_MICROS))
}
