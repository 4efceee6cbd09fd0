//! Why a handle could not be opened.

use crate::audit::{AuditError, JournalError};
use crate::contracts::ContractError;
use crate::error::ErrorKind;
use crate::halt::HaltError;
use crate::posture::Unprotected;
use crate::presence::PresenceError;
use crate::scope::ScopeError;
use crate::store::{DatabaseError, SchemaError, StoreError};
use crate::tlog::LogError;

/// Why a handle could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The schema is not one that this program can use.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The audit trail is under a key that this process does not have.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The policies could not be loaded.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The halt switch cannot keep what it was told to.
    #[error(transparent)]
    Halt(#[from] HaltError),
    /// Presence cannot keep what it was told to.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// A check that contracts name cannot be one.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// What a gate needs could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal's directory cannot be used, and [`Evidence::Spooled`](crate::audit::Evidence) needs it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The tenant's name cannot be part of a log's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What should protect does not, and the builder was told to be [strict](crate::GovernanceBuilder::strict).
    #[error(transparent)]
    Unprotected(#[from] Unprotected),
    /// The operating system gave no handler for SIGTERM.
    #[error("could not take over SIGTERM; call shutdown from the host's own handler")]
    Signal,
    /// The operating system gave no threads for the runtime in the background
    /// ([`connect_blocking`](crate::GovernanceBuilder::connect_blocking)).
    #[cfg(feature = "blocking")]
    #[error(
        "the threads in the background could not be started; look at the limits of the process"
    )]
    Threads,
}

impl ConnectError {
    /// Which answer it asks for.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database(error) => error.kind(),
            Self::Schema(error) => error.kind(),
            Self::Audit(error) => error.kind(),
            Self::Scope(error) => error.kind(),
            Self::Halt(error) => error.kind(),
            Self::Presence(error) => error.kind(),
            Self::Contract(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Journal(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Unprotected(error) => error.kind(),
            Self::Signal => ErrorKind::Misuse,
            #[cfg(feature = "blocking")]
            Self::Threads => ErrorKind::Unavailable,
        }
    }
}
