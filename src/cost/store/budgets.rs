//! The register of budgets.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::admitted::on_limit;
use super::{CostStore, bound, limit, malformed, or_any, parse, parsed, period, seconds, window};
use crate::cost::budget::{Budget, Limits, Subject};
use crate::cost::price::Price;
use crate::cost::window::{Period, Window};
use crate::ids::{BudgetName, Id, IdKind};
use crate::money::Usd;
use crate::store::{InStore as _, StoreError, Topic};

/// What became of a registration.
#[derive(Clone, Debug)]
pub(in crate::cost) enum Registered {
    /// It is in force. In these windows more is spent than it allows.
    Done(Vec<Overrun>),
    /// The name is that of a budget for something else.
    NameTaken,
}

/// A window in which more is spent than its limit, and by how much at the most so far.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Overrun {
    pub(in crate::cost) window: Window,
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) tokens: i64,
    pub(in crate::cost) calls: i64,
}

impl CostStore {
    /// Puts `budget` in force under `name`, in open windows too.
    //
    // Safe under concurrency: the budget's rows are locked first, so that no window is opened with the
    // old limits meanwhile (a new name, instead of its rows); then the open windows, in the order of their keys, as admissions lock
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
                let mut owner = lock_owner(&mut tx, self.tenant(), name).await?;
                if owner.is_none() {
                    // Nothing is there to lock: two who register a name first meet here instead, and the
                    // second one sees what the first has registered.
                    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' ' || $2::text, 0))")
                        .bind(self.tenant())
                        .bind(name.as_str())
                        .persistent(false)
                        .execute(&mut *tx)
                        .await?;
                    owner = lock_owner(&mut tx, self.tenant(), name).await?;
                }
                if owner.is_some_and(|owner| owner != budget.subject) {
                    return Ok(Registered::NameTaken);
                }
                let periods: Vec<(Period, Limits)> = budget.periods().collect();
                let names: Vec<String> = periods.iter().map(|(period, _)| period.to_text()).collect();
                let usd: Vec<Option<Usd>> = periods.iter().map(|(_, limits)| limits.usd).collect();
                let tokens: Vec<Option<i64>> = periods
                    .iter()
                    .map(|(_, limits)| limits.tokens.map(bound))
                    .collect();
                let calls: Vec<Option<i64>> = periods
                    .iter()
                    .map(|(_, limits)| limits.calls.map(bound))
                    .collect();
                let seconds: Vec<Option<i32>> = periods
                    .iter()
                    .map(|(_, limits)| limits.seconds.and_then(|s| i32::try_from(s).ok()))
                    .collect();
                let buckets: Vec<Option<i64>> = periods
                    .iter()
                    .map(|(period, _)| period.stretch_micros())
                    .collect();
                let warn_at: Vec<i32> = budget.warn_at.iter().map(|at| i32::from(*at)).collect();
                let written = sqlx::query(
                    "WITH dropped AS (
                         DELETE FROM portcullis.budgets
                          WHERE tenant_id = $1 AND name = $2 AND period <> ALL($6::text[]))
                     INSERT INTO portcullis.budgets AS b (tenant_id, name, period, agent_id, user_id,
                            model, usd_limit, token_limit, call_limit, seconds_limit, bucket_micros,
                            fallback_input, fallback_output, on_limit, warn_at, lease_percent,
                            registered_at)
                     SELECT $1::text, $2::text, l.period, $3::text, $4::text, $5::text, l.usd, l.tokens,
                            l.calls, l.seconds, l.bucket, $12::bigint, $13::bigint, $14::text,
                            $15::integer[], $16::integer, $17::timestamptz
                       FROM unnest($6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::integer[],
                                   $11::bigint[]) AS l(period, usd, tokens, calls, seconds, bucket)
                      ORDER BY l.period
                     ON CONFLICT (tenant_id, name, period) DO UPDATE
                        SET usd_limit = excluded.usd_limit, token_limit = excluded.token_limit,
                            call_limit = excluded.call_limit, seconds_limit = excluded.seconds_limit,
                            fallback_input = excluded.fallback_input,
                            fallback_output = excluded.fallback_output, on_limit = excluded.on_limit,
                            warn_at = excluded.warn_at, lease_percent = excluded.lease_percent,
                            registered_at = excluded.registered_at
                      WHERE (b.agent_id, b.user_id, b.model)
                            = (excluded.agent_id, excluded.user_id, excluded.model)",
                )
                .bind(self.tenant())
                .bind(name.as_str())
                .bind(or_any(budget.subject.agent.as_ref()))
                .bind(or_any(budget.subject.user.as_ref()))
                .bind(or_any(budget.subject.model.as_ref()))
                .bind(names)
                .bind(usd)
                .bind(tokens)
                .bind(calls)
                .bind(seconds)
                .bind(buckets)
                .bind(budget.fallback.map(|price| price.dearest_input()))
                .bind(budget.fallback.map(|price| price.output))
                .bind(budget.on_limit.as_str())
                .bind(warn_at)
                .bind(budget.leased.map(i32::from))
                .bind(self.store.now())
                .persistent(false)
                .execute(&mut *tx)
                .await?;
                if usize::try_from(written.rows_affected()) != Ok(periods.len()) {
                    return Ok(Registered::NameTaken);
                }
                let overruns = sqlx::query(
                    "WITH clock AS MATERIALIZED (
                         SELECT c.utc
                           FROM (SELECT coalesce($3::timestamptz, now()) AT TIME ZONE 'UTC' AS utc) c
                     ), open AS MATERIALIZED (
                         SELECT w.period, w.window_key, b.usd_limit, b.token_limit, b.call_limit,
                                b.seconds_limit
                           FROM portcullis.budgets b
                          CROSS JOIN clock c
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = b.tenant_id AND w.budget = b.name AND w.period = b.period
                          WHERE b.tenant_id = $1::text AND b.name = $2::text
                            AND (w.period <> 'day' OR w.window_key >= to_char(c.utc, 'YYYY-MM-DD'))
                            AND (w.period <> 'month' OR w.window_key >= to_char(c.utc, 'YYYY-MM'))
                            AND (w.usd_limit, w.token_limit, w.call_limit, w.seconds_limit)
                                IS DISTINCT FROM
                                (b.usd_limit, b.token_limit, b.call_limit, b.seconds_limit)
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), changed AS (
                         -- Of a rolling window, the next admission counts; nothing of it is known here.
                         UPDATE portcullis.budget_windows w
                            SET usd_limit = o.usd_limit, token_limit = o.token_limit,
                                call_limit = o.call_limit, seconds_limit = o.seconds_limit,
                                overrun_usd = greatest(w.overrun_usd, w.settled_usd + w.held_usd
                                    - o.usd_limit - w.raised_usd - n.never),
                                overrun_tokens = greatest(w.overrun_tokens, w.settled_tokens
                                    + w.held_tokens - o.token_limit - w.raised_tokens - n.never),
                                overrun_calls = greatest(w.overrun_calls, w.settled_calls
                                    + w.held_calls - o.call_limit - w.raised_calls - n.never)
                           FROM open o
                          CROSS JOIN LATERAL (
                              SELECT CASE WHEN o.period LIKE 'rolling:%' THEN 9223372036854775807
                                          ELSE 0 END::numeric AS never) n
                          WHERE w.tenant_id = $1 AND w.budget = $2 AND w.period = o.period
                            AND w.window_key = o.window_key
                         RETURNING w.period, w.window_key, n.never = 0 AS counts,
                                   greatest(0, w.settled_usd + w.held_usd - w.usd_limit
                                       - w.raised_usd) AS usd,
                                   greatest(0, w.settled_tokens + w.held_tokens - w.token_limit
                                       - w.raised_tokens) AS tokens,
                                   greatest(0, w.settled_calls + w.held_calls - w.call_limit
                                       - w.raised_calls) AS calls
                     )
                     SELECT c.period, c.window_key, c.usd, c.tokens, c.calls
                       FROM changed c
                      WHERE c.counts AND (c.usd > 0 OR c.tokens > 0 OR c.calls > 0)
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
                        calls: row.try_get("calls")?,
                    })
                })
                .collect::<Result<_, sqlx::Error>>()?;
                // Heard when this is committed, by those who have slices of it; and found by them, where
                // it is not heard. At the end, so that others do not wait for long.
                sqlx::query(
                    "INSERT INTO portcullis.budget_revisions AS r (tenant_id, revision)
                     VALUES ($1, 1)
                     ON CONFLICT (tenant_id) DO UPDATE SET revision = r.revision + 1
                     RETURNING pg_notify('portcullis', $2::text) IS NULL AS told",
                )
                .bind(self.tenant())
                .bind(Topic::Leases.payload(self.store.tenant(), name.as_str()))
                .persistent(false)
                .execute(&mut *tx)
                .await?;
                tx.commit().await?;
                Ok(Registered::Done(overruns))
            })
            .await
    }

    /// Takes a budget out of force; says whose it was. What was spent stays on record.
    pub(in crate::cost) async fn delete_budget(
        &self,
        name: &BudgetName,
    ) -> Result<Option<Subject>, StoreError> {
        self.store
            .run("remove a budget", || async move {
                sqlx::query(
                    "WITH revised AS (
                         INSERT INTO portcullis.budget_revisions AS r (tenant_id, revision)
                         VALUES ($1::text, 1)
                         ON CONFLICT (tenant_id) DO UPDATE SET revision = r.revision + 1)
                     DELETE FROM portcullis.budgets
                      WHERE tenant_id = $1 AND name = $2
                        AND pg_notify('portcullis', $3::text) IS NOT NULL
                     RETURNING agent_id, user_id, model",
                )
                .bind(self.tenant())
                .bind(name.as_str())
                .bind(Topic::Leases.payload(self.store.tenant(), name.as_str()))
                .fetch_all_in(&self.store)
                .await?
                .first()
                .map(subject)
                .transpose()
            })
            .await
    }

    /// How many budgets the tenant has.
    pub(in crate::cost) async fn count_budgets(&self) -> Result<u64, StoreError> {
        let count: i64 = self
            .store
            .run_idempotent("count the budgets", || async move {
                let row = sqlx::query(
                    "SELECT count(DISTINCT name) AS budgets
                       FROM portcullis.budgets
                      WHERE tenant_id = $1",
                )
                .bind(self.tenant())
                .fetch_optional_in(&self.store)
                .await?;
                row.map_or(Ok(0), |row| row.try_get("budgets"))
            })
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Every budget of the tenant, by name.
    pub(in crate::cost) async fn list_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        let rows = self
            .store
            .run_idempotent("list the budgets", || async move {
                sqlx::query(
                    "SELECT name, period, agent_id, user_id, model, usd_limit, token_limit, call_limit,
                            seconds_limit, fallback_input, fallback_output, on_limit, warn_at,
                            lease_percent
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
        for mut next in rows {
            match budgets.last_mut().filter(|last| last.name == next.name) {
                Some(last) => last.limits.append(&mut next.limits),
                None => budgets.push(next),
            }
        }
        Ok(budgets)
    }
}

/// Locks the budget's rows; says whose it is.
async fn lock_owner(
    tx: &mut PgConnection,
    tenant: &str,
    name: &BudgetName,
) -> Result<Option<Subject>, sqlx::Error> {
    sqlx::query(
        "SELECT agent_id, user_id, model
           FROM portcullis.budgets
          WHERE tenant_id = $1 AND name = $2
          ORDER BY period
            FOR UPDATE",
    )
    .bind(tenant)
    .bind(name.as_str())
    .persistent(false)
    .fetch_all(tx)
    .await?
    .first()
    .map(subject)
    .transpose()
}

/// One row: the budget with one of its periods.
fn part(row: &PgRow) -> Result<Budget, sqlx::Error> {
    let input: Option<Usd> = row.try_get("fallback_input")?;
    let output: Option<Usd> = row.try_get("fallback_output")?;
    let limits = Limits {
        usd: row.try_get("usd_limit")?,
        tokens: limit(row.try_get("token_limit")?)?,
        calls: limit(row.try_get("call_limit")?)?,
        seconds: seconds(row.try_get("seconds_limit")?)?,
    };
    let percent = |stored: i32| u8::try_from(stored).map_err(|_| malformed("a percentage"));
    let warn_at: Vec<i32> = row.try_get("warn_at")?;
    let leased: Option<i32> = row.try_get("lease_percent")?;
    Ok(Budget {
        subject: subject(row)?,
        name: Some(parsed(row, "name")?),
        limits: BTreeMap::from([(period(row)?, limits)]),
        fallback: input
            .zip(output)
            .map(|(input, output)| Price::per_million(input, output)),
        on_limit: on_limit(row)?,
        warn_at: warn_at.into_iter().map(percent).collect::<Result<_, _>>()?,
        leased: leased.map(percent).transpose()?,
    })
}

fn subject(row: &PgRow) -> Result<Subject, sqlx::Error> {
    Ok(Subject {
        agent: named(row, "agent_id")?,
        user: named(row, "user_id")?,
        model: named(row, "model")?,
    })
}

/// A name; the empty text stands for every one.
fn named<K: IdKind>(row: &PgRow, column: &str) -> Result<Option<Id<K>>, sqlx::Error> {
    let text: String = row.try_get(column)?;
    (!text.is_empty()).then(|| parse(&text)).transpose()
}
