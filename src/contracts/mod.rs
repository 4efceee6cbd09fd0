//! Contracts: what must hold before and after a call.
//!
//! A [`Contract`] names tools, conditions and promises. Before a call of such a tool every condition
//! of every contract must hold, or the call is refused. After it, also if it failed, every promise is
//! asked; one that was broken fails the call or is only reported, as the contract says. A check of the
//! host's that panics, errs, answers `false` or does not answer in time is a no. Violations are on
//! record as `contract.violated`, with what was required and what was found, in words.
//!
//! [`Governance::run`](crate::Governance::run) asks by itself; code that cannot be wrapped takes a
//! [`Guard`]. A contract is registered in the code of a process ([`Contracts::register`]), or stored for
//! all ([`Contracts::store`]), where it names checks that each process [defines](Contracts::define); both
//! apply, and what either refuses is refused. A stored contract that names a check which is not defined
//! here, or that cannot be read, refuses; but if it could be read before, that version goes on.
//!
//! | The store is | `NotHalted`, `ScopeAllowed`, custom, results | `BudgetAvailable`, `Approved` | `Audited` |
//! |---|---|---|---|
//! | reachable | decided | asked | the entry is committed |
//! | unreachable or hung | decided from what is loaded | refused at the deadline | the entry is in the journal, synced |
//! | the same, and the journal cannot be written | as above | as above | refused |
//!
//! Stored contracts stay in force as they were read, and their age is known ([`ContractsStatus`]).
//!
//! ```no_run
//! # async fn example(contracts: portcullis::contracts::Contracts, me: portcullis::Principal) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::Call;
//! use portcullis::contracts::{Condition, Contract, Ending, Promise};
//!
//! let contract = Contract::new("refunds")
//!     .for_tools(["refund_payment"])
//!     .requires(Condition::NotHalted)
//!     .requires(Condition::Audited)
//!     .ensures(Promise::result("has_id", |id: &String| id.starts_with("re_")));
//! contracts.register(contract).await?;
//!
//! let call = Call::tool(&me, "refund_payment").args(&serde_json::json!({"cents": 500}));
//! let guard = contracts.guard(&call).await?;
//! let refund = "re_7".to_owned(); // your code, which cannot be wrapped
//! guard.finish(Ending::completed(&refund)).await?;
//! # Ok(())
//! # }
//! ```

mod about;
mod ask;
mod book;
mod declared;
mod document;
mod error;
mod evidence;
mod guard;
mod model;
mod registry;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

pub use about::About;
pub use declared::{Field, Is, Named};
pub use error::{ContractError, InvalidContract, Violation};
pub use guard::Guard;
pub use model::{Check, Condition, Contract, OnBroken, Predicate, Promise};
pub use registry::ContractsStatus;

use self::book::Book;
use self::evidence::When;
use crate::audit::{Audit, Receipt};
use crate::call::{Parts, Principal};
use crate::cost::Cost;
use crate::error::{Disabled, ErrorKind};
use crate::halt::Halt;
use crate::scope::Scope;
use crate::store::{Policies, PolicyWatch, Store, StoreError};

/// The contracts of one tenant. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Contracts {
    shared: Arc<Shared>,
    /// What every call is answered, if the host switched contracts off.
    off: Option<Disabled>,
}

/// What contracts can ask about.
#[derive(Clone, Debug)]
pub(crate) struct Around {
    pub(crate) audit: Audit,
    pub(crate) halt: Halt,
    pub(crate) scope: Scope,
    pub(crate) cost: Cost,
}

#[derive(Debug)]
struct Shared {
    around: Around,
    book: Arc<Book>,
    stored: PolicyWatch<book::Read>,
    approved_by: OnceLock<ApprovedBy>,
}

type Asked = Pin<Box<dyn Future<Output = Result<bool, ErrorKind>> + Send>>;

/// Who knows whether a person agreed to the call with a digest.
struct ApprovedBy(Box<dyn Fn(Principal, [u8; 32]) -> Asked + Send + Sync>);

impl fmt::Debug for ApprovedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApprovedBy(..)")
    }
}

impl Contracts {
    pub(crate) fn new(store: Store, around: Around) -> Self {
        let book: Arc<Book> = Arc::default();
        let applied = Arc::clone(&book);
        let stored = Policies::new(store, "contracts");
        let stored = stored.watch(book::read, move |changes| applied.apply(changes));
        Self {
            shared: Arc::new(Shared {
                around,
                book,
                stored,
                approved_by: OnceLock::new(),
            }),
            off: None,
        }
    }

    /// The same contracts, switched off or not.
    pub(crate) fn switched(self, off: Option<Disabled>) -> Self {
        Self { off, ..self }
    }

    /// Whether contracts are asked at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.off.is_none()
    }

    fn on(&self) -> Result<&Shared, Disabled> {
        self.off.map_or(Ok(&self.shared), Err)
    }

    /// Who is asked whether a person agreed to the very call with this digest; until somebody is,
    /// nobody did.
    pub(crate) fn approved_by<Fut>(
        &self,
        ask: impl Fn(Principal, [u8; 32]) -> Fut + Send + Sync + 'static,
    ) where
        Fut: Future<Output = Result<bool, ErrorKind>> + Send + 'static,
    {
        let ask = move |who, digest| -> Asked { Box::pin(ask(who, digest)) };
        // The first one counts: the wiring is done once.
        let _ = self.shared.approved_by.set(ApprovedBy(Box::new(ask)));
    }

    /// Reads what is stored, and begins to hear of changes.
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        if self.is_on() {
            self.shared.stored.start().await?;
        }
        Ok(())
    }

    /// Stops following changes. What is in force stays.
    pub(crate) fn shutdown(&self) {
        self.shared.stored.stop();
    }

    /// Asks what must hold before a call; what the enforcement point and every guard ask.
    ///
    /// The enforcement point asks for approval itself ([`Passed::needs_approval`]), because it uses it up
    /// only when nothing else refuses.
    pub(crate) async fn before(
        &self,
        parts: &Parts<'_>,
        digest: &[u8; 32],
        approval: AskedBy,
    ) -> Result<Passed, ContractError> {
        let of = self.on()?.book.of(parts.action);
        let about = Arc::new(About::of(parts, digest));
        let refused = |violation: Violation| {
            let event = evidence::violated(&about, &violation, When::Before, true);
            self.shared.around.audit.log_detached(event);
            ContractError::Unmet(violation)
        };
        // One that cannot be read, and never could: nobody knows which calls it is of.
        let contracts = of.map_err(|contract| {
            refused(Violation {
                contract,
                required: "readable".to_owned(),
                found: "unreadable",
            })
        })?;
        // Asked once, for asking uses it up: one approval of the call serves all of its contracts.
        let mut approved = match approval {
            AskedBy::EnforcementPoint => Some(Ok(())),
            AskedBy::Contract => None,
        };
        for contract in &contracts {
            let met = self.meets(contract, parts, &about, digest, &mut approved);
            Box::pin(met).await.map_err(refused)?;
        }
        Ok(Passed { contracts, about })
    }

    async fn meets(
        &self,
        contract: &Contract,
        parts: &Parts<'_>,
        about: &Arc<About>,
        digest: &[u8; 32],
        approved: &mut Option<ask::Found>,
    ) -> Result<(), Violation> {
        let around = &self.shared.around;
        // What cannot be asked afterwards is refused now.
        for promise in &contract.ensures {
            if let Promise::Named(named) = promise
                && self.shared.book.check(named).is_none()
            {
                return Err(violation(contract, promise.word(), "not_defined"));
            }
        }
        let mut last = None;
        for condition in &contract.requires {
            let found = match condition {
                Condition::NotHalted => ask::not_halted(around, about),
                Condition::ScopeAllowed => ask::scope_allowed(around, parts),
                Condition::BudgetAvailable(ceiling) => {
                    ask::budget_available(around, about, ceiling).await
                }
                Condition::Approved => {
                    if let Some(found) = *approved {
                        found
                    } else {
                        let by = self.shared.approved_by.get();
                        *approved.insert(ask::approved(by, about, digest).await)
                    }
                }
                Condition::Custom(check) => ask::custom(check, Arc::clone(about)).await,
                Condition::Named(named) => self.named(named, about).await,
                // Its entry says that all the others hold.
                Condition::Audited => {
                    last = Some(condition);
                    Ok(())
                }
            };
            found.map_err(|found| violation(contract, condition.word(), found))?;
        }
        let passed = || evidence::passed(about, &contract.name, When::Before);
        if let Some(condition) = last {
            let found = ask::audited(around, passed()).await;
            found.map_err(|found| violation(contract, condition.word(), found))?;
        } else if contract.record_passed {
            around.audit.log_detached(passed());
        }
        Ok(())
    }

    /// Asks what must hold after a call that passed. Results are looked at before this returns.
    pub(crate) fn after(
        &self,
        passed: &Passed,
        ending: &Ending<'_>,
    ) -> impl Future<Output = Result<(), ContractError>> + Send + use<> {
        let about = Arc::new(passed.about.ended(ending.completed));
        let seen: Vec<Vec<ask::Found>> = passed
            .contracts
            .iter()
            .map(|contract| contract.ensures.iter().map(|p| seen(p, ending)).collect())
            .collect();
        let receipt = ending.receipt.map(ask::receipt);
        let (contracts, this) = (passed.contracts.clone(), self.clone());
        async move {
            let mut broken = None;
            for (contract, seen) in contracts.iter().zip(seen) {
                let mut kept = true;
                for (promise, seen) in contract.ensures.iter().zip(seen) {
                    let found = match promise {
                        Promise::Completed | Promise::Result(_) | Promise::Field(_) => seen,
                        Promise::Named(named) => this.named(named, &about).await,
                        Promise::Custom(check) => ask::custom(check, Arc::clone(&about)).await,
                        Promise::Audited => this.end_audited(contract, &about, receipt).await,
                    };
                    let Err(found) = found else { continue };
                    kept = false;
                    let violation = violation(contract, promise.word(), found);
                    let fails = contract.fails_when_broken();
                    let event = evidence::violated(&about, &violation, When::After, fails);
                    this.shared.around.audit.log_detached(event);
                    if fails && broken.is_none() {
                        broken = Some(violation);
                    }
                }
                if kept && contract.record_passed && !contract.ensures.is_empty() {
                    let event = evidence::passed(&about, &contract.name, When::After);
                    this.shared.around.audit.log_detached(event);
                }
            }
            broken.map_or(Ok(()), |violation| Err(ContractError::Broken(violation)))
        }
    }

    /// Asks the check that goes by a name; one that nobody has defined here is a no.
    async fn named(&self, named: &Named, about: &Arc<About>) -> ask::Found {
        match self.shared.book.check(named) {
            Some(check) => ask::custom(&check, Arc::clone(about)).await,
            None => Err("not_defined"),
        }
    }

    /// Whether the end of the call is on record: its own entry where there is one, or else one of the
    /// contract's.
    async fn end_audited(
        &self,
        contract: &Contract,
        about: &About,
        receipt: Option<ask::Found>,
    ) -> ask::Found {
        if let Some(found) = receipt {
            return found;
        }
        let event = evidence::passed(about, &contract.name, When::After);
        ask::audited(&self.shared.around, event).await
    }

    /// The digest of a call, the same as a permit's.
    fn digest(&self, parts: &Parts<'_>) -> [u8; 32] {
        self.shared.around.audit.call_digest(parts)
    }
}

/// What can be said at once of a promise.
fn seen(promise: &Promise, ending: &Ending<'_>) -> ask::Found {
    match promise {
        Promise::Completed if !ending.completed => Err("failed"),
        Promise::Result(predicate) if ending.completed => ask::result(predicate, ending.result),
        Promise::Field(field) if ending.completed => field.of(ending.result),
        // A call that failed has no result.
        _ => Ok(()),
    }
}

fn violation(contract: &Contract, required: String, found: &'static str) -> Violation {
    Violation {
        contract: contract.name.clone(),
        required,
        found,
    }
}

/// The contracts whose conditions a call met.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    contracts: Vec<Arc<Contract>>,
    about: Arc<About>,
}

/// Who asks a person, where a contract wants one to have agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedBy {
    Contract,
    EnforcementPoint,
}

impl Passed {
    /// Whether one of the contracts wants a person to have agreed to this very call.
    pub(crate) fn needs_approval(&self) -> bool {
        let conditions = self.contracts.iter().flat_map(|one| &one.requires);
        conditions
            .into_iter()
            .any(|condition| matches!(condition, Condition::Approved))
    }

    /// Whether nothing is promised, so that nothing has to be asked after the call.
    pub(crate) fn promises_nothing(&self) -> bool {
        self.contracts.iter().all(|one| one.ensures.is_empty())
    }
}

/// How a call ended, as contracts are told.
#[derive(Clone, Copy)]
#[must_use]
pub struct Ending<'r> {
    completed: bool,
    result: Option<&'r dyn Any>,
    receipt: Option<&'r Receipt>,
}

impl<'r> Ending<'r> {
    /// The call did what it was to do, and this came of it. Nobody keeps it.
    pub const fn completed<T: 'static>(result: &'r T) -> Self {
        Self {
            completed: true,
            result: Some(result),
            receipt: None,
        }
    }

    /// The call did what it was to do; its result cannot be shown, so no promise about it is kept.
    pub const fn completed_unseen() -> Self {
        Self {
            completed: true,
            result: None,
            receipt: None,
        }
    }

    /// The call failed.
    pub const fn failed() -> Self {
        Self {
            completed: false,
            result: None,
            receipt: None,
        }
    }

    /// What became of the entry that says how the call ended.
    pub const fn recorded(mut self, receipt: &'r Receipt) -> Self {
        self.receipt = Some(receipt);
        self
    }
}

impl fmt::Debug for Ending<'_> {
    /// Without the result, which is the caller's content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending")
            .field("completed", &self.completed)
            .field("receipt", &self.receipt)
            .finish_non_exhaustive()
    }
}
