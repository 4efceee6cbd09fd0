//! Decisions that are made elsewhere, by a signed token.

use portcullis::TenantId;
use portcullis::gates::TokenFault;

use super::*;

const LIFE: Duration = Duration::from_mins(5);

async fn token(gate: &Gate, id: RequestId, who: &str, decision: Decision) -> String {
    let who = ApproverRef::parse(who).unwrap();
    let token = gate
        .gates()
        .token_for(id, &who, &decision, LIFE)
        .await
        .unwrap();
    assert_eq!(format!("{token:?}"), "ApprovalToken(..)");
    token.expose().to_owned()
}

fn fault(answer: Result<Decided, GateError>) -> TokenFault {
    match answer {
        Err(GateError::Token(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_makes_one_decision_of_one_person() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(900)).await.id;
    let yes = token(&gate, id, "user:erin", Decision::grant().because("by mail")).await;
    let no = token(&gate, id, "user:frank", Decision::deny()).await;
    assert!(yes.starts_with("pca1.") && yes != no);
    // Another process, which has only the secret and the database.
    let elsewhere = gate.another().await;
    let decided = elsewhere.gates().decide_by_token(&yes).await.unwrap();
    assert_eq!(decided.state, RequestState::Granted);
    assert_eq!(
        fault(gate.gates().decide_by_token(&yes).await),
        TokenFault::Used
    );
    // The other one came too late, and was not used.
    let late = gate.gates().decide_by_token(&no).await.unwrap_err();
    assert_eq!(
        late,
        GateError::NotPending {
            state: RequestState::Granted
        }
    );
    elsewhere.shutdown().await;
    let granted = gate.entries("gate.granted").await;
    assert_eq!(
        (&granted[0]["reason"], &granted[0]["approver"]),
        (&json!("by mail"), &json!("user:erin"))
    );
    assert_eq!(gate.entries("gate.token_consumed").await.len(), 1);
    assert_eq!(gate.entries("gate.token_replay_blocked").await.len(), 1);
    let trail = gate
        .gov
        .audit()
        .events(&portcullis::audit::Query::all())
        .await
        .unwrap();
    for part in yes.split('.').skip(1) {
        assert!(
            trail
                .entries
                .iter()
                .all(|entry| !format!("{entry:?}").contains(part))
        );
    }
}

#[tokio::test]
async fn any_changed_byte_of_a_token_is_refused() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(900)).await.id;
    let good = token(&gate, id, "user:erin", Decision::grant()).await;
    let bytes = good.as_bytes();
    for at in 0..bytes.len() {
        for x in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40] {
            let mut changed = bytes.to_vec();
            changed[at] ^= x;
            if let Ok(text) = String::from_utf8(changed) {
                assert_eq!(
                    fault(gate.gates().decide_by_token(&text).await),
                    TokenFault::Invalid,
                    "{at} {x}"
                );
            }
        }
        assert_eq!(
            fault(gate.gates().decide_by_token(&good[..at]).await),
            TokenFault::Invalid
        );
    }
    let long = "a".repeat(1 << 20);
    for other in [
        format!("{good}."),
        format!("{good}.x"),
        format!(" {good}"),
        good.replace("pca1", "pca2"),
        format!("{good}="),
        long,
    ] {
        assert_eq!(
            fault(gate.gates().decide_by_token(&other).await),
            TokenFault::Invalid
        );
    }
    let head = good.rsplit_once('.').unwrap().0;
    for mac in ["", "AA", &"A".repeat(43)] {
        assert_eq!(
            fault(gate.gates().decide_by_token(&format!("{head}.{mac}")).await),
            TokenFault::Invalid
        );
    }
    assert_eq!(gate.state(id).await, RequestState::Pending);
    assert_eq!(
        gate.gates().decide_by_token(&good).await.unwrap().state,
        RequestState::Granted
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_replays_at_once_one_decides() {
    let gate = Gate::new().await;
    gate.gates().register(policy().quorum(2)).await.unwrap();
    let id = gate.ask(&refund(900)).await.id;
    let text = token(&gate, id, "user:erin", Decision::grant()).await;
    let racing: Vec<_> = (0..100)
        .map(|_| {
            let (gates, text) = (gate.gates().clone(), text.clone());
            tokio::spawn(async move { gates.decide_by_token(&text).await })
        })
        .collect();
    let mut won = 0;
    for racer in racing {
        match racer.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error, GateError::Token(TokenFault::Used)),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(gate.gates().find(id).await.unwrap().votes, 1);
    assert_eq!(gate.entries("gate.token_consumed").await.len(), 1);
    assert_eq!(gate.entries("gate.token_replay_blocked").await.len(), 99);
}

#[tokio::test]
async fn a_token_ends_with_its_time_its_tenant_its_request_and_its_approvers_right() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(900)).await.id;
    let text = token(&gate, id, "user:erin", Decision::grant()).await;
    let other = gate
        .gov
        .for_tenant(TenantId::parse("other").unwrap())
        .await
        .unwrap();
    assert_eq!(
        fault(other.gates().decide_by_token(&text).await),
        TokenFault::Invalid
    );
    gate.clock.advance(LIFE);
    assert_eq!(
        fault(gate.gates().decide_by_token(&text).await),
        TokenFault::Expired
    );
    assert_eq!(gate.state(id).await, RequestState::Pending);

    // He has become an agent meanwhile, or is asked no more.
    let text = token(&gate, id, "user:frank", Decision::grant()).await;
    let frank = portcullis::scope::ScopePolicy::new(AgentId::parse("frank").unwrap());
    gate.gov.scope().register(frank).await.unwrap();
    let answer = gate.gates().decide_by_token(&text).await;
    assert_eq!(answer.unwrap_err(), GateError::SelfApproval);
    let text = token(&gate, id, "user:erin", Decision::deny()).await;
    let gina = OperatorId::parse("gina").unwrap();
    let up = portcullis::gates::Escalation::to(["user:boss"]).unwrap();
    gate.gates().escalate(id, &gina, up).await.unwrap();
    let answer = gate.gates().decide_by_token(&text).await;
    assert_eq!(answer.unwrap_err(), GateError::NotApprover);
    let boss = ApproverRef::parse("user:boss").unwrap();
    for life in [
        Duration::ZERO,
        Duration::from_millis(1_500),
        Duration::from_secs(86_401),
    ] {
        let none = gate
            .gates()
            .token_for(id, &boss, &Decision::grant(), life)
            .await;
        assert!(matches!(none, Err(GateError::Policy(_))));
    }
}

#[tokio::test]
async fn f53_a_token_that_nobody_who_decides_has_given_out_decides_nothing() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(900)).await.id;
    let yes = token(&gate, id, "user:erin", Decision::grant()).await;
    let no = token(&gate, id, "user:frank", Decision::deny()).await;
    // As if it had been made by a program that has the secret, and may not decide; and the other one in its name.
    let pool = gate.test.database().connect_pool().await.unwrap();
    for sql in [
        "ALTER TABLE portcullis.approval_tokens_issued DISABLE TRIGGER USER",
        "WITH gone AS (DELETE FROM portcullis.approval_tokens_issued i
                        WHERE i.claims_hash = (SELECT claims_hash FROM portcullis.approval_tokens_issued ORDER BY 1 DESC LIMIT 1)
                    RETURNING i.claims_hash)
         UPDATE portcullis.approval_tokens_issued i SET claims_hash = gone.claims_hash
           FROM gone WHERE i.claims_hash <> gone.claims_hash",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    for text in [&yes, &no] {
        let decided = gate.gates().decide_by_token(text).await;
        assert_eq!(fault(decided), TokenFault::Invalid);
    }
    assert_eq!(gate.state(id).await, RequestState::Pending);
}
