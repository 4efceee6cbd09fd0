//! Which limits apply to a caller, and which of them are leased; who has slices of a window.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::call::Principal;
use crate::cost::lease::ASKED;
use crate::cost::lease::slice::Amounts;
use crate::cost::store::{CostStore, or_any, parsed, period};
use crate::cost::window::Period;
use crate::ids::{BudgetName, ModelName};
use crate::money::Usd;
use crate::store::{InStore as _, StoreError, Topic};

/// One limit that a call of a caller is charged to.
#[derive(Clone, Debug)]
pub(in crate::cost::lease) struct Applicable {
    pub(in crate::cost::lease) budget: BudgetName,
    pub(in crate::cost::lease) period: Period,
    pub(in crate::cost::lease) key: String,
    pub(in crate::cost::lease) leased: bool,
    /// Whether it lets calls be made, or only restricts them.
    pub(in crate::cost::lease) allows: bool,
    pub(in crate::cost::lease) usd_limited: bool,
    /// Nano-dollars for a million tokens in and out.
    pub(in crate::cost::lease) fallback: Option<(Usd, Usd)>,
}

impl CostStore {
    /// The limits that a call of `who` is charged to now.
    pub(in crate::cost::lease) async fn list_applicable(
        &self,
        who: &Principal,
        model: Option<&ModelName>,
    ) -> Result<Vec<Applicable>, StoreError> {
        self.store()
            .run_idempotent("read which budgets are leased", || async move {
                sqlx::query(
                    "WITH clock AS MATERIALIZED (
                         SELECT coalesce($4::timestamptz, now()) AT TIME ZONE 'UTC' AS utc)
                     SELECT b.name, b.period,
                            CASE b.period
                                WHEN 'session' THEN $3::text
                                WHEN 'day' THEN to_char(c.utc, 'YYYY-MM-DD')
                                WHEN 'month' THEN to_char(c.utc, 'YYYY-MM')
                                ELSE '-'
                            END AS window_key,
                            b.lease_percent IS NOT NULL AND b.bucket_micros IS NULL
                                AND b.on_limit <> 'warn' AS leased,
                            b.usd_limit IS NOT NULL OR b.token_limit IS NOT NULL
                                OR (b.call_limit IS NULL AND b.seconds_limit IS NULL) AS allows,
                            b.usd_limit IS NOT NULL AS usd_limited, b.fallback_input, b.fallback_output
                       FROM portcullis.budgets b
                      CROSS JOIN clock c
                      WHERE b.tenant_id = $1 AND b.agent_id = ANY(ARRAY[$2::text, ''])
                        AND b.user_id = ANY(ARRAY[$5::text, '']) AND b.model = ANY(ARRAY[$6::text, ''])
                      ORDER BY b.name, b.period",
                )
                .bind(self.tenant())
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(self.store().database_now())
                .bind(or_any(who.user_id()))
                .bind(or_any(model))
                .fetch_all_in(self.store())
                .await?
                .iter()
                .map(applicable)
                .collect()
            })
            .await
    }

    /// How often budgets of the tenant have changed.
    pub(in crate::cost::lease) async fn read_revision(&self) -> Result<i64, StoreError> {
        let row = self
            .store()
            .run_idempotent("read whether budgets have changed", || async move {
                sqlx::query(
                    "SELECT r.revision FROM portcullis.budget_revisions r WHERE r.tenant_id = $1",
                )
                .bind(self.tenant())
                .fetch_optional_in(self.store())
                .await?
                .map(|row| row.try_get("revision"))
                .transpose()
            })
            .await?;
        Ok(row.unwrap_or(0))
    }

    /// Whether a budget of the tenant is leased.
    pub(in crate::cost) async fn any_leased(&self) -> Result<bool, StoreError> {
        let row = self
            .store()
            .run_idempotent("read whether budgets are leased", || async move {
                sqlx::query(
                    "SELECT EXISTS (SELECT FROM portcullis.budgets b
                                     WHERE b.tenant_id = $1 AND b.lease_percent IS NOT NULL) AS leased",
                )
                .bind(self.tenant())
                .fetch_optional_in(self.store())
                .await?
                .map(|row| row.try_get("leased"))
                .transpose()
            })
            .await?;
        Ok(row.unwrap_or(false))
    }

    /// Asks the other holders for what is free of their slices of `budget`; says how much all have that
    /// is not spent, over all of its windows.
    pub(in crate::cost::lease) async fn ask_for_slices(
        &self,
        budget: &BudgetName,
        holder: Uuid,
        tell: bool,
    ) -> Result<Amounts, StoreError> {
        let payload = &Topic::Leases.payload(self.store().tenant(), &format!("{ASKED}{budget}"));
        let row = self
            .store()
            .run_idempotent("ask for slices of a budget", || async move {
                sqlx::query(
                    "WITH out AS MATERIALIZED (
                         SELECT least(sum(l.taken_usd - l.spent_usd), 9223372036854775807)::bigint AS usd,
                                least(sum(l.taken_tokens - l.spent_tokens), 9223372036854775807)::bigint
                                    AS tokens,
                                least(sum(l.taken_calls - l.spent_calls), 9223372036854775807)::bigint AS calls
                           FROM portcullis.budget_leases l
                          WHERE l.tenant_id = $1 AND l.budget = $2 AND l.state = 'live'
                            AND l.holder <> $3
                     )
                     SELECT coalesce(o.usd, 0) AS usd, coalesce(o.tokens, 0) AS tokens,
                            coalesce(o.calls, 0) AS calls,
                            CASE WHEN $4::boolean AND (o.usd > 0 OR o.tokens > 0 OR o.calls > 0)
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
                .map(|row| Ok([row.try_get("usd")?, row.try_get("tokens")?, row.try_get("calls")?]))
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
        allows: row.try_get("allows")?,
        usd_limited: row.try_get("usd_limited")?,
        fallback: input.zip(row.try_get("fallback_output")?),
    })
}
