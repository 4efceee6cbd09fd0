//! The scope gate against a real Postgres.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use portcullis::audit::AuditKeys;
use portcullis::scope::{Scope, ScopeError, ScopePolicy};
use portcullis::store::{Database, StoreFault, TestDatabase};
use portcullis::{AgentId, ErrorKind, Principal, Secret, TenantId};

use crate::reload::edit;

async fn open_for(database: &Database, tenant: &str) -> Scope {
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let tenant = TenantId::parse(tenant).unwrap();
    Scope::open(database, keys, tenant).await.unwrap()
}

async fn open(test: &TestDatabase) -> Scope {
    open_for(&test.database(), "default").await
}

fn id(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn who(name: &str) -> Principal {
    Principal::agent(id(name))
}

fn policy(agent: &str, tools: &[&str]) -> ScopePolicy {
    ScopePolicy::new(id(agent)).allow_tools(tools).unwrap()
}

async fn execute(test: &TestDatabase, sql: &'static str) -> u64 {
    let pool = test.database().connect_pool().await.unwrap();
    sqlx::query(sql)
        .execute(&pool)
        .await
        .unwrap()
        .rows_affected()
}

#[tokio::test]
async fn what_one_handle_registers_another_one_loads() {
    let test = TestDatabase::fresh().await.unwrap();
    let first = open(&test).await;
    let whole = policy("a", &["read_invoice", "fs.*"])
        .hide_tools(["fs.rm"])
        .unwrap()
        .allow_apis(["https://api.example.com/*"])
        .unwrap()
        .allow_models(["gpt-4o-*"])
        .unwrap();
    first.register(whole.clone()).await.unwrap();

    let second = open(&test).await;
    for scope in [&first, &second] {
        let me = who("a");
        scope.check(&me, "read_invoice").await.unwrap();
        scope.check(&me, "fs.read").await.unwrap();
        scope
            .check_api(&me, "https://api.example.com/v1")
            .await
            .unwrap();
        scope.check_model(&me, "gpt-4o-mini").await.unwrap();
        assert_eq!(scope.check(&me, "fs.rm").await, Err(ScopeError::ToolDenied));
        assert_eq!(scope.check(&me, "shell").await, Err(ScopeError::ToolDenied));
        let elsewhere = scope
            .check_api(&me, "https://api.example.com.evil.test/")
            .await;
        assert_eq!(elsewhere, Err(ScopeError::ApiDenied));
        assert_eq!(
            scope.check_model(&me, "gpt-5").await,
            Err(ScopeError::ModelDenied)
        );
        assert_eq!(
            scope.policies().await.unwrap(),
            std::slice::from_ref(&whole)
        );
        assert_eq!(scope.status().agents, 1);
        assert!(scope.status().loaded_at.is_some());
    }
}

#[tokio::test]
async fn an_unknown_agent_is_denied_everything() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    scope.register(policy("a", &["x"])).await.unwrap();
    let stranger = who("b");
    for refused in [
        scope.check(&stranger, "x").await,
        scope.check_model(&stranger, "x").await,
        scope.check_api(&stranger, "https://x.test/").await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error, ScopeError::UnknownAgent);
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    assert!(scope.filter_tools(&stranger, vec!["x"]).is_empty());
}

#[tokio::test]
async fn a_policy_is_replaced_as_a_whole_and_removed() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    let me = who("a");
    scope.register(policy("a", &["x"])).await.unwrap();
    scope.register(policy("a", &["y"])).await.unwrap();
    assert!(scope.check(&me, "x").await.is_err());
    scope.check(&me, "y").await.unwrap();

    assert!(scope.remove(&id("a")).await.unwrap());
    assert_eq!(scope.check(&me, "y").await, Err(ScopeError::UnknownAgent));
    assert!(!scope.remove(&id("a")).await.unwrap());
    assert!(scope.policies().await.unwrap().is_empty());
    assert_eq!(open(&test).await.status().agents, 0);
}

#[tokio::test]
async fn a_reload_sees_what_another_program_changed() {
    let test = TestDatabase::fresh().await.unwrap();
    let (here, there) = (open(&test).await, open(&test).await);
    there
        .register_all([policy("a", &["x"]), policy("b", &["x"])])
        .await
        .unwrap();
    here.reload().await.unwrap();
    here.check(&who("a"), "x").await.unwrap();
    there.remove(&id("a")).await.unwrap();
    here.reload().await.unwrap();
    assert!(here.check(&who("a"), "x").await.is_err());
    here.check(&who("b"), "x").await.unwrap();
}

#[tokio::test]
async fn a_tenant_has_policies_of_its_own() {
    let test = TestDatabase::fresh().await.unwrap();
    let one = open_for(&test.database(), "one").await;
    one.register(policy("a", &["x"])).await.unwrap();
    let two = open_for(&test.database(), "two").await;
    assert_eq!(
        two.check(&who("a"), "x").await,
        Err(ScopeError::UnknownAgent)
    );
    assert!(!two.remove(&id("a")).await.unwrap());
    one.reload().await.unwrap();
    one.check(&who("a"), "x").await.unwrap();
}

#[tokio::test]
async fn f03_a_broken_policy_denies_its_agent_loudly_and_no_other() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    let all = ["a", "b", "c", "d"].map(|agent| policy(agent, &["x"]));
    scope.register_all(all).await.unwrap();
    // By one who has not seen a good version.
    edit(&test, "b", "\"tools\"", "\"typo\":1,\"tools\"").await;
    edit(&test, "c", "\"agent\":\"c\"", "\"agent\":\"d\"").await;
    let scope = open(&test).await;

    scope.reload().await.unwrap();
    for scope in [scope, open(&test).await] {
        assert_eq!(scope.status().broken, [id("b"), id("c")]);
        for (agent, fine) in [("a", true), ("b", false), ("c", false), ("d", true)] {
            let answer = scope.check(&who(agent), "x").await;
            assert_eq!(answer.is_ok(), fine, "{agent}");
            assert!(fine || answer.unwrap_err().kind() == ErrorKind::Integrity);
        }
        assert_eq!(scope.policies().await.unwrap().len(), 2);
    }
    // The remedy that the error names.
    let scope = open(&test).await;
    scope.register(policy("b", &["x"])).await.unwrap();
    scope.check(&who("b"), "x").await.unwrap();
    assert_eq!(scope.status().broken, [id("c")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_agents_are_registered_at_once() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    let name = |i: usize| format!("agent-{i}");
    let tool = |i: usize| format!("tool_{}", i % 7);
    let all = (0..10_000).map(|i| policy(&name(i), &[&tool(i)]));
    scope.register_all(all).await.unwrap();
    // Twice in one call: the later one counts.
    let twice = [policy("agent-0", &["x"]), policy("agent-0", &["y"])];
    scope.register_all(twice).await.unwrap();

    let loaded = open(&test).await;
    for scope in [&scope, &loaded] {
        assert_eq!(scope.status().agents, 10_000);
        scope.check(&who("agent-0"), "y").await.unwrap();
        assert!(scope.check(&who("agent-0"), "x").await.is_err());
        for i in 1..10_000 {
            let me = who(&name(i));
            assert!(scope.check(&me, tool(i)).await.is_ok(), "{i}");
            assert!(scope.check(&me, tool(i + 1)).await.is_err(), "{i}");
        }
    }
    assert_eq!(loaded.policies().await.unwrap().len(), 10_000);
}

#[tokio::test]
async fn all_policies_of_a_call_are_registered_or_none() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    scope.register(policy("old", &["x"])).await.unwrap();
    let trap = "ALTER TABLE portcullis.policies ADD CHECK (name <> 'z')";
    execute(&test, trap).await;
    // More than one statement's worth, so that the first ones had been written already.
    let mut all: Vec<_> = (0..1_500)
        .map(|i| policy(&format!("agent-{i}"), &["x"]))
        .collect();
    all.push(policy("old", &["y"]));
    all.push(policy("z", &["x"]));
    let error = scope.register_all(all).await.unwrap_err();
    assert!(matches!(&error, ScopeError::Store(e) if e.fault() == StoreFault::Constraint));
    for scope in [scope, open(&test).await] {
        assert_eq!(scope.status().agents, 1);
        scope.check(&who("old"), "x").await.unwrap();
        assert!(scope.check(&who("old"), "y").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn checks_see_the_old_policy_or_the_new_one_while_others_are_registered() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    scope.register(policy("steady", &["x"])).await.unwrap();
    scope
        .register(policy("turning", &["always", "odd"]))
        .await
        .unwrap();
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let checkers: Vec<_> = (0..3)
        .map(|_| {
            let (scope, done) = (scope.clone(), done.clone());
            tokio::spawn(async move {
                let (steady, turning) = (who("steady"), who("turning"));
                while !done.load(Ordering::Relaxed) {
                    scope.check(&steady, "x").await.unwrap();
                    scope.check(&turning, "always").await.unwrap();
                    assert!(scope.check(&turning, "never").await.is_err());
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for round in 0..15 {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let scope = scope.clone();
                let turn = format!("turn_{writer}");
                let mine = policy(&format!("w{writer}-{round}"), &["x"]);
                let both = [policy("turning", &["always", &turn]), mine];
                tokio::spawn(async move { scope.register_all(both).await.unwrap() })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        // What is in force is what is stored.
        let stored = scope.policies().await.unwrap();
        assert_eq!(scope.status().agents, stored.len());
        let turning = stored.iter().find(|p| *p.agent() == id("turning")).unwrap();
        for tool in turning.tools() {
            scope.check(&who("turning"), tool).await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    for checker in checkers {
        checker.await.unwrap();
    }
    assert_eq!(scope.status().agents, 62);
}

#[tokio::test]
async fn an_abandoned_registration_is_finished() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    let mut abandoned = Box::pin(scope.register(policy("a", &["x"])));
    let begun = abandoned
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(begun.is_pending());
    drop(abandoned);
    // Registrations are done one after the other.
    scope.register(policy("b", &["x"])).await.unwrap();
    scope.check(&who("a"), "x").await.unwrap();
    assert_eq!(open(&test).await.status().agents, 2);
}

#[tokio::test]
async fn without_the_database_what_was_loaded_stays_in_force() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    scope.register(policy("a", &["x"])).await.unwrap();
    execute(&test, "ALTER TABLE portcullis.policies RENAME TO away").await;
    assert!(scope.register(policy("a", &["y"])).await.is_err());
    assert!(scope.remove(&id("a")).await.is_err());
    assert!(scope.reload().await.is_err());
    scope.check(&who("a"), "x").await.unwrap();
    assert!(scope.check(&who("a"), "y").await.is_err());
}

#[tokio::test]
async fn a_schema_without_the_table_cannot_be_opened() {
    let test = TestDatabase::fresh().await.unwrap();
    execute(&test, "DROP TABLE portcullis.policies").await;
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let error = Scope::open(&test.database(), keys, TenantId::single())
        .await
        .unwrap_err();
    assert!(matches!(&error, ScopeError::Store(e) if e.fault() == StoreFault::NotMigrated));
    assert!(error.to_string().contains("run the migrations"));
}

#[tokio::test]
async fn tools_are_filtered_in_every_shape_and_what_has_no_name_goes() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    let hiding = policy("a", &["read", "fs.*"])
        .hide_tools(["fs.rm"])
        .unwrap();
    scope.register(hiding).await.unwrap();
    let me = who("a");
    let names = vec!["fs.rm", "read", "shell", "", "fs.ls", "FS.ls"];
    assert_eq!(scope.filter_tools(&me, names.clone()), ["read", "fs.ls"]);
    let owned = names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(scope.filter_tools(&me, owned), ["read", "fs.ls"]);
    let openai = |name: &str| serde_json::json!({"type": "function", "function": {"name": name}});
    let plain = |name: &str| serde_json::json!({"name": name, "input_schema": {}});
    let described = vec![
        openai("fs.rm"),
        openai("read"),
        plain("shell"),
        plain("fs.ls"),
        serde_json::json!({"type": "web_search"}),
    ];
    let left = scope.filter_tools(&me, described);
    assert_eq!(left, [openai("read"), plain("fs.ls")]);
    // What the model is shown is what it may call.
    for name in names {
        let shown = scope.filter_tools(&me, vec![name]).len() == 1;
        assert_eq!(scope.check(&me, name).await.is_ok(), shown, "{name}");
    }
}

#[tokio::test]
async fn an_allowed_check_allocates_nothing_and_never_waits() {
    let test = TestDatabase::fresh().await.unwrap();
    let scope = open(&test).await;
    let many = (0..1_000).map(|i| format!("tool_{i}"));
    let whole = policy("a", &["read", "fs.*"])
        .allow_tools(many)
        .unwrap()
        .hide_tools(["fs.rm"])
        .unwrap()
        .allow_apis(["https://api.example.com/v1/*"])
        .unwrap()
        .allow_models(["gpt-4o-*"])
        .unwrap();
    scope.register(whole).await.unwrap();
    let me = who("a");
    let all = || {
        for tool in ["read", "fs.read", "tool_999"] {
            assert!(at_once(scope.check(&me, tool)).is_ok());
        }
        let url = "HTTPS://API.example.com/v1/x?y";
        assert!(at_once(scope.check_api(&me, url)).is_ok());
        assert!(at_once(scope.check_model(&me, "gpt-4o-mini")).is_ok());
    };
    // A thread's first look at a shared table registers the thread.
    all();
    let counted = allocation_counter::measure(all);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

/// What `future` answers the first time it is asked.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}
