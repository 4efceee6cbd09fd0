//! Loops, approvals, contracts and presence, switched off: through the handle and through `authorize`.

use std::time::Duration;

use portcullis::audit::Metadata;
use portcullis::contracts::{Condition, Contract, ContractError};
use portcullis::gates::{
    ApprovalPolicy, ApproverRef, Ask, Decision, Escalation, GateError, LogNotifier, StandingGrant,
    Withdrawer,
};
use portcullis::loops::{LoopError, LoopPolicy};
use portcullis::presence::{Filter, PresenceError};
use portcullis::store::TestDatabase;
use portcullis::{
    Call, ErrorKind, Gate, GrantId, Module, OperatorId, Outcome, Principal, Refusal, RequestId,
    StoreAway,
};
use serde_json::json;

use super::{assert_names, id, kinds, without};
use crate::common::principal;

const SOON: Duration = Duration::from_secs(5);

fn refund(me: &Principal) -> Call {
    Call::tool(me, "refund").args(&json!({"cents": 500}))
}

fn asks(agent: &str) -> ApprovalPolicy {
    let policy = ApprovalPolicy::new(id(agent));
    let policy = policy.require_for_tools(["refund"]).unwrap();
    policy.approvers(["user:erin"]).unwrap()
}

async fn lets_through(gov: &portcullis::Governance, call: &Call) {
    let permit = gov.authorize(call).await.unwrap();
    permit.settle(Outcome::completed()).await;
}

#[tokio::test]
async fn a_loop_gate_that_is_off_refuses_every_call_and_is_not_asked() {
    let test = TestDatabase::fresh().await.unwrap();
    // Stored, so that a gate that were asked would refuse.
    let on = without(&test, &[]).await;
    let policy = || LoopPolicy::for_any_agent().repeats(2);
    on.loops().register(policy()).await.unwrap();
    on.shutdown().await;

    let gov = without(&test, &[Module::Scope, Module::Loops]).await;
    let (loops, me) = (gov.loops(), principal("a"));
    for refused in [
        loops.check(&me, "x", &json!({})).await.map(drop),
        loops
            .check(&me, "no such\nname", &json!({}))
            .await
            .map(drop),
        loops.check_call(&refund(&me)).await.map(drop),
        loops.pin(policy()).await,
        loops.register(policy()).await,
        loops.remove(None).await.map(drop),
        loops.reload().await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let LoopError::Disabled(disabled) = error else {
            panic!("{error}");
        };
        assert_names(disabled, Module::Loops);
    }
    loops.observe(&me, "x", &json!({}), b"");
    assert_eq!(loops.status().sessions, 0);
    for _ in 0..5 {
        lets_through(&gov, &refund(&me)).await;
    }
    assert!(!kinds(&gov).await.iter().any(|kind| kind == "loop.detected"));
    let line = gov.posture().of(Gate::Loops).cloned().unwrap();
    assert_eq!(
        (line.store_away, line.loaded),
        (StoreAway::SwitchedOff, None)
    );
    assert!(gov.health().await.loops.is_ok());
    gov.shutdown().await;
}

#[tokio::test]
async fn an_approval_gate_that_is_off_refuses_every_call_and_is_not_asked() {
    let test = TestDatabase::fresh().await.unwrap();
    let on = without(&test, &[]).await;
    on.gates().register(asks("a")).await.unwrap();
    on.shutdown().await;

    let gov = without(&test, &[Module::Scope, Module::Gates]).await;
    let (gates, me) = (gov.gates(), principal("a"));
    let call = refund(&me);
    let request = RequestId::new();
    let erin = ApproverRef::parse("user:erin").unwrap();
    let anna = OperatorId::parse("user:anna").unwrap();
    let decision = Decision::grant();
    for refused in [
        gates.register(asks("a")).await,
        gates.remove(&id("a")).await.map(drop),
        gates
            .register_team(&ApproverRef::parse("team:t").unwrap(), [])
            .await,
        gates.request(&call, Ask::policy()).await.map(drop),
        gates.redeem(&call, Ask::policy()).await.map(drop),
        gates.find(request).await.map(drop),
        gates.pending(None).await.map(drop),
        gates.wait(request, SOON).await.map(drop),
        gates
            .decide(request, &erin, Decision::grant())
            .await
            .map(drop),
        gates
            .escalate(request, &anna, Escalation::longer(SOON))
            .await
            .map(drop),
        gates
            .withdraw(request, Withdrawer::Requester(&me))
            .await
            .map(drop),
        gates
            .token_for(request, &erin, &decision, SOON)
            .await
            .map(drop),
        gates.decide_by_token("x").await.map(drop),
        gates
            .grant_standing(StandingGrant::of_call(&call, 1, SOON), &erin)
            .await
            .map(drop),
        gates.revoke_standing(GrantId::new(), &anna).await.map(drop),
        gates.standing(&id("a")).await.map(drop),
        gates.canonical(&call).map(drop),
        gates.is_about(request, &json!({})).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let GateError::Disabled(disabled) = error else {
            panic!("{error}");
        };
        assert_names(disabled, Module::Gates);
    }
    gates.notify_with(LogNotifier::new());
    assert!(gates.status().switched_off && gates.status().is_ok());
    // The stored policy asks for a person; nobody asks the gate.
    lets_through(&gov, &call).await;
    let line = gov.posture().of(Gate::Approval).cloned().unwrap();
    assert_eq!(
        (line.store_away, line.loaded),
        (StoreAway::SwitchedOff, None)
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_call_whose_contract_wants_an_approval_is_refused_where_approvals_are_off() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[Module::Scope, Module::Gates]).await;
    let contract = Contract::new("refunds").for_tools(["refund"]);
    let contract = contract.requires(Condition::Approved);
    gov.contracts().register(contract).await.unwrap();
    let me = principal("a");
    let refusal = gov.authorize(&refund(&me)).await.unwrap_err();
    assert_eq!(
        (refusal.gate(), refusal.kind()),
        (Gate::Approval, ErrorKind::Misuse)
    );
    assert!(refusal.remedy().contains("without(Module::Gates)"));
    // The same for code that cannot be wrapped.
    let error = gov.contracts().guard(&refund(&me)).await.unwrap_err();
    assert!(matches!(error, ContractError::Unmet(_)), "{error}");
    assert_eq!(Refusal::from(&error).gate(), Gate::Contracts);
    // Another tool has no such contract.
    lets_through(&gov, &Call::tool(&me, "read")).await;
    gov.shutdown().await;
}

#[tokio::test]
async fn contracts_that_are_off_refuse_every_call_and_are_not_asked() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[Module::Scope, Module::Contracts]).await;
    let me = principal("a");
    let contract = Contract::new("refunds").for_tools(["refund"]);
    let contract = contract.requires(Condition::Approved);
    for refused in [
        gov.contracts().register(contract.clone()).await,
        gov.contracts().store(contract.clone()).await,
        gov.contracts().store_all([contract]).await,
        gov.contracts().remove("refunds").await.map(drop),
        gov.contracts().reload().await,
        gov.contracts()
            .define("x", Duration::from_secs(1), async |_| Ok::<_, ()>(true)),
        gov.contracts().guard(&refund(&me)).await.map(drop),
        gov.contracts()
            .guard(&Call::tool(&me, "no such\nname"))
            .await
            .map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let ContractError::Disabled(disabled) = error else {
            panic!("{error}");
        };
        assert_names(disabled, Module::Contracts);
    }
    assert!(gov.contracts().names().is_empty());
    let status = gov.contracts().status();
    assert!(status.switched_off && status.is_ok());
    lets_through(&gov, &refund(&me)).await;
    let line = gov.posture().of(Gate::Contracts).cloned().unwrap();
    assert_eq!(
        (line.store_away, line.loaded),
        (StoreAway::SwitchedOff, None)
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn presence_that_is_off_answers_nothing_and_takes_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without(&test, &[Module::Scope, Module::Presence]).await;
    let (presence, me) = (gov.presence(), principal("a"));
    presence.heartbeat(&me);
    presence.heartbeat_with(&me, &Metadata::empty());
    presence.mark_idle(&me);
    presence.close(&me);
    assert_eq!(presence.stats().waiting, 0);
    assert!(presence.stats().switched_off && presence.stats().is_ok());
    for refused in [
        presence.flush().await,
        presence.list(&Filter::all()).await.map(drop),
        presence.operators_of(&id("a")).await.map(drop),
        presence.check_stale(SOON).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.remedy().contains("without(Module::Presence)"));
        let PresenceError::Disabled(disabled) = error else {
            panic!("{error}");
        };
        assert_names(disabled, Module::Presence);
    }
    lets_through(&gov, &refund(&me)).await;
    gov.shutdown().await;
    // Nothing of it reached the database, not even at the end.
    let on = without(&test, &[]).await;
    let page = on.presence().list(&Filter::all()).await.unwrap();
    assert!(page.sessions.is_empty());
    on.shutdown().await;
}
