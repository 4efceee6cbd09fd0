//! What has been written and not drained yet: shared by the thread that writes and whoever drains.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::time::Timestamp;

/// A file of this writer's journal. Its lock lasts as long as the file is open.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Segment {
    pub(in crate::audit) no: u32,
    pub(in crate::audit) path: PathBuf,
    pub(in crate::audit) file: Arc<File>,
    /// The end of the last line that was written as a whole.
    pub(in crate::audit) len: u64,
    /// Nothing will be added.
    pub(in crate::audit) closed: bool,
}

/// The account of one journal.
#[derive(Debug, Default)]
pub(in crate::audit) struct Ledger {
    segments: Mutex<VecDeque<Segment>>,
    journalled: AtomicU64,
    spooled: AtomicU64,
    depth: AtomicU64,
    lost: AtomicU64,
    quarantined: AtomicU64,
    /// When the oldest line that waits was written; in microseconds, 0 for none.
    oldest: AtomicU64,
    /// Told of every write.
    pub(in crate::audit) written: Notify,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::audit) struct Counts {
    pub(in crate::audit) journalled: u64,
    pub(in crate::audit) spooled: u64,
    pub(in crate::audit) depth: u64,
    pub(in crate::audit) lost: u64,
    pub(in crate::audit) quarantined: u64,
    pub(in crate::audit) oldest: Option<Timestamp>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn segments(&self) -> MutexGuard<'_, VecDeque<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, segment: Segment) {
        self.segments().push_back(segment);
    }

    /// The last file has grown to `len`, by so many lines ahead of their commit and others.
    pub(super) fn extend(&self, len: u64, (ahead, fallback): (u64, u64), at: Timestamp) {
        if let Some(last) = self.segments().back_mut() {
            last.len = len;
        }
        for (counter, lines) in [(&self.spooled, ahead), (&self.journalled, fallback)] {
            if lines > 0 {
                counter.fetch_add(lines, Ordering::Relaxed);
            }
        }
        let before = self.depth.fetch_add(ahead + fallback, Ordering::Relaxed);
        if before == 0 {
            self.since(Some(at));
        }
    }

    /// Nothing is added to the last file any more.
    pub(super) fn close(&self) {
        if let Some(last) = self.segments().back_mut() {
            last.closed = true;
        }
    }

    /// Bytes of all files that are not drained.
    pub(super) fn bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.len).sum()
    }

    /// The oldest file that is not drained.
    pub(in crate::audit) fn front(&self) -> Option<Segment> {
        self.segments().front().cloned()
    }

    /// The oldest file is drained and removed.
    pub(in crate::audit) fn pop(&self, no: u32) {
        let mut segments = self.segments();
        if segments.front().is_some_and(|front| front.no == no) {
            segments.pop_front();
        }
    }

    /// So many lines were drained, or set aside.
    pub(in crate::audit) fn drained(&self, lines: u64) {
        let less = |depth: u64| Some(depth.saturating_sub(lines));
        let before = self
            .depth
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if before.is_ok_and(|before| before <= lines) {
            self.since(None);
        }
    }

    /// The oldest line that waits was written at `at`.
    pub(in crate::audit) fn since(&self, at: Option<Timestamp>) {
        let micros = at.map_or(0, |at| u64::try_from(at.as_micros()).unwrap_or(0));
        self.oldest.store(micros, Ordering::Relaxed);
    }

    pub(in crate::audit) fn lose(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    pub(in crate::audit) fn quarantined(&self, lines: u64) {
        self.quarantined.fetch_add(lines, Ordering::Relaxed);
    }

    pub(in crate::audit) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let oldest = i64::try_from(read(&self.oldest)).unwrap_or(0);
        Counts {
            journalled: read(&self.journalled),
            spooled: read(&self.spooled),
            depth: read(&self.depth),
            lost: read(&self.lost),
            quarantined: read(&self.quarantined),
            oldest: (oldest > 0).then(|| Timestamp::from_micros(oldest)),
        }
    }
}
