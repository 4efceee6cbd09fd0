//! The end of a reservation: what it is charged at instead of its ceiling.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{CostStore, bound, largest, maybe, parse, parsed, window};
use crate::cost::budget::{State, Window};
use crate::ids::{AgentId, BudgetName, ModelName, ReservationId, SessionId, UserId};
use crate::money::Usd;
use crate::store::{InStore as _, StoreError};
use crate::time::Timestamp;
use crate::usage::Usage;

/// The most leases that one statement sweeps.
const SWEPT_AT_ONCE: i64 = 500;

/// What becomes of a reservation.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Finish {
    pub(in crate::cost) id: ReservationId,
    /// Names this operation, so that it can be tried again after a lost answer.
    pub(in crate::cost) by: Uuid,
    pub(in crate::cost) to: State,
    /// In which states it may be.
    pub(in crate::cost) from: &'static [State],
    /// The price, if there is one; else the fallback price of each budget at the time of the reservation
    /// applies to the usage; else it stays charged as it was.
    pub(in crate::cost) usd: Option<Usd>,
    /// The tokens, if they are known; else it stays charged as it was.
    pub(in crate::cost) usage: Option<Usage>,
    pub(in crate::cost) model: Option<ModelName>,
}

/// How a reservation stands after that.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Finished {
    /// How it stood before.
    pub(in crate::cost) before: State,
    /// Whether it was this operation that ended it, now or at an earlier attempt.
    pub(in crate::cost) done: bool,
    /// Per window. Empty where an earlier attempt did it.
    pub(in crate::cost) charged: Vec<Charged>,
}

/// Whose reservation it is, and for what.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Stored {
    pub(in crate::cost) agent: AgentId,
    pub(in crate::cost) session: SessionId,
    pub(in crate::cost) user: Option<UserId>,
    pub(in crate::cost) model: Option<ModelName>,
    pub(in crate::cost) provider: Option<String>,
    pub(in crate::cost) reserved_at: Timestamp,
}

/// What one window is charged at, and was.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Charged {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) window: Window,
    pub(in crate::cost) was_usd: Usd,
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) was_tokens: i64,
    pub(in crate::cost) tokens: i64,
    /// Whether no price was known, so that it stays charged as it was.
    pub(in crate::cost) estimated: bool,
}

/// A reservation whose lease ran out.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Swept {
    pub(in crate::cost) id: ReservationId,
    pub(in crate::cost) stored: Stored,
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) tokens: i64,
}

impl Swept {
    /// Whether anything is charged for it.
    pub(in crate::cost) fn is_owed(&self) -> bool {
        self.usd > Usd::ZERO || self.tokens > 0
    }
}

impl CostStore {
    /// Ends the reservation, if it is in one of the states that `finish` says. `None`: there is none.
    //
    // Safe under concurrency: the reservation's row is locked first, so that it is ended once; then
    // its windows, in the order of their keys, as admissions lock them. The new values are computed
    // from the locked rows. Safe to try again: an operation that ended it finds its own mark.
    #[expect(clippy::too_many_lines, reason = "one statement")]
    pub(in crate::cost) async fn try_finish(
        &self,
        finish: &Finish,
    ) -> Result<Option<Finished>, StoreError> {
        let from: Vec<&str> = finish.from.iter().map(|state| state.as_str()).collect();
        let from = &from;
        let usage = finish.usage.as_ref();
        let tokens = |of: fn(&Usage) -> u64| usage.map(|usage| bound(of(usage)));
        let rows = self
            .store
            .run_idempotent("end a reservation", || async move {
                sqlx::query(
                    "WITH mine AS MATERIALIZED (
                         SELECT r.state, r.ended_by, r.budgets, r.periods, r.window_keys,
                                r.charged_usd, r.charged_tokens, r.fallback_input, r.fallback_output
                           FROM portcullis.reservations r
                          WHERE r.tenant_id = $1::text AND r.reservation_id = $2::uuid
                            FOR NO KEY UPDATE
                     ), due AS MATERIALIZED (
                         SELECT c.ordinal, c.budget, c.period, c.window_key, c.was_usd,
                                m.charged_tokens AS was_tokens,
                                CASE $5::text
                                    WHEN 'released' THEN 0
                                    WHEN 'settled' THEN coalesce(p.usd, c.was_usd)
                                    ELSE greatest(c.was_usd, p.usd)
                                END AS usd,
                                CASE $5
                                    WHEN 'released' THEN 0
                                    WHEN 'settled' THEN coalesce($8::bigint, m.charged_tokens)
                                    ELSE greatest(m.charged_tokens, $8)
                                END AS tokens,
                                $5 <> 'released' AND p.usd IS NULL AS estimated
                           FROM mine m
                          CROSS JOIN LATERAL unnest(m.budgets, m.periods, m.window_keys, m.charged_usd,
                                               m.fallback_input, m.fallback_output)
                                WITH ORDINALITY AS c(budget, period, window_key, was_usd,
                                                     fallback_input, fallback_output, ordinal)
                          CROSS JOIN LATERAL (
                              SELECT CASE
                                  WHEN $7::bigint IS NOT NULL THEN $7
                                  WHEN $9::bigint IS NOT NULL AND c.fallback_input IS NOT NULL THEN
                                      least(9223372036854775807,
                                          div($9::numeric * c.fallback_input + 999999, 1000000)
                                        + div($10::bigint::numeric * c.fallback_output + 999999,
                                              1000000))::bigint
                              END AS usd) p
                          WHERE m.state = ANY($6::text[])
                     ), locked AS MATERIALIZED (
                         -- The sums stop where they could not be written any more.
                         SELECT d.budget, d.period, d.window_key, h.usd AS held_usd,
                                h.tokens AS held_tokens,
                                least(d.usd, 9223372036854775807 - w.settled_usd - h.usd) AS usd,
                                least(d.tokens, 9223372036854775807 - w.settled_tokens - h.tokens)
                                    AS tokens,
                                greatest(0, d.usd - d.was_usd) AS over_usd,
                                greatest(0, d.tokens - d.was_tokens) AS over_tokens
                           FROM due d
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = $1 AND w.budget = d.budget AND w.period = d.period
                            AND w.window_key = d.window_key
                          CROSS JOIN LATERAL (
                              SELECT greatest(0, w.held_usd - d.was_usd) AS usd,
                                     greatest(0, w.held_tokens - d.was_tokens) AS tokens) h
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), charged AS (
                         UPDATE portcullis.budget_windows w
                            SET settled_usd = w.settled_usd
                                    + CASE $5 WHEN 'unknown' THEN 0 ELSE c.usd END,
                                held_usd = c.held_usd + CASE $5 WHEN 'unknown' THEN c.usd ELSE 0 END,
                                settled_tokens = w.settled_tokens
                                    + CASE $5 WHEN 'unknown' THEN 0 ELSE c.tokens END,
                                held_tokens = c.held_tokens
                                    + CASE $5 WHEN 'unknown' THEN c.tokens ELSE 0 END,
                                overrun_usd = w.overrun_usd
                                    + least(c.over_usd, 9223372036854775807 - w.overrun_usd),
                                overrun_tokens = w.overrun_tokens
                                    + least(c.over_tokens, 9223372036854775807 - w.overrun_tokens)
                           FROM locked c
                          WHERE w.tenant_id = $1 AND w.budget = c.budget AND w.period = c.period
                            AND w.window_key = c.window_key
                     ), ended AS (
                         UPDATE portcullis.reservations r
                            SET state = $5, ended_at = coalesce($3::timestamptz, now()), ended_by = $4::uuid,
                                charged_tokens = d.tokens, charged_usd = d.usd,
                                input_tokens = $9, output_tokens = $10, cached_tokens = $11::bigint,
                                reasoning_tokens = $12::bigint, model = coalesce($13::text, r.model)
                           FROM (SELECT max(tokens) AS tokens,
                                             array_agg(usd ORDER BY ordinal) AS usd
                                        FROM due
                                      HAVING count(*) > 0) d
                          WHERE r.tenant_id = $1 AND r.reservation_id = $2
                     )
                     SELECT m.state, m.ended_by, d.budget AS name, d.period, d.window_key,
                            d.was_usd, d.usd, d.was_tokens, d.tokens, d.estimated
                       FROM mine m
                       LEFT JOIN due d ON true
                      ORDER BY d.ordinal",
                )
                .bind(self.tenant())
                .bind(finish.id.as_uuid())
                .bind(self.store.database_now())
                .bind(finish.by)
                .bind(finish.to.as_str())
                .bind(from)
                .bind(finish.usd)
                .bind(tokens(Usage::total_tokens))
                .bind(tokens(|usage| usage.input_tokens))
                .bind(tokens(|usage| usage.output_tokens))
                .bind(tokens(|usage| usage.cached_input_tokens))
                .bind(tokens(|usage| usage.reasoning_tokens))
                .bind(finish.model.as_ref().map(AsRef::<str>::as_ref))
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(|row| Ok((head(row)?, charged(row)?)))
                .collect::<Result<Vec<_>, sqlx::Error>>()
            })
            .await?;
        let mut finished: Option<Finished> = None;
        for ((before, ended_by), charged) in rows {
            let finished = finished.get_or_insert_with(|| Finished {
                before,
                done: charged.is_some() || ended_by == Some(finish.by),
                charged: Vec::new(),
            });
            finished.charged.extend(charged);
        }
        Ok(finished)
    }

    /// Whose reservation it is, and for what.
    pub(in crate::cost) async fn fetch_reservation(
        &self,
        id: ReservationId,
    ) -> Result<Option<Stored>, StoreError> {
        self.store
            .run_idempotent("read a reservation", || async move {
                sqlx::query(
                    "SELECT agent_id, session_id, user_id, model, provider, reserved_at
                       FROM portcullis.reservations
                      WHERE tenant_id = $1 AND reservation_id = $2",
                )
                .bind(self.tenant())
                .bind(id.as_uuid())
                .fetch_optional_in(&self.store)
                .await?
                .map(|row| stored(&row))
                .transpose()
            })
            .await
    }

    /// Marks reservations whose lease has run out as unknown; a few hundred at a time. They stay
    /// charged, so no window changes.
    //
    // Safe under concurrency: each row is changed, and so reported, by the one sweeper that locked it
    // while it was held; the others pass over it.
    pub(in crate::cost) async fn try_sweep(&self, by: Uuid) -> Result<Vec<Swept>, StoreError> {
        self.store
            .run("sweep expired reservations", || async move {
                sqlx::query(
                    "WITH due AS MATERIALIZED (
                         SELECT reservation_id
                           FROM portcullis.reservations
                          WHERE tenant_id = $1::text AND state = 'held'
                            AND lease_until < coalesce($2::timestamptz, now())
                          ORDER BY lease_until
                          LIMIT $4
                            FOR NO KEY UPDATE SKIP LOCKED
                     )
                     UPDATE portcullis.reservations r
                        SET state = 'unknown', ended_at = coalesce($2, now()), ended_by = $3
                       FROM due
                      WHERE r.tenant_id = $1 AND r.reservation_id = due.reservation_id
                     RETURNING r.reservation_id, r.agent_id, r.session_id, r.user_id, r.model,
                               r.provider, r.reserved_at, r.charged_tokens, r.charged_usd",
                )
                .bind(self.tenant())
                .bind(self.store.database_now())
                .bind(by)
                .bind(SWEPT_AT_ONCE)
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(|row| {
                    Ok(Swept {
                        id: ReservationId::from_uuid(row.try_get("reservation_id")?),
                        stored: stored(row)?,
                        usd: largest(row.try_get::<Vec<Usd>, _>("charged_usd")?),
                        tokens: row.try_get("charged_tokens")?,
                    })
                })
                .collect()
            })
            .await
    }
}

fn head(row: &PgRow) -> Result<(State, Option<Uuid>), sqlx::Error> {
    let state: String = row.try_get("state")?;
    let state = State::parse(&state).ok_or_else(|| super::malformed("a state"))?;
    Ok((state, row.try_get("ended_by")?))
}

pub(in crate::cost) fn stored(row: &PgRow) -> Result<Stored, sqlx::Error> {
    Ok(Stored {
        agent: parsed(row, "agent_id")?,
        session: parsed(row, "session_id")?,
        user: maybe(row, "user_id")?,
        model: maybe(row, "model")?,
        provider: row.try_get("provider")?,
        reserved_at: row.try_get("reserved_at")?,
    })
}

fn charged(row: &PgRow) -> Result<Option<Charged>, sqlx::Error> {
    let Some(name) = row.try_get::<Option<String>, _>("name")? else {
        return Ok(None);
    };
    Ok(Some(Charged {
        budget: parse(&name)?,
        window: window(row)?,
        was_usd: row.try_get("was_usd")?,
        usd: row.try_get("usd")?,
        was_tokens: row.try_get("was_tokens")?,
        tokens: row.try_get("tokens")?,
        estimated: row.try_get("estimated")?,
    }))
}
