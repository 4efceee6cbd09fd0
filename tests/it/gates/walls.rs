//! Single protections, each met alone: what stands behind another one is asked for by itself.

use portcullis::halt::Target;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use super::*;

/// Returns when somebody waits for a lock in this database.
async fn somebody_waits(admin: &mut sqlx::PgConnection) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting)
        .fetch_one(&mut *admin)
        .await
        .unwrap()
        == 0
    {
        tokio::task::yield_now().await;
    }
}

/// Two that are decided together by one person were both looked at before either was counted.
#[tokio::test(flavor = "multi_thread")]
async fn f41_one_person_counts_once_however_often_he_races_with_himself() {
    let gate = Gate::new().await;
    let two = policy().quorum(2);
    gate.gates().register(two).await.unwrap();
    let id = gate.ask(&refund(1)).await.id;
    let mut admin = gate.test.options().connect().await.unwrap();
    let mut watcher = gate.test.options().connect().await.unwrap();
    let mut lock = admin.begin().await.unwrap();
    lock.execute("SELECT 1 FROM portcullis.approval_requests FOR UPDATE")
        .await
        .unwrap();
    let racing: Vec<_> = (0..2)
        .map(|_| {
            let gates = gate.gates().clone();
            let erin = ApproverRef::parse("user:erin").unwrap();
            tokio::spawn(async move { gates.decide(id, &erin, Decision::grant()).await })
        })
        .collect();
    let both = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(both)
        .fetch_one(&mut watcher)
        .await
        .unwrap()
        < 2
    {
        tokio::task::yield_now().await;
    }
    lock.rollback().await.unwrap();
    let mut answers = Vec::new();
    for one in racing {
        answers.push(one.await.unwrap());
    }
    let counted = answers.iter().flatten().count();
    assert_eq!(counted, 1, "{answers:?}");
    assert!(answers.contains(&Err(GateError::AlreadyVoted)));
    assert_eq!(gate.state(id).await, RequestState::Pending);
}

/// Who was looked at before the request went to others decides it no more.
#[tokio::test(flavor = "multi_thread")]
async fn f42_nobody_decides_who_was_asked_when_he_looked_and_is_not_any_more() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    let mut admin = gate.test.options().connect().await.unwrap();
    let mut watcher = gate.test.options().connect().await.unwrap();
    let mut escalation = admin.begin().await.unwrap();
    // As an escalation does, which has not committed yet.
    escalation
        .execute(
            "UPDATE portcullis.approval_requests
                SET approvers = '{user:boss}', revision = revision + 1",
        )
        .await
        .unwrap();
    let gates = gate.gates().clone();
    let erin = ApproverRef::parse("user:erin").unwrap();
    let deciding = tokio::spawn(async move { gates.decide(id, &erin, Decision::grant()).await });
    somebody_waits(&mut watcher).await;
    escalation.commit().await.unwrap();
    assert_eq!(deciding.await.unwrap(), Err(GateError::NotApprover));
    assert_eq!(gate.state(id).await, RequestState::Pending);
}

#[tokio::test]
async fn f39_nobody_gets_a_token_for_what_he_may_not_decide_himself() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    for (who, why) in [
        ("user:zoe", GateError::NotApprover),
        ("user:dana", GateError::SelfApproval),
        ("user:billing-agent", GateError::SelfApproval),
        ("team:finance", GateError::TeamCannotDecide),
    ] {
        let who = ApproverRef::parse(who).unwrap();
        let life = Duration::from_mins(5);
        let token = gate
            .gates()
            .token_for(id, &who, &Decision::grant(), life)
            .await;
        assert_eq!(token.unwrap_err(), why);
    }
}

/// An agent that is halted neither takes what was granted nor uses what it holds; resumed, it does.
#[tokio::test]
async fn f42_what_was_granted_is_neither_taken_nor_used_while_its_agent_is_halted() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    gate.grant(id).await;
    let held = gate.redeem(&refund(1)).await.unwrap();
    let (target, gina) = (Target::Agent(agent()), OperatorId::parse("gina").unwrap());
    let halt = gate.gov.halt();
    halt.halt(&target, &gina, "a drill").await.unwrap();
    let error = held.use_up().await.unwrap_err();
    assert!(matches!(error, GateError::Halted(_)), "{error}");
    let error = gate.redeem(&refund(1)).await.unwrap_err();
    assert!(matches!(error, GateError::Halted(_)), "{error}");
    halt.resume(&target, &gina, "it is over").await.unwrap();
    let again = async {
        loop {
            // It is given back behind their back.
            match gate.redeem(&refund(1)).await {
                Err(GateError::NotHeld) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        }
    };
    again.await.use_up().await.unwrap();
    assert_eq!(gate.state(id).await, RequestState::Consumed);
}

/// Whoever holds an approval is not robbed of it by one that comes later.
#[tokio::test]
async fn f38_what_one_call_holds_no_other_one_takes() {
    let gate = Gate::with_policy().await;
    let other = gate.another().await;
    let id = gate.ask(&refund(1)).await.id;
    gate.grant(id).await;
    let held = gate.redeem(&refund(1)).await.unwrap();
    for gates in [gate.gates(), other.gates()] {
        let second = gates.redeem(&refund(1), Ask::policy()).await;
        assert_eq!(second.unwrap_err(), GateError::NotHeld);
    }
    assert_eq!(held.use_up().await.unwrap().request, Some(id));
    other.shutdown().await;
}
