//! Who may remove entries, which, and what stops it: the trigger and the grants, as real roles meet
//! them.

use std::time::Duration;

use portcullis::audit::retention::{LegalHold, RetentionError, RetentionPolicy};
use portcullis::store::{MigrateError, Migration, TestDatabase};
use portcullis::{AgentId, EventId, SessionId, Timestamp};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::common::connect;
use crate::common::trail::writer;
use crate::retention::{APP, Aged, aged, as_role, me};

/// Everything that is marked, as a whole.
const ALL: &str = "DELETE FROM portcullis.entries e
                    USING portcullis.checkpoint_ranges r, portcullis.archive_ranges m
                    WHERE m.first_leaf = r.first_leaf
                      AND e.chain_no = r.chain_no AND e.seq >= r.from_seq AND e.seq < r.to_seq
                      AND e.kind <> ALL (portcullis.kept_kinds())";
/// The first range: what the agent anna did.
const ANNA: &str = "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq < 14 AND kind <> ALL (portcullis.kept_kinds())";
const AS_ARCHIVIST: &str = "SET LOCAL ROLE portcullis_test_archivist";

/// What a superuser does first, a removal, and why it is refused.
const REFUSED: [(&str, &str, &str); 19] = [
    (
        "",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 39",
        "of no range",
    ),
    ("", "DELETE FROM portcullis.entries", "append-only"),
    (
        "",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 14",
        "the last entry of a range stays",
    ),
    (
        "",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 2",
        "an entry of this kind stays",
    ),
    (
        "",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 5",
        "as a whole or not at all",
    ),
    (
        "",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq BETWEEN 4 AND 12",
        "as a whole or not at all",
    ),
    (
        "DELETE FROM portcullis.archive_ranges WHERE first_leaf = 0",
        ANNA,
        "of no range",
    ),
    (
        "DELETE FROM portcullis.checkpoints",
        ANNA,
        "under no checkpoint",
    ),
    (
        "DELETE FROM portcullis.entries WHERE kind = 'retention.purged'",
        ANNA,
        "not on record",
    ),
    (
        "UPDATE portcullis.entries SET kind = 'app.purged' WHERE kind = 'retention.purged'",
        ANNA,
        "not on record",
    ),
    (
        "DELETE FROM portcullis.archive_links WHERE seq = 14",
        ANNA,
        "the MAC before an entry that stays",
    ),
    (
        "UPDATE portcullis.entries SET occurred_at = now() - interval '1 month' WHERE chain_no = 1 AND seq = 5",
        ANNA,
        "younger than",
    ),
    (
        "UPDATE portcullis.entries SET recorded_at = now() - interval '5 months' WHERE chain_no = 1 AND seq = 5",
        ANNA,
        "younger than",
    ),
    (
        "INSERT INTO portcullis.retention_policies SELECT tenant_id, 99, 24, NULL, now(), event_id FROM portcullis.retention_policies LIMIT 1",
        ANNA,
        "younger than",
    ),
    (
        "ALTER TABLE portcullis.retention_policies DISABLE TRIGGER USER; DELETE FROM portcullis.retention_policies",
        ANNA,
        "younger than",
    ),
    (
        "DELETE FROM portcullis.retention_guards",
        ANNA,
        "no retention policy",
    ),
    // Half of it, in an order that hides it.
    (
        "",
        "WITH a AS (DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq IN (4, 5) RETURNING 1) SELECT count(*) FROM a",
        "as a whole",
    ),
    (
        "",
        "UPDATE portcullis.entries SET metadata = '{}' WHERE chain_no = 1 AND seq = 2",
        "permission denied",
    ),
    ("", "TRUNCATE portcullis.entries", "permission denied"),
];

async fn run(connection: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    let mut rows = 0;
    for statement in sql.split(';').filter(|part| !part.trim().is_empty()) {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        rows = sqlx::query(statement)
            .persistent(false)
            .execute(&mut *connection)
            .await?
            .rows_affected();
    }
    Ok(rows)
}

/// Why the database refused, and that it was for what the role may not do.
fn why(refused: &sqlx::Error, sql: &str) -> String {
    let refused = refused.as_database_error().expect(sql);
    assert_eq!(refused.code().as_deref(), Some("42501"), "{sql}: {refused}");
    refused.message().to_owned()
}

/// What removing comes to after `before`, which only a superuser can do; all of it is undone.
async fn attempt(aged: &Aged, before: &str, removal: &str) -> Result<u64, String> {
    let mut connection = connect(&aged.trail.test.options()).await;
    let mut tx = connection.begin().await.unwrap();
    run(&mut tx, before).await.expect(before);
    run(&mut tx, AS_ARCHIVIST).await.unwrap();
    let done = run(&mut tx, removal).await;
    tx.rollback().await.unwrap();
    done.map_err(|error| why(&error, removal))
}

#[tokio::test]
async fn the_archivist_removes_whole_ranges_that_are_marked_and_nothing_else() {
    let aged = aged().await;
    // Before anything is marked.
    let refused = attempt(&aged, "", ANNA).await.unwrap_err();
    assert!(
        refused.contains("of no range that was archived"),
        "{refused}"
    );
    aged.mark().await;
    assert_eq!(attempt(&aged, "", ALL).await, Ok(31));
    assert_eq!(attempt(&aged, "", ANNA).await, Ok(11));

    let off = "ALTER TABLE portcullis.entries DISABLE TRIGGER USER;
               ALTER TABLE portcullis.archive_links DISABLE TRIGGER USER;
               ALTER TABLE portcullis.archive_ranges DISABLE TRIGGER USER;
               ALTER TABLE portcullis.checkpoints DISABLE TRIGGER USER;";
    let on = ";ALTER TABLE portcullis.entries ENABLE TRIGGER USER";
    for (before, removal, expected) in REFUSED {
        let before = if before.is_empty() {
            String::new()
        } else {
            format!("{off}{before}{on}")
        };
        let refused = attempt(&aged, &before, removal).await;
        let refused = refused.expect_err(&format!("{before}\n{removal}"));
        assert!(refused.contains(expected), "{before}\n{removal}\n{refused}");
    }
    // The owner, too, for as long as he leaves the trigger alone.
    for (sql, expected) in [
        (
            "UPDATE portcullis.entries SET metadata = '{}'",
            "append-only",
        ),
        ("TRUNCATE portcullis.entries", "append-only"),
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 5",
            "append-only",
        ),
    ] {
        let refused = sqlx::query(sql)
            .execute(&aged.trail.pool)
            .await
            .unwrap_err();
        assert!(why(&refused, sql).contains(expected), "{sql}");
    }
    // Nobody's `=` but the server's decides, whatever the session's search path says.
    let evil = "CREATE SCHEMA evil;
                CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
                GRANT USAGE ON SCHEMA evil TO portcullis_test_archivist;
                SET LOCAL search_path = evil, pg_catalog;
                DELETE FROM portcullis.retention_guards";
    let refused = attempt(&aged, evil, ANNA).await.unwrap_err();
    assert!(refused.contains("no retention policy"), "{refused}");
}

#[tokio::test]
async fn a_legal_hold_stops_what_it_is_on_and_nothing_else() {
    let aged = aged().await;
    aged.mark().await;
    let session: String = sqlx::query_scalar(
        "SELECT session_id FROM portcullis.entries WHERE agent_id = 'anna' LIMIT 1",
    )
    .fetch_one(&aged.trail.pool)
    .await
    .unwrap();
    let of_session = format!(
        "session_id, agent_id) VALUES ('default', gen_random_uuid(), now(), '{session}', NULL)"
    );
    let of_both = format!(
        "session_id, agent_id) VALUES ('default', gen_random_uuid(), now(), '{session}', 'bert')"
    );
    for (hold, held) in [
        (
            "session_id) VALUES ('default', gen_random_uuid(), now(), NULL)",
            true,
        ),
        (of_session.as_str(), true),
        (
            "agent_id) VALUES ('default', gen_random_uuid(), now(), 'anna')",
            true,
        ),
        (
            "from_time) VALUES ('default', gen_random_uuid(), now(), now() - interval '500 days')",
            true,
        ),
        (
            "to_time) VALUES ('default', gen_random_uuid(), now(), now() - interval '390 days')",
            true,
        ),
        (
            "agent_id, from_time, to_time) VALUES ('default', gen_random_uuid(), now(), 'anna', now() - interval '500 days', now())",
            true,
        ),
        // All of it must fit.
        (of_both.as_str(), false),
        (
            "session_id) VALUES ('default', gen_random_uuid(), now(), 'another')",
            false,
        ),
        (
            "agent_id) VALUES ('default', gen_random_uuid(), now(), 'bert')",
            false,
        ),
        (
            "agent_id) VALUES ('default', gen_random_uuid(), now(), 'Anna')",
            false,
        ),
        (
            "from_time) VALUES ('default', gen_random_uuid(), now(), now() - interval '300 days')",
            false,
        ),
        (
            "to_time) VALUES ('default', gen_random_uuid(), now(), now() - interval '450 days')",
            false,
        ),
        // Another tenant's, and one that was released.
        (
            "agent_id) VALUES ('acme', gen_random_uuid(), now(), 'anna')",
            false,
        ),
        (
            "released_at, release_event) VALUES ('default', gen_random_uuid(), now(), now(), gen_random_uuid())",
            false,
        ),
    ] {
        let set = format!("INSERT INTO portcullis.legal_holds (tenant_id, hold_id, set_at, {hold}");
        let done = attempt(&aged, &set, ANNA).await;
        if held {
            let refused = done.expect_err(hold);
            assert!(refused.contains("under a legal hold"), "{hold}: {refused}");
        } else {
            assert_eq!(done, Ok(11), "{hold}");
        }
        // What is marked together goes together or not at all.
        let all = attempt(&aged, &set, ALL).await;
        assert!(
            all == Ok(31) || all.unwrap_err().contains("legal hold"),
            "{hold}"
        );
    }
}

#[tokio::test]
async fn what_is_held_stays_until_the_hold_is_released() {
    let aged = aged().await;
    let retention = aged.archivist.retention();
    let of_bert = LegalHold::everything().agent(AgentId::parse("bert").unwrap());
    let hold = retention
        .hold(of_bert, &me(), "incident 381")
        .await
        .unwrap();
    let report = aged.archive().await.unwrap();
    assert_eq!((report.held, report.removed), (1, 21));
    aged.assert_clean(21).await;
    let open = retention.holds().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].id(), open[0].agent().unwrap().as_str()),
        (hold, "bert")
    );
    retention.release(hold, &me(), "closed").await.unwrap();
    let again = retention.release(hold, &me(), "closed").await;
    assert_eq!(again, Err(RetentionError::NoHold { hold }));
    let report = aged.archive().await.unwrap();
    assert_eq!((report.held, report.removed), (0, 10));
    aged.assert_clean(31).await;
    // All of it is on record, by whom and why.
    let said: Vec<(String, Option<String>, String)> = sqlx::query_as(
        "SELECT kind, user_id, metadata FROM portcullis.entries
          WHERE kind LIKE 'legal_hold.%' ORDER BY kind DESC",
    )
    .fetch_all(&aged.trail.pool)
    .await
    .unwrap();
    assert_eq!(
        (said[0].0.as_str(), said[1].0.as_str()),
        ("legal_hold.set", "legal_hold.released")
    );
    assert!(
        said.iter()
            .all(|(_, user, _)| user.as_deref() == Some("u-17"))
    );
    assert!(said[0].2.contains("incident 381") && said[0].2.contains("bert"));

    let backwards = LegalHold::everything()
        .since(Timestamp::from_micros(2))
        .until(Timestamp::from_micros(2));
    for (hold, why) in [(backwards, "x"), (LegalHold::everything(), " ")] {
        let refused = retention.hold(hold, &me(), why).await;
        assert!(
            matches!(refused, Err(RetentionError::Field { .. })),
            "{refused:?}"
        );
    }
    let unknown = retention.release(EventId::new(), &me(), "x").await;
    assert!(matches!(unknown, Err(RetentionError::NoHold { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_set_before_a_removal_or_after_it_and_never_beside() {
    let aged = aged().await;
    aged.mark().await;
    let options = aged.trail.test.options();
    let (mut remover, mut holder) = (connect(&options).await, connect(&options).await);
    let everything = "INSERT INTO portcullis.legal_holds (tenant_id, hold_id, set_at)
                      VALUES ('default', gen_random_uuid(), now())";

    // A hold that is not committed yet is waited for, and stops the removal.
    let mut setting = holder.begin().await.unwrap();
    run(&mut setting, everything).await.unwrap();
    let removal = tokio::spawn(async move {
        let mut tx = remover.begin().await.unwrap();
        run(&mut tx, AS_ARCHIVIST).await.unwrap();
        let done = run(&mut tx, ALL).await;
        tx.rollback().await.unwrap();
        (done.map_err(|error| why(&error, ALL)), remover)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!removal.is_finished(), "it waits for the hold");
    setting.commit().await.unwrap();
    let (done, mut remover) = removal.await.unwrap();
    assert!(done.unwrap_err().contains("under a legal hold"));
    let hold = aged.archivist.retention().holds().await.unwrap()[0].id();

    // A removal whose snapshot is older than the hold does not overlook it.
    aged.archivist
        .retention()
        .release(hold, &me(), "x")
        .await
        .unwrap();
    let mut tx = remover.begin().await.unwrap();
    run(
        &mut tx,
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    )
    .await
    .unwrap();
    let hold = LegalHold::everything();
    let hold = aged
        .archivist
        .retention()
        .hold(hold, &me(), "x")
        .await
        .unwrap();
    run(&mut tx, AS_ARCHIVIST).await.unwrap();
    assert!(run(&mut tx, ALL).await.is_err());
    tx.rollback().await.unwrap();
    aged.archivist
        .retention()
        .release(hold, &me(), "x")
        .await
        .unwrap();

    // A removal that is under way is waited for; the hold then is on what is left.
    let mut tx = remover.begin().await.unwrap();
    run(&mut tx, AS_ARCHIVIST).await.unwrap();
    assert_eq!(run(&mut tx, ALL).await.unwrap(), 31);
    let retention = aged.archivist.retention();
    let setting = tokio::spawn(async move {
        let hold = LegalHold::everything().session(SessionId::parse("s").unwrap());
        retention.hold(hold, &me(), "x").await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!setting.is_finished(), "it waits for the removal");
    tx.commit().await.unwrap();
    setting.await.unwrap().unwrap();
    aged.assert_clean(31).await;
}

#[tokio::test]
async fn the_application_holds_and_neither_releases_nor_archives() {
    let aged = aged().await;
    let app = as_role(&aged.trail.test, APP);
    let audit = writer(&app).await;
    let retention = audit.retention();
    let hold = retention
        .hold(LegalHold::everything(), &me(), "incident")
        .await
        .unwrap();
    assert!(retention.policy().await.unwrap().is_some());
    assert_eq!(retention.holds().await.unwrap().len(), 1);
    let released = retention.release(hold, &me(), "x").await;
    assert!(
        matches!(released, Err(RetentionError::Store(_))),
        "{released:?}"
    );
    let year = RetentionPolicy::months(12).unwrap();
    let set = retention.set_policy(year, &me(), "x").await;
    assert!(matches!(set, Err(RetentionError::Store(_))), "{set:?}");
    aged.archivist
        .retention()
        .release(hold, &me(), "x")
        .await
        .unwrap();
    let archived = retention.archive(&aged.what()).await;
    assert!(
        matches!(archived, Err(RetentionError::Store(_))),
        "{archived:?}"
    );
    let pool: PgPool = app.connect_pool().await.unwrap();
    for sql in [
        "DELETE FROM portcullis.entries",
        "UPDATE portcullis.legal_holds SET released_at = now()",
        "DELETE FROM portcullis.legal_holds",
        "INSERT INTO portcullis.retention_policies (tenant_id, version, min_months, set_at, event_id) VALUES ('default', 9, 6, now(), gen_random_uuid())",
        "INSERT INTO portcullis.archive_ranges (tenant_id, first_leaf, archive_id) VALUES ('default', 0, gen_random_uuid())",
        "INSERT INTO portcullis.archive_links (tenant_id, chain_no, seq, previous_mac) VALUES ('default', 1, 2, sha256('x'))",
        "UPDATE portcullis.retention_guards SET changes = 0",
        "SELECT 1 FROM portcullis.retention_guards FOR UPDATE",
    ] {
        let refused = sqlx::query(sql).execute(&pool).await.unwrap_err();
        assert!(why(&refused, sql).contains("permission denied"), "{sql}");
    }
    // Nor can the archivist do what is the application's or nobody's.
    let mut tx = aged.trail.pool.begin().await.unwrap();
    for sql in [
        "DELETE FROM portcullis.legal_holds",
        "UPDATE portcullis.archives SET file_name = 'x'",
        "DELETE FROM portcullis.archive_ranges",
        "DELETE FROM portcullis.tree_tiles",
        "INSERT INTO portcullis.checkpoints (tenant_id, size, root, note, made_at) VALUES ('default', 9999, sha256('x'), '', now())",
        "UPDATE portcullis.policies SET version = 9",
    ] {
        let mut inner = tx.begin().await.unwrap();
        run(&mut inner, AS_ARCHIVIST).await.unwrap();
        let refused = run(&mut inner, sql).await.unwrap_err();
        assert!(why(&refused, sql).contains("permission denied"), "{sql}");
        inner.rollback().await.unwrap();
    }
    for sql in [
        "UPDATE portcullis.legal_holds SET agent_id = 'x'",
        "UPDATE portcullis.legal_holds SET released_at = NULL, release_event = NULL",
        "UPDATE portcullis.archives SET file_name = 'x'",
        "DELETE FROM portcullis.legal_holds",
        "UPDATE portcullis.retention_policies SET min_months = 6",
        "TRUNCATE portcullis.legal_holds",
        "TRUNCATE portcullis.archive_ranges",
    ] {
        let mut inner = tx.begin().await.unwrap();
        let done = run(&mut inner, sql).await;
        let rows = done.as_ref().copied().unwrap_or(1);
        assert!(done.is_err() || rows == 0, "{sql}");
        inner.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn f53_the_application_must_not_be_able_to_become_the_archivist() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut owner = connect(&test.options()).await;
    let roles = "DO $$ BEGIN CREATE ROLE portcullis_shared_app; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    sqlx::query(roles).execute(&mut owner).await.unwrap();
    let roles = "DO $$ BEGIN CREATE ROLE portcullis_shared_archivist; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    sqlx::query(roles).execute(&mut owner).await.unwrap();
    let database = test.database();
    let migrate = async |app: bool| {
        let mut migration = Migration::new(&database).archivist_role("portcullis_shared_archivist");
        if app {
            migration = migration.app_role("portcullis_shared_app");
        }
        migration.run().await
    };
    migrate(true).await.unwrap();
    run(
        &mut owner,
        "GRANT portcullis_shared_archivist TO portcullis_shared_app",
    )
    .await
    .unwrap();
    migrate(false).await.unwrap();
    let refused = migrate(true).await.unwrap_err();
    assert!(matches!(refused, MigrateError::SharedRole), "{refused}");
    // Also where the archivist is not named again.
    let alone = Migration::new(&database)
        .app_role("portcullis_shared_app")
        .run()
        .await;
    assert!(matches!(alone, Err(MigrateError::SharedRole)), "{alone:?}");
    // And where it is the same role.
    let same = Migration::new(&database)
        .app_role("portcullis_shared_archivist")
        .archivist_role("portcullis_shared_archivist");
    assert!(matches!(same.run().await, Err(MigrateError::SharedRole)));
    run(
        &mut owner,
        "REVOKE portcullis_shared_archivist FROM portcullis_shared_app",
    )
    .await
    .unwrap();
    migrate(true).await.unwrap();
}
