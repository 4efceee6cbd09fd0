//! All gates behind one `authorize`: each refuses in its place, and what one took is given back when a
//! later one refuses.

use std::time::Duration;

use portcullis::audit::{Kind, Query};
use portcullis::contracts::{Condition, Contract, Promise};
use portcullis::cost::{Budget, OnLimit};
use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision};
use portcullis::halt::Target;
use portcullis::loops::LoopPolicy;
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{
    Call, Ceiling, Gate, Governance, OperatorId, Outcome, Permit, Principal, RunError, Usd,
};
use serde_json::json;

use crate::common::{governance, principal};

const CENT: Usd = Usd::cents(1);

async fn governed(test: &TestDatabase) -> (Governance, Principal) {
    let gov = governance(&test.database()).await.unwrap();
    let me = principal("billing-agent").operated_by(OperatorId::parse("dana").unwrap());
    let agent = me.agent_id().clone();
    let scope = ScopePolicy::new(agent.clone())
        .allow_tools(["refund", "read_invoice"])
        .unwrap();
    gov.scope().register(scope).await.unwrap();
    let budget = Budget::for_agent(agent.clone()).per_session(Usd::cents(10));
    gov.cost().register(budget).await.unwrap();
    let asks = ApprovalPolicy::new(agent)
        .require_for_tools(["refund"])
        .and_then(|policy| policy.approvers(["user:erin"]))
        .unwrap();
    gov.gates().register(asks).await.unwrap();
    (gov, me)
}

fn refund(me: &Principal, amount: u32) -> Call {
    Call::tool(me, "refund").args(&json!({ "amount": amount }))
}

fn operator() -> OperatorId {
    OperatorId::parse("op_7").unwrap()
}

async fn grant(gov: &Governance, request: portcullis::RequestId) {
    let erin = ApproverRef::parse("user:erin").unwrap();
    let decided = gov.gates().decide(request, &erin, Decision::grant());
    decided.await.unwrap();
}

async fn work(_: &Permit) -> Result<&'static str, std::io::Error> {
    Ok("done")
}

#[tokio::test]
async fn f37_work_in_flight_stops_when_its_agent_or_one_that_started_it_is_halted() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let parent = principal("supervisor");
    for (who, target) in [
        (me.clone(), Target::agent_of(&me)),
        (me.clone().child_of(&parent), Target::agent_of(&parent)),
    ] {
        let call = Call::tool(&who, "read_invoice").ceiling(Ceiling::usd(CENT));
        let (begun, under_way) = tokio::sync::oneshot::channel();
        let running = gov.run(&call, async |_: &Permit| {
            begun.send(()).unwrap();
            std::future::pending::<Result<(), std::io::Error>>().await
        });
        let halting = async {
            under_way.await.unwrap();
            gov.halt().halt(&target, &operator(), "a drill").await
        };
        let (ran, halted) = tokio::join!(running, halting);
        halted.unwrap();
        let Err(RunError::Halted(refusal)) = ran else {
            panic!("{ran:?}");
        };
        assert_eq!(refusal.gate(), Gate::Halt);
        // And nothing new begins.
        let refusal = gov.authorize(&call).await.unwrap_err();
        assert_eq!(refusal.gate(), Gate::Halt);
        gov.halt()
            .resume(&target, &operator(), "the drill is over")
            .await
            .unwrap();
    }
    let ended = Query::all().kind(&Kind::ToolCallFailed);
    let ended = gov.audit().events(&ended).await.unwrap().entries;
    let unknown = |entry: &&portcullis::audit::Entry| entry.decision.as_deref() == Some("unknown");
    assert_eq!(
        ended.iter().filter(unknown).count(),
        2,
        "nobody knows how far it came"
    );
    let snapshot = gov.cost().snapshot(&me).await.unwrap();
    assert_eq!(snapshot.session().unwrap().usd.unknown, Usd::cents(2));
}

#[tokio::test]
async fn f38_an_approval_lets_one_very_call_through_once() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let refused = gov.authorize(&refund(&me, 900)).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Approval);
    let request = refused.request().expect("who waits can wait for it");
    let again = gov.authorize(&refund(&me, 900)).await.unwrap_err();
    assert_eq!(again.request(), Some(request), "asked once");
    grant(&gov, request).await;
    let other = gov.authorize(&refund(&me, 901)).await.unwrap_err();
    assert_eq!(other.gate(), Gate::Approval);
    assert_eq!(gov.run(&refund(&me, 900), work).await.unwrap(), "done");
    let second = gov.authorize(&refund(&me, 900)).await.unwrap_err();
    assert_eq!(second.gate(), Gate::Approval, "it was used");
}

#[tokio::test]
async fn f42_an_approval_that_money_refused_is_there_for_the_next_try() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let dear = refund(&me, 900).ceiling(Ceiling::usd(Usd::cents(11)));
    let request = gov.authorize(&dear).await.unwrap_err().request().unwrap();
    grant(&gov, request).await;
    let refused = gov.authorize(&dear).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Cost);
    let budget = Budget::for_agent(me.agent_id().clone()).per_session(Usd::cents(20));
    gov.cost().register(budget).await.unwrap();
    let permit = gov.authorize(&dear).await.unwrap();
    permit.settle(Outcome::completed()).await;
}

#[tokio::test]
async fn a_contract_that_wants_approval_gets_it_from_a_person_and_uses_it_up() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let contract = Contract::new("four-eyes")
        .for_tools(["read_invoice"])
        .requires(Condition::Approved)
        .ensures(Promise::result("not empty", |text: &&'static str| {
            !text.is_empty()
        }));
    gov.contracts().register(contract).await.unwrap();
    let call = Call::tool(&me, "read_invoice");
    let refused = gov.authorize(&call).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Approval);
    grant(&gov, refused.request().unwrap()).await;
    assert_eq!(gov.run(&call, work).await.unwrap(), "done");
    let second = gov.authorize(&call).await.unwrap_err();
    assert_eq!(second.gate(), Gate::Approval, "it was used");
    grant(&gov, second.request().unwrap()).await;
    let empty = async |_: &Permit| Ok::<_, std::io::Error>("");
    let broken = gov.run(&call, empty).await.unwrap_err();
    assert!(matches!(broken, RunError::Broken(_)), "{broken:?}");
}

#[tokio::test]
async fn f42_what_a_contract_or_a_limit_asked_for_does_not_outlive_the_policy_either() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let contract = Contract::new("four-eyes")
        .for_tools(["read_invoice"])
        .requires(Condition::Approved);
    gov.contracts().register(contract).await.unwrap();
    let call = Call::tool(&me, "read_invoice");
    // What somebody agreed to on other terms than the policy's is no answer to the contract.
    let hosts = Ask::of(["user:zoe"]).unwrap();
    let asked = gov.gates().request(&call, hosts).await.unwrap().id();
    let zoe = ApproverRef::parse("user:zoe").unwrap();
    let decided = gov.gates().decide(asked, &zoe, Decision::grant());
    decided.await.unwrap();
    let refused = gov.authorize(&call).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Approval);
    assert_ne!(refused.request(), Some(asked));
    // Asking on the host's terms finds it, and takes nothing back.
    let hosts = Ask::of(["user:zoe"]).unwrap();
    let found = gov.gates().request(&call, hosts).await.unwrap().id();
    assert_eq!(Some(found), refused.request());
    grant(&gov, found).await;

    let budget = Budget::for_agent(me.agent_id().clone())
        .per_session(Usd::cents(1))
        .on_limit(OnLimit::Ask);
    gov.cost().register(budget).await.unwrap();
    let dear = Call::tool(&me, "refund").args(&json!({"n": 1}));
    let dear = dear.ceiling(Ceiling::usd(Usd::cents(8)));
    let first = gov.authorize(&dear).await.unwrap_err().request().unwrap();
    grant(&gov, first).await;
    let raise = gov.authorize(&dear).await.unwrap_err().request().unwrap();
    assert_ne!(raise, first);
    grant(&gov, raise).await;

    let stricter = ApprovalPolicy::new(me.agent_id().clone())
        .require_for_tools(["payments.*"])
        .and_then(|policy| policy.approvers(["user:frank"]))
        .unwrap();
    gov.gates().register(stricter).await.unwrap();
    let again = gov.authorize(&call).await.unwrap_err();
    assert_eq!(again.gate(), Gate::Approval);
    assert_ne!(again.request(), Some(found));
    let again = gov.authorize(&dear).await.unwrap_err();
    assert_eq!(again.gate(), Gate::Approval, "{again}");
    assert_ne!(again.request(), Some(raise));
}

#[tokio::test]
async fn a_limit_that_asks_is_raised_once_for_the_call_that_was_approved() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let budget = Budget::for_agent(me.agent_id().clone())
        .per_session(Usd::cents(10))
        .on_limit(OnLimit::Ask);
    gov.cost().register(budget).await.unwrap();
    let dear = |n: u32| {
        let call = Call::tool(&me, "read_invoice").args(&json!({ "n": n }));
        call.ceiling(Ceiling::usd(Usd::cents(8)))
    };
    gov.authorize(&dear(1))
        .await
        .unwrap()
        .settle(Outcome::completed())
        .await;
    let refused = gov.authorize(&dear(2)).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Approval, "{refused}");
    let request = refused.request().unwrap();
    assert_eq!(
        gov.authorize(&dear(2)).await.unwrap_err().request(),
        Some(request)
    );
    grant(&gov, request).await;
    gov.authorize(&dear(2))
        .await
        .unwrap()
        .settle(Outcome::completed())
        .await;
    let third = gov.authorize(&dear(3)).await.unwrap_err();
    assert_ne!(
        third.request(),
        Some(request),
        "another call, another raise"
    );
    let window = gov.cost().snapshot(&me).await.unwrap();
    assert_eq!(window.session().unwrap().usd.settled, Usd::cents(16));
    assert_eq!(window.session().unwrap().usd.left, Some(Usd::ZERO));
}

#[tokio::test]
async fn a_loop_is_refused_before_anybody_is_asked_for_approval_or_money() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let policy = LoopPolicy::new(me.agent_id().clone()).repeats(3);
    gov.loops().pin(policy).await.unwrap();
    let call = Call::tool(&me, "read_invoice").args(&json!({"invoice": "inv_381"}));
    let mut refused = None;
    for _ in 0..4 {
        match gov.authorize(&call).await {
            Ok(permit) => drop(permit.settle(Outcome::completed().output(b"same")).await),
            Err(refusal) => refused = Some(refusal),
        }
    }
    let refused = refused.expect("three are enough");
    assert_eq!(refused.gate(), Gate::Loops);
    assert!(refused.wait().is_some(), "it clears by itself");
    let other = Call::tool(&me, "read_invoice").args(&json!({"invoice": "inv_382"}));
    assert_eq!(gov.run(&other, work).await.unwrap(), "done");
}

#[tokio::test]
async fn a_permit_says_when_it_is_no_longer_good() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let permit = gov
        .authorize(&Call::tool(&me, "read_invoice"))
        .await
        .unwrap();
    permit.check().unwrap();
    let target = Target::session_of(&me);
    gov.halt()
        .halt(&target, &operator(), "a drill")
        .await
        .unwrap();
    assert_eq!(permit.check().unwrap_err().gate(), Gate::Halt);
    let refusal = tokio::time::timeout(Duration::from_secs(5), permit.until_halted()).await;
    assert_eq!(refusal.unwrap().gate(), Gate::Halt);
    permit.settle(Outcome::completed()).await;
    let ended = Query::all().kind(&Kind::ToolCallCompleted);
    let ended = gov.audit().events(&ended).await.unwrap().entries;
    let metadata = ended[0].metadata.to_value();
    assert_eq!(
        metadata["halted_meanwhile"],
        json!(true),
        "it went on all the same"
    );
}
