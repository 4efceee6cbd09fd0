//! Which model still fits: advice, and nothing else.

use super::Cost;
use super::error::CostError;
use super::record;
use super::store::CurrentWindow;
use crate::call::Principal;
use crate::ids::ModelName;
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::Ceiling;

/// A model that fits what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advice {
    /// The model.
    pub model: ModelName,
    /// What the ceiling costs with it; `None` where only a budget's fallback price is known.
    pub usd: Option<Usd>,
    /// How many models were preferred to it, and do not fit.
    pub passed_over: usize,
}

impl Cost {
    /// The first of `models`, in the order of your preference, whose call of `ceiling` fits what is left
    /// in every budget at this moment; `None` if none does. Audited when there is one.
    ///
    /// It reserves nothing and decides nothing: [`reserve`](Self::reserve) does. Off, unless
    /// [`routing_advice`](super::CostSettings::routing_advice) is on.
    ///
    /// # Errors
    ///
    /// * [`CostError::AdviceOff`] if it is switched off.
    /// * [`CostError::InvalidCeiling`] if the ceiling is nothing, less, or too large.
    /// * [`CostError::Store`] if the budgets could not be read.
    pub async fn advise(
        &self,
        who: &Principal,
        ceiling: &Ceiling,
        models: &[ModelName],
    ) -> Result<Option<Advice>, CostError> {
        let core = self.on()?;
        if !core.settings.routing_advice {
            return Err(CostError::AdviceOff);
        }
        super::engine::split(ceiling)?;
        let windows = core.store.list_windows(who).await?;
        let at = core.store.now();
        let fitting = models.iter().enumerate().find_map(|(passed_over, model)| {
            let usd = self.fits(&windows, ceiling, model, at)?;
            Some(Advice {
                model: model.clone(),
                usd,
                passed_over,
            })
        });
        if let Some(advice) = &fitting {
            core.audit.log_detached(record::advised(who, advice));
        }
        Ok(fitting)
    }

    /// The price with `model`, if it fits all of its windows; `Some(None)` if it fits and only a
    /// fallback price is known.
    #[expect(clippy::option_option, reason = "the two questions are asked together")]
    fn fits(
        &self,
        windows: &[CurrentWindow],
        ceiling: &Ceiling,
        model: &ModelName,
        at: Timestamp,
    ) -> Option<Option<Usd>> {
        let ceiling = ceiling.clone().of_model(model);
        let usd = self.price(&ceiling, at).ok()?;
        let tokens = ceiling.total_tokens();
        let mut mine = windows
            .iter()
            .filter(|window| window.model.as_ref().is_none_or(|of| of == model))
            .peekable();
        mine.peek()?;
        let mut allowed = false;
        for window in mine {
            allowed |= window.allows;
            let asked = match (usd, window.fallback) {
                (Some(usd), _) => usd,
                (None, Some(price)) => price.of_ceiling(&ceiling)?,
                (None, None) if window.allows => return None,
                (None, None) => Usd::ZERO,
            };
            let left = window.left();
            let room = asked <= left.usd && tokens <= left.tokens && 1 <= left.calls;
            if !room {
                return None;
            }
        }
        allowed.then_some(usd)
    }
}
