//! What a process that holds slices does while the store is away, hangs, or says nothing.

use std::sync::Arc;
use std::time::Duration;

use portcullis::cost::{Budget, Cost, CostError};
use portcullis::store::TestDatabase;
use portcullis::{BudgetName, Ceiling, Clock, Database, ErrorKind, ManualClock, SystemClock, Usd};

use super::changes::lose_all;
use super::{CENT, leased, me, process, quick, spend, taken, until};
use crate::common::proxy::{Fault, Proxy, Statement};
use crate::cost::{ledger_agrees, open};

const RENEWAL: Statement = Statement::With("'returned' ELSE 'live'");
/// As long as a statement may take here.
const DEADLINE: Duration = Duration::from_secs(1);

/// A process that reaches its store by a wire that can be cut, and holds a slice.
async fn by_wire(budget: Budget, clock: Arc<dyn Clock>) -> (TestDatabase, Proxy, Cost) {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let database = Database::options(proxy.options()).statement_timeout(DEADLINE);
    let cost = open(&database, clock, quick()).await;
    cost.register(budget).await.unwrap();
    let who = me();
    for _ in 0..2 {
        spend(&cost, &who).await.unwrap();
    }
    (test, proxy, cost)
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_spent_although_the_server_is_gone() {
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let (test, proxy, cost) = by_wire(leased(100, 50), clock.clone()).await;
    let (who, spender) = (me(), cost.spender(&me()));
    for _ in 0..2 {
        spend(&cost, &who).await.unwrap();
        let held = spender.reserve(Ceiling::usd(CENT)).await.unwrap();
        held.settle(CENT).await.unwrap();
    }
    proxy.down();
    // The connection that listens is gone, too; slices are looked after ten times and more.
    for _ in 0..150 {
        spend(&cost, &who).await.unwrap();
        let held = spender.reserve(Ceiling::usd(CENT)).await.unwrap();
        held.settle(CENT).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The lease is over: what is left of the slice is not this process's any more.
    clock.advance(Duration::from_secs(31));
    let refused = spend(&cost, &who).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    proxy.up();
    while spend(&cost, &who).await.is_err() {}
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(taken(&test).await, Usd::cents(2 + 4 + 300 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_charged_although_nobody_heard_of_it() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let through = proxy.options();
    let listens = format!(
        "postgres://{}@{}:{}/{}?sslmode=disable",
        through.get_username(),
        through.get_host(),
        through.get_port(),
        through.get_database().unwrap()
    );
    let database = test.database().direct_url(listens);
    let cost = open(&database, Arc::new(SystemClock::default()), quick()).await;
    cost.register(leased(100, 50)).await.unwrap();
    let who = me();
    for _ in 0..3 {
        spend(&cost, &who).await.unwrap();
    }
    // The connection stays, and nothing comes over it any more.
    proxy.freeze(true);
    let other = process(&test, quick()).await;
    let small = BudgetName::parse("small").unwrap();
    let budget = Budget::for_tenant().named(small.clone()).per_day(CENT);
    other.register(budget).await.unwrap();
    let mut spent = 0;
    let refused = loop {
        match spend(&cost, &who).await {
            Ok(()) => spent += 1,
            Err(error) => break error,
        }
        assert!(spent < 1_000, "it is never charged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(
        matches!(&refused, CostError::Exceeded { budget, .. } if *budget == small),
        "{refused}"
    );
    proxy.freeze(false);
    cost.shutdown().await;
    ledger_agrees(&test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_new_callers_wait_for_a_hung_store_once() {
    let (_test, proxy, cost) = by_wire(leased(100, 50), Arc::new(SystemClock::default())).await;
    proxy.freeze(true);
    let asked = (0..24).map(|_| {
        let cost = cost.clone();
        tokio::spawn(async move { spend(&cost, &me()).await })
    });
    let asked: Vec<_> = asked.collect();
    let all = async {
        for one in asked {
            let refused = one.await.unwrap().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
        }
    };
    tokio::time::timeout(DEADLINE * 12, all)
        .await
        .expect("one of them finds out for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_call_waits_for_no_other_of_unknown_outcome() {
    let (test, proxy, cost) = by_wire(leased(100, 50), Arc::new(SystemClock::default())).await;
    let who = Box::leak(Box::new(me()));
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(cost.reserve(who, Ceiling::usd(CENT)).await.unwrap());
    }
    proxy.freeze(true);
    drop(held.pop());
    let unknown = held.pop().unwrap();
    for held in held {
        let settled = held.settle(CENT).await;
        assert_eq!(settled.expect("it ended in memory").usd, CENT);
    }
    let refused = unknown.leave_unknown().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    proxy.freeze(false);
    let both =
        "SELECT (count(*) >= 2)::int::bigint FROM portcullis.reservations WHERE state = 'unknown'";
    until(&test, both).await;
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(taken(&test).await, Usd::cents(2 + 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_before_a_slice_was_lost_is_charged_once() {
    let (test, proxy, cost) = by_wire(leased(100, 50), Arc::new(SystemClock::default())).await;
    let reported = "SELECT count(*) FROM portcullis.budget_leases WHERE spent_usd = 20000000 AND state = 'live'";
    until(&test, reported).await;
    proxy.inject_into(RENEWAL, Fault::HangAfterCommit);
    spend(&cost, &me()).await.unwrap();
    let reported = "SELECT count(*) FROM portcullis.budget_leases WHERE spent_usd = 30000000 AND state = 'live'";
    until(&test, reported).await;
    while proxy.hanging() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It was written, and nobody says so; and then the lease is over.
    proxy.down();
    lose_all(&test).await;
    proxy.up();
    let ended =
        "SELECT count(*) FROM portcullis.reservations WHERE state IN ('settled', 'released')";
    until(&test, ended).await;
    cost.shutdown().await;
    ledger_agrees(&test).await;
    assert_eq!(taken(&test).await, Usd::cents(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_slice_that_was_given_back_nothing_is_sent_any_more() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let leases = portcullis::cost::LeaseSettings::default()
        .report_every(Duration::from_millis(100))
        .idle(Duration::from_millis(200));
    let settings = portcullis::cost::CostSettings::default().leases(leases);
    let database = Database::options(proxy.options());
    let cost = open(&database, Arc::new(SystemClock::default()), settings).await;
    cost.register(leased(100, 50)).await.unwrap();
    spend(&cost, &me()).await.unwrap();
    let returned = "SELECT count(*) FROM portcullis.budget_leases WHERE state = 'returned'";
    until(&test, returned).await;
    // It is answered, and seen off; then it is quiet, for many looks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.inject_into(RENEWAL, Fault::CutBeforeCommit);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!proxy.spent(), "it is renewed, although it was given back");
    cost.shutdown().await;
    assert_eq!(taken(&test).await, CENT);
}
