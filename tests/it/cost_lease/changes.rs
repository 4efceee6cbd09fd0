//! What becomes of slices that are lost, whose limits change, or that others ask for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::cost::{
    Amount, Budget, Calls, Cost, CostError, CostSettings, LeaseSettings, Resolution, Warning,
};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, BudgetName, Ceiling, Clock, ManualClock, Principal, ReservationId, SystemClock, Usd,
};
use sqlx::{ConnectOptions, Connection};

use super::{CENT, agent, leased, live, me, process, quick, spend, taken, until};
use crate::common::proxy::{Fault, Proxy, Statement};
use crate::cost::{count, ledger_agrees, open};

const SETTLED_CALLS: &str =
    "SELECT sum(settled_calls)::bigint FROM portcullis.budget_windows WHERE call_limit IS NOT NULL";

/// Nothing is reported by itself.
fn silent() -> CostSettings {
    let leases = LeaseSettings::default().report_every(Duration::from_hours(1));
    CostSettings::default().leases(leases)
}

/// Has every slice swept, by a process whose clock says that all leases are over.
pub(super) async fn lose_all(test: &TestDatabase) -> Cost {
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    clock.advance(Duration::from_mins(30));
    let later = open(&test.database(), clock, quick()).await;
    // It sweeps by itself, too, and may be at it.
    while live(test).await > 0 {
        later.sweep().await.unwrap();
    }
    later
}

/// A process that knows that budgets are leased.
async fn knowing(test: &TestDatabase, settings: CostSettings) -> Cost {
    let cost = process(test, settings).await;
    cost.sweep().await.unwrap();
    cost
}

async fn execute(test: &TestDatabase, sql: &'static str) {
    let mut connection = test.options().connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn with_slice(budget: Budget) -> (TestDatabase, Cost) {
    super::with_slice(budget, silent()).await
}

#[tokio::test]
async fn of_a_budget_without_limits_nothing_is_forgotten_with_a_lost_slice() {
    let test = TestDatabase::fresh().await.unwrap();
    let cost = process(&test, silent()).await;
    let budget = Budget::for_agent(agent()).unlimited().leased(10);
    cost.register(budget).await.unwrap();
    let who = me();
    for _ in 0..5 {
        spend(&cost, &who).await.unwrap();
    }
    lose_all(&test).await;
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(
        taken(&test).await,
        Usd::cents(5 + 5),
        "of a session and a day"
    );
    let calls = "SELECT sum(settled_calls)::bigint FROM portcullis.budget_windows";
    assert_eq!(count(&test, calls).await, 5 + 5);
}

#[tokio::test]
async fn calls_of_a_lost_slice_that_were_not_made_are_given_back() {
    let budget = leased(100, 50).per_day(Calls(100));
    let (test, cost) = with_slice(budget).await;
    for _ in 0..2 {
        spend(&cost, &me()).await.unwrap();
    }
    lose_all(&test).await;
    let held = "SELECT (settled_calls + held_calls)::bigint FROM portcullis.budget_windows";
    assert!(count(&test, held).await >= 25, "for all that is known");
    // Its holder knows, when it comes back.
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(count(&test, SETTLED_CALLS).await, 3);
    assert_eq!(taken(&test).await, Usd::cents(3));

    // Of one whose holder is dead, somebody else may know that it spent nothing.
    let dead = knowing(&test, silent()).await;
    let held = dead.reserve(&me(), Ceiling::usd(CENT)).await.unwrap();
    std::mem::forget(held);
    let later = lose_all(&test).await;
    let mut connection = test.options().connect().await.unwrap();
    let id: uuid::Uuid = sqlx::query_scalar(
        "SELECT reservation_id FROM portcullis.reservations WHERE state = 'unknown'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    assert!(count(&test, SETTLED_CALLS).await > 20);
    let id = ReservationId::parse(id.to_string()).unwrap();
    later.resolve(id, Resolution::Release).await.unwrap();
    assert_eq!(count(&test, SETTLED_CALLS).await, 3);
    ledger_agrees(&test).await;
    // Once, however often it is said.
    later.resolve(id, Resolution::Release).await.unwrap_err();
    assert_eq!(count(&test, SETTLED_CALLS).await, 3);
    std::mem::forget(dead);
}

#[tokio::test]
async fn a_limit_that_is_removed_leaves_nothing_held() {
    let budget = leased(100, 10).per_day(Calls(1_000));
    let (test, cost) = super::with_slice(budget, quick()).await;
    process(&test, quick())
        .await
        .register(leased(100, 10))
        .await
        .unwrap();
    let returned = "SELECT count(*) FROM portcullis.budget_leases WHERE state = 'returned'";
    until(&test, returned).await;
    let held = "SELECT held_calls FROM portcullis.budget_windows";
    assert_eq!(count(&test, held).await, 0);
    cost.shutdown().await;
    ledger_agrees(&test).await;
}

#[tokio::test]
async fn somebody_is_warned_of_what_is_used_of_a_leased_budget() {
    let told: Arc<Mutex<Vec<Warning>>> = Arc::default();
    let hears = Arc::clone(&told);
    let settings = quick().on_warning(move |warning| hears.lock().unwrap().push(warning.clone()));
    let budget = leased(100, 2).warn_at(50);
    let (test, cost) = super::with_slice(budget, settings).await;
    let other = knowing(&test, quick()).await;
    let (one, dollar) = (me(), Ceiling::usd(Usd::dollars(1)));
    // What is out with others is not used.
    spend(&other, &one).await.unwrap();
    for _ in 0..48 {
        let held = cost.reserve(&one, dollar.clone()).await.unwrap();
        held.settle(Usd::dollars(1)).await.unwrap();
    }
    let reported =
        "SELECT (sum(settled_usd) >= 48020000000)::int::bigint FROM portcullis.budget_windows";
    until(&test, reported).await;
    assert!(taken(&test).await >= Usd::dollars(50));
    assert_eq!(told.lock().unwrap().len(), 0);
    for _ in 0..4 {
        let held = cost.reserve(&one, dollar.clone()).await.unwrap();
        held.settle(Usd::dollars(1)).await.unwrap();
    }
    let warned = "SELECT count(*) FROM portcullis.entries WHERE kind = 'budget.warned'";
    until(&test, warned).await;
    while told.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let warning = told.lock().unwrap().remove(0);
    assert_eq!(warning.percent, 50);
    assert_eq!(warning.limit, Amount::from(Usd::dollars(100)));
    match warning.taken {
        Amount::Usd(taken) => assert!(taken >= Usd::dollars(50), "{taken}"),
        taken => panic!("{taken:?}"),
    }
    cost.shutdown().await;
    other.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(count(&test, warned).await, 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_asked_for_one_budget_although_they_had_nothing_of_another() {
    let (test, holder) = super::with_slice(leased(10, 50), quick()).await;
    let friend = Principal::agent(AgentId::parse("friend").unwrap());
    let budget = Budget::for_agent(friend.agent_id().clone())
        .per_day(Usd::dollars(10))
        .leased(50);
    holder.register(budget).await.unwrap();
    spend(&holder, &friend).await.unwrap();
    // All that is out of the first one is in use.
    let most = Ceiling::usd(Usd::dollars(2));
    let in_use = holder
        .reserve(Box::leak(Box::new(me())), most)
        .await
        .unwrap();
    let other = process(&test, quick()).await;
    let nine = Ceiling::usd(Usd::dollars(9));
    let mut tries = 0;
    loop {
        let refused = other.reserve(&me(), nine.clone()).await.unwrap_err();
        assert!(matches!(refused, CostError::Exceeded { .. }), "{refused}");
        if tries >= 2
            && let Ok(held) = other.reserve(&friend, nine.clone()).await
        {
            held.release().await.unwrap();
            break;
        }
        tries += 1;
        assert!(tries < 12, "its holders are not asked");
    }
    in_use.release().await.unwrap();
    holder.shutdown().await;
    other.shutdown().await;
    ledger_agrees(&test).await;
}

#[tokio::test]
async fn of_a_budget_that_was_removed_nothing_more_is_granted() {
    let (test, cost) = with_slice(leased(100, 10)).await;
    let who = me();
    spend(&cost, &who).await.unwrap();
    // Nobody hears of it; and a grant would fail.
    execute(
        &test,
        "DELETE FROM portcullis.budgets;
         ALTER TABLE portcullis.budget_leases ADD CONSTRAINT no_grant CHECK (last_usd = 0) NOT VALID",
    )
    .await;
    let refused = loop {
        let dollar = Ceiling::usd(Usd::dollars(1));
        match cost.reserve(&who, dollar).await {
            Ok(held) => drop(held.settle(Usd::dollars(1)).await.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CostError::NoBudget), "{refused}");
    cost.shutdown().await;
    ledger_agrees(&test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_unknown_outcome_has_what_its_reservation_says() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let database = portcullis::Database::options(proxy.options());
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let cost = open(&database, clock.clone(), silent()).await;
    let second = leased(100, 10).named(BudgetName::parse("second").unwrap());
    cost.register(leased(100, 10)).await.unwrap();
    cost.register(second).await.unwrap();
    let who = Box::leak(Box::new(me()));
    spend(&cost, who).await.unwrap();
    let held = cost.reserve(who, Ceiling::usd(CENT)).await.unwrap();
    // One of its slices is lost, and this process does not know yet; nor does it hear what it sends.
    execute(
        &test,
        "UPDATE portcullis.budget_leases SET lease_until = lease_until - interval '1 hour'
          WHERE budget = 'second'",
    )
    .await;
    let other = open(&test.database(), clock.clone(), quick()).await;
    while live(&test).await > 1 {
        other.sweep().await.unwrap();
    }
    proxy.inject_into(
        Statement::With("AS a(lease_id, usd,"),
        Fault::CutAfterCommit,
    );
    let kept = held.leave_unknown().await.unwrap();
    assert!(proxy.spent());
    let owned = "SELECT array_length(budgets, 1)::bigint FROM portcullis.reservations
                  WHERE state = 'unknown' AND reservation_id NOT IN (SELECT lease_id FROM portcullis.budget_leases)";
    assert_eq!(
        count(&test, owned).await,
        1,
        "the lost one has no part in it"
    );
    cost.settle_late(kept.id, CENT).await.unwrap();
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(
        taken(&test).await,
        Usd::cents(4),
        "two calls, of two budgets"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_near_the_limit_are_refused_for_the_limit_and_nothing_else() {
    let (test, cost) = super::with_slice(leased(2, 50), quick()).await;
    let spent = (0..32).map(|_| {
        let cost = cost.clone();
        tokio::spawn(async move {
            let (who, mut spent) = (me(), 0);
            loop {
                match spend(&cost, &who).await {
                    Ok(()) => spent += 1,
                    Err(CostError::Exceeded { .. }) => return spent,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    let tasks: Vec<_> = spent.collect();
    let mut spent = 1;
    for task in tasks {
        spent += task.await.unwrap();
    }
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(taken(&test).await, Usd::cents(spent));
}
