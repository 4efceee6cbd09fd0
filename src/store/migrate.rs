//! Creating and updating the schema `portcullis`.
//!
//! Forward only, one transaction, under a table lock. Our versions are kept in a table of our own,
//! never in the host's `_sqlx_migrations`: `sqlx`'s migrator has no notion of the oldest program
//! that a schema still serves, which rolling deploys need.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use super::{Database, DatabaseError, SchemaError, StoreError, StoreFault, schema};
use crate::error::ErrorKind;

/// One released step of the schema. Its text never changes: a test holds the checksums.
pub(crate) struct Step {
    pub(crate) version: i32,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
    /// The oldest program, by the newest schema it knows, that still works after this step.
    pub(crate) oldest_compatible: i32,
}

macro_rules! step {
    ($version:literal, $name:literal, oldest_compatible: $oldest:literal) => {
        Step {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $name, ".sql")),
            oldest_compatible: $oldest,
        }
    };
}

pub(crate) const MIGRATIONS: &[Step] = &[
    step!(1, "0001_audit", oldest_compatible: 1),
    step!(2, "0002_policies", oldest_compatible: 2),
    step!(3, "0003_cost", oldest_compatible: 3),
    step!(4, "0004_outbox", oldest_compatible: 4),
    step!(5, "0005_keyring", oldest_compatible: 5),
    step!(6, "0006_identity", oldest_compatible: 5),
    step!(7, "0007_checkpoints", oldest_compatible: 5),
    step!(8, "0008_anchors", oldest_compatible: 5),
    step!(9, "0009_retention", oldest_compatible: 5),
    step!(10, "0010_head_signatures", oldest_compatible: 5),
    step!(11, "0011_halt", oldest_compatible: 11),
    step!(12, "0012_presence", oldest_compatible: 11),
    step!(13, "0013_coverage", oldest_compatible: 11),
    step!(14, "0014_loops", oldest_compatible: 11),
    step!(15, "0015_approvals", oldest_compatible: 11),
    step!(16, "0016_budget_leases", oldest_compatible: 11),
    step!(17, "0017_new_entry", oldest_compatible: 11),
];

/// How often the very first statement is tried: `CREATE .. IF NOT EXISTS` by several processes at
/// once fails for all but one.
const BOOTSTRAP_ATTEMPTS: u32 = 50;

/// A migration to be run, and for whom.
#[derive(Debug)]
#[must_use = "a migration does nothing until it is run"]
pub struct Migration<'d> {
    database: &'d Database,
    app_role: Option<String>,
    archivist_role: Option<String>,
    operator_role: Option<String>,
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// The names of the steps that were applied now; empty if there was nothing to do.
    pub applied: Vec<&'static str>,
    /// The version that the schema has now.
    pub version: i32,
}

impl<'d> Migration<'d> {
    /// The migration of `database`, run by the role that its URL names.
    pub const fn new(database: &'d Database) -> Self {
        Self {
            database,
            app_role: None,
            archivist_role: None,
            operator_role: None,
        }
    }

    /// Also gives the application's role what it needs, and nothing more: it may append to the
    /// audit trail and read it, and can neither change nor delete an entry. As long as no
    /// [operator's role](Self::operator_role) is known, it registers policies and budgets and decides
    /// approvals, too; it never resumes what is halted. The role must exist.
    pub fn app_role(mut self, role: impl Into<String>) -> Self {
        self.app_role = Some(role.into());
        self
    }

    /// Also gives a role what archiving needs: to set the retention policy, to set and release legal
    /// holds, and to remove entries that were archived, which a trigger checks. The application must
    /// not be this role nor a member of it. The role must exist.
    pub fn archivist_role(mut self, role: impl Into<String>) -> Self {
        self.archivist_role = Some(role.into());
        self
    }

    /// Also gives a role what operators need: all that the application has, and to decide: to resume
    /// what is halted, to grant approvals and say who may, to register policies and budgets, to raise
    /// limits. From then on the application's roles may do none of it, those that were named before
    /// included, and those that a later migration names without saying who operates: that there are
    /// operators is remembered in `portcullis.roles`. An application's role must not be this role nor
    /// a member of it. The role must exist.
    pub fn operator_role(mut self, role: impl Into<String>) -> Self {
        self.operator_role = Some(role.into());
        self
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// * [`MigrateError::SharedRole`] if the application's role is, or may become, one that removes
    ///   entries or resumes what is halted.
    /// * [`MigrateError::ForeignSchema`] if there is a schema `portcullis` that is not ours.
    /// * [`MigrateError::Changed`] if a released step was edited.
    /// * [`MigrateError::Schema`] if the schema is newer than this program can serve.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is one transaction.
    pub async fn run(self) -> Result<Migrated, MigrateError> {
        let pool = self.database.connect_pool().await?;
        schema::check_encoding(&pool).await?;
        bootstrap(&pool).await?;

        let during = StoreError::during;
        let mut tx = pool.begin().await.map_err(during("begin the migration"))?;
        // Several processes come here at once; the first does the work, the others find it done.
        // A migration may outlast the limit that ordinary statements have.
        sqlx::query(
            "SELECT set_config('statement_timeout', '0', true),
                    set_config('idle_in_transaction_session_timeout', '5min', true)",
        )
        .persistent(false)
        .execute(&mut *tx)
        .await
        .map_err(during("lift the time limits"))?;
        sqlx::query("LOCK TABLE portcullis.schema_migrations IN EXCLUSIVE MODE")
            .persistent(false)
            .execute(&mut *tx)
            .await
            .map_err(during("lock the migrations"))?;
        let applied = apply_missing(&mut tx).await?;
        let app = self.app_role.as_deref();
        let (archivist, operator) = (
            self.archivist_role.as_deref(),
            self.operator_role.as_deref(),
        );
        grant(&mut tx, app, archivist, operator).await?;
        keep_apart(&mut tx, app).await?;
        tx.commit().await.map_err(during("commit the migration"))?;
        schema::check(&pool).await?;
        Ok(Migrated {
            applied,
            version: schema::newest(),
        })
    }
}

/// Makes the schema and its marker table together, so that a schema without the marker is never
/// ours.
async fn bootstrap(pool: &PgPool) -> Result<(), MigrateError> {
    let operation = "create the schema";
    for _ in 0..BOOTSTRAP_ATTEMPTS {
        match try_bootstrap(pool).await {
            Ok(Bootstrap::Ready) => return Ok(()),
            Ok(Bootstrap::Foreign) => return Err(MigrateError::ForeignSchema),
            Err(error) => {
                let error = StoreError::from_driver(operation, &error);
                // Somebody else is creating it at this moment: 23505 on the catalogue, or 42P06
                // and 42P07 (it exists now). Look again.
                let racing = matches!(
                    error.sqlstate(),
                    Some("23505" | "42P06" | "42P07" | "40P01")
                );
                if !racing {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Err(StoreError::new(operation, StoreFault::TimedOut).into())
}

enum Bootstrap {
    Ready,
    Foreign,
}

async fn try_bootstrap(pool: &PgPool) -> Result<Bootstrap, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let (marked, occupied): (bool, bool) = sqlx::query_as(
        "SELECT to_regclass('portcullis.schema_migrations') IS NOT NULL,
                EXISTS (SELECT 1
                          FROM pg_catalog.pg_class c
                          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = 'portcullis')",
    )
    .persistent(false)
    .fetch_one(&mut *tx)
    .await?;
    if marked {
        return Ok(Bootstrap::Ready);
    }
    if occupied {
        return Ok(Bootstrap::Foreign);
    }
    sqlx::raw_sql(
        "CREATE SCHEMA IF NOT EXISTS portcullis;
         CREATE TABLE portcullis.schema_migrations (
             version           integer     PRIMARY KEY CHECK (version > 0),
             name              text        NOT NULL,
             checksum          bytea       NOT NULL CHECK (length(checksum) = 32),
             oldest_compatible integer     NOT NULL,
             applied_at        timestamptz NOT NULL DEFAULT now()
         );
         COMMENT ON TABLE portcullis.schema_migrations IS 'marks this schema as made by the portcullis crate'",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Bootstrap::Ready)
}

async fn apply_missing(tx: &mut PgConnection) -> Result<Vec<&'static str>, MigrateError> {
    let known: Vec<(i32, Vec<u8>)> = sqlx::query_as(
        "SELECT version, checksum FROM portcullis.schema_migrations ORDER BY version",
    )
    .persistent(false)
    .fetch_all(&mut *tx)
    .await
    .map_err(StoreError::during("read the migrations"))?;

    let mut applied = Vec::new();
    for step in MIGRATIONS {
        let checksum = Sha256::digest(step.sql).to_vec();
        match known.iter().find(|(version, _)| *version == step.version) {
            Some((_, stored)) if *stored == checksum => continue,
            Some(_) => return Err(MigrateError::Changed { name: step.name }),
            None => {}
        }
        sqlx::raw_sql(step.sql)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::during("apply a migration"))?;
        sqlx::query(
            "INSERT INTO portcullis.schema_migrations (version, name, checksum, oldest_compatible)
             VALUES ($1, $2, $3, $4)",
        )
        .bind(step.version)
        .bind(step.name)
        .bind(checksum)
        .bind(step.oldest_compatible)
        .persistent(false)
        .execute(&mut *tx)
        .await
        .map_err(StoreError::during("record a migration"))?;
        tracing::info!(migration = step.name, "applied a migration");
        applied.push(step.name);
    }
    Ok(applied)
}

/// Gives the roles what the application, who archives and who operates need.
//
// A role's name cannot be a bind parameter of GRANT, so it goes through a setting into `format`,
// whose %I quotes it: the statement's own text stays static.
async fn grant(
    tx: &mut PgConnection,
    app: Option<&str>,
    archivist: Option<&str>,
    operator: Option<&str>,
) -> Result<(), MigrateError> {
    sqlx::query(
        "SELECT set_config('portcullis.app_role', coalesce($1, ''), true),
                set_config('portcullis.archivist_role', coalesce($2, ''), true),
                set_config('portcullis.operator_role', coalesce($3, ''), true)",
    )
    .bind(app)
    .bind(archivist)
    .bind(operator)
    .persistent(false)
    .execute(&mut *tx)
    .await
    .map_err(StoreError::during("name the roles"))?;
    sqlx::raw_sql(include_str!("../../migrations/grants.sql"))
        .execute(&mut *tx)
        .await
        .map_err(StoreError::during("grant to the roles"))?;
    Ok(())
}

/// Makes sure that none of the application's roles can become who removes entries, or who resumes what
/// is halted: whoever resumes, decides.
async fn keep_apart(tx: &mut PgConnection, app: Option<&str>) -> Result<(), MigrateError> {
    // A superuser may do anything whatever is granted; `health` says so.
    let shared: bool = sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT
               FROM pg_catalog.pg_roles app
               JOIN (VALUES ('portcullis.entries'::regclass, 'DELETE'),
                            ('portcullis.halt_resumptions'::regclass, 'INSERT')) AS kept (oid, privilege) ON true
               JOIN pg_catalog.pg_class c ON c.oid = kept.oid
              WHERE (app.rolname = $1
                     OR app.rolname IN (SELECT r.role_name FROM portcullis.roles r WHERE r.part = 'application'))
                AND NOT app.rolsuper
                -- The owner may do all of it; a program that is the owner itself has no roles.
                AND (app.oid <> c.relowner AND pg_has_role(app.oid, c.relowner, 'MEMBER')
                     OR EXISTS (SELECT
                                  FROM aclexplode(c.relacl) a
                                 WHERE a.privilege_type = kept.privilege AND a.grantee <> c.relowner
                                   AND (a.grantee = 0 OR pg_has_role(app.oid, a.grantee, 'MEMBER')))))",
    )
    .bind(app)
    .persistent(false)
    .fetch_one(&mut *tx)
    .await
    .map_err(StoreError::during("compare the roles"))?;
    if shared {
        return Err(MigrateError::SharedRole);
    }
    Ok(())
}

/// Why a migration was not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// There is a schema `portcullis` that this crate did not make.
    #[error(
        "there is a schema `portcullis` that this crate did not make; rename it, or use another database"
    )]
    ForeignSchema,
    /// A step that was applied is not the one in this program.
    #[error(
        "migration {name} in the database differs from the one in this program; use a released version"
    )]
    Changed {
        /// The step.
        name: &'static str,
    },
    /// The application's role may remove entries or resume what is halted, by itself or as a member of
    /// another role, be it the schema's owner.
    #[error(
        "the application role may become the one that removes archived entries, or that resumes what is halted, or the schema's owner; give the archivist and the operators roles of their own, and revoke the membership"
    )]
    SharedRole,
    /// The schema does not serve this program.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A statement failed. Nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MigrateError {
    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::ForeignSchema | Self::Changed { .. } | Self::SharedRole => ErrorKind::Misuse,
            Self::Schema(error) => error.kind(),
            Self::Database(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// Names this set of migrations, for the template of test databases.
#[cfg(feature = "embedded")]
pub(super) fn fingerprint() -> String {
    let mut hash = Sha256::new();
    for step in MIGRATIONS {
        hash.update(step.sql);
    }
    hex::encode(hash.finalize()).chars().take(16).collect()
}
