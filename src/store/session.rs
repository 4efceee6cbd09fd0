//! Sessions of our own, for the few statements that are run all the time.
//!
//! A statement that decides for many callers is large: to plan it takes the server longer than to run
//! it. In a pool of fifteen connections it is planned for each of them, five times over, and each of
//! their processes has its own cold copy; the pool asks every connection whether it is alive before it
//! lends it out; and a plan that was made while a table was small reads that table from end to end when
//! it is large. Here it is planned once, and finds every row by its key.
//!
//! All tenants share these sessions. Who finds them taken, or cannot have one, uses the pool.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions as _, Connection as _, Postgres};
use tokio::sync::Semaphore;

use super::Store;
use super::statement::InStore as _;

/// How many there are at the most. A server has few connections to give; a third would be used only
/// while two statements are under way that wait for others.
const SESSIONS: usize = 2;

/// The sessions that are open, and how many may be.
#[derive(Debug)]
pub(super) struct Sessions {
    places: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Sessions {
    pub(super) const fn new() -> Self {
        Self {
            places: Semaphore::const_new(SESSIONS),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Closes those that are idle. One that is asked for afterwards is opened anew.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for session in idle {
            // It is gone in any case.
            let _ = session.close().await;
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement that is run all the time.
pub(crate) trait OftenInStore {
    /// Runs it for its rows, in a session of our own if one is free.
    ///
    /// Whether the session is still alive shows when the statement was sent: this is for what can be
    /// tried again after a lost connection.
    async fn fetch_all_often(self, store: &Store) -> Result<Vec<PgRow>, sqlx::Error>;
}

impl OftenInStore for Query<'_, Postgres, PgArguments> {
    async fn fetch_all_often(self, store: &Store) -> Result<Vec<PgRow>, sqlx::Error> {
        // Through a pooler there is no session of one's own.
        if store.is_pooled() {
            return self.fetch_all_in(store).await;
        }
        let sessions = store.sessions();
        let Ok(_place) = sessions.places.try_acquire() else {
            return self.fetch_all_in(store).await;
        };
        let idle = sessions.idle().pop();
        let mut session = match idle {
            Some(session) => session,
            None => match open(store).await {
                Ok(session) => session,
                // The pool says what is wrong, or has a connection left.
                Err(_) => return self.fetch_all_in(store).await,
            },
        };
        // Whoever stops waiting drops the session, and with it what it was asked; nobody else is
        // given the answer.
        let answer = self.fetch_all(&mut session).await;
        if answer.is_ok() {
            sessions.idle().push(session);
        }
        answer
    }
}

/// Opens a session, with the same options as the pool.
async fn open(store: &Store) -> Result<PgConnection, sqlx::Error> {
    let options = (*store.connect_options()).clone();
    let mut session = options.disable_statement_logging().connect().await?;
    prepare(&mut session, store.deadline()).await?;
    Ok(session)
}

/// What a session keeps to.
//
// Its statements name every row by its whole key, and mean it: the server, which guesses from how many
// rows it last counted, must not read tables or join them in any other way. (Nor find all rows of a
// tenant by the first column of the key: where a row is changed, they take the tenant from the row that
// was locked, and not from the parameter.) `synchronous_commit` off would let a crash of the server
// forget what was charged; a host may have set it for its own tables.
async fn prepare(session: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', $1, false),
                set_config('default_transaction_isolation', 'read committed', false),
                set_config('plan_cache_mode', 'force_generic_plan', false),
                set_config('jit', 'off', false),
                set_config('enable_seqscan', 'off', false),
                set_config('enable_hashjoin', 'off', false),
                set_config('enable_mergejoin', 'off', false),
                CASE WHEN current_setting('synchronous_commit') = 'off'
                     THEN set_config('synchronous_commit', 'on', false) END",
    )
    .bind(limit.as_millis().to_string())
    .persistent(false)
    .execute(session)
    .await
    .map(drop)
}
