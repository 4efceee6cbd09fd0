//! What is done with a batch: of reservations, and of their endings.

use std::collections::HashSet;
use std::sync::Arc;

use super::combine::Waiting;
use super::engine;
use super::record;
use super::settings::Warning;
use super::settle::Core;
use super::store::{Admission, Answers, Crossed, Demand, Finish, Finished, Terms};
use crate::error::ErrorKind;
use crate::money::Usd;
use crate::store::{StoreError, StoreFault};

use super::amount::{Amount, Calls, Tokens};

/// How often windows are opened, when budgets are registered at the same time.
const OPENINGS: u32 = 4;

pub(super) type Reserving = Waiting<Demand, Admission>;
pub(super) type Ending = Waiting<Finish, Option<Finished>>;

const RESERVE: &str = "reserve from a budget";

impl Core {
    /// Decides every one of `batch`, in their order, by as few statements as it takes: one, unless
    /// a window has to be opened, or a limit is so near that some must be asked for again.
    pub(super) async fn reserve(self: Arc<Self>, batch: Vec<Reserving>) {
        let mut batch = batch;
        let mut openings = 0;
        loop {
            // In every round: nothing is taken for those who have gone meanwhile.
            batch.retain(|waiting| !waiting.is_gone());
            if batch.is_empty() {
                return;
            }
            let demands: Vec<&Demand> = batch.iter().map(|waiting| &waiting.ask).collect();
            let answers = match self.store.try_reserve(&demands, self.terms(false)).await {
                Ok(answers) => answers,
                Err(error) if alone_is_better(&error, batch.len()) => {
                    // One of them cannot be decided; it fails no other.
                    for one in batch {
                        Box::pin(Arc::clone(&self).reserve(vec![one])).await;
                    }
                    return;
                }
                Err(error) => return fail(batch, &error),
            };
            let shut: Vec<&Demand> = demands
                .iter()
                .zip(&answers.calls)
                .filter_map(|(demand, answer)| (!answer.is_open()).then_some(*demand))
                .collect();
            let mut opened = Ok(());
            if !shut.is_empty() {
                openings += 1;
                opened = if openings > OPENINGS {
                    Err(StoreError::new(RESERVE, StoreFault::Aborted))
                } else {
                    self.store.open_windows(&shut).await
                };
            }
            self.warn(&answers.crossed);
            batch = answer(batch, answers.calls);
            if let Err(error) = opened {
                return fail(batch, &error);
            }
        }
    }

    /// Charges what has been spent already, whatever the limits say.
    pub(super) async fn charge_anyway(&self, demand: &Demand) -> Result<(), StoreError> {
        for _ in 0..OPENINGS {
            let Answers { calls, crossed } =
                self.store.try_reserve(&[demand], self.terms(true)).await?;
            self.warn(&crossed);
            if calls.iter().all(Admission::is_open) {
                return Ok(());
            }
            self.store.open_windows(&[demand]).await?;
        }
        Err(StoreError::new(RESERVE, StoreFault::Aborted))
    }

    /// Ends every one of `batch`, by one statement unless one id is in it twice.
    pub(super) async fn end(self: Arc<Self>, batch: Vec<Ending>) {
        let mut left = batch;
        while !left.is_empty() {
            let mut seen = HashSet::new();
            let (now, later): (Vec<Ending>, Vec<Ending>) = left
                .into_iter()
                .partition(|waiting| seen.insert(waiting.ask.id));
            left = later;
            let finishes: Vec<&Finish> = now.iter().map(|waiting| &waiting.ask).collect();
            match self.store.try_finish(&finishes).await {
                Ok(answers) => {
                    for (waiting, answer) in now.into_iter().zip(answers) {
                        waiting.answer(Ok(answer));
                    }
                }
                Err(error) if alone_is_better(&error, now.len()) => {
                    for one in now {
                        Box::pin(Arc::clone(&self).end(vec![one])).await;
                    }
                }
                Err(error) => fail(now, &error),
            }
        }
    }

    fn terms(&self, spent_already: bool) -> Terms {
        Terms {
            lease_micros: i64::try_from(self.settings.lease.as_micros()).unwrap_or(i64::MAX / 2),
            spent_already,
        }
    }

    /// Tells the trail and the host. No call waits for either.
    pub(super) fn warn(&self, crossed: &[Crossed]) {
        for warning in crossed.iter().flat_map(warnings) {
            self.audit.log_detached(record::warned(&warning));
            if let Some(told) = self.settings.on_warning.clone() {
                // A panic of the host's ends that task, and nothing else.
                tokio::task::spawn_blocking(move || told(&warning));
            }
        }
    }
}

/// Answers those of `batch` that are decided; the others are to be asked for again.
fn answer(batch: Vec<Reserving>, answers: Vec<Admission>) -> Vec<Reserving> {
    let mut again = Vec::new();
    for (waiting, answer) in batch.into_iter().zip(answers) {
        if answer.admitted || (answer.is_open() && is_refused(&waiting.ask, &answer)) {
            waiting.answer(Ok(answer));
        } else {
            again.push(waiting);
        }
    }
    again
}

/// Whether there is a reason that is this call's own. Without one, it was only in the way of others
/// that were not admitted either.
fn is_refused(demand: &Demand, answer: &Admission) -> bool {
    engine::refusal(answer, demand.whose.model.is_some(), demand.tokens).is_some()
}

/// Whether the statement, and not the store, is what is wrong, and it is of several.
fn alone_is_better(error: &StoreError, of: usize) -> bool {
    error.kind() != ErrorKind::Unavailable && of > 1
}

fn fail<A, R>(batch: Vec<Waiting<A, R>>, error: &StoreError) {
    for waiting in batch {
        waiting.answer(Err(error.clone()));
    }
}

fn warnings(crossed: &Crossed) -> Vec<Warning> {
    let usd = |usd: Usd| Amount::from(usd);
    let tokens = |tokens: u64| Amount::from(Tokens(tokens));
    let calls = |calls: u64| Amount::from(Calls(calls));
    let nanos = |usd: Usd| usd.as_nanos().max(0).unsigned_abs();
    // Of the units that are limited, the one of which the largest part is used.
    let shares = [
        crossed.usd_limit.map(|limit| {
            let parts = (nanos(crossed.taken_usd), nanos(limit));
            (parts, usd(limit), usd(crossed.taken_usd))
        }),
        crossed.token_limit.map(|limit| {
            let parts = (crossed.taken_tokens, limit);
            (parts, tokens(limit), tokens(crossed.taken_tokens))
        }),
        crossed.call_limit.map(|limit| {
            let parts = (crossed.taken_calls, limit);
            (parts, calls(limit), calls(crossed.taken_calls))
        }),
    ];
    let most = shares
        .into_iter()
        .flatten()
        .max_by(|((a, of_a), ..), ((b, of_b), ..)| {
            (u128::from(*a) * u128::from(*of_b)).cmp(&(u128::from(*b) * u128::from(*of_a)))
        });
    let Some((_, limit, taken)) = most else {
        return Vec::new();
    };
    let warning = |percent: &u8| Warning {
        budget: crossed.budget.clone(),
        window: crossed.window.clone(),
        percent: *percent,
        limit,
        taken,
    };
    crossed.percents.iter().map(warning).collect()
}
