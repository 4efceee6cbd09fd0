//! The audit trail: keyed, hash-chained, append-only.

mod error;
mod keys;
mod kind;
mod model;
mod row;

use std::sync::Arc;

pub use error::AuditError;
pub use keys::{AuditKeys, KeyError};
pub use kind::{AppKind, InvalidKind, Kind};
pub use model::{AuditEvent, Committed, Entry, Receipt};

pub use crate::canon::{JsonError as MetadataError, JsonRule as MetadataRule, Metadata};
use crate::store::Store;

/// The audit trail of one tenant. Cheap to clone; every clone is the same writer.
#[derive(Clone, Debug)]
pub struct Audit {
    shared: Arc<(Store, AuditKeys)>,
}

impl Audit {
    pub(crate) fn start(store: Store, keys: AuditKeys) -> Self {
        Self {
            shared: Arc::new((store, keys)),
        }
    }

    /// Records `event`; never fails the host.
    pub async fn log(&self, event: AuditEvent) -> Receipt {
        let id = event.id();
        match self.append(event).await {
            Ok(committed) => Receipt::Committed(committed),
            Err(error) => Receipt::Lost { id, error },
        }
    }

    /// Records `event`, or says why it could not.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub async fn append(&self, event: AuditEvent) -> Result<Committed, AuditError> {
        self.append_all(vec![event])
            .await?
            .pop()
            .ok_or(AuditError::Closed)
    }

    /// Records all of `events` in one batch, next to each other, or none.
    pub(crate) async fn append_all(
        &self,
        _events: Vec<AuditEvent>,
    ) -> Result<Vec<Committed>, AuditError> {
        let _ = &self.shared;
        Err(AuditError::Closed)
    }

    /// Records `event` behind the caller's back: nothing waits for it.
    pub(crate) fn log_detached(&self, _event: AuditEvent) {}

    /// Waits until everything that was handed over is recorded, and stops.
    pub(crate) async fn shutdown(&self) {}
}
