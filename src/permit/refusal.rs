//! One form for the no of every gate, and for hosts that ask a gate by itself.

use crate::contracts::ContractError;
use crate::cost::CostError;
use crate::error::{Gate, Refusal};
use crate::gates::GateError;
use crate::halt::Halted;
use crate::loops::LoopError;
use crate::scope::ScopeError;

impl From<&Halted> for Refusal {
    /// The halt switch's no.
    fn from(halted: &Halted) -> Self {
        Self::new(Gate::Halt, halted.kind(), halted.reason(), halted.remedy())
    }
}

impl From<&ScopeError> for Refusal {
    /// The scope gate's no, as every gate says it.
    fn from(error: &ScopeError) -> Self {
        if let ScopeError::Halted(halted) = error {
            return Self::from(halted);
        }
        Self::new(Gate::Scope, error.kind(), error.reason(), error.remedy())
    }
}

impl From<&LoopError> for Refusal {
    /// The loop gate's no, and when the same call is possible again.
    fn from(error: &LoopError) -> Self {
        if let LoopError::Halted(halted) = error {
            return Self::from(halted);
        }
        Self::new(Gate::Loops, error.kind(), error.reason(), error.remedy())
            .retry_after(error.retry_after())
    }
}

impl From<&ContractError> for Refusal {
    /// A contract's no, or what was broken of it.
    fn from(error: &ContractError) -> Self {
        let (kind, reason) = (error.kind(), error.reason());
        Self::new(Gate::Contracts, kind, reason, error.remedy())
    }
}

impl From<&GateError> for Refusal {
    /// The approval gate's no, with the request that waits for a person.
    fn from(error: &GateError) -> Self {
        if let GateError::Halted(halted) = error {
            return Self::from(halted);
        }
        Self::new(Gate::Approval, error.kind(), error.reason(), error.remedy())
            .retry_after(error.retry_after())
            .about(error.request())
    }
}

impl From<&CostError> for Refusal {
    /// The cost gate's no, and when there is room again.
    fn from(error: &CostError) -> Self {
        if let CostError::Halted(halted) = error {
            return Self::from(halted);
        }
        Self::new(Gate::Cost, error.kind(), error.reason(), error.remedy())
            .retry_after(error.retry_after())
    }
}
