//! Contracts coming into force, and what is known of them.

use std::sync::Arc;
use std::time::Duration;

use super::about::About;
use super::error::ContractError;
use super::model::{Check, Contract};
use super::{Contracts, evidence};
use crate::audit::{AuditEvent, Receipt, sha256};
use crate::time::Timestamp;

impl Contracts {
    /// Puts a contract in force in this process, in place of one of the same name that was registered
    /// here. It is not stored, no reload drops it, and no other process knows it. On record as
    /// `contract.policy_registered`.
    ///
    /// Where a contract is [stored](Self::store), too, both apply, also under one name: what either
    /// refuses is refused. So what is stored can ask for more, and never for less.
    ///
    /// # Errors
    ///
    /// [`ContractError::Contract`] names the method by which something was said that cannot be: a
    /// contract of no calls, one that asks for nothing, or one that contradicts itself.
    /// [`ContractError::Disabled`] if the host switched contracts off.
    ///
    /// # Cancel safety
    ///
    /// Once begun it is in force; its entry may be missing if the future is dropped.
    pub async fn register(&self, contract: Contract) -> Result<(), ContractError> {
        let shared = self.on()?;
        contract.validate()?;
        let event = evidence::registered(&contract, "registered");
        shared.book.pin(contract);
        self.on_record(event).await;
        Ok(())
    }

    /// Stores a contract in place of the one of the same name that was stored: in force here when it
    /// returns, in other processes within a second. On record as `contract.policy_registered`.
    ///
    /// Checks that are code are referred to by name ([`Condition::named`](super::Condition::named)); a
    /// process that has not [defined](Self::define) them refuses the calls of the contract.
    ///
    /// # Errors
    ///
    /// * [`ContractError::Contract`] as [`register`](Self::register); also if the contract holds code.
    /// * [`ContractError::Store`] if it may not have been stored. What was in force still is; store it
    ///   again.
    /// * [`ContractError::Disabled`] if the host switched contracts off.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn store(&self, contract: Contract) -> Result<(), ContractError> {
        self.store_all([contract]).await
    }

    /// Stores all of these contracts, or none: no call meets some of them without the others.
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store).
    ///
    /// # Cancel safety
    ///
    /// As [`store`](Self::store).
    pub async fn store_all(
        &self,
        contracts: impl IntoIterator<Item = Contract>,
    ) -> Result<(), ContractError> {
        let shared = self.on()?;
        let (mut documents, mut events) = (Vec::new(), Vec::new());
        for contract in contracts {
            let document = contract.to_json()?;
            let hash = hex::encode(sha256(document.as_bytes()));
            events.push(evidence::registered(&contract, "stored").with("policy_hash", hash));
            documents.push((contract.name, document));
        }
        shared.stored.upsert_all(documents).await?;
        for event in events {
            self.on_record(event).await;
        }
        Ok(())
    }

    /// Removes the stored contract `name`; says whether there was one. What this or another process
    /// [registered](Self::register) in its code stays in force there.
    ///
    /// # Errors
    ///
    /// [`ContractError::Store`] if it may not have been removed. It is then still in force.
    /// [`ContractError::Disabled`] if the host switched contracts off.
    ///
    /// # Cancel safety
    ///
    /// As [`store`](Self::store).
    pub async fn remove(&self, name: &str) -> Result<bool, ContractError> {
        let found = self.on()?.stored.delete(name.to_owned()).await?;
        if found {
            self.on_record(evidence::removed(name)).await;
        }
        Ok(found)
    }

    /// Reads all stored contracts again, and takes them into force together.
    ///
    /// # Errors
    ///
    /// [`ContractError::Store`] if they could not be read. What was in force still is.
    /// [`ContractError::Disabled`] if the host switched contracts off.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written.
    pub async fn reload(&self) -> Result<(), ContractError> {
        Ok(self.on()?.stored.reread().await?)
    }

    /// Defines the check that contracts name by `name`, in this process, in place of an earlier one. As
    /// [`Condition::custom`](super::Condition::custom); asked after the call, it is told how that ended.
    ///
    /// # Errors
    ///
    /// [`ContractError::Contract`] if the name is no id, or the deadline is none or longer than 60 s.
    /// [`ContractError::Disabled`] if the host switched contracts off.
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
        self.define_check(&Check::new(name, deadline, ask))
    }

    pub(crate) fn define_check(&self, check: &Check) -> Result<(), ContractError> {
        let shared = self.on()?;
        check.validate()?;
        shared.book.define(check);
        Ok(())
    }

    /// The names of the contracts that are in force in this process, registered in its code or stored.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let book = &self.shared.book;
        let mut names = book.pinned();
        names.extend(book.stored().into_iter().map(|contract| contract.name));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The stored contracts that are in force in this process, by name.
    #[must_use]
    pub fn stored(&self) -> Vec<Contract> {
        self.shared.book.stored()
    }

    /// Names what is in force: the same in every process in which the same is.
    pub(crate) fn in_force(&self) -> [u8; 32] {
        self.shared.book.hash()
    }

    /// What is in force, and what is known.
    #[must_use]
    pub fn status(&self) -> ContractsStatus {
        let (book, watch) = (&self.shared.book, self.shared.stored.status());
        let (kept, broken) = book.unreadable();
        ContractsStatus {
            registered: book.pinned(),
            stored: book.stored().into_iter().map(|one| one.name).collect(),
            broken,
            kept,
            undefined: book.undefined(),
            revision: watch.revision,
            looked_at: watch.looked_at,
            heard: watch.heard,
            failing: watch.failing,
            switched_off: !self.is_on(),
        }
    }

    async fn on_record(&self, event: AuditEvent) {
        if let Receipt::Lost { id, error } = self.shared.around.audit.log(event).await {
            tracing::error!(%id, %error, "a change of contracts is not on record");
        }
    }
}

/// What is in force, and what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContractsStatus {
    /// The contracts that this process registered in its code.
    pub registered: Vec<String>,
    /// The stored contracts that are in force.
    pub stored: Vec<String>,
    /// The stored contracts that cannot be read, and of which this process has seen no good version:
    /// every call is refused.
    pub broken: Vec<String>,
    /// The stored contracts that cannot be read. The last good versions are in force.
    pub kept: Vec<String>,
    /// Checks that contracts in force name and this process has not
    /// [defined](Contracts::define): the calls of these contracts are refused.
    pub undefined: Vec<String>,
    /// Counts the changes of stored contracts, up to what is in force here.
    pub revision: i64,
    /// When what is stored was last known to be in force; `None` before it was read.
    pub looked_at: Option<Timestamp>,
    /// Whether changes are heard at once. Otherwise they are found by looking every second.
    pub heard: bool,
    /// The last look failed: what is in force may be older than what is stored.
    pub failing: bool,
    /// The host switched contracts off.
    pub switched_off: bool,
}

impl ContractsStatus {
    /// Whether all that is stored could be read at the last look, and all checks are there.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let readable = self.broken.is_empty() && self.kept.is_empty() && !self.failing;
        self.switched_off || (readable && self.undefined.is_empty())
    }
}
