//! Who decides, and what.

use portcullis::gates::{Escalation, InvalidApprovalPolicy, Narrower, Withdrawer};
use portcullis::scope::ScopePolicy;

use super::*;

#[tokio::test]
async fn f39_nobody_decides_what_he_his_agents_or_his_operator_ask_for() {
    let gate = Gate::with_policy().await;
    let everybody = [
        "user:erin",
        "user:dana",
        "user:DANA",
        "user:d.a.n.a",
        "user:operator:dana",
        "user:dana+1@corp.test",
        "user:u_17",
        "user:U-17",
        "user:billing-agent",
        "user:billing.agent",
        "user:agent:billing_agent",
        "user:planner",
        "user:Olga",
        "user:scoped-agent",
        "user:SCOPED.agent",
        "user:carl",
    ];
    let asked = Ask::of(everybody).unwrap();
    let planner = Principal::agent(AgentId::parse("planner").unwrap())
        .operated_by(OperatorId::parse("olga").unwrap());
    let who = me().child_of(&planner);
    let scoped = ScopePolicy::new(AgentId::parse("scoped-agent").unwrap());
    gate.gov.scope().register(scoped).await.unwrap();
    let call = Call::tool(&who, "wipe").args(&json!({}));
    let id = gate
        .gates()
        .request(&call, asked.clone())
        .await
        .unwrap()
        .id();
    // An agent that this one started has an operator, too.
    let child = Principal::agent(AgentId::parse("helper").unwrap())
        .operated_by(OperatorId::parse("carl").unwrap())
        .child_of(&who);
    gate.gates()
        .request(&Call::tool(&child, "wipe"), asked)
        .await
        .unwrap();

    let mut blocked = 0;
    for name in &everybody[1..] {
        for decision in [Decision::grant(), Decision::deny()] {
            let answer = gate.decide(id, name, decision).await;
            assert_eq!(answer.unwrap_err(), GateError::SelfApproval, "{name}");
            blocked += 1;
        }
    }
    assert_eq!(gate.state(id).await, RequestState::Pending);
    let entries = gate.entries("gate.self_approval_blocked").await;
    assert_eq!(entries.len(), blocked);
    let token = gate
        .gates()
        .token_for(
            id,
            &ApproverRef::parse("user:dana").unwrap(),
            &Decision::grant(),
            Duration::from_mins(1),
        )
        .await;
    assert_eq!(token.unwrap_err(), GateError::SelfApproval);
    assert_eq!(gate.grant(id).await.state, RequestState::Granted);
}

#[tokio::test]
async fn f39_an_unknown_operator_is_a_no_unless_the_policy_says_otherwise() {
    let gate = Gate::new().await;
    let nameless = Principal::agent(agent()).session(SessionId::parse("s-9").unwrap());
    let call = Call::tool(&nameless, "refund");
    gate.gates().register(policy()).await.unwrap();
    let id = gate
        .gates()
        .request(&call, Ask::policy())
        .await
        .unwrap()
        .id();
    let answer = gate.decide(id, "user:erin", Decision::grant()).await;
    assert_eq!(answer.unwrap_err(), GateError::UnknownOperator);
    assert_eq!(gate.entries("gate.self_approval_blocked").await.len(), 1);
    gate.gates()
        .register(policy().allow_unknown_operator())
        .await
        .unwrap();
    let next = gate
        .gates()
        .request(&call, Ask::policy())
        .await
        .unwrap()
        .id();
    assert_ne!(next, id, "asked under another policy");
    assert_eq!(gate.grant(next).await.state, RequestState::Granted);
}

#[tokio::test]
async fn only_those_who_were_asked_decide_and_a_team_by_its_members() {
    let gate = Gate::with_policy().await;
    let finance = ApproverRef::parse("team:finance").unwrap();
    let member = |name: &str| ApproverRef::parse(format!("user:{name}")).unwrap();
    gate.gates()
        .register_team(&finance, [member("gina"), member("hugo")])
        .await
        .unwrap();
    let id = gate.ask(&refund(1)).await.id;
    for (who, error) in [
        ("user:zoe", GateError::NotApprover),
        ("team:finance", GateError::TeamCannotDecide),
        ("user:Gina", GateError::NotApprover),
    ] {
        assert_eq!(
            gate.decide(id, who, Decision::grant()).await.unwrap_err(),
            error
        );
    }
    gate.gates()
        .register_team(&finance, [member("hugo")])
        .await
        .unwrap();
    assert_eq!(
        gate.decide(id, "user:gina", Decision::grant())
            .await
            .unwrap_err(),
        GateError::NotApprover
    );
    assert_eq!(
        gate.decide(id, "user:hugo", Decision::grant())
            .await
            .unwrap()
            .state,
        RequestState::Granted
    );
    assert!(gate.gates().register_team(&member("x"), []).await.is_err());
    assert!(
        gate.gates()
            .register_team(&finance, [finance.clone()])
            .await
            .is_err()
    );
    let missing = gate
        .decide(RequestId::new(), "user:erin", Decision::grant())
        .await;
    assert_eq!(missing.unwrap_err(), GateError::NoRequest);
}

#[tokio::test]
async fn several_must_agree_each_once_and_one_no_ends_it() {
    let gate = Gate::new().await;
    let finance = ApproverRef::parse("team:finance").unwrap();
    let member = |name: &str| ApproverRef::parse(format!("user:{name}")).unwrap();
    gate.gates()
        .register_team(&finance, [member("gina"), member("gina@corp.test")])
        .await
        .unwrap();
    gate.gates().register(policy().quorum(3)).await.unwrap();
    let id = gate.ask(&refund(1)).await.id;
    assert_eq!(gate.grant(id).await.state, RequestState::Pending);
    let again = gate.decide(id, "user:erin", Decision::grant()).await;
    assert_eq!(again.unwrap_err(), GateError::AlreadyVoted);
    let second = gate
        .decide(id, "user:gina", Decision::grant())
        .await
        .unwrap();
    assert_eq!((second.state, second.votes), (RequestState::Pending, 2));
    let alias = gate
        .decide(id, "user:gina@corp.test", Decision::grant())
        .await;
    assert_eq!(
        alias.unwrap_err(),
        GateError::AlreadyVoted,
        "two names of one person"
    );
    let third = gate
        .decide(id, "user:frank", Decision::grant())
        .await
        .unwrap();
    assert_eq!((third.state, third.votes), (RequestState::Granted, 3));
    assert_eq!(gate.entries("gate.voted").await.len(), 2);
    assert_eq!(gate.entries("gate.granted").await.len(), 1);

    let id = gate.ask(&refund(2)).await.id;
    gate.grant(id).await;
    let no = gate
        .decide(id, "user:frank", Decision::deny().because("too much"))
        .await
        .unwrap();
    assert_eq!(no.state, RequestState::Denied);
    let late = gate
        .decide(id, "user:gina", Decision::grant())
        .await
        .unwrap_err();
    assert_eq!(
        late,
        GateError::NotPending {
            state: RequestState::Denied
        }
    );
    let denied = gate.entries("gate.denied").await;
    assert_eq!(
        (&denied[0]["reason"], &denied[0]["approver"]),
        (&json!("too much"), &json!("user:frank"))
    );
    let error = gate.redeem(&refund(2)).await.unwrap_err();
    assert_eq!(error, GateError::Denied { request: id });
}

#[tokio::test]
async fn a_narrowed_grant_lets_the_narrowed_call_through_and_no_other() {
    let gate = Gate::with_policy().await;
    let request = gate.ask(&refund(900)).await;
    let asked = json!({"invoice": "inv_381", "amount": 900});
    // Who narrows what he was not shown is told.
    let unseen = Narrower::than(&json!({"invoice": "inv_381", "amount": 950})).unwrap();
    let answer = gate
        .decide(request.id, "user:erin", Decision::narrow(unseen))
        .await;
    assert_eq!(answer.unwrap_err(), GateError::NotWhatWasAsked);
    let to = Narrower::than(&asked).unwrap().set("amount", &500).unwrap();
    gate.decide(request.id, "user:erin", Decision::narrow(to))
        .await
        .unwrap();
    assert_eq!(
        gate.redeem(&refund(900)).await.unwrap_err(),
        GateError::Narrowed {
            request: request.id
        }
    );
    assert!(matches!(
        gate.redeem(&refund(499)).await,
        Err(GateError::Pending { .. })
    ));
    let used = gate
        .redeem(&refund(500))
        .await
        .unwrap()
        .use_up()
        .await
        .unwrap();
    assert_eq!(used.request, Some(request.id));
    assert!(matches!(
        gate.redeem(&refund(500)).await,
        Err(GateError::Pending { .. })
    ));
}

#[tokio::test]
async fn those_who_agree_agree_to_the_same() {
    let gate = Gate::new().await;
    gate.gates().register(policy().quorum(2)).await.unwrap();
    let id = gate.ask(&refund(900)).await.id;
    let asked = json!({"invoice": "inv_381", "amount": 900});
    let to = Narrower::than(&asked).unwrap().set("amount", &500).unwrap();
    gate.decide(id, "user:erin", Decision::narrow(to.clone()))
        .await
        .unwrap();
    let whole = gate.decide(id, "user:frank", Decision::grant()).await;
    assert_eq!(whole.unwrap_err(), GateError::OtherArguments);
    let same = gate
        .decide(id, "user:frank", Decision::narrow(to))
        .await
        .unwrap();
    assert_eq!(same.state, RequestState::Granted);
}

#[tokio::test]
async fn a_request_is_escalated_and_withdrawn_on_record() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    let gina = OperatorId::parse("gina").unwrap();
    let up = Escalation::to(["user:boss"])
        .unwrap()
        .for_another(Duration::from_hours(2))
        .because("erin is away");
    gate.gates().escalate(id, &gina, up).await.unwrap();
    assert_eq!(
        gate.decide(id, "user:erin", Decision::grant())
            .await
            .unwrap_err(),
        GateError::NotApprover
    );
    gate.clock.advance(Duration::from_secs(7_000));
    assert_eq!(gate.state(id).await, RequestState::Pending);
    let longer = Escalation::longer(Duration::ZERO);
    assert_eq!(
        gate.gates().escalate(id, &gina, longer).await,
        Err(InvalidApprovalPolicy::Life.into())
    );
    let escalated = gate.entries("gate.escalated").await;
    assert_eq!(
        (&escalated[0]["by"], &escalated[0]["reason"]),
        (&json!("gina"), &json!("erin is away"))
    );

    let stranger = Principal::agent(agent());
    let other = gate
        .gates()
        .withdraw(id, Withdrawer::Requester(&stranger))
        .await;
    assert_eq!(other, Err(GateError::NotRequester));
    let mine = gate
        .gates()
        .withdraw(id, Withdrawer::Requester(&me()))
        .await;
    assert_eq!(mine, Ok(RequestState::Withdrawn));
    let again = gate
        .gates()
        .withdraw(id, Withdrawer::Requester(&me()))
        .await;
    assert_eq!(
        again,
        Err(GateError::NotPending {
            state: RequestState::Withdrawn
        })
    );
    let late = gate
        .decide(id, "user:boss", Decision::grant())
        .await
        .unwrap_err();
    assert_eq!(
        late,
        GateError::NotPending {
            state: RequestState::Withdrawn
        }
    );
    let by = gate
        .gates()
        .escalate(id, &gina, Escalation::longer(Duration::from_mins(1)))
        .await;
    assert_eq!(
        by,
        Err(GateError::NotPending {
            state: RequestState::Withdrawn
        })
    );
    assert_eq!(gate.entries("gate.withdrawn").await.len(), 1);
}

#[tokio::test]
async fn what_is_past_its_time_is_decided_by_nobody() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    gate.clock.advance(Duration::from_mins(10));
    let late = gate
        .decide(id, "user:erin", Decision::grant())
        .await
        .unwrap_err();
    assert_eq!(
        late,
        GateError::NotPending {
            state: RequestState::Expired
        }
    );
    assert!(gate.gates().pending(None).await.unwrap().is_empty());
    let next = gate.ask(&refund(1)).await;
    let pending = gate.gates().pending(None).await.unwrap();
    assert_eq!(pending, std::slice::from_ref(&next));
    assert!(
        gate.gates()
            .pending(Some(next.id))
            .await
            .unwrap()
            .is_empty()
    );
}
