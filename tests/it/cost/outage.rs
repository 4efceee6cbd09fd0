//! What happens while the database is away, or hangs.

use super::*;

#[tokio::test]
async fn f36_a_hung_database_is_answered_within_the_deadline() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    keep(
        gate.cost
            .reserve(&me(), Ceiling::usd(TEN_CENTS))
            .await
            .unwrap(),
    );
    let blocker = lock_windows(&gate.test).await;
    let hasty =
        Database::options(gate.test.options()).statement_timeout(Duration::from_millis(300));
    let cost = open(&hasty, gate.clock.clone(), CostSettings::default()).await;
    let error = tokio::time::timeout(
        Duration::from_secs(30),
        cost.reserve(&me(), Ceiling::usd(TEN_CENTS)),
    )
    .await
    .expect("an answer, although the database hangs")
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(blocker);
}

/// Nothing is let through where it cannot be known who is halted: the gate does not even open.
#[tokio::test]
async fn an_unreachable_store_denies_and_tells_no_secret() {
    let url = "postgres://hunter2:hunter2@127.0.0.1:9/secret_db";
    let database = Database::url(url).statement_timeout(Duration::from_millis(500));
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(0)));
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let settings = CostSettings::default();
    let opened = Cost::open(&database, keys, TenantId::single(), clock, settings).await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(
            !text.contains("hunter2") && !text.contains("secret_db"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn failing_open_is_chosen_and_the_spend_is_recorded_when_the_store_is_back() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    keep(
        gate.cost
            .reserve(&me(), Ceiling::usd(ONE_DOLLAR))
            .await
            .unwrap(),
    );
    let hasty =
        Database::options(gate.test.options()).statement_timeout(Duration::from_millis(300));
    let open_gate = open(
        &hasty,
        gate.clock.clone(),
        CostSettings::default().fail_open(true),
    )
    .await;
    let mut blocker = lock_windows(&gate.test).await;
    let held = open_gate
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    assert!(!held.is_reserved());
    let dropped = open_gate
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    let unused = open_gate
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    unused.release().await.unwrap();
    drop(dropped);
    let settled = held.settle(Usd::cents(4)).await.unwrap();
    assert_eq!(settled.usd, Usd::cents(4));
    open_gate.shutdown().await;
    let usd = gate.usd(&me()).await;
    assert_eq!(
        (usd.settled, usd.unknown, usd.held),
        (Usd::cents(4), TEN_CENTS, ONE_DOLLAR)
    );
    assert_eq!(
        usd.overrun,
        Usd::cents(14),
        "charged beyond the limit, on the record"
    );
    // With the store there, a refusal is a refusal.
    let error = open_gate.reserve(&me(), Ceiling::usd(TEN_CENTS)).await;
    assert!(
        matches!(error, Err(CostError::Exceeded { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn f26_a_settlement_that_the_store_did_not_take_is_made_up_for() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let hasty =
        Database::options(gate.test.options()).statement_timeout(Duration::from_millis(300));
    let cost = open(&hasty, gate.clock.clone(), CostSettings::default()).await;
    let held = cost.reserve(&me(), Ceiling::usd(TEN_CENTS)).await.unwrap();
    let mut blocker = lock_windows(&gate.test).await;
    let error = held.settle(Usd::cents(6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    cost.shutdown().await;
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.settled, usd.held), (Usd::cents(6), Usd::ZERO));
}
