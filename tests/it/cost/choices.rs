//! What happens at a limit, what operators can do about it, and which model still fits.

use std::sync::Mutex;

use portcullis::OperatorId;
use portcullis::cost::{OnLimit, Period, Rolling, TopUp, Warning};

use super::*;

const WARNED: &str = "SELECT count(*) FROM portcullis.entries WHERE kind = 'budget.warned'";

fn spend(cents: i64) -> Ceiling {
    Ceiling::usd(Usd::cents(cents))
}

async fn entries(gate: &Gate, sql: &'static str, wanted: i64) {
    for _ in 0..200 {
        if count(&gate.test, sql).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count(&gate.test, sql).await, wanted, "{sql}");
}

#[tokio::test]
async fn a_threshold_is_told_once_for_each_window_whichever_process_passes_it() {
    let told: Arc<Mutex<Vec<Warning>>> = Arc::default();
    let hears = Arc::clone(&told);
    let settings = CostSettings::default().on_warning(move |warning| {
        hears.lock().unwrap().push(warning.clone());
        panic!("the host's own business");
    });
    let gate = Gate::with(settings).await;
    let budget = daily(ONE_DOLLAR).warn_at(50).warn_at(80).warn_at(90);
    gate.cost.register(budget).await.unwrap();
    let other = open(
        &gate.test.database(),
        gate.clock.clone(),
        CostSettings::default(),
    )
    .await;
    for (cost, cents) in [
        (&gate.cost, 49),
        (&gate.cost, 1),
        (&other, 10),
        (&gate.cost, 25),
    ] {
        keep(cost.reserve(&me(), spend(cents)).await.unwrap());
    }
    // 49: nothing; 50: one; 60: nothing; 85: one.
    entries(&gate, WARNED, 2).await;
    let mut percents = Vec::new();
    for _ in 0..200 {
        percents = told.lock().unwrap().iter().map(|w| w.percent).collect();
        if percents.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    percents.sort_unstable();
    assert_eq!(percents, [50, 80]);
    // The next day is another window.
    gate.clock.advance(Duration::from_hours(24));
    keep(gate.cost.reserve(&me(), spend(95)).await.unwrap());
    entries(&gate, WARNED, 5).await;
}

#[tokio::test]
async fn a_budget_that_only_warns_lets_the_call_through_on_the_record() {
    let gate = Gate::new().await;
    gate.cost
        .register(daily(ONE_DOLLAR).on_limit(OnLimit::Warn))
        .await
        .unwrap();
    keep(gate.cost.reserve(&me(), spend(90)).await.unwrap());
    keep(gate.cost.reserve(&me(), spend(30)).await.unwrap());
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.held, usd.overrun), (Usd::cents(120), Usd::cents(20)));
    entries(&gate, WARNED, 1).await;
    // Another budget still refuses, and then nothing is charged to this one.
    gate.cost
        .register(
            Budget::for_agent(agent())
                .named(name("strict"))
                .per_day(TEN_CENTS),
        )
        .await
        .unwrap();
    assert!(gate.cost.reserve(&me(), spend(11)).await.is_err());
    assert_eq!(gate.usd(&me()).await.held, Usd::cents(120));
}

#[tokio::test]
async fn a_budget_that_asks_says_exactly_what_is_missing() {
    let gate = Gate::new().await;
    let budget = daily(ONE_DOLLAR)
        .per_session(Usd::cents(150))
        .on_limit(OnLimit::Ask);
    gate.cost.register(budget).await.unwrap();
    let me = me();
    keep(gate.cost.reserve(&me, spend(90)).await.unwrap());
    let error = gate.cost.reserve(&me, spend(70)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let CostError::NeedsApproval { missing, raise, .. } = &error else {
        panic!("{error}");
    };
    // Of the session, because it lasts longer than the day.
    assert_eq!(*missing, Amount::Usd(TEN_CENTS));
    assert_eq!(error.retry_after(), None, "the session does not end");
    let mut parts: Vec<_> = raise
        .missing()
        .map(|(_, window, amount)| (window.period(), amount))
        .collect();
    parts.sort_by_key(|(period, _)| *period);
    assert_eq!(
        parts,
        [
            (Period::Session, Amount::Usd(TEN_CENTS)),
            (Period::Day, Amount::Usd(Usd::cents(60)))
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_tops_up_a_window_once_for_each_id() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    keep(gate.cost.reserve(&me(), spend(100)).await.unwrap());
    let operator = OperatorId::parse("op_7").unwrap();
    let more = TopUp::new(
        name("agent:billing-agent"),
        Usd::cents(50),
        operator.clone(),
    )
    .because("quarter-end")
    .with_id(&name("ticket-381"));
    let racing: Vec<_> = (0..8)
        .map(|_| {
            let (cost, more) = (gate.cost.clone(), more.clone());
            tokio::spawn(async move { cost.top_up(&more).await.unwrap() })
        })
        .collect();
    let mut done = 0;
    for one in racing {
        done += usize::from(one.await.unwrap());
    }
    assert_eq!(done, 1);
    entries(
        &gate,
        "SELECT count(*) FROM portcullis.entries WHERE kind = 'budget.topped_up'",
        1,
    )
    .await;
    let usd = gate.usd(&me()).await;
    assert_eq!(
        (usd.limit, usd.left),
        (Some(Usd::cents(150)), Some(Usd::cents(50)))
    );
    keep(gate.cost.reserve(&me(), spend(50)).await.unwrap());
    assert!(gate.cost.reserve(&me(), spend(1)).await.is_err());
    // Of this day only.
    gate.clock.advance(Duration::from_hours(24));
    assert!(gate.cost.reserve(&me(), spend(101)).await.is_err());
    // No such window, no such unit, no amount, more than can be written.
    for wrong in [
        TopUp::new(name("nobody"), Usd::cents(1), operator.clone()),
        TopUp::new(name("agent:billing-agent"), Tokens(1), operator.clone()),
        TopUp::new(name("agent:billing-agent"), Usd::ZERO, operator.clone()),
        TopUp::new(name("agent:billing-agent"), Usd::MAX, operator).in_window(Window::Day(
            gate.clock.now().minus(Duration::from_hours(24)).utc_day(),
        )),
    ] {
        let error = gate.cost.top_up(&wrong).await.unwrap_err();
        assert!(matches!(error, CostError::NotRaised { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
}

#[tokio::test]
async fn a_raise_of_a_rolling_window_leaves_it_again() {
    let gate = Gate::new().await;
    let budget = Budget::for_agent(agent()).per(Rolling::MINUTE, ONE_DOLLAR);
    gate.cost.register(budget).await.unwrap();
    keep(gate.cost.reserve(&me(), spend(100)).await.unwrap());
    let top_up = async |cents| {
        let operator = OperatorId::parse("op_7").unwrap();
        let more = TopUp::new(name("agent:billing-agent"), Usd::cents(cents), operator);
        gate.cost.top_up(&more).await.unwrap()
    };
    assert!(top_up(50).await);
    keep(gate.cost.reserve(&me(), spend(50)).await.unwrap());
    gate.clock.advance(Duration::from_secs(30));
    assert!(top_up(7).await);
    gate.cost.sweep().await.unwrap();
    assert_eq!(gate.usd(&me()).await.limit, Some(Usd::cents(157)));
    // The first is over, the second is not.
    gate.clock.advance(Duration::from_secs(31));
    gate.cost.sweep().await.unwrap();
    assert_eq!(gate.usd(&me()).await.limit, Some(Usd::cents(107)));
    gate.clock.advance(Duration::from_secs(31));
    gate.cost.sweep().await.unwrap();
    assert_eq!(gate.usd(&me()).await.limit, Some(ONE_DOLLAR));
    assert!(gate.cost.reserve(&me(), spend(101)).await.is_err());
    keep(gate.cost.reserve(&me(), spend(100)).await.unwrap());
    ledger_agrees(&gate.test).await;
}

#[tokio::test]
async fn a_failed_providers_call_is_refunded_and_counts_as_a_call() {
    let gate = Gate::new().await;
    let budget = daily(ONE_DOLLAR).per_day(portcullis::cost::Calls(2));
    gate.cost.register(budget).await.unwrap();
    let held = gate.cost.reserve(&me(), spend(100)).await.unwrap();
    let id = held.id();
    let settled = held.refund().await.unwrap();
    assert_eq!((settled.usd, settled.estimated), (Usd::ZERO, false));
    let error = gate.cost.settle_late(id, TEN_CENTS).await.unwrap_err();
    let state = State::Refunded;
    assert_eq!(error, CostError::NotHeld { state });
    gate.cost
        .reserve(&me(), spend(100))
        .await
        .unwrap()
        .refund_detached();
    gate.settled().await;
    let window = &gate.cost.snapshot(&me()).await.unwrap().windows[0];
    assert_eq!(
        (window.usd.left, window.calls.settled),
        (Some(ONE_DOLLAR), 2)
    );
    assert!(gate.cost.reserve(&me(), spend(1)).await.is_err());
    ledger_agrees(&gate.test).await;
}

#[tokio::test]
async fn a_resolution_is_on_record_before_its_answer() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let held = gate.cost.reserve(&me(), spend(10)).await.unwrap();
    let id = held.id();
    held.leave_unknown().await.unwrap();
    gate.cost.resolve(id, Resolution::Release).await.unwrap();
    let resolved = "SELECT count(*) FROM portcullis.entries
                     WHERE kind = 'cost.recorded' AND decision = 'resolved_released'";
    assert_eq!(count(&gate.test, resolved).await, 1, "at once");
}

#[tokio::test]
async fn advice_names_the_first_model_that_fits_and_takes_nothing() {
    let (dear, cheap) = (model("dear"), model("cheap"));
    let prices = Prices::bundled()
        .with(
            &dear,
            Price::per_million(Usd::dollars(100), Usd::dollars(100)),
        )
        .with(&cheap, Price::per_million(Usd::dollars(1), Usd::dollars(1)));
    let ceiling = Ceiling::tokens(10_000);
    let models = [dear.clone(), cheap.clone()];
    let off = Gate::new().await;
    let error = off.cost.advise(&me(), &ceiling, &models).await.unwrap_err();
    assert_eq!(error, CostError::AdviceOff);

    let settings = CostSettings::default().prices(prices).routing_advice(true);
    let gate = Gate::with(settings).await;
    let advise = async || gate.cost.advise(&me(), &ceiling, &models).await.unwrap();
    assert_eq!(advise().await, None, "no budget allows anything");
    gate.cost.register(daily(Usd::dollars(2))).await.unwrap();
    assert_eq!(advise().await.unwrap().model, dear);
    keep(gate.cost.reserve(&me(), spend(150)).await.unwrap());
    let advice = advise().await.unwrap();
    assert_eq!((&advice.model, advice.passed_over), (&cheap, 1));
    assert_eq!(advice.usd, Some(Usd::cents(1)));
    gate.cost
        .register(Budget::for_model(cheap).per_day(Tokens(5)))
        .await
        .unwrap();
    assert_eq!(advise().await, None);
    assert_eq!(
        gate.usd(&me()).await.held,
        Usd::cents(150),
        "nothing is taken"
    );
    entries(
        &gate,
        "SELECT count(*) FROM portcullis.entries WHERE kind = 'routing.advised'",
        2,
    )
    .await;
}
