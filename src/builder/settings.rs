//! What the builder tells the gates.

use std::sync::Arc;
use std::time::Duration;

use super::GovernanceBuilder;
use crate::contracts::{About, Check};
use crate::cost::{LeaseSettings, Prices, Warning};
use crate::gates::ApprovalNotifier;
use crate::halt::HaltSettings;
use crate::presence::PresenceSettings;
use crate::scope::ScopePolicy;

impl GovernanceBuilder {
    /// How the halt switch behaves: how often it is asked for, how old what is known may be, and what is
    /// decided past that (a second, five seconds, and the last known state holds, loudly).
    pub fn halt(mut self, settings: HaltSettings) -> Self {
        self.options.halt = settings;
        self
    }

    /// How presence behaves: how often heartbeats are written, and when an agent that is not heard of
    /// counts as unresponsive (a second, a minute).
    pub fn presence(mut self, settings: PresenceSettings) -> Self {
        self.options.presence = settings;
        self
    }

    /// The output to reserve for a model call that does not say how much it may have (none: such a
    /// call is refused).
    pub fn default_max_output_tokens(mut self, tokens: u64) -> Self {
        self.settings.default_max_output = Some(tokens);
        self
    }

    /// What tokens cost: your own prices before the bundled list ([`Prices::bundled`]).
    pub fn prices(mut self, prices: Prices) -> Self {
        self.options.cost.prices = prices;
        self
    }

    /// Lets calls through when their budget cannot be asked, and says so in the audit trail (off:
    /// they are refused).
    ///
    /// The one setting with which a gate lets through what it cannot know at all. Two others decide from
    /// what this process last knew: halts are held to as they were last heard of
    /// ([`WhenStale::HoldLastKnown`](crate::halt::WhenStale::HoldLastKnown), the default), and a loop policy
    /// may have sessions go on ([`WhenAway::GoOn`](crate::loops::WhenAway::GoOn)).
    pub fn cost_fail_open(mut self, on: bool) -> Self {
        self.options.cost.fail_open = on;
        self
    }

    /// How long a call may take before its reservation counts as unknown (15 minutes). It stays
    /// charged.
    pub fn reservation_lease(mut self, lease: Duration) -> Self {
        self.options.cost.lease = lease;
        self
    }

    /// How slices of [leased](crate::cost::Budget::leased) budgets are held: how long one outlives its last
    /// report, how often it is reported, how long it may lie unused (30 seconds, 1 second, 10 seconds).
    pub fn budget_leases(mut self, settings: LeaseSettings) -> Self {
        self.options.cost.leases = settings;
        self
    }

    /// Puts a scope policy of this program's own in force, for the builder's tenant, before the handle is there
    /// ([`Scope::pin`](crate::scope::Scope::pin)); call it once for each (none).
    pub fn pin_scope(mut self, policy: ScopePolicy) -> Self {
        self.options.pins.push(policy);
        self
    }

    /// Calls `told` when a budget passes one of its thresholds (nobody), in the process in which it does.
    /// No call waits for it, and a panic of it is caught. The thresholds are the budget's:
    /// [`Budget::warn_at`](crate::cost::Budget::warn_at).
    pub fn on_cost_warning(mut self, told: impl Fn(&Warning) + Send + Sync + 'static) -> Self {
        self.options.cost = self.options.cost.on_warning(told);
        self
    }

    /// Lets [`Cost::advise`](crate::cost::Cost::advise) say which model still fits (off).
    pub fn routing_advice(mut self, on: bool) -> Self {
        self.options.cost.routing_advice = on;
        self
    }

    /// Defines a check that contracts name, before the handle is there
    /// ([`Contracts::define`](crate::contracts::Contracts::define)), for this and other tenants' handles; call it
    /// once for each (none).
    pub fn contract_check<F, Fut, E>(
        mut self,
        name: impl Into<String>,
        deadline: Duration,
        ask: F,
    ) -> Self
    where
        F: Fn(Arc<About>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        self.options.checks.push(Check::new(name, deadline, ask));
        self
    }

    /// Also tells `notifier` of each request for a person's approval; call it once for each (none).
    /// Other tenants' handles tell the same ones.
    pub fn notify_approvals(mut self, notifier: impl ApprovalNotifier) -> Self {
        self.options.notifiers.push(Arc::new(notifier));
        self
    }
}
