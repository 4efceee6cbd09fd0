//! Several budgets at once, and limits that change.

use super::*;

#[tokio::test]
async fn a_lowered_limit_applies_at_once_and_what_is_beyond_counts_as_overrun() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let other = open(
        &gate.test.database(),
        gate.clock.clone(),
        CostSettings::default(),
    )
    .await;
    let held = other
        .reserve(&me(), Ceiling::usd(Usd::cents(80)))
        .await
        .unwrap();
    gate.cost.register(daily(Usd::cents(50))).await.unwrap();
    let usd = gate.usd(&me()).await;
    assert_eq!(
        (usd.limit, usd.overrun),
        (Some(Usd::cents(50)), Usd::cents(30))
    );
    assert!(
        other
            .reserve(&me(), Ceiling::usd(Usd::nanos(1)))
            .await
            .is_err()
    );
    held.settle(Usd::cents(45)).await.unwrap();
    assert!(
        other
            .reserve(&me(), Ceiling::usd(Usd::cents(6)))
            .await
            .is_err()
    );
    keep(
        other
            .reserve(&me(), Ceiling::usd(Usd::cents(5)))
            .await
            .unwrap(),
    );
    gate.cost.register(daily(Usd::dollars(2))).await.unwrap();
    keep(
        other
            .reserve(&me(), Ceiling::usd(Usd::cents(150)))
            .await
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_lowered_under_load_is_kept() {
    let gate = Gate::new().await;
    gate.cost
        .register(daily(Usd::dollars(1_000)))
        .await
        .unwrap();
    let spenders: Vec<_> = (0..16)
        .map(|_| {
            let (cost, me) = (gate.cost.clone(), me());
            tokio::spawn(async move {
                while let Ok(held) = cost.reserve(&me, Ceiling::usd(TEN_CENTS)).await {
                    held.settle(TEN_CENTS).await.unwrap();
                }
            })
        })
        .collect();
    while gate.usd(&me()).await.settled < ONE_DOLLAR {
        tokio::task::yield_now().await;
    }
    gate.cost.register(daily(Usd::cents(1))).await.unwrap();
    let then = gate.usd(&me()).await;
    for spender in spenders {
        spender.await.unwrap();
    }
    let end = gate.usd(&me()).await;
    let taken = |usd: &Tally<Usd>| usd.settled.as_nanos() + usd.held.as_nanos();
    assert_eq!(
        taken(&end),
        taken(&then),
        "nothing is admitted above the new limit"
    );
    assert_eq!(
        end.overrun.as_nanos(),
        taken(&end) - Usd::cents(1).as_nanos()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_budgets_are_charged_all_or_none() {
    let gate = Gate::new().await;
    for (at, limit) in [(1, 300), (2, 500), (3, 700)] {
        let budget = Budget::for_agent(agent())
            .named(name(&format!("b{at}")))
            .per_day(Usd::cents(limit))
            .per_session(Tokens(1_000_000));
        gate.cost.register(budget).await.unwrap();
    }
    // Tasks of different sizes; some exceed one budget, some two, some all.
    let tasks: Vec<_> = (0..64_i64)
        .map(|task| {
            let (cost, me) = (gate.cost.clone(), me());
            tokio::spawn(async move {
                for round in 0..6 {
                    let cents = 1 + (task * 7 + round * 13) % 40;
                    let Ok(held) = cost.reserve(&me, Ceiling::usd(Usd::cents(cents))).await else {
                        continue;
                    };
                    match (task + round) % 4 {
                        0 => held.release().await.unwrap(),
                        1 => drop(held),
                        2 => keep(held),
                        _ => drop(held.settle(Usd::cents(cents / 2)).await.unwrap()),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    gate.settled().await;
    let days = snapshot_days(&gate).await;
    assert_eq!(days.len(), 3);
    for usd in &days {
        let taken = [usd.settled, usd.held, usd.unknown].map(Usd::as_nanos);
        assert!(taken.iter().sum::<i64>() <= usd.limit.unwrap().as_nanos());
        assert_eq!(
            (usd.settled, usd.held, usd.unknown, usd.overrun),
            (days[0].settled, days[0].held, days[0].unknown, Usd::ZERO)
        );
        assert!(usd.settled > Usd::ZERO && usd.held > Usd::ZERO && usd.unknown > Usd::ZERO);
    }
    assert!(
        days[0].left.unwrap() < Usd::cents(40),
        "the smallest budget was fought for"
    );
    ledger_agrees(&gate.test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_first_registrations_of_a_name_one_is_in_force_and_the_other_told() {
    let gate = Gate::new().await;
    let other = open(
        &Database::options(gate.test.options()),
        gate.clock.clone(),
        CostSettings::default(),
    )
    .await;
    let of = |who: &str| Budget::for_agent(AgentId::parse(who).unwrap());
    for round in 0..40 {
        let name = name(&format!("shared-{round}"));
        let ours = of("a").per_day(ONE_DOLLAR).named(name.clone());
        // Also where they have no period in common.
        let theirs = match round % 2 {
            0 => of("b").per_day(ONE_DOLLAR),
            _ => of("b").per_session(ONE_DOLLAR),
        };
        let theirs = theirs.named(name.clone());
        let (one, two) = tokio::join!(gate.cost.register(ours), other.register(theirs));
        let refused = |outcome: &Result<(), CostError>| {
            matches!(outcome, Err(CostError::InvalidBudget { field: "name", .. }))
        };
        assert!(
            one.is_ok() != two.is_ok() && (refused(&one) || refused(&two)),
            "round {round}: {one:?} {two:?}"
        );
        let budgets = gate.cost.budgets().await.unwrap();
        let named = budgets.iter().filter(|budget| budget.name() == Some(&name));
        assert_eq!(named.count(), 1, "round {round}");
    }
}
