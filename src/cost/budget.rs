//! Budgets: whose, over what, how much.

mod validate;

use std::collections::BTreeMap;

use super::amount::{Amount, Calls, Tokens};
use super::price::Price;
use super::window::{Period, Rolling};
use crate::ids::{AgentId, BudgetName, ModelName, UserId};
use crate::money::Usd;

/// The limits over one period. Nothing is limited that is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Dollars.
    pub usd: Option<Usd>,
    /// Tokens, in and out together.
    pub tokens: Option<u64>,
    /// Calls.
    pub calls: Option<u64>,
    /// Seconds of wall time since the first admission; of sessions only.
    pub seconds: Option<u32>,
}

/// Whose calls a budget is for: those that fit every part that is named. One that names nothing is
/// the tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) agent: Option<AgentId>,
    pub(super) user: Option<UserId>,
    pub(super) model: Option<ModelName>,
}

/// What happens to a call that a budget has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnLimit {
    /// It is refused.
    #[default]
    Refuse,
    /// It is refused, and somebody may raise the limit once, by what is missing
    /// ([`CostError::NeedsApproval`](super::CostError::NeedsApproval)).
    Ask,
    /// It is let through, on the record: as overrun, and with a [`Warning`](super::Warning) at 100
    /// per cent.
    Warn,
}

impl OnLimit {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Ask => "ask",
            Self::Warn => "warn",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Refuse, Self::Ask, Self::Warn]
            .into_iter()
            .find(|choice| choice.as_str() == text)
    }
}

/// What an agent, a user, everybody who calls a model, or the whole tenant may spend.
///
/// A call is charged to every limit of every budget that it fits, or to none. The builder never fails:
/// what is wrong with a budget is said by [`Cost::register`](super::Cost::register).
///
/// **Who has a budget.** A call is admitted only if at least one limit of a budget that it fits is one
/// of dollars or tokens, or is declared [unlimited](Self::unlimited). Limits of calls, rates and
/// seconds restrict; by themselves they allow nothing
/// ([`CostError::NoBudget`](super::CostError::NoBudget)).
///
/// ```
/// use portcullis::{AgentId, ModelName, Usd, UserId};
/// use portcullis::cost::{Budget, Calls, Price, Rolling, Tokens};
///
/// let budget = Budget::for_agent(AgentId::parse("billing-agent")?)
///     .per_session(Usd::dollars(5))
///     .per_session(Tokens(200_000))
///     .per_day(Usd::dollars(50))
///     .session_seconds(3_600)
///     .fallback_price(Price::per_million(Usd::dollars(5), Usd::dollars(25)));
///
/// let customer = Budget::for_user(UserId::parse("u_381")?)
///     .per_month(Usd::dollars(20))
///     .rate(Calls(10), Rolling::SECOND);
/// let dear = Budget::for_model(ModelName::parse("gpt-5")?).per(Rolling::hours(6), Usd::dollars(30));
/// let company = Budget::for_tenant().per_month(Usd::dollars(5_000)).warn_at(80).warn_at(95);
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub(super) subject: Subject,
    pub(super) name: Option<BudgetName>,
    pub(super) limits: BTreeMap<Period, Limits>,
    pub(super) fallback: Option<Price>,
    pub(super) on_limit: OnLimit,
    /// Ascending, without duplicates.
    pub(super) warn_at: Vec<u8>,
    pub(super) leased: Option<u8>,
}

impl Budget {
    /// A budget of `agent`, without any limit yet.
    #[must_use]
    pub fn for_agent(agent: AgentId) -> Self {
        Self::for_tenant().and_agent(agent)
    }

    /// A budget of all calls on behalf of `user`, without any limit yet.
    #[must_use]
    pub fn for_user(user: UserId) -> Self {
        Self::for_tenant().and_user(user)
    }

    /// A budget of all calls of `model`, without any limit yet. Which model a call is of says its
    /// ceiling, name for name.
    #[must_use]
    pub fn for_model(model: ModelName) -> Self {
        Self::for_tenant().and_model(model)
    }

    /// A budget of every call of the tenant, without any limit yet.
    #[must_use]
    pub fn for_tenant() -> Self {
        Self {
            subject: Subject::default(),
            name: None,
            limits: BTreeMap::new(),
            fallback: None,
            on_limit: OnLimit::default(),
            warn_at: Vec::new(),
            leased: None,
        }
    }

    /// Only calls of `agent`.
    #[must_use]
    pub fn and_agent(mut self, agent: AgentId) -> Self {
        self.subject.agent = Some(agent);
        self
    }

    /// Only calls on behalf of `user`.
    #[must_use]
    pub fn and_user(mut self, user: UserId) -> Self {
        self.subject.user = Some(user);
        self
    }

    /// Only calls of `model`.
    #[must_use]
    pub fn and_model(mut self, model: ModelName) -> Self {
        self.subject.model = Some(model);
        self
    }

    /// The budget's name; by default whose it is: `agent:` and the agent's name, `user:` ..,
    /// `model:` .., these joined by `+`, or `tenant`. Registering a name again replaces the budget.
    #[must_use]
    pub fn named(mut self, name: BudgetName) -> Self {
        self.name = Some(name);
        self
    }

    /// At most so much in one session: [`Usd`], [`Tokens`] or [`Calls`]; call it again for others.
    #[must_use]
    pub fn per_session(self, limit: impl Into<Amount>) -> Self {
        self.over(Period::Session, limit)
    }

    /// At most so much on one UTC day.
    #[must_use]
    pub fn per_day(self, limit: impl Into<Amount>) -> Self {
        self.over(Period::Day, limit)
    }

    /// At most so much in one UTC month.
    #[must_use]
    pub fn per_month(self, limit: impl Into<Amount>) -> Self {
        self.over(Period::Month, limit)
    }

    /// At most so much in any window of this length.
    #[must_use]
    pub fn per(self, window: Rolling, limit: impl Into<Amount>) -> Self {
        self.over(Period::Rolling(window), limit)
    }

    /// At most so much, ever.
    #[must_use]
    pub fn for_ever(self, limit: impl Into<Amount>) -> Self {
        self.over(Period::Forever, limit)
    }

    /// At most so many calls in any window of this length.
    #[must_use]
    pub fn rate(self, calls: Calls, window: Rolling) -> Self {
        self.per(window, calls)
    }

    /// At most so much over `period`.
    #[must_use]
    pub fn over(mut self, period: Period, limit: impl Into<Amount>) -> Self {
        let limits = self.limits.entry(period).or_default();
        match limit.into() {
            Amount::Usd(amount) => limits.usd = Some(amount),
            Amount::Tokens(Tokens(amount)) => limits.tokens = Some(amount),
            Amount::Calls(Calls(amount)) => limits.calls = Some(amount),
        }
        self
    }

    /// Nothing is reserved later than so many seconds (1 to 86,400) after the session's first
    /// admission, by the database's clock.
    #[must_use]
    pub fn session_seconds(mut self, seconds: u32) -> Self {
        self.limits.entry(Period::Session).or_default().seconds = Some(seconds);
        self
    }

    /// The price of a model that has none. Without it, such a model is refused.
    #[must_use]
    pub const fn fallback_price(mut self, price: Price) -> Self {
        self.fallback = Some(price);
        self
    }

    /// Counts sessions and days that are not limited otherwise, without a limit: for an agent that
    /// may spend what it likes, on the record.
    #[must_use]
    pub fn unlimited(mut self) -> Self {
        self.limits.entry(Period::Session).or_default();
        self.limits.entry(Period::Day).or_default();
        self
    }

    /// What happens to a call that there is no room for.
    #[must_use]
    pub fn on_limit(mut self, choice: OnLimit) -> Self {
        self.on_limit = choice;
        match choice {
            // Passing the limit is the one thing that somebody must hear of.
            OnLimit::Warn => self.warn_at(100),
            OnLimit::Refuse | OnLimit::Ask => self,
        }
    }

    /// Warns when so many per cent of a limit are settled and held; call it again for several. Of a
    /// [leased](Self::leased) budget, what slices have left is not counted.
    #[must_use]
    pub fn warn_at(mut self, percent: u8) -> Self {
        if let Err(at) = self.warn_at.binary_search(&percent) {
            self.warn_at.insert(at, percent);
        }
        self
    }

    /// Lets each process take slices of so many per cent (1 to 50) of each limit, and spend them from
    /// memory: calls of this budget wait for no round trip, until little is left of the limit. Limits
    /// over rolling windows, and those that are [passed on purpose](OnLimit::Warn), are asked for each
    /// call all the same.
    ///
    /// No limit is ever exceeded for it: what a process has taken counts as held for all others. What
    /// a process that died had not reported is of [unknown](super::State::Unknown) outcome, as one
    /// reservation. A change of the budget reaches slices when the process hears of it, within a
    /// moment, and else at its next [report](super::LeaseSettings::report_every); until then it admits
    /// no more than it has taken. Calls that no [`Permit`](crate::Permit) is for are not in the audit
    /// trail one by one, but in sums, with each report.
    #[must_use]
    pub const fn leased(mut self, percent: u8) -> Self {
        self.leased = Some(percent);
        self
    }

    /// Whose agent's calls it is for; `None` for those of every agent.
    #[must_use]
    pub const fn agent_id(&self) -> Option<&AgentId> {
        self.subject.agent.as_ref()
    }

    /// On whose behalf the calls are that it is for; `None` for everybody.
    #[must_use]
    pub const fn user_id(&self) -> Option<&UserId> {
        self.subject.user.as_ref()
    }

    /// Which model the calls are of that it is for; `None` for all, and for calls without a model.
    #[must_use]
    pub const fn model(&self) -> Option<&ModelName> {
        self.subject.model.as_ref()
    }

    /// Its name; `None` stands for the default one.
    #[must_use]
    pub const fn name(&self) -> Option<&BudgetName> {
        self.name.as_ref()
    }

    /// The limits over `period`; `None` if it is not counted.
    #[must_use]
    pub fn limits(&self, period: Period) -> Option<Limits> {
        self.limits.get(&period).copied()
    }

    /// The limits per session; `None` if sessions are not counted.
    #[must_use]
    pub fn session_limits(&self) -> Option<Limits> {
        self.limits(Period::Session)
    }

    /// The limits per day; `None` if days are not counted.
    #[must_use]
    pub fn day_limits(&self) -> Option<Limits> {
        self.limits(Period::Day)
    }

    /// Every period that is counted, with its limits.
    pub fn periods(&self) -> impl Iterator<Item = (Period, Limits)> {
        self.limits
            .iter()
            .map(|(period, limits)| (*period, *limits))
    }

    /// What is asked of it when it is full.
    #[must_use]
    pub const fn at_limit(&self) -> OnLimit {
        self.on_limit
    }

    /// The thresholds, ascending.
    #[must_use]
    pub fn thresholds(&self) -> &[u8] {
        &self.warn_at
    }

    /// How many per cent a process may take at once; `None` if each call asks the store.
    #[must_use]
    pub const fn lease_percent(&self) -> Option<u8> {
        self.leased
    }
}
