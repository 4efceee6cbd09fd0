use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Row as _};

use crate::ids::TenantId;
use crate::store::{Database, Store, TestDatabase};
use crate::time::SystemClock;

const LOCK: &str = "LOCK TABLE portcullis.budgets IN ACCESS EXCLUSIVE MODE";

async fn store(database: &Database) -> Store {
    let clock = Arc::new(SystemClock);
    Store::open(database, TenantId::single(), clock)
        .await
        .unwrap()
}

/// A process that is stopped in the middle of a transaction holds up the others for a moment.
#[tokio::test]
async fn a_transaction_that_nobody_goes_on_with_is_ended_by_the_server() {
    let test = TestDatabase::fresh().await.unwrap();
    let hasty = || Database::options(test.options()).statement_timeout(Duration::from_millis(300));
    let hosts = test.database().connect_pool().await.unwrap();
    let of_host = Database::pool(hosts).statement_timeout(Duration::from_millis(300));
    for database in [hasty(), hasty().pooled(), of_host] {
        let store = store(&database).await;
        let mut stopped = store.begin().await.unwrap();
        sqlx::query(LOCK).execute(&mut *stopped).await.unwrap();
        let mut other = test.options().connect().await.unwrap();
        let locked = sqlx::query("SELECT count(*) FROM portcullis.budgets").fetch_one(&mut other);
        tokio::time::timeout(Duration::from_secs(30), locked)
            .await
            .expect("the lock is given up")
            .unwrap();
        drop(stopped);
    }
}

/// `synchronous_commit` is off on the server here, as a host may have set it.
#[tokio::test]
async fn what_we_acknowledge_survives_a_crash_whatever_the_database_has_set() {
    let test = TestDatabase::fresh().await.unwrap();
    let direct = || Database::options(test.options());
    for database in [direct(), direct().pooled()] {
        let store = store(&database).await;
        let setting = "SELECT current_setting('synchronous_commit')";
        let mut tx = store.begin().await.unwrap();
        let row = sqlx::query(setting).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(row.get::<String, _>(0), "on");
        tx.commit().await.unwrap();
        if !store.is_pooled() {
            let row = sqlx::query(setting).fetch_one(store.pool()).await.unwrap();
            assert_eq!(row.get::<String, _>(0), "on");
        }
    }
}
