//! The way that cannot be got wrong: one call, all gates, proof in hand.

use super::{Outcome, Permit};
use crate::call::Call;
use crate::contracts::Ending;
use crate::error::Refusal;
use crate::governance::Governance;

impl Governance {
    /// Authorizes `call`, runs `work` with the permit, and settles from how it ended.
    ///
    /// What the work learns of its cost it tells the permit ([`Permit::observe`],
    /// [`Permit::observe_cost`]); a model call that says nothing stays charged at its ceiling. Of work that
    /// fails, what it told is the least that was taken: it stays charged at the larger of that and its
    /// ceiling. What came out it can tell too ([`Permit::observe_output`]): only a keyed hash is kept.
    ///
    /// The work is stopped where it waits as soon as the agent, its session, or an agent that started
    /// it is halted. After it, whether it did well or not, the call's contracts are asked.
    ///
    /// # Errors
    ///
    /// * [`RunError::Refused`] if a gate said no: `work` was not called.
    /// * [`RunError::Halted`] if the work was stopped. Nobody knows whether it took effect: the
    ///   outcome is recorded as unknown, and the reserve stays charged.
    /// * [`RunError::Failed`] with the error of `work`.
    /// * [`RunError::Broken`] if the work was done and broke a contract that fails the call then.
    ///
    /// # Cancel safety
    ///
    /// Dropped before `work` began, the call is released. Dropped while it runs, nobody knows
    /// whether it took effect: the outcome is recorded as unknown, and the reserve stays charged.
    pub async fn run<T, E, F>(&self, call: &Call, work: F) -> Result<T, RunError<E>>
    where
        T: 'static,
        F: AsyncFnOnce(&Permit) -> Result<T, E>,
    {
        let permit = self.authorize(call).await.map_err(RunError::Refused)?;
        let stopped = tokio::select! {
            biased;
            halted = self.halt().until_halted(call.principal()) => Err(halted),
            result = work(&permit) => Ok(result),
        };
        let result = match stopped {
            Ok(result) => result,
            Err(halted) => {
                permit.settle_halted().await;
                return Err(RunError::Halted(Refusal::from(&halted)));
            }
        };
        let outcome = match &result {
            Ok(_) => Outcome::completed(),
            Err(_) => Outcome::failed("error"),
        };
        let (settlement, passed) = permit.settle_observed(outcome).await;
        if settlement.receipt.lost().is_some() {
            tracing::error!(call = %settlement.receipt.id(), "the outcome of a call could not be recorded");
        }
        // The result is looked at now, by reference; what is asked of others is waited for.
        let kept = passed.map(|passed| {
            let ending = match &result {
                Ok(done) => Ending::completed(done),
                Err(_) => Ending::failed(),
            };
            let ending = ending.recorded(&settlement.receipt);
            self.contracts().after(&passed, &ending)
        });
        let kept = match kept {
            Some(kept) => kept.await,
            None => Ok(()),
        };
        match (result, kept) {
            (Err(error), _) => Err(RunError::Failed(error)),
            (Ok(_), Err(broken)) => Err(RunError::Broken(Refusal::from(&broken))),
            (Ok(done), Ok(())) => Ok(done),
        }
    }
}

/// Why [`Governance::run`] returned no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "there is no other way to end")]
pub enum RunError<E> {
    /// A gate said no; the work was not begun.
    #[error(transparent)]
    Refused(Refusal),
    /// The work was begun, and stopped because somebody halted it. Whether it took effect is unknown.
    #[error("stopped: {0}")]
    Halted(Refusal),
    /// The work was done and failed.
    #[error("the call failed")]
    Failed(#[source] E),
    /// The work was done, and broke a contract that fails the call then. It is not undone.
    #[error("done, and not as agreed: {0}")]
    Broken(Refusal),
}

impl<E> RunError<E> {
    /// The refusal, if a gate, the halt switch or a contract said no.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Halted(refusal) | Self::Broken(refusal) => Some(refusal),
            Self::Failed(_) => None,
        }
    }
}
