//! How reservations end, and what they are charged at.

use super::*;

#[tokio::test]
async fn f27_a_cancelled_reservation_leaves_nothing_behind() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    keep(
        gate.cost
            .reserve(&me(), Ceiling::usd(TEN_CENTS))
            .await
            .unwrap(),
    );
    let mut blocker = lock_windows(&gate.test).await;
    {
        let who = me();
        let waiting = gate.cost.reserve(&who, Ceiling::usd(TEN_CENTS));
        tokio::pin!(waiting);
        tokio::select! {
            _ = &mut waiting => panic!("it cannot pass the lock"),
            () = waiting_backend(&gate.test) => {}
        }
        // Dropped here, while its statement waits for the lock.
    }
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    // The statement goes on in the server and may still succeed; it is undone behind it.
    for _ in 0..200 {
        let usd = gate.usd(&me()).await;
        let open = count(&gate.test, "SELECT count(*) FROM portcullis.reservations").await;
        if open == 2 && usd.held == TEN_CENTS {
            return;
        }
        if open == 1 && waiting_now(&gate.test).await == 0 && usd.held == TEN_CENTS {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a cancelled reservation stays held");
}

#[tokio::test]
async fn f28_a_dropped_reservation_stays_charged_at_the_larger_of_seen_and_reserved() {
    let gate = Gate::new().await;
    gate.cost
        .register(Budget::for_agent(agent()).per_session(Tokens(10_000)))
        .await
        .unwrap();
    let me = me();
    let small = gate
        .cost
        .reserve(&me, Ceiling::tokens(1_000))
        .await
        .unwrap();
    small.observe(&Usage::tokens(100, 50));
    drop(small);
    let large = gate
        .cost
        .reserve(&me, Ceiling::tokens(1_000))
        .await
        .unwrap();
    large.observe(&Usage::tokens(900, 300));
    large.observe(&Usage::tokens(900, 600));
    drop(large);
    gate.settled().await;
    let tokens = gate.cost.snapshot(&me).await.unwrap().windows[0].tokens;
    assert_eq!((tokens.unknown, tokens.held), (1_000 + 1_500, 0));
    assert_eq!(tokens.overrun, 500);
    assert_eq!(tokens.left, Some(7_500));
}

#[tokio::test]
async fn f29_cached_tokens_are_counted_once_and_never_below_zero() {
    let gate = Gate::new().await;
    let mini = model("gpt-4o-mini");
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let ceiling = Ceiling::in_out(10_000, 1_000).of_model(&mini);
    let mut cost = Vec::new();
    for usage in [
        Usage::tokens(1_000, 0),
        Usage::tokens(1_000, 0).cached(800),
        Usage::tokens(500, 0).cached(800),
    ] {
        let held = gate.cost.reserve(&me(), ceiling.clone()).await.unwrap();
        cost.push(held.settle(usage).await.unwrap().usd.as_nanos());
    }
    // $0.15 a million in, $0.075 cached; ten nano-dollars for the rounding of the list.
    assert_eq!(
        cost,
        [
            150_010,
            200 * 150 + 800 * 75 + 10,
            500 * 150 + 800 * 75 + 10
        ]
    );
    let window = &gate.cost.snapshot(&me()).await.unwrap().windows[0];
    assert_eq!(window.usd.settled.as_nanos(), cost.iter().sum::<i64>());
    let spend = &window.by_model[0];
    assert_eq!(spend.model, Some(mini));
    assert_eq!(
        (
            spend.calls,
            spend.input_tokens,
            spend.cached_tokens,
            spend.usd
        ),
        (3, 3_300, 1_600, window.usd.settled)
    );
}

#[tokio::test]
async fn f30_an_unknown_model_is_refused_or_costs_the_fallback_price() {
    let gate = Gate::new().await;
    let unknown = model("no-such-model-9");
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let ceiling = Ceiling::in_out(1_000, 500).of_model(&unknown);
    let error = gate.cost.reserve(&me(), ceiling.clone()).await.unwrap_err();
    assert_eq!(error, CostError::UnknownModel);
    let error = gate
        .cost
        .reserve(&me(), Ceiling::tokens(10))
        .await
        .unwrap_err();
    assert!(matches!(error, CostError::Unpriced { .. }), "{error}");

    let fallback = Price::per_million(Usd::dollars(10), Usd::dollars(30));
    gate.cost
        .register(daily(ONE_DOLLAR).fallback_price(fallback))
        .await
        .unwrap();
    let held = gate.cost.reserve(&me(), ceiling).await.unwrap();
    assert_eq!(
        gate.usd(&me()).await.held,
        Usd::nanos(10_000_000 + 15_000_000)
    );
    let settled = held.settle(Usage::tokens(1_000, 100)).await.unwrap();
    assert_eq!(settled.usd, Usd::nanos(10_000_000 + 3_000_000));
    // Either direction: the dearer one.
    keep(
        gate.cost
            .reserve(&me(), Ceiling::tokens(1_000))
            .await
            .unwrap(),
    );
    assert_eq!(gate.usd(&me()).await.held, Usd::nanos(30_000_000));
}

#[tokio::test]
async fn f31_missing_usage_is_never_zero() {
    let gate = Gate::new().await;
    let mini = model("gpt-4o-mini");
    gate.cost
        .register(daily(ONE_DOLLAR).per_day(Tokens(10_000)))
        .await
        .unwrap();
    let ceiling = || Ceiling::in_out(1_000, 1_000).of_model(&mini);
    let held = gate.cost.reserve(&me(), ceiling()).await.unwrap();
    let reserved = gate.usd(&me()).await.held;
    let unknown = held.leave_unknown().await.unwrap();
    assert_eq!((unknown.usd, unknown.tokens), (reserved, 2_000));
    // Dollars alone say nothing about the tokens: those that were reserved stay charged.
    let held = gate.cost.reserve(&me(), ceiling()).await.unwrap();
    let settled = held.settle(Usd::cents(1)).await.unwrap();
    assert_eq!((settled.usd, settled.tokens), (Usd::cents(1), 2_000));
    // A model that answered and has no price costs what the one that was asked does.
    let held = gate.cost.reserve(&me(), ceiling()).await.unwrap();
    let odd = Spent::tokens(Usage::tokens(1_000, 0)).model(&model("internal-name-7"));
    let settled = held.settle(odd).await.unwrap();
    assert_eq!(
        (settled.usd, settled.estimated),
        (Usd::nanos(150_010), false)
    );
    // Without any price, what was reserved stays charged.
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(Usd::cents(2)))
        .await
        .unwrap();
    let settled = held.settle(Usage::tokens(10, 10)).await.unwrap();
    assert_eq!((settled.usd, settled.estimated), (Usd::cents(2), true));
}

#[tokio::test]
async fn a_reservation_ends_once() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    let id = held.id();
    assert!(held.is_reserved());
    let error = gate
        .cost
        .resolve(id, Resolution::Release)
        .await
        .unwrap_err();
    assert_eq!(error, CostError::NotHeld { state: State::Held });
    held.release().await.unwrap();
    assert_eq!(gate.usd(&me()).await.left, Some(ONE_DOLLAR));
    for error in [
        gate.cost.settle_late(id, TEN_CENTS).await.unwrap_err(),
        gate.cost
            .resolve(id, Resolution::Charge(Spent::usd(TEN_CENTS)))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            error,
            CostError::NotHeld {
                state: State::Released
            }
        );
        assert!(error.to_string().contains("released"), "{error}");
    }
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    let id = held.id();
    gate.cost.settle_late(id, Usd::cents(7)).await.unwrap();
    let error = held.settle(TEN_CENTS).await.unwrap_err();
    assert_eq!(
        error,
        CostError::NotHeld {
            state: State::Settled
        }
    );
    assert_eq!(gate.usd(&me()).await.settled, Usd::cents(7));
    let missing = ReservationId::new();
    let error = gate.cost.settle_late(missing, TEN_CENTS).await.unwrap_err();
    assert_eq!(error, CostError::NoReservation { id: missing });
}

#[tokio::test]
async fn an_expired_lease_stays_charged_until_it_is_settled_late_or_resolved() {
    let gate = Gate::with(CostSettings::default().lease(Duration::from_mins(1))).await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let held = gate
            .cost
            .reserve(&me(), Ceiling::usd(TEN_CENTS))
            .await
            .unwrap();
        ids.push(held.id());
        keep(held);
    }
    gate.clock.advance(Duration::from_mins(1));
    assert_eq!(
        gate.cost.sweep().await.unwrap(),
        0,
        "the lease has not run out yet"
    );
    gate.clock.advance(Duration::from_micros(1));
    assert_eq!(gate.cost.sweep().await.unwrap(), 3);
    assert_eq!(gate.cost.sweep().await.unwrap(), 0);
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.held, usd.unknown), (Usd::ZERO, Usd::cents(30)));
    assert_eq!(usd.left, Some(Usd::cents(70)));

    gate.cost.settle_late(ids[0], Usd::cents(4)).await.unwrap();
    gate.cost
        .resolve(ids[1], Resolution::Release)
        .await
        .unwrap();
    let charge = Resolution::Charge(Spent::usd(Usd::cents(12)));
    let settled = gate.cost.resolve(ids[2], charge).await.unwrap();
    assert_eq!(settled.overrun, Usd::cents(2));
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.unknown, usd.settled), (Usd::ZERO, Usd::cents(16)));
    assert_eq!(
        (usd.overrun, usd.left),
        (Usd::cents(2), Some(Usd::cents(84)))
    );
}

#[tokio::test]
async fn what_a_call_costs_beyond_its_ceiling_is_recorded_apart() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let held = gate
        .cost
        .reserve(&me(), Ceiling::usd(ONE_DOLLAR))
        .await
        .unwrap();
    let settled = held.settle(Usd::dollars(3)).await.unwrap();
    assert_eq!(
        (settled.usd, settled.overrun),
        (Usd::dollars(3), Usd::dollars(2))
    );
    let usd = gate.usd(&me()).await;
    assert_eq!(
        (usd.settled, usd.overrun),
        (Usd::dollars(3), Usd::dollars(2))
    );
    assert_eq!(usd.left, Some(Usd::ZERO));
    assert!(
        gate.cost
            .reserve(&me(), Ceiling::usd(Usd::nanos(1)))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn detached_endings_are_drained_by_shutdown() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let settled = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    let released = gate
        .cost
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    settled.settle_detached(Usd::cents(3));
    released.release_detached();
    gate.cost.shutdown().await;
    let usd = gate.usd(&me()).await;
    assert_eq!(
        (usd.settled, usd.held, usd.unknown),
        (Usd::cents(3), Usd::ZERO, Usd::ZERO)
    );
}

#[tokio::test]
async fn overrides_and_tiers_are_priced_as_billed() {
    let ours = model("our-own");
    let free = model("free-llama");
    let prices = Prices::bundled()
        .with(
            &ours,
            Price::per_million(Usd::dollars(2), Usd::dollars(8)).cached(Usd::dollars(1)),
        )
        .with(&free, Price::per_million(Usd::ZERO, Usd::ZERO));
    let gate = Gate::with(CostSettings::default().prices(prices)).await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let settle = async |name: &ModelName, usage: Usage| {
        let ceiling = Ceiling::in_out(10_000, 1_000).of_model(name);
        let held = gate.cost.reserve(&me(), ceiling).await.unwrap();
        held.settle(usage).await.unwrap().usd.as_nanos()
    };
    let usage = Usage::tokens(1_000, 100);
    assert_eq!(
        settle(&ours, usage.cached(400)).await,
        600 * 2_000 + 400 * 1_000 + 100 * 8_000
    );
    assert_eq!(settle(&free, usage).await, 0);
    let mini = model("gpt-4o-mini");
    let standard = settle(&mini, usage).await;
    assert_eq!(standard, 1_000 * 150 + 100 * 600 + 10);
    assert_eq!(
        settle(&mini, usage.tier(Tier::Batch)).await,
        1_000 * 75 + 100 * 300 + 10
    );
    let window = &gate.cost.snapshot(&me()).await.unwrap().windows[0];
    assert_eq!(window.by_model.len(), 3);
}

#[tokio::test]
async fn an_override_holds_whatever_name_the_provider_answers_with() {
    let asked = model("gpt-4o-mini");
    let dear = Price::per_million(Usd::dollars(20), Usd::dollars(80));
    let prices = Prices::bundled().with(&asked, dear);
    let gate = Gate::with(CostSettings::default().prices(prices)).await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let ceiling = Ceiling::in_out(2_000, 200).of_model(&asked);
    let held = gate.cost.reserve(&me(), ceiling).await.unwrap();
    let dated = model("gpt-4o-mini-2024-07-18");
    let spent = Spent::tokens(Usage::tokens(1_000, 100)).model(&dated);
    let settled = held.settle(spent).await.unwrap();
    assert_eq!(settled.usd, Usd::nanos(1_000 * 20_000 + 100 * 80_000));
}

#[tokio::test]
async fn f28_what_was_seen_counts_also_after_the_lease() {
    let gate = Gate::with(CostSettings::default().lease(Duration::from_mins(1))).await;
    gate.cost
        .register(Budget::for_agent(agent()).per_session(Tokens(10_000)))
        .await
        .unwrap();
    let me = me();
    let held = gate
        .cost
        .reserve(&me, Ceiling::tokens(1_000))
        .await
        .unwrap();
    gate.clock.advance(Duration::from_mins(2));
    assert_eq!(gate.cost.sweep().await.unwrap(), 1);
    held.observe(&Usage::tokens(900, 600));
    drop(held);
    gate.settled().await;
    let tokens = gate.cost.snapshot(&me).await.unwrap().windows[0].tokens;
    assert_eq!((tokens.unknown, tokens.held), (1_500, 0));
    assert_eq!(tokens.overrun, 500);
    ledger_agrees(&gate.test).await;
}
