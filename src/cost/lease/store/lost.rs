//! What leaves a slice without having been settled: calls of unknown outcome, and slices of holders
//! that are gone.

use sqlx::Row;
use uuid::Uuid;

use crate::call::Principal;
use crate::cost::lease::slice::Amounts;
use crate::cost::store::{CostStore, Swept, stored};
use crate::ids::{ModelName, ReservationId};
use crate::store::{ExecuteIn as _, InStore as _, StoreError};
use crate::time::Timestamp;

/// The most slices that one statement sweeps.
const SWEPT_AT_ONCE: i64 = 100;

/// What one call of unknown outcome has of one slice.
#[derive(Clone, Copy, Debug)]
pub(in crate::cost::lease) struct Moved {
    pub(in crate::cost::lease) lease: Uuid,
    /// What the call stays charged at.
    pub(in crate::cost::lease) usd: i64,
    /// The part of it that the slice holds: nothing of a unit without a limit.
    pub(in crate::cost::lease) own: Amounts,
}

impl CostStore {
    /// Makes a reservation of unknown outcome of what a call has taken from slices, so that anybody can
    /// settle or resolve it by its id; says from which slices it was taken.
    //
    // Safe under concurrency: the slices' rows are locked in order, then their windows. What is held in
    // a window is held before and after, by the slice or by the reservation. Safe to try again: the
    // reservation's id is its key, and a second one fails as a whole.
    #[expect(clippy::too_many_arguments, reason = "one row")]
    pub(in crate::cost::lease) async fn move_out(
        &self,
        id: ReservationId,
        by: Uuid,
        who: &Principal,
        model: (Option<&ModelName>, Option<&str>),
        at: Timestamp,
        tokens: i64,
        moved: &[Moved],
    ) -> Result<Vec<Uuid>, StoreError> {
        let leases: &Vec<Uuid> = &moved.iter().map(|moved| moved.lease).collect();
        let usd: &Vec<i64> = &moved.iter().map(|moved| moved.usd).collect();
        let own = |unit: usize| -> Vec<i64> {
            let own = moved.iter().map(|moved| moved.own.get(unit).copied());
            own.map(Option::unwrap_or_default).collect()
        };
        let (own_usd, own_tokens, own_calls) = &(own(0), own(1), own(2));
        let answer = self
            .store()
            .run_idempotent("keep a call of unknown outcome", || async move {
                sqlx::query(
                    "WITH mine AS MATERIALIZED (
                         SELECT l.lease_id, l.budget, l.period, l.window_key, a.usd, a.own_usd,
                                a.own_tokens, a.own_calls
                           FROM unnest($10::uuid[], $11::bigint[], $12::bigint[], $13::bigint[],
                                       $16::bigint[])
                                AS a(lease_id, usd, own_usd, own_tokens, own_calls)
                           JOIN portcullis.budget_leases l
                             ON l.tenant_id = $1::text AND l.lease_id = a.lease_id
                          WHERE l.state = 'live'
                          ORDER BY l.lease_id
                            FOR NO KEY UPDATE OF l
                     ), locked AS MATERIALIZED (
                         SELECT m.lease_id, m.budget, m.period, m.window_key, m.usd, m.own_usd,
                                m.own_tokens, m.own_calls
                           FROM mine m
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = $1 AND w.budget = m.budget AND w.period = m.period
                            AND w.window_key = m.window_key
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), charged AS (
                         UPDATE portcullis.budget_windows w
                            SET held_usd = w.held_usd + k.usd - k.own_usd,
                                held_tokens = w.held_tokens + $9::bigint - k.own_tokens,
                                held_calls = w.held_calls + 1 - k.own_calls,
                                overrun_usd = greatest(w.overrun_usd,
                                    w.settled_usd + w.held_usd + k.usd - k.own_usd
                                    - w.usd_limit - w.raised_usd),
                                overrun_tokens = greatest(w.overrun_tokens,
                                    w.settled_tokens + w.held_tokens + $9 - k.own_tokens
                                    - w.token_limit - w.raised_tokens)
                           FROM locked k
                          WHERE w.tenant_id = $1 AND w.budget = k.budget AND w.period = k.period
                            AND w.window_key = k.window_key
                     ), left_over AS (
                         UPDATE portcullis.budget_leases l
                            SET taken_usd = l.taken_usd - k.own_usd,
                                taken_tokens = l.taken_tokens - k.own_tokens,
                                taken_calls = l.taken_calls - k.own_calls
                           FROM locked k
                          WHERE l.tenant_id = $1 AND l.lease_id = k.lease_id
                     ), kept AS (
                         INSERT INTO portcullis.reservations (tenant_id, reservation_id, agent_id,
                                session_id, user_id, model, provider, state, reserved_at, lease_until,
                                ended_at, ended_by, reserved_tokens, charged_tokens, budgets, periods,
                                window_keys, reserved_usd, charged_usd)
                         SELECT $1, $2::uuid, $4::text, $5::text, $6::text, $7::text, $8::text, 'unknown',
                                $14::timestamptz, $14, coalesce($15::timestamptz, now()), $3::uuid, $9, $9,
                                a.budgets, a.periods, a.window_keys, a.usd, a.usd
                           FROM (SELECT array_agg(k.budget) AS budgets, array_agg(k.period) AS periods,
                                        array_agg(k.window_key) AS window_keys, array_agg(k.usd) AS usd
                                   FROM locked k
                                 HAVING count(*) > 0) a
                     )
                     SELECT k.lease_id FROM locked k",
                )
                .bind(self.tenant())
                .bind(id.as_uuid())
                .bind(by)
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(who.user_id().map(AsRef::<str>::as_ref))
                .bind(model.0.map(AsRef::<str>::as_ref))
                .bind(model.1)
                .bind(tokens)
                .bind(leases)
                .bind(usd)
                .bind(own_usd)
                .bind(own_tokens)
                .bind(at)
                .bind(self.store().database_now())
                .bind(own_calls)
                .fetch_all_in(self.store())
                .await?
                .iter()
                .map(|row| row.try_get("lease_id"))
                .collect()
            })
            .await;
        match answer {
            // An earlier try did it, and its answer was lost.
            Err(error) if error.sqlstate() == Some("23505") => self.list_moved(id, leases).await,
            answer => answer,
        }
    }

    /// Of which slices a call's reservation was made.
    async fn list_moved(
        &self,
        id: ReservationId,
        leases: &Vec<Uuid>,
    ) -> Result<Vec<Uuid>, StoreError> {
        self.store()
            .run_idempotent("read what a call had of slices", || async move {
                sqlx::query(
                    "SELECT l.lease_id
                       FROM portcullis.reservations r
                      CROSS JOIN LATERAL unnest(r.budgets, r.periods, r.window_keys)
                            AS c(budget, period, window_key)
                       JOIN portcullis.budget_leases l
                         ON l.tenant_id = r.tenant_id AND l.budget = c.budget AND l.period = c.period
                        AND l.window_key = c.window_key
                      WHERE r.tenant_id = $1 AND r.reservation_id = $2
                        AND l.lease_id = ANY($3::uuid[])",
                )
                .bind(self.tenant())
                .bind(id.as_uuid())
                .bind(leases)
                .fetch_all_in(self.store())
                .await?
                .iter()
                .map(|row| row.try_get("lease_id"))
                .collect()
            })
            .await
    }

    /// Says what was spent of a lost slice, all in all, besides the reservation that was made of it.
    //
    // Safe under concurrency, and to try again: it says how much it is, not how much more, under the
    // locks of the slice and then of its window.
    pub(in crate::cost::lease) async fn correct_lost(
        &self,
        lease: Uuid,
        [usd, tokens, calls]: Amounts,
    ) -> Result<(), StoreError> {
        self.store()
            .run_idempotent("say what was spent of a lost slice", || async move {
                sqlx::query(
                    "WITH mine AS MATERIALIZED (
                         SELECT l.budget, l.period, l.window_key, $3::bigint - l.spent_usd AS usd,
                                $4::bigint - l.spent_tokens AS tokens, $5::bigint - l.spent_calls AS calls
                           FROM portcullis.budget_leases l
                          WHERE l.tenant_id = $1::text AND l.lease_id = $2::uuid AND l.state = 'lost'
                            FOR NO KEY UPDATE
                     ), charged AS (
                         UPDATE portcullis.budget_windows w
                            SET settled_usd = w.settled_usd + m.usd,
                                settled_tokens = w.settled_tokens + m.tokens,
                                settled_calls = w.settled_calls + m.calls,
                                overrun_usd = greatest(w.overrun_usd, w.settled_usd + m.usd + w.held_usd
                                    - w.usd_limit - w.raised_usd),
                                overrun_tokens = greatest(w.overrun_tokens, w.settled_tokens + m.tokens
                                    + w.held_tokens - w.token_limit - w.raised_tokens),
                                overrun_calls = greatest(w.overrun_calls, w.settled_calls + m.calls
                                    + w.held_calls - w.call_limit - w.raised_calls)
                           FROM mine m
                          WHERE w.tenant_id = $1 AND w.budget = m.budget AND w.period = m.period
                            AND w.window_key = m.window_key
                     )
                     UPDATE portcullis.budget_leases l
                        SET spent_usd = $3, spent_tokens = $4, spent_calls = $5, made_calls = 0
                       FROM mine m
                      WHERE l.tenant_id = $1 AND l.lease_id = $2",
                )
                .bind(self.tenant())
                .bind(lease)
                .bind(usd)
                .bind(tokens)
                .bind(calls)
                .execute_in(self.store())
                .await
                .map(drop)
            })
            .await
    }

    /// Gives back the calls of a lost slice that count as made, because somebody who knows says that it
    /// cost nothing.
    //
    // Safe under concurrency, and to try again: under the locks of the slice and then of its window, what
    // is given back is not there any more.
    pub(in crate::cost) async fn forgive_lost_calls(
        &self,
        id: ReservationId,
    ) -> Result<(), StoreError> {
        self.store()
            .run_idempotent("give back the calls of a lost slice", || async move {
                sqlx::query(
                    "WITH mine AS MATERIALIZED (
                         SELECT l.budget, l.period, l.window_key, l.made_calls
                           FROM portcullis.budget_leases l
                          WHERE l.tenant_id = $1::text AND l.lease_id = $2::uuid AND l.state = 'lost'
                            AND EXISTS (SELECT FROM portcullis.reservations r
                                         WHERE r.tenant_id = $1 AND r.reservation_id = $2
                                           AND r.state = 'released')
                            FOR NO KEY UPDATE OF l
                     ), uncounted AS (
                         UPDATE portcullis.budget_windows w
                            SET settled_calls = w.settled_calls - m.made_calls
                           FROM mine m
                          WHERE w.tenant_id = $1 AND w.budget = m.budget AND w.period = m.period
                            AND w.window_key = m.window_key
                     )
                     UPDATE portcullis.budget_leases l
                        SET spent_calls = l.spent_calls - m.made_calls, made_calls = 0
                       FROM mine m
                      WHERE l.tenant_id = $1 AND l.lease_id = $2",
                )
                .bind(self.tenant())
                .bind(id.as_uuid())
                .execute_in(self.store())
                .await
                .map(drop)
            })
            .await
    }

    /// Takes slices from holders that let them run out: what they had not reported becomes one
    /// reservation of unknown outcome each.
    //
    // Safe under concurrency: a slice is changed by the one that locks it while it is live, its holder
    // or a sweeper; then its window is locked. What is held stays held. Of calls, a reservation holds
    // one: the others that were not reported count as made, until the holder says how many it made, or
    // somebody who knows that it cost nothing.
    pub(in crate::cost) async fn try_sweep_leases(
        &self,
        by: Uuid,
    ) -> Result<Vec<Swept>, StoreError> {
        self.store()
            .run("sweep expired slices", || async move {
                sqlx::query(
                    "WITH due AS MATERIALIZED (
                         SELECT l.lease_id, l.budget, l.period, l.window_key, l.agent_id, l.session_id,
                                l.taken_at, l.lease_until, l.taken_usd - l.spent_usd AS usd,
                                l.taken_tokens - l.spent_tokens AS tokens,
                                l.taken_calls - l.spent_calls AS calls
                           FROM portcullis.budget_leases l
                          WHERE l.tenant_id = $1::text AND l.state = 'live'
                            AND l.lease_until < coalesce($2::timestamptz, now())
                          ORDER BY l.lease_until
                          LIMIT $4
                            FOR NO KEY UPDATE SKIP LOCKED
                     ), locked AS MATERIALIZED (
                         SELECT w.budget, w.period, w.window_key, n.owed, n.made, n.calls
                           FROM (SELECT d.budget, d.period, d.window_key, count(*) AS owed,
                                        sum(greatest(0, d.calls - 1))::bigint AS made,
                                        sum(d.calls)::bigint AS calls
                                   FROM due d
                                  WHERE d.usd > 0 OR d.tokens > 0 OR d.calls > 0
                                  GROUP BY d.budget, d.period, d.window_key) n
                           JOIN portcullis.budget_windows w
                             ON w.tenant_id = $1 AND w.budget = n.budget AND w.period = n.period
                            AND w.window_key = n.window_key
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), counted AS (
                         UPDATE portcullis.budget_windows w
                            SET settled_calls = w.settled_calls + k.made,
                                held_calls = w.held_calls + k.owed - k.calls
                           FROM locked k
                          WHERE w.tenant_id = $1 AND w.budget = k.budget AND w.period = k.period
                            AND w.window_key = k.window_key
                     ), lost AS (
                         UPDATE portcullis.budget_leases l
                            SET state = 'lost', epoch = l.epoch + 1, ended_at = coalesce($2, now()),
                                spent_calls = l.spent_calls + greatest(0, d.calls - 1),
                                made_calls = greatest(0, d.calls - 1)
                           FROM due d
                          WHERE l.tenant_id = $1 AND l.lease_id = d.lease_id
                     ), owed AS (
                         INSERT INTO portcullis.reservations (tenant_id, reservation_id, agent_id,
                                session_id, state, reserved_at, lease_until, ended_at, ended_by,
                                reserved_tokens, charged_tokens, budgets, periods, window_keys,
                                reserved_usd, charged_usd)
                         SELECT $1, d.lease_id, d.agent_id, d.session_id, 'unknown', d.taken_at,
                                d.lease_until, coalesce($2, now()), $3::uuid, d.tokens, d.tokens,
                                ARRAY[d.budget], ARRAY[d.period], ARRAY[d.window_key], ARRAY[d.usd],
                                ARRAY[d.usd]
                           FROM due d
                          WHERE d.usd > 0 OR d.tokens > 0 OR d.calls > 0
                     )
                     SELECT d.lease_id, d.agent_id, d.session_id, NULL::text AS user_id,
                            NULL::text AS model, NULL::text AS provider, d.taken_at AS reserved_at,
                            d.tokens, d.usd
                       FROM due d",
                )
                .bind(self.tenant())
                .bind(self.store().database_now())
                .bind(by)
                .bind(SWEPT_AT_ONCE)
                .fetch_all_in(self.store())
                .await?
                .iter()
                .map(|row| {
                    Ok(Swept {
                        id: ReservationId::from_uuid(row.try_get("lease_id")?),
                        stored: stored(row)?,
                        usd: row.try_get("usd")?,
                        tokens: row.try_get("tokens")?,
                    })
                })
                .collect()
            })
            .await
    }
}
