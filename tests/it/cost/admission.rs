//! Who is let through, and who is not.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn f23_racing_callers_never_overspend() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (cost, me) = (gate.cost.clone(), me());
            tokio::spawn(async move {
                cost.check_or_raise(&me, Ceiling::usd(TEN_CENTS))
                    .await
                    .map(keep)
            })
        })
        .collect();
    let mut allowed = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(()) => allowed += 1,
            Err(error) => assert!(matches!(error, CostError::Exceeded { .. }), "{error}"),
        }
    }
    assert_eq!(allowed, 10, "a dollar pays for ten calls of ten cents");
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.held, usd.left), (ONE_DOLLAR, Some(Usd::ZERO)));
}

#[tokio::test]
async fn f24_the_eleventh_ten_cents_of_a_dollar_are_refused() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    for _ in 0..10 {
        let held = gate
            .cost
            .reserve(&me(), Ceiling::usd(TEN_CENTS))
            .await
            .unwrap();
        held.settle(TEN_CENTS).await.unwrap();
    }
    let error = gate
        .cost
        .reserve(&me(), Ceiling::usd(Usd::nanos(1)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.retry_after(), Some(Duration::from_hours(12)));
    let CostError::Exceeded {
        limit,
        left,
        window,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*limit, Amount::Usd(ONE_DOLLAR));
    assert_eq!(*left, Amount::Usd(Usd::ZERO));
    assert!(matches!(window, Window::Day(day) if day.to_string() == "2026-11-21"));
    assert!(error.to_string().contains("$1.00"), "{error}");
}

#[tokio::test]
async fn f25_what_is_no_amount_is_refused_and_disables_nothing() {
    let gate = Gate::new().await;
    for wrong in [
        daily(Usd::cents(-1)),
        daily(Usd::ZERO),
        Budget::for_agent(agent()).per_session(Tokens(0)),
        Budget::for_agent(agent()).per_session(Tokens(u64::MAX)),
        Budget::for_agent(agent()).session_seconds(0),
        Budget::for_agent(agent()).session_seconds(86_401),
        Budget::for_agent(agent()),
        daily(ONE_DOLLAR).fallback_price(Price::per_million(Usd::cents(-1), Usd::ZERO)),
    ] {
        let error = gate.cost.register(wrong).await.unwrap_err();
        assert!(matches!(error, CostError::InvalidBudget { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    for wrong in [
        Ceiling::usd(Usd::cents(-10)),
        Ceiling::usd(Usd::ZERO),
        Ceiling::tokens(0),
        Ceiling::tokens(u64::MAX),
        Ceiling::in_out(u64::MAX, 1),
    ] {
        let error = gate.cost.reserve(&me(), wrong).await.unwrap_err();
        assert!(matches!(error, CostError::InvalidCeiling { .. }), "{error}");
    }
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    let error = held.settle(Usd::cents(-5)).await.unwrap_err();
    assert!(matches!(error, CostError::InvalidSpent { .. }), "{error}");
    gate.settled().await;
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.unknown, usd.settled), (TEN_CENTS, Usd::ZERO));
    let error = gate.cost.reserve(&me(), Ceiling::usd(Usd::cents(91))).await;
    assert!(
        matches!(error, Err(CostError::Exceeded { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn f32_money_is_whole() {
    let gate = Gate::new().await;
    gate.cost.register(daily(Usd::nanos(3))).await.unwrap();
    for _ in 0..3 {
        let held = gate
            .cost
            .reserve(&me(), Ceiling::usd(Usd::nanos(1)))
            .await
            .unwrap();
        held.settle(Usd::nanos(1)).await.unwrap();
    }
    assert!(
        gate.cost
            .reserve(&me(), Ceiling::usd(Usd::nanos(1)))
            .await
            .is_err()
    );
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.settled, usd.left), (Usd::nanos(3), Some(Usd::ZERO)));
}

#[tokio::test]
async fn no_budget_is_not_the_same_as_no_limit() {
    let gate = Gate::new().await;
    let error = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap_err();
    assert_eq!(
        (&error, error.kind()),
        (&CostError::NoBudget, ErrorKind::Denied)
    );
    gate.cost
        .register(Budget::for_agent(agent()).unlimited())
        .await
        .unwrap();
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(Usd::dollars(1_000)))
        .await
        .unwrap();
    held.settle(Usd::dollars(900)).await.unwrap();
    assert_eq!(gate.usd(&me()).await.left, None);
    // Even without a limit, what cannot be written is refused and not wrapped around.
    keep(
        gate.cost
            .reserve(&me(), Ceiling::usd(Usd::nanos(i64::MAX / 2)))
            .await
            .unwrap(),
    );
    let error = gate
        .cost
        .reserve(&me(), Ceiling::usd(Usd::nanos(i64::MAX / 2)))
        .await;
    assert!(
        matches!(error, Err(CostError::Exceeded { .. })),
        "{error:?}"
    );

    assert!(
        gate.cost
            .remove(&name("agent:billing-agent"))
            .await
            .unwrap()
    );
    assert!(
        !gate
            .cost
            .remove(&name("agent:billing-agent"))
            .await
            .unwrap()
    );
    let error = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap_err();
    assert_eq!(error, CostError::NoBudget);
}

#[tokio::test]
async fn budgets_are_read_back_as_they_were_registered() {
    let gate = Gate::new().await;
    let all = Budget::for_agent(agent())
        .named(name("all"))
        .per_session(Usd::dollars(5))
        .per_session(Tokens(7))
        .session_seconds(60)
        .per_day(Tokens(9))
        .fallback_price(Price::per_million(Usd::dollars(1), Usd::dollars(2)));
    let none = Budget::for_agent(agent()).named(name("none")).unlimited();
    gate.cost.register(none.clone()).await.unwrap();
    gate.cost.register(all.clone()).await.unwrap();
    assert_eq!(
        gate.cost.budgets().await.unwrap(),
        [all.clone(), none.clone()]
    );
    // Registering again replaces; a period that is not named any more is dropped.
    let less = Budget::for_agent(agent())
        .named(name("all"))
        .per_day(Tokens(9));
    gate.cost.register(less.clone()).await.unwrap();
    assert_eq!(gate.cost.budgets().await.unwrap(), [less, none]);
    let theirs = Budget::for_agent(AgentId::parse("other").unwrap()).named(name("all"));
    let error = gate
        .cost
        .register(theirs.per_day(Tokens(1)))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        CostError::InvalidBudget { field: "name", .. }
    ));
}

#[tokio::test]
async fn days_roll_over_at_midnight_utc_and_a_call_belongs_to_the_day_it_began() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    gate.clock
        .set(Timestamp::parse("2026-11-21T23:59:59.999999Z").unwrap());
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(ONE_DOLLAR))
        .await
        .unwrap();
    let error = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_micros(1)));
    let never = gate
        .cost
        .reserve(&me(), Ceiling::usd(Usd::dollars(2)))
        .await
        .unwrap_err();
    assert_eq!(
        never.retry_after(),
        None,
        "waiting does not help a ceiling above the limit"
    );
    gate.clock.advance(Duration::from_micros(1));
    keep(
        gate.cost
            .reserve(&me(), Ceiling::usd(ONE_DOLLAR))
            .await
            .unwrap(),
    );
    held.settle(TEN_CENTS).await.unwrap();
    let today = gate.usd(&me()).await;
    assert_eq!((today.held, today.settled), (ONE_DOLLAR, Usd::ZERO));
    gate.clock
        .set(Timestamp::parse("2026-11-21T12:00:00Z").unwrap());
    let yesterday = gate.usd(&me()).await;
    assert_eq!((yesterday.held, yesterday.settled), (Usd::ZERO, TEN_CENTS));
}

#[tokio::test]
async fn sessions_have_limits_of_their_own_and_last_so_long() {
    let gate = Gate::new().await;
    let budget = Budget::for_agent(agent())
        .per_session(ONE_DOLLAR)
        .session_seconds(60);
    gate.cost.register(budget).await.unwrap();
    let (first, second) = (me(), me());
    keep(
        gate.cost
            .reserve(&first, Ceiling::usd(ONE_DOLLAR))
            .await
            .unwrap(),
    );
    let error = gate
        .cost
        .reserve(&first, Ceiling::usd(TEN_CENTS))
        .await
        .unwrap_err();
    assert!(matches!(
        &error,
        CostError::Exceeded {
            window: Window::Session(_),
            ..
        }
    ));
    assert_eq!(error.retry_after(), None);

    // A refused call does not begin a session's time; the first admission does.
    let refused = gate
        .cost
        .reserve(&second, Ceiling::usd(Usd::dollars(2)))
        .await;
    assert!(refused.is_err());
    gate.clock.advance(Duration::from_hours(1));
    keep(
        gate.cost
            .reserve(&second, Ceiling::usd(TEN_CENTS))
            .await
            .unwrap(),
    );
    gate.clock.advance(Duration::from_micros(59_999_999));
    keep(
        gate.cost
            .reserve(&second, Ceiling::usd(TEN_CENTS))
            .await
            .unwrap(),
    );
    gate.clock.advance(Duration::from_micros(1));
    let error = gate
        .cost
        .reserve(&second, Ceiling::usd(TEN_CENTS))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CostError::SessionTooLong { limit: 60, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn tenants_and_sessions_do_not_see_each_other() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let tenant = TenantId::parse("other").unwrap();
    let other = Cost::open(
        &gate.test.database(),
        keys,
        tenant,
        gate.clock.clone(),
        CostSettings::default(),
    )
    .await
    .unwrap();
    assert!(other.budgets().await.unwrap().is_empty());
    let error = other
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap_err();
    assert_eq!(error, CostError::NoBudget);
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    let error = other.settle_late(held.id(), TEN_CENTS).await.unwrap_err();
    assert!(matches!(error, CostError::NoReservation { .. }));
    let session = SessionId::new();
    let mine = Principal::agent(agent()).session(session);
    gate.cost
        .register(
            Budget::for_agent(agent())
                .named(name("s"))
                .per_session(ONE_DOLLAR),
        )
        .await
        .unwrap();
    keep(
        gate.cost
            .reserve(&mine, Ceiling::usd(TEN_CENTS))
            .await
            .unwrap(),
    );
    let snapshot = gate.cost.snapshot(&me()).await.unwrap();
    assert_eq!(snapshot.session().unwrap().usd.held, Usd::ZERO);
    assert_eq!(snapshot.day().unwrap().usd.held, Usd::cents(20));
}
