//! Contracts against a real Postgres.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::audit::{Entry, Evidence, JournalSettings, Query};
use portcullis::contracts::{Condition, Contract, ContractError, Ending, OnBroken, Promise};
use portcullis::cost::Budget;
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Call, Ceiling, Database, ErrorKind, Governance, Principal, Usd};
use serde_json::json;
use sqlx::Executor;

use crate::common::{connect, governance, keys, principal};

/// More than a busy machine needs to print a panic.
const PATIENCE: Duration = Duration::from_secs(30);

fn call(me: &Principal) -> Call {
    Call::tool(me, "refund_payment").args(&json!({"payment": "pay_381"}))
}

fn refunds() -> Contract {
    Contract::new("refunds").for_tools(["refund_payment"])
}

/// What was found instead, and the answer's kind, where a call is not to be made.
async fn unmet(gov: &Governance, contract: Contract) -> (String, &'static str, ErrorKind) {
    gov.contracts().register(contract).await.unwrap();
    let error = gov
        .contracts()
        .guard(&call(&principal("a")))
        .await
        .unwrap_err();
    assert!(matches!(error, ContractError::Unmet(_)), "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("pay_381"), "{text}");
    let violation = error.violation().unwrap().clone();
    (violation.required, violation.found, error.kind())
}

/// The entries of a kind, once there are `count`.
async fn entries(gov: &Governance, kind: &str, count: usize) -> Vec<Entry> {
    let mut found = Vec::new();
    for _ in 0..500 {
        let page = gov.audit().events(&Query::all().limit(500)).await.unwrap();
        found = page.entries;
        found.retain(|entry| entry.kind.as_str() == kind);
        if found.len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    found
}

fn yes(name: &str) -> Condition {
    Condition::custom(name, PATIENCE, async |_| Ok::<_, Infallible>(true))
}

#[tokio::test]
async fn a_contract_that_cannot_be_is_refused_by_the_name_of_what_said_it() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let budget = || Condition::BudgetAvailable(Ceiling::usd(Usd::cents(1)));
    let text = || Promise::result("text", |_: &String| true);
    for (contract, field) in [
        (
            Contract::new("no name").for_any().requires(yes("x")),
            "name",
        ),
        (Contract::new("x").requires(yes("x")), "for_tools"),
        (
            Contract::new("x").for_tools([""; 0]).requires(yes("x")),
            "for_tools",
        ),
        (
            Contract::new("x").for_tools(["no name"]).requires(yes("x")),
            "for_tools",
        ),
        (
            Contract::new("x")
                .for_any()
                .for_tools(["y"])
                .requires(yes("x")),
            "for_any",
        ),
        (refunds(), "requires"),
        (refunds().requires(budget()).requires(budget()), "requires"),
        (refunds().requires(yes("x")).requires(yes("x")), "requires"),
        (refunds().ensures(text()).ensures(text()), "ensures"),
        (
            refunds()
                .ensures(text())
                .ensures(Promise::result("number", |_: &u64| true)),
            "ensures",
        ),
        (
            refunds().requires(yes("x")).on_broken(OnBroken::Report),
            "on_broken",
        ),
        (refunds().requires(yes("no name")), "custom"),
        (
            refunds().requires(Condition::custom("x", Duration::ZERO, async |_| {
                Ok::<_, Infallible>(true)
            })),
            "custom",
        ),
    ] {
        let error = gov.contracts().register(contract).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let ContractError::Contract(invalid) = error else {
            panic!("{error}");
        };
        assert_eq!(invalid.field, field, "{invalid}");
    }
    assert!(gov.contracts().names().is_empty());
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_says_no_errs_panics_or_does_not_answer_stops_the_call() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let short = Duration::from_millis(50);
    let says_no = Condition::custom("x", PATIENCE, async |_| Ok::<_, Infallible>(false));
    let errs = Condition::custom("x", PATIENCE, async |_| Err("secret"));
    let panics = Condition::custom("x", PATIENCE, async |about| {
        assert!(about.args().is_none(), "a panic of the host's");
        Ok::<_, Infallible>(true)
    });
    let hangs = Condition::custom("x", short, async |_| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(true)
    });
    let blocks = Condition::custom("x", short, async |_| {
        std::thread::sleep(Duration::from_millis(400));
        Ok::<_, Infallible>(true)
    });
    for (condition, found, kind) in [
        (says_no, "false", ErrorKind::Denied),
        (errs, "failed", ErrorKind::Denied),
        (panics, "panicked", ErrorKind::Denied),
        (hangs, "timed_out", ErrorKind::Unavailable),
        (blocks, "timed_out", ErrorKind::Unavailable),
    ] {
        let answer = unmet(&gov, refunds().requires(condition)).await;
        assert_eq!(answer, ("custom:x".to_owned(), found, kind));
    }
    let violated = entries(&gov, "contract.violated", 5).await;
    assert_eq!(violated.len(), 5);
    for entry in &violated {
        let told = entry.metadata.to_value();
        assert_eq!(
            (&told["contract"], &told["when"]),
            (&json!("refunds"), &json!("before"))
        );
        assert_eq!(
            (&told["required"], &told["tool"]),
            (&json!("custom:x"), &json!("refund_payment"))
        );
    }
    let text = format!("{violated:?}");
    assert!(
        !text.contains("secret") && !text.contains("pay_381"),
        "{text}"
    );
    // One that holds is not in the way; and no case of its letters is a way around.
    gov.contracts()
        .register(refunds().requires(yes("x")))
        .await
        .unwrap();
    drop(gov.contracts().guard(&call(&principal("a"))).await.unwrap());
    let no = Condition::custom("x", PATIENCE, async |_| Ok::<_, Infallible>(false));
    gov.contracts()
        .register(refunds().requires(no))
        .await
        .unwrap();
    let me = principal("a");
    assert!(
        gov.contracts()
            .guard(&Call::tool(&me, "REFUND_Payment"))
            .await
            .is_err()
    );
    assert!(
        gov.contracts()
            .guard(&Call::tool(&me, "read_invoice"))
            .await
            .is_ok()
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn scope_budget_and_approval_are_asked_as_the_gates_would() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let agent = AgentId::parse("a").unwrap();
    let dollar = || Condition::BudgetAvailable(Ceiling::usd(Usd::dollars(1)));
    let denied = |word: &str| (word.to_owned(), "denied", ErrorKind::Denied);
    assert_eq!(
        unmet(&gov, refunds().requires(Condition::ScopeAllowed)).await,
        denied("scope_allowed")
    );
    let policy = ScopePolicy::new(agent.clone())
        .allow_tools(["refund_payment"])
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    gov.cost()
        .register(Budget::for_agent(agent.clone()).per_day(Usd::cents(99)))
        .await
        .unwrap();
    let both = refunds()
        .requires(Condition::ScopeAllowed)
        .requires(dollar());
    assert_eq!(unmet(&gov, both.clone()).await, denied("budget_available"));
    gov.cost()
        .register(Budget::for_agent(agent).per_day(Usd::cents(100)))
        .await
        .unwrap();
    // However often it is asked, nothing stays reserved.
    for _ in 0..3 {
        gov.contracts()
            .guard(&call(&principal("a")))
            .await
            .unwrap()
            .finish(Ending::failed())
            .await
            .unwrap();
    }
    // Nobody has agreed to anything.
    let approved = refunds()
        .requires(Condition::NotHalted)
        .requires(Condition::Approved);
    let answer = unmet(&gov, approved).await;
    assert_eq!(
        answer,
        ("approved".to_owned(), "not_approved", ErrorKind::Denied)
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn promises_are_asked_of_results_by_reference_and_of_failures_too() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let after = Promise::custom("told", PATIENCE, move |about| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, Infallible>(about.completed().is_some()) }
    });
    let contract = refunds()
        .ensures(Promise::result("has_id", |id: &String| {
            assert_ne!(id, "panic");
            id.starts_with("re_")
        }))
        .ensures(after);
    gov.contracts().register(contract.clone()).await.unwrap();
    let me = principal("a");
    let finish = async |ending: Ending<'_>| {
        let guard = gov.contracts().guard(&call(&me)).await.unwrap();
        let answer = guard.finish(ending).await;
        answer.map_err(|error| {
            assert!(matches!(error, ContractError::Broken(_)));
            error.violation().unwrap().found
        })
    };
    let text = |text: &str| text.to_owned();
    assert_eq!(finish(Ending::completed(&text("re_7"))).await, Ok(()));
    assert_eq!(
        finish(Ending::completed(&text("pay_381"))).await,
        Err("false")
    );
    assert_eq!(
        finish(Ending::completed(&text("panic"))).await,
        Err("panicked")
    );
    assert_eq!(finish(Ending::completed(&7_u64)).await, Err("result_type"));
    assert_eq!(
        finish(Ending::completed_unseen()).await,
        Err("result_unseen")
    );
    assert_eq!(finish(Ending::failed()).await, Ok(()), "there is no result");
    assert_eq!(asked.load(Ordering::SeqCst), 6, "asked whatever came of it");

    gov.contracts()
        .register(contract.clone().ensures(Promise::Completed))
        .await
        .unwrap();
    assert_eq!(finish(Ending::failed()).await, Err("failed"));
    let reported = contract.on_broken(OnBroken::Report);
    gov.contracts().register(reported).await.unwrap();
    assert_eq!(finish(Ending::completed(&text("pay_381"))).await, Ok(()));

    let violated = entries(&gov, "contract.violated", 6).await;
    assert_eq!(violated.len(), 6);
    let decisions: Vec<_> = violated
        .iter()
        .filter_map(|e| e.decision.as_deref())
        .collect();
    assert_eq!(decisions.iter().filter(|d| **d == "report").count(), 1);
    assert!(!format!("{violated:?}").contains("pay_381"));
    gov.shutdown().await;
}

#[tokio::test]
async fn a_guard_that_is_dropped_leaves_an_unknown_outcome_on_record() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.contracts()
        .register(refunds().ensures(Promise::Completed))
        .await
        .unwrap();
    let me = principal("a");
    drop(gov.contracts().guard(&call(&me)).await.unwrap());
    let violated = entries(&gov, "contract.violated", 1).await;
    assert_eq!(
        violated[0].metadata.to_value()["found"],
        json!("unknown_outcome")
    );

    // Cancelled while its promises are asked: the same.
    let slow = Promise::custom("slow", PATIENCE, async |_| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(true)
    });
    gov.contracts()
        .register(refunds().ensures(slow))
        .await
        .unwrap();
    let guard = gov.contracts().guard(&call(&me)).await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_millis(20), guard.finish(Ending::failed()));
    assert!(cancelled.await.is_err());
    let violated = entries(&gov, "contract.violated", 2).await;
    assert_eq!(
        violated[1].metadata.to_value()["found"],
        json!("unknown_outcome")
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn audited_means_durable_before_and_after() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let contract = refunds()
        .requires(Condition::Audited)
        .ensures(Promise::Audited);
    gov.contracts().register(contract.clone()).await.unwrap();
    let me = principal("a");
    let guard = gov.contracts().guard(&call(&me)).await.unwrap();
    let before = entries(&gov, "contract.passed", 1).await;
    assert_eq!(before.len(), 1, "on record before the call");
    // The call is named as its permit names it, so that an approval of the one is one of the other.
    let policy = ScopePolicy::new(AgentId::parse("a").unwrap());
    let policy = policy.allow_tools(["refund_payment"]).unwrap();
    gov.scope().register(policy).await.unwrap();
    let permit = gov.authorize(&call(&me)).await.unwrap();
    let digest = hex::encode(permit.digest().unwrap());
    assert_eq!(before[0].metadata.to_value()["call_digest"], json!(digest));
    permit.release().await;
    guard.finish(Ending::failed()).await.unwrap();
    // The guard's before, the permit's before, and the guard's after.
    let after = entries(&gov, "contract.passed", 3).await;
    let ended = |entry: &Entry| entry.metadata.to_value()["ended"] == json!("failed");
    assert_eq!(after.iter().filter(|entry| ended(entry)).count(), 1);
    gov.shutdown().await;

    // A line that is not synced is not on record.
    let directory =
        std::env::temp_dir().join(format!("portcullis-contracts-{}", std::process::id()));
    let spooled = Governance::builder(test.database(), keys())
        .evidence(Evidence::Spooled)
        .journal(JournalSettings::in_directory(&directory))
        .connect()
        .await
        .unwrap();
    let answer = unmet(&spooled, contract).await;
    assert_eq!(answer, ("audited".to_owned(), "spooled", ErrorKind::Denied));
    spooled.shutdown().await;
    let _ = std::fs::remove_dir_all(directory);
}

#[tokio::test]
async fn without_the_store_each_condition_does_what_the_table_says() {
    let test = TestDatabase::fresh().await.unwrap();
    let database = Database::options(test.options()).statement_timeout(Duration::from_millis(500));
    let gov = governance(&database).await.unwrap();
    let without = Governance::builder(database.clone(), keys())
        .journal(JournalSettings::off())
        .connect()
        .await
        .unwrap();
    let agent = AgentId::parse("a").unwrap();
    for gov in [&gov, &without] {
        let policy = ScopePolicy::new(agent.clone())
            .allow_tools(["refund_payment"])
            .unwrap();
        gov.scope().register(policy).await.unwrap();
    }
    gov.cost()
        .register(Budget::for_agent(agent).per_day(Usd::dollars(9)))
        .await
        .unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute("ALTER SCHEMA portcullis RENAME TO away")
        .await
        .unwrap();

    let local = refunds()
        .requires(Condition::NotHalted)
        .requires(Condition::ScopeAllowed)
        .requires(yes("x"));
    gov.contracts().register(local).await.unwrap();
    let guard = gov.contracts().guard(&call(&principal("a"))).await.unwrap();
    guard.finish(Ending::failed()).await.unwrap();
    let money = Condition::BudgetAvailable(Ceiling::usd(Usd::cents(1)));
    let (required, found, kind) = unmet(&gov, refunds().requires(money)).await;
    assert_eq!(
        (required.as_str(), found != "denied"),
        ("budget_available", true)
    );
    assert_ne!(kind, ErrorKind::Integrity, "{found}");
    let audited = refunds().requires(Condition::Audited);
    gov.contracts().register(audited.clone()).await.unwrap();
    drop(gov.contracts().guard(&call(&principal("a"))).await.unwrap());
    let (required, found, _) = unmet(&without, audited).await;
    assert_eq!(required, "audited");
    assert_ne!(found, "denied");
    admin
        .execute("ALTER SCHEMA away RENAME TO portcullis")
        .await
        .unwrap();
    gov.shutdown().await;
}

#[tokio::test]
async fn switched_off_they_say_so() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = Governance::builder(test.database(), keys())
        .without(portcullis::Module::Contracts)
        .connect()
        .await
        .unwrap();
    let guard = gov
        .contracts()
        .guard(&call(&principal("a")))
        .await
        .unwrap_err();
    assert!(matches!(guard, ContractError::Disabled(_)));
    let contract = refunds().requires(Condition::NotHalted);
    assert_eq!(
        gov.contracts().register(contract).await.unwrap_err().kind(),
        ErrorKind::Misuse
    );
    gov.shutdown().await;
}
