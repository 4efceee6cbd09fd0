//! One reservation: asked for, and had, refused, or in doubt.

use super::error::CostError;
use super::price::NoPrice;
use super::reservation::{Held, Reservation};
use super::settle::{self, Ending, Job, Pending};
use super::store::Demand;
use super::{Cost, engine, record};
use crate::call::Principal;
use crate::error::ErrorKind;
use crate::ids::{CallId, ReservationId};
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::{Ceiling, CeilingAmount};

impl Cost {
    pub(super) async fn take(
        &self,
        who: &Principal,
        ceiling: Ceiling,
        call: Option<CallId>,
    ) -> Result<Reservation, CostError> {
        let core = self.on()?;
        core.halt.check(who)?;
        let split = engine::split(&ceiling)?;
        let at = core.store.now();
        let mut held = Held {
            id: ReservationId::new(),
            who: who.clone(),
            model: ceiling.model.clone(),
            provider: ceiling.provider.clone(),
            at,
            usd: self.price(&ceiling, at)?,
            tokens: ceiling.total_tokens(),
            call,
            on_record: true,
        };
        let demand = Demand {
            input: split.input,
            output: split.output,
            either: split.either,
            ..settle::demand(&held)
        };
        let names_model = ceiling.model.is_some();
        // Whether a statement without an answer took effect is not known: if so, it is undone.
        let mut doubt = Pending::new(self, Job::of(held.clone(), Ending::Forget));
        // Budgets that are leased are to be asked here first, from memory.
        let limit = core.store.deadline();
        match core.reserving.ask(demand, limit).await {
            Ok(answer) if answer.admitted => {
                doubt.disarm();
                Ok(Reservation::new(self.clone(), held, ceiling))
            }
            Ok(answer) => {
                doubt.disarm();
                let error = engine::refusal(&answer, names_model, held.tokens)
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
                    return Ok(Reservation::new(self.clone(), held, ceiling));
                }
                if !away {
                    doubt.disarm();
                }
                Err(error)
            }
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
