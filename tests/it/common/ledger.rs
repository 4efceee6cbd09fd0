//! Whether what was charged adds up.

/// How many windows of budgets do not add up to their reservations and slices.
pub(crate) const WRONG_WINDOWS: &str = "
    SELECT count(*)
      FROM portcullis.budget_windows w
      LEFT JOIN (
          SELECT c.budget, c.period, c.key,
                 coalesce(sum(c.usd) FILTER (WHERE r.state = 'settled'), 0) AS settled,
                 coalesce(sum(c.usd) FILTER (WHERE r.state IN ('held', 'unknown')), 0) AS held,
                 coalesce(sum(r.charged_tokens) FILTER (WHERE r.state = 'settled'), 0) AS settled_t,
                 coalesce(sum(r.charged_tokens) FILTER (WHERE r.state IN ('held', 'unknown')), 0) AS held_t,
                 count(*) FILTER (WHERE r.state IN ('settled', 'refunded')) AS settled_c,
                 count(*) FILTER (WHERE r.state IN ('held', 'unknown')) AS held_c
            FROM portcullis.reservations r
           CROSS JOIN LATERAL unnest(r.budgets, r.periods, r.window_keys, r.charged_usd)
                 AS c(budget, period, key, usd)
           GROUP BY 1, 2, 3) s ON (s.budget, s.period, s.key) = (w.budget, w.period, w.window_key)
      LEFT JOIN (
          SELECT l.budget, l.period, l.window_key, sum(l.spent_usd) AS spent,
                 sum(l.spent_tokens) AS spent_t, sum(l.spent_calls) AS spent_c,
                 coalesce(sum(l.taken_usd - l.spent_usd) FILTER (WHERE l.state = 'live'), 0) AS out,
                 coalesce(sum(l.taken_tokens - l.spent_tokens) FILTER (WHERE l.state = 'live'), 0) AS out_t,
                 coalesce(sum(l.taken_calls - l.spent_calls) FILTER (WHERE l.state = 'live'), 0) AS out_c
            FROM portcullis.budget_leases l
           GROUP BY 1, 2, 3) l ON (l.budget, l.period, l.window_key) = (w.budget, w.period, w.window_key)
     WHERE (w.settled_usd, w.held_usd, w.settled_tokens, w.held_tokens, w.settled_calls, w.held_calls)
           IS DISTINCT FROM (
               (coalesce(s.settled, 0) + coalesce(l.spent, 0))::bigint,
               (coalesce(s.held, 0) + coalesce(l.out, 0))::bigint,
               (coalesce(s.settled_t, 0) + coalesce(l.spent_t, 0))::bigint,
               (coalesce(s.held_t, 0) + coalesce(l.out_t, 0))::bigint,
               (coalesce(s.settled_c, 0) + coalesce(l.spent_c, 0))::bigint,
               (coalesce(s.held_c, 0) + coalesce(l.out_c, 0))::bigint)";
