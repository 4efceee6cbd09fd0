//! Raising the limit of one window: by an operator, or by an approval.

use super::Cost;
use super::amount::Amount;
use super::error::{CostError, Raise};
use super::record;
use super::store::{Raised, Shortfall};
use super::window::Window;
use crate::ids::{BudgetName, EventId, OperatorId};
use crate::money::Usd;

/// More for one window of a budget, once. In a rolling window, for as long as the window is, and until
/// the next [sweep](Cost::sweep).
///
/// ```
/// use portcullis::{BudgetName, OperatorId, Usd};
/// use portcullis::cost::TopUp;
///
/// let more = TopUp::new(
///     BudgetName::parse("agent:billing-agent")?,
///     Usd::dollars(20),
///     OperatorId::parse("op_7")?,
/// )
/// .because("quarter-end run");
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug)]
pub struct TopUp {
    id: String,
    budget: BudgetName,
    window: Option<Window>,
    amount: Amount,
    operator: OperatorId,
    reason: Option<String>,
}

impl TopUp {
    /// So much more for `budget`, by the word of `operator`: in the windows that are current and not of
    /// a session, where the unit is limited.
    #[must_use]
    pub fn new(budget: BudgetName, amount: impl Into<Amount>, operator: OperatorId) -> Self {
        Self {
            id: EventId::new().to_string(),
            budget,
            window: None,
            amount: amount.into(),
            operator,
            reason: None,
        }
    }

    /// Only for this window. It must have been opened by a call.
    #[must_use]
    pub fn in_window(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    /// Why; it is put on record.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// A name of your own for it. The same one twice tops up once.
    #[must_use]
    pub fn with_id(mut self, id: &BudgetName) -> Self {
        id.as_str().clone_into(&mut self.id);
        self
    }
}

impl Cost {
    /// Raises the limits of windows, durably, once for each [id](TopUp::with_id), audited. Says whether
    /// it was this call that did.
    ///
    /// # Errors
    ///
    /// * [`CostError::NotRaised`] if the amount is nothing, no such window is open, or the limit would
    ///   be more than can be written.
    /// * [`CostError::Store`] if it could not be saved, or nobody knows. Try again with the same one.
    ///
    /// # Cancel safety
    ///
    /// It is raised or not, as a whole; dropped, its entry may be missing from the audit trail.
    pub async fn top_up(&self, more: &TopUp) -> Result<bool, CostError> {
        if is_nothing(&more.amount) {
            return Err(CostError::NotRaised {
                problem: "the amount is nothing, less, or too large",
            });
        }
        let short = |window| Shortfall {
            budget: more.budget.clone(),
            window,
            amount: more.amount,
            at_most: more.amount,
        };
        let short: Vec<Shortfall> = if let Some(window) = &more.window {
            vec![short(window.clone())]
        } else {
            let store = &self.on()?.store;
            let windows = store.list_current(&more.budget, more.amount).await?;
            windows.into_iter().map(short).collect()
        };
        let done = self.raise(&more.id, &short).await?;
        if done {
            for short in &short {
                let mut event = record::topped_up(short, &more.id, "operator")
                    .with("operator", more.operator.as_str());
                if let Some(reason) = &more.reason {
                    event = event.with("reason", reason.as_str());
                }
                self.log(event).await;
            }
        }
        Ok(done)
    }

    /// Raises limits by exactly what a call was short of, once for each `approval`; says whether it was
    /// this call that did. The call is then to be reserved again, and may be refused again: others can
    /// have been faster.
    ///
    /// # Errors
    ///
    /// As [`top_up`](Self::top_up).
    ///
    /// # Cancel safety
    ///
    /// As [`top_up`](Self::top_up).
    pub(crate) async fn raise_once(
        &self,
        raise: &Raise,
        approval: &str,
    ) -> Result<bool, CostError> {
        let done = self.raise(approval, raise.short()).await?;
        if done {
            for short in raise.short() {
                self.log(record::topped_up(short, approval, "approved"))
                    .await;
            }
        }
        Ok(done)
    }

    async fn raise(&self, id: &str, short: &[Shortfall]) -> Result<bool, CostError> {
        if short.is_empty() {
            return Err(CostError::NotRaised {
                problem: "no window of this budget that is open limits this unit",
            });
        }
        match self.on()?.store.try_raise(id, short).await? {
            Raised::Now => Ok(true),
            Raised::Before => Ok(false),
            Raised::NoWindow => Err(CostError::NotRaised {
                problem: "there is no such window, or its limit would be more than can be written",
            }),
        }
    }
}

fn is_nothing(amount: &Amount) -> bool {
    match amount {
        Amount::Usd(usd) => *usd <= Usd::ZERO,
        Amount::Tokens(tokens) => tokens.0 == 0 || i64::try_from(tokens.0).is_err(),
        Amount::Calls(calls) => calls.0 == 0 || i64::try_from(calls.0).is_err(),
    }
}
