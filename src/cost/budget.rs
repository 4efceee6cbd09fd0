//! Budgets: whose, over what, how much.

use std::fmt;
use std::time::Duration;

use super::error::CostError;
use super::price::Price;
use crate::ids::{AgentId, BudgetName, SessionId};
use crate::money::Usd;
use crate::time::UtcDay;

/// The longest that a session may be limited to, in seconds.
const MAX_SESSION_SECONDS: u32 = 86_400;

/// A number of tokens, in and out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a number with a name, written by callers"
)]
pub struct Tokens(pub u64);

/// How much of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amount {
    /// Dollars.
    Usd(Usd),
    /// Tokens, in and out together.
    Tokens(Tokens),
}

impl From<Usd> for Amount {
    fn from(amount: Usd) -> Self {
        Self::Usd(amount)
    }
}

impl From<Tokens> for Amount {
    fn from(amount: Tokens) -> Self {
        Self::Tokens(amount)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usd(amount) => write!(f, "{amount}"),
            Self::Tokens(Tokens(amount)) => write!(f, "{amount} tokens"),
        }
    }
}

/// Over what a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Period {
    /// One run of the agent.
    Session,
    /// A calendar day in UTC, by the database's clock.
    Day,
}

impl Period {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Day => "day",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "session" => Some(Self::Session),
            "day" => Some(Self::Day),
            _ => None,
        }
    }
}

/// One stretch over which a limit counts: this session, this day.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Window {
    /// This session.
    Session(SessionId),
    /// This day in UTC.
    Day(UtcDay),
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(_) => f.write_str("session"),
            Self::Day(day) => write!(f, "day {day}"),
        }
    }
}

/// The limits over one period. Nothing is limited that is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Dollars.
    pub usd: Option<Usd>,
    /// Tokens, in and out together.
    pub tokens: Option<u64>,
    /// Seconds of wall time since the first admission; of sessions only.
    pub seconds: Option<u32>,
}

/// What an agent may spend, per session and per UTC day.
///
/// An agent can have several budgets, under different names; a call is charged to all of their limits
/// or to none. The builder never fails: what is wrong with a budget is said by
/// [`Cost::register`](super::Cost::register).
///
/// ```
/// use portcullis::{AgentId, Usd};
/// use portcullis::cost::{Budget, Price, Tokens};
///
/// let budget = Budget::for_agent(AgentId::parse("billing-agent")?)
///     .per_session(Usd::dollars(5))
///     .per_session(Tokens(200_000))
///     .per_day(Usd::dollars(50))
///     .session_seconds(3_600)
///     .fallback_price(Price::per_million(Usd::dollars(5), Usd::dollars(25)));
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub(super) agent: AgentId,
    pub(super) name: Option<BudgetName>,
    pub(super) session: Option<Limits>,
    pub(super) day: Option<Limits>,
    pub(super) fallback: Option<Price>,
    pub(super) leased: Option<u8>,
}

impl Budget {
    /// A budget of `agent`, without any limit yet.
    #[must_use]
    pub const fn for_agent(agent: AgentId) -> Self {
        Self {
            agent,
            name: None,
            session: None,
            day: None,
            fallback: None,
            leased: None,
        }
    }

    /// The budget's name, `agent:` and the agent's name by default. Registering a name again replaces
    /// the budget.
    #[must_use]
    pub fn named(mut self, name: BudgetName) -> Self {
        self.name = Some(name);
        self
    }

    /// At most so much in one session: [`Usd`] or [`Tokens`]; call it twice for both.
    #[must_use]
    pub fn per_session(mut self, limit: impl Into<Amount>) -> Self {
        set(self.session.get_or_insert_default(), limit.into());
        self
    }

    /// At most so much on one UTC day: [`Usd`] or [`Tokens`]; call it twice for both.
    #[must_use]
    pub fn per_day(mut self, limit: impl Into<Amount>) -> Self {
        set(self.day.get_or_insert_default(), limit.into());
        self
    }

    /// Nothing is reserved later than so many seconds (1 to 86,400) after the session's first
    /// admission, by the database's clock.
    #[must_use]
    pub fn session_seconds(mut self, seconds: u32) -> Self {
        self.session.get_or_insert_default().seconds = Some(seconds);
        self
    }

    /// The price of a model that has none. Without it, such a model is refused.
    #[must_use]
    pub const fn fallback_price(mut self, price: Price) -> Self {
        self.fallback = Some(price);
        self
    }

    /// Lets each process take slices of so many per cent (1 to 50) of each limit, and spend them from
    /// memory: calls of this budget wait for no round trip, until little is left of the limit.
    ///
    /// No limit is ever exceeded for it: what a process has taken counts as held for all others. What
    /// a process that died had not reported is of [unknown](State::Unknown) outcome, as one
    /// reservation. A change of the budget reaches slices when the process hears of it, within a
    /// moment, and else at its next [report](super::LeaseSettings::report_every); until then it admits
    /// no more than it has taken. Calls that no [`Permit`](crate::Permit) is for are not in the audit
    /// trail one by one, but in sums, with each report.
    #[must_use]
    pub const fn leased(mut self, percent: u8) -> Self {
        self.leased = Some(percent);
        self
    }

    /// How many per cent of each limit a process takes at a time; `None` if every call is charged by
    /// itself.
    #[must_use]
    pub const fn leased_percent(&self) -> Option<u8> {
        self.leased
    }

    /// Counts sessions and days that are not limited otherwise, without a limit: for an agent that
    /// may spend what it likes, on the record.
    #[must_use]
    pub fn unlimited(mut self) -> Self {
        self.session.get_or_insert_default();
        self.day.get_or_insert_default();
        self
    }

    /// Whose it is.
    #[must_use]
    pub const fn agent_id(&self) -> &AgentId {
        &self.agent
    }

    /// Its name; `None` stands for the default one.
    #[must_use]
    pub const fn name(&self) -> Option<&BudgetName> {
        self.name.as_ref()
    }

    /// The limits per session; `None` if sessions are not counted.
    #[must_use]
    pub const fn session_limits(&self) -> Option<Limits> {
        self.session
    }

    /// The limits per day; `None` if days are not counted.
    #[must_use]
    pub const fn day_limits(&self) -> Option<Limits> {
        self.day
    }

    pub(super) fn periods(&self) -> impl Iterator<Item = (Period, Limits)> {
        [(Period::Session, self.session), (Period::Day, self.day)]
            .into_iter()
            .filter_map(|(period, limits)| Some((period, limits?)))
    }

    /// The name, once every field is known to be one that can be enforced.
    pub(super) fn validate(&self) -> Result<BudgetName, CostError> {
        let wrong = |field, problem| Err(CostError::InvalidBudget { field, problem });
        if self.session.is_none() && self.day.is_none() {
            return wrong(
                "limits",
                "has no limit; call per_session, per_day or session_seconds, or unlimited",
            );
        }
        for (period, limits) in self.periods() {
            let (usd, tokens) = match period {
                Period::Session => ("per_session (USD)", "per_session (tokens)"),
                Period::Day => ("per_day (USD)", "per_day (tokens)"),
            };
            if limits.usd.is_some_and(|usd| usd <= Usd::ZERO) {
                return wrong(
                    usd,
                    "must be more than nothing; to stop an agent, halt it or remove its budget",
                );
            }
            match limits.tokens {
                Some(0) => {
                    return wrong(
                        tokens,
                        "must be more than nothing; to stop an agent, halt it or remove its budget",
                    );
                }
                Some(more) if i64::try_from(more).is_err() => {
                    return wrong(tokens, "must be at most 9223372036854775807");
                }
                _ => {}
            }
            if limits
                .seconds
                .is_some_and(|seconds| !(1..=MAX_SESSION_SECONDS).contains(&seconds))
            {
                return wrong("session_seconds", "must be from 1 to 86400");
            }
        }
        if (self.leased).is_some_and(|percent| !(1..=50).contains(&percent)) {
            return wrong("leased percentage", "must be from 1 to 50");
        }
        if self.fallback.is_some_and(|price| !price.is_valid()) {
            return wrong("fallback_price", "must not be negative");
        }
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => match BudgetName::parse(format!("agent:{}", self.agent)) {
                Ok(name) => Ok(name),
                Err(_) => wrong("name", "would be too long by default; call named"),
            },
        }
    }
}

fn set(limits: &mut Limits, limit: Amount) {
    match limit {
        Amount::Usd(amount) => limits.usd = Some(amount),
        Amount::Tokens(Tokens(amount)) => limits.tokens = Some(amount),
    }
}

/// How a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Charged at its ceiling, until it is settled or its lease runs out.
    Held,
    /// Its outcome is not known. It stays charged until somebody says what it was.
    Unknown,
    /// Charged at what it cost.
    Settled,
    /// Nothing happened; charged at nothing.
    Released,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unknown => "unknown",
            Self::Settled => "settled",
            Self::Released => "released",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Held, Self::Unknown, Self::Settled, Self::Released]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the cost gate behaves. The defaults are the strict ones.
#[derive(Clone, Debug)]
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
}

impl Default for CostSettings {
    fn default() -> Self {
        Self {
            prices: super::Prices::bundled(),
            fail_open: false,
            lease: Duration::from_mins(15),
            sweep_every: Duration::from_secs(30),
            leases: super::LeaseSettings::default(),
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
}
