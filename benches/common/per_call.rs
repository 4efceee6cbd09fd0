//! What a budget costs without a combiner: the statements of one call each, as they were before many
//! calls were decided together. On copies of our tables, in the database that is measured.

use sqlx::PgPool;
use uuid::Uuid;

/// Makes the tables, with a budget for a day and its window for each of `agents`.
pub(crate) async fn prepare(pool: &PgPool, agents: i64) {
    sqlx::raw_sql(TABLES).execute(pool).await.unwrap();
    sqlx::query(
        "INSERT INTO per_call.budgets (tenant_id, name, period, agent_id, user_id, model, usd_limit,
                on_limit, warn_at, registered_at)
         SELECT 't', 'agent:' || i, 'day', 'agent-' || i, '', '', 1000000000000000, 'refuse', '{}', now()
           FROM generate_series(0, $1 - 1) i",
    )
    .bind(agents)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO per_call.budget_windows (tenant_id, budget, period, window_key, usd_limit, opened_at)
         SELECT 't', b.name, 'day', to_char((now() + d * interval '1 day') AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
                b.usd_limit, now()
           FROM per_call.budgets b CROSS JOIN generate_series(0, 1) d",
    )
    .execute(pool)
    .await
    .unwrap();
}

/// Reserves and settles.
pub(crate) async fn pair(pool: &PgPool, agent: u64) {
    let id = Uuid::now_v7();
    sqlx::query(RESERVE)
        .bind("t")
        .bind(format!("agent-{agent}"))
        .bind("session")
        .bind(None::<&str>)
        .bind(id)
        .bind(None::<&str>)
        .bind(None::<&str>)
        .bind(None::<&str>)
        .bind(0_i64)
        .bind(1_000_i64)
        .bind(0_i64)
        .bind(0_i64)
        .bind(0_i64)
        .bind(900_000_000_i64)
        .bind(false)
        .fetch_all(pool)
        .await
        .unwrap();
    sqlx::query(FINISH)
        .bind("t")
        .bind(id)
        .bind(None::<&str>)
        .bind(Uuid::now_v7())
        .bind("settled")
        .bind(vec!["held", "unknown"])
        .bind(900_i64)
        .bind(None::<i64>)
        .bind(None::<i64>)
        .bind(None::<i64>)
        .bind(None::<i64>)
        .bind(None::<i64>)
        .bind(None::<&str>)
        .fetch_all(pool)
        .await
        .unwrap();
}

// Ours, as they are: what differs is how they are used.
const TABLES: &str = "CREATE SCHEMA per_call;
CREATE TABLE per_call.budgets (LIKE portcullis.budgets INCLUDING ALL);
CREATE TABLE per_call.budget_windows (LIKE portcullis.budget_windows INCLUDING ALL)
    WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.02);
CREATE TABLE per_call.reservations (LIKE portcullis.reservations INCLUDING ALL);";

const RESERVE: &str = "WITH applicable AS MATERIALIZED (
                 SELECT b.name, b.period, k.window_key,
                        EXISTS (SELECT
                                  FROM per_call.budget_windows w
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
                        END AS asked_usd, b.fallback_input, b.fallback_output
                   FROM per_call.budgets b
                  CROSS JOIN LATERAL (
                      SELECT CASE b.period
                                 WHEN 'session' THEN $3::text
                                 ELSE to_char(coalesce($4::text::timestamptz, now()) AT TIME ZONE 'UTC',
                                              'YYYY-MM-DD')
                             END COLLATE \"C\" AS window_key) k
                  WHERE b.tenant_id = $1::text AND b.agent_id = $2::text
             ), locked AS MATERIALIZED (
                 SELECT a.name, a.period, a.window_key, a.asked_usd, a.fallback_input,
                        a.fallback_output, w.usd_limit, w.token_limit, w.seconds_limit,
                        w.settled_usd + w.held_usd AS taken_usd,
                        w.settled_tokens + w.held_tokens AS taken_tokens, w.first_at
                   FROM applicable a
                   JOIN per_call.budget_windows w
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
                             OR coalesce($4::text::timestamptz, now()) < l.first_at + l.seconds_limit * interval '1 second')
                        )) AS admitted
                   FROM locked l
             ), charged AS (
                 UPDATE per_call.budget_windows w
                    SET held_usd = w.held_usd + coalesce(l.asked_usd, 0),
                        held_tokens = w.held_tokens + $9,
                        overrun_usd = CASE WHEN $15 THEN greatest(w.overrun_usd,
                            l.taken_usd + coalesce(l.asked_usd, 0) - l.usd_limit) ELSE w.overrun_usd END,
                        overrun_tokens = CASE WHEN $15 THEN greatest(w.overrun_tokens,
                            l.taken_tokens + $9 - l.token_limit) ELSE w.overrun_tokens END,
                        first_at = coalesce(w.first_at, coalesce($4::text::timestamptz, now()))
                   FROM locked l CROSS JOIN verdict v
                  WHERE v.admitted AND w.tenant_id = $1 AND w.budget = l.name
                    AND w.period = l.period AND w.window_key = l.window_key
             ), taken AS (
                 INSERT INTO per_call.reservations (tenant_id, reservation_id, agent_id, session_id,
                        user_id, model, provider, state, reserved_at, lease_until, reserved_tokens,
                        charged_tokens, budgets, periods, window_keys, reserved_usd, charged_usd,
                        fallback_input, fallback_output)
                 SELECT $1, $5::uuid, $2, $3, $6::text, $7, $8::text, 'held', coalesce($4::text::timestamptz, now()),
                        coalesce($4::text::timestamptz, now()) + $14::bigint * interval '1 microsecond', $9, $9,
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
             SELECT a.name, a.period, a.window_key, a.open, a.asked_usd, l.usd_limit, l.token_limit,
                    l.seconds_limit, coalesce(l.taken_usd, 0) AS taken_usd,
                    coalesce(l.taken_tokens, 0) AS taken_tokens, l.first_at, v.admitted,
                    coalesce($4::text::timestamptz, now()) AS at
               FROM applicable a
              CROSS JOIN verdict v
               LEFT JOIN locked l ON l.name = a.name AND l.period = a.period";

const FINISH: &str = "WITH mine AS MATERIALIZED (
                         SELECT r.state, r.ended_by, r.budgets, r.periods, r.window_keys,
                                r.charged_usd, r.charged_tokens, r.fallback_input, r.fallback_output
                           FROM per_call.reservations r
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
                           JOIN per_call.budget_windows w
                             ON w.tenant_id = $1 AND w.budget = d.budget AND w.period = d.period
                            AND w.window_key = d.window_key
                          CROSS JOIN LATERAL (
                              SELECT greatest(0, w.held_usd - d.was_usd) AS usd,
                                     greatest(0, w.held_tokens - d.was_tokens) AS tokens) h
                          ORDER BY w.budget, w.period, w.window_key
                            FOR NO KEY UPDATE OF w
                     ), charged AS (
                         UPDATE per_call.budget_windows w
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
                         UPDATE per_call.reservations r
                            SET state = $5, ended_at = coalesce($3::text::timestamptz, now()), ended_by = $4::uuid,
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
                      ORDER BY d.ordinal";
