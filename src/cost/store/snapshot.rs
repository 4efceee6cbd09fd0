//! What is spent, held and left.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{CostStore, count, limit, maybe, or_any, parse, parsed, period, seconds, window};
use crate::call::Principal;
use crate::cost::budget::Limits;
use crate::cost::price::Price;
use crate::cost::state::State;
use crate::cost::window::{Period, Window};
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
    pub(in crate::cost) settled_calls: u64,
    pub(in crate::cost) held_calls: u64,
    pub(in crate::cost) overrun_calls: u64,
    /// By how much the limits of this window were raised.
    pub(in crate::cost) raised: Raise,
    /// Whether it allows calls, or only restricts them.
    pub(in crate::cost) allows: bool,
    pub(in crate::cost) model: Option<ModelName>,
    pub(in crate::cost) fallback: Option<Price>,
    pub(in crate::cost) first_at: Option<Timestamp>,
    /// From when on calls can be charged to it.
    since: Timestamp,
}

impl CurrentWindow {
    /// What is left: dollars, tokens, calls.
    pub(in crate::cost) fn left(&self) -> Raise {
        const MAX: u64 = i64::MAX.unsigned_abs();
        let left = |limit: Option<u64>, raised: u64, settled: u64, held: u64| {
            let limit = limit.map_or(MAX, |limit| limit.saturating_add(raised));
            limit.saturating_sub(settled).saturating_sub(held)
        };
        let limit = self.limits.usd;
        let usd = limit.map_or(Usd::MAX, |limit| limit.saturating_add(self.raised.usd));
        Raise {
            usd: usd
                .minus_or_zero(self.settled_usd)
                .minus_or_zero(self.held_usd),
            tokens: left(
                self.limits.tokens,
                self.raised.tokens,
                self.settled_tokens,
                self.held_tokens,
            ),
            calls: left(
                self.limits.calls,
                self.raised.calls,
                self.settled_calls,
                self.held_calls,
            ),
        }
    }
}

/// Dollars, tokens, calls.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cost) struct Raise {
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) tokens: u64,
    pub(in crate::cost) calls: u64,
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
    /// The windows that a call of `who` would be charged to now, of any model.
    //
    // A rolling window has only the sum of its buckets here: all of it counts as settled, until what
    // is held of it is known from the reservations.
    pub(in crate::cost) async fn list_windows(
        &self,
        who: &Principal,
    ) -> Result<Vec<CurrentWindow>, StoreError> {
        self.store
            .run_idempotent("read the budget windows", || async move {
                sqlx::query(
                    "WITH clock AS MATERIALIZED (
                         SELECT c.at, c.at AT TIME ZONE 'UTC' AS utc,
                                greatest(0, extract(epoch FROM c.at) * 1000000)::bigint AS micros
                           FROM (SELECT coalesce($5::timestamptz, now()) AS at) c)
                     SELECT b.name, b.period, k.window_key, b.usd_limit, b.token_limit, b.call_limit,
                            b.seconds_limit, b.model, b.fallback_input, b.fallback_output,
                            b.usd_limit IS NOT NULL OR b.token_limit IS NOT NULL
                                OR (b.call_limit IS NULL AND b.seconds_limit IS NULL) AS allows,
                            coalesce(g.usd, w.settled_usd, 0) AS settled_usd,
                            CASE WHEN g.usd IS NULL THEN coalesce(w.held_usd, 0) ELSE 0 END AS held_usd,
                            coalesce(w.overrun_usd, 0) AS overrun_usd,
                            coalesce(g.tokens, w.settled_tokens, 0) AS settled_tokens,
                            CASE WHEN g.usd IS NULL THEN coalesce(w.held_tokens, 0) ELSE 0 END
                                AS held_tokens,
                            coalesce(w.overrun_tokens, 0) AS overrun_tokens,
                            coalesce(g.calls, w.settled_calls, 0) AS settled_calls,
                            CASE WHEN g.usd IS NULL THEN coalesce(w.held_calls, 0) ELSE 0 END
                                AS held_calls,
                            coalesce(w.overrun_calls, 0) AS overrun_calls,
                            coalesce(w.raised_usd, 0) AS raised_usd,
                            coalesce(w.raised_tokens, 0) AS raised_tokens,
                            coalesce(w.raised_calls, 0) AS raised_calls, w.first_at,
                            -- Calls that began before the window's own transaction are found by a
                            -- margin; the window's key decides, or the stretch.
                            CASE WHEN b.bucket_micros IS NULL
                                 THEN coalesce(w.opened_at, c.at) - interval '1 minute'
                                 ELSE to_timestamp(0) + (greatest(coalesce(w.bucket_at, 0),
                                          c.micros / b.bucket_micros) - 60)
                                      * b.bucket_micros * interval '1 microsecond'
                            END AS since
                       FROM portcullis.budgets b
                      CROSS JOIN clock c
                      CROSS JOIN LATERAL (
                          SELECT CASE b.period
                                     WHEN 'session' THEN $3::text
                                     WHEN 'day' THEN to_char(c.utc, 'YYYY-MM-DD')
                                     WHEN 'month' THEN to_char(c.utc, 'YYYY-MM')
                                     ELSE '-'
                                 END COLLATE \"C\" AS window_key) k
                       LEFT JOIN portcullis.budget_windows w
                         ON w.tenant_id = b.tenant_id AND w.budget = b.name AND w.period = b.period
                        AND w.window_key = k.window_key
                       LEFT JOIN LATERAL (
                           SELECT least(sum(s.usd), 9223372036854775807)::bigint AS usd,
                                  least(sum(s.tokens), 9223372036854775807)::bigint AS tokens,
                                  least(sum(s.calls), 9223372036854775807)::bigint AS calls
                             FROM (SELECT greatest(w.bucket_at, c.micros / w.bucket_micros) AS head) h
                            CROSS JOIN LATERAL (
                                SELECT CASE WHEN f.live THEN u.usd ELSE 0 END AS usd,
                                       CASE WHEN f.live THEN u.tokens ELSE 0 END AS tokens,
                                       CASE WHEN f.live THEN u.calls ELSE 0 END AS calls
                                  FROM unnest(w.bucket_usd, w.bucket_tokens, w.bucket_calls)
                                       WITH ORDINALITY AS u(usd, tokens, calls, slot)
                                 CROSS JOIN LATERAL (
                                     SELECT h.head - mod(h.head - u.slot + 62, 61) <= w.bucket_at
                                         AS live) f) s
                            WHERE w.bucket_micros IS NOT NULL
                            GROUP BY h.head) g ON true
                      WHERE b.tenant_id = $1 AND b.agent_id = ANY(ARRAY[$2::text, ''])
                        AND b.user_id = ANY(ARRAY[$4::text, ''])
                      ORDER BY b.name, b.period DESC",
                )
                .bind(self.tenant())
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(or_any(who.user_id()))
                .bind(self.store.database_now())
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(current)
                .collect()
            })
            .await
    }

    /// What the calls that are charged to `windows` used, by model.
    //
    // Derived from the reservations, so that no row per model is written by every settlement.
    pub(in crate::cost) async fn list_by_model(
        &self,
        windows: &[CurrentWindow],
    ) -> Result<Vec<SpentByModel>, StoreError> {
        let Some(since) = windows.iter().map(|window| window.since).min() else {
            return Ok(Vec::new());
        };
        let names: &Vec<&str> = &windows.iter().map(|w| w.budget.as_str()).collect();
        let periods: &Vec<String> = &windows.iter().map(|w| w.period.to_text()).collect();
        let keys: &Vec<String> = &windows.iter().map(|w| w.window.key()).collect();
        let from: &Vec<Timestamp> = &windows.iter().map(|w| w.since).collect();
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
                       JOIN unnest($3::text[], $4::text[], $5::text[], $6::timestamptz[])
                            AS k(budget, period, window_key, since)
                         ON k.budget = c.budget AND k.period = c.period AND k.window_key = c.window_key
                      WHERE r.tenant_id = $1 AND r.reserved_at >= $2 AND r.reserved_at >= k.since
                        AND r.state IN ('settled', 'unknown', 'held')
                      GROUP BY c.budget, c.period, r.state, r.model
                      ORDER BY c.budget, c.period, r.state, r.model",
                )
                .bind(self.tenant())
                .bind(since)
                .bind(names)
                .bind(periods)
                .bind(keys)
                .bind(from)
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
    let input: Option<Usd> = row.try_get("fallback_input")?;
    let output: Option<Usd> = row.try_get("fallback_output")?;
    let model: String = row.try_get("model")?;
    Ok(CurrentWindow {
        budget: parsed(row, "name")?,
        period: period(row)?,
        window: window(row)?,
        limits: Limits {
            usd: row.try_get("usd_limit")?,
            tokens: limit(row.try_get("token_limit")?)?,
            calls: limit(row.try_get("call_limit")?)?,
            seconds: seconds(row.try_get("seconds_limit")?)?,
        },
        settled_usd: row.try_get("settled_usd")?,
        held_usd: row.try_get("held_usd")?,
        overrun_usd: row.try_get("overrun_usd")?,
        settled_tokens: count(row, "settled_tokens")?,
        held_tokens: count(row, "held_tokens")?,
        overrun_tokens: count(row, "overrun_tokens")?,
        settled_calls: count(row, "settled_calls")?,
        held_calls: count(row, "held_calls")?,
        overrun_calls: count(row, "overrun_calls")?,
        raised: Raise {
            usd: row.try_get("raised_usd")?,
            tokens: count(row, "raised_tokens")?,
            calls: count(row, "raised_calls")?,
        },
        allows: row.try_get("allows")?,
        model: (!model.is_empty()).then(|| parse(&model)).transpose()?,
        fallback: input
            .zip(output)
            .map(|(input, output)| Price::per_million(input, output)),
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
