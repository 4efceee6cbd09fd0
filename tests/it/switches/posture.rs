//! The line of every gate, and what `strict` holds against stored policies that cannot be read.

use std::time::Duration;

use portcullis::contracts::{Condition, Contract};
use portcullis::gates::ApprovalPolicy;
use portcullis::halt::{HaltSettings, WhenStale};
use portcullis::loops::LoopPolicy;
use portcullis::store::TestDatabase;
use portcullis::{Gate, Governance, Loaded, StoreAway};
use sqlx::Executor as _;

use super::{id, policy, strict, with_role, without};
use crate::common::journal::Directory;
use crate::common::{connect, keys};

fn asks(agent: &str) -> ApprovalPolicy {
    let policy = ApprovalPolicy::new(id(agent));
    let policy = policy.require_for_tools(["refund"]).unwrap();
    policy.approvers(["user:erin"]).unwrap()
}

fn loaded(gov: &Governance, gate: Gate) -> Loaded {
    let posture = gov.posture();
    posture.of(gate).cloned().unwrap().loaded.unwrap()
}

#[tokio::test]
async fn posture_has_every_gate_in_the_order_in_which_it_is_asked() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[]).await;
    let posture = gov.posture();
    let lines: Vec<_> = posture
        .gates
        .iter()
        .map(|line| (line.gate, line.store_away))
        .collect();
    assert_eq!(
        lines,
        [
            (Gate::Halt, StoreAway::Memory),
            (Gate::Scope, StoreAway::Memory),
            (Gate::Loops, StoreAway::Memory),
            (Gate::Contracts, StoreAway::Memory),
            (Gate::Approval, StoreAway::Closed),
            (Gate::Cost, StoreAway::Closed),
            (Gate::Evidence, StoreAway::Journal),
        ]
    );
    let halt = posture.of(Gate::Halt).unwrap().freshness.unwrap();
    assert!(halt.age <= halt.bound && !halt.stale);
    // Nobody has asked the database yet; then it is known, with the newest checkpoint.
    assert_eq!(
        (&posture.grants, posture.trail.checkpoint_at),
        (&None, None)
    );
    let key = crate::retention::log_key();
    let _ = gov.audit().checkpoint(&key).await.unwrap();
    let health = gov.health().await;
    assert!(health.checkpoint_at.is_some());
    let posture = gov.posture();
    // The owner of the tables may change entries.
    assert!(!posture.grants.unwrap().ok);
    assert_eq!(posture.trail.checkpoint_at, health.checkpoint_at);
    assert!(posture.trail.committed_at.is_some() && !posture.trail.degraded);
    assert_eq!(posture.coverage.wrapped, 0);
    gov.shutdown().await;
    let gov = Governance::builder(test.database(), keys())
        .halt(HaltSettings::default().when_stale(WhenStale::CountAsHalted))
        .connect()
        .await
        .unwrap();
    let line = gov.posture().of(Gate::Halt).cloned().unwrap();
    assert_eq!(line.store_away, StoreAway::MemoryUntilStale);
    gov.shutdown().await;
}

#[tokio::test]
async fn loops_approvals_and_contracts_are_named_by_what_is_in_force() {
    let test = TestDatabase::fresh().await.unwrap();
    let (one, two) = (without(&test, &[]).await, without(&test, &[]).await);
    let none = [Gate::Loops, Gate::Approval].map(|gate| loaded(&one, gate).hash);
    one.loops()
        .register(LoopPolicy::for_any_agent())
        .await
        .unwrap();
    one.gates().register(asks("a")).await.unwrap();
    two.loops().reload().await.unwrap();
    for gate in [Gate::Loops, Gate::Approval] {
        let wait = async {
            while loaded(&one, gate).hash != loaded(&two, gate).hash {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, wait).await.unwrap();
        assert!(!none.contains(&loaded(&one, gate).hash));
        assert_eq!(
            (loaded(&two, gate).stored, loaded(&two, gate).revision),
            (1, 1)
        );
    }
    // Another policy of the same agent is another name; so is one that is pinned.
    let before = loaded(&one, Gate::Approval).hash;
    let other = asks("a").approvers(["user:carl"]).unwrap();
    one.gates().register(other).await.unwrap();
    assert_ne!(before, loaded(&one, Gate::Approval).hash);
    let before = loaded(&two, Gate::Loops).hash;
    two.loops().pin(LoopPolicy::new(id("b"))).await.unwrap();
    assert_ne!(before, loaded(&two, Gate::Loops).hash);
    assert_eq!(loaded(&two, Gate::Loops).pinned, 1);
    let contract = Contract::new("refunds").for_tools(["refund"]);
    let contract = contract.requires(Condition::NotHalted);
    one.contracts().register(contract).await.unwrap();
    assert_eq!(loaded(&one, Gate::Contracts).names, ["refunds"]);
    assert_eq!(one.health().await.contracts.registered, ["refunds"]);
    for gov in [one, two] {
        gov.shutdown().await;
    }
}

/// Makes a stored policy one that nobody can read.
async fn spoil(test: &TestDatabase, module: &str) {
    let mut admin = connect(&test.options()).await;
    let mut tx = sqlx::Connection::begin(&mut admin).await.unwrap();
    for sql in [
        "UPDATE portcullis.policy_revisions SET revision = revision + 1 WHERE module = ",
        "UPDATE portcullis.policies p SET document = '{\"typo\":1}', version = p.version + 1, revision = r.revision
           FROM portcullis.policy_revisions r
          WHERE r.tenant_id = p.tenant_id AND r.module = p.module AND p.module = ",
    ] {
        let sql = sqlx::AssertSqlSafe(format!("{sql}'{module}'"));
        tx.execute(sql).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn f04_strict_does_not_open_over_loop_or_approval_policies_that_cannot_be_read() {
    let (test, app) = with_role().await;
    let directory = Directory::fresh();
    let open = async || strict(app.clone(), directory.settings(), true).await;
    let gov = open().await.unwrap();
    assert!(gov.posture().grants.unwrap().ok, "strict has looked");
    gov.scope().register(policy("a")).await.unwrap();
    gov.loops()
        .register(LoopPolicy::new(id("a")))
        .await
        .unwrap();
    gov.gates().register(asks("a")).await.unwrap();
    for (module, gate) in [("loops", "loops: "), ("gates", "approval: ")] {
        spoil(&test, module).await;
        // Whoever had a good version keeps it, and is not well.
        let status = || (gov.loops().status().is_ok(), gov.gates().status().is_ok());
        let wait = async {
            while (module == "loops" && status().0) || (module == "gates" && status().1) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .unwrap();
        assert!(!gov.health().await.is_ok());
        let missing = open().await.unwrap_err();
        assert!(
            missing
                .iter()
                .any(|what| what.starts_with(gate) && what.ends_with(": a")),
            "{missing:?}"
        );
    }
    assert_eq!(open().await.unwrap_err().len(), 2);
    gov.shutdown().await;
}
