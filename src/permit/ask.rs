//! The gates, in their order: halt, scope, loops, contracts, approval, cost.
//!
//! Cheap and final first, money last, so that a refusal never has to be refunded. What an earlier gate
//! took is given back when a later one refuses.

use crate::call::{Action, Call, Parts};
use crate::contracts::{AskedBy, Passed};
use crate::cost::{CostError, Reservation};
use crate::error::{ErrorKind, Gate, Refusal};
use crate::gates::{Approval, UsedApproval};
use crate::governance::Governance;
use crate::ids::CallId;
use crate::loops::Clear;
use crate::scope::Target;
use crate::usage::Ceiling;

/// How often a limit is raised for one call: once, and once more if somebody took what was raised.
const RAISES: usize = 2;

/// What the gates gave to a call that they let through.
pub(super) struct Admitted {
    pub(super) clear: Option<Clear>,
    pub(super) passed: Option<Passed>,
    pub(super) approval: Option<UsedApproval>,
    pub(super) reservation: Held,
}

impl Governance {
    /// Asks every gate that is on.
    pub(super) async fn ask(
        &self,
        call: &Call,
        parts: &Parts<'_>,
        id: CallId,
        digest: [u8; 32],
    ) -> Result<Admitted, Refusal> {
        self.halt()
            .check(parts.principal)
            .map_err(|halted| Refusal::from(&halted))?;
        self.ask_scope(parts)?;
        let clear = self.ask_loops(parts).await?;
        let passed = self.ask_contracts(parts, &digest).await?;
        let approval = self.ask_people(parts, digest, passed.as_ref()).await?;
        let reservation = match self.ask_cost(call, parts, id, digest).await {
            Ok(reservation) => Held(reservation),
            Err(refusal) => {
                // Before anybody hears of it: the next try of the call finds it there.
                if let Some(held) = approval {
                    Box::pin(held.give_back()).await;
                }
                return Err(refusal);
            }
        };
        // Now that nothing can refuse any more: what was agreed to once is used once.
        let approval = match approval {
            Some(held) => Some(held.use_up().await.map_err(|error| Refusal::from(&error))?),
            None => None,
        };
        Ok(Admitted {
            clear,
            passed,
            approval,
            reservation,
        })
    }

    fn ask_scope(&self, parts: &Parts<'_>) -> Result<(), Refusal> {
        if !self.scope().is_on() {
            return Ok(());
        }
        let named = match parts.action {
            Action::Tool(name) => Target::Tool(name.as_str()),
            Action::Model(name) => Target::Model(name.as_str()),
        };
        let targets = [Some(named), parts.api.map(Target::Api)];
        for target in targets.into_iter().flatten() {
            let asked = self.scope().decide(parts.principal, target);
            asked.map_err(|error| Refusal::from(&error))?;
        }
        Ok(())
    }

    async fn ask_loops(&self, parts: &Parts<'_>) -> Result<Option<Clear>, Refusal> {
        if !self.loops().is_on() {
            return Ok(None);
        }
        let asked = self.loops().decide(parts).await;
        asked.map(Some).map_err(|error| Refusal::from(&error))
    }

    async fn ask_contracts(
        &self,
        parts: &Parts<'_>,
        digest: &[u8; 32],
    ) -> Result<Option<Passed>, Refusal> {
        if !self.contracts().is_on() {
            return Ok(None);
        }
        let asked = self
            .contracts()
            .before(parts, digest, AskedBy::EnforcementPoint)
            .await;
        asked.map(Some).map_err(|error| Refusal::from(&error))
    }

    /// Whether a person has to agree, by the approval policy or by a contract; and whether one did.
    async fn ask_people(
        &self,
        parts: &Parts<'_>,
        digest: [u8; 32],
        passed: Option<&Passed>,
    ) -> Result<Option<Approval>, Refusal> {
        let by_contract = passed.is_some_and(Passed::needs_approval);
        if !self.gates().is_on() && !by_contract {
            return Ok(None);
        }
        let asked = if by_contract {
            self.gates().admit_required(parts, digest).await.map(Some)
        } else {
            self.gates().admit(parts, digest).await
        };
        asked.map_err(|error| Refusal::from(&error))
    }

    async fn ask_cost(
        &self,
        call: &Call,
        parts: &Parts<'_>,
        id: CallId,
        digest: [u8; 32],
    ) -> Result<Option<Reservation>, Refusal> {
        // Whoever declares a ceiling counts on it: without budgets it would hold nothing.
        if !self.cost().is_on() && !call.declares_ceiling() {
            return Ok(None);
        }
        let ceiling = call.reserved(self.settings().default_max_output);
        let ceiling = ceiling.map_err(|invalid| {
            let remedy = "declare the ceiling of the call";
            Refusal::new(Gate::Call, ErrorKind::Misuse, invalid, remedy)
        })?;
        let Some(ceiling) = ceiling else {
            return Ok(None);
        };
        let who = parts.principal;
        for _ in 0..RAISES {
            match self.cost().reserve_for(who, ceiling.clone(), id).await {
                Ok(reservation) => return Ok(Some(reservation)),
                Err(error) => Box::pin(self.raise_limit(parts, &ceiling, digest, error)).await?,
            }
        }
        let last = self.cost().reserve_for(who, ceiling, id).await;
        last.map(Some).map_err(|error| Refusal::from(&error))
    }
}

impl Governance {
    /// Where the budget's policy is to ask: has somebody agree that its limit is raised for this call,
    /// once, and raises it. Refuses otherwise.
    async fn raise_limit(
        &self,
        parts: &Parts<'_>,
        ceiling: &Ceiling,
        digest: [u8; 32],
        error: CostError,
    ) -> Result<(), Refusal> {
        let CostError::NeedsApproval { budget, raise, .. } = &error else {
            return Err(Refusal::from(&error));
        };
        if !self.gates().is_on() {
            return Err(Refusal::from(&error));
        }
        // Bound to this very call and what it may take, so that it pays for no other.
        let mut limits = raise.limits();
        limits.push(hex::encode(digest));
        limits.push(format!("{:?} {:?}", ceiling.amount, ceiling.tier));
        let asked = self.gates().admit_raise(parts.principal, budget, &limits);
        let held = asked.await.map_err(|error| Refusal::from(&error))?;
        // Nobody can be asked: it is the budget that refuses.
        let held = held.ok_or_else(|| Refusal::from(&error))?;
        let used = held.use_up().await.map_err(|error| Refusal::from(&error))?;
        // Under the request's own id: the database holds a raise against what people agreed to.
        let approval = match used.request {
            Some(request) => request.to_string(),
            None => used.entry.to_string(),
        };
        let raised = self.cost().raise_once(raise, &approval).await;
        raised.map(drop).map_err(|error| Refusal::from(&error))
    }
}

/// A reservation whose call has not been permitted yet: dropped, it is given back.
pub(super) struct Held(Option<Reservation>);

impl Held {
    pub(super) fn as_ref(&self) -> Option<&Reservation> {
        self.0.as_ref()
    }

    pub(super) fn keep(mut self) -> Option<Reservation> {
        self.0.take()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(reservation) = self.0.take() {
            reservation.release_detached();
        }
    }
}
