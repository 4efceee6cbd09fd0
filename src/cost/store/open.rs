//! Around admission: windows that are to be opened first, and answers that were lost.

use super::CostStore;
use super::admitted::{Admission, Answers};
use super::reserve::{Demand, OPERATION, Subjects, Terms};
use crate::store::{ExecuteIn as _, StoreError, StoreFault};

/// How often a statement is begun anew after answers that were lost.
const ATTEMPTS: u32 = 4;

impl CostStore {
    /// Decides `demands` in one statement; see [`reserve_once`](Self::reserve_once).
    //
    // Trying again after a lost connection is safe: a reservation's id is its primary key, so a second
    // admission of the same one fails as a whole, with all that is in its batch. Those that are there
    // then have been admitted by the first; the others are asked for again.
    pub(in crate::cost) async fn try_reserve(
        &self,
        demands: &[&Demand],
        terms: Terms,
    ) -> Result<Answers, StoreError> {
        let mut open: Vec<(usize, &Demand)> = demands.iter().copied().enumerate().collect();
        let mut answers = Answers {
            calls: vec![Admission::default(); demands.len()],
            crossed: Vec::new(),
        };
        for _ in 0..ATTEMPTS {
            let asked: Vec<&Demand> = open.iter().map(|(_, demand)| *demand).collect();
            let asked = &asked;
            let answer = self
                .store
                .run_idempotent(OPERATION, || self.reserve_once(asked, terms))
                .await;
            let found = match answer {
                Ok(found) => found,
                Err(error) if error.sqlstate() == Some("23505") => {
                    let ids: Vec<_> = asked.iter().map(|demand| demand.id).collect();
                    let there = self.list_reserved(&ids).await?;
                    for (at, demand) in &open {
                        if there.contains(&demand.id)
                            && let Some(call) = answers.calls.get_mut(*at)
                        {
                            *call = Admission::granted();
                        }
                    }
                    open.retain(|(_, demand)| !there.contains(&demand.id));
                    if open.is_empty() {
                        return Ok(answers);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            for ((at, _), admission) in open.into_iter().zip(found.calls) {
                if let Some(call) = answers.calls.get_mut(at) {
                    *call = admission;
                }
            }
            answers.crossed = found.crossed;
            return Ok(answers);
        }
        Err(StoreError::new(OPERATION, StoreFault::Aborted))
    }

    /// Opens the windows that `demands` are charged to and that are not open.
    //
    // Safe under concurrency: the budgets' rows are locked against a change of the limits that are
    // copied; a window that another transaction is opening is waited for. Ordered, as all locks are.
    // It does not wait for the disk: the reservation that follows does, and the log is written in
    // order, so that a first call waits for no more commits than a later one.
    pub(in crate::cost) async fn open_windows(
        &self,
        demands: &[&Demand],
    ) -> Result<(), StoreError> {
        let mut subjects = Subjects::default();
        for demand in demands {
            subjects.number(&demand.whose);
        }
        let subjects = &subjects;
        self.store
            .run_idempotent("open the windows of a budget", || async move {
                sqlx::query(
                    "WITH unhurried AS MATERIALIZED (
                         SELECT set_config('synchronous_commit', 'off', true)
                     ), clock AS MATERIALIZED (
                         SELECT c.at, c.at AT TIME ZONE 'UTC' AS utc,
                                greatest(0, extract(epoch FROM c.at) * 1000000)::bigint AS micros
                           FROM (SELECT coalesce($2::timestamptz, now()) AS at) c
                     ), mine AS MATERIALIZED (
                         SELECT b.name, b.period, b.usd_limit, b.token_limit, b.call_limit,
                                b.seconds_limit, b.bucket_micros, s.session
                           FROM unnest($3::text[], $4::text[], $5::text[], $6::text[])
                                AS s(agent, session, usr, model)
                           JOIN portcullis.budgets b
                             ON b.tenant_id = $1::text AND b.agent_id = ANY(ARRAY[s.agent, ''])
                            AND b.user_id = ANY(ARRAY[s.usr, ''])
                            AND b.model = ANY(ARRAY[s.model, ''])
                          ORDER BY b.name, b.period
                            FOR SHARE OF b
                     )
                     INSERT INTO portcullis.budget_windows (tenant_id, budget, period, window_key,
                            usd_limit, token_limit, call_limit, seconds_limit, bucket_micros, bucket_at,
                            bucket_usd, bucket_tokens, bucket_calls, opened_at)
                     SELECT DISTINCT ON (m.name, m.period, k.window_key)
                            $1, m.name, m.period, k.window_key, m.usd_limit, m.token_limit, m.call_limit,
                            m.seconds_limit, m.bucket_micros, c.micros / m.bucket_micros,
                            z.zeros, z.zeros, z.zeros, c.at
                       FROM mine m
                      CROSS JOIN clock c
                      CROSS JOIN unhurried
                      CROSS JOIN LATERAL (
                          SELECT CASE m.period
                                     WHEN 'session' THEN m.session
                                     WHEN 'day' THEN to_char(c.utc, 'YYYY-MM-DD')
                                     WHEN 'month' THEN to_char(c.utc, 'YYYY-MM')
                                     ELSE '-'
                                 END COLLATE \"C\" AS window_key) k
                      CROSS JOIN LATERAL (
                          SELECT CASE WHEN m.bucket_micros IS NOT NULL
                                      THEN array_fill(0::bigint, ARRAY[61]) END AS zeros) z
                      ORDER BY m.name, m.period, k.window_key
                     ON CONFLICT DO NOTHING",
                )
                .bind(self.tenant())
                .bind(self.store.database_now())
                .bind(&subjects.agents)
                .bind(&subjects.sessions)
                .bind(&subjects.users)
                .bind(&subjects.models)
                .execute_in(&self.store)
                .await
                .map(drop)
            })
            .await
    }
}
