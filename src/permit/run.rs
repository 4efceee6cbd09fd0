//! The way that cannot be got wrong: one call, all gates, proof in hand.

use super::{Outcome, Permit};
use crate::call::Call;
use crate::error::Refusal;
use crate::governance::Governance;

impl Governance {
    /// Authorizes `call`, runs `work` with the permit, and settles from how it ended.
    ///
    /// What the work learns of its cost it tells the permit ([`Permit::observe`],
    /// [`Permit::observe_cost`]); a model call that says nothing stays charged at its ceiling.
    ///
    /// # Errors
    ///
    /// [`RunError::Refused`] if a gate said no: `work` was not called. [`RunError::Failed`] with the
    /// error of `work`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before `work` began, the call is released. Dropped while it runs, nobody knows
    /// whether it took effect: the outcome is recorded as unknown, and the reserve stays charged.
    pub async fn run<T, E, F>(&self, call: &Call, work: F) -> Result<T, RunError<E>>
    where
        F: AsyncFnOnce(&Permit) -> Result<T, E>,
    {
        let permit = self.authorize(call).await.map_err(RunError::Refused)?;
        let result = work(&permit).await;
        let outcome = match &result {
            Ok(_) => Outcome::completed(),
            Err(_) => Outcome::failed("error"),
        };
        let settlement = permit.settle_observed(outcome).await;
        if settlement.receipt.lost().is_some() {
            tracing::error!(call = %settlement.receipt.id(), "the outcome of a call could not be recorded");
        }
        result.map_err(RunError::Failed)
    }
}

/// Why [`Governance::run`] returned no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum RunError<E> {
    /// A gate said no; the work was not begun.
    #[error(transparent)]
    Refused(Refusal),
    /// The work was done and failed.
    #[error("the call failed")]
    Failed(#[source] E),
}

impl<E> RunError<E> {
    /// The refusal, if a gate said no.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Failed(_) => None,
        }
    }
}
