//! The scope gate, without a runtime.

use std::sync::Arc;

use super::runtime::Background;
use crate::scope::{Allowed, NamedTool, ScopeError, ScopePolicy, ScopeStatus};
use crate::{AgentId, Principal, scope};

/// [`portcullis::scope::Scope`](scope::Scope), for programs without a runtime.
///
/// # Panics
///
/// What waits panics within an async runtime.
#[derive(Clone, Debug)]
pub struct Scope {
    scope: scope::Scope,
    background: Arc<Background>,
}

impl Scope {
    pub(super) fn new(scope: scope::Scope, background: &Arc<Background>) -> Self {
        Self {
            scope,
            background: Arc::clone(background),
        }
    }

    /// Does `work` with the gate itself, and waits for it: for what has no method here.
    pub fn block_on<T>(&self, work: impl AsyncFnOnce(&scope::Scope) -> T) -> T {
        self.background.wait(async { work(&self.scope).await })
    }

    /// Lets `who` use the tool `name`, or not: [`Scope::check`](scope::Scope::check).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check(&self, who: &Principal, name: impl AsRef<str>) -> Result<Allowed, ScopeError> {
        self.background.wait(self.scope.check(who, name))
    }

    /// Lets `who` call the API at `url`, or not: [`Scope::check_api`](scope::Scope::check_api).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_api(&self, who: &Principal, url: &str) -> Result<Allowed, ScopeError> {
        self.background.wait(self.scope.check_api(who, url))
    }

    /// Lets `who` call the model `name`, or not: [`Scope::check_model`](scope::Scope::check_model).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_model(&self, who: &Principal, name: &str) -> Result<Allowed, ScopeError> {
        self.background.wait(self.scope.check_model(who, name))
    }

    /// What of `tools` to show to the model of `who`:
    /// [`Scope::filter_tools`](scope::Scope::filter_tools).
    #[must_use]
    pub fn filter_tools<T: NamedTool>(&self, who: &Principal, tools: Vec<T>) -> Vec<T> {
        self.scope.filter_tools(who, tools)
    }

    /// Sets the policy of its agent: [`Scope::register`](scope::Scope::register).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, policy: ScopePolicy) -> Result<(), ScopeError> {
        self.background.wait(self.scope.register(policy))
    }

    /// Sets the policies of many agents, all or none:
    /// [`Scope::register_all`](scope::Scope::register_all).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_all(
        &self,
        policies: impl IntoIterator<Item = ScopePolicy>,
    ) -> Result<(), ScopeError> {
        self.background.wait(self.scope.register_all(policies))
    }

    /// Takes the policy of `agent` away; says whether it had one:
    /// [`Scope::remove`](scope::Scope::remove).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&self, agent: &AgentId) -> Result<bool, ScopeError> {
        self.background.wait(self.scope.remove(agent))
    }

    /// The stored policies: [`Scope::policies`](scope::Scope::policies).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn policies(&self) -> Result<Vec<ScopePolicy>, ScopeError> {
        self.background.wait(self.scope.policies())
    }

    /// Reads all policies again: [`Scope::reload`](scope::Scope::reload).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reload(&self) -> Result<(), ScopeError> {
        self.background.wait(self.scope.reload())
    }

    /// What is in force: [`Scope::status`](scope::Scope::status).
    #[must_use]
    pub fn status(&self) -> ScopeStatus {
        self.scope.status()
    }
}
