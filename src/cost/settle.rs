//! How reservations end: at once, or in the background when nothing can be awaited, the caller was
//! cancelled, or the store was away.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Cost;
use super::combine::Queue;
use super::error::CostError;
use super::lease::Leases;
use super::record;
use super::reservation::{Held, Settled, Spent};
use super::settings::CostSettings;
use super::state::State;
use super::status::Pulse;
use super::store::{Admission, CostStore, Demand, Finish, Finished, Whose};
use crate::audit::{Audit, AuditEvent, Receipt};
use crate::error::ErrorKind;
use crate::halt::Halt;
use crate::ids::ModelName;
use crate::money::Usd;
use crate::task;
use crate::time::Timestamp;
use crate::usage::Usage;

/// How many endings the background tries at a time: statements take them together.
const BACKGROUND: usize = 64;
/// How often an ending is tried while the store is away; with the pauses, some ten minutes.
const TRIES: u32 = 130;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

const OPEN: &[State] = &[State::Held, State::Unknown];

/// How a reservation ends.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// It cost this.
    Settle(Spent),
    /// It cost this, somebody says who knows; it must be of unknown outcome.
    Charge(Spent),
    /// It cost nothing.
    Release,
    /// It cost nothing, somebody says who knows; it must be of unknown outcome.
    Absolve,
    /// It was made and came to nothing: it cost nothing.
    Refund,
    /// Nobody knows; so much was seen.
    Unknown(Option<Spent>),
    /// Nobody knows whether it was made; if it was, nothing came of it.
    Forget,
}

impl Ending {
    /// The number that is bound must be one that can be written.
    pub(super) fn validate(&self) -> Result<(), CostError> {
        let wrong = |problem| Err(CostError::InvalidSpent { problem });
        let (Self::Settle(spent) | Self::Charge(spent)) = self else {
            return Ok(());
        };
        if spent.usd.is_some_and(Usd::is_negative) {
            return wrong("is less than nothing; report what the provider billed");
        }
        let tokens = spent.usage.map(|usage| usage.consistent());
        if tokens.is_some_and(|usage| i64::try_from(usage.total_tokens()).is_err()) {
            return wrong("is too large; report at most 9223372036854775807 tokens");
        }
        Ok(())
    }

    const fn to(&self) -> State {
        match self {
            Self::Settle(_) | Self::Charge(_) => State::Settled,
            Self::Release | Self::Absolve | Self::Forget => State::Released,
            Self::Refund => State::Refunded,
            Self::Unknown(_) => State::Unknown,
        }
    }

    /// Whether a person says so, who wants it on record before the answer.
    const fn is_resolution(&self) -> bool {
        matches!(self, Self::Charge(_) | Self::Absolve)
    }

    const fn from(&self) -> &'static [State] {
        match self {
            Self::Charge(_) | Self::Absolve => &[State::Unknown],
            // Also after the lease: what was seen can be more than the ceiling.
            Self::Settle(_) | Self::Release | Self::Refund | Self::Unknown(Some(_)) => OPEN,
            Self::Unknown(None) | Self::Forget => &[State::Held],
        }
    }

    /// What was spent, if anything is known of it.
    pub(super) fn spent(&self) -> Option<Spent> {
        match self {
            Self::Settle(spent) | Self::Charge(spent) => Some(spent.clone()),
            Self::Unknown(seen) => seen.clone(),
            Self::Release | Self::Absolve | Self::Refund | Self::Forget => None,
        }
    }
}

/// One reservation to be ended.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) held: Held,
    pub(super) ending: Ending,
    pub(super) by: Uuid,
    second_look: bool,
}

impl Job {
    /// The same operation, from what was kept of it.
    pub(super) const fn again(held: Held, ending: Ending, by: Uuid) -> Self {
        Self {
            held,
            ending,
            by,
            second_look: false,
        }
    }

    pub(super) fn of(held: Held, ending: Ending) -> Self {
        Self {
            held,
            ending,
            by: Uuid::now_v7(),
            second_look: false,
        }
    }
}

/// What every clone of the handle and the background share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) store: CostStore,
    pub(super) audit: Audit,
    pub(super) halt: Halt,
    pub(super) settings: CostSettings,
    /// Where reservations wait to be decided together.
    pub(super) reserving: Queue<Demand, Admission>,
    /// Where their ends do.
    pub(super) ending: Queue<Finish, Option<Finished>>,
    /// What this process has of leased budgets.
    pub(super) leases: Leases,
    /// Set by `shutdown`: what does not succeed now is given up.
    pub(super) closing: watch::Sender<bool>,
    /// Whether the audit journal has been given something to keep.
    pub(super) kept: AtomicBool,
    /// How its background tasks are.
    pub(super) pulse: Pulse,
}

impl Core {
    /// Ends a reservation. Safe to call again with the same job.
    pub(super) async fn perform(&self, job: &Job) -> Result<Settled, CostError> {
        let held = &job.held;
        let (usd, usage, model) = match job.ending.spent() {
            Some(spent) => self.price(held, spent),
            None => (None, None, None),
        };
        let costs_nothing = matches!(
            job.ending,
            Ending::Release | Ending::Forget | Ending::Refund
        );
        if !held.on_record && !costs_nothing {
            // Let through while the store was away: now it is charged, whatever the limits say. What
            // nobody knows, at the larger of what was asked for and what was seen.
            let unknown = matches!(job.ending, Ending::Unknown(_));
            let known = usage.filter(|_| !unknown);
            let seen = usage.map_or(0, |usage| usage.total_tokens());
            let at_least = held.tokens.max(seen);
            let demand = Demand {
                tokens: known.map_or(at_least, |usage| usage.total_tokens()),
                usd: if unknown {
                    usd.max(held.usd)
                } else {
                    usd.or(held.usd)
                },
                whose: Whose {
                    model: model.clone().or_else(|| held.model.clone()),
                    ..whose(held)
                },
                input: known.map_or(0, |usage| usage.input_tokens),
                output: known.map_or(0, |usage| usage.output_tokens),
                either: known.map_or(at_least, |_| 0),
                ..demand(held)
            };
            self.charge_anyway(&demand).await?;
        }
        let finish = Finish {
            id: held.id,
            by: job.by,
            to: job.ending.to(),
            from: job.ending.from(),
            usd,
            usage,
            model,
        };
        // What is ended must be ended, also when nobody waits any more: the queue drops what nobody
        // waits for, and then the caller's own job is still there.
        let limit = self.store.deadline();
        let Some(finished) = self.ending.ask(finish.clone(), limit).await? else {
            // The statement that had no answer in time may have reserved it all the same; it did not.
            if !held.on_record && costs_nothing {
                return Ok(nothing(held));
            }
            return Err(CostError::NoReservation { id: held.id });
        };
        if !finished.done {
            return Err(CostError::NotHeld {
                state: finished.before,
            });
        }
        let settled = settled(held, &finish, &finished);
        for event in record::ended(held, &job.ending, &settled, &finished) {
            if job.ending.is_resolution() {
                self.log(event).await;
            } else {
                self.audit.log_detached(event);
            }
        }
        Ok(settled)
    }

    /// Puts `event` on durable record before going on.
    pub(super) async fn log(&self, event: AuditEvent) {
        if let Receipt::Lost { id, error } = self.audit.log(event).await {
            tracing::error!(%id, %error, "an event of the cost gate is not on record");
        }
    }

    /// The price of `spent`, by the model that answered, else by the one that was reserved for.
    fn price(&self, held: &Held, spent: Spent) -> (Option<Usd>, Option<Usage>, Option<ModelName>) {
        let reserved = (held.model.as_ref(), held.provider.as_deref(), held.at);
        let (usd, usage) = self.price_of(&spent, reserved);
        (usd, usage, spent.model)
    }

    /// The price of `spent` for a call that was reserved for this model and provider, then.
    pub(super) fn price_of(
        &self,
        spent: &Spent,
        (model, provider, at): (Option<&ModelName>, Option<&str>, Timestamp),
    ) -> (Option<Usd>, Option<Usage>) {
        let usage = spent.usage.map(|usage| usage.consistent());
        let provider = spent.provider.as_deref().or(provider);
        let usd = spent.usd.or_else(|| {
            let names = [spent.model.as_ref(), model];
            let prices = &self.settings.prices;
            prices.of_usage_of_any(names, provider, at, usage.as_ref()?)
        });
        (usd, usage)
    }

    /// Waits for `pause` at least, and no longer once it is closing. Those that failed together, because
    /// one among them could not be done, come back apart.
    async fn pause(&self, pause: Duration, by: Uuid) {
        let (_, random) = by.as_u64_pair();
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX).max(1);
        let apart = Duration::from_micros(random % micros);
        let mut closing = self.closing.subscribe();
        tokio::select! {
            () = tokio::time::sleep(pause + apart) => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }

    /// Tries until the store answers, or is not expected to any more.
    async fn persist(&self, job: &Job) -> Result<Settled, CostError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let answer = self.perform(job).await;
            let away = matches!(&answer, Err(error) if error.kind() == ErrorKind::Unavailable);
            self.tried_to_end(answer.as_ref().err().filter(|_| away));
            let error = match answer {
                Ok(settled) => return Ok(settled),
                Err(error) => error,
            };
            if !away || tries == TRIES || *self.closing.borrow() {
                return Err(error);
            }
            self.pause(pause, job.by).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            tries += 1;
        }
    }
}

/// A job that is handed to the background unless it is completed: dropping it loses nothing.
#[derive(Debug)]
pub(super) struct Pending {
    cost: Cost,
    job: Option<Job>,
}

impl Pending {
    pub(super) fn new(cost: &Cost, job: Job) -> Self {
        Self {
            cost: cost.for_call(),
            job: Some(job),
        }
    }

    /// Ends the reservation now; later, if the store is away: from the journal, where there is one,
    /// and else as long as this process lives.
    pub(super) async fn complete(mut self) -> Result<Settled, CostError> {
        let Some(job) = &self.job else {
            return Err(CostError::InvalidSpent {
                problem: "was recorded before",
            });
        };
        let answer = self.cost.core().perform(job).await;
        let later = matches!(&answer, Err(error) if error.kind() == ErrorKind::Unavailable);
        if !later || self.cost.core().keep(job).await {
            self.disarm();
        }
        answer
    }

    pub(super) fn disarm(&mut self) {
        self.job = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.cost.hand_over(job);
        }
    }
}

/// What the background is told.
#[derive(Debug)]
pub(super) enum Message {
    End(Box<Job>),
    /// Answer when everything before is done or given up.
    Flush(oneshot::Sender<()>),
}

/// Ends what is handed over, many at a time, until the last handle is gone and the queue is empty.
//
// At the same time, so that one that cannot be done (somebody has locked its row) holds up no other.
pub(super) async fn work(
    core: Arc<Core>,
    mut queue: mpsc::UnboundedReceiver<Message>,
    again: mpsc::WeakUnboundedSender<Message>,
) {
    let mut at_work = JoinSet::new();
    while let Some(message) = queue.recv().await {
        match message {
            Message::End(job) => {
                while at_work.try_join_next().is_some() {}
                if at_work.len() >= BACKGROUND {
                    at_work.join_next().await;
                }
                at_work.spawn(task::boxed(end_one(Arc::clone(&core), job, again.clone())));
            }
            Message::Flush(done) => {
                while at_work.join_next().await.is_some() {}
                let _ = done.send(());
            }
        }
    }
    while at_work.join_next().await.is_some() {}
}

async fn end_one(core: Arc<Core>, job: Box<Job>, again: mpsc::WeakUnboundedSender<Message>) {
    match core.persist(&job).await {
        Ok(_) => {}
        // The statement that may have made it can still be running: look once more when it
        // cannot be any longer.
        Err(CostError::NoReservation { .. }) if matches!(job.ending, Ending::Forget) => {
            if !job.second_look {
                core.pulse.begin_ending();
                look_again(Arc::clone(&core), *job, again);
            }
        }
        // Somebody else was faster: the sweeper, or a late settlement.
        Err(CostError::NotHeld { state }) => {
            tracing::debug!(id = %job.held.id, %state, "a reservation had ended before");
        }
        Err(error) => {
            tracing::error!(id = %job.held.id, %error, "a reservation could not be ended; it stays charged until its lease runs out and it is resolved");
        }
    }
    core.pulse.end_ending();
}

fn look_again(core: Arc<Core>, mut job: Job, queue: mpsc::WeakUnboundedSender<Message>) {
    job.second_look = true;
    let after = core.store.deadline();
    task::spawn(async move {
        tokio::time::sleep(after).await;
        let queued = queue.upgrade();
        let queued = queued.map(|queue| queue.send(Message::End(Box::new(job))));
        if !matches!(queued, Some(Ok(()))) {
            core.pulse.end_ending();
        }
    });
}

/// What is asked for, at the ceiling's own price.
pub(super) fn demand(held: &Held) -> Demand {
    Demand {
        id: held.id,
        whose: whose(held),
        provider: held.provider.clone(),
        tokens: held.tokens,
        usd: held.usd,
        input: 0,
        output: 0,
        either: 0,
    }
}

fn whose(held: &Held) -> Whose {
    Whose {
        agent: held.who.agent_id().clone(),
        session: held.who.session_id().clone(),
        user: held.who.user_id().cloned(),
        model: held.model.clone(),
        from_slices: String::new(),
    }
}

fn nothing(held: &Held) -> Settled {
    Settled {
        id: held.id,
        usd: Usd::ZERO,
        tokens: 0,
        overrun: Usd::ZERO,
        overrun_tokens: 0,
        estimated: false,
    }
}

fn settled(held: &Held, finish: &Finish, finished: &Finished) -> Settled {
    let charged = &finished.charged;
    let largest = |of: fn(&super::store::Charged) -> i64| charged.iter().map(of).max();
    let natural = |amount: Option<i64>| u64::try_from(amount.unwrap_or(0)).unwrap_or(0);
    let known = finish
        .usage
        .map_or(held.tokens, |usage| usage.total_tokens());
    Settled {
        id: held.id,
        usd: largest(|charged| charged.usd.as_nanos())
            .map(Usd::nanos)
            .or(finish.usd)
            .unwrap_or(Usd::ZERO),
        tokens: largest(|charged| charged.tokens).map_or(known, |tokens| natural(Some(tokens))),
        overrun: largest(|c| c.usd.as_nanos().saturating_sub(c.was_usd.as_nanos()))
            .map_or(Usd::ZERO, |over| Usd::nanos(over.max(0))),
        overrun_tokens: natural(largest(|c| c.tokens.saturating_sub(c.was_tokens).max(0))),
        estimated: charged.iter().any(|charged| charged.estimated),
    }
}
