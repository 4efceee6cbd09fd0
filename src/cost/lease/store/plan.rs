//! Which limits apply to a caller, and which of them are leased; who has slices of a window.

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use crate::call::Principal;
use crate::cost::budget::Period;
use crate::cost::store::{CostStore, parsed, period};
use crate::ids::BudgetName;
use crate::money::Usd;
use crate::store::{InStore as _, StoreError, Topic};

/// One limit that a call of a caller is charged to.
#[derive(Clone, Debug)]
pub(in crate::cost::lease) struct Applicable {
    pub(in crate::cost::lease) budget: BudgetName,
    pub(in crate::cost::lease) period: Period,
    pub(in crate::cost::lease) key: String,
    pub(in crate::cost::lease) leased: bool,
    pub(in crate::cost::lease) usd_limited: bool,
    /// Nano-dollars for a million tokens in and out.
    pub(in crate::cost::lease) fallback: Option<(Usd, Usd)>,
}

impl CostStore {
    /// The limits that a call of `who` is charged to now.
    pub(in crate::cost::lease) async fn list_applicable(
        &self,
        who: &Principal,
    ) -> Result<Vec<Applicable>, StoreError> {
        self.store()
            .run_idempotent("read which budgets are leased", || async move {
                sqlx::query(
                    "SELECT b.name, b.period,
                            CASE b.period
                                WHEN 'session' THEN $3::text
                                ELSE to_char(coalesce($4::timestamptz, now()) AT TIME ZONE 'UTC',
                                             'YYYY-MM-DD')
                            END AS window_key,
                            b.leased_percent IS NOT NULL AS leased,
                            b.usd_limit IS NOT NULL AS usd_limited, b.fallback_input, b.fallback_output
                       FROM portcullis.budgets b
                      WHERE b.tenant_id = $1 AND b.agent_id = $2
                      ORDER BY b.name, b.period",
                )
                .bind(self.tenant())
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(self.store().database_now())
                .fetch_all_in(self.store())
                .await?
                .iter()
                .map(applicable)
                .collect()
            })
            .await
    }

    /// Says how much of `budget` processes take at a time, and tells those that have slices of it that
    /// it has changed. Part of its registration: they hear of it when that is committed.
    pub(in crate::cost) async fn lease_budget(
        &self,
        tx: &mut PgConnection,
        budget: &BudgetName,
        percent: Option<u8>,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "WITH told AS MATERIALIZED (SELECT pg_notify('portcullis', $4::text) AS told)
             UPDATE portcullis.budgets b
                SET leased_percent = $3::smallint
               FROM told
              WHERE b.tenant_id = $1 AND b.name = $2",
        )
        .bind(self.tenant())
        .bind(budget.as_str())
        .bind(percent.map(i16::from))
        .bind(Topic::Leases.payload(self.store().tenant(), budget.as_str()))
        .persistent(false)
        .execute(tx)
        .await
        .map(drop)
    }

    /// Asks the other holders for what is free of their slices of `budget`; says how much all have that
    /// is not spent, over all of its windows.
    pub(in crate::cost::lease) async fn ask_for_slices(
        &self,
        budget: &BudgetName,
        holder: Uuid,
        tell: bool,
    ) -> Result<[i64; 2], StoreError> {
        let payload = &Topic::Leases.payload(self.store().tenant(), budget.as_str());
        let row = self
            .store()
            .run_idempotent("ask for slices of a budget", || async move {
                sqlx::query(
                    "WITH out AS MATERIALIZED (
                         SELECT least(sum(l.taken_usd - l.spent_usd), 9223372036854775807)::bigint AS usd,
                                least(sum(l.taken_tokens - l.spent_tokens), 9223372036854775807)::bigint
                                    AS tokens
                           FROM portcullis.budget_leases l
                          WHERE l.tenant_id = $1 AND l.budget = $2 AND l.state = 'live'
                            AND l.holder <> $3
                     )
                     SELECT coalesce(o.usd, 0) AS usd, coalesce(o.tokens, 0) AS tokens,
                            CASE WHEN $4::boolean AND (o.usd > 0 OR o.tokens > 0)
                                 THEN pg_notify('portcullis', $5::text) IS NULL END AS told
                       FROM out o",
                )
                .bind(self.tenant())
                .bind(budget.as_str())
                .bind(holder)
                .bind(tell)
                .bind(payload)
                .fetch_optional_in(self.store())
                .await?
                .map(|row| Ok([row.try_get("usd")?, row.try_get("tokens")?]))
                .transpose()
            })
            .await?;
        Ok(row.unwrap_or_default())
    }
}

fn applicable(row: &PgRow) -> Result<Applicable, sqlx::Error> {
    let input: Option<Usd> = row.try_get("fallback_input")?;
    Ok(Applicable {
        budget: parsed(row, "name")?,
        period: period(row)?,
        key: row.try_get("window_key")?,
        leased: row.try_get("leased")?,
        usd_limited: row.try_get("usd_limited")?,
        fallback: input.zip(row.try_get("fallback_output")?),
    })
}
