//! Policies that other processes change, those that cannot be read, and those that are a program's
//! own.

use std::time::Duration;

use portcullis::scope::{Scope, ScopeError, ScopePolicy};
use portcullis::store::{Migration, StoreFault, TestDatabase};
use portcullis::{AgentId, Database, ErrorKind, Governance, TenantId};
use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{sleep, timeout};

use crate::common::{connect, governance, keys, principal, url};

const URL: &str = "PORTCULLIS_RELOAD_CHILD_URL";
/// How often all agents' policies are changed together.
const ROUNDS: usize = 60;
/// Far beyond what is promised: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn id(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn policy(agent: &str, tools: &[&str]) -> ScopePolicy {
    ScopePolicy::new(id(agent)).allow_tools(tools).unwrap()
}

async fn open(database: &Database) -> Scope {
    Scope::open(database, keys(), TenantId::single())
        .await
        .unwrap()
}

async fn allows(scope: &Scope, agent: &str, tool: &str) -> bool {
    scope.check(&principal(agent), tool).await.is_ok()
}

/// Waits until `agent` may, or may not, use `tool`.
async fn until(scope: &Scope, agent: &str, tool: &str, allowed: bool) {
    let wait = async {
        while allows(scope, agent, tool).await != allowed {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .expect("the change never came");
}

/// Waits until everything that is stored is in force here, broken or not.
async fn until_revision(scope: &Scope, revision: i64) {
    let wait = async {
        while scope.status().revision < revision {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .expect("the change never came");
}

/// Changes the stored text of one agent's policy by hand, as the manual says.
pub(crate) async fn edit(test: &TestDatabase, agent: &str, from: &str, to: &str) {
    let mut admin = connect(&test.options()).await;
    let mut tx = admin.begin().await.unwrap();
    tx.execute(
        "UPDATE portcullis.policy_revisions SET revision = revision + 1 WHERE module = 'scope'",
    )
    .await
    .unwrap();
    let done = sqlx::query(
        "UPDATE portcullis.policies p
            SET document = replace(p.document, $2, $3),
                version = p.version + 1,
                revision = r.revision
           FROM portcullis.policy_revisions r
          WHERE r.tenant_id = p.tenant_id AND r.module = p.module
            AND p.module = 'scope' AND p.name = $1",
    )
    .bind(agent)
    .bind(from)
    .bind(to)
    .execute(&mut *tx)
    .await
    .unwrap();
    assert_eq!(done.rows_affected(), 1);
    tx.commit().await.unwrap();
}

/// Not a test of its own: another process, with a pinned policy, which says what it sees.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let gov = Governance::builder(Database::url(url), keys())
        .pin_scope(policy("mine", &["x"]))
        .connect()
        .await
        .unwrap();
    let scope = gov.scope();
    let say = |what: &str| println!("\nsaid {what}");
    say("ready");
    until(scope, "a", "x", true).await;
    say("stored");
    until(scope, "a", "y", true).await;
    assert!(!allows(scope, "a", "x").await);
    say("replaced");
    until(scope, "a", "y", false).await;
    say("removed");
    scope.reload().await.unwrap();
    assert!(allows(scope, "mine", "x").await);
    assert_eq!(scope.status().pinned, [id("mine")]);
    scope.register(policy("b", &["x"])).await.unwrap();
    say("pinned still");
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_another_process_follows_what_is_stored_replaced_and_removed() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = open(&test.database()).await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["reload::child", "--exact", "--nocapture"])
        .env(URL, url(&test.options()))
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut hear = async |wanted: &str| {
        let wait = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.strip_prefix("said ") == Some(wanted) {
                    return true;
                }
            }
            false
        };
        assert!(timeout(PATIENCE, wait).await.unwrap(), "{wanted}");
    };
    hear("ready").await;
    // The other one's own policy is its own.
    assert!(!allows(&here, "mine", "x").await);
    here.register(policy("a", &["x"])).await.unwrap();
    hear("stored").await;
    here.register(policy("a", &["y"])).await.unwrap();
    hear("replaced").await;
    assert!(here.remove(&id("a")).await.unwrap());
    hear("removed").await;
    hear("pinned still").await;
    until(&here, "b", "x", true).await;
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn changes_are_found_where_nothing_can_be_heard() {
    let test = TestDatabase::fresh().await.unwrap();
    let writer = open(&test.database()).await;
    // As through a pooler that nobody can listen through.
    let deaf = open(&test.database().pooled()).await;
    writer.register(policy("a", &["x"])).await.unwrap();
    until(&deaf, "a", "x", true).await;
    assert!(!deaf.status().heard);
    deaf.register(policy("a", &["y"])).await.unwrap();
    until(&writer, "a", "y", true).await;
    writer.remove(&id("a")).await.unwrap();
    until(&deaf, "a", "y", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_registered_together_comes_into_force_together() {
    let test = TestDatabase::fresh().await.unwrap();
    let writer = open(&test.database()).await;
    let reader = open(&test.database()).await;
    // In all of the shards.
    let agents: Vec<String> = (0..300).map(|i| format!("agent-{i}")).collect();
    let names: Vec<String> = (0..=ROUNDS).map(|round| format!("round_{round}")).collect();
    let looking = {
        let (agents, names) = (agents.clone(), names.clone());
        tokio::spawn(async move {
            let mut seen = 0;
            while seen < ROUNDS {
                // Whoever is first to have the next round: then everybody has it.
                let next = names[seen + 1].as_str();
                for agent in [&agents[0], &agents[150], &agents[299]] {
                    if allows(&reader, agent, next).await {
                        for other in &agents {
                            assert!(
                                allows(&reader, other, next).await,
                                "{agent} and not {other}"
                            );
                        }
                        seen += 1;
                        break;
                    }
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for round in 1..=ROUNDS {
        let tools: Vec<&str> = names[1..=round].iter().map(String::as_str).collect();
        let all = agents.iter().map(|agent| policy(agent, &tools));
        writer.register_all(all).await.unwrap();
    }
    timeout(PATIENCE, looking).await.unwrap().unwrap();
}

#[tokio::test]
async fn f46_what_is_stored_narrows_what_is_pinned_and_never_drops_or_widens_it() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = open(&test.database()).await;
    let there = open(&test.database()).await;
    here.pin(policy("a", &["x", "y"])).await.unwrap();
    here.reload().await.unwrap();
    for tool in ["x", "y"] {
        assert!(allows(&here, "a", tool).await);
        assert!(!allows(&there, "a", tool).await);
    }
    // Narrowed, by another process.
    there.register(policy("a", &["x", "z"])).await.unwrap();
    until(&here, "a", "y", false).await;
    assert!(allows(&here, "a", "x").await);
    assert!(!allows(&here, "a", "z").await);
    let me = principal("a");
    assert_eq!(here.filter_tools(&me, vec!["x", "y", "z"]), ["x"]);
    // Told apart.
    let status = here.status();
    assert_eq!((status.agents, status.pinned), (1, vec![id("a")]));
    assert_eq!(here.pinned(), [policy("a", &["x", "y"])]);
    assert_eq!(here.policies().await.unwrap(), [policy("a", &["x", "z"])]);
    // What is removed is what was stored.
    there.remove(&id("a")).await.unwrap();
    until(&here, "a", "y", true).await;
    here.reload().await.unwrap();
    assert!(allows(&here, "a", "x").await && !allows(&here, "a", "z").await);
    // A pin is replaced by the next one, and known to nobody else.
    here.pin(policy("a", &["w"])).await.unwrap();
    assert!(allows(&here, "a", "w").await && !allows(&here, "a", "x").await);
    there.reload().await.unwrap();
    assert_eq!(there.check(&me, "w").await, Err(ScopeError::UnknownAgent));
}

#[tokio::test]
async fn f46_a_broken_row_keeps_the_last_good_version_and_is_loud() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let scope = gov.scope();
    let all = ["a", "b"].map(|agent| policy(agent, &["x"]));
    scope.register_all(all).await.unwrap();
    assert!(gov.health().await.scope.is_ok());
    let before = gov.posture();
    assert!(before.missing().is_empty());

    edit(&test, "a", "\"tools\"", "\"typo\":1,\"tools\"").await;
    until_revision(scope, 2).await;
    for again in [false, true] {
        if again {
            scope.reload().await.unwrap();
        }
        assert!(allows(scope, "a", "x").await);
        let status = scope.status();
        assert_eq!((status.kept, status.broken), (vec![id("a")], vec![]));
    }
    let health = gov.health().await;
    assert!(!health.scope.is_ok() && !health.is_ok());
    let posture = gov.posture();
    assert!(posture.missing()[0].contains("cannot be read"));
    let hash = |posture: &portcullis::Posture| {
        let line = posture.of(portcullis::Gate::Scope).unwrap();
        line.loaded.clone().unwrap().hash
    };
    assert_ne!(hash(&before), hash(&posture));
    // A process that has never seen a good one denies, and says so; nothing else is touched.
    let late = open(&test.database()).await;
    let error = late.check(&principal("a"), "x").await.unwrap_err();
    assert_eq!(error, ScopeError::BrokenPolicy);
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert_eq!(late.status().broken, [id("a")]);
    assert!(allows(&late, "b", "x").await);
    // The remedy that the error names, for both.
    late.register(policy("a", &["x", "y"])).await.unwrap();
    until(scope, "a", "y", true).await;
    assert!(allows(&late, "a", "y").await);
    assert!(gov.health().await.scope.is_ok() && late.status().is_ok());
    // A broken one that is removed is gone, and its last good version with it.
    edit(&test, "a", "\"tools\"", "\"typo\":1,\"tools\"").await;
    until_revision(scope, 4).await;
    assert!(late.remove(&id("a")).await.unwrap());
    until(scope, "a", "x", false).await;
    assert!(scope.status().is_ok());
    gov.shutdown().await;
}

#[tokio::test]
async fn registering_the_same_again_changes_nothing_for_anybody() {
    let test = TestDatabase::fresh().await.unwrap();
    for _ in 0..3 {
        let scope = open(&test.database()).await;
        let all = ["a", "b"].map(|agent| policy(agent, &["x"]));
        scope.register_all(all).await.unwrap();
        assert!(allows(&scope, "a", "x").await);
        assert_eq!(scope.status().revision, 1);
    }
}

#[tokio::test]
async fn without_the_store_the_age_of_what_is_in_force_is_known() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.scope().register(policy("a", &["x"])).await.unwrap();
    let mut admin = connect(&test.options()).await;
    let away = "ALTER TABLE portcullis.policy_revisions RENAME TO away";
    admin.execute(away).await.unwrap();
    let wait = async {
        while !gov.scope().status().failing {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
    let status = gov.scope().status();
    assert!(!status.is_ok());
    assert!(allows(gov.scope(), "a", "x").await);
    let known = status.loaded_at.unwrap();
    let back = "ALTER TABLE portcullis.away RENAME TO policy_revisions";
    admin.execute(back).await.unwrap();
    let wait = async {
        while gov.scope().status().failing {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
    assert!(gov.scope().status().loaded_at.unwrap() > known);
    gov.shutdown().await;
}

/// The role that agents' programs have can be kept from changing what holds them.
#[tokio::test]
async fn f53_where_an_operator_has_a_role_the_application_cannot_edit_policies() {
    const APP: &str = "portcullis_test_reader";
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    let role = "DO $$ BEGIN CREATE ROLE portcullis_test_reader;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    admin.execute(role).await.unwrap();
    let database = test.database();
    let as_app = || Database::options(test.options().options([("role", APP)]));

    // One role for everything: the application registers its policies itself.
    Migration::new(&database).app_role(APP).run().await.unwrap();
    let own = open(&as_app()).await;
    own.register(policy("a", &["x"])).await.unwrap();

    let split = "SELECT set_config('portcullis.app_role', 'portcullis_test_reader', false),
                        set_config('portcullis.operator_role', 'somebody_else', false)";
    admin.execute(split).await.unwrap();
    admin
        .execute(include_str!("../../migrations/grants.sql"))
        .await
        .unwrap();
    let app = open(&as_app()).await;
    for refused in [
        app.register(policy("a", &["x", "shell"])).await,
        app.remove(&id("a")).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(&error, ScopeError::Store(e) if e.fault() == StoreFault::Forbidden));
    }
    assert!(allows(&app, "a", "x").await && !allows(&app, "a", "shell").await);
    // Nor by hand; and it still follows what the operator changes.
    let mut by_hand = connect(&test.options().options([("role", APP)])).await;
    for statement in [
        "UPDATE portcullis.policies SET document = '[]'",
        "UPDATE portcullis.policy_revisions SET revision = revision + 1",
        "DELETE FROM portcullis.policies",
        "DELETE FROM portcullis.policy_history",
        "INSERT INTO portcullis.policy_revisions (tenant_id, module, revision, changed_at) VALUES ('x', 'scope', 1, now())",
    ] {
        let refused = by_hand.execute(statement).await.unwrap_err();
        let code = refused
            .as_database_error()
            .and_then(|e| e.code().map(|c| c.to_string()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}");
    }
    let operator = open(&database).await;
    operator.register(policy("a", &["y"])).await.unwrap();
    until(&app, "a", "y", true).await;
}
