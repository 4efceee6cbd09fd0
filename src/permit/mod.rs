//! The enforcement point: every gate in its order, and proof that they were passed.
//!
//! [`Governance::authorize`] asks the gates in a fixed order, cheap and final first, money last, so
//! that a refusal never has to be refunded: the call itself, scope, approval, cost. Then it puts the decision
//! on durable record, and only then returns a [`Permit`]. Nothing governed ever acts off the record.
//!
//! | The store is | [`authorize`](Governance::authorize) | [`Permit::settle`] |
//! |---|---|---|
//! | reachable | permits or refuses | records the outcome |
//! | unreachable | goes on with the decision in the journal on the local disk, unless a budget must be asked | records the outcome there; the reserve stays charged until it can be settled |
//! | the same, and the journal cannot be written | refuses: a decision that cannot be recorded is a no | says what could not be recorded |
//!
//! ```no_run
//! # async fn example(gov: portcullis::Governance, me: portcullis::Principal) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{Call, Permit};
//!
//! let call = Call::tool(&me, "send_email").args(&serde_json::json!({"to": "c_381"}));
//! let sent = gov
//!     .run(&call, async |_: &Permit| Ok::<_, std::io::Error>("sent"))
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod outcome;
mod proof;
mod record;
mod run;

pub use outcome::{Outcome, Settlement};
pub use proof::Permit;
pub use run::RunError;

use crate::call::{Action, Call, Parts};
use crate::cost::{CostError, Reservation};
use crate::error::{ErrorKind, Gate, Refusal};
use crate::gates::{GateError, UsedApproval};
use crate::governance::Governance;
use crate::ids::CallId;
use crate::scope::{ScopeError, Target};

impl Governance {
    /// Asks every gate whether `call` may be made, and puts the decision on record.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] names the gate, the reason, what would make it a yes, and when to try again.
    /// Nothing is held or charged after it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was reserved for a call that never got its permit is released.
    pub async fn authorize(&self, call: &Call) -> Result<Permit, Refusal> {
        let id = CallId::new();
        let parts = call.parts().map_err(|invalid| {
            Refusal::new(Gate::Call, ErrorKind::Misuse, invalid, "correct the call")
        })?;
        let digest = self.audit().call_digest(&parts);
        let (approval, reservation) = match self.decide(call, &parts, id, digest).await {
            Ok(passed) => passed,
            Err(refusal) => {
                self.audit()
                    .log_detached(record::refused(&parts, id, &digest, &refusal));
                return Err(refusal);
            }
        };
        // Until the permit exists, a reservation whose call cannot happen is released.
        let held = Held(reservation);
        let decision = record::permitted(&parts, id, &digest, held.0.as_ref(), approval.as_ref());
        let started = decision.last_id();
        if let Err(error) = self.audit().append_all(decision.into_events()).await {
            return Err(Refusal::new(
                Gate::Evidence,
                error.kind(),
                error,
                "the call was not made; try again when the audit trail can be written",
            ));
        }
        Ok(Permit::new(
            self.clone(),
            id,
            digest,
            &parts,
            held.keep(),
            started,
        ))
    }

    /// The gates, in their order.
    async fn decide(
        &self,
        call: &Call,
        parts: &Parts<'_>,
        id: CallId,
        digest: [u8; 32],
    ) -> Result<(Option<UsedApproval>, Option<Reservation>), Refusal> {
        let who = parts.principal;
        let target = match parts.action {
            Action::Tool(name) => Target::Tool(name.as_str()),
            Action::Model(name) => Target::Model(name.as_str()),
        };
        self.scope()
            .decide(who, target)
            .map_err(|error| by_scope(&error))?;
        if let Some(url) = parts.api {
            self.scope()
                .decide(who, Target::Api(url))
                .map_err(|error| by_scope(&error))?;
        }
        let ceiling = call
            .reserved(self.settings().default_max_output)
            .map_err(|invalid| {
                Refusal::new(
                    Gate::Call,
                    ErrorKind::Misuse,
                    invalid,
                    "declare the ceiling of the call",
                )
            })?;
        let admitted = self.gates().admit(parts, digest).await;
        let approval = admitted.map_err(|error| by_gates(&error))?;
        let reserved = match ceiling {
            None => Ok(None),
            Some(ceiling) => self.cost().reserve_for(who, ceiling, id).await.map(Some),
        };
        let Some(approval) = approval else {
            return Ok((None, reserved.map_err(|error| by_cost(&error))?));
        };
        match reserved {
            // The next try of the same call has the approval still.
            Err(error) => {
                approval.give_back().await;
                Err(by_cost(&error))
            }
            Ok(reservation) => {
                let held = Held(reservation);
                let used = approval.use_up().await;
                Ok((Some(used.map_err(|error| by_gates(&error))?), held.keep()))
            }
        }
    }
}

impl From<&ScopeError> for Refusal {
    /// The scope gate's no, as every gate says it.
    fn from(error: &ScopeError) -> Self {
        by_scope(error)
    }
}

fn by_scope(error: &ScopeError) -> Refusal {
    Refusal::new(Gate::Scope, error.kind(), error.reason(), error.remedy())
}

fn by_cost(error: &CostError) -> Refusal {
    Refusal::new(Gate::Cost, error.kind(), error.reason(), error.remedy())
        .retry_after(error.retry_after())
}

fn by_gates(error: &GateError) -> Refusal {
    Refusal::new(Gate::Approval, error.kind(), error.reason(), error.remedy())
        .retry_after(error.retry_after())
}

/// A reservation whose call has not been permitted yet: dropped, it is given back.
struct Held(Option<Reservation>);

impl Held {
    fn keep(mut self) -> Option<Reservation> {
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
