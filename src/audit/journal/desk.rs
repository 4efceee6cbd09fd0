//! Who may write: the journal's thread, or a caller while that has nothing to do.
//!
//! To hand a line to the thread and be woken by it takes several times as long as to write it. So in
//! spooled mode a caller who finds the spool free writes its line itself, into the page cache; it
//! never waits for the lock, and never for a sync, a new file, or a disk that was slow a moment ago:
//! all that is the thread's.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Mutex, PoisonError};

use super::spool::{Request, Spool};
use crate::audit::model::Sealed;

/// The spool, and how many requests wait for its thread.
pub(super) struct Desk {
    spool: Mutex<Spool>,
    waiting: AtomicUsize,
}

impl Desk {
    pub(super) const fn new(spool: Spool) -> Self {
        Self {
            spool: Mutex::new(spool),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A request is about to be sent.
    pub(super) fn expect(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// So many requests are served, or were not sent.
    pub(super) fn done(&self, requests: usize) {
        self.waiting.fetch_sub(requests, Ordering::AcqRel);
    }

    /// Writes `events` now, ahead of their commit, if that takes no more than a write, and nothing was
    /// sent before that would come after them; answers with the number of the first line.
    pub(super) fn write_ahead(&self, events: &Sealed) -> Option<u64> {
        let mut spool = self.spool.try_lock().ok()?;
        if self.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        spool.try_ahead(events)
    }

    /// Serves until the last handle is gone, and what it had sent.
    pub(super) fn run(&self, requests: &Receiver<Request>) {
        let mut orders = Vec::new();
        while let Ok(first) = requests.recv() {
            let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut next, mut served) = (Ok(first), 0);
            // Who asks while a sync is under way is answered by the next one.
            loop {
                match next {
                    Ok(Request::Write(order)) => orders.push(order),
                    Ok(other) => {
                        spool.serve(std::mem::take(&mut orders));
                        spool.manage(other);
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
                served += 1;
                next = requests.try_recv();
            }
            spool.serve(std::mem::take(&mut orders));
            self.done(served);
        }
        self.spool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sync();
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}
