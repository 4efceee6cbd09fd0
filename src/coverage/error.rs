//! Why the registry could not be asked.

use super::model::{InvalidWindow, InvalidWrapped};
use crate::audit::AuditError;
use crate::error::ErrorKind;
use crate::store::StoreError;

/// Why the registry could not be asked. Registering and counting never fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoverageError {
    /// The client is none.
    #[error(transparent)]
    Wrapped(#[from] InvalidWrapped),
    /// The window is none.
    #[error(transparent)]
    Window(#[from] InvalidWindow),
    /// What is known could not be put on record.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The counts could not be read, or those of this process not be written first.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CoverageError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Wrapped(_) | Self::Window(_) => ErrorKind::Misuse,
            Self::Audit(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
