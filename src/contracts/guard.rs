//! Contracts around code that cannot be wrapped.

use std::fmt;

use super::error::{ContractError, Violation};
use super::evidence::{self, When};
use super::{AskedBy, Contracts, Ending, Passed};
use crate::call::Call;

impl Contracts {
    /// Asks the contracts of `call` what must hold before it. The answer has to be told how the call
    /// ended.
    ///
    /// ```no_run
    /// # async fn example(contracts: portcullis::contracts::Contracts, call: portcullis::Call) -> Result<(), Box<dyn std::error::Error>> {
    /// use portcullis::contracts::Ending;
    ///
    /// let guard = contracts.guard(&call).await?;
    /// let sent = "msg_7".to_owned(); // what cannot be wrapped
    /// guard.finish(Ending::completed(&sent)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`ContractError::Unmet`] if a condition does not hold: do not make the call.
    /// * [`ContractError::Call`] if the call is not well formed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is held.
    pub async fn guard(&self, call: &Call) -> Result<Guard, ContractError> {
        let parts = call
            .parts()
            .map_err(|invalid| ContractError::Call(invalid.clone()))?;
        let digest = self.digest(&parts);
        let passed = self.before(&parts, &digest, AskedBy::Contract).await?;
        Ok(Guard {
            contracts: self.clone(),
            passed: Some(passed),
        })
    }
}

/// Proof that a call met the conditions of its contracts, and the only way to have their promises
/// asked. Dropped without [`finish`](Self::finish), every contract that promised something is on record
/// as violated: the outcome is unknown.
#[must_use = "say how the call ended with finish: dropped, its outcome is unknown"]
pub struct Guard {
    contracts: Contracts,
    passed: Option<Passed>,
}

impl Guard {
    /// Asks the contracts what must hold now. Results are looked at before this returns, by reference.
    ///
    /// # Errors
    ///
    /// [`ContractError::Broken`] if a promise was broken of a contract that fails the call then. The
    /// call was made and is not undone.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the outcome is recorded as unknown.
    pub fn finish(
        mut self,
        ending: Ending<'_>,
    ) -> impl Future<Output = Result<(), ContractError>> + Send + use<> {
        let passed = self.passed.clone();
        let contracts = self.contracts.clone();
        let after = passed.map(|passed| contracts.after(&passed, &ending));
        async move {
            let answer = match after {
                Some(after) => after.await,
                None => Ok(()),
            };
            // Only now: cancelled in between, nobody has heard how it ended.
            drop(self.passed.take());
            answer
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(passed) = self.passed.take() else {
            return;
        };
        for contract in &passed.contracts {
            let Some(promise) = contract.ensures.first() else {
                continue;
            };
            let violation = Violation {
                contract: contract.name.clone(),
                required: promise.word(),
                found: "unknown_outcome",
            };
            let event = evidence::violated(&passed.about, &violation, When::After, false);
            self.contracts.shared.around.audit.log_detached(event);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}
