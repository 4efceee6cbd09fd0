//! Admission: check and charge in one statement.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{CostStore, bound, count, limit, parsed, seconds, window};
use crate::cost::budget::Window;
use crate::ids::{AgentId, BudgetName, ModelName, ReservationId, SessionId, UserId};
use crate::money::Usd;
use crate::store::{ExecuteIn as _, InStore as _, StoreError, StoreFault};
use crate::time::Timestamp;

const OPERATION: &str = "reserve from a budget";
/// How often windows are opened again, when budgets are registered at the same time.
const ATTEMPTS: u32 = 4;

/// What is asked for. Numbers are checked at the door.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Demand {
    pub(in crate::cost) id: ReservationId,
    pub(in crate::cost) agent: AgentId,
    pub(in crate::cost) session: SessionId,
    pub(in crate::cost) user: Option<UserId>,
    pub(in crate::cost) model: Option<ModelName>,
    pub(in crate::cost) provider: Option<String>,
    /// In and out together, for limits in tokens.
    pub(in crate::cost) tokens: u64,
    /// The price, if there is one; else a budget's fallback price applies to the next three.
    pub(in crate::cost) usd: Option<Usd>,
    pub(in crate::cost) input: u64,
    pub(in crate::cost) output: u64,
    /// Tokens of either direction.
    pub(in crate::cost) either: u64,
    pub(in crate::cost) lease_micros: i64,
    /// Charge it whatever the limits say: it has been spent already.
    pub(in crate::cost) spent_already: bool,
    /// The budgets and periods that slices in memory are charged for instead.
    pub(in crate::cost) from_slices: (Vec<String>, Vec<&'static str>),
}

/// The answer, with what it was decided from.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Admission {
    pub(in crate::cost) admitted: bool,
    /// The limits that apply. Empty if an earlier attempt admitted it and its answer was lost.
    pub(in crate::cost) windows: Vec<WindowState>,
}

/// One limit that applies, as it stood under the lock.
#[derive(Clone, Debug)]
pub(in crate::cost) struct WindowState {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) window: Window,
    /// Whether processes take slices of it.
    pub(in crate::cost) leased: bool,
    /// Whether the window has been opened.
    pub(in crate::cost) open: bool,
    /// What the ceiling costs here; `None` if there is no price and one is needed.
    pub(in crate::cost) asked_usd: Option<Usd>,
    pub(in crate::cost) usd_limit: Option<Usd>,
    pub(in crate::cost) token_limit: Option<u64>,
    pub(in crate::cost) seconds_limit: Option<u32>,
    /// Settled and held.
    pub(in crate::cost) taken_usd: Usd,
    pub(in crate::cost) taken_tokens: u64,
    pub(in crate::cost) first_at: Option<Timestamp>,
    /// The database's time.
    pub(in crate::cost) at: Timestamp,
}

impl CostStore {
    /// Charges `demand` to every limit that applies, or to none.
    ///
    /// One statement; the first admission of a session or a day opens its windows before.
    //
    // No transaction is begun: a caller that is cancelled or times out while the driver begins one
    // returns a connection to the pool in which it stays open, with all locks of the next user.
    //
    // Trying again after a lost connection is safe: the reservation's id is its primary key, so a
    // second admission of the same one fails as a whole, and says that the first one succeeded.
    pub(in crate::cost) async fn try_reserve(
        &self,
        demand: &Demand,
    ) -> Result<Admission, StoreError> {
        let work = || async move {
            let first = self.reserve_once(demand).await?;
            if first.windows.iter().all(|window| window.open) {
                return Ok(first);
            }
            self.open_windows(demand).await?;
            self.reserve_once(demand).await
        };
        for _ in 0..ATTEMPTS {
            let answer = self.store.run_idempotent(OPERATION, work).await;
            match answer {
                Err(error) if error.sqlstate() == Some("23505") => {
                    return Ok(Admission {
                        admitted: true,
                        windows: Vec::new(),
                    });
                }
                Ok(answer) if answer.windows.iter().any(|window| !window.open) => {}
                answer => return answer,
            }
        }
        Err(StoreError::new(OPERATION, StoreFault::Aborted))
    }

    // Safe under concurrency: `locked` holds the row lock of every window that applies, taken in the
    // order of their keys, before anything is checked; a row that was changed while it was waited for
    // is read again, limit included. All are charged, or none; the reservation is inserted by the same
    // statement. Nothing is locked while a window is missing, so that refusing to go on costs no commit.
    #[expect(clippy::too_many_lines, reason = "one statement")]
    async fn reserve_once(&self, demand: &Demand) -> Result<Admission, sqlx::Error> {
        let rows = sqlx::query(
            "WITH applicable AS MATERIALIZED (
                 SELECT b.name, b.period, k.window_key,
                        EXISTS (SELECT
                                  FROM portcullis.budget_windows w
                                 WHERE w.tenant_id = $1 AND w.budget = b.name
                                   AND w.period = b.period AND w.window_key = k.window_key) AS open,
                        CASE WHEN $10::bigint IS NOT NULL THEN $10
                             WHEN b.fallback_input IS NOT NULL THEN
                                 least(9223372036854775807,
                                     div($11::bigint::numeric * b.fallback_input + 999999, 1000000)
                                   + div($12::bigint::numeric * b.fallback_output + 999999, 1000000)
                                   + div($13::bigint::numeric
                                         * greatest(b.fallback_input, b.fallback_output) + 999999,
                                         1000000))::bigint
                             WHEN $7::text IS NULL AND b.usd_limit IS NULL THEN 0
                        END AS asked_usd, b.fallback_input, b.fallback_output,
                        b.leased_percent IS NOT NULL AS leased
                   FROM portcullis.budgets b
                  CROSS JOIN LATERAL (
                      SELECT CASE b.period
                                 WHEN 'session' THEN $3::text
                                 ELSE to_char(coalesce($4::timestamptz, now()) AT TIME ZONE 'UTC',
                                              'YYYY-MM-DD')
                             END COLLATE \"C\" AS window_key) k
                  WHERE b.tenant_id = $1::text AND b.agent_id = $2::text
                    AND (b.name, b.period) NOT IN (SELECT s.budget, s.period
                                                     FROM unnest($16::text[], $17::text[]) s(budget, period))
             ), locked AS MATERIALIZED (
                 SELECT a.name, a.period, a.window_key, a.asked_usd, a.fallback_input,
                        a.fallback_output, w.usd_limit, w.token_limit, w.seconds_limit,
                        w.settled_usd + w.held_usd AS taken_usd,
                        w.settled_tokens + w.held_tokens AS taken_tokens, w.first_at
                   FROM applicable a
                   JOIN portcullis.budget_windows w
                     ON w.tenant_id = $1 AND w.budget = a.name AND w.period = a.period
                    AND w.window_key = a.window_key
                  WHERE NOT EXISTS (SELECT FROM applicable m WHERE NOT m.open)
                  ORDER BY w.budget, w.period, w.window_key
                    FOR NO KEY UPDATE OF w
             ), verdict AS MATERIALIZED (
                 SELECT count(*) > 0 AND ($15::boolean OR bool_and(
                            l.asked_usd IS NOT NULL
                        AND l.asked_usd <= coalesce(l.usd_limit, 9223372036854775807) - l.taken_usd
                        AND $9::bigint <= coalesce(l.token_limit, 9223372036854775807) - l.taken_tokens
                        AND (l.seconds_limit IS NULL OR l.first_at IS NULL
                             OR coalesce($4, now()) < l.first_at + l.seconds_limit * interval '1 second')
                        )) AS admitted
                   FROM locked l
             ), charged AS (
                 UPDATE portcullis.budget_windows w
                    SET held_usd = w.held_usd + coalesce(l.asked_usd, 0),
                        held_tokens = w.held_tokens + $9,
                        overrun_usd = CASE WHEN $15 THEN greatest(w.overrun_usd,
                            l.taken_usd + coalesce(l.asked_usd, 0) - l.usd_limit) ELSE w.overrun_usd END,
                        overrun_tokens = CASE WHEN $15 THEN greatest(w.overrun_tokens,
                            l.taken_tokens + $9 - l.token_limit) ELSE w.overrun_tokens END,
                        first_at = coalesce(w.first_at, coalesce($4, now()))
                   FROM locked l CROSS JOIN verdict v
                  WHERE v.admitted AND w.tenant_id = $1 AND w.budget = l.name
                    AND w.period = l.period AND w.window_key = l.window_key
             ), taken AS (
                 INSERT INTO portcullis.reservations (tenant_id, reservation_id, agent_id, session_id,
                        user_id, model, provider, state, reserved_at, lease_until, reserved_tokens,
                        charged_tokens, budgets, periods, window_keys, reserved_usd, charged_usd,
                        fallback_input, fallback_output)
                 SELECT $1, $5::uuid, $2, $3, $6::text, $7, $8::text, 'held', coalesce($4, now()),
                        coalesce($4, now()) + $14::bigint * interval '1 microsecond', $9, $9,
                        l.budgets, l.periods, l.window_keys, l.usd, l.usd, l.input, l.output
                   FROM verdict v
                  CROSS JOIN (SELECT array_agg(name) AS budgets, array_agg(period) AS periods,
                                     array_agg(window_key) AS window_keys,
                                     array_agg(coalesce(asked_usd, 0)) AS usd,
                                     CASE WHEN count(fallback_input) > 0
                                          THEN array_agg(fallback_input) END AS input,
                                     CASE WHEN count(fallback_input) > 0
                                          THEN array_agg(fallback_output) END AS output
                                FROM locked) l
                  WHERE v.admitted
             )
             SELECT a.name, a.period, a.window_key, a.open, a.leased, a.asked_usd, l.usd_limit, l.token_limit,
                    l.seconds_limit, coalesce(l.taken_usd, 0) AS taken_usd,
                    coalesce(l.taken_tokens, 0) AS taken_tokens, l.first_at, v.admitted,
                    coalesce($4, now()) AS at
               FROM applicable a
              CROSS JOIN verdict v
               LEFT JOIN locked l ON l.name = a.name AND l.period = a.period",
        )
        .bind(self.tenant())
        .bind(demand.agent.as_str())
        .bind(demand.session.as_str())
        .bind(self.store.database_now())
        .bind(demand.id.as_uuid())
        .bind(demand.user.as_ref().map(AsRef::<str>::as_ref))
        .bind(demand.model.as_ref().map(AsRef::<str>::as_ref))
        .bind(demand.provider.as_deref())
        .bind(bound(demand.tokens))
        .bind(demand.usd)
        .bind(bound(demand.input))
        .bind(bound(demand.output))
        .bind(bound(demand.either))
        .bind(demand.lease_micros)
        .bind(demand.spent_already)
        .bind(&demand.from_slices.0)
        .bind(&demand.from_slices.1)
        .fetch_all_in(&self.store)
        .await?;
        let admitted = rows
            .first()
            .map(|row| row.try_get("admitted"))
            .transpose()?;
        Ok(Admission {
            admitted: admitted.unwrap_or(false),
            windows: rows.iter().map(state).collect::<Result<_, _>>()?,
        })
    }

    /// Opens the windows that slices are to be taken of.
    pub(in crate::cost) async fn open_windows_of(&self, demand: &Demand) -> Result<(), StoreError> {
        let work = || self.open_windows(demand);
        self.store.run_idempotent(OPERATION, work).await
    }

    /// Opens the windows of the agent's limits that are not open.
    //
    // Safe under concurrency: the budget's rows are locked against a change of the limits that are
    // copied; a window that another transaction is opening is waited for. Ordered, as all locks are.
    // It does not wait for the disk: the reservation that follows does, and the log is written in
    // order, so that a first call waits for no more commits than a later one.
    async fn open_windows(&self, demand: &Demand) -> Result<(), sqlx::Error> {
        sqlx::query(
            "WITH unhurried AS MATERIALIZED (
                 SELECT set_config('synchronous_commit', 'off', true)
             )
             INSERT INTO portcullis.budget_windows (tenant_id, budget, period, window_key, usd_limit,
                    token_limit, seconds_limit, opened_at)
             SELECT $1::text, b.name, b.period,
                    CASE b.period
                        WHEN 'session' THEN $3::text
                        ELSE to_char(coalesce($4::timestamptz, now()) AT TIME ZONE 'UTC', 'YYYY-MM-DD')
                    END, b.usd_limit, b.token_limit, b.seconds_limit, coalesce($4, now())
               FROM (SELECT name, period, usd_limit, token_limit, seconds_limit
                       FROM portcullis.budgets
                      WHERE tenant_id = $1 AND agent_id = $2::text
                      ORDER BY name, period
                        FOR SHARE) b
              CROSS JOIN unhurried
              ORDER BY b.name, b.period
             ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant())
        .bind(demand.agent.as_str())
        .bind(demand.session.as_str())
        .bind(self.store.database_now())
        .execute_in(&self.store)
        .await
        .map(drop)
    }
}

fn state(row: &PgRow) -> Result<WindowState, sqlx::Error> {
    Ok(WindowState {
        budget: parsed(row, "name")?,
        window: window(row)?,
        leased: row.try_get("leased")?,
        open: row.try_get("open")?,
        asked_usd: row.try_get("asked_usd")?,
        usd_limit: row.try_get("usd_limit")?,
        token_limit: limit(row.try_get("token_limit")?)?,
        seconds_limit: seconds(row.try_get("seconds_limit")?)?,
        taken_usd: row.try_get("taken_usd")?,
        taken_tokens: count(row, "taken_tokens")?,
        first_at: row.try_get("first_at")?,
        at: row.try_get("at")?,
    })
}
