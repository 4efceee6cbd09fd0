//! Contracts: what must hold before and after a call.

use std::sync::Arc;

use crate::audit::Audit;
use crate::cost::Cost;
use crate::gates::Gates;
use crate::halt::Halt;
use crate::scope::Scope;
use crate::store::Store;

/// The contracts of one tenant. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Contracts {
    shared: Arc<Shared>,
}

/// What contracts can ask about.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "laid before it is used")]
pub(crate) struct Around {
    pub(crate) audit: Audit,
    pub(crate) halt: Halt,
    pub(crate) scope: Scope,
    pub(crate) cost: Cost,
    pub(crate) gates: Gates,
}

#[derive(Debug)]
#[expect(dead_code, reason = "laid before it is used")]
struct Shared {
    store: Store,
    around: Around,
}

impl Contracts {
    pub(crate) fn new(store: Store, around: Around) -> Self {
        Self {
            shared: Arc::new(Shared { store, around }),
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
