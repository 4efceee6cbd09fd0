//! Asking, finding, using.

use super::*;

#[tokio::test]
async fn f38_an_approval_for_one_action_satisfies_no_other_and_is_used_once() {
    let gate = Gate::with_policy().await;
    let call = refund(900);
    let request = gate.ask(&call).await;
    gate.grant(request.id).await;

    let args = json!({"invoice": "inv_381", "amount": 900});
    let of = |who: &Principal| Call::tool(who, "refund").args(&args);
    let base = me();
    let parent = Principal::agent(AgentId::parse("planner").unwrap());
    let other = |who: &Principal, name| Call::tool(who, name).args(&args);
    let others = [
        refund(901),
        Call::tool(&base, "refund").args(&json!({"invoice": "inv_381", "amount": "900"})),
        Call::tool(&base, "refund").args(&json!({"invoice": "inv_381", "amount": 900.0})),
        Call::tool(&base, "refund").args(&json!({"invoice": "inv_381", "amount": 900, "x": null})),
        Call::tool(&base, "refund"),
        other(&base, "payments.refund"),
        of(&base).resource("inv_381"),
        of(&base).api("https://api.example.com/refunds"),
        of(&base).provider("openai"),
        of(&base.clone().session(SessionId::parse("s-2").unwrap())),
        of(&base.clone().on_behalf_of(UserId::parse("u_18").unwrap())),
        of(&base.clone().operated_by(OperatorId::parse("gina").unwrap())),
        of(&base.clone().child_of(&parent)),
        of(&base.clone().child_of(&parent.clone().child_of(&parent))),
    ];
    for (n, call) in others.iter().enumerate() {
        let error = gate.redeem(call).await.unwrap_err();
        let GateError::Pending { request: asked } = error else {
            panic!("{n}: {error:?}");
        };
        assert_ne!(asked, request.id, "{n}");
    }
    // The same arguments in another order are the same.
    let same = Call::tool(&me(), "refund").args(
        &serde_json::value::RawValue::from_string(r#"{"invoice":"inv_381", "amount":900}"#.into())
            .unwrap(),
    );
    let used = gate.redeem(&same).await.unwrap().use_up().await.unwrap();
    assert_eq!(used.request, Some(request.id));
    assert_eq!(gate.state(request.id).await, RequestState::Consumed);
    let again = gate.redeem(&call).await.unwrap_err();
    let GateError::Pending { request: next } = again else {
        panic!("{again:?}");
    };
    assert_ne!(next, request.id);
    let consumed = gate.entries("gate.consumed").await;
    assert_eq!(consumed.len(), 1);
    assert_eq!(consumed[0]["request_id"], json!(request.id.to_string()));
}

#[tokio::test]
async fn f40_asking_again_finds_the_same_request_and_its_grant_also_after_a_restart() {
    let gate = Gate::with_policy().await;
    let asking = (0..50).map(|_| {
        let gates = gate.gates().clone();
        tokio::spawn(async move {
            gates
                .request(&refund(900), Ask::policy())
                .await
                .unwrap()
                .id()
        })
    });
    let mut ids = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        ids.push(asked.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one request, however many ask");
    assert_eq!(gate.entries("gate.requested").await.len(), 1);

    let restarted = gate.another().await;
    let found = restarted
        .gates()
        .request(&refund(900), Ask::policy())
        .await
        .unwrap();
    assert_eq!(
        (found.id(), found.state()),
        (ids[0], Some(RequestState::Pending))
    );
    gate.grant(ids[0]).await;
    let found = restarted
        .gates()
        .request(&refund(900), Ask::policy())
        .await
        .unwrap();
    assert_eq!(
        (found.id(), found.state()),
        (ids[0], Some(RequestState::Granted))
    );
    let approval = restarted
        .gates()
        .redeem(&refund(900), Ask::policy())
        .await
        .unwrap();
    assert_eq!(approval.request(), Some(ids[0]));
    approval.use_up().await.unwrap();
    let next = gate.ask(&refund(900)).await;
    assert_ne!(next.id, ids[0], "what was used is not found again");
}

#[tokio::test]
async fn f42_a_grant_does_not_outlive_its_time_the_policy_or_its_withdrawal() {
    let gate = Gate::with_policy().await;
    // Time.
    let first = gate.ask(&refund(1)).await;
    gate.clock.advance(Duration::from_secs(500));
    let decided = gate.grant(first.id).await;
    assert_eq!(
        decided.expires_at,
        Timestamp::parse("2026-11-21T12:18:20Z").unwrap()
    );
    gate.clock.advance(Duration::from_mins(10));
    let error = gate.redeem(&refund(1)).await.unwrap_err();
    assert!(
        matches!(error, GateError::Pending { request } if request != first.id),
        "{error:?}"
    );
    assert_eq!(gate.state(first.id).await, RequestState::Expired);

    // The policy, also when it changes in another process.
    let second = gate.ask(&refund(2)).await;
    gate.grant(second.id).await;
    let elsewhere = gate.another().await;
    elsewhere
        .gates()
        .register(policy().quorum(2))
        .await
        .unwrap();
    let error = elsewhere
        .gates()
        .redeem(&refund(2), Ask::policy())
        .await
        .unwrap_err();
    let GateError::Pending { request: third } = error else {
        panic!("{error:?}");
    };
    assert_eq!(gate.state(second.id).await, RequestState::Revoked);
    assert_eq!(gate.gates().find(third).await.unwrap().quorum, 2);

    // And while it is held: what was true when it was taken is looked at once more.
    elsewhere.gates().register(policy()).await.unwrap();
    let fourth = elsewhere
        .gates()
        .request(&refund(4), Ask::policy())
        .await
        .unwrap()
        .id();
    gate.grant(fourth).await;
    let held = elsewhere
        .gates()
        .redeem(&refund(4), Ask::policy())
        .await
        .unwrap();
    elsewhere
        .gates()
        .register(policy().quorum(2))
        .await
        .unwrap();
    assert_eq!(held.use_up().await.unwrap_err(), GateError::NotHeld);

    // Taken back, even while a call is about to use it.
    elsewhere.gates().register(policy()).await.unwrap();
    let fifth = elsewhere
        .gates()
        .request(&refund(5), Ask::policy())
        .await
        .unwrap()
        .id();
    gate.grant(fifth).await;
    let held = elsewhere
        .gates()
        .redeem(&refund(5), Ask::policy())
        .await
        .unwrap();
    let operator = OperatorId::parse("gina").unwrap();
    let by = portcullis::gates::Withdrawer::Operator(&operator);
    assert_eq!(
        gate.gates().withdraw(fifth, by).await,
        Ok(RequestState::Revoked)
    );
    assert_eq!(held.use_up().await.unwrap_err(), GateError::NotHeld);
    assert_eq!(gate.entries("gate.consumed").await.len(), 0);
    let revoked = gate.entries("gate.revoked").await;
    let has = |key: &str, value: &str| revoked.iter().any(|entry| entry[key] == value);
    assert!(has("decision", "policy_changed") && has("by", "operator:gina"));
}

#[tokio::test]
async fn f44_whoever_waits_is_woken_by_a_decision_elsewhere() {
    let gate = Gate::with_policy().await;
    let request = gate.ask(&refund(900)).await;
    let elsewhere = gate.another().await;
    let waiting = {
        let gates = elsewhere.gates().clone();
        tokio::spawn(async move { gates.wait(request.id, Duration::from_mins(1)).await })
    };
    gate.grant(request.id).await;
    assert_eq!(waiting.await.unwrap().unwrap().state, RequestState::Granted);

    // Bounded, and not blocking where it need not be.
    let next = gate.ask(&refund(901)).await;
    let still = gate.gates().wait(next.id, Duration::from_millis(1)).await;
    match still {
        Ok(found) => assert_eq!(found.state, RequestState::Pending),
        Err(error) => assert_eq!(error.kind(), portcullis::ErrorKind::Unavailable),
    }
    gate.clock.advance(Duration::from_secs(601));
    let over = gate
        .gates()
        .wait(next.id, Duration::from_mins(1))
        .await
        .unwrap();
    assert_eq!(over.state, RequestState::Expired);
    assert_eq!(gate.entries("gate.expired").await.len(), 1);
    let nothing = gate
        .gates()
        .wait(RequestId::new(), Duration::from_mins(1))
        .await;
    assert_eq!(nothing, Err(GateError::NoRequest));
}

#[tokio::test]
async fn what_is_given_back_is_used_later_and_what_a_dead_process_held_too() {
    let gate = Gate::with_policy().await;
    let request = gate.ask(&refund(900)).await;
    gate.grant(request.id).await;
    // Money refuses.
    let held = gate.redeem(&refund(900)).await.unwrap();
    assert_eq!(
        gate.redeem(&refund(900)).await.unwrap_err(),
        GateError::NotHeld
    );
    held.give_back().await;
    // Dropped: given back in the background, which shutdown waits for.
    let other = gate.another().await;
    drop(
        other
            .gates()
            .redeem(&refund(900), Ask::policy())
            .await
            .unwrap(),
    );
    other.shutdown().await;
    // A process that dies gives nothing back.
    let lost = gate.redeem(&refund(900)).await.unwrap();
    gate.clock.advance(Duration::from_secs(31));
    let held = gate.redeem(&refund(900)).await.unwrap();
    // The first was only slow: it finds that it is another's.
    assert_eq!(lost.use_up().await.unwrap_err(), GateError::NotHeld);
    held.use_up().await.unwrap();
    assert_eq!(gate.entries("gate.consumed").await.len(), 1);
}

#[tokio::test]
async fn a_call_that_no_policy_names_asks_on_the_hosts_terms_and_a_refusal_holds() {
    let gate = Gate::with_policy().await;
    let call = Call::tool(&me(), "read_invoice").args(&json!({"id": 1}));
    let nobody = gate.gates().request(&call, Ask::policy()).await;
    assert!(matches!(nobody, Err(GateError::Policy(_))), "{nobody:?}");
    let ask = || {
        Ask::of(["user:erin"])
            .unwrap()
            .expires_after(Duration::from_mins(1))
    };
    let request = gate.gates().request(&call, ask()).await.unwrap().id();
    gate.decide(request, "user:erin", Decision::deny().because("no"))
        .await
        .unwrap();
    for _ in 0..2 {
        let error = gate.gates().redeem(&call, ask()).await.unwrap_err();
        assert_eq!(error, GateError::Denied { request });
    }
    gate.clock.advance(Duration::from_secs(61));
    let error = gate.gates().redeem(&call, ask()).await.unwrap_err();
    assert!(matches!(error, GateError::Pending { request: next } if next != request));
}

#[tokio::test]
async fn a_policy_is_in_force_everywhere_and_a_broken_one_holds_its_agent_back() {
    let gate = Gate::with_policy().await;
    let elsewhere = gate.another().await;
    assert_eq!(elsewhere.gates().policies(), [policy()]);
    let pool = gate.test.database().connect_pool().await.unwrap();
    let change = async |name: &str, document: &str| {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query(
            "UPDATE portcullis.policy_revisions SET revision = revision + 1 WHERE module = 'gates'",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO portcullis.policies AS p (tenant_id, module, name, version, revision, document, updated_at)
             SELECT tenant_id, module, $1, 1, revision, $2, now() FROM portcullis.policy_revisions WHERE module = 'gates'
             ON CONFLICT (tenant_id, module, name) DO UPDATE
                SET version = p.version + 1, revision = excluded.revision, document = excluded.document",
        )
        .bind(name)
        .bind(document)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    };
    let before = elsewhere.gates().status().revision;
    change("billing-agent", "{\"quorum\":0}").await;
    change("other", "{}").await;
    for gov in [&gate.gov, &elsewhere] {
        for _ in 0..500 {
            if gov.gates().status().revision >= before + 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = gov.gates().status();
        assert_eq!(status.broken, [AgentId::parse("other").unwrap()]);
        assert_eq!(
            gov.gates().policies(),
            [policy()],
            "the last good one stays"
        );
    }
    let other = Call::tool(&Principal::agent(AgentId::parse("other").unwrap()), "x");
    let error = gate
        .gates()
        .request(&other, Ask::of(["user:erin"]).unwrap())
        .await;
    assert_eq!(error, Err(GateError::BrokenPolicy));
    // A process that has never seen a good one knows nothing better.
    let late = gate.another().await;
    assert_eq!(late.gates().status().broken.len(), 2);
}

#[tokio::test]
async fn what_is_shown_is_what_is_asked_for_and_arguments_are_nowhere() {
    let gate = Gate::with_policy().await;
    let call = Call::tool(&me(), "refund").args(&json!({"to": "canary-7f3a", "amount": 3}));
    let request = gate.ask(&call).await;
    let shown = gate.gates().canonical(&call).unwrap();
    let args: Value =
        serde_json::from_str(shown.lines().nth(1).unwrap().strip_prefix("args ").unwrap()).unwrap();
    assert!(gate.gates().is_about(request.id, &args).await.unwrap());
    assert!(
        !gate
            .gates()
            .is_about(request.id, &json!({"amount": 3}))
            .await
            .unwrap()
    );
    gate.grant(request.id).await;
    gate.redeem(&call).await.unwrap().use_up().await.unwrap();
    gate.gov.shutdown().await;
    let pool = gate.test.database().connect_pool().await.unwrap();
    let found: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM portcullis.approval_requests r WHERE r::text LIKE '%canary%')
              + (SELECT count(*) FROM portcullis.entries e WHERE e::text LIKE '%canary%')
              + (SELECT count(*) FROM portcullis.outbox o WHERE o::text LIKE '%canary%')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(found, 0);
}

const URL: &str = "PORTCULLIS_GATES_CHILD_URL";

/// Not a test of its own: the agent that was started again.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let gov = Governance::builder(Database::url(url), keys())
        .connect()
        .await
        .unwrap();
    let granted = gov
        .gates()
        .request(&refund(900), Ask::policy())
        .await
        .unwrap();
    let waited = gov
        .gates()
        .wait(granted.id(), Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(waited.state, RequestState::Granted);
    let approval = gov
        .gates()
        .redeem(&refund(900), Ask::policy())
        .await
        .unwrap();
    approval.use_up().await.unwrap();
    gov.shutdown().await;
}

#[tokio::test]
async fn f40_another_process_uses_what_was_asked_for_here_and_granted_while_it_waits() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = crate::common::governance(&test.database()).await.unwrap();
    gov.gates().register(policy()).await.unwrap();
    let id = gov
        .gates()
        .request(&refund(900), Ask::policy())
        .await
        .unwrap()
        .id();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["gates::requests::child", "--exact"])
        .env(URL, crate::common::url(&test.options()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let erin = ApproverRef::parse("user:erin").unwrap();
    gov.gates()
        .decide(id, &erin, Decision::grant())
        .await
        .unwrap();
    assert!(child.wait().await.unwrap().success());
    let found = gov.gates().find(id).await.unwrap();
    assert_eq!(found.state, RequestState::Consumed);
    assert!(gov.audit().verify_all().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_wait_that_ends_first_says_that_the_request_is_pending() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    for _ in 0..5 {
        let waited = gate.gates().wait(id, Duration::from_millis(150)).await;
        assert_eq!(waited.unwrap().state, RequestState::Pending);
    }
}

#[tokio::test]
async fn f42_an_approval_is_held_against_the_policy_that_is_stored_and_not_only_the_one_that_was_heard_of()
 {
    let gate = Gate::new().await;
    let hour = Duration::from_hours(1);
    let lenient = policy().allow_standing(5, hour);
    gate.gates().register(lenient).await.unwrap();
    let erin = ApproverRef::parse("user:erin").unwrap();
    let advance = portcullis::gates::StandingGrant::of_call(&refund(2), 5, hour);
    gate.gates().grant_standing(advance, &erin).await.unwrap();
    let id = gate.ask(&refund(1)).await.id;
    gate.grant(id).await;
    let by_request = gate.redeem(&refund(1)).await.unwrap();
    let in_advance = gate.redeem(&refund(2)).await.unwrap();
    // Nobody is told.
    let pool = gate.test.database().connect_pool().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    for sql in [
        "UPDATE portcullis.policy_revisions SET revision = revision + 1 WHERE module = 'gates'",
        "UPDATE portcullis.policies p
            SET version = p.version + 1, revision = r.revision, document = replace(p.document, 'user:frank', 'user:zoe')
           FROM portcullis.policy_revisions r
          WHERE r.module = p.module AND p.module = 'gates'",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    for held in [by_request, in_advance] {
        assert_eq!(held.use_up().await.unwrap_err(), GateError::NotHeld);
    }
    assert_eq!(gate.entries("gate.consumed").await.len(), 0);
}

#[tokio::test]
async fn giving_back_goes_on_when_nobody_waits_for_it_any_more() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    gate.grant(id).await;
    let other = gate.another().await;
    let held = other.gates().redeem(&refund(1), Ask::policy()).await;
    tokio::select! {
        biased;
        () = held.unwrap().give_back() => {}
        () = std::future::ready(()) => {}
    }
    // Which waits for what goes on in the background.
    other.shutdown().await;
    let held = gate.redeem(&refund(1)).await.unwrap();
    assert_eq!(held.use_up().await.unwrap().request, Some(id));
}

#[tokio::test]
async fn whoever_waits_for_ever_waits_for_as_long_as_it_takes() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    gate.grant(id).await;
    let waited = gate.gates().wait(id, Duration::MAX).await;
    assert_eq!(waited.unwrap().state, RequestState::Granted);
}

#[tokio::test]
async fn one_approval_serves_all_contracts_of_a_guarded_call() {
    use portcullis::contracts::{Condition, Contract, Ending};

    let gate = Gate::new().await;
    for name in ["four-eyes", "six-eyes"] {
        let contract = Contract::new(name)
            .for_tools(["wipe"])
            .requires(Condition::Approved);
        gate.gov.contracts().register(contract).await.unwrap();
    }
    let call = Call::tool(&me(), "wipe");
    let asked = gate
        .gates()
        .request(&call, Ask::of(["user:erin"]).unwrap())
        .await;
    gate.grant(asked.unwrap().id()).await;
    let guard = gate.gov.contracts().guard(&call).await.unwrap();
    guard.finish(Ending::failed()).await.unwrap();
    assert!(
        gate.gov.contracts().guard(&call).await.is_err(),
        "used once"
    );
}
