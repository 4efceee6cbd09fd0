//! The proof that every gate was passed, to be settled without a runtime.

use std::ops::Deref;
use std::sync::Arc;

use super::runtime::Background;
use crate::{Outcome, Settlement};

/// A [`portcullis::Permit`](crate::Permit) that is settled without a runtime.
///
/// It reads as the permit that it holds: a function that asks for a `&portcullis::Permit` takes a
/// reference to it. Dropped without [`settle`](Self::settle) or [`release`](Self::release), the
/// outcome of the call is *unknown*.
#[derive(Debug)]
#[must_use = "a dropped permit stays charged, with an unknown outcome"]
pub struct Permit {
    permit: crate::Permit,
    background: Arc<Background>,
}

impl Permit {
    pub(super) fn new(permit: crate::Permit, background: &Arc<Background>) -> Self {
        Self {
            permit,
            background: Arc::clone(background),
        }
    }

    /// [`portcullis::Permit::settle`](crate::Permit::settle): records how the call ended and charges
    /// what it cost.
    pub fn settle(self, outcome: Outcome) -> Settlement {
        let Self { permit, background } = self;
        background.wait(permit.settle(outcome))
    }

    /// [`portcullis::Permit::settle_detached`](crate::Permit::settle_detached): nobody waits.
    pub fn settle_detached(self, outcome: Outcome) {
        self.permit.settle_detached(outcome);
    }

    /// [`portcullis::Permit::release`](crate::Permit::release): says that the call never began.
    #[must_use = "it says what could not be recorded"]
    pub fn release(self) -> Settlement {
        let Self { permit, background } = self;
        background.wait(permit.release())
    }

    /// [`portcullis::Permit::release_detached`](crate::Permit::release_detached): nobody waits.
    pub fn release_detached(self) {
        self.permit.release_detached();
    }
}

impl Deref for Permit {
    type Target = crate::Permit;

    fn deref(&self) -> &crate::Permit {
        &self.permit
    }
}
