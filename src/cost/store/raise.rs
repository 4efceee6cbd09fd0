//! Limits of one window that are raised.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{CostStore, bound, window};
use crate::cost::amount::{Amount, Calls, Tokens};
use crate::cost::window::Window;
use crate::ids::BudgetName;
use crate::money::Usd;
use crate::store::{ExecuteIn as _, InStore as _, StoreError};

/// By how much the limit of one window is short, or raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cost) struct Shortfall {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) window: Window,
    pub(in crate::cost) amount: Amount,
    /// The most that it may be raised by: what the call asks for, unless more is missing.
    pub(in crate::cost) at_most: Amount,
}

impl Shortfall {
    const fn usd(&self) -> Usd {
        match self.amount {
            Amount::Usd(usd) => usd,
            _ => Usd::ZERO,
        }
    }

    fn tokens(&self) -> i64 {
        match self.amount {
            Amount::Tokens(Tokens(tokens)) => bound(tokens),
            _ => 0,
        }
    }

    fn calls(&self) -> i64 {
        match self.amount {
            Amount::Calls(Calls(calls)) => bound(calls),
            _ => 0,
        }
    }
}

/// What became of a raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cost) enum Raised {
    /// It is in force.
    Now,
    /// It has been before.
    Before,
    /// There is no such window, or its limit would be more than can be written.
    NoWindow,
}

impl CostStore {
    /// The windows of `budget` that are open now, of no session, in which the unit of `amount` is
    /// limited.
    pub(in crate::cost) async fn list_current(
        &self,
        budget: &BudgetName,
        amount: Amount,
    ) -> Result<Vec<Window>, StoreError> {
        self.store
            .run_idempotent("read the windows of a budget", || async move {
                sqlx::query(
                    "SELECT w.period, w.window_key
                       FROM portcullis.budget_windows w
                      CROSS JOIN (SELECT coalesce($3::timestamptz, now()) AT TIME ZONE 'UTC' AS utc) c
                      WHERE w.tenant_id = $1 AND w.budget = $2
                        AND CASE $4::text WHEN 'usd' THEN w.usd_limit
                                          WHEN 'tokens' THEN w.token_limit
                                          ELSE w.call_limit END IS NOT NULL
                        AND CASE w.period
                                WHEN 'session' THEN false
                                WHEN 'day' THEN w.window_key = to_char(c.utc, 'YYYY-MM-DD')
                                WHEN 'month' THEN w.window_key = to_char(c.utc, 'YYYY-MM')
                                ELSE true
                            END
                      ORDER BY w.period",
                )
                .bind(self.tenant())
                .bind(budget.as_str())
                .bind(self.store.database_now())
                .bind(amount.unit())
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(window)
                .collect()
            })
            .await
    }

    /// Raises the limits of windows, all or none, and once for each id.
    //
    // Safe under concurrency: the windows are locked in the order of their keys, as admissions lock
    // them. Two raises of the same id meet at the primary key of budget_raises: the later one waits,
    // inserts nothing, and so changes nothing.
    pub(in crate::cost) async fn try_raise(
        &self,
        id: &str,
        short: &[Shortfall],
    ) -> Result<Raised, StoreError> {
        let budgets: &Vec<&str> = &short.iter().map(|s| s.budget.as_str()).collect();
        let periods: &Vec<String> = &short.iter().map(|s| s.window.period().to_text()).collect();
        let keys: &Vec<String> = &short.iter().map(|s| s.window.key()).collect();
        let usd: &Vec<Usd> = &short.iter().map(Shortfall::usd).collect();
        let tokens: &Vec<i64> = &short.iter().map(Shortfall::tokens).collect();
        let calls: &Vec<i64> = &short.iter().map(Shortfall::calls).collect();
        self.store
            .run_idempotent("raise the limit of a budget", || async move {
                let row = sqlx::query(
                    "WITH asked AS MATERIALIZED (
                         SELECT a.budget, a.period, a.window_key, sum(a.usd)::bigint AS usd,
                                sum(a.tokens)::bigint AS tokens, sum(a.calls)::bigint AS calls
                           FROM unnest($4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
                                       $9::bigint[]) AS a(budget, period, window_key, usd, tokens, calls)
                          GROUP BY a.budget, a.period, a.window_key
                     ), locked AS MATERIALIZED (
                         SELECT w.budget, w.period, w.window_key, a.usd, a.tokens, a.calls,
                                coalesce(w.usd_limit, 0)::numeric + w.raised_usd + a.usd
                                    <= 9223372036854775807
                                AND coalesce(w.token_limit, 0)::numeric + w.raised_tokens + a.tokens
                                    <= 9223372036854775807
                                AND coalesce(w.call_limit, 0)::numeric + w.raised_calls + a.calls
                                    <= 9223372036854775807 AS fits
                           FROM asked a
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = $1::text AND w.budget = a.budget AND w.period = a.period
                            AND w.window_key = a.window_key
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), fit AS MATERIALIZED (
                         SELECT count(*) = (SELECT count(*) FROM asked) AND bool_and(l.fits) AS fits
                           FROM locked l
                     ), new AS (
                         INSERT INTO portcullis.budget_raises (tenant_id, raise_id, budget, period,
                                window_key, usd, tokens, calls, raised_at)
                         SELECT $1, $3::text, l.budget, l.period, l.window_key, l.usd, l.tokens, l.calls,
                                coalesce($2::timestamptz, now())
                           FROM locked l CROSS JOIN fit f
                          WHERE f.fits
                          ORDER BY l.budget, l.period
                         ON CONFLICT DO NOTHING
                         RETURNING budget, period, window_key, usd, tokens, calls
                     ), raised AS (
                         UPDATE portcullis.budget_windows w
                            SET raised_usd = w.raised_usd + n.usd,
                                raised_tokens = w.raised_tokens + n.tokens,
                                raised_calls = w.raised_calls + n.calls
                           FROM new n
                          WHERE w.tenant_id = $1 AND w.budget = n.budget AND w.period = n.period
                            AND w.window_key = n.window_key
                         RETURNING w.budget
                     )
                     SELECT coalesce(f.fits, false) AS fits, (SELECT count(*) FROM raised) AS raised,
                            EXISTS (SELECT
                                      FROM portcullis.budget_raises b
                                     WHERE b.tenant_id = $1 AND b.raise_id = $3) AS known
                       FROM fit f",
                )
                .bind(self.tenant())
                .bind(self.store.database_now())
                .bind(id)
                .bind(budgets)
                .bind(periods)
                .bind(keys)
                .bind(usd)
                .bind(tokens)
                .bind(calls)
                .fetch_optional_in(&self.store)
                .await?;
                row.map_or(Ok(Raised::NoWindow), |row| raised(&row))
            })
            .await
    }
}

impl CostStore {
    /// Takes back what rolling windows were raised by longer ago than they last.
    //
    // Safe under concurrency: the windows are locked in the order of their keys. The raises are those that
    // this statement saw at its beginning; a window that was raised since is left for the next time.
    pub(in crate::cost) async fn expire_raises(&self) -> Result<u64, StoreError> {
        self.store
            .run_idempotent("take back the raises of rolling windows", || async move {
                let done = sqlx::query(
                    "WITH raised AS MATERIALIZED (
                         SELECT w.budget, w.period, w.window_key, w.raised_usd, w.raised_tokens,
                                w.raised_calls, k.usd, k.tokens, k.calls
                           FROM portcullis.budgets b
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = b.tenant_id AND w.budget = b.name AND w.period = b.period
                          CROSS JOIN LATERAL (
                              SELECT coalesce(sum(r.usd), 0) AS usd, coalesce(sum(r.tokens), 0) AS tokens,
                                     coalesce(sum(r.calls), 0) AS calls
                                FROM portcullis.budget_raises r
                               WHERE r.tenant_id = w.tenant_id AND r.budget = w.budget
                                 AND r.period = w.period AND r.window_key = w.window_key
                                 AND r.raised_at > coalesce($2::timestamptz, now())
                                     - w.bucket_micros * 60 * interval '1 microsecond') k
                          WHERE b.tenant_id = $1::text AND w.bucket_micros IS NOT NULL
                            AND (w.raised_usd > 0 OR w.raised_tokens > 0 OR w.raised_calls > 0)
                            AND (w.raised_usd > k.usd OR w.raised_tokens > k.tokens
                                 OR w.raised_calls > k.calls)
                     ), locked AS MATERIALIZED (
                         SELECT w.budget, w.period, w.window_key, r.usd, r.tokens, r.calls,
                                (w.raised_usd, w.raised_tokens, w.raised_calls)
                                = (r.raised_usd, r.raised_tokens, r.raised_calls) AS as_seen
                           FROM raised r
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = $1 AND w.budget = r.budget AND w.period = r.period
                            AND w.window_key = r.window_key
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     )
                     UPDATE portcullis.budget_windows w
                        SET raised_usd = least(w.raised_usd, l.usd),
                            raised_tokens = least(w.raised_tokens, l.tokens),
                            raised_calls = least(w.raised_calls, l.calls)
                       FROM locked l
                      WHERE w.tenant_id = $1 AND w.budget = l.budget AND w.period = l.period
                        AND w.window_key = l.window_key AND l.as_seen",
                )
                .bind(self.tenant())
                .bind(self.store.database_now())
                .execute_in(&self.store)
                .await?;
                Ok(done.rows_affected())
            })
            .await
    }
}

fn raised(row: &PgRow) -> Result<Raised, sqlx::Error> {
    let count: i64 = row.try_get("raised")?;
    if count > 0 {
        return Ok(Raised::Now);
    }
    // Nothing was inserted although everything fits: it was there, seen by this statement or not.
    if row.try_get("fits")? || row.try_get("known")? {
        return Ok(Raised::Before);
    }
    Ok(Raised::NoWindow)
}
