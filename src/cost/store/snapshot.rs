//! What is spent, held and left.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{CostStore, count, limit, maybe, parsed, period, seconds, window};
use crate::call::Principal;
use crate::cost::budget::{Limits, Period, State, Window};
use crate::ids::{BudgetName, ModelName};
use crate::money::Usd;
use crate::store::{InStore as _, StoreError};
use crate::time::Timestamp;

/// One window of a principal, open or not.
#[derive(Clone, Debug)]
pub(in crate::cost) struct CurrentWindow {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) period: Period,
    pub(in crate::cost) window: Window,
    pub(in crate::cost) limits: Limits,
    pub(in crate::cost) settled_usd: Usd,
    /// Of unknown outcome included.
    pub(in crate::cost) held_usd: Usd,
    pub(in crate::cost) overrun_usd: Usd,
    pub(in crate::cost) settled_tokens: u64,
    pub(in crate::cost) held_tokens: u64,
    pub(in crate::cost) overrun_tokens: u64,
    pub(in crate::cost) first_at: Option<Timestamp>,
    /// From when on calls can be charged to it.
    since: Timestamp,
}

/// The calls of one model that are charged to one window and settled, or of unknown outcome.
#[derive(Clone, Debug)]
pub(in crate::cost) struct SpentByModel {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) period: Period,
    pub(in crate::cost) state: State,
    pub(in crate::cost) model: Option<ModelName>,
    pub(in crate::cost) calls: u64,
    pub(in crate::cost) tokens: u64,
    pub(in crate::cost) input_tokens: u64,
    pub(in crate::cost) cached_tokens: u64,
    pub(in crate::cost) output_tokens: u64,
    pub(in crate::cost) reasoning_tokens: u64,
    pub(in crate::cost) usd: Usd,
}

impl CostStore {
    /// The windows that a call of `who` would be charged to now.
    pub(in crate::cost) async fn list_windows(
        &self,
        who: &Principal,
    ) -> Result<Vec<CurrentWindow>, StoreError> {
        self.store
            .run_idempotent("read the budget windows", || async move {
                sqlx::query(
                    "WITH clock AS MATERIALIZED (
                         SELECT coalesce($4::timestamptz, now()) AT TIME ZONE 'UTC' AS at)
                     SELECT b.name, b.period, k.window_key, b.usd_limit, b.token_limit, b.seconds_limit,
                            coalesce(w.settled_usd, 0) AS settled_usd,
                            coalesce(w.held_usd, 0) AS held_usd,
                            coalesce(w.overrun_usd, 0) AS overrun_usd,
                            coalesce(w.settled_tokens, 0) AS settled_tokens,
                            coalesce(w.held_tokens, 0) AS held_tokens,
                            coalesce(w.overrun_tokens, 0) AS overrun_tokens,
                            w.first_at,
                            -- Calls that began before the window's own transaction are found by a
                            -- margin; the window's key decides.
                            coalesce(w.opened_at, clock.at AT TIME ZONE 'UTC') - interval '1 minute'
                                AS since
                       FROM portcullis.budgets b
                      CROSS JOIN clock
                      CROSS JOIN LATERAL (
                          SELECT CASE b.period
                                     WHEN 'session' THEN $3::text
                                     ELSE to_char(clock.at, 'YYYY-MM-DD')
                                 END COLLATE \"C\" AS window_key) k
                       LEFT JOIN portcullis.budget_windows w
                         ON w.tenant_id = b.tenant_id AND w.budget = b.name AND w.period = b.period
                        AND w.window_key = k.window_key
                      WHERE b.tenant_id = $1 AND b.agent_id = $2
                      ORDER BY b.name, b.period DESC",
                )
                .bind(self.tenant())
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(self.store.database_now())
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(current)
                .collect()
            })
            .await
    }

    /// What the calls of `who` in `windows` used, by model.
    //
    // Derived from the reservations, so that no row per model is written by every settlement.
    pub(in crate::cost) async fn list_by_model(
        &self,
        who: &Principal,
        windows: &[CurrentWindow],
    ) -> Result<Vec<SpentByModel>, StoreError> {
        let Some(since) = windows.iter().map(|window| window.since).min() else {
            return Ok(Vec::new());
        };
        let day = windows.iter().find_map(|window| match window.window {
            Window::Day(day) => Some(day.to_string()),
            Window::Session(_) => None,
        });
        let day = &day;
        self.store
            .run_idempotent("read the costs by model", || async move {
                sqlx::query(
                    "SELECT c.budget AS name, c.period, r.state, r.model, count(*) AS calls,
                            least(sum(r.charged_tokens), 9223372036854775807)::bigint AS tokens,
                            least(sum(coalesce(r.input_tokens, 0)), 9223372036854775807)::bigint
                                AS input_tokens,
                            least(sum(coalesce(r.cached_tokens, 0)), 9223372036854775807)::bigint
                                AS cached_tokens,
                            least(sum(coalesce(r.output_tokens, 0)), 9223372036854775807)::bigint
                                AS output_tokens,
                            least(sum(coalesce(r.reasoning_tokens, 0)), 9223372036854775807)::bigint
                                AS reasoning_tokens,
                            least(sum(c.usd), 9223372036854775807)::bigint AS usd
                       FROM portcullis.reservations r
                      CROSS JOIN LATERAL unnest(r.budgets, r.periods, r.window_keys, r.charged_usd)
                            AS c(budget, period, window_key, usd)
                      WHERE r.tenant_id = $1 AND r.agent_id = $2 AND r.reserved_at >= $4
                        AND r.state IN ('settled', 'unknown')
                        AND c.window_key = CASE c.period WHEN 'session' THEN $3::text ELSE $5::text END
                      GROUP BY c.budget, c.period, r.state, r.model
                      ORDER BY c.budget, c.period, r.state, r.model",
                )
                .bind(self.tenant())
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(since)
                .bind(day)
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(by_model)
                .collect()
            })
            .await
    }
}

fn current(row: &PgRow) -> Result<CurrentWindow, sqlx::Error> {
    Ok(CurrentWindow {
        budget: parsed(row, "name")?,
        period: period(row)?,
        window: window(row)?,
        limits: Limits {
            usd: row.try_get("usd_limit")?,
            tokens: limit(row.try_get("token_limit")?)?,
            seconds: seconds(row.try_get("seconds_limit")?)?,
        },
        settled_usd: row.try_get("settled_usd")?,
        held_usd: row.try_get("held_usd")?,
        overrun_usd: row.try_get("overrun_usd")?,
        settled_tokens: count(row, "settled_tokens")?,
        held_tokens: count(row, "held_tokens")?,
        overrun_tokens: count(row, "overrun_tokens")?,
        first_at: row.try_get("first_at")?,
        since: row.try_get("since")?,
    })
}

fn by_model(row: &PgRow) -> Result<SpentByModel, sqlx::Error> {
    let state: String = row.try_get("state")?;
    Ok(SpentByModel {
        budget: parsed(row, "name")?,
        period: period(row)?,
        state: State::parse(&state).ok_or_else(|| super::malformed("a state"))?,
        model: maybe(row, "model")?,
        calls: count(row, "calls")?,
        tokens: count(row, "tokens")?,
        input_tokens: count(row, "input_tokens")?,
        cached_tokens: count(row, "cached_tokens")?,
        output_tokens: count(row, "output_tokens")?,
        reasoning_tokens: count(row, "reasoning_tokens")?,
        usd: row.try_get("usd")?,
    })
}
