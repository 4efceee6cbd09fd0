//! The end of reservations: what they are charged at instead of their ceilings, many in one statement.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{CostStore, bound, malformed, parse, window};
use crate::cost::state::State;
use crate::cost::window::Window;
use crate::ids::{BudgetName, ModelName, ReservationId};
use crate::money::Usd;
use crate::store::{OftenInStore as _, StoreError};
use crate::usage::Usage;

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

impl CostStore {
    /// Ends reservations, those that are in one of the states that `finishes` say. No id may be in it
    /// twice. `None`: there is no such reservation.
    //
    // Safe under concurrency: the reservations' rows are locked first, in the order of their ids, so
    // that each is ended once; then all their windows, in the order of their keys, as admissions lock
    // them. The new values are computed from the locked rows. Safe to try again: an operation that ended
    // a reservation finds its own mark.
    //
    // What a call is charged to was decided when it was reserved: a window that has passed meanwhile is
    // charged all the same; of a rolling one, the bucket in which the call began, while it is kept.
    #[expect(clippy::too_many_lines, reason = "one statement")]
    pub(in crate::cost) async fn try_finish(
        &self,
        finishes: &[&Finish],
    ) -> Result<Vec<Option<Finished>>, StoreError> {
        let ids: &Vec<_> = &finishes.iter().map(|f| f.id.as_uuid()).collect();
        let by: &Vec<_> = &finishes.iter().map(|f| f.by).collect();
        let to: &Vec<_> = &finishes.iter().map(|f| f.to.as_str()).collect();
        let from = |state: State| -> Vec<bool> {
            finishes.iter().map(|f| f.from.contains(&state)).collect()
        };
        let (held, unknown) = &(from(State::Held), from(State::Unknown));
        let usd: &Vec<Option<Usd>> = &finishes.iter().map(|f| f.usd).collect();
        let tokens = |of: fn(&Usage) -> u64| -> Vec<Option<i64>> {
            let usages = finishes.iter().map(|finish| finish.usage.as_ref());
            usages.map(|usage| usage.map(|u| bound(of(u)))).collect()
        };
        let total = &tokens(Usage::total_tokens);
        let input = &tokens(|usage| usage.input_tokens);
        let output = &tokens(|usage| usage.output_tokens);
        let cached = &tokens(|usage| usage.cached_input_tokens);
        let reasoning = &tokens(|usage| usage.reasoning_tokens);
        let models: &Vec<Option<&str>> = &finishes
            .iter()
            .map(|finish| finish.model.as_ref().map(AsRef::as_ref))
            .collect();
        let rows = self
            .store
            .run_idempotent("end a reservation", || async move {
                sqlx::query(
                    "WITH jobs AS MATERIALIZED (
                         SELECT j.ord, j.id, j.by, j.state, j.held, j.unknown, j.usd, j.tokens, j.input,
                                j.output, j.cached, j.reasoning, j.model
                           FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::boolean[], $7::boolean[],
                                       $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                                       $12::bigint[], $13::bigint[], $14::text[])
                                WITH ORDINALITY AS j(id, by, state, held, unknown, usd, tokens, input,
                                                     output, cached, reasoning, model, ord)
                     ), mine AS MATERIALIZED (
                         SELECT j.ord, j.id, j.by, j.state AS becomes, j.usd, j.tokens, j.input, j.output,
                                j.cached, j.reasoning, j.model, r.tenant_id, r.state, r.ended_by,
                                r.budgets, r.periods, r.window_keys, r.charged_usd, r.charged_tokens, r.fallback_input,
                                r.fallback_output, r.reserved_at,
                                (r.state = 'held' AND j.held) OR (r.state = 'unknown' AND j.unknown)
                                    AS ends
                           FROM (SELECT i.ord, i.id, i.by, i.state, i.held, i.unknown, i.usd, i.tokens,
                                        i.input, i.output, i.cached, i.reasoning, i.model
                                   FROM jobs i
                                  ORDER BY i.id) j
                          CROSS JOIN LATERAL (
                              SELECT q.tenant_id, q.state, q.ended_by, q.budgets, q.periods, q.window_keys,
                                     q.charged_usd, q.charged_tokens, q.fallback_input,
                                     q.fallback_output, q.reserved_at
                                FROM portcullis.reservations q
                               WHERE q.tenant_id = $1::text AND q.reservation_id = j.id
                              OFFSET 0
                                 FOR NO KEY UPDATE OF q) r
                     ), found AS MATERIALIZED (
                         SELECT m.ord, m.id, m.by, m.state AS before, m.ended_by, m.becomes, m.ends,
                                m.input, m.output, m.cached, m.reasoning, m.model, m.reserved_at,
                                m.tenant_id,
                                c.ordinal, c.budget, c.period, c.window_key, c.was_usd,
                                m.charged_tokens AS was_tokens,
                                CASE m.becomes
                                    WHEN 'released' THEN 0
                                    WHEN 'refunded' THEN 0
                                    WHEN 'settled' THEN coalesce(p.usd, c.was_usd)
                                    ELSE greatest(c.was_usd, p.usd)
                                END AS usd,
                                CASE m.becomes
                                    WHEN 'released' THEN 0
                                    WHEN 'refunded' THEN 0
                                    WHEN 'settled' THEN coalesce(m.tokens, m.charged_tokens)
                                    ELSE greatest(m.charged_tokens, m.tokens)
                                END AS tokens,
                                CASE WHEN m.becomes = 'released' THEN 0 ELSE 1 END AS calls,
                                m.becomes NOT IN ('released', 'refunded') AND p.usd IS NULL AS estimated
                           FROM mine m
                          CROSS JOIN LATERAL unnest(m.budgets, m.periods, m.window_keys, m.charged_usd,
                                               m.fallback_input, m.fallback_output)
                                WITH ORDINALITY AS c(budget, period, window_key, was_usd,
                                                     fallback_input, fallback_output, ordinal)
                          CROSS JOIN LATERAL (
                              SELECT CASE
                                  WHEN m.usd IS NOT NULL THEN m.usd
                                  WHEN m.input IS NOT NULL AND c.fallback_input IS NOT NULL THEN
                                      least(9223372036854775807,
                                          div(m.input::numeric * c.fallback_input + 999999, 1000000)
                                        + div(m.output::numeric * c.fallback_output + 999999,
                                              1000000))::bigint
                              END AS usd) p
                     ), due AS MATERIALIZED (
                         SELECT f.ord, f.budget, f.period, f.window_key, f.becomes AS state,
                                f.reserved_at, f.was_usd, f.was_tokens, f.usd, f.tokens, f.calls
                           FROM found f
                          WHERE f.ends
                     ), sums AS MATERIALIZED (
                         SELECT d.budget, d.period, d.window_key,
                                sum(d.was_usd) AS was_usd, sum(d.was_tokens) AS was_tokens,
                                count(*) AS was_calls,
                                coalesce(sum(d.usd) FILTER (WHERE d.state <> 'unknown'), 0) AS usd,
                                coalesce(sum(d.usd) FILTER (WHERE d.state = 'unknown'), 0) AS still_usd,
                                coalesce(sum(d.tokens) FILTER (WHERE d.state <> 'unknown'), 0) AS tokens,
                                coalesce(sum(d.tokens) FILTER (WHERE d.state = 'unknown'), 0)
                                    AS still_tokens,
                                coalesce(sum(d.calls) FILTER (WHERE d.state <> 'unknown'), 0) AS calls,
                                count(*) FILTER (WHERE d.state = 'unknown') AS still_calls,
                                sum(greatest(0, d.usd - d.was_usd)) AS over_usd,
                                sum(greatest(0, d.tokens - d.was_tokens)) AS over_tokens
                           FROM due d
                          GROUP BY d.budget, d.period, d.window_key
                     ), locked AS MATERIALIZED (
                         SELECT w.tenant_id, w.budget, w.period, w.window_key, w.bucket_micros, w.bucket_at,
                                w.bucket_usd, w.bucket_tokens, w.bucket_calls, s.usd, s.tokens, s.calls,
                                s.over_usd, s.over_tokens,
                                greatest(0, w.held_usd - s.was_usd) + s.still_usd AS held_usd,
                                greatest(0, w.held_tokens - s.was_tokens) + s.still_tokens AS held_tokens,
                                greatest(0, w.held_calls - s.was_calls) + s.still_calls AS held_calls
                           FROM (SELECT o.budget, o.period, o.window_key, o.was_usd, o.was_tokens,
                                        o.was_calls, o.usd, o.still_usd, o.tokens, o.still_tokens,
                                        o.calls, o.still_calls, o.over_usd, o.over_tokens
                                   FROM sums o
                                  ORDER BY o.budget, o.period, o.window_key) s
                          CROSS JOIN LATERAL (
                              SELECT v.tenant_id, v.budget, v.period, v.window_key, v.bucket_micros, v.bucket_at,
                                     v.bucket_usd, v.bucket_tokens, v.bucket_calls, v.held_usd,
                                     v.held_tokens, v.held_calls
                                FROM portcullis.budget_windows v
                               WHERE v.tenant_id = $1 AND v.budget = s.budget AND v.period = s.period
                                 AND v.window_key = s.window_key
                              OFFSET 0
                                 FOR NO KEY UPDATE OF v) w
                     ), moved AS MATERIALIZED (
                         SELECT d.budget, d.period, d.window_key, mod(b.bucket, 61) + 1 AS slot,
                                sum(d.usd - d.was_usd) AS usd, sum(d.tokens - d.was_tokens) AS tokens,
                                sum(d.calls - 1) AS calls
                           FROM due d
                           JOIN locked l ON l.budget = d.budget AND l.period = d.period
                            AND l.window_key = d.window_key
                          CROSS JOIN LATERAL (
                              SELECT greatest(0, extract(epoch FROM d.reserved_at) * 1000000)::bigint
                                     / l.bucket_micros AS bucket) b
                          WHERE b.bucket BETWEEN l.bucket_at - 60 AND l.bucket_at
                          GROUP BY d.budget, d.period, d.window_key, b.bucket
                     ), anew AS MATERIALIZED (
                         -- Apart from the update, which would copy all of it whole, in case it had
                         -- to be checked again.
                         SELECT c.tenant_id, c.budget, c.period, c.window_key, c.usd, c.tokens, c.calls, c.over_usd,
                                c.over_tokens, c.held_usd, c.held_tokens, c.held_calls,
                                n.usd AS bucket_usd, n.tokens AS bucket_tokens, n.calls AS bucket_calls
                           FROM locked c
                           LEFT JOIN LATERAL (
                               SELECT array_agg(least(9223372036854775807,
                                          greatest(0, b.usd + coalesce(m.usd, 0)))::bigint
                                          ORDER BY b.slot) AS usd,
                                      array_agg(least(9223372036854775807,
                                          greatest(0, b.tokens + coalesce(m.tokens, 0)))::bigint
                                          ORDER BY b.slot) AS tokens,
                                      array_agg(greatest(0, b.calls + coalesce(m.calls, 0))::bigint
                                          ORDER BY b.slot) AS calls
                                 FROM unnest(c.bucket_usd, c.bucket_tokens, c.bucket_calls)
                                      WITH ORDINALITY AS b(usd, tokens, calls, slot)
                                 LEFT JOIN moved m ON m.budget = c.budget AND m.period = c.period
                                  AND m.window_key = c.window_key AND m.slot = b.slot
                                WHERE c.bucket_micros IS NOT NULL) n ON true
                     ), charged AS (
                         -- The sums stop where they could not be written any more.
                         UPDATE portcullis.budget_windows w
                            SET held_usd = least(c.held_usd, 9223372036854775807 - w.settled_usd),
                                settled_usd = w.settled_usd + least(c.usd, 9223372036854775807
                                    - w.settled_usd
                                    - least(c.held_usd, 9223372036854775807 - w.settled_usd)),
                                held_tokens = least(c.held_tokens, 9223372036854775807
                                    - w.settled_tokens),
                                settled_tokens = w.settled_tokens + least(c.tokens, 9223372036854775807
                                    - w.settled_tokens
                                    - least(c.held_tokens, 9223372036854775807 - w.settled_tokens)),
                                held_calls = c.held_calls,
                                settled_calls = w.settled_calls + c.calls,
                                overrun_usd = w.overrun_usd
                                    + least(c.over_usd, 9223372036854775807 - w.overrun_usd),
                                overrun_tokens = w.overrun_tokens
                                    + least(c.over_tokens, 9223372036854775807 - w.overrun_tokens),
                                bucket_usd = c.bucket_usd, bucket_tokens = c.bucket_tokens,
                                bucket_calls = c.bucket_calls
                           FROM anew c
                          WHERE w.tenant_id = c.tenant_id AND w.budget = c.budget AND w.period = c.period
                            AND w.window_key = c.window_key
                     ), ended AS (
                         UPDATE portcullis.reservations r
                            SET state = d.becomes, ended_at = coalesce($2::timestamptz, now()),
                                ended_by = d.by, charged_tokens = d.tokens, charged_usd = d.usd,
                                input_tokens = d.input, output_tokens = d.output,
                                cached_tokens = d.cached, reasoning_tokens = d.reasoning,
                                model = coalesce(d.model, r.model)
                           FROM (SELECT f.tenant_id, f.id, f.by, f.becomes, f.input, f.output, f.cached, f.reasoning,
                                        f.model, max(f.tokens) AS tokens,
                                        array_agg(f.usd ORDER BY f.ordinal) AS usd
                                   FROM found f
                                  WHERE f.ends
                                  GROUP BY f.tenant_id, f.id, f.by, f.becomes, f.input, f.output, f.cached,
                                           f.reasoning, f.model) d
                          WHERE r.tenant_id = d.tenant_id AND r.reservation_id = d.id
                     )
                     SELECT f.ord, f.before AS state, f.ended_by,
                            CASE WHEN f.ends THEN f.budget END AS name, f.period, f.window_key,
                            f.was_usd, f.usd, f.was_tokens, f.tokens, f.estimated
                       FROM found f
                      ORDER BY f.ord, f.ordinal",
                )
                .bind(self.tenant())
                .bind(self.store.database_now())
                .bind(ids)
                .bind(by)
                .bind(to)
                .bind(held)
                .bind(unknown)
                .bind(usd)
                .bind(total)
                .bind(input)
                .bind(output)
                .bind(cached)
                .bind(reasoning)
                .bind(models)
                .fetch_all_often(&self.store)
                .await?
                .iter()
                .map(|row| Ok((head(row)?, charged(row)?)))
                .collect::<Result<Vec<_>, sqlx::Error>>()
            })
            .await?;
        let mut answers: Vec<Option<Finished>> = vec![None; finishes.len()];
        for ((at, before, ended_by), charged) in rows {
            let (Some(slot), Some(finish)) = (answers.get_mut(at), finishes.get(at)) else {
                continue;
            };
            let answer = slot.get_or_insert_with(|| Finished {
                before,
                done: charged.is_some() || ended_by == Some(finish.by),
                charged: Vec::new(),
            });
            answer.charged.extend(charged);
        }
        Ok(answers)
    }
}

fn head(row: &PgRow) -> Result<(usize, State, Option<Uuid>), sqlx::Error> {
    let at = usize::try_from(row.try_get::<i64, _>("ord")? - 1);
    let state: String = row.try_get("state")?;
    let state = State::parse(&state).ok_or_else(|| malformed("a state"))?;
    let at = at.map_err(|_| malformed("an answer to no question"))?;
    Ok((at, state, row.try_get("ended_by")?))
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
