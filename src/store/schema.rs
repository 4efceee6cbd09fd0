//! Which schema this crate needs, and whether the database has it.

use sqlx::PgPool;

use super::migrate::MIGRATIONS;
use super::{StoreError, StoreFault};
use crate::error::ErrorKind;

/// The newest schema that this crate knows.
pub(crate) fn newest() -> i32 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}

/// Refuses a schema that is too old for this crate, or that no longer serves it.
pub(crate) async fn check(pool: &PgPool) -> Result<(), SchemaError> {
    let read = read_version(pool)
        .await
        .map_err(StoreError::during("read the schema version"));
    let (version, oldest_compatible) = match read {
        Ok(Some(found)) => found,
        Ok(None) => return Err(SchemaError::Missing),
        Err(error) if error.fault() == StoreFault::NotMigrated => return Err(SchemaError::Missing),
        Err(error) => return Err(error.into()),
    };
    let needed = newest();
    if version < needed {
        return Err(SchemaError::TooOld {
            found: version,
            needed,
        });
    }
    // A newer schema serves older programs for as long as it says so: rolling deploys work.
    if oldest_compatible > needed {
        return Err(SchemaError::TooNew {
            found: version,
            oldest_compatible,
            known: needed,
        });
    }
    Ok(())
}

// In a transaction and unnamed, here and below: a pooler may stand in between.
async fn read_version(pool: &PgPool) -> Result<Option<(i32, i32)>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let read = sqlx::query_as(
        "SELECT version, oldest_compatible
           FROM portcullis.schema_migrations
          ORDER BY version DESC
          LIMIT 1",
    )
    .persistent(false)
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(read)
}

async fn read_encoding(pool: &PgPool) -> Result<String, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let encoding = sqlx::query_scalar("SELECT current_setting('server_encoding')")
        .persistent(false)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(encoding)
}

/// Refuses a database that cannot hold what we write.
pub(crate) async fn check_encoding(pool: &PgPool) -> Result<(), SchemaError> {
    let encoding = read_encoding(pool)
        .await
        .map_err(StoreError::during("read the server's encoding"))?;
    if encoding == "UTF8" {
        Ok(())
    } else {
        Err(SchemaError::Encoding)
    }
}

/// Why a database cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// There is no schema.
    #[error(
        "the schema `portcullis` does not exist; run Database::migrate, as a role that may create it"
    )]
    Missing,
    /// The schema is older than this crate.
    #[error(
        "the schema `portcullis` has version {found} and this program needs {needed}; run Database::migrate of this version first"
    )]
    TooOld {
        /// The version of the schema.
        found: i32,
        /// The version that this crate needs.
        needed: i32,
    },
    /// The schema no longer serves a program as old as this one.
    #[error(
        "the schema `portcullis` has version {found}, which serves programs of schema {oldest_compatible} and later; this one knows {known}; update the program"
    )]
    TooNew {
        /// The version of the schema.
        found: i32,
        /// The oldest version that it serves.
        oldest_compatible: i32,
        /// The version that this crate knows.
        known: i32,
    },
    /// The database is not in UTF-8.
    #[error("the database's encoding is not UTF8; create it with ENCODING 'UTF8'")]
    Encoding,
    /// It could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SchemaError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing | Self::TooOld { .. } | Self::TooNew { .. } | Self::Encoding => {
                ErrorKind::Misuse
            }
            Self::Store(error) => error.kind(),
        }
    }
}
