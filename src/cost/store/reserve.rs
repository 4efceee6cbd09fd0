//! Admission: check and charge the calls of many callers in one statement.

use std::collections::HashMap;

use sqlx::Row;

use super::admitted::{Answers, answers};
use super::{CostStore, bound, or_any};
use crate::ids::{AgentId, ModelName, ReservationId, SessionId, UserId};
use crate::money::Usd;
use crate::store::{InStore as _, OftenInStore as _, StoreError};

pub(super) const OPERATION: &str = "reserve from a budget";
/// The most calls that one statement decides.
pub(in crate::cost) const AT_ONCE: usize = 256;

/// What is asked for. Numbers are checked at the door.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Demand {
    pub(in crate::cost) id: ReservationId,
    pub(in crate::cost) whose: Whose,
    pub(in crate::cost) provider: Option<String>,
    /// In and out together, for limits in tokens.
    pub(in crate::cost) tokens: u64,
    /// The price, if there is one; else a budget's fallback price applies to the next three.
    pub(in crate::cost) usd: Option<Usd>,
    pub(in crate::cost) input: u64,
    pub(in crate::cost) output: u64,
    /// Tokens of either direction.
    pub(in crate::cost) either: u64,
}

/// Whose call it is: what decides to which limits it is charged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::cost) struct Whose {
    pub(in crate::cost) agent: AgentId,
    pub(in crate::cost) session: SessionId,
    pub(in crate::cost) user: Option<UserId>,
    pub(in crate::cost) model: Option<ModelName>,
    /// What the call is charged to elsewhere, from slices in memory: budgets with their periods,
    /// `+` if they allow it; with commas between.
    pub(in crate::cost) from_slices: String,
}

/// How a statement decides.
#[derive(Clone, Copy, Debug)]
pub(in crate::cost) struct Terms {
    pub(in crate::cost) lease_micros: i64,
    /// Charge it whatever the limits say: it has been spent already.
    pub(in crate::cost) spent_already: bool,
}

/// Everybody whose calls are in a batch, once each.
#[derive(Default)]
pub(super) struct Subjects<'d> {
    numbers: HashMap<&'d Whose, i64>,
    pub(super) agents: Vec<&'d str>,
    pub(super) sessions: Vec<&'d str>,
    pub(super) users: Vec<&'d str>,
    pub(super) models: Vec<&'d str>,
    pub(super) from_slices: Vec<&'d str>,
}

impl<'d> Subjects<'d> {
    pub(super) fn number(&mut self, whose: &'d Whose) -> i64 {
        if let Some(known) = self.numbers.get(whose) {
            return *known;
        }
        self.agents.push(whose.agent.as_str());
        self.sessions.push(whose.session.as_str());
        self.users.push(or_any(whose.user.as_ref()));
        self.models.push(or_any(whose.model.as_ref()));
        self.from_slices.push(&whose.from_slices);
        let number = i64::try_from(self.agents.len()).unwrap_or(i64::MAX);
        self.numbers.insert(whose, number);
        number
    }
}

impl CostStore {
    /// Decides `demands`, in their order: each is charged to every limit that applies, or to none.
    ///
    /// Every answer is the one that its caller would have got alone, had the calls come one after the
    /// other; some may be left undecided, and are to be asked for again. The first is never left so,
    /// unless a window of its has to be opened first.
    //
    // Safe under concurrency: `locked` holds the row lock of every window that applies, taken in the
    // order of their keys, before anything is checked; a row that was changed while it was waited for
    // is read again, limit included. A call is charged everywhere or nowhere; its reservation is
    // inserted by the same statement. Nothing is locked for a call of which a window is missing.
    //
    // Exact for many: who does not fit alone is out (`alone`). Of the others, each is admitted if all
    // before it and itself fit into each of its windows, admitted or not (`sums`): that never admits
    // too much. Who is not admitted is judged again by the caller, from what the admitted ones before
    // it left: it is refused only if that is too little, and asked for again otherwise.
    //
    // No transaction is begun: a caller that is cancelled or times out while the driver begins one
    // returns a connection to the pool in which it stays open, with all locks of the next user.
    #[expect(clippy::too_many_lines, reason = "one statement")]
    pub(super) async fn reserve_once(
        &self,
        demands: &[&Demand],
        terms: Terms,
    ) -> Result<Answers, sqlx::Error> {
        let mut subjects = Subjects::default();
        let numbers: Vec<i64> = demands.iter().map(|d| subjects.number(&d.whose)).collect();
        let ids: Vec<_> = demands.iter().map(|d| d.id.as_uuid()).collect();
        let providers: Vec<Option<&str>> = demands.iter().map(|d| d.provider.as_deref()).collect();
        let tokens: Vec<i64> = demands.iter().map(|d| bound(d.tokens)).collect();
        let usd: Vec<Option<Usd>> = demands.iter().map(|d| d.usd).collect();
        let input: Vec<i64> = demands.iter().map(|d| bound(d.input)).collect();
        let output: Vec<i64> = demands.iter().map(|d| bound(d.output)).collect();
        let either: Vec<i64> = demands.iter().map(|d| bound(d.either)).collect();
        let rows = sqlx::query(
            "WITH clock AS MATERIALIZED (
                 SELECT c.at, c.at AT TIME ZONE 'UTC' AS utc,
                        greatest(0, extract(epoch FROM c.at) * 1000000)::bigint AS micros
                   FROM (SELECT coalesce($2::timestamptz, now()) AS at) c
             ), subjects AS MATERIALIZED (
                 SELECT s.subject, s.agent, s.session, s.usr, s.model,
                        string_to_array(s.slices, ',') AS slices
                   FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $17::text[])
                        WITH ORDINALITY AS s(agent, session, usr, model, slices, subject)
             ), requests AS MATERIALIZED (
                 SELECT r.ord, r.subject, r.id, r.provider, r.tokens, r.usd, r.input, r.output, r.either
                   FROM unnest($7::bigint[], $8::uuid[], $9::text[], $10::bigint[], $11::bigint[],
                               $12::bigint[], $13::bigint[], $14::bigint[])
                        WITH ORDINALITY
                        AS r(subject, id, provider, tokens, usd, input, output, either, ord)
             ), limits AS MATERIALIZED (
                 SELECT s.subject, b.name, b.period, k.window_key, w.budget IS NOT NULL AS open,
                        dense_rank() OVER (ORDER BY b.name, b.period, k.window_key) AS win,
                        b.on_limit, b.warn_at, b.fallback_input, b.fallback_output,
                        p.allows OR '+' = ANY(s.slices) AS allows,
                        p.allows AND (s.model <> '' OR b.usd_limit IS NOT NULL) AS priced,
                        -- Of whom a window is missing, nothing is decided, although somebody else in
                        -- the batch may have had some of the windows locked.
                        bool_and(w.budget IS NOT NULL) OVER (PARTITION BY s.subject) AS ready
                   FROM subjects s
                  CROSS JOIN clock c
                   JOIN portcullis.budgets b
                     ON b.tenant_id = $1::text AND b.agent_id = ANY(ARRAY[s.agent, ''])
                    AND b.user_id = ANY(ARRAY[s.usr, '']) AND b.model = ANY(ARRAY[s.model, ''])
                    AND NOT b.name || ' ' || b.period = ANY(s.slices)
                  CROSS JOIN LATERAL (
                      SELECT CASE b.period
                                 WHEN 'session' THEN s.session
                                 WHEN 'day' THEN to_char(c.utc, 'YYYY-MM-DD')
                                 WHEN 'month' THEN to_char(c.utc, 'YYYY-MM')
                                 ELSE '-'
                             END COLLATE \"C\" AS window_key) k
                  CROSS JOIN LATERAL (
                      SELECT b.usd_limit IS NOT NULL OR b.token_limit IS NOT NULL
                             OR (b.call_limit IS NULL AND b.seconds_limit IS NULL) AS allows) p
                   LEFT JOIN LATERAL (
                       SELECT v.budget
                         FROM portcullis.budget_windows v
                        WHERE v.tenant_id = $1 AND v.budget = b.name AND v.period = b.period
                          AND v.window_key = k.window_key
                       OFFSET 0) w ON true
             ), locked AS MATERIALIZED (
                 SELECT a.win, w.tenant_id, w.budget, w.period, w.window_key,
                        w.usd_limit + w.raised_usd AS usd_limit,
                        w.token_limit + w.raised_tokens AS token_limit,
                        w.call_limit + w.raised_calls AS call_limit, w.seconds_limit,
                        w.raised_usd, w.raised_tokens, w.raised_calls,
                        w.settled_usd, w.held_usd, w.settled_tokens, w.held_tokens, w.settled_calls,
                        w.held_calls, w.first_at, w.warned, w.bucket_micros, w.bucket_at,
                        w.bucket_usd, w.bucket_tokens, w.bucket_calls
                   FROM (SELECT DISTINCT l.win, l.name, l.period, l.window_key
                           FROM limits l
                          WHERE l.ready
                          ORDER BY l.name, l.period, l.window_key) a
                  CROSS JOIN LATERAL (
                      SELECT v.tenant_id, v.budget, v.period, v.window_key, v.usd_limit, v.token_limit, v.call_limit,
                             v.seconds_limit, v.raised_usd, v.raised_tokens, v.raised_calls,
                             v.settled_usd, v.held_usd, v.settled_tokens, v.held_tokens,
                             v.settled_calls, v.held_calls, v.first_at, v.warned, v.bucket_micros,
                             v.bucket_at, v.bucket_usd, v.bucket_tokens, v.bucket_calls
                        FROM portcullis.budget_windows v
                       WHERE v.tenant_id = $1 AND v.budget = a.name AND v.period = a.period
                         AND v.window_key = a.window_key
                      OFFSET 0
                         FOR NO KEY UPDATE OF v) w
             ), live AS MATERIALIZED (
                 -- The buckets of a rolling window as they stand now: those that it left are empty.
                 SELECT l.win, l.tenant_id, l.budget, l.period, l.window_key, l.usd_limit, l.token_limit, l.call_limit,
                        l.raised_usd, l.raised_tokens, l.raised_calls, l.seconds_limit, l.first_at,
                        l.warned, l.bucket_micros, g.head, g.ring_usd, g.ring_tokens, g.ring_calls,
                        coalesce(g.usd, l.settled_usd + l.held_usd) AS taken_usd,
                        coalesce(g.tokens, l.settled_tokens + l.held_tokens) AS taken_tokens,
                        coalesce(g.calls, l.settled_calls + l.held_calls) AS taken_calls,
                        mod(greatest(c.micros / l.bucket_micros, g.head - 60), 61)::integer + 1 AS slot
                   FROM locked l
                  CROSS JOIN clock c
                   LEFT JOIN LATERAL (
                       SELECT h.head,
                              least(sum(b.usd), 9223372036854775807)::bigint AS usd,
                              least(sum(b.tokens), 9223372036854775807)::bigint AS tokens,
                              least(sum(b.calls), 9223372036854775807)::bigint AS calls,
                              array_agg(b.usd ORDER BY b.slot) AS ring_usd,
                              array_agg(b.tokens ORDER BY b.slot) AS ring_tokens,
                              array_agg(b.calls ORDER BY b.slot) AS ring_calls
                         FROM (SELECT greatest(l.bucket_at, c.micros / l.bucket_micros) AS head) h
                        CROSS JOIN LATERAL (
                            SELECT s.slot, CASE WHEN f.live THEN s.usd ELSE 0 END AS usd,
                                   CASE WHEN f.live THEN s.tokens ELSE 0 END AS tokens,
                                   CASE WHEN f.live THEN s.calls ELSE 0 END AS calls
                              FROM unnest(l.bucket_usd, l.bucket_tokens, l.bucket_calls)
                                   WITH ORDINALITY AS s(usd, tokens, calls, slot)
                             CROSS JOIN LATERAL (
                                 SELECT h.head - mod(h.head - s.slot + 62, 61) <= l.bucket_at
                                     AS live) f) b
                        WHERE l.bucket_micros IS NOT NULL
                        GROUP BY h.head) g ON true
             ), asks AS MATERIALIZED (
                 SELECT r.ord, r.id, r.subject, r.provider, l.win, l.name, l.period, l.window_key,
                        l.allows, l.warn_at, r.tokens, l.fallback_input,
                        l.fallback_output, p.usd IS NOT NULL OR $16::boolean AS priced,
                        p.usd AS asked_usd, coalesce(p.usd, 0) AS usd,
                        CASE WHEN e.enforced THEN coalesce(v.usd_limit, 9223372036854775807)
                             ELSE 9223372036854775807 END - v.taken_usd AS usd_left,
                        CASE WHEN e.enforced THEN coalesce(v.token_limit, 9223372036854775807)
                             ELSE 9223372036854775807 END - v.taken_tokens AS tokens_left,
                        CASE WHEN e.enforced THEN coalesce(v.call_limit, 9223372036854775807)
                             ELSE 9223372036854775807 END - v.taken_calls AS calls_left,
                        NOT e.enforced OR v.seconds_limit IS NULL OR v.first_at IS NULL
                        OR c.at < v.first_at + v.seconds_limit * interval '1 second' AS in_time
                   FROM requests r
                   JOIN limits l ON l.subject = r.subject AND l.ready
                   JOIN live v ON v.win = l.win
                  CROSS JOIN clock c
                  CROSS JOIN LATERAL (SELECT l.on_limit <> 'warn' AND NOT $16 AS enforced) e
                  CROSS JOIN LATERAL (
                      SELECT CASE WHEN r.usd IS NOT NULL THEN r.usd
                             WHEN l.fallback_input IS NOT NULL THEN
                                 least(9223372036854775807,
                                     div(r.input::numeric * l.fallback_input + 999999, 1000000)
                                   + div(r.output::numeric * l.fallback_output + 999999, 1000000)
                                   + div(r.either::numeric
                                         * greatest(l.fallback_input, l.fallback_output) + 999999,
                                         1000000))::bigint
                             WHEN NOT l.priced THEN 0
                        END AS usd) p
             ), alone AS MATERIALIZED (
                 SELECT a.ord, a.id, a.subject, a.provider, a.win, a.name, a.period, a.window_key,
                        a.warn_at, a.usd, a.tokens, a.usd_left, a.tokens_left, a.calls_left,
                        a.fallback_input, a.fallback_output,
                        bool_or(a.allows OR $16) OVER call
                        AND bool_and(a.priced AND a.in_time AND a.usd <= a.usd_left
                                     AND a.tokens <= a.tokens_left AND a.calls_left >= 1) OVER call
                            AS fits
                   FROM asks a
                 WINDOW call AS (PARTITION BY a.ord)
             ), sums AS MATERIALIZED (
                 SELECT a.ord, a.id, a.subject, a.provider, a.win, a.name, a.period, a.window_key,
                        a.warn_at, a.usd, a.tokens, a.fallback_input, a.fallback_output,
                        sum(a.usd) OVER upto <= a.usd_left AND sum(a.tokens) OVER upto <= a.tokens_left
                        AND count(*) OVER upto <= a.calls_left AS fits
                   FROM alone a
                  WHERE a.fits
                 WINDOW upto AS (PARTITION BY a.win ORDER BY a.ord ROWS UNBOUNDED PRECEDING)
             ), judged AS MATERIALIZED (
                 SELECT s.ord, s.id, s.subject, s.provider, s.win, s.name, s.period, s.window_key,
                        s.warn_at, s.usd, s.tokens, s.fallback_input, s.fallback_output,
                        bool_and(s.fits) OVER (PARTITION BY s.ord) AS admitted
                   FROM sums s
             ), admitted AS MATERIALIZED (
                 SELECT DISTINCT g.ord FROM judged g WHERE g.admitted
             ), refused AS MATERIALIZED (
                 SELECT r.ord, r.subject
                   FROM requests r
                  WHERE r.ord NOT IN (SELECT d.ord FROM admitted d)
             ), totals AS MATERIALIZED (
                 -- With all that is written: joined in the update itself, every row would be copied
                 -- whole for every other, in case it had to be checked again. The tenant is that of
                 -- the row, so that nothing but the whole key finds it again.
                 SELECT v.tenant_id, v.budget, v.period, v.window_key, t.warn_at, t.usd, t.tokens, t.calls,
                        v.warned AS warned_before, v.usd_limit, v.token_limit, v.call_limit,
                        v.taken_usd + t.usd AS taken_usd, v.taken_tokens + t.tokens AS taken_tokens,
                        v.taken_calls + t.calls AS taken_calls, c.at, k.percent, v.bucket_micros, v.head,
                        CASE WHEN v.bucket_micros IS NOT NULL THEN
                            v.ring_usd[:v.slot - 1] || v.ring_usd[v.slot] + t.usd
                            || v.ring_usd[v.slot + 1:] END AS ring_usd,
                        CASE WHEN v.bucket_micros IS NOT NULL THEN
                            v.ring_tokens[:v.slot - 1] || v.ring_tokens[v.slot] + t.tokens
                            || v.ring_tokens[v.slot + 1:] END AS ring_tokens,
                        CASE WHEN v.bucket_micros IS NOT NULL THEN
                            v.ring_calls[:v.slot - 1] || v.ring_calls[v.slot] + t.calls
                            || v.ring_calls[v.slot + 1:] END AS ring_calls
                   FROM (SELECT g.win, min(g.warn_at) AS warn_at, sum(g.usd)::bigint AS usd,
                                sum(g.tokens)::bigint AS tokens, count(*) AS calls
                           FROM judged g
                          WHERE g.admitted
                          GROUP BY g.win) t
                   JOIN live v ON v.win = t.win
                  CROSS JOIN clock c
                  CROSS JOIN LATERAL (
                      SELECT max(p.percent) AS percent
                        FROM unnest(t.warn_at) AS p(percent)
                       WHERE (v.taken_usd::numeric + t.usd) * 100 >= p.percent * v.usd_limit::numeric
                          OR (v.taken_tokens::numeric + t.tokens) * 100
                             >= p.percent * v.token_limit::numeric
                          OR (v.taken_calls::numeric + t.calls) * 100
                             >= p.percent * v.call_limit::numeric) k
             ), charged AS (
                 -- Of a rolling window, what is held and settled since ever stops where it could not
                 -- be written any more; of others, the limit came first.
                 UPDATE portcullis.budget_windows w
                    SET held_usd = w.held_usd
                            + least(t.usd, 9223372036854775807 - w.settled_usd - w.held_usd),
                        held_tokens = w.held_tokens
                            + least(t.tokens, 9223372036854775807 - w.settled_tokens - w.held_tokens),
                        held_calls = w.held_calls + t.calls,
                        overrun_usd = greatest(w.overrun_usd, t.taken_usd - t.usd_limit),
                        overrun_tokens = greatest(w.overrun_tokens, t.taken_tokens - t.token_limit),
                        overrun_calls = greatest(w.overrun_calls, t.taken_calls - t.call_limit),
                        first_at = coalesce(w.first_at, t.at),
                        warned = CASE WHEN t.bucket_micros IS NULL THEN greatest(w.warned, t.percent)
                                      ELSE coalesce(t.percent, 0) END,
                        bucket_at = t.head, bucket_usd = t.ring_usd, bucket_tokens = t.ring_tokens,
                        bucket_calls = t.ring_calls
                   FROM totals t
                  WHERE w.tenant_id = t.tenant_id AND w.budget = t.budget AND w.period = t.period
                    AND w.window_key = t.window_key
                 RETURNING t.budget AS name, t.period, t.window_key, t.warn_at, t.warned_before,
                           w.warned, t.usd_limit, t.token_limit, t.call_limit,
                           t.taken_usd, t.taken_tokens, t.taken_calls
             ), taken AS (
                 INSERT INTO portcullis.reservations (tenant_id, reservation_id, agent_id, session_id,
                        user_id, model, provider, state, reserved_at, lease_until, reserved_tokens,
                        charged_tokens, budgets, periods, window_keys, reserved_usd, charged_usd,
                        fallback_input, fallback_output)
                 SELECT $1, l.id, s.agent, s.session, nullif(s.usr, ''), nullif(s.model, ''), l.provider,
                        'held', c.at, c.at + $15::bigint * interval '1 microsecond', l.tokens, l.tokens,
                        l.budgets, l.periods, l.window_keys, l.usd, l.usd, l.input, l.output
                   FROM (SELECT g.ord, g.id, g.subject, g.provider, g.tokens, array_agg(g.name) AS budgets,
                                array_agg(g.period) AS periods, array_agg(g.window_key) AS window_keys,
                                array_agg(g.usd) AS usd,
                                CASE WHEN count(g.fallback_input) > 0
                                     THEN array_agg(g.fallback_input) END AS input,
                                CASE WHEN count(g.fallback_input) > 0
                                     THEN array_agg(g.fallback_output) END AS output
                           FROM judged g
                          WHERE g.admitted
                          GROUP BY g.ord, g.id, g.subject, g.provider, g.tokens) l
                   JOIN subjects s ON s.subject = l.subject
                  CROSS JOIN clock c
             )
             SELECT NULL::bigint AS ord, (SELECT array_agg(d.ord) FROM admitted d) AS admitted,
                    NULL::text AS name, NULL::text AS period, NULL::text AS window_key,
                    NULL::boolean AS open, NULL::boolean AS allows, NULL::text AS on_limit,
                    NULL::bigint AS asked_usd, NULL::bigint AS usd_limit, NULL::bigint AS token_limit,
                    NULL::bigint AS call_limit, NULL::bigint AS raised_usd, NULL::bigint AS raised_tokens,
                    NULL::bigint AS raised_calls, NULL::integer AS seconds_limit,
                    NULL::bigint AS taken_usd, NULL::bigint AS taken_tokens, NULL::bigint AS taken_calls,
                    NULL::timestamptz AS first_at, NULL::bigint AS bucket_micros, NULL::bigint AS head,
                    NULL::bigint[] AS ring_usd, NULL::bigint[] AS ring_tokens,
                    NULL::bigint[] AS ring_calls, NULL::integer[] AS warn_at,
                    NULL::integer AS warned_before, NULL::integer AS warned, c.at
               FROM clock c
             UNION ALL
             SELECT NULL, NULL, x.name, x.period, x.window_key, NULL, NULL, NULL, NULL, x.usd_limit,
                    x.token_limit, x.call_limit, NULL, NULL, NULL, NULL, x.taken_usd, x.taken_tokens, x.taken_calls, NULL,
                    NULL, NULL, NULL, NULL, NULL, x.warn_at, x.warned_before, x.warned, NULL
               FROM charged x
              WHERE x.warned > x.warned_before
             UNION ALL
             SELECT r.ord, NULL, l.name, l.period, l.window_key, l.open, l.allows, l.on_limit,
                    a.asked_usd, v.usd_limit, v.token_limit, v.call_limit, v.raised_usd, v.raised_tokens,
                    v.raised_calls, v.seconds_limit,
                    (coalesce(v.taken_usd, 0) + coalesce(b.usd, 0))::bigint,
                    (coalesce(v.taken_tokens, 0) + coalesce(b.tokens, 0))::bigint,
                    coalesce(v.taken_calls, 0) + b.calls, v.first_at, v.bucket_micros, v.head,
                    v.ring_usd, v.ring_tokens, v.ring_calls, NULL, NULL, NULL, c.at
               FROM refused r
               JOIN limits l ON l.subject = r.subject
              CROSS JOIN clock c
               LEFT JOIN live v ON v.win = l.win
               LEFT JOIN asks a ON a.ord = r.ord AND a.win = l.win
              CROSS JOIN LATERAL (
                  SELECT sum(g.usd) AS usd, sum(g.tokens) AS tokens, count(*) AS calls
                    FROM judged g
                   WHERE g.admitted AND g.ord < r.ord AND g.win = l.win) b",
        )
        .bind(self.tenant())
        .bind(self.store.database_now())
        .bind(&subjects.agents)
        .bind(&subjects.sessions)
        .bind(&subjects.users)
        .bind(&subjects.models)
        .bind(numbers)
        .bind(ids)
        .bind(providers)
        .bind(tokens)
        .bind(usd)
        .bind(input)
        .bind(output)
        .bind(either)
        .bind(terms.lease_micros)
        .bind(terms.spent_already)
        .bind(&subjects.from_slices)
        .fetch_all_often(&self.store)
        .await?;
        answers(demands.len(), &rows)
    }

    /// Which of `ids` have been reserved.
    pub(super) async fn list_reserved(
        &self,
        ids: &[ReservationId],
    ) -> Result<Vec<ReservationId>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
        let ids = &ids;
        self.store
            .run_idempotent(OPERATION, || async move {
                sqlx::query(
                    "SELECT reservation_id
                       FROM portcullis.reservations
                      WHERE tenant_id = $1 AND reservation_id = ANY($2::uuid[])",
                )
                .bind(self.tenant())
                .bind(ids)
                .fetch_all_in(&self.store)
                .await?
                .iter()
                .map(|row| Ok(ReservationId::from_uuid(row.try_get("reservation_id")?)))
                .collect()
            })
            .await
    }
}
