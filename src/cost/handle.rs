//! How the gate is held: by clones, and by what their calls take with them.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::Cost;
use super::settle::{Core, Job, Message};

/// One clone, whose references its own calls count.
#[derive(Clone)]
#[repr(align(128))]
pub(super) struct Handle {
    pub(super) core: Arc<Core>,
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) queue: mpsc::UnboundedSender<Message>,
    /// Stops the sweeper, when told or when dropped.
    pub(super) stop: watch::Sender<bool>,
}

impl Cost {
    /// The same handle, for what a call takes with it.
    pub(super) fn for_call(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            off: self.off,
        }
    }

    pub(super) fn hand_over(&self, job: Job) {
        // The worker outlives every sender, unless the runtime is gone; then the lease decides.
        self.core().pulse.begin_ending();
        if let Err(mpsc::error::SendError(Message::End(job))) =
            self.handle.inner.queue.send(Message::End(Box::new(job)))
        {
            self.core().pulse.end_ending();
            tracing::error!(id = %job.held.id, "the runtime is gone; a reservation stays charged until its lease runs out");
        }
    }
}

impl Clone for Cost {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::new(Handle::clone(&self.handle)),
            off: self.off,
        }
    }
}
