//! The halt switch: stops an agent, a session, a tenant or everything, and is asked by every gate.

use std::sync::Arc;

use crate::audit::Audit;
use crate::call::Principal;
use crate::error::ErrorKind;
use crate::store::Store;

/// The halt switch of one tenant. Cheap to clone; every clone is the same switch.
#[derive(Clone, Debug)]
pub struct Halt {
    shared: Arc<Shared>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "laid before it is used")]
struct Shared {
    store: Store,
    audit: Audit,
}

/// How the switch behaves.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HaltSettings {}

impl Halt {
    pub(crate) fn new(store: Store, audit: Audit, _settings: &HaltSettings) -> Self {
        Self {
            shared: Arc::new(Shared { store, audit }),
        }
    }

    /// Reads which halts are in force, and begins to hear of changes.
    #[expect(clippy::unused_async, reason = "laid before it is used")]
    pub(crate) async fn load(&self) -> Result<(), crate::store::StoreError> {
        let _ = &self.shared;
        Ok(())
    }

    /// Lets `who` go on, or not. Decides at once, from memory.
    ///
    /// # Errors
    ///
    /// [`Halted`] if the agent, its session, one of those that started it, the tenant, or everything
    /// is halted.
    pub fn check(&self, _who: &Principal) -> Result<(), Halted> {
        Ok(())
    }

    /// Stops the background tasks.
    #[expect(clippy::unused_async, reason = "laid before it is used")]
    pub(crate) async fn shutdown(&self) {}
}

/// Halted: nothing of it goes on until an operator resumes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.reason(), self.remedy())]
#[non_exhaustive]
pub struct Halted {}

impl Halted {
    /// Which answer it asks for: [`ErrorKind::Denied`].
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Denied
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> String {
        "the agent is halted".to_owned()
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        "stop; only an operator can let it go on"
    }
}

/// Why the halt switch could not be asked or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HaltError {
    /// The database did not take or give a halt.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

impl HaltError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
        }
    }
}
