//! What the database could not do, without the driver's words: those may hold rows and URLs.

use std::fmt;

use crate::error::ErrorKind;

/// An operation that the database did not do.
///
/// Says which operation, what kind of fault, and the SQLSTATE; has no `source()`, because a
/// driver's text can hold rows, arguments and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    operation: &'static str,
    fault: StoreFault,
    sqlstate: Option<String>,
}

/// The kinds of fault, by what can be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreFault {
    /// No connection could be made, or it was lost.
    Unreachable,
    /// No answer within the deadline.
    TimedOut,
    /// All connections of the pool were in use.
    PoolExhausted,
    /// A pooler stands in between that does not keep what a session sets.
    Pooler,
    /// The database aborted the statement: a deadlock, a serialization failure, its own timeout.
    Aborted,
    /// A table or function is missing: the schema has not been migrated.
    NotMigrated,
    /// The role may not do this.
    Forbidden,
    /// A constraint was violated.
    Constraint,
    /// The database refused the statement for another reason.
    Refused,
    /// What came back is not what this crate writes.
    Malformed,
}

impl StoreError {
    pub(crate) fn new(operation: &'static str, fault: StoreFault) -> Self {
        Self {
            operation,
            fault,
            sqlstate: None,
        }
    }

    pub(crate) fn timed_out(operation: &'static str) -> Self {
        Self::new(operation, StoreFault::TimedOut)
    }

    pub(crate) fn malformed(operation: &'static str) -> Self {
        Self::new(operation, StoreFault::Malformed)
    }

    /// For `map_err`: names the operation.
    pub(crate) fn during(operation: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |error| Self::from_driver(operation, &error)
    }

    pub(crate) fn from_driver(operation: &'static str, error: &sqlx::Error) -> Self {
        let (fault, sqlstate) = match error {
            sqlx::Error::Database(refusal)
                if refusal
                    .message()
                    .starts_with("unsupported startup parameter") =>
            {
                (StoreFault::Pooler, None)
            }
            sqlx::Error::Database(refusal) => {
                let code = refusal.code().map(std::borrow::Cow::into_owned);
                (fault_of(code.as_deref().unwrap_or_default()), code)
            }
            sqlx::Error::PoolTimedOut => (StoreFault::PoolExhausted, None),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Configuration(_) => (StoreFault::Unreachable, None),
            _ => (StoreFault::Malformed, None),
        };
        Self {
            operation,
            fault,
            sqlstate,
        }
    }

    /// What was being done.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        self.operation
    }

    /// What went wrong.
    #[must_use]
    pub const fn fault(&self) -> StoreFault {
        self.fault
    }

    /// The database's five-character code, if it answered.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self.fault {
            StoreFault::Unreachable
            | StoreFault::TimedOut
            | StoreFault::PoolExhausted
            | StoreFault::Aborted => ErrorKind::Unavailable,
            StoreFault::Malformed => ErrorKind::Integrity,
            StoreFault::NotMigrated
            | StoreFault::Forbidden
            | StoreFault::Pooler
            | StoreFault::Constraint
            | StoreFault::Refused => ErrorKind::Misuse,
        }
    }

    /// Whether the database itself undid the statement, so that it certainly did not happen.
    pub(crate) fn is_aborted(&self) -> bool {
        // 57014, a cancelled statement, is not tried again: it has used up its time.
        self.fault == StoreFault::Aborted && self.sqlstate.as_deref() != Some("57014")
    }

    /// Whether the connection was lost, so that the statement may or may not have happened.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.fault, StoreFault::Unreachable)
    }
}

fn fault_of(code: &str) -> StoreFault {
    match code {
        "40001" | "40P01" | "57014" | "55P03" => StoreFault::Aborted,
        "42P01" | "3F000" | "42883" | "42703" => StoreFault::NotMigrated,
        "42501" => StoreFault::Forbidden,
        // Shutting down, starting up, too many connections, failed credentials.
        "57P01" | "57P02" | "57P03" | "57P04" | "53300" | "28000" | "28P01" | "3D000" => {
            StoreFault::Unreachable
        }
        code if code.starts_with("08") => StoreFault::Unreachable,
        code if code.starts_with("23") => StoreFault::Constraint,
        _ => StoreFault::Refused,
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, remedy) = match self.fault {
            StoreFault::Unreachable => (
                "the database cannot be reached",
                "check that it runs and that the URL is right",
            ),
            StoreFault::TimedOut => (
                "the database did not answer in time",
                "try again, or raise the deadline",
            ),
            StoreFault::PoolExhausted => (
                "all connections of the pool are in use",
                "raise the pool's size",
            ),
            StoreFault::Pooler => (
                "a connection pooler stands in between that shares sessions",
                "call Database::pooled, or connect past it",
            ),
            StoreFault::Aborted => ("the database aborted the statement", "try again"),
            StoreFault::NotMigrated => (
                "the schema `portcullis` is missing or too old",
                "run the migrations",
            ),
            StoreFault::Forbidden => (
                "the database role lacks a grant",
                "migrate with the application role's name",
            ),
            StoreFault::Constraint => ("a constraint was violated", "check the values"),
            StoreFault::Refused => ("the database refused the statement", "look up the code"),
            StoreFault::Malformed => (
                "the stored value is not one that this crate writes",
                "verify the audit trail",
            ),
        };
        write!(f, "could not {}: {what}", self.operation)?;
        if let Some(code) = &self.sqlstate {
            write!(f, " (SQLSTATE {code})")?;
        }
        write!(f, "; {remedy}")
    }
}

impl std::error::Error for StoreError {}
