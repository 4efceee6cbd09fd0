//! The cost gate against a real Postgres.

mod admission;
mod against_a_model;
mod choices;
mod endings;
mod limits;
mod outage;
mod sessions;
mod status;
mod whose;

use std::sync::Arc;
use std::time::Duration;

use portcullis::audit::AuditKeys;
use portcullis::cost::{
    Amount, Budget, Cost, CostError, CostSettings, Price, Prices, Resolution, Spent, State, Tally,
    Tokens, Window,
};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, BudgetName, Ceiling, Clock, Database, ErrorKind, ManualClock, ModelName, Principal,
    ReservationId, Secret, SessionId, TenantId, Tier, Timestamp, Usage, Usd,
};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

use crate::common::ledger::WRONG_WINDOWS;

const TEN_CENTS: Usd = Usd::cents(10);
const ONE_DOLLAR: Usd = Usd::cents(100);

pub(crate) struct Gate {
    pub(crate) test: TestDatabase,
    pub(crate) cost: Cost,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) async fn open(
    database: &Database,
    clock: Arc<dyn Clock>,
    settings: CostSettings,
) -> Cost {
    let keys = AuditKeys::single(Secret::generate().unwrap());
    Cost::open(database, keys, TenantId::single(), clock, settings)
        .await
        .unwrap()
}

impl Gate {
    async fn new() -> Self {
        Self::with(CostSettings::default()).await
    }

    async fn with(settings: CostSettings) -> Self {
        let test = TestDatabase::fresh().await.unwrap();
        let noon = Timestamp::parse("2026-11-21T12:00:00Z").unwrap();
        let clock = Arc::new(ManualClock::at(noon));
        let cost = open(&test.database(), clock.clone(), settings).await;
        Self { test, cost, clock }
    }

    /// Waits for what was handed to the background.
    async fn settled(&self) {
        self.cost.shutdown().await;
    }

    async fn usd(&self, who: &Principal) -> Tally<Usd> {
        self.cost.snapshot(who).await.unwrap().windows[0].usd
    }
}

fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

fn me() -> Principal {
    Principal::agent(agent())
}

fn daily(limit: Usd) -> Budget {
    Budget::for_agent(agent()).per_day(limit)
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).unwrap()
}

fn name(text: &str) -> BudgetName {
    BudgetName::parse(text).unwrap()
}

/// Holds the ceiling for good, so that dropping it hands nothing to the background.
fn keep<T>(held: T) {
    std::mem::forget(held);
}

async fn snapshot_days(gate: &Gate) -> Vec<Tally<Usd>> {
    let windows = gate.cost.snapshot(&me()).await.unwrap().windows;
    let days = windows
        .iter()
        .filter(|w| matches!(w.window, Window::Day(_)));
    days.map(|w| w.usd).collect()
}

/// What the windows say is what the reservations say.
pub(crate) async fn ledger_agrees(test: &TestDatabase) {
    let wrong = count(test, WRONG_WINDOWS).await;
    assert_eq!(wrong, 0, "windows that do not add up to their reservations");
}

pub(crate) async fn count(test: &TestDatabase, sql: &'static str) -> i64 {
    let mut connection = test.options().connect().await.unwrap();
    let found = sqlx::query_scalar(sql)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    found
}

/// Locks every window, as a database that hangs would.
pub(crate) async fn lock_windows(test: &TestDatabase) -> PgConnection {
    let mut blocker = test.options().connect().await.unwrap();
    sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
    sqlx::query("SELECT 1 FROM portcullis.budget_windows FOR UPDATE")
        .execute(&mut blocker)
        .await
        .unwrap();
    blocker
}

async fn waiting_now(test: &TestDatabase) -> i64 {
    count(
        test,
        "SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .await
}

/// Returns when somebody waits for a lock.
async fn waiting_backend(test: &TestDatabase) {
    while waiting_now(test).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
