//! How a call ended, and what became of the record of it.

use crate::audit::{Receipt, sha256};
use crate::contracts::ContractError;
use crate::cost::{CostError, Settled};
use crate::ids::ModelName;
use crate::money::Usd;
use crate::usage::Usage;

/// How a governed call ended.
///
/// ```
/// use portcullis::{Outcome, Usage};
///
/// let done = Outcome::completed().usage(Usage::tokens(900, 150)).model("gpt-4o-mini-2024-07-18");
/// let broken = Outcome::failed("connection_lost");
/// ```
#[derive(Clone, Debug)]
pub struct Outcome {
    pub(super) status: Status,
    pub(super) usage: Option<Usage>,
    pub(super) cost: Option<Usd>,
    pub(super) model: Option<ModelName>,
    pub(super) output: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Completed,
    Failed(&'static str),
    /// It failed, and the provider bills nothing.
    Refunded(&'static str),
    Unknown,
}

impl Outcome {
    /// The call did what it was to do.
    #[must_use]
    pub const fn completed() -> Self {
        Self::of(Status::Completed)
    }

    /// The call failed, and may have cost something all the same. `code` is one word for the trail;
    /// messages of providers often repeat what was said to them, and stay out.
    #[must_use]
    pub const fn failed(code: &'static str) -> Self {
        Self::of(Status::Failed(code))
    }

    /// The provider failed the call, and bills nothing for it: nothing is charged, and the trail says
    /// that it was refunded. `code` is as for [`failed`](Self::failed).
    #[must_use]
    pub const fn refunded(code: &'static str) -> Self {
        Self::of(Status::Refunded(code))
    }

    pub(super) const fn unknown() -> Self {
        Self::of(Status::Unknown)
    }

    const fn of(status: Status) -> Self {
        Self {
            status,
            usage: None,
            cost: None,
            model: None,
            output: None,
        }
    }

    /// The tokens that the provider reported. Without them, the call is charged the larger of what
    /// was [observed](super::Permit::observe) and what was reserved.
    #[must_use]
    pub const fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// What the call cost, where it is not a matter of tokens.
    #[must_use]
    pub const fn cost(mut self, cost: Usd) -> Self {
        self.cost = Some(cost);
        self
    }

    /// The model that the response names: its price counts.
    #[must_use]
    pub fn model(mut self, model: impl AsRef<str>) -> Self {
        // A name that is none cannot be priced by; the one that was reserved for then applies.
        self.model = ModelName::parse(model).ok();
        self
    }

    /// What came out. Only a keyed hash of it is kept.
    #[must_use]
    pub fn output(mut self, content: &[u8]) -> Self {
        self.output = Some(sha256(content));
        self
    }

    /// What came out, hashed already: a stream is never there as a whole.
    #[cfg(feature = "openai")]
    pub(crate) const fn output_sha256(mut self, hash: [u8; 32]) -> Self {
        self.output = Some(hash);
        self
    }
}

/// What became of a settlement. The call is over either way, so nothing here is an error of the
/// host's; what could not be recorded is said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settlement {
    /// The entry of the outcome.
    pub receipt: Receipt,
    /// What was charged; `None` if nothing was reserved. After an error the reserve stays charged.
    pub charged: Option<Result<Settled, CostError>>,
    /// The contract that the call broke, if it broke one that fails the call then. Results were not
    /// shown to it: for that, use [`Governance::run`](crate::Governance::run).
    pub broken: Option<ContractError>,
}
