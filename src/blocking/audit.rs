//! The audit trail, without a runtime.

use std::sync::Arc;

use super::runtime::Background;
use crate::audit::{
    AuditError, AuditEvent, AuditStats, DrainReport, Entry, EventProof, Page, Query, Receipt,
    Recorded, SignedCheckpoint, Verification, Verify,
};
use crate::tlog::LogKey;
use crate::{EventId, audit};

/// [`portcullis::audit::Audit`](audit::Audit), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Audit {
    audit: audit::Audit,
    background: Arc<Background>,
}

impl Audit {
    pub(super) fn new(audit: audit::Audit, background: &Arc<Background>) -> Self {
        Self {
            audit,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the trail itself, and waits for it: for what has no method here.
    ///
    /// ```no_run
    /// # fn example(audit: portcullis::blocking::Audit) -> Result<(), portcullis::audit::AuditError> {
    /// use portcullis::audit::Query;
    ///
    /// let mut follow = audit.block_on(async |audit| audit.follow(&Query::all()));
    /// let next = audit.block_on(async |_| follow.next().await)?; // waits for an entry
    /// # let _ = next;
    /// # Ok(())
    /// # }
    /// ```
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&audit::Audit) -> T) -> T {
        self.background.wait(async { work(&self.audit).await })
    }

    /// Records `event`; never fails the host: [`Audit::log`](audit::Audit::log).
    pub fn log(&self, event: AuditEvent) -> Receipt {
        self.background.wait(self.audit.log(event))
    }

    /// Records `event` behind the caller's back: [`Audit::log_detached`](audit::Audit::log_detached).
    pub fn log_detached(&self, event: AuditEvent) {
        self.audit.log_detached(event);
    }

    /// Records `event`, or says why it could not: [`Audit::append`](audit::Audit::append).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn append(&self, event: AuditEvent) -> Result<Recorded, AuditError> {
        self.background.wait(self.audit.append(event))
    }

    /// Records all of `events` or none: [`Audit::append_all`](audit::Audit::append_all).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn append_all(&self, events: Vec<AuditEvent>) -> Result<Vec<Recorded>, AuditError> {
        self.background.wait(self.audit.append_all(events))
    }

    /// One page of what `query` asks for: [`Audit::events`](audit::Audit::events).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn events(&self, query: &Query) -> Result<Page, AuditError> {
        self.background.wait(self.audit.events(query))
    }

    /// One entry, if there is one of this id: [`Audit::event`](audit::Audit::event).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn event(&self, id: EventId) -> Result<Option<Entry>, AuditError> {
        self.background.wait(self.audit.event(id))
    }

    /// Verifies what is asked for: [`Audit::verify`](audit::Audit::verify).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn verify(&self, what: impl Into<Verify>) -> Result<Verification, AuditError> {
        self.background.wait(self.audit.verify(what))
    }

    /// Verifies every entry of the tenant: [`Audit::verify_all`](audit::Audit::verify_all).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn verify_all(&self) -> Result<Verification, AuditError> {
        self.background.wait(self.audit.verify_all())
    }

    /// Signs a checkpoint of the trail: [`Audit::checkpoint`](audit::Audit::checkpoint).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn checkpoint(&self, key: &LogKey) -> Result<SignedCheckpoint, AuditError> {
        self.background.wait(self.audit.checkpoint(key))
    }

    /// The proof that an entry is in the trail: [`Audit::prove`](audit::Audit::prove).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn prove(&self, id: EventId) -> Result<EventProof, AuditError> {
        self.background.wait(self.audit.prove(id))
    }

    /// Brings what is in journals into the trail: [`Audit::drain`](audit::Audit::drain).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn drain(&self) -> Result<DrainReport, AuditError> {
        self.background.wait(self.audit.drain())
    }

    /// What the writer has done so far: [`Audit::stats`](audit::Audit::stats).
    #[must_use]
    pub fn stats(&self) -> AuditStats {
        self.audit.stats()
    }
}
