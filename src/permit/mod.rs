//! The enforcement point: every gate in its order, and proof that they were passed.
//!
//! [`Governance::authorize`] asks the gates in a fixed order, cheap and final first, money last, so
//! that a refusal never has to be refunded: the call itself, halt, scope, loops, contracts, approval,
//! cost. Then it puts the decision on durable record, looks once more whether somebody was halted
//! meanwhile, and only then returns a [`Permit`]. Nothing governed ever acts off the record.
//!
//! | The store is | [`authorize`](Governance::authorize) | [`Permit::settle`] |
//! |---|---|---|
//! | reachable | permits or refuses | records the outcome |
//! | unreachable | goes on with the decision in the journal on the local disk, unless a budget or a person must be asked | records the outcome there; the reserve stays charged until it can be settled |
//! | the same, and the journal cannot be written | refuses: a decision that cannot be recorded is a no | says what could not be recorded |
//!
//! A gate that the host [switched off](crate::GovernanceBuilder::without) is not asked;
//! [`Governance::posture`] says so, and so does the trail. A call that needs it is refused: one that
//! declares a ceiling, where cost is off.
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

mod ask;
mod outcome;
mod proof;
mod record;
mod refusal;
mod run;

pub use outcome::{Outcome, Settlement};
pub use proof::Permit;
pub use run::RunError;

use self::proof::Bound;
use self::record::Basis;
use crate::call::Call;
use crate::error::{ErrorKind, Gate, Refusal};
use crate::governance::Governance;
use crate::ids::CallId;

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
    /// Cancel safe: what was reserved for a call that never got its permit is released. An approval
    /// may be used up by it.
    pub async fn authorize(&self, call: &Call) -> Result<Permit, Refusal> {
        self.coverage().meet_call();
        let id = CallId::new();
        let parts = call.parts().map_err(|invalid| {
            Refusal::new(Gate::Call, ErrorKind::Misuse, invalid, "correct the call")
        })?;
        // Before anything is asked: what changes meanwhile is seen at the end.
        let halt_epoch = self.halt().epoch();
        let digest = self.audit().call_digest(&parts);
        let refused = |refusal: Refusal| {
            let event = record::refused(&parts, id, &digest, &refusal);
            self.audit().log_detached(event);
            refusal
        };
        let admitted = self.ask(call, &parts, id, digest).await.map_err(refused)?;
        let basis = Basis {
            reservation: admitted.reservation.as_ref(),
            approval: admitted.approval.as_ref(),
            halt_epoch,
            scope_revision: self.scope().revision(),
        };
        let decision = record::permitted(&parts, id, &digest, &basis);
        let started = decision.last_id();
        if let Err(error) = self.audit().append_all(decision.into_events()).await {
            return Err(Refusal::new(
                Gate::Evidence,
                error.kind(),
                error,
                "the call was not made; try again when the audit trail can be written",
            ));
        }
        let permit = Permit::new(
            self.clone(),
            &parts,
            Bound {
                id,
                digest,
                started,
                halt_epoch,
            },
            admitted,
        );
        // Who was halted while the gates were asked does not begin.
        if let Err(halted) = self.halt().check(parts.principal) {
            Box::pin(permit.release()).await;
            return Err(refused(Refusal::from(&halted)));
        }
        Ok(permit)
    }
}
