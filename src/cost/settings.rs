//! How the cost gate behaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::amount::Amount;
use super::window::Window;
use crate::ids::BudgetName;

/// Told when a budget passes one of its thresholds.
pub(super) type OnWarning = Arc<dyn Fn(&Warning) + Send + Sync>;

/// A budget has passed one of its thresholds. Once for each window and threshold, whichever process
/// it is that passes it; a rolling window warns again when it has been below.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The budget.
    pub budget: BudgetName,
    /// The session, the day, and so on.
    pub window: Window,
    /// The threshold, as a percentage of the limit.
    pub percent: u8,
    /// The limit, of the unit that is used most.
    pub limit: Amount,
    /// What is settled and held of it.
    pub taken: Amount,
}

/// How the cost gate behaves. The defaults are the strict ones.
#[derive(Clone)]
#[non_exhaustive]
pub struct CostSettings {
    /// Where prices come from.
    pub prices: super::Prices,
    /// Whether a call is let through when the store cannot be asked. It is audited, and its cost is
    /// recorded if the store is back by then.
    pub fail_open: bool,
    /// How long a reservation may stay unsettled (15 minutes) before its outcome counts as unknown.
    pub lease: Duration,
    /// How often leases are looked at (30 seconds).
    pub sweep_every: Duration,
    /// How slices of leased budgets are held.
    pub leases: super::LeaseSettings,
    /// Whether [`Cost::advise`](super::Cost::advise) answers.
    pub routing_advice: bool,
    pub(super) on_warning: Option<OnWarning>,
}

impl Default for CostSettings {
    fn default() -> Self {
        Self {
            prices: super::Prices::bundled(),
            fail_open: false,
            lease: Duration::from_mins(15),
            sweep_every: Duration::from_secs(30),
            leases: super::LeaseSettings::default(),
            routing_advice: false,
            on_warning: None,
        }
    }
}

impl CostSettings {
    /// Where prices come from.
    #[must_use]
    pub fn prices(mut self, prices: super::Prices) -> Self {
        self.prices = prices;
        self
    }

    /// Lets calls through when the store cannot be asked, audited as such.
    #[must_use]
    pub const fn fail_open(mut self, fail_open: bool) -> Self {
        self.fail_open = fail_open;
        self
    }

    /// How long a reservation may stay unsettled: longer than the longest call.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How slices of leased budgets are held.
    #[must_use]
    pub const fn leases(mut self, leases: super::LeaseSettings) -> Self {
        self.leases = leases;
        self
    }

    /// How often leases are looked at.
    #[must_use]
    pub const fn sweep_every(mut self, every: Duration) -> Self {
        self.sweep_every = every;
        self
    }

    /// Lets [`Cost::advise`](super::Cost::advise) say which model still fits.
    #[must_use]
    pub const fn routing_advice(mut self, on: bool) -> Self {
        self.routing_advice = on;
        self
    }

    /// Calls `told` when a budget passes a threshold, in the process in which it does. No call waits
    /// for it, and a panic of it is caught.
    #[must_use]
    pub fn on_warning(mut self, told: impl Fn(&Warning) + Send + Sync + 'static) -> Self {
        self.on_warning = Some(Arc::new(told));
        self
    }
}

impl fmt::Debug for CostSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CostSettings")
            .field("prices", &self.prices)
            .field("fail_open", &self.fail_open)
            .field("lease", &self.lease)
            .field("sweep_every", &self.sweep_every)
            .field("leases", &self.leases)
            .field("routing_advice", &self.routing_advice)
            .field("on_warning", &self.on_warning.is_some())
            .finish()
    }
}
