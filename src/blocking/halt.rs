//! The halt switch, without a runtime.

use std::sync::Arc;

use super::runtime::Background;
use crate::halt::{Change, HaltError, HaltStatus, Halted, Target};
use crate::{OperatorId, Principal, halt};

/// [`portcullis::halt::Halt`](halt::Halt), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Halt {
    halt: halt::Halt,
    background: Arc<Background>,
}

impl Halt {
    pub(super) fn new(halt: halt::Halt, background: &Arc<Background>) -> Self {
        Self {
            halt,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the switch itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&halt::Halt) -> T) -> T {
        self.background.wait(async { work(&self.halt).await })
    }

    /// Lets `who` go on, or not, at once: [`Halt::check`](halt::Halt::check). What takes long asks it
    /// between its steps.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check(&self, who: &Principal) -> Result<(), Halted> {
        self.halt.check(who)
    }

    /// Waits until `who` is halted, perhaps for ever: [`Halt::until_halted`](halt::Halt::until_halted).
    #[must_use]
    pub fn until_halted(&self, who: &Principal) -> Halted {
        self.background.wait(self.halt.until_halted(who))
    }

    /// Halts `target`: [`Halt::halt`](halt::Halt::halt).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn halt(&self, target: &Target, by: &OperatorId, why: &str) -> Result<Change, HaltError> {
        self.background.wait(self.halt.halt(target, by, why))
    }

    /// Lifts the halt of `target`: [`Halt::resume`](halt::Halt::resume).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resume(&self, target: &Target, by: &OperatorId, why: &str) -> Result<Change, HaltError> {
        self.background.wait(self.halt.resume(target, by, why))
    }

    /// How often what is known has changed: [`Halt::epoch`](halt::Halt::epoch).
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.halt.epoch()
    }

    /// What is halted, and how old that is: [`Halt::status`](halt::Halt::status).
    #[must_use]
    pub fn status(&self) -> HaltStatus {
        self.halt.status()
    }
}
