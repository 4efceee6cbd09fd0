//! One reservation: asked for, and had, from slices in memory or by a statement; refused, or in doubt.

use std::sync::Arc;

use super::error::CostError;
use super::lease::{self, Asked, Leases, Part, Slow};
use super::price::NoPrice;
use super::reservation::{Held, Reservation};
use super::settle::{self, Ending, Job, Pending};
use super::store::{Admission, Demand};
use super::{Cost, engine, record};
use crate::call::Principal;
use crate::error::ErrorKind;
use crate::ids::{CallId, ReservationId};
use crate::money::Usd;
use crate::store::StoreError;
use crate::task;
use crate::time::Timestamp;
use crate::usage::{Ceiling, CeilingAmount};

impl Cost {
    pub(super) async fn take(
        &self,
        who: &Principal,
        ceiling: Ceiling,
        call: Option<CallId>,
    ) -> Result<Reservation, CostError> {
        let (part, at) = self.take_in_memory(who, &ceiling, |leases, asked, at, now| {
            leases.take(who, asked, at, now)
        })?;
        match part {
            Some(part) => Ok(Reservation::of_slices(self.for_call(), part, ceiling, call)),
            // Apart, so that the futures of calls that wait for nothing are small: they are moved often.
            None => Box::pin(self.take_by_statement(who, ceiling, call, at)).await,
        }
    }

    /// What `find` can take for the call from slices, once it is known that it may be made; and the time
    /// by which it is priced.
    pub(super) fn take_in_memory(
        &self,
        who: &Principal,
        ceiling: &Ceiling,
        find: impl FnOnce(&Leases, &Asked<'_>, Timestamp, &dyn Fn() -> Timestamp) -> Option<Part>,
    ) -> Result<(Option<Part>, Timestamp), CostError> {
        let core = self.on()?;
        core.halt.check(who)?;
        let split = engine::split(ceiling)?;
        // A price in dollars is the same at any time: the clock is read once, after it is taken.
        let fixed = matches!(ceiling.amount, CeilingAmount::Usd(_));
        if !core.leases.is_on() {
            return Ok((None, core.store.now()));
        }
        let mut at = if fixed {
            Timestamp::from_micros(0)
        } else {
            core.store.now()
        };
        let asked = Asked {
            usd: self.price(ceiling, at)?,
            tokens: ceiling.total_tokens(),
            split,
            model: ceiling.model.as_ref(),
        };
        let mut part = find(&core.leases, &asked, at, &|| core.store.now());
        match &mut part {
            Some(part) if fixed => part.at = part.seen_at,
            None if fixed => at = core.store.now(),
            _ => {}
        }
        Ok((part, at))
    }

    pub(super) async fn take_by_statement(
        &self,
        who: &Principal,
        ceiling: Ceiling,
        call: Option<CallId>,
        at: Timestamp,
    ) -> Result<Reservation, CostError> {
        let core = self.core();
        let asked = Asked {
            usd: self.price(&ceiling, at)?,
            tokens: ceiling.total_tokens(),
            split: engine::split(&ceiling)?,
            model: ceiling.model.as_ref(),
        };
        let mut held = Held {
            id: ReservationId::new(),
            who: who.clone(),
            model: ceiling.model.clone(),
            provider: ceiling.provider.clone(),
            at,
            usd: asked.usd,
            tokens: asked.tokens,
            call,
            on_record: true,
        };
        let demand = Demand {
            input: asked.split.input,
            output: asked.split.output,
            either: asked.split.either,
            ..settle::demand(&held)
        };
        // Whether a statement without an answer took effect is not known: if so, it is undone.
        let mut doubt = Pending::new(self, Job::of(held.clone(), Ending::Forget));
        let mut answer = self.admit(&demand, who, &asked, at).await;
        if let Ok((_, Some(refused))) = &answer
            && let Some(
                CostError::Exceeded { budget, .. } | CostError::NeedsApproval { budget, .. },
            ) = engine::refusal(refused, asked.model.is_some(), held.tokens)
            && !refused.admitted
            && core.ask_back(&budget).await
        {
            // By the statement alone: a slice that is taken now would be missing from what is left.
            let limit = core.store.deadline();
            let again = core.reserving.ask(demand, limit).await;
            answer = again.map(|answer| (None, Some(answer)));
        }
        match answer {
            Ok((Some(part), None)) => {
                doubt.disarm();
                Ok(Reservation::of_slices(self.for_call(), part, ceiling, call))
            }
            Ok((part, Some(answer))) if answer.admitted => {
                doubt.disarm();
                Ok(Reservation::new(self.for_call(), held, part, ceiling))
            }
            Ok((_, answer)) => {
                doubt.disarm();
                let error = answer
                    .and_then(|answer| {
                        engine::refusal(&answer, ceiling.model.is_some(), held.tokens)
                    })
                    .unwrap_or(CostError::NoBudget);
                self.log(record::refused(&held, &ceiling, &error)).await;
                Err(error)
            }
            Err(error) => {
                let away = error.kind() == ErrorKind::Unavailable;
                let error = CostError::from(error);
                let fail_open = core.settings.fail_open && away;
                let event = record::check_failed(&held, &error, fail_open);
                core.audit.log_detached(event);
                if fail_open {
                    doubt.disarm();
                    held.on_record = false;
                    return Ok(Reservation::new(self.for_call(), held, None, ceiling));
                }
                if !away {
                    doubt.disarm();
                }
                Err(error)
            }
        }
    }

    /// Takes what it can from slices, and the rest by a statement; nothing, where that is refused.
    async fn admit(
        &self,
        demand: &Demand,
        who: &Principal,
        asked: &Asked<'_>,
        at: Timestamp,
    ) -> Result<(Option<Part>, Option<Admission>), StoreError> {
        let core = self.core();
        let mut part = None;
        if core.leases.is_on() {
            self.keep_slices();
            let call = Slow {
                who,
                asked,
                demand,
                at,
            };
            part = core.take_slices(call).await?;
        }
        if part.as_ref().is_some_and(Part::is_whole) {
            return Ok((part, None));
        }
        let mut demand = demand.clone();
        if let Some(part) = &part {
            demand.whose.from_slices = part.limits();
        }
        let answer = core.reserving.ask(demand, core.store.deadline()).await?;
        Ok((part.filter(|_| answer.admitted), Some(answer)))
    }

    /// Starts the task that keeps slices, once there are any.
    fn keep_slices(&self) {
        if self.core().leases.must_be_kept() {
            let core = Arc::clone(&self.handle.core);
            task::spawn(lease::keep(core, self.handle.inner.stop.subscribe()));
        }
    }

    /// The ceiling's price; `None` if there is none, so that a budget's fallback price decides.
    pub(super) fn price(&self, ceiling: &Ceiling, at: Timestamp) -> Result<Option<Usd>, CostError> {
        let model = match (ceiling.amount, &ceiling.model) {
            (CeilingAmount::Usd(amount), _) => return Ok(Some(amount)),
            (_, None) => return Ok(None),
            (_, Some(model)) => model,
        };
        match self.core().settings.prices.of_ceiling(model, ceiling, at) {
            Ok(price) => Ok(Some(price)),
            Err(NoPrice::TooLarge) => Err(CostError::InvalidCeiling {
                problem: "costs more than can be written; declare fewer tokens",
            }),
            Err(_) => Ok(None),
        }
    }
}
