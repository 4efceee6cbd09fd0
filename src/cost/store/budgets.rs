//! The register of budgets.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{CostStore, bound, limit, parsed, period, seconds, window};
use crate::cost::budget::{Budget, Limits, Period, Window};
use crate::cost::price::Price;
use crate::ids::{AgentId, BudgetName};
use crate::money::Usd;
use crate::store::{InStore as _, StoreError, Topic};

/// What became of a registration.
#[derive(Clone, Debug)]
pub(in crate::cost) enum Registered {
    /// It is in force. In these windows more is spent than it allows.
    Done(Vec<Overrun>),
    /// The name is that of another agent's budget.
    NameTaken,
}

/// A window in which more is spent than its limit, and by how much at the most so far.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Overrun {
    pub(in crate::cost) window: Window,
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) tokens: i64,
}

impl CostStore {
    /// Puts `budget` in force under `name`, in open windows too.
    //
    // Safe under concurrency: the budget's rows are locked first, so that no window is opened with the
    // old limits meanwhile; then the open windows, in the order of their keys, as admissions lock
    // them. An admission before this commits counts against the old limit, one after against the new.
    #[expect(clippy::too_many_lines, reason = "one transaction of three statements")]
    pub(in crate::cost) async fn upsert_budget(
        &self,
        name: &BudgetName,
        budget: &Budget,
    ) -> Result<Registered, StoreError> {
        self.store
            .run_idempotent("register a budget", || async move {
                let mut tx = self.store.begin().await?;
                let owner: Option<String> = sqlx::query_scalar(
                    "SELECT agent_id
                       FROM portcullis.budgets
                      WHERE tenant_id = $1 AND name = $2
                      ORDER BY period
                        FOR UPDATE",
                )
                .bind(self.tenant())
                .bind(name.as_str())
                .persistent(false)
                .fetch_all(&mut *tx)
                .await?
                .pop();
                if owner.is_some_and(|owner| owner != budget.agent.as_str()) {
                    return Ok(Registered::NameTaken);
                }
                let periods: Vec<(Period, Limits)> = budget.periods().collect();
                let names: Vec<&str> = periods.iter().map(|(period, _)| period.as_str()).collect();
                let usd: Vec<Option<Usd>> = periods.iter().map(|(_, limits)| limits.usd).collect();
                let tokens: Vec<Option<i64>> = periods
                    .iter()
                    .map(|(_, limits)| limits.tokens.map(bound))
                    .collect();
                let seconds: Vec<Option<i32>> = periods
                    .iter()
                    .map(|(_, limits)| limits.seconds.and_then(|s| i32::try_from(s).ok()))
                    .collect();
                sqlx::query(
                    "WITH dropped AS (
                         DELETE FROM portcullis.budgets
                          WHERE tenant_id = $1 AND name = $2 AND period <> ALL($4::text[]))
                     INSERT INTO portcullis.budgets AS b (tenant_id, name, period, agent_id, usd_limit,
                            token_limit, seconds_limit, fallback_input, fallback_output, registered_at)
                     SELECT $1::text, $2::text, l.period, $3::text, l.usd, l.tokens, l.seconds, $8::bigint,
                            $9::bigint, $10::timestamptz
                       FROM unnest($4::text[], $5::bigint[], $6::bigint[], $7::integer[])
                            AS l(period, usd, tokens, seconds)
                      ORDER BY l.period
                     ON CONFLICT (tenant_id, name, period) DO UPDATE
                        SET usd_limit = excluded.usd_limit, token_limit = excluded.token_limit,
                            seconds_limit = excluded.seconds_limit,
                            fallback_input = excluded.fallback_input,
                            fallback_output = excluded.fallback_output,
                            registered_at = excluded.registered_at
                      WHERE b.agent_id = excluded.agent_id",
                )
                .bind(self.tenant())
                .bind(name.as_str())
                .bind(budget.agent.as_str())
                .bind(names)
                .bind(usd)
                .bind(tokens)
                .bind(seconds)
                .bind(budget.fallback.map(|price| price.dearest_input()))
                .bind(budget.fallback.map(|price| price.output))
                .bind(self.store.now())
                .persistent(false)
                .execute(&mut *tx)
                .await?;
                self.lease_budget(&mut tx, name, budget.leased).await?;
                let overruns = sqlx::query(
                    "WITH open AS MATERIALIZED (
                         SELECT w.period, w.window_key, b.usd_limit, b.token_limit, b.seconds_limit
                           FROM portcullis.budgets b
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = b.tenant_id AND w.budget = b.name AND w.period = b.period
                          WHERE b.tenant_id = $1::text AND b.name = $2::text
                            AND (w.period <> 'day'
                                 OR w.window_key >= to_char(coalesce($3::timestamptz, now())
                                                            AT TIME ZONE 'UTC', 'YYYY-MM-DD'))
                            AND (w.usd_limit, w.token_limit, w.seconds_limit)
                                IS DISTINCT FROM (b.usd_limit, b.token_limit, b.seconds_limit)
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), changed AS (
                         UPDATE portcullis.budget_windows w
                            SET usd_limit = o.usd_limit, token_limit = o.token_limit,
                                seconds_limit = o.seconds_limit,
                                overrun_usd = greatest(w.overrun_usd,
                                    w.settled_usd + w.held_usd - o.usd_limit),
                                overrun_tokens = greatest(w.overrun_tokens,
                                    w.settled_tokens + w.held_tokens - o.token_limit)
                           FROM open o
                          WHERE w.tenant_id = $1 AND w.budget = $2 AND w.period = o.period
                            AND w.window_key = o.window_key
                         RETURNING w.period, w.window_key,
                                   greatest(0, w.settled_usd + w.held_usd - w.usd_limit) AS usd,
                                   greatest(0, w.settled_tokens + w.held_tokens - w.token_limit) AS tokens
                     )
                     SELECT c.period, c.window_key, c.usd, c.tokens
                       FROM changed c
                      WHERE c.usd > 0 OR c.tokens > 0
                      ORDER BY c.period, c.window_key
                      LIMIT 100",
                )
                .bind(self.tenant())
                .bind(name.as_str())
                .bind(self.store.database_now())
                .persistent(false)
                .fetch_all(&mut *tx)
                .await?
                .iter()
                .map(|row| {
                    Ok(Overrun {
                        window: window(row)?,
                        usd: row.try_get("usd")?,
                        tokens: row.try_get("tokens")?,
                    })
                })
                .collect::<Result<_, sqlx::Error>>()?;
                tx.commit().await?;
                Ok(Registered::Done(overruns))
            })
            .await
    }

    /// Takes a budget out of force; says whose it was. What was spent stays on record.
    pub(in crate::cost) async fn delete_budget(
        &self,
        name: &BudgetName,
    ) -> Result<Option<AgentId>, StoreError> {
        self.store
            .run("remove a budget", || async move {
                sqlx::query(
                    "DELETE FROM portcullis.budgets b
                      USING (SELECT pg_notify('portcullis', $3::text)) told
                      WHERE b.tenant_id = $1 AND b.name = $2
                     RETURNING b.agent_id",
                )
                .bind(self.tenant())
                .bind(name.as_str())
                .bind(Topic::Leases.payload(self.store.tenant(), name.as_str()))
                .fetch_all_in(&self.store)
                .await?
                .first()
                .map(|row| parsed(row, "agent_id"))
                .transpose()
            })
            .await
    }

    /// Every budget of the tenant, by name.
    pub(in crate::cost) async fn list_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        let rows = self
            .store
            .run_idempotent("list the budgets", || async move {
                sqlx::query(
                    "SELECT name, period, agent_id, usd_limit, token_limit, seconds_limit,
                            fallback_input, fallback_output, leased_percent
                       FROM portcullis.budgets
                      WHERE tenant_id = $1
                      ORDER BY name, period",
                )
                .bind(self.tenant())
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(part)
                .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let mut budgets: Vec<Budget> = Vec::new();
        for (name, agent, fallback, period, limits, leased) in rows {
            let same = budgets.pop_if(|budget| budget.name.as_ref() == Some(&name));
            let mut budget = same.unwrap_or_else(|| Budget::for_agent(agent).named(name));
            budget.fallback = fallback;
            budget.leased = leased;
            match period {
                Period::Session => budget.session = Some(limits),
                Period::Day => budget.day = Some(limits),
            }
            budgets.push(budget);
        }
        Ok(budgets)
    }
}

type Part = (BudgetName, AgentId, Option<Price>, Period, Limits, Option<u8>);

fn part(row: &PgRow) -> Result<Part, sqlx::Error> {
    let input: Option<Usd> = row.try_get("fallback_input")?;
    let output: Option<Usd> = row.try_get("fallback_output")?;
    let limits = Limits {
        usd: row.try_get("usd_limit")?,
        tokens: limit(row.try_get("token_limit")?)?,
        seconds: seconds(row.try_get("seconds_limit")?)?,
    };
    let leased: Option<i16> = row.try_get("leased_percent")?;
    let fallback = input
        .zip(output)
        .map(|(input, output)| Price::per_million(input, output));
    Ok((
        parsed(row, "name")?,
        parsed(row, "agent_id")?,
        fallback,
        period(row)?,
        limits,
        leased.and_then(|percent| u8::try_from(percent).ok()),
    ))
}
