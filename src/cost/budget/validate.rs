//! What can be enforced, and what cannot.

use super::{Budget, Limits, Subject};
use crate::cost::error::CostError;
use crate::cost::window::Period;
use crate::ids::BudgetName;
use crate::money::Usd;

/// The longest that a session may be limited to, in seconds.
const MAX_SESSION_SECONDS: u32 = 86_400;
/// The most thresholds of one budget.
const MAX_THRESHOLDS: usize = 16;

const NOTHING: &str = "must be more than nothing; to stop an agent, halt it or remove its budget";
const TOO_MUCH: &str = "must be at most 9223372036854775807";

type Wrong = (&'static str, &'static str);

impl Budget {
    /// The name, once every field is known to be one that can be enforced.
    pub(in crate::cost) fn validate(&self) -> Result<BudgetName, CostError> {
        let (field, problem) = match self.problem() {
            Some(problem) => problem,
            None => match &self.name {
                Some(name) => return Ok(name.clone()),
                None => match BudgetName::parse(self.subject.default_name()) {
                    Ok(name) => return Ok(name),
                    Err(_) => ("name", "would be too long by default; call named"),
                },
            },
        };
        Err(CostError::InvalidBudget { field, problem })
    }

    fn problem(&self) -> Option<Wrong> {
        if self.limits.is_empty() {
            return Some((
                "limits",
                "has no limit; call per_session, per_day, per_month, per, for_ever, rate or session_seconds, or unlimited",
            ));
        }
        if let Some(wrong) = self
            .periods()
            .find_map(|(period, limits)| limits.problem(period))
        {
            return Some(wrong);
        }
        if self.fallback.is_some_and(|price| !price.is_valid()) {
            return Some(("fallback_price", "must not be negative"));
        }
        if self.warn_at.iter().any(|at| !(1..=100).contains(at)) {
            return Some(("warn_at", "must be from 1 to 100 per cent"));
        }
        if self.warn_at.len() > MAX_THRESHOLDS {
            return Some(("warn_at", "must be 16 thresholds at most"));
        }
        if self.leased.is_some_and(|part| !(1..=50).contains(&part)) {
            return Some(("leased", "must be from 1 to 50 per cent"));
        }
        None
    }
}

impl Limits {
    fn problem(&self, period: Period) -> Option<Wrong> {
        let [usd, tokens, calls] = fields(period);
        if let Period::Rolling(window) = period
            && !window.is_valid()
        {
            return Some(("per (window)", "must be from a second to 366 days"));
        }
        if self.usd.is_some_and(|usd| usd <= Usd::ZERO) {
            return Some((usd, NOTHING));
        }
        for (field, amount) in [(tokens, self.tokens), (calls, self.calls)] {
            match amount {
                Some(0) => return Some((field, NOTHING)),
                Some(more) if i64::try_from(more).is_err() => return Some((field, TOO_MUCH)),
                _ => {}
            }
        }
        let seconds = self.seconds?;
        let wrong = !(1..=MAX_SESSION_SECONDS).contains(&seconds);
        wrong.then_some(("session_seconds", "must be from 1 to 86400"))
    }
}

const fn fields(period: Period) -> [&'static str; 3] {
    match period {
        Period::Session => [
            "per_session (USD)",
            "per_session (tokens)",
            "per_session (calls)",
        ],
        Period::Day => ["per_day (USD)", "per_day (tokens)", "per_day (calls)"],
        Period::Month => ["per_month (USD)", "per_month (tokens)", "per_month (calls)"],
        Period::Rolling(_) => ["per (USD)", "per (tokens)", "per (calls)"],
        Period::Forever => ["for_ever (USD)", "for_ever (tokens)", "for_ever (calls)"],
    }
}

impl Subject {
    fn default_name(&self) -> String {
        let parts = [
            self.agent.as_ref().map(|agent| format!("agent:{agent}")),
            self.user.as_ref().map(|user| format!("user:{user}")),
            self.model.as_ref().map(|model| format!("model:{model}")),
        ];
        let named: Vec<String> = parts.into_iter().flatten().collect();
        if named.is_empty() {
            return "tenant".to_owned();
        }
        named.join("+")
    }
}
