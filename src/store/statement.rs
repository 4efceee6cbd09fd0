//! The one way to run a single statement, straight or through a pooler.
//!
//! PgBouncer in transaction mode gives a client another server session for each transaction. A named
//! statement is then missing or somebody else's, a setting of the session leaks to other clients,
//! and even an unnamed statement outside of a transaction is prepared in one session and run in
//! another: measured, it ran another client's statement and returned its result. So everything is
//! unnamed *and* in a transaction, which sets its own limits.

use std::time::Duration;

#[expect(
    clippy::disallowed_types,
    reason = "SET takes no bind parameter; what is written into it is a number"
)]
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgArguments, PgConnection, PgQueryResult, PgRow};
use sqlx::query::{Query, QueryAs};
use sqlx::{Connection as _, FromRow, PgPool, Postgres, Row as _, SqlSafeStr, Transaction};

use super::{Store, StoreError};
use crate::task;

#[cfg(test)]
mod tests;

/// For how long after its deadline a transaction may be left alone before the server ends it.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// How a transaction begins, in one message: with what our statements count on, whatever the database's
/// default is, and so that a process that is stopped in the middle of it holds its locks no longer than
/// [`longest_idle`].
fn begin_sql(limit: Duration) -> impl SqlSafeStr {
    AssertSqlSafe(format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = {}",
        longest_idle(limit).as_millis()
    ))
}

/// For how long a transaction may wait for its client: nobody goes on with it after the deadline.
pub(super) const fn longest_idle(limit: Duration) -> Duration {
    limit.saturating_add(LEFT_ALONE)
}

/// A statement that is run by itself.
pub(crate) trait InStore {
    type Row;

    /// Runs it for its rows.
    async fn fetch_all_in(self, store: &Store) -> Result<Vec<Self::Row>, sqlx::Error>;

    /// Runs it for its first row.
    async fn fetch_optional_in(self, store: &Store) -> Result<Option<Self::Row>, sqlx::Error>
    where
        Self: Sized,
    {
        let rows = self.fetch_all_in(store).await?;
        Ok(rows.into_iter().next())
    }
}

impl InStore for Query<'_, Postgres, PgArguments> {
    type Row = PgRow;

    async fn fetch_all_in(self, store: &Store) -> Result<Vec<PgRow>, sqlx::Error> {
        if !store.is_pooled() {
            return self.fetch_all(store.pool()).await;
        }
        let mut tx = store.begin().await?;
        let rows = self.persistent(false).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

impl<O> InStore for QueryAs<'_, Postgres, O, PgArguments>
where
    O: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    type Row = O;

    async fn fetch_all_in(self, store: &Store) -> Result<Vec<O>, sqlx::Error> {
        if !store.is_pooled() {
            return self.fetch_all(store.pool()).await;
        }
        let mut tx = store.begin().await?;
        let rows = self.persistent(false).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

/// Runs a statement that has no rows.
pub(crate) trait ExecuteIn {
    async fn execute_in(self, store: &Store) -> Result<PgQueryResult, sqlx::Error>;
}

impl ExecuteIn for Query<'_, Postgres, PgArguments> {
    async fn execute_in(self, store: &Store) -> Result<PgQueryResult, sqlx::Error> {
        if !store.is_pooled() {
            return self.execute(store.pool()).await;
        }
        let mut tx = store.begin().await?;
        let done = self.persistent(false).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done)
    }
}

impl Store {
    /// Begins a transaction, by a task of its own: cancelled between sending BEGIN and hearing of it,
    /// the driver would give the connection back with the transaction open.
    ///
    /// Statements in it are unnamed: `persistent(false)`.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let (pool, limit) = (self.pool().clone(), self.deadline());
        let pooled = self.is_pooled();
        let begun = async move {
            let mut tx = pool.begin_with(begin_sql(limit)).await?;
            if pooled {
                limit_transaction(&mut tx, limit).await?;
            }
            Ok(tx)
        };
        task::spawn(begun)
            .await
            .unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }
}

/// Begins a transaction for one statement through a pooler, on a connection of one's own.
pub(crate) async fn begin_on(
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    let mut tx = connection.begin_with(begin_sql(limit)).await?;
    limit_transaction(&mut tx, limit).await?;
    Ok(tx)
}

/// Whether a session has the time limit that its connection asked for at the start.
//
// The simple protocol: one message, so that it is safe through whatever stands in between.
pub(super) async fn keeps_settings(pool: &PgPool, limit: Duration) -> Result<bool, StoreError> {
    let setting = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'";
    let row = sqlx::raw_sql(setting).fetch_one(pool).await;
    let set = row.and_then(|row| row.try_get::<String, _>(0));
    let set = set.map_err(StoreError::during("check for a pooler"))?;
    Ok(set == limit.as_millis().to_string())
}

/// Prepares a direct connection: off, what we acknowledge could be lost in a crash of the server; a host
/// may have set it so for its own tables.
pub(super) async fn prepare_session(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
                     THEN set_config('synchronous_commit', 'on', false) END",
    )
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}

/// What a direct connection sets once for its session.
async fn limit_transaction(tx: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', $1, true),
                set_config('jit', 'off', true),
                CASE WHEN current_setting('synchronous_commit') = 'off'
                     THEN set_config('synchronous_commit', 'on', true) END",
    )
    .bind(limit.as_millis().to_string())
    .persistent(false)
    .execute(tx)
    .await
    .map(drop)
}
