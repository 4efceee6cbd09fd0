//! Contracts, without a runtime.

use std::sync::Arc;
use std::time::Duration;

use super::runtime::Background;
use crate::contracts::{About, Contract, ContractError, ContractsStatus, Ending};
use crate::{Call, contracts};

/// [`portcullis::contracts::Contracts`](contracts::Contracts), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Contracts {
    contracts: contracts::Contracts,
    background: Arc<Background>,
}

impl Contracts {
    pub(super) fn new(contracts: contracts::Contracts, background: &Arc<Background>) -> Self {
        Self {
            contracts,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the contracts themselves, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&contracts::Contracts) -> T) -> T {
        self.background.wait(async { work(&self.contracts).await })
    }

    /// Puts a contract in force in this process:
    /// [`Contracts::register`](contracts::Contracts::register).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, contract: Contract) -> Result<(), ContractError> {
        self.background.wait(self.contracts.register(contract))
    }

    /// Stores a contract for all processes: [`Contracts::store`](contracts::Contracts::store).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn store(&self, contract: Contract) -> Result<(), ContractError> {
        self.background.wait(self.contracts.store(contract))
    }

    /// Removes the stored contract `name`: [`Contracts::remove`](contracts::Contracts::remove).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&self, name: &str) -> Result<bool, ContractError> {
        self.background.wait(self.contracts.remove(name))
    }

    /// Defines a check that contracts name: [`Contracts::define`](contracts::Contracts::define).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn define<F, Fut, E>(
        &self,
        name: impl Into<String>,
        deadline: Duration,
        ask: F,
    ) -> Result<(), ContractError>
    where
        F: Fn(Arc<About>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        self.contracts.define(name, deadline, ask)
    }

    /// What is in force, and what is known: [`Contracts::status`](contracts::Contracts::status).
    #[must_use]
    pub fn status(&self) -> ContractsStatus {
        self.contracts.status()
    }

    /// The names of the contracts in force: [`Contracts::names`](contracts::Contracts::names).
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.contracts.names()
    }

    /// Asks what must hold before `call`, for code that cannot be wrapped:
    /// [`Contracts::guard`](contracts::Contracts::guard).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn guard(&self, call: &Call) -> Result<Guard, ContractError> {
        let guard = self.background.wait(self.contracts.guard(call))?;
        Ok(Guard {
            guard,
            background: Arc::clone(&self.background),
        })
    }
}

/// A [`portcullis::contracts::Guard`](contracts::Guard) that is finished without a runtime.
///
/// Dropped without [`finish`](Self::finish), the outcome of the call is *unknown*.
#[derive(Debug)]
#[must_use = "say how the call ended with finish: dropped, its outcome is unknown"]
pub struct Guard {
    guard: contracts::Guard,
    background: Arc<Background>,
}

impl Guard {
    /// Asks what must hold now: [`Guard::finish`](contracts::Guard::finish).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn finish(self, ending: Ending<'_>) -> Result<(), ContractError> {
        let Self { guard, background } = self;
        background.wait(guard.finish(ending))
    }
}
