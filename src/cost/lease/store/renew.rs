//! What a holder tells the window of its slice, and what it gets for it: one statement.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::call::Principal;
use crate::cost::lease::hold::Of;
use crate::cost::lease::slice::{Amounts, UNITS};
use crate::cost::store::{CostStore, Crossed, crossed};
use crate::store::{ExecuteIn as _, InStore as _, StoreError, StoreFault};

const OPERATION: &str = "renew a slice of a budget";
/// How often a renewal is looked for again that another session was just writing.
const ATTEMPTS: u32 = 4;

/// One renewal, in amounts since the last one.
#[derive(Clone, Debug)]
pub(in crate::cost::lease) struct Renewal {
    pub(in crate::cost::lease) lease: Uuid,
    /// Which renewal this is. The same one twice is done once.
    pub(in crate::cost::lease) epoch: i64,
    pub(in crate::cost::lease) spent: Amounts,
    /// The part of it beyond ceilings.
    pub(in crate::cost::lease) over: Amounts,
    /// What is given back.
    pub(in crate::cost::lease) back: Amounts,
    /// What is still free after that.
    pub(in crate::cost::lease) free: Amounts,
    /// Whether more is wanted.
    pub(in crate::cost::lease) want: bool,
    /// Whether nothing is left of it.
    pub(in crate::cost::lease) close: bool,
    pub(in crate::cost::lease) lasts: Duration,
}

/// What a renewal came to.
#[derive(Clone, Debug)]
pub(in crate::cost::lease) enum Answer {
    Renewed(Renewed),
    /// The lease ran out, and somebody saw it: the slice is not ours any more. What was told may have
    /// been applied before, by a try whose answer was lost.
    Lost {
        applied: bool,
    },
}

/// A slice, as it stands after a renewal.
#[derive(Clone, Debug)]
pub(in crate::cost::lease) struct Renewed {
    pub(in crate::cost::lease) granted: Amounts,
    /// `None` if an earlier try did it, whose answer was lost: renew it again to hear the rest.
    pub(in crate::cost::lease) news: Option<News>,
    /// Whether somebody is to be warned of how much is used.
    pub(in crate::cost::lease) crossed: Option<Box<Crossed>>,
}

/// What a holder must know of its budget.
#[derive(Clone, Copy, Debug)]
pub(in crate::cost::lease) struct News {
    /// What a slice of this budget is, far from the limit. Nothing of a unit without a limit.
    pub(in crate::cost::lease) full: Amounts,
    pub(in crate::cost::lease) limited: [bool; UNITS],
    /// Whether the budget is still in force, and leased.
    pub(in crate::cost::lease) leased: bool,
    /// Whether a full slice could not be granted.
    pub(in crate::cost::lease) near: bool,
    /// How long the slice may be spent, from before the statement was sent.
    pub(in crate::cost::lease) lasts: Duration,
}

impl CostStore {
    /// Opens a slice with nothing in it yet.
    //
    // Safe to try again: its id is its key.
    pub(in crate::cost::lease) async fn open_lease(
        &self,
        lease: Uuid,
        of: &Of,
        holder: Uuid,
        who: &Principal,
        lasts: Duration,
    ) -> Result<(), StoreError> {
        self.store()
            .run_idempotent(OPERATION, || async move {
                sqlx::query(
                    "INSERT INTO portcullis.budget_leases (tenant_id, lease_id, budget, period,
                            window_key, holder, agent_id, session_id, taken_at, reported_at, lease_until)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9::timestamptz, now()),
                             coalesce($9, now()),
                             coalesce($9, now()) + $10::bigint * interval '1 microsecond')
                     ON CONFLICT DO NOTHING",
                )
                .bind(self.tenant())
                .bind(lease)
                .bind(of.budget.as_str())
                .bind(of.period.to_text())
                .bind(of.key.as_str())
                .bind(holder)
                .bind(who.agent_id().as_str())
                .bind(who.session_id().as_str())
                .bind(self.store().database_now())
                .bind(micros(lasts))
                .execute_in(self.store())
                .await
                .map(drop)
            })
            .await
    }

    /// Reports what was spent, gives back, takes more, and begins the lease anew.
    pub(in crate::cost::lease) async fn renew_lease(
        &self,
        renewal: &Renewal,
    ) -> Result<Answer, StoreError> {
        for _ in 0..ATTEMPTS {
            let row = self
                .store()
                .run_idempotent(OPERATION, || self.renew_once(renewal))
                .await?;
            let Some(row) = row else {
                return Ok(Answer::Lost { applied: false });
            };
            let read = answer(&row, renewal.epoch)
                .map_err(|error| StoreError::from_driver(OPERATION, &error))?;
            if let Some(answer) = read {
                return Ok(answer);
            }
        }
        Err(StoreError::new(OPERATION, StoreFault::Aborted))
    }

    // Safe under concurrency: the slice's row is locked first, so that a renewal and the sweeper come
    // one after the other; then its window, as an admission locks it, and what is granted is taken
    // from what is left of it under that lock: `settled + held + granted <= limit`. What is taken and
    // not spent is held in the window, before and after. Safe to try again: a renewal that was done
    // finds its successor's epoch, and answers what it granted then.
    #[expect(clippy::too_many_lines, reason = "one statement")]
    async fn renew_once(&self, renewal: &Renewal) -> Result<Option<PgRow>, sqlx::Error> {
        let [spent_usd, spent_tokens, spent_calls] = renewal.spent;
        let [over_usd, over_tokens, over_calls] = renewal.over;
        let [back_usd, back_tokens, back_calls] = renewal.back;
        let [free_usd, free_tokens, free_calls] = renewal.free;
        sqlx::query(
            "WITH mine AS MATERIALIZED (
                 SELECT l.budget, l.period, l.window_key, l.taken_usd, l.taken_tokens, l.taken_calls,
                        l.spent_usd, l.spent_tokens, l.spent_calls
                   FROM portcullis.budget_leases l
                  WHERE l.tenant_id = $1::text AND l.lease_id = $2::uuid AND l.epoch = $3::bigint
                    AND l.state = 'live'
                    FOR NO KEY UPDATE
             ), locked AS MATERIALIZED (
                 SELECT w.usd_limit + w.raised_usd AS usd_limit,
                        w.token_limit + w.raised_tokens AS token_limit,
                        w.call_limit + w.raised_calls AS call_limit, w.seconds_limit, w.first_at,
                        w.settled_usd, w.held_usd, w.settled_tokens, w.held_tokens, w.settled_calls,
                        w.held_calls, w.warned
                   FROM mine m
                   JOIN portcullis.budget_windows w
                     ON w.tenant_id = $1 AND w.budget = m.budget AND w.period = m.period
                    AND w.window_key = m.window_key
                    FOR NO KEY UPDATE OF w
             ), told AS MATERIALIZED (
                 -- How the slice changes by what is told. A unit without a limit holds nothing; what is
                 -- closed holds nothing of any, also where a limit was removed meanwhile.
                 SELECT m.budget, m.period, m.window_key, w.usd_limit, w.token_limit, w.call_limit,
                        w.settled_usd, w.held_usd, w.settled_tokens, w.held_tokens, w.settled_calls,
                        w.held_calls, w.seconds_limit, w.warned, b.warn_at,
                        w.settled_usd + w.held_usd - m.taken_usd + m.spent_usd + $5::bigint AS used_usd,
                        w.settled_tokens + w.held_tokens - m.taken_tokens + m.spent_tokens + $6::bigint
                            AS used_tokens,
                        w.settled_calls + w.held_calls - m.taken_calls + m.spent_calls + $7::bigint
                            AS used_calls,
                        coalesce(w.first_at, coalesce($4::timestamptz, now())) AS first_at,
                        CASE WHEN b.on_limit <> 'warn' THEN b.lease_percent END AS percent,
                        CASE WHEN $18::boolean THEN m.spent_usd + $5::bigint - m.taken_usd
                             WHEN w.usd_limit IS NULL THEN $5::bigint
                             ELSE greatest($8::bigint - $11::bigint,
                                           m.spent_usd + $5::bigint - m.taken_usd)
                        END AS more_usd,
                        CASE WHEN $18::boolean THEN m.spent_tokens + $6::bigint - m.taken_tokens
                             WHEN w.token_limit IS NULL THEN $6::bigint
                             ELSE greatest($9::bigint - $12::bigint,
                                           m.spent_tokens + $6::bigint - m.taken_tokens)
                        END AS more_tokens,
                        CASE WHEN $18::boolean THEN m.spent_calls + $7::bigint - m.taken_calls
                             WHEN w.call_limit IS NULL THEN $7::bigint
                             ELSE greatest($10::bigint - $13::bigint,
                                           m.spent_calls + $7::bigint - m.taken_calls)
                        END AS more_calls
                   FROM mine m
                  CROSS JOIN locked w
                   LEFT JOIN portcullis.budgets b
                     ON b.tenant_id = $1 AND b.name = m.budget AND b.period = m.period
             ), granted AS MATERIALIZED (
                 -- Each holder leaves three quarters of what is left to the others.
                 SELECT t.budget, t.period, t.window_key, t.usd_limit, t.token_limit, t.call_limit,
                        t.settled_usd, t.held_usd, t.settled_tokens, t.held_tokens, t.settled_calls,
                        t.held_calls, t.seconds_limit, t.first_at, t.percent, t.more_usd,
                        t.more_tokens, t.more_calls, t.warned, t.warn_at, t.used_usd, t.used_tokens,
                        t.used_calls, r.room_usd, r.room_tokens, r.room_calls,
                        r.full_usd, r.full_tokens, r.full_calls,
                        CASE WHEN $17::boolean AND t.percent IS NOT NULL THEN
                            coalesce(greatest(0, least(r.full_usd - $14::bigint, r.room_usd)), 0)
                            ELSE 0 END AS grant_usd,
                        CASE WHEN $17::boolean AND t.percent IS NOT NULL THEN
                            coalesce(greatest(0, least(r.full_tokens - $15::bigint, r.room_tokens)), 0)
                            ELSE 0 END AS grant_tokens,
                        CASE WHEN $17::boolean AND t.percent IS NOT NULL THEN
                            coalesce(greatest(0, least(r.full_calls - $16::bigint, r.room_calls)), 0)
                            ELSE 0 END AS grant_calls
                   FROM told t
                  CROSS JOIN LATERAL (
                      SELECT
                          greatest(0, t.usd_limit - t.settled_usd - t.held_usd - t.more_usd) / 4
                              AS room_usd,
                          CASE WHEN t.usd_limit IS NOT NULL AND t.percent IS NOT NULL THEN
                              greatest(1, div(t.usd_limit::numeric * t.percent, 100))::bigint END AS full_usd,
                          greatest(0, t.token_limit - t.settled_tokens - t.held_tokens - t.more_tokens) / 4
                              AS room_tokens,
                          CASE WHEN t.token_limit IS NOT NULL AND t.percent IS NOT NULL THEN
                              greatest(1, div(t.token_limit::numeric * t.percent, 100))::bigint END AS full_tokens,
                          greatest(0, t.call_limit - t.settled_calls - t.held_calls - t.more_calls) / 4
                              AS room_calls,
                          CASE WHEN t.call_limit IS NOT NULL AND t.percent IS NOT NULL THEN
                              greatest(1, div(t.call_limit::numeric * t.percent, 100))::bigint END AS full_calls) r
             ), charged AS (
                 UPDATE portcullis.budget_windows w
                    SET first_at = g.first_at,
                        settled_usd = g.settled_usd + $5,
                        held_usd = g.held_usd + g.more_usd + g.grant_usd - $5,
                        overrun_usd = greatest(w.overrun_usd,
                            g.settled_usd + g.held_usd + g.more_usd - g.usd_limit),
                        settled_tokens = g.settled_tokens + $6,
                        held_tokens = g.held_tokens + g.more_tokens + g.grant_tokens - $6,
                        overrun_tokens = greatest(w.overrun_tokens,
                            g.settled_tokens + g.held_tokens + g.more_tokens - g.token_limit),
                        settled_calls = g.settled_calls + $7,
                        held_calls = g.held_calls + g.more_calls + g.grant_calls - $7,
                        overrun_calls = greatest(w.overrun_calls,
                            g.settled_calls + g.held_calls + g.more_calls - g.call_limit),
                        warned = greatest(w.warned, k.percent)
                   FROM granted g
                  CROSS JOIN LATERAL (
                      -- Somebody is warned of what is used: not of what slices have left. It is seldom
                      -- that near, so seldom added up.
                      SELECT max(p.percent) AS percent, max(g.used_usd - o.usd)::bigint AS usd,
                             max(g.used_tokens - o.tokens)::bigint AS tokens,
                             max(g.used_calls - o.calls)::bigint AS calls
                        FROM unnest(g.warn_at) AS p(percent)
                       CROSS JOIN LATERAL (
                           SELECT coalesce(sum(l.taken_usd - l.spent_usd), 0) AS usd,
                                  coalesce(sum(l.taken_tokens - l.spent_tokens), 0) AS tokens,
                                  coalesce(sum(l.taken_calls - l.spent_calls), 0) AS calls
                             FROM portcullis.budget_leases l
                            WHERE l.tenant_id = $1 AND l.budget = g.budget AND l.period = g.period
                              AND l.window_key = g.window_key AND l.state = 'live'
                              AND l.lease_id <> $2) o
                       WHERE p.percent > g.warned
                         AND (g.used_usd * 100::numeric >= p.percent * g.usd_limit::numeric
                              OR g.used_tokens * 100::numeric >= p.percent * g.token_limit::numeric
                              OR g.used_calls * 100::numeric >= p.percent * g.call_limit::numeric)
                         AND ((g.used_usd - o.usd) * 100 >= p.percent * g.usd_limit::numeric
                              OR (g.used_tokens - o.tokens) * 100 >= p.percent * g.token_limit::numeric
                              OR (g.used_calls - o.calls) * 100 >= p.percent * g.call_limit::numeric)
                      ) k
                  WHERE w.tenant_id = $1 AND w.budget = g.budget AND w.period = g.period
                    AND w.window_key = g.window_key
                 RETURNING w.warned, greatest(0, k.usd) AS taken_usd,
                           greatest(0, k.tokens) AS taken_tokens, greatest(0, k.calls) AS taken_calls
             ), renewed AS (
                 UPDATE portcullis.budget_leases l
                    SET epoch = l.epoch + 1,
                        taken_usd = l.taken_usd + g.more_usd + g.grant_usd,
                        spent_usd = l.spent_usd + $5, last_usd = g.grant_usd,
                        taken_tokens = l.taken_tokens + g.more_tokens + g.grant_tokens,
                        spent_tokens = l.spent_tokens + $6, last_tokens = g.grant_tokens,
                        taken_calls = l.taken_calls + g.more_calls + g.grant_calls,
                        spent_calls = l.spent_calls + $7, last_calls = g.grant_calls,
                        reported_at = coalesce($4, now()),
                        lease_until = coalesce($4, now()) + $19::bigint * interval '1 microsecond',
                        state = CASE WHEN $18 THEN 'returned' ELSE 'live' END,
                        ended_at = CASE WHEN $18 THEN coalesce($4, now()) END
                   FROM granted g
                  WHERE l.tenant_id = $1 AND l.lease_id = $2
             )
             SELECT l.state, l.epoch, g.budget IS NOT NULL AS done, g.percent IS NOT NULL AS leased,
                    coalesce(g.grant_usd, l.last_usd) AS grant_usd,
                    coalesce(g.full_usd, 0) AS full_usd, g.usd_limit IS NOT NULL AS limited_usd,
                    coalesce(g.grant_tokens, l.last_tokens) AS grant_tokens,
                    coalesce(g.full_tokens, 0) AS full_tokens, g.token_limit IS NOT NULL AS limited_tokens,
                    coalesce(g.grant_calls, l.last_calls) AS grant_calls,
                    coalesce(g.full_calls, 0) AS full_calls, g.call_limit IS NOT NULL AS limited_calls,
                    coalesce(g.room_usd < g.full_usd, false)
                        OR coalesce(g.room_tokens < g.full_tokens, false)
                        OR coalesce(g.room_calls < g.full_calls, false) AS near,
                    -- For how long: the lease, but not beyond the window's end.
                    trunc(1000000 * extract(epoch FROM least(
                        $19 * interval '1 microsecond',
                        CASE l.period
                            WHEN 'day' THEN (l.window_key::date + 1)::timestamp AT TIME ZONE 'UTC'
                            WHEN 'month' THEN
                                ((l.window_key || '-01')::date + interval '1 month') AT TIME ZONE 'UTC'
                        END - coalesce($4, now()),
                        g.first_at + g.seconds_limit * interval '1 second' - coalesce($4, now())
                    )))::bigint AS lasts,
                    coalesce(c.warned > g.warned, false) AS crossed, g.budget AS name, g.period,
                    g.window_key, g.warn_at, g.warned AS warned_before, c.warned, g.usd_limit,
                    g.token_limit, g.call_limit, c.taken_usd, c.taken_tokens, c.taken_calls
               FROM portcullis.budget_leases l
               LEFT JOIN granted g ON true
               LEFT JOIN charged c ON true
              WHERE l.tenant_id = $1 AND l.lease_id = $2",
        )
        .bind(self.tenant())
        .bind(renewal.lease)
        .bind(renewal.epoch)
        .bind(self.store().database_now())
        .bind(spent_usd)
        .bind(spent_tokens)
        .bind(spent_calls)
        .bind(over_usd)
        .bind(over_tokens)
        .bind(over_calls)
        .bind(back_usd)
        .bind(back_tokens)
        .bind(back_calls)
        .bind(free_usd)
        .bind(free_tokens)
        .bind(free_calls)
        .bind(renewal.want)
        .bind(renewal.close)
        .bind(micros(renewal.lasts))
        .fetch_optional_in(self.store())
        .await
    }
}

/// `None`: another session was writing it; look again.
fn answer(row: &PgRow, epoch: i64) -> Result<Option<Answer>, sqlx::Error> {
    let granted = [
        row.try_get("grant_usd")?,
        row.try_get("grant_tokens")?,
        row.try_get("grant_calls")?,
    ];
    if row.try_get("done")? {
        let lasts: i64 = row.try_get("lasts")?;
        let news = News {
            full: [
                row.try_get("full_usd")?,
                row.try_get("full_tokens")?,
                row.try_get("full_calls")?,
            ],
            limited: [
                row.try_get("limited_usd")?,
                row.try_get("limited_tokens")?,
                row.try_get("limited_calls")?,
            ],
            leased: row.try_get("leased")?,
            near: row.try_get("near")?,
            lasts: Duration::from_micros(u64::try_from(lasts).unwrap_or(0)),
        };
        return Ok(Some(Answer::Renewed(Renewed {
            granted,
            news: Some(news),
            crossed: if row.try_get("crossed")? {
                Some(Box::new(crossed(row)?))
            } else {
                None
            },
        })));
    }
    let (now, state): (i64, String) = (row.try_get("epoch")?, row.try_get("state")?);
    Ok(match state.as_str() {
        // Whoever took it away counted on, too.
        "lost" => Some(Answer::Lost {
            applied: now == epoch + 2,
        }),
        _ if now == epoch + 1 => Some(Answer::Renewed(Renewed {
            granted,
            news: None,
            crossed: None,
        })),
        _ => None,
    })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}
