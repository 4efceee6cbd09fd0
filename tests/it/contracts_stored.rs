//! Contracts that are stored: in force in every process, beside those in its code.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::contracts::{
    Condition, Contract, ContractError, ContractsStatus, Ending, Is, Promise, Violation,
};
use portcullis::store::{StoreFault, TestDatabase};
use portcullis::{Call, ErrorKind, Gate, Governance, RunError};
use serde_json::json;
use sqlx::{Connection as _, Executor as _};

use crate::common::journal::Directory;
use crate::common::{connect, governance, keys, principal};

/// Far beyond what is promised: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn refund() -> Call {
    Call::tool(&principal("a"), "refund").args(&json!({"payment": "pay_381"}))
}

fn other() -> Call {
    Call::tool(&principal("a"), "look")
}

fn refunds(condition: Condition) -> Contract {
    Contract::new("refunds")
        .for_tools(["refund"])
        .requires(condition)
}

/// What is refused, and why; `None` if the call may be made.
async fn unmet(gov: &Governance, call: &Call) -> Option<(Violation, ContractError)> {
    match gov.contracts().guard(call).await {
        Ok(guard) => {
            guard.finish(Ending::completed(&())).await.unwrap();
            None
        }
        Err(error) => Some((error.violation().unwrap().clone(), error)),
    }
}

async fn until(gov: &Governance, what: &str, holds: impl Fn(&ContractsStatus) -> bool) {
    let wait = async {
        while !holds(&gov.contracts().status()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, wait).await;
    assert!(came.is_ok(), "{what}: {:?}", gov.contracts().status());
}

fn define(gov: &Governance, name: &str) -> Arc<AtomicBool> {
    let answer = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&answer);
    let check = move |_| {
        let answer = asked.load(Ordering::SeqCst);
        async move { Ok::<_, Infallible>(answer) }
    };
    gov.contracts().define(name, PATIENCE, check).unwrap();
    answer
}

/// Changes the stored text of one contract by hand, as the manual says.
async fn edit(test: &TestDatabase, name: &str, from: &str, to: &str) {
    let mut admin = connect(&test.options()).await;
    let mut tx = admin.begin().await.unwrap();
    tx.execute(
        "UPDATE portcullis.policy_revisions SET revision = revision + 1 WHERE module = 'contracts'",
    )
    .await
    .unwrap();
    let done = sqlx::query(
        "UPDATE portcullis.policies p
            SET document = replace(p.document, $2, $3), version = p.version + 1, revision = r.revision
           FROM portcullis.policy_revisions r
          WHERE r.tenant_id = p.tenant_id AND r.module = p.module
            AND p.module = 'contracts' AND p.name = $1",
    )
    .bind(name)
    .bind(from)
    .bind(to)
    .execute(&mut *tx)
    .await
    .unwrap();
    assert_eq!(done.rows_affected(), 1);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn f46_what_one_stores_is_in_force_in_all_replaced_and_removed() {
    let test = TestDatabase::fresh().await.unwrap();
    let writer = governance(&test.database()).await.unwrap();
    let heard = governance(&test.database()).await.unwrap();
    // As through a pooler that nobody can listen through.
    let deaf = governance(&test.database().pooled()).await.unwrap();
    for gov in [&writer, &heard, &deaf] {
        define(gov, "no").store(false, Ordering::SeqCst);
        define(gov, "yes");
    }
    let all = [&writer, &heard, &deaf];
    writer
        .contracts()
        .store(refunds(Condition::named("no")))
        .await
        .unwrap();
    for gov in all {
        until(gov, "stored", |status| status.revision == 1).await;
        let (violation, _) = unmet(gov, &refund()).await.unwrap();
        assert_eq!(
            (&*violation.required, violation.found),
            ("custom:no", "false")
        );
        assert!(unmet(gov, &other()).await.is_none());
    }
    // What is stored is shown, and is what another one registers anew without a change.
    let [stored] = &heard.contracts().stored()[..] else {
        panic!("one");
    };
    let json = stored.to_json().unwrap();
    assert_eq!(json, refunds(Condition::named("no")).to_json().unwrap());
    deaf.contracts()
        .store(Contract::from_json(&json).unwrap())
        .await
        .unwrap();
    assert_eq!(deaf.contracts().status().revision, 1);

    deaf.contracts()
        .store(refunds(Condition::named("yes")))
        .await
        .unwrap();
    for gov in all {
        until(gov, "replaced", |status| status.revision == 2).await;
        assert!(unmet(gov, &refund()).await.is_none());
    }
    heard
        .contracts()
        .store(refunds(Condition::named("no")))
        .await
        .unwrap();
    assert!(writer.contracts().remove("refunds").await.unwrap());
    assert!(!writer.contracts().remove("refunds").await.unwrap());
    for gov in all {
        until(gov, "removed", |status| status.revision == 4).await;
        assert!(unmet(gov, &refund()).await.is_none());
        assert!(gov.contracts().names().is_empty() && gov.contracts().status().is_ok());
    }
    // All of it is on record.
    let mut admin = connect(&test.options()).await;
    let decisions: Vec<String> = sqlx::query_scalar(
        "SELECT decision FROM portcullis.entries WHERE kind = 'contract.policy_registered'
          ORDER BY recorded_at",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let stored = decisions.iter().filter(|word| *word == "stored").count();
    assert_eq!((stored, decisions.len()), (4, 5));
    for gov in [writer, heard, deaf] {
        gov.shutdown().await;
    }
}

#[tokio::test]
async fn f46_what_is_registered_and_what_is_stored_both_apply_and_either_refuses() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = governance(&test.database()).await.unwrap();
    let there = governance(&test.database()).await.unwrap();
    let (mine, theirs) = (define(&here, "mine"), define(&here, "theirs"));
    // Of one name, and still two.
    let contracts = here.contracts();
    contracts
        .register(refunds(Condition::named("mine")))
        .await
        .unwrap();
    contracts
        .store(refunds(Condition::named("theirs")))
        .await
        .unwrap();
    for (first, second) in [(true, true), (false, true), (true, false), (false, false)] {
        mine.store(first, Ordering::SeqCst);
        theirs.store(second, Ordering::SeqCst);
        assert_eq!(unmet(&here, &refund()).await.is_none(), first && second);
    }
    assert_eq!(contracts.names(), ["refunds"]);
    let status = contracts.status();
    assert_eq!(status.registered, ["refunds"]);
    assert_eq!(status.stored, ["refunds"]);
    let loaded = here
        .posture()
        .of(Gate::Contracts)
        .unwrap()
        .loaded
        .clone()
        .unwrap();
    assert_eq!((loaded.pinned, loaded.stored, loaded.revision), (1, 1, 1));
    // What is removed is what was stored: neither it nor a reload drops the other.
    mine.store(false, Ordering::SeqCst);
    theirs.store(true, Ordering::SeqCst);
    assert!(there.contracts().remove("refunds").await.unwrap());
    until(&here, "removed", |status| status.stored.is_empty()).await;
    contracts.reload().await.unwrap();
    let (violation, _) = unmet(&here, &refund()).await.unwrap();
    assert_eq!(violation.required, "custom:mine");
    assert!(unmet(&there, &refund()).await.is_none(), "it is another's");
    for gov in [here, there] {
        gov.shutdown().await;
    }
}

#[tokio::test]
async fn f46_a_broken_contract_keeps_the_last_good_version_and_is_loud() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    define(&gov, "no").store(false, Ordering::SeqCst);
    gov.contracts()
        .store(refunds(Condition::named("no")))
        .await
        .unwrap();
    let before = gov.posture();
    let lacks = |gov: &Governance| gov.posture().of(Gate::Contracts).unwrap().missing.clone();
    assert!(lacks(&gov).is_empty());
    for (revision, to) in [(2, "\"typo\":1,\"tools\""), (3, "\"typo\"")] {
        let from = if revision == 2 { "\"tools\"" } else { to };
        let to = if revision == 2 { to } else { "\"mistake\"" };
        edit(&test, "refunds", from, to).await;
        until(&gov, "edited", |status| status.revision == revision).await;
        let status = gov.contracts().status();
        assert_eq!(
            (status.kept, status.broken),
            (vec!["refunds".to_owned()], vec![])
        );
        assert!(unmet(&gov, &refund()).await.is_some());
        assert!(unmet(&gov, &other()).await.is_none());
        gov.contracts().reload().await.unwrap();
        assert!(unmet(&gov, &refund()).await.is_some());
    }
    assert!(!gov.health().await.contracts.is_ok());
    assert!(lacks(&gov)[0].contains("cannot be read, and older ones are in force"));
    let hash = |posture: &portcullis::Posture| {
        let line = posture.of(Gate::Contracts).unwrap();
        line.loaded.clone().unwrap().hash
    };
    assert_ne!(hash(&before), hash(&gov.posture()));
    // A process that has never seen a good one does not know which calls it is of.
    let late = governance(&test.database()).await.unwrap();
    for call in [refund(), other()] {
        let (violation, error) = unmet(&late, &call).await.unwrap();
        assert_eq!(
            (&*violation.contract, violation.found),
            ("refunds", "unreadable")
        );
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.remedy().contains("store the contract again"));
    }
    assert_eq!(late.contracts().status().broken, ["refunds"]);
    assert!(lacks(&late)[0].contains("every call is refused"));
    // The remedy that the error names, for both.
    late.contracts()
        .store(refunds(Condition::NotHalted))
        .await
        .unwrap();
    until(&gov, "stored again", ContractsStatus::is_ok).await;
    for gov in [&gov, &late] {
        assert!(unmet(gov, &refund()).await.is_none() && lacks(gov).is_empty());
    }
    // And a broken one that is removed is gone, with its last good version.
    edit(&test, "refunds", "\"requires\"", "\"typo\"").await;
    until(&gov, "edited", |status| !status.kept.is_empty()).await;
    late.contracts().remove("refunds").await.unwrap();
    until(&gov, "removed", |status| {
        status.is_ok() && status.stored.is_empty()
    })
    .await;
    for gov in [gov, late] {
        gov.shutdown().await;
    }
}

#[tokio::test]
async fn a_stored_contract_whose_check_is_not_defined_refuses_its_calls_and_is_loud() {
    let (test, app) = crate::switches::with_role().await;
    let gov = governance(&test.database()).await.unwrap();
    for (contract, required) in [
        (refunds(Condition::named("hours")), "custom:hours"),
        // Nor is a call made whose promise could not be asked about.
        (
            Contract::new("refunds")
                .for_tools(["refund"])
                .ensures(Promise::named("hours")),
            "custom:hours",
        ),
    ] {
        gov.contracts().store(contract).await.unwrap();
        let (violation, error) = unmet(&gov, &refund()).await.unwrap();
        assert_eq!(
            (&*violation.required, violation.found),
            (required, "not_defined")
        );
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.remedy().contains("Contracts::define"), "{error}");
        assert!(unmet(&gov, &other()).await.is_none(), "others are not its");
        assert_eq!(gov.contracts().status().undefined, ["hours"]);
        let health = gov.health().await;
        assert!(!health.contracts.is_ok() && !health.is_ok());
        assert!(
            gov.posture().missing()[0].contains("hours")
                || gov.posture().missing()[1].contains("hours")
        );
    }
    // Strict does not open over it, unless the builder is told of the check.
    let directory = Directory::fresh();
    let strict = || {
        Governance::builder(app.clone(), keys())
            .strict()
            .journal(directory.settings())
            .pin_scope(crate::switches::policy("a"))
    };
    let error = strict().connect().await.unwrap_err().to_string();
    assert!(
        error.contains("contracts: checks that contracts name") && error.ends_with("hours"),
        "{error}"
    );
    let told = strict().contract_check("hours", PATIENCE, async |_| Ok::<_, Infallible>(true));
    let told = told.connect().await.unwrap();
    assert!(unmet(&told, &refund()).await.is_none());
    let no_name = strict().contract_check("no name", PATIENCE, async |_| Ok::<_, Infallible>(true));
    assert_eq!(
        no_name.connect().await.unwrap_err().kind(),
        ErrorKind::Misuse
    );
    // And defined, it is asked.
    let answer = define(&gov, "hours");
    assert!(unmet(&gov, &refund()).await.is_none() && gov.contracts().status().is_ok());
    answer.store(false, Ordering::SeqCst);
    let guard = gov.contracts().guard(&refund()).await.unwrap();
    let error = guard.finish(Ending::completed(&())).await.unwrap_err();
    assert!(matches!(error, ContractError::Broken(_)), "{error}");
    for gov in [gov, told] {
        gov.shutdown().await;
    }
}

#[tokio::test]
async fn a_stored_deadline_shortens_the_checks_own() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.contracts()
        .define("slow", PATIENCE, async |_| {
            std::future::pending::<Result<bool, Infallible>>().await
        })
        .unwrap();
    let condition = Condition::named_within("slow", Duration::from_millis(50));
    gov.contracts().store(refunds(condition)).await.unwrap();
    let call = refund();
    let asked = tokio::time::timeout(PATIENCE / 2, unmet(&gov, &call));
    let (violation, error) = asked.await.expect("in time").unwrap();
    assert_eq!(
        (violation.found, error.kind()),
        ("timed_out", ErrorKind::Unavailable)
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn stored_promises_look_into_the_result_of_run() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let scope = crate::switches::policy("a")
        .allow_tools(["refund"])
        .unwrap();
    gov.scope().register(scope).await.unwrap();
    let contract = Contract::new("refunds")
        .for_tools(["refund"])
        .ensures(Promise::field("paid", "/status", Is::Equals(json!("paid"))));
    gov.contracts().store(contract).await.unwrap();
    let run = async |status: &str| {
        let answer = json!({ "status": status });
        gov.run(&refund(), async |_| Ok::<_, Infallible>(answer))
            .await
    };
    run("paid").await.unwrap();
    let RunError::Broken(refusal) = run("sEcReT").await.unwrap_err() else {
        panic!("it is broken");
    };
    assert_eq!(refusal.gate(), Gate::Contracts);
    assert!(refusal.to_string().contains("result:paid") && !refusal.to_string().contains("sEcReT"));
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_together_comes_into_force_together() {
    const ROUNDS: i64 = 40;
    let test = TestDatabase::fresh().await.unwrap();
    let writer = governance(&test.database()).await.unwrap();
    let reader = governance(&test.database()).await.unwrap();
    let watched = reader.clone();
    let looking = tokio::spawn(async move {
        loop {
            let all = watched.contracts().stored();
            let budgets: Vec<_> = all.iter().map(|one| one.to_json().unwrap()).collect();
            let tokens = |text: &String| text.split("\"tokens\":").nth(1).map(str::to_owned);
            let rounds: Vec<_> = budgets.iter().map(tokens).collect();
            assert!(rounds.windows(2).all(|two| two[0] == two[1]), "{rounds:?}");
            if watched.contracts().status().revision == ROUNDS {
                return all.len();
            }
            tokio::task::yield_now().await;
        }
    });
    for round in 1..=ROUNDS {
        let tokens = json!({ "tokens": round });
        let contracts = ["a", "b", "c"].map(|name| {
            let text =
                json!({"name": name, "any": true, "requires": [{"budget_available": tokens}]});
            Contract::from_json(&text.to_string()).unwrap()
        });
        writer.contracts().store_all(contracts).await.unwrap();
    }
    let seen = tokio::time::timeout(PATIENCE, looking).await.unwrap();
    assert_eq!(seen.unwrap(), 3);
    // Of one that cannot be stored, none is.
    let code = refunds(Condition::custom("x", PATIENCE, async |_| {
        Ok::<_, Infallible>(true)
    }));
    let both = [refunds(Condition::NotHalted), code];
    let error = writer.contracts().store_all(both).await.unwrap_err();
    assert!(matches!(error, ContractError::Contract(invalid) if invalid.field == "requires"));
    assert_eq!(writer.contracts().stored().len(), 3);
    for gov in [writer, reader] {
        gov.shutdown().await;
    }
}

/// Without the store, what was loaded stays in force; nothing is stored or removed, and that is said.
#[tokio::test]
async fn f53_contracts_stay_in_force_without_the_store_and_are_no_business_of_the_application() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    define(&gov, "no").store(false, Ordering::SeqCst);
    gov.contracts()
        .store(refunds(Condition::named("no")))
        .await
        .unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute("ALTER TABLE portcullis.policy_revisions RENAME TO away")
        .await
        .unwrap();
    until(&gov, "failing", |status| status.failing).await;
    assert!(!gov.contracts().status().is_ok());
    assert!(unmet(&gov, &refund()).await.is_some());
    let error = gov.contracts().remove("refunds").await.unwrap_err();
    assert!(matches!(error, ContractError::Store(_)), "{error}");
    admin
        .execute("ALTER TABLE portcullis.away RENAME TO policy_revisions")
        .await
        .unwrap();
    until(&gov, "back", ContractsStatus::is_ok).await;

    // Where an operator has a role of its own, the application's cannot change them.
    for role in ["portcullis_test_bound", "portcullis_test_binder"] {
        let create = format!(
            "DO $$ BEGIN CREATE ROLE {role};
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        admin.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    }
    portcullis::store::Migration::new(&test.database())
        .app_role("portcullis_test_bound")
        .operator_role("portcullis_test_binder")
        .run()
        .await
        .unwrap();
    let bound = test.options().options([("role", "portcullis_test_bound")]);
    let app = governance(&portcullis::Database::options(bound))
        .await
        .unwrap();
    define(&app, "no").store(false, Ordering::SeqCst);
    for refused in [
        app.contracts().store(refunds(Condition::NotHalted)).await,
        app.contracts().remove("refunds").await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, ContractError::Store(e) if e.fault() == StoreFault::Forbidden),
            "{error}"
        );
    }
    assert!(unmet(&app, &refund()).await.is_some());
    for gov in [gov, app] {
        gov.shutdown().await;
    }
}
