//! Agreeing in advance.

use portcullis::ToolName;
use portcullis::gates::StandingGrant;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn tools(names: &[&str]) -> Vec<ToolName> {
    names
        .iter()
        .map(|name| ToolName::parse(name).unwrap())
        .collect()
}

fn erin() -> ApproverRef {
    ApproverRef::parse("user:erin").unwrap()
}

async fn lenient() -> Gate {
    let gate = Gate::new().await;
    gate.gates()
        .register(policy().allow_standing(100, HOUR))
        .await
        .unwrap();
    gate
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_agreed_to_in_advance_is_counted_under_any_race() {
    let gate = lenient().await;
    let other = gate.another().await;
    let grant =
        StandingGrant::of_tools(agent(), tools(&["refund"]), 60, HOUR).because("month's end");
    gate.gates().grant_standing(grant, &erin()).await.unwrap();
    let racing: Vec<_> = (0..600)
        .map(|n| {
            let gates = if n % 2 == 0 {
                gate.gates()
            } else {
                other.gates()
            }
            .clone();
            // Every call is another one, and so is every session.
            let who = me().session(SessionId::new());
            let call = Call::tool(&who, "refund").args(&json!({"n": n % 7}));
            tokio::spawn(async move {
                let approval = gates.redeem(&call, Ask::policy()).await.ok()?;
                if n % 10 == 0 {
                    approval.give_back().await;
                    return None;
                }
                approval.use_up().await.ok()
            })
        })
        .collect();
    let mut used = 0;
    for racer in racing {
        used += usize::from(racer.await.unwrap().is_some());
    }
    let left: u32 = gate
        .gates()
        .standing(&agent())
        .await
        .unwrap()
        .iter()
        .map(|grant| grant.uses_left)
        .sum();
    assert_eq!(used + left as usize, 60, "used and left");
    assert_eq!(gate.entries("gate.consumed").await.len(), used);
    assert_eq!(gate.entries("gate.standing_granted").await.len(), 1);
}

#[tokio::test]
async fn it_is_for_its_agent_its_tools_its_arguments_and_its_time_only() {
    let gate = lenient().await;
    let exact = StandingGrant::of_call(&refund(5), 2, HOUR);
    let id = gate.gates().grant_standing(exact, &erin()).await.unwrap();
    assert!(gate.redeem(&refund(6)).await.is_err());
    let other = Call::tool(&me(), "payments.x").args(&json!({"invoice": "inv_381", "amount": 5}));
    assert!(gate.redeem(&other).await.is_err());
    let used = gate
        .redeem(&refund(5))
        .await
        .unwrap()
        .use_up()
        .await
        .unwrap();
    assert_eq!((used.grant, used.request), (Some(id), None));
    gate.clock.advance(HOUR);
    assert!(gate.redeem(&refund(5)).await.is_err(), "its time is up");

    // Whoever agreed is nobody who agrees with himself, whoever the caller is.
    let tool = || StandingGrant::of_tools(agent(), tools(&["payments.x"]), 5, HOUR);
    gate.gates().grant_standing(tool(), &erin()).await.unwrap();
    let hers = me()
        .session(SessionId::parse("s-2").unwrap())
        .operated_by(OperatorId::parse("Erin").unwrap());
    let of = |who: &Principal| Call::tool(who, "payments.x");
    assert!(gate.redeem(&of(&hers)).await.is_err());
    let nameless = Principal::agent(agent());
    assert!(
        gate.redeem(&of(&nameless)).await.is_err(),
        "nobody knows who operates it"
    );
    gate.redeem(&of(&me()))
        .await
        .unwrap()
        .use_up()
        .await
        .unwrap();

    // A changed policy ends it, and so does taking it back.
    let left = gate.gates().standing(&agent()).await.unwrap();
    assert_eq!(
        (left.len(), left[0].uses_left, left[0].exact),
        (1, 4, false)
    );
    let gina = OperatorId::parse("gina").unwrap();
    assert_eq!(
        gate.gates().revoke_standing(left[0].id, &gina).await,
        Ok(true)
    );
    assert_eq!(
        gate.gates().revoke_standing(left[0].id, &gina).await,
        Ok(false)
    );
    assert!(gate.redeem(&of(&me())).await.is_err());
    gate.gates().grant_standing(tool(), &erin()).await.unwrap();
    gate.gates()
        .register(policy().allow_standing(99, HOUR))
        .await
        .unwrap();
    assert!(
        gate.redeem(&of(&me())).await.is_err(),
        "agreed to under another policy"
    );
}

#[tokio::test]
async fn nobody_agrees_in_advance_to_more_than_the_policy_lets_him() {
    let gate = Gate::with_policy().await;
    let of = |uses, life| StandingGrant::of_tools(agent(), tools(&["refund"]), uses, life);
    assert_eq!(
        gate.gates().grant_standing(of(1, HOUR), &erin()).await,
        Err(GateError::NoStanding)
    );
    gate.gates()
        .register(policy().allow_standing(100, HOUR))
        .await
        .unwrap();
    for grant in [
        of(101, HOUR),
        of(0, HOUR),
        of(1, HOUR + Duration::from_secs(1)),
        StandingGrant::of_tools(agent(), tools(&["other"]), 1, HOUR),
        StandingGrant::of_tools(agent(), Vec::new(), 1, HOUR),
        StandingGrant::of_tools(AgentId::parse("x").unwrap(), tools(&["refund"]), 1, HOUR),
    ] {
        assert_eq!(
            gate.gates().grant_standing(grant, &erin()).await,
            Err(GateError::NoStanding)
        );
    }
    for (who, error) in [
        ("user:zoe", GateError::NotApprover),
        ("team:finance", GateError::TeamCannotDecide),
        ("user:Billing.Agent", GateError::SelfApproval),
    ] {
        let who = ApproverRef::parse(who).unwrap();
        assert_eq!(
            gate.gates().grant_standing(of(1, HOUR), &who).await,
            Err(error)
        );
    }
    let both = policy().allow_standing(1, HOUR).quorum(2);
    assert!(matches!(
        gate.gates().register(both).await,
        Err(GateError::Policy(_))
    ));
}

#[tokio::test]
async fn f42_what_is_agreed_to_in_advance_is_not_used_after_it_was_taken_back_or_its_time() {
    let gate = lenient().await;
    let grant = || StandingGrant::of_tools(agent(), tools(&["refund"]), 1, HOUR);
    let gina = OperatorId::parse("gina").unwrap();
    let taken_back = gate.gates().grant_standing(grant(), &erin()).await.unwrap();
    let held = gate.redeem(&refund(1)).await.unwrap();
    let revoked = gate.gates().revoke_standing(taken_back, &gina).await;
    assert_eq!(revoked, Ok(true));
    assert_eq!(held.use_up().await.unwrap_err(), GateError::NotHeld);
    gate.gates().grant_standing(grant(), &erin()).await.unwrap();
    let held = gate.redeem(&refund(2)).await.unwrap();
    gate.clock.advance(HOUR);
    assert_eq!(held.use_up().await.unwrap_err(), GateError::NotHeld);
    assert_eq!(gate.entries("gate.consumed").await.len(), 0);
}

#[tokio::test]
async fn a_call_that_is_not_made_costs_no_use_however_it_ends() {
    let gate = lenient().await;
    let grant = StandingGrant::of_tools(agent(), tools(&["refund"]), 1, HOUR);
    gate.gates().grant_standing(grant, &erin()).await.unwrap();
    gate.redeem(&refund(1)).await.unwrap().give_back().await;
    // As if the process died.
    std::mem::forget(gate.redeem(&refund(1)).await.unwrap());
    let first = gate.redeem(&refund(1)).await.unwrap();
    let second = gate.redeem(&refund(2)).await;
    // Whoever uses the last one first has it.
    first.use_up().await.unwrap();
    if let Ok(second) = second {
        assert_eq!(second.use_up().await.unwrap_err(), GateError::NotHeld);
    }
    assert_eq!(gate.entries("gate.consumed").await.len(), 1);
}

#[tokio::test]
async fn f39_nobodys_own_agreement_in_advance_is_used_for_an_agent_of_his() {
    let gate = lenient().await;
    let grant = StandingGrant::of_tools(agent(), tools(&["refund"]), 9, HOUR);
    gate.gates().grant_standing(grant, &erin()).await.unwrap();
    let hers = OperatorId::parse("user:Erin").unwrap();
    let planner = Principal::agent(AgentId::parse("planner").unwrap())
        .session(SessionId::parse("p-1").unwrap());
    // She is known from a request of the one that started it, of one that it started, and from heartbeats.
    let other = Call::tool(&planner.clone().operated_by(hers.clone()), "read");
    let ask = || Ask::of(["user:frank"]).unwrap();
    gate.gates().request(&other, ask()).await.unwrap();
    let started = me().session(SessionId::parse("s-5").unwrap());
    let helper = Principal::agent(AgentId::parse("helper").unwrap())
        .operated_by(hers.clone())
        .child_of(&started);
    gate.gates()
        .request(&Call::tool(&helper, "read"), ask())
        .await
        .unwrap();
    let of = |who: &Principal| Call::tool(who, "refund");
    let olga = OperatorId::parse("olga").unwrap();
    let planned = me()
        .session(SessionId::parse("s-4").unwrap())
        .child_of(&planner.operated_by(olga));
    gate.redeem(&of(&me())).await.unwrap().give_back().await;
    for who in [&planned, &started] {
        assert!(gate.redeem(&of(who)).await.is_err(), "{who:?}");
    }
    let elsewhere = me().session(SessionId::parse("s-6").unwrap());
    gate.gov.presence().heartbeat(&elsewhere.operated_by(hers));
    gate.gov.presence().flush().await.unwrap();
    assert!(gate.redeem(&of(&me())).await.is_err());
}
