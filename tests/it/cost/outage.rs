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

/// Locks the reservation, as somebody who is stopped in the middle of it would.
async fn lock_reservation(gate: &Gate, id: ReservationId) -> PgConnection {
    let mut blocker = gate.test.options().connect().await.unwrap();
    sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
    sqlx::query("SELECT 1 FROM portcullis.reservations WHERE reservation_id::text = $1 FOR UPDATE")
        .bind(id.to_string())
        .execute(&mut blocker)
        .await
        .unwrap();
    blocker
}

#[tokio::test]
async fn an_ending_that_cannot_be_done_holds_up_no_other() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let reserve = async || {
        let taken = gate.cost.reserve(&me(), Ceiling::usd(TEN_CENTS)).await;
        taken.unwrap()
    };
    let (stuck, free) = (reserve().await, reserve().await);
    let blocker = lock_reservation(&gate, stuck.id()).await;
    stuck.release_detached();
    waiting_backend(&gate.test).await;
    free.release_detached();
    let released = async {
        while gate.usd(&me()).await.held != TEN_CENTS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), released)
        .await
        .expect("the other one is released");
    drop(blocker);
}

#[tokio::test]
async fn shutdown_waits_for_what_cannot_be_done_once_and_not_for_each() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let hasty = Database::options(gate.test.options()).statement_timeout(Duration::from_secs(1));
    let cost = open(&hasty, gate.clock.clone(), CostSettings::default()).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let ceiling = Ceiling::usd(Usd::nanos(1));
        held.push(cost.reserve(&me(), ceiling).await.unwrap());
    }
    let mut blocker = lock_windows(&gate.test).await;
    drop(held);
    tokio::time::timeout(Duration::from_secs(15), cost.shutdown())
        .await
        .expect("one deadline, and not a hundred");
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    let usd = gate.usd(&me()).await;
    assert_eq!(
        usd.held.saturating_add(usd.unknown),
        Usd::nanos(100),
        "what was not done stays charged"
    );
}

#[tokio::test]
async fn what_was_let_through_and_reserved_all_the_same_is_given_back() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    keep(
        gate.cost
            .reserve(&me(), Ceiling::usd(TEN_CENTS))
            .await
            .unwrap(),
    );
    // The host's own pool: its statements go on in the server when we have given up.
    let pool = gate.test.database().connect_pool().await.unwrap();
    let hasty = Database::pool(pool).statement_timeout(Duration::from_secs(1));
    let settings = CostSettings::default().fail_open(true);
    let open_gate = open(&hasty, gate.clock.clone(), settings).await;
    let mut blocker = lock_windows(&gate.test).await;
    let unused = open_gate
        .reserve(&me(), Ceiling::usd(TEN_CENTS))
        .await
        .unwrap();
    assert!(!unused.is_reserved());
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    // Only now is it made, and nobody has heard of it.
    for _ in 0..1_000 {
        if gate.usd(&me()).await.held == Usd::cents(20) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gate.usd(&me()).await.held, Usd::cents(20));
    unused.release().await.unwrap();
    open_gate.shutdown().await;
    assert_eq!(gate.usd(&me()).await.held, TEN_CENTS);
}
