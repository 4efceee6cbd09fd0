//! Why presence could not be asked.

use crate::error::ErrorKind;
use crate::store::StoreError;

/// Why presence could not be asked. A heartbeat has no error: it never fails the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// What was given cannot be used.
    #[error("{field} {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The database did not take or give it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PresenceError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> String {
        self.to_string()
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "correct it",
            Self::Store(_) => "check the database and try again",
        }
    }
}
