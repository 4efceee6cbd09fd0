//! Creating, copying and dropping the databases of a cluster.

use super::{Cluster, EmbeddedError};
#[expect(
    clippy::disallowed_types,
    reason = "the name of a database cannot be a bind parameter; `DatabaseName` is [a-z0-9_]{1,63}"
)]
use sqlx::AssertSqlSafe;
use sqlx::{ConnectOptions, Connection, Executor};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a start waits for the first connection, and between two attempts.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// The name of a database: 1 to 63 of `a-z`, `0-9` and `_`.
///
/// ```
/// # use portcullis::store::embedded::DatabaseName;
/// assert!("app_1".parse::<DatabaseName>().is_ok());
/// assert!("app\"; drop database x".parse::<DatabaseName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseName(String);

impl DatabaseName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseName {
    type Err = EmbeddedError;

    fn from_str(name: &str) -> Result<Self, EmbeddedError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
            return Ok(Self(name.to_owned()));
        }
        Err(EmbeddedError::DatabaseName)
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Cluster {
    /// Creates an empty database.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Statement`], with SQLSTATE `42P04` if there is one of that name.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may have created the database.
    pub async fn create_database(&self, name: &DatabaseName) -> Result<(), EmbeddedError> {
        let sql = format!(r#"create database "{name}""#);
        self.run("creating a database", sql).await
    }

    /// Creates an empty database unless there is one of that name.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Statement`] if it could not be created.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may have created the database. Calling it again is
    /// harmless.
    pub async fn ensure_database(&self, name: &DatabaseName) -> Result<(), EmbeddedError> {
        match self.create_database(name).await {
            Err(EmbeddedError::Statement {
                sqlstate: Some(code),
                ..
            }) if code == "42P04" => Ok(()),
            answer => answer,
        }
    }

    /// Creates the database `name` as a copy of `template`, which nobody may be connected to.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Statement`], with SQLSTATE `42P04` if there is one of that name, `3D000`
    /// if there is no such template, `55006` if the template is in use.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may have created the database.
    pub async fn clone_database(
        &self,
        template: &DatabaseName,
        name: &DatabaseName,
    ) -> Result<(), EmbeddedError> {
        let sql = format!(r#"create database "{name}" template "{template}""#);
        self.run("copying a database", sql).await
    }

    /// Drops a database and ends its connections. Does nothing if there is none of that name.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Statement`] if it could not be dropped.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may have dropped the database. Calling it again is
    /// harmless.
    pub async fn drop_database(&self, name: &DatabaseName) -> Result<(), EmbeddedError> {
        let sql = format!(r#"drop database if exists "{name}" with (force)"#);
        self.run("dropping a database", sql).await
    }

    /// Connects and leaves again, to see that this process may.
    //
    // The owner we attached to may have been about to stop. Our thread then takes over, and until
    // it has, there is no answer.
    pub(super) async fn check(&self) -> Result<(), EmbeddedError> {
        let doing = "connecting to the embedded postgres";
        let connected = async {
            loop {
                match self.options("postgres").connect().await {
                    Ok(connection) => return connection.close().await,
                    Err(error) if may_pass(&error) => tokio::time::sleep(PAUSE).await,
                    Err(error) => return Err(error),
                }
            }
        };
        match tokio::time::timeout(PATIENCE, connected).await {
            Ok(result) => result.map_err(|error| EmbeddedError::statement(doing, &error)),
            Err(_) => Err(EmbeddedError::NotReady {
                log: self.shared.layout.log.clone(),
            }),
        }
    }

    /// Runs `sql`, in which every name is a [`DatabaseName`], on a connection of its own.
    async fn run(&self, doing: &'static str, sql: String) -> Result<(), EmbeddedError> {
        let result = async {
            let mut connection = self.options("postgres").connect().await?;
            connection.execute(AssertSqlSafe(sql)).await?;
            connection.close().await
        };
        result
            .await
            .map_err(|error| EmbeddedError::statement(doing, &error))
    }
}

/// Whether the server may only be starting or stopping.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::PermissionDenied,
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P03"))
        }
        _ => false,
    }
}
