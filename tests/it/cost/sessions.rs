//! The sessions of our own in which reservations and their ends are decided.

use super::*;

async fn dime(cost: &Cost, who: &Principal) -> portcullis::cost::Reservation {
    cost.reserve(who, Ceiling::usd(TEN_CENTS)).await.unwrap()
}

/// A plan that is kept was made when the tables were small: it must not read them from end to end when
/// they are large.
#[tokio::test]
async fn every_row_is_found_by_its_key_although_its_table_was_counted_when_it_was_empty() {
    const CALLS: i64 = 200;
    let gate = Gate::new().await;
    gate.cost.register(daily(Usd::dollars(100))).await.unwrap();
    let mut operator = gate.test.options().connect().await.unwrap();
    let counted = "ANALYZE portcullis.reservations, portcullis.budget_windows";
    sqlx::query(counted).execute(&mut operator).await.unwrap();
    operator.close().await.unwrap();
    for _ in 0..CALLS {
        let held = dime(&gate.cost, &me()).await;
        held.settle(Usd::cents(1)).await.unwrap();
    }
    // A session that ends says what it has read.
    gate.settled().await;
    let seen = "SELECT least(n_tup_ins, n_tup_upd) FROM pg_stat_user_tables
                 WHERE schemaname = 'portcullis' AND relname = 'reservations'";
    while count(&gate.test, seen).await < CALLS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables
                 WHERE schemaname = 'portcullis' AND relname = 'reservations'";
    let read = count(&gate.test, read).await;
    assert!(read <= 10 * CALLS, "{CALLS} calls read {read} reservations");
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_replaced_and_nothing_is_charged_twice() {
    let gate = Gate::new().await;
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let first = dime(&gate.cost, &me()).await;
    for _ in 0..2 {
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        assert!(count(&gate.test, ended).await > 0);
        keep(dime(&gate.cost, &me()).await);
    }
    first.settle(Usd::cents(1)).await.unwrap();
    let usd = gate.usd(&me()).await;
    assert_eq!((usd.settled, usd.held), (Usd::cents(1), Usd::cents(20)));
    ledger_agrees(&gate.test).await;
}

/// There are few such sessions, and statements that wait for a lock keep them.
#[tokio::test]
async fn who_finds_the_sessions_taken_uses_the_pool() {
    let gate = Gate::new().await;
    let (stuck, free) = (me(), Principal::agent(AgentId::parse("other").unwrap()));
    gate.cost.register(daily(ONE_DOLLAR)).await.unwrap();
    let budget = Budget::for_agent(free.agent_id().clone()).per_day(ONE_DOLLAR);
    gate.cost.register(budget).await.unwrap();
    keep(dime(&gate.cost, &stuck).await);
    let held = dime(&gate.cost, &free).await;
    let mut blocker = gate.test.options().connect().await.unwrap();
    for sql in [
        "BEGIN",
        "SELECT 1 FROM portcullis.budget_windows w
           JOIN portcullis.budgets b ON b.name = w.budget
          WHERE b.agent_id = 'billing-agent' FOR UPDATE OF w",
    ] {
        sqlx::query(sql).execute(&mut blocker).await.unwrap();
    }
    let mut waiting = Vec::new();
    for already in 1..=3 {
        let (cost, who) = (gate.cost.clone(), stuck.clone());
        waiting.push(tokio::spawn(async move { keep(dime(&cost, &who).await) }));
        while waiting_now(&gate.test).await < already {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    keep(dime(&gate.cost, &free).await);
    held.settle(Usd::cents(1)).await.unwrap();
    assert!(waiting.iter().all(|call| !call.is_finished()));
    blocker.close().await.unwrap();
    for call in waiting {
        call.await.unwrap();
    }
    ledger_agrees(&gate.test).await;
}
