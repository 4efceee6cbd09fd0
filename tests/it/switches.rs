//! Modules that the host switches off, what is then refused, and what `strict` refuses to open over.

mod health;
mod modules;
mod posture;

use portcullis::audit::{JournalSettings, Kind, Query};
use portcullis::cost::{Budget, CostError, Resolution};
use portcullis::scope::{ScopeError, ScopePolicy};
use portcullis::store::{Migration, TestDatabase};
use portcullis::{
    AgentId, Call, Ceiling, ConnectError, Database, Disabled, ErrorKind, Gate, Governance, Module,
    Outcome, ReservationId, StoreAway, TenantId, Usd,
};
use sqlx::Executor as _;

use crate::common::journal::Directory;
use crate::common::{connect, keys, principal};
use crate::reload::edit;

fn id(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

pub(crate) fn policy(agent: &str) -> ScopePolicy {
    ScopePolicy::new(id(agent)).allow_tools(["x"]).unwrap()
}

async fn without(test: &TestDatabase, modules: &[Module]) -> Governance {
    let builder = Governance::builder(test.database(), keys());
    let builder = modules.iter().fold(builder, |b, module| b.without(*module));
    builder.connect().await.unwrap()
}

/// It names the module and what to write differently.
fn assert_names(disabled: Disabled, module: Module) {
    assert_eq!(disabled.module(), module);
    assert_eq!(disabled.kind(), ErrorKind::Misuse);
    let text = disabled.to_string();
    assert!(text.contains(module.as_str()), "{text}");
    assert!(
        text.contains("GovernanceBuilder::without(Module::"),
        "{text}"
    );
}

#[tokio::test]
async fn a_scope_gate_that_is_off_refuses_every_call_and_is_not_asked() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[Module::Scope]).await;
    let (scope, me) = (gov.scope(), principal("a"));
    for refused in [
        scope.check(&me, "x").await.map(drop),
        scope.check_api(&me, "https://x.test/").await.map(drop),
        scope.check_model(&me, "m").await.map(drop),
        scope.register(policy("a")).await,
        scope.register_all([]).await,
        scope.pin(policy("a")).await,
        scope.remove(&id("a")).await.map(drop),
        scope.policies().await.map(drop),
        scope.reload().await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let ScopeError::Disabled(disabled) = error else {
            panic!("{error}");
        };
        assert_names(disabled, Module::Scope);
    }
    assert!(scope.filter_tools(&me, vec!["x"]).is_empty());
    assert!(scope.status().switched_off);
    // Nothing was put on record as a violation: nothing was asked.
    let permit = gov.authorize(&Call::tool(&me, "anything")).await.unwrap();
    permit.settle(Outcome::completed()).await;
    let model = Call::model(&me, "m").ceiling(Ceiling::tokens(1));
    assert_eq!(gov.authorize(&model).await.unwrap_err().gate(), Gate::Cost);
    assert_eq!(gov.posture().switched_off, [Module::Scope]);
    let line = gov.posture().of(Gate::Scope).cloned().unwrap();
    assert_eq!(line.store_away, StoreAway::SwitchedOff);
    assert_eq!(line.loaded, None);
    assert!(gov.health().await.scope.is_ok());
    let kinds = kinds(&gov).await;
    assert!(
        !kinds.iter().any(|kind| kind == "scope.violation"),
        "{kinds:?}"
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_cost_gate_that_is_off_refuses_every_call_and_those_that_count_on_it() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[Module::Cost]).await;
    let (cost, me) = (gov.cost(), principal("a"));
    let budget = || Budget::for_agent(id("a")).per_day(Usd::dollars(1));
    let name = portcullis::BudgetName::parse("b").unwrap();
    for refused in [
        cost.reserve(&me, Ceiling::tokens(1)).await.map(drop),
        cost.check_or_raise(&me, Ceiling::tokens(1)).await.map(drop),
        cost.register(budget()).await,
        cost.remove(&name).await.map(drop),
        cost.budgets().await.map(drop),
        cost.snapshot(&me).await.map(drop),
        cost.sweep().await.map(drop),
        cost.settle_late(ReservationId::new(), Usd::dollars(1))
            .await
            .map(drop),
        cost.resolve(ReservationId::new(), Resolution::Release)
            .await
            .map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let CostError::Disabled(disabled) = error else {
            panic!("{error}");
        };
        assert_names(disabled, Module::Cost);
    }
    let all = policy("a").allow_any_model();
    gov.scope().register(all).await.unwrap();
    // What says nothing of money goes on; what declares a ceiling would not be held to it.
    for fine in [Call::tool(&me, "x"), Call::model(&me, "m")] {
        let permit = gov.authorize(&fine).await.unwrap();
        assert_eq!(permit.reservation_id(), None);
        permit.settle(Outcome::completed()).await;
    }
    let bounded = Call::tool(&me, "x").ceiling(Ceiling::usd(Usd::dollars(1)));
    let refusal = gov.authorize(&bounded).await.unwrap_err();
    assert_eq!(
        (refusal.gate(), refusal.kind()),
        (Gate::Cost, ErrorKind::Misuse)
    );
    assert!(refusal.remedy().contains("without(Module::Cost)"));
    let line = gov.posture().of(Gate::Cost).cloned().unwrap();
    assert_eq!(line.store_away, StoreAway::SwitchedOff);
    // The other gates are as they were.
    let other = gov.authorize(&Call::tool(&me, "y")).await.unwrap_err();
    assert_eq!(other.gate(), Gate::Scope);
    gov.shutdown().await;
}

#[tokio::test]
async fn what_is_off_is_on_record_for_every_tenant() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[Module::Cost, Module::Scope]).await;
    let other = gov
        .for_tenant(TenantId::parse("other").unwrap())
        .await
        .unwrap();
    for gov in [&gov, &other] {
        let query = Query::all().kind(&Kind::ConfigSnapshot);
        let page = gov.audit().events(&query).await.unwrap();
        let [entry] = &page.entries[..] else {
            panic!("{page:?}");
        };
        let metadata = entry.metadata.to_value().to_string();
        assert_eq!(metadata, r#"{"switched_off":["scope","cost"]}"#);
        assert!(gov.scope().check(&principal("a"), "x").await.is_err());
    }
    gov.shutdown().await;
    // With everything on there is nothing to say.
    let gov = without(&test, &[]).await;
    assert!(gov.posture().switched_off.is_empty());
    assert_eq!(
        kinds(&gov)
            .await
            .iter()
            .filter(|k| *k == "config.snapshot")
            .count(),
        1
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_pin_of_the_builder_is_its_tenants() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = Governance::builder(test.database(), keys())
        .pin_scope(policy("a"))
        .connect()
        .await
        .unwrap();
    let me = principal("a");
    gov.authorize(&Call::tool(&me, "x"))
        .await
        .unwrap()
        .settle(Outcome::completed())
        .await;
    let other = gov
        .for_tenant(TenantId::parse("other").unwrap())
        .await
        .unwrap();
    assert!(other.scope().check(&me, "x").await.is_err());
    gov.shutdown().await;
}

const APP: &str = "portcullis_test_strict";

/// A database with an application role, and that role's view of it.
pub(crate) async fn with_role() -> (TestDatabase, Database) {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    let role = "DO $$ BEGIN CREATE ROLE portcullis_test_strict;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    admin.execute(role).await.unwrap();
    Migration::new(&test.database())
        .app_role(APP)
        .run()
        .await
        .unwrap();
    let database = Database::options(test.options().options([("role", APP)]));
    (test, database)
}

async fn strict(
    database: Database,
    journal: JournalSettings,
    pinned: bool,
) -> Result<Governance, Vec<String>> {
    let mut builder = Governance::builder(database, keys())
        .strict()
        .journal(journal);
    if pinned {
        builder = builder.pin_scope(policy("mine"));
    }
    match builder.connect().await {
        Ok(gov) => Ok(gov),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Misuse);
            let ConnectError::Unprotected(what) = error else {
                panic!("{error}");
            };
            Err(what.missing().to_vec())
        }
    }
}

#[tokio::test]
async fn f04_strict_refuses_to_open_over_what_does_not_protect() {
    let (test, app) = with_role().await;
    let directory = Directory::fresh();
    let refused = async |database: &Database, journal: JournalSettings, pinned: bool| {
        let missing = strict(database.clone(), journal, pinned).await.unwrap_err();
        assert_eq!(missing.len(), 1, "{missing:?}");
        missing[0].clone()
    };
    // No policies at all; one that the program brings along is one.
    let missing = refused(&app, directory.settings(), false).await;
    assert!(
        missing.starts_with("scope: no policy is in force"),
        "{missing}"
    );
    let gov = strict(app.clone(), directory.settings(), true)
        .await
        .unwrap();
    assert!(gov.posture().strict && gov.posture().missing().is_empty());
    // Another tenant of the same handle has none.
    let other = gov.for_tenant(TenantId::parse("other").unwrap()).await;
    assert!(matches!(other, Err(ConnectError::Unprotected(_))));
    gov.scope()
        .register_all([policy("a"), policy("b")])
        .await
        .unwrap();
    gov.shutdown().await;
    strict(app.clone(), directory.settings(), false)
        .await
        .unwrap()
        .shutdown()
        .await;

    // No place for the journal.
    let missing = refused(&app, JournalSettings::off(), false).await;
    assert!(
        missing.starts_with("audit: the journal cannot be used"),
        "{missing}"
    );
    // A role that may change entries.
    let missing = refused(&test.database(), directory.settings(), false).await;
    assert!(
        missing.starts_with("grants: this role may UPDATE"),
        "{missing}"
    );
    // A trigger that is gone.
    let mut admin = connect(&test.options()).await;
    for what in ["DISABLE", "ENABLE"] {
        let alter = format!("ALTER TABLE portcullis.policies {what} TRIGGER policies_only_grow");
        admin.execute(sqlx::AssertSqlSafe(alter)).await.unwrap();
        if what == "DISABLE" {
            let missing = refused(&app, directory.settings(), false).await;
            assert!(missing.contains("policies_only_grow"), "{missing}");
        }
    }
    // A policy that cannot be read.
    edit(&test, "a", "\"tools\"", "\"typo\":1,\"tools\"").await;
    let missing = refused(&app, directory.settings(), true).await;
    assert!(
        missing.contains("cannot be read") && missing.ends_with(": a"),
        "{missing}"
    );
    // All of it together, in one error.
    let all = strict(test.database(), JournalSettings::off(), false)
        .await
        .unwrap_err();
    assert_eq!(all.len(), 3, "{all:?}");
    // Without strict it opens, and says so.
    let gov = Governance::builder(app, keys()).connect().await.unwrap();
    assert_eq!(gov.posture().missing().len(), 1);
    gov.shutdown().await;
}

#[tokio::test]
async fn posture_names_what_is_loaded_the_same_in_every_process() {
    let test = TestDatabase::fresh().await.unwrap();
    let (one, two) = (without(&test, &[]).await, without(&test, &[]).await);
    one.scope()
        .register_all([policy("a"), policy("b")])
        .await
        .unwrap();
    two.scope().reload().await.unwrap();
    let loaded = |gov: &Governance| {
        let posture = gov.posture();
        let line = posture.of(Gate::Scope).cloned().unwrap();
        assert_eq!(line.store_away, StoreAway::Memory);
        line.loaded.unwrap()
    };
    assert_eq!(loaded(&one).hash, loaded(&two).hash);
    assert_eq!((loaded(&one).stored, loaded(&one).revision), (2, 1));
    two.scope().pin(policy("a")).await.unwrap();
    assert_ne!(loaded(&one).hash, loaded(&two).hash);
    let gates: Vec<Gate> = one.posture().gates.iter().map(|line| line.gate).collect();
    assert!(gates.is_sorted(), "{gates:?}");
    for gov in [one, two] {
        gov.shutdown().await;
    }
}

/// What is on record.
async fn kinds(gov: &Governance) -> Vec<String> {
    let page = gov.audit().events(&Query::all()).await.unwrap();
    let entries = page.entries.iter();
    entries
        .map(|entry| entry.kind.as_str().to_owned())
        .collect()
}
