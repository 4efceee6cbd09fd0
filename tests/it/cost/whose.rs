//! Whose budgets a call is charged to, and over what.

use super::*;
use portcullis::cost::{Calls, Rolling};
use portcullis::{Principal, UserId};

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn spend(cents: i64) -> Ceiling {
    Ceiling::usd(Usd::cents(cents))
}

async fn take(gate: &Gate, who: &Principal, ceiling: Ceiling) -> Result<(), CostError> {
    gate.cost.reserve(who, ceiling).await.map(keep)
}

#[tokio::test]
async fn a_call_is_charged_to_every_budget_that_it_fits() {
    let gate = Gate::new().await;
    let mini = model("gpt-4o-mini");
    for budget in [
        Budget::for_agent(agent()).per_day(Usd::dollars(9)),
        Budget::for_user(user("u_1")).per_month(Usd::dollars(8)),
        Budget::for_agent(agent())
            .and_user(user("u_1"))
            .per_day(Usd::dollars(7)),
        Budget::for_model(mini.clone()).for_ever(Usd::dollars(6)),
        Budget::for_tenant().per(Rolling::HOUR, Usd::dollars(5)),
        Budget::for_user(user("u_2")).per_day(Usd::dollars(1)),
        Budget::for_agent(agent())
            .and_model(model("another"))
            .per_day(Usd::dollars(1)),
    ] {
        gate.cost.register(budget).await.unwrap();
    }
    let me = me().on_behalf_of(user("u_1"));
    take(&gate, &me, spend(10).of_model(&mini)).await.unwrap();
    take(&gate, &me, spend(1)).await.unwrap();
    let snapshot = gate.cost.snapshot(&me).await.unwrap();
    let held = |budget: &str| {
        let name = name(budget);
        let window = snapshot.of(&name).next().unwrap();
        window.usd.held
    };
    for (budget, cents) in [
        ("agent:billing-agent", 11),
        ("user:u_1", 11),
        ("agent:billing-agent+user:u_1", 11),
        ("model:gpt-4o-mini", 10),
        ("tenant", 11),
        ("agent:billing-agent+model:another", 0),
    ] {
        assert_eq!(held(budget), Usd::cents(cents), "{budget}");
    }
    assert!(
        snapshot.of(&name("user:u_2")).next().is_none(),
        "of another user"
    );
    // The smallest of them is the one that is in the way, and is named with its window and unit.
    let error = take(&gate, &me, spend(540)).await.unwrap_err();
    assert!(
        matches!(&error, CostError::Exceeded { budget, window: Window::Rolling(_), limit: Amount::Usd(_), .. }
            if budget.as_str() == "tenant"),
        "{error}"
    );
    // Nothing was taken of the others.
    let again = gate.cost.snapshot(&me).await.unwrap();
    assert_eq!(again, snapshot);
    ledger_agrees(&gate.test).await;
}

#[tokio::test]
async fn limits_of_calls_and_seconds_restrict_and_allow_nothing() {
    let gate = Gate::new().await;
    let rate = Budget::for_tenant().rate(Calls(2), Rolling::MINUTE);
    gate.cost.register(rate).await.unwrap();
    let seconds = Budget::for_agent(agent()).session_seconds(60);
    gate.cost.register(seconds).await.unwrap();
    let error = take(&gate, &me(), spend(1)).await.unwrap_err();
    assert_eq!(error, CostError::NoBudget);
    let tokens = Budget::for_agent(agent())
        .named(name("tokens"))
        .per_day(Tokens(1_000));
    gate.cost.register(tokens).await.unwrap();
    take(&gate, &me(), spend(1)).await.unwrap();
    take(&gate, &me(), spend(1)).await.unwrap();
    let error = take(&gate, &me(), spend(1)).await.unwrap_err();
    assert!(
        matches!(&error, CostError::Exceeded { budget, limit: Amount::Calls(Calls(2)), .. }
            if budget.as_str() == "tenant"),
        "{error}"
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(61)));
}

#[tokio::test]
async fn a_rate_is_kept_in_any_window_and_comes_back_when_its_stretch_has_left() {
    let gate = Gate::new().await;
    let budget = Budget::for_agent(agent())
        .unlimited()
        .rate(Calls(10), Rolling::SECOND);
    gate.cost.register(budget).await.unwrap();
    let mut admitted: Vec<Timestamp> = Vec::new();
    for step in 0..400_u64 {
        gate.clock.advance(Duration::from_millis(step % 13));
        if take(&gate, &me(), spend(1)).await.is_ok() {
            admitted.push(gate.clock.now());
        }
    }
    for first in &admitted {
        let within = admitted
            .iter()
            .filter(|at| **at >= *first && at.since(*first) < Duration::from_secs(1));
        assert!(within.count() <= 10, "eleven calls in one second");
    }
    assert!(admitted.len() > 20, "the limit frees itself");
    gate.clock.advance(Duration::from_hours(1));
    for _ in 0..10 {
        take(&gate, &me(), spend(1)).await.unwrap();
    }
    let error = take(&gate, &me(), spend(1)).await.unwrap_err();
    // What it says is the very moment.
    let wait = error.retry_after().unwrap();
    gate.clock
        .advance(wait.saturating_sub(Duration::from_micros(1)));
    assert!(take(&gate, &me(), spend(1)).await.is_err());
    gate.clock.advance(Duration::from_micros(1));
    take(&gate, &me(), spend(1)).await.unwrap();
}

#[tokio::test]
async fn months_end_with_the_month_and_what_is_settled_late_belongs_to_where_it_began() {
    let gate = Gate::new().await;
    let budget = Budget::for_user(user("u_1"))
        .per_month(ONE_DOLLAR)
        .for_ever(Usd::dollars(3));
    gate.cost.register(budget).await.unwrap();
    let me = me().on_behalf_of(user("u_1"));
    let held = gate.cost.reserve(&me, spend(100)).await.unwrap();
    let error = take(&gate, &me, spend(1)).await.unwrap_err();
    let next = Timestamp::parse("2026-12-01T00:00:00Z").unwrap();
    assert_eq!(
        error.retry_after(),
        Some(next.since(gate.clock.now())),
        "{error}"
    );
    assert!(error.to_string().contains("month 2026-11"), "{error}");
    gate.clock.set(next);
    take(&gate, &me, spend(100)).await.unwrap();
    held.settle(Usd::cents(40)).await.unwrap();
    let snapshot = gate.cost.snapshot(&me).await.unwrap();
    let month = snapshot.month().unwrap().usd;
    assert_eq!((month.held, month.settled), (ONE_DOLLAR, Usd::ZERO));
    gate.clock
        .set(Timestamp::parse("2026-11-30T00:00:00Z").unwrap());
    let before = gate.cost.snapshot(&me).await.unwrap();
    let month = before.month().unwrap().usd;
    assert_eq!((month.held, month.settled), (Usd::ZERO, Usd::cents(40)));
    ledger_agrees(&gate.test).await;
}

#[tokio::test]
async fn a_rolling_window_gives_back_what_a_call_did_not_cost_while_it_is_in_it() {
    let gate = Gate::new().await;
    let budget = Budget::for_agent(agent()).per(Rolling::MINUTE, ONE_DOLLAR);
    gate.cost.register(budget).await.unwrap();
    let first = gate.cost.reserve(&me(), spend(90)).await.unwrap();
    gate.clock.advance(Duration::from_secs(30));
    let second = gate.cost.reserve(&me(), spend(10)).await.unwrap();
    assert!(take(&gate, &me(), spend(1)).await.is_err());
    first.settle(Usd::cents(20)).await.unwrap();
    let usd = gate.usd(&me()).await;
    assert_eq!(
        (usd.settled, usd.held, usd.left),
        (Usd::cents(20), Usd::cents(10), Some(Usd::cents(70)))
    );
    take(&gate, &me(), spend(70)).await.unwrap();
    assert!(take(&gate, &me(), spend(1)).await.is_err());
    // The first has left; what its end says about it moves nothing any more.
    gate.clock.advance(Duration::from_secs(31));
    let usd = gate.usd(&me()).await;
    assert_eq!(usd.left, Some(Usd::cents(20)));
    gate.clock.advance(Duration::from_mins(1));
    second.settle(Usd::cents(1)).await.unwrap();
    assert_eq!(gate.usd(&me()).await.left, Some(ONE_DOLLAR));
    ledger_agrees(&gate.test).await;
}

#[tokio::test]
async fn every_kind_of_budget_is_read_back_as_it_was_registered() {
    let gate = Gate::new().await;
    let all = Budget::for_agent(agent())
        .and_user(user("u_1"))
        .and_model(model("m"))
        .named(name("all"))
        .per_session(Calls(3))
        .per_month(Usd::dollars(2))
        .per(Rolling::minutes(5), Tokens(9))
        .rate(Calls(10), Rolling::SECOND)
        .for_ever(Usd::dollars(100))
        .on_limit(portcullis::cost::OnLimit::Ask)
        .warn_at(80)
        .warn_at(50)
        .leased(5);
    let warns = Budget::for_tenant()
        .named(name("warns"))
        .per_day(Tokens(1))
        .on_limit(portcullis::cost::OnLimit::Warn);
    for budget in [&all, &warns] {
        gate.cost.register(budget.clone()).await.unwrap();
    }
    assert_eq!(gate.cost.budgets().await.unwrap(), [all, warns.clone()]);
    assert_eq!(warns.thresholds(), [100]);
    for wrong in [
        Budget::for_tenant().per(Rolling::seconds(0), Tokens(1)),
        Budget::for_tenant().per(Rolling::days(367), Tokens(1)),
        Budget::for_tenant().per_day(Calls(0)),
        Budget::for_tenant().per_day(Tokens(1)).warn_at(0),
        Budget::for_tenant().per_day(Tokens(1)).warn_at(101),
        Budget::for_tenant().per_day(Tokens(1)).leased(51),
        Budget::for_tenant().named(name("all")).per_day(Tokens(1)),
    ] {
        let error = gate.cost.register(wrong).await.unwrap_err();
        assert!(matches!(error, CostError::InvalidBudget { .. }), "{error}");
    }
}
