//! Approvals: what a person has to agree to first.

use std::sync::Arc;

use crate::audit::Audit;
use crate::halt::Halt;
use crate::store::Store;

/// Approvals: what a person has to agree to first. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Gates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "laid before it is used")]
struct Shared {
    store: Store,
    audit: Audit,
    halt: Halt,
}

impl Gates {
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt) -> Self {
        Self {
            shared: Arc::new(Shared { store, audit, halt }),
        }
    }

    /// Reads what is stored, and begins to hear of changes.
    #[expect(clippy::unused_async, reason = "laid before it is used")]
    pub(crate) async fn load(&self) -> Result<(), crate::store::StoreError> {
        let _ = &self.shared;
        Ok(())
    }

    /// Completes what was handed to the background.
    #[expect(clippy::unused_async, reason = "laid before it is used")]
    pub(crate) async fn shutdown(&self) {}
}
