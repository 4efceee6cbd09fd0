//! How the gate says that it stands.

use portcullis::cost::{CostStatus, LeaseSettings};
use portcullis::{Gate as Of, Governance, Module, SystemClock};
use sqlx::Executor as _;

use super::*;
use crate::common::{connect, keys};

async fn until(cost: &Cost, what: &str, holds: impl Fn(&CostStatus) -> bool) -> CostStatus {
    let wait = async {
        loop {
            let status = cost.status();
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), wait).await;
    found.unwrap_or_else(|_| panic!("{what}: {:?}", cost.status()))
}

async fn rename(test: &TestDatabase, from: &str, to: &str) {
    let sql = format!("ALTER TABLE portcullis.{from} RENAME TO {to}");
    let mut admin = connect(&test.options()).await;
    admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_whether_leases_that_ran_out_are_found_and_spend_is_reported() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let leases = LeaseSettings::default().report_every(Duration::from_millis(100));
    let settings = CostSettings::default()
        .sweep_every(Duration::from_millis(100))
        .leases(leases);
    let hasty = Database::options(test.options()).statement_timeout(Duration::from_millis(500));
    let cost = open(&hasty, clock, settings).await;
    let first = until(&cost, "a sweep", |status| status.swept_at.is_some()).await;
    assert!(first.is_ok() && first.sweeping && first.last_error.is_none());
    assert_eq!((first.slices, first.unreported, first.ending), (0, 0, 0));

    // A sweep that cannot be made; then it can.
    rename(&test, "reservations", "away").await;
    let failing = until(&cost, "it fails", |status| status.sweep_failing).await;
    assert!(!failing.is_ok());
    let fault = failing.last_error.unwrap();
    assert_eq!(fault.doing, "sweep reservations");
    assert!(!fault.error.contains("SELECT"), "{}", fault.error);
    rename(&test, "away", "reservations").await;
    let again = until(&cost, "again", CostStatus::is_ok).await;
    assert!(again.swept_at > first.swept_at && again.last_error.is_some());

    // A slice that is spent from and cannot be reported.
    let budget = Budget::for_agent(agent())
        .per_day(Usd::dollars(9))
        .leased(10);
    cost.register(budget).await.unwrap();
    let spend = async || {
        let held = cost.reserve(&me(), Ceiling::usd(TEN_CENTS)).await.unwrap();
        held.settle(TEN_CENTS).await.unwrap();
    };
    spend().await;
    until(&cost, "a slice", |status| status.slices == 1).await;
    until(&cost, "reported", |status| status.unreported == 0).await;
    rename(&test, "budget_leases", "away").await;
    spend().await;
    assert_eq!(cost.status().unreported, 1);
    let failing = until(&cost, "not reported", |status| status.slices_failing == 1).await;
    assert!(!failing.is_ok() && failing.unreported == 1);
    rename(&test, "away", "budget_leases").await;
    until(&cost, "reported", |status| {
        status.is_ok() && status.unreported == 0
    })
    .await;

    // An end that the store does not take, and that nobody waits for.
    let held = cost.reserve(&me(), Ceiling::usd(Usd::dollars(2))).await;
    let held = held.unwrap();
    let mut admin = connect(&test.options()).await;
    let mut hung = admin.begin().await.unwrap();
    let lock = "LOCK TABLE portcullis.reservations IN ACCESS EXCLUSIVE MODE";
    hung.execute(lock).await.unwrap();
    drop(held);
    let failing = until(&cost, "not ended", |status| status.endings_failing).await;
    assert!(!failing.is_ok() && failing.ending == 1);
    hung.rollback().await.unwrap();
    until(&cost, "ended", |status| {
        status.ending == 0 && status.is_ok()
    })
    .await;

    cost.shutdown().await;
    let closed = until(&cost, "closed", |status| !status.sweeping).await;
    assert!(!closed.is_ok(), "nobody looks any more");
}

#[tokio::test]
async fn health_and_posture_have_the_cost_gate() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = Governance::builder(test.database(), keys());
    let gov = gov.connect().await.unwrap();
    assert_eq!(gov.cost().status().budgets, None, "nobody has looked");
    gov.cost().register(daily(ONE_DOLLAR)).await.unwrap();
    let health = gov.health().await;
    assert_eq!(health.cost.budgets, Some(1));
    assert!(health.cost.counted_at.is_some() && health.cost.is_ok());
    let lacks = |gov: &Governance| gov.posture().of(Of::Cost).unwrap().missing.clone();
    assert!(lacks(&gov).is_empty());
    gov.shutdown().await;
    until(gov.cost(), "closed", |status| !status.sweeping).await;
    let [lacks] = &lacks(&gov)[..] else {
        panic!("one");
    };
    assert!(lacks.starts_with("nobody looks for leases"), "{lacks}");
    let off = Governance::builder(test.database(), keys()).without(Module::Cost);
    let off = off.connect().await.unwrap();
    let status = off.health().await.cost;
    assert!(status.switched_off && status.is_ok());
    off.shutdown().await;
    let closed = off.cost().status();
    assert!(closed.is_ok() && off.posture().of(Of::Cost).unwrap().missing.is_empty());
}
