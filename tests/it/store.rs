//! The ground against a real Postgres: migrations, versions, grants, health, errors.

use std::time::Duration;

use portcullis::Database;
use portcullis::store::{MigrateError, Migration, SchemaError, TestDatabase};
use sqlx::Executor;

use crate::common::{bare_database, connect};

/// How many steps there are: the schema's version once all are applied.
fn newest() -> i32 {
    let files = std::fs::read_dir("migrations").unwrap();
    let steps = files.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("00")
    });
    i32::try_from(steps.count()).unwrap()
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let again = test.database().migrate().await.unwrap();
    assert!(again.applied.is_empty());
    assert_eq!(again.version, newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_migrate_at_once() {
    let bare = bare_database().await;
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            // A pool of its own each: nothing is shared but the database.
            let database = Database::options(bare.options());
            tokio::spawn(async move { database.migrate().await })
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        applied += task
            .await
            .unwrap()
            .expect("every one succeeds")
            .applied
            .len();
    }
    assert_eq!(
        applied,
        usize::try_from(newest()).unwrap(),
        "each step was applied once"
    );
}

#[tokio::test]
async fn a_foreign_schema_is_left_alone() {
    let bare = bare_database().await;
    let mut admin = connect(&bare.options()).await;
    admin
        .execute("CREATE SCHEMA portcullis; CREATE TABLE portcullis.theirs ()")
        .await
        .unwrap();
    let refused = bare.database().migrate().await.unwrap_err();
    assert!(matches!(refused, MigrateError::ForeignSchema), "{refused}");
    admin
        .execute("SELECT FROM portcullis.theirs")
        .await
        .unwrap();

    // An empty schema is one that an administrator has prepared.
    let bare = bare_database().await;
    connect(&bare.options())
        .await
        .execute("CREATE SCHEMA portcullis")
        .await
        .unwrap();
    bare.database().migrate().await.unwrap();
}

#[tokio::test]
async fn an_edited_migration_is_refused() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute("UPDATE portcullis.schema_migrations SET checksum = sha256('x') WHERE version = 1")
        .await
        .unwrap();
    let refused = test.database().migrate().await.unwrap_err();
    assert!(
        matches!(refused, MigrateError::Changed { name: "0001_audit" }),
        "{refused}"
    );
}

#[tokio::test]
async fn uninstalling_leaves_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute(include_str!("../../src/manual/uninstall.sql"))
        .await
        .unwrap();
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert_eq!(left, 0);
    test.database().migrate().await.unwrap();
}

#[tokio::test]
async fn the_application_role_can_append_and_not_change() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    let role = format!("app \"{}", test.name());
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    admin
        .execute(sqlx::AssertSqlSafe(format!("CREATE ROLE {quoted}")))
        .await
        .unwrap();
    let database = test.database();
    Migration::new(&database)
        .app_role(&role)
        .run()
        .await
        .unwrap();
    Migration::new(&database)
        .app_role(&role)
        .run()
        .await
        .unwrap();

    admin
        .execute(sqlx::AssertSqlSafe(format!("SET ROLE {quoted}")))
        .await
        .unwrap();
    for forbidden in [
        "UPDATE portcullis.entries SET kind = 'x'",
        "DELETE FROM portcullis.entries",
        "TRUNCATE portcullis.entries",
        "DELETE FROM portcullis.chains",
        "TRUNCATE portcullis.chains",
        "ALTER TABLE portcullis.entries DISABLE TRIGGER ALL",
        "DROP TABLE portcullis.entries",
        "UPDATE portcullis.outbox SET kind = 'x'",
        "TRUNCATE portcullis.outbox",
        "UPDATE portcullis.schema_migrations SET version = 9",
    ] {
        let refused = admin.execute(forbidden).await.unwrap_err();
        let code = refused
            .as_database_error()
            .and_then(|e| e.code().map(|c| c.to_string()));
        assert_eq!(code.as_deref(), Some("42501"), "{forbidden}");
    }
    for allowed in [
        "SELECT FROM portcullis.entries",
        "SELECT FROM portcullis.budgets",
        "SELECT FROM portcullis.policies",
        "SELECT FROM portcullis.schema_migrations",
    ] {
        admin
            .execute(allowed)
            .await
            .unwrap_or_else(|e| panic!("{allowed}: {e}"));
    }
    admin.execute("RESET ROLE").await.unwrap();
    admin
        .execute(sqlx::AssertSqlSafe(format!(
            "DROP OWNED BY {quoted}; DROP ROLE {quoted}"
        )))
        .await
        .unwrap();
}

#[tokio::test]
async fn f22_the_owner_is_stopped_by_triggers() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut owner = connect(&test.options()).await;
    for forbidden in [
        "TRUNCATE portcullis.entries",
        "TRUNCATE portcullis.chains",
        "TRUNCATE portcullis.entries CASCADE",
    ] {
        let refused = owner.execute(forbidden).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn an_unreachable_database_says_so_and_tells_no_secret() {
    let database = Database::url("postgres://app:hunter2@127.0.0.1:1/secret_db")
        .acquire_timeout(Duration::from_millis(300));
    let error = database.migrate().await.unwrap_err();
    for text in [
        error.to_string(),
        format!("{error:?}"),
        format!("{database:?}"),
    ] {
        assert!(
            !text.contains("hunter2") && !text.contains("secret_db"),
            "{text}"
        );
    }
    let error = Database::url("not a url hunter2")
        .migrate()
        .await
        .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_missing_schema_says_what_to_run() {
    let bare = bare_database().await;
    let error = crate::common::governance(&bare.database())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("Database::migrate"), "{error}");
}

#[tokio::test]
async fn f02_a_schema_of_another_version_is_refused_and_a_compatible_newer_one_is_not() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;

    // A newer schema that still serves us: a rolling deploy goes on.
    sqlx::query("INSERT INTO portcullis.schema_migrations VALUES (99, 'later', sha256('x'), $1)")
        .bind(newest())
        .execute(&mut admin)
        .await
        .unwrap();
    crate::common::governance(&test.database())
        .await
        .unwrap()
        .shutdown()
        .await;

    // A newer one that does not.
    admin
        .execute(
            "UPDATE portcullis.schema_migrations SET oldest_compatible = 99 WHERE version = 99",
        )
        .await
        .unwrap();
    let error = crate::common::governance(&test.database())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("update the program"), "{error}");
    let error = test.database().migrate().await.unwrap_err();
    assert!(
        matches!(error, MigrateError::Schema(SchemaError::TooNew { .. })),
        "{error}"
    );

    // One that lacks a step.
    sqlx::query("DELETE FROM portcullis.schema_migrations WHERE version IN ($1, 99)")
        .bind(newest())
        .execute(&mut admin)
        .await
        .unwrap();
    let error = crate::common::governance(&test.database())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("run Database::migrate"),
        "{error}"
    );
}

#[tokio::test]
async fn f01_health_proves_tables_triggers_grants_and_the_clock() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = crate::common::governance(&test.database()).await.unwrap();
    let health = gov.health().await;
    let checks = &health.store.as_ref().unwrap().checks;
    for name in ["schema", "tables", "triggers", "functions", "clock"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert!(check.ok, "{name}: {}", check.detail);
    }
    // The test's role owns everything, and health says that this is too much.
    assert!(
        !checks
            .iter()
            .find(|check| check.name == "grants")
            .unwrap()
            .ok
    );

    let mut admin = connect(&test.options()).await;
    for (harm, name) in [
        (
            "ALTER TABLE portcullis.entries DISABLE TRIGGER entries_no_truncate",
            "triggers",
        ),
        ("DROP TABLE portcullis.policies CASCADE", "tables"),
    ] {
        admin.execute(harm).await.unwrap();
        let health = gov.health().await;
        let checks = &health.store.as_ref().unwrap().checks;
        assert!(
            !checks.iter().find(|check| check.name == name).unwrap().ok,
            "{harm}"
        );
    }
    gov.shutdown().await;
}
