//! Loop detection, without a runtime.

use std::sync::Arc;

use serde::Serialize;

use super::runtime::Background;
use crate::loops::{Clear, LoopError, LoopPolicy, LoopStatus};
use crate::{AgentId, Call, Principal, loops};

/// [`portcullis::loops::Loops`](loops::Loops), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Loops {
    loops: loops::Loops,
    background: Arc<Background>,
}

impl Loops {
    pub(super) fn new(loops: loops::Loops, background: &Arc<Background>) -> Self {
        Self {
            loops,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the gate itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&loops::Loops) -> T) -> T {
        self.background.wait(async { work(&self.loops).await })
    }

    /// Lets `who` call `tool` with `args`, or not: [`Loops::check`](loops::Loops::check).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check(
        &self,
        who: &Principal,
        tool: impl AsRef<str>,
        args: &impl Serialize,
    ) -> Result<Clear, LoopError> {
        self.background.wait(self.loops.check(who, tool, args))
    }

    /// The same, of a call: [`Loops::check_call`](loops::Loops::check_call).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_call(&self, call: &Call) -> Result<Clear, LoopError> {
        self.background.wait(self.loops.check_call(call))
    }

    /// Says what came of a call: [`Loops::observe`](loops::Loops::observe).
    pub fn observe(
        &self,
        who: &Principal,
        tool: impl AsRef<str>,
        args: &impl Serialize,
        result: &[u8],
    ) {
        // Within the runtime: a loop that is found may halt the agent, which is stored behind our back.
        self.background
            .wait(async { self.loops.observe(who, tool, args, result) });
    }

    /// Puts a policy in force in this process alone: [`Loops::pin`](loops::Loops::pin).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pin(&self, policy: LoopPolicy) -> Result<(), LoopError> {
        self.background.wait(self.loops.pin(policy))
    }

    /// Stores a policy: [`Loops::register`](loops::Loops::register).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, policy: LoopPolicy) -> Result<(), LoopError> {
        self.background.wait(self.loops.register(policy))
    }

    /// Removes the stored policy of `agent`, or the one for any agent; says whether there was one:
    /// [`Loops::remove`](loops::Loops::remove).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&self, agent: Option<&AgentId>) -> Result<bool, LoopError> {
        self.background.wait(self.loops.remove(agent))
    }

    /// Reads all policies again: [`Loops::reload`](loops::Loops::reload).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reload(&self) -> Result<(), LoopError> {
        self.background.wait(self.loops.reload())
    }

    /// What is in force: [`Loops::status`](loops::Loops::status).
    #[must_use]
    pub fn status(&self) -> LoopStatus {
        self.loops.status()
    }
}
