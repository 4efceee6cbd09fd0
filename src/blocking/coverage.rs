//! The coverage registry, without a runtime.

use std::sync::Arc;

use super::runtime::Background;
use crate::audit::Recorded;
use crate::coverage;
use crate::coverage::{
    Client, Comparison, CoverageError, CoverageStatus, Registered, Window, Wrapped,
};

/// [`portcullis::coverage::Coverage`](coverage::Coverage), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Coverage {
    coverage: coverage::Coverage,
    background: Arc<Background>,
}

impl Coverage {
    pub(super) fn new(coverage: coverage::Coverage, background: &Arc<Background>) -> Self {
        Self {
            coverage,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the registry itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&coverage::Coverage) -> T) -> T {
        self.background.wait(async { work(&self.coverage).await })
    }

    /// Enters a client: [`Coverage::register`](coverage::Coverage::register).
    #[expect(
        clippy::must_use_candidate,
        reason = "a client that is only entered is known"
    )]
    pub fn register(&self, client: &Wrapped) -> Registered {
        self.coverage.register(client)
    }

    /// Every client that was ever wrapped: [`Coverage::list`](coverage::Coverage::list).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn list(&self) -> Result<Vec<Client>, CoverageError> {
        self.background.wait(self.coverage.list())
    }

    /// Puts the list on record: [`Coverage::snapshot`](coverage::Coverage::snapshot).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn snapshot(&self) -> Result<(Vec<Client>, Recorded), CoverageError> {
        self.background.wait(self.coverage.snapshot())
    }

    /// Holds governed calls against a count from outside:
    /// [`Coverage::compare`](coverage::Coverage::compare).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn compare(
        &self,
        client: &Wrapped,
        reported: u64,
        window: Window,
    ) -> Result<Comparison, CoverageError> {
        self.background
            .wait(self.coverage.compare(client, reported, window))
    }

    /// What this process knows by itself: [`Coverage::status`](coverage::Coverage::status).
    #[must_use]
    pub fn status(&self) -> CoverageStatus {
        self.coverage.status()
    }
}
