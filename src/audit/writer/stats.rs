//! What was done so far.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Shared;
use crate::audit::identity::Signer;
use crate::time::Timestamp;

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct Stats {
    batches: AtomicU64,
    statements: AtomicU64,
    events: AtomicU64,
    lost: AtomicU64,
    /// Microseconds; 0 before the first.
    committed_at: AtomicI64,
}

impl Stats {
    pub(super) fn statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn batch(&self, events: u64, now: Timestamp) {
        self.committed_at
            .fetch_max(now.as_micros(), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn lose(&self, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.lost.fetch_add(events, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn stats(&self) -> AuditStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let journal = self.journal.as_ref();
        let journal = journal.map(|journal| journal.ledger().counts());
        let journal = journal.unwrap_or_default();
        AuditStats {
            batches: read(&self.stats.batches),
            statements: read(&self.stats.statements),
            events: read(&self.stats.events),
            committed_at: match self.stats.committed_at.load(Ordering::Relaxed) {
                0 => None,
                micros => Some(Timestamp::from_micros(micros)),
            },
            lost: read(&self.stats.lost).saturating_add(journal.lost),
            unsigned: self.signer.get().map_or(0, Signer::unsigned),
            unsigned_heads: self.signer.get().map_or(0, Signer::unsigned_heads),
            lanes: self.queue.alive(),
            waiting: self.queue.waiting(),
            degraded: self.outage.open().is_some(),
            journalled: journal.journalled,
            spooled: journal.spooled,
            depth: journal.depth,
            quarantined: journal.quarantined,
            oldest_undrained: journal.oldest,
            moved: read(&self.mover.moved),
            outbox_refused: read(&self.mover.refused),
        }
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
    /// When the newest batch was committed; `None` before the first.
    pub committed_at: Option<Timestamp>,
    /// Events that were handed over and are nowhere: neither the database nor the journal took them.
    /// Each was warned of.
    pub lost: u64,
    /// Entries that should have been signed by their agent, whose key is not here.
    pub unsigned: u64,
    /// Batches whose head should have been signed by the process, whose key could not be used.
    pub unsigned_heads: u64,
    /// Chains and connections in use.
    pub lanes: usize,
    /// Events that are queued or on their way.
    pub waiting: usize,
    /// Whether the database is away, or the end of the time that it was is not on record yet.
    pub degraded: bool,
    /// Lines that went to the journal because the database was away, its markers included.
    pub journalled: u64,
    /// Lines that went to the journal first ([`Evidence::Spooled`](super::super::Evidence)).
    pub spooled: u64,
    /// Lines of this writer's journal that wait to be drained.
    pub depth: u64,
    /// Lines of journals, of this writer or left by others, that could not be drained and were set
    /// aside.
    pub quarantined: u64,
    /// When the oldest line that waits was written, or a little before.
    pub oldest_undrained: Option<Timestamp>,
    /// Events of [`append_in_tx`](super::super::Audit::append_in_tx), of any process, that were moved
    /// from the outbox into the trail.
    pub moved: u64,
    /// Rows that lay in the outbox at the last look and are not as we write them. Each was warned of.
    pub outbox_refused: u64,
}
