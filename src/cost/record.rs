//! What the audit trail is told.

use super::budget::{Amount, Budget, Limits};
use super::error::CostError;
use super::reservation::{Held, Settled};
use super::settle::Ending;
use super::store::{Finished, Registered, Stored, Swept};
use crate::audit::{AuditEvent, Kind};
use crate::call::Principal;
use crate::ids::BudgetName;
use crate::money::Usd;
use crate::usage::Ceiling;

/// Money as text: nano-dollars of large amounts are beyond what every JSON reader reads exactly.
fn money(amount: Usd) -> String {
    amount.to_string()
}

/// Counts as text, for the same reason.
fn number(count: u64) -> String {
    count.to_string()
}

/// A budget came into force; then, per window, what is spent beyond it.
pub(super) fn registered(
    name: &BudgetName,
    budget: &Budget,
    outcome: &Registered,
) -> Vec<AuditEvent> {
    let who = Principal::agent(budget.agent.clone());
    let mut event = about(&who, Kind::BudgetPolicyRegistered, name).decision("registered");
    for (period, limits) in budget.periods() {
        let Limits {
            usd,
            tokens,
            seconds,
        } = limits;
        let period = period.as_str();
        if let Some(usd) = usd {
            event = event.with(format!("{period}_usd"), money(usd));
        }
        if let Some(tokens) = tokens {
            event = event.with(format!("{period}_tokens"), number(tokens));
        }
        if let Some(seconds) = seconds {
            event = event.with(format!("{period}_seconds"), seconds);
        }
        if limits == Limits::default() {
            event = event.with(format!("{period}_unlimited"), true);
        }
    }
    if let Some(price) = budget.fallback {
        event = event
            .with("fallback_input", money(price.input))
            .with("fallback_output", money(price.output));
    }
    let mut events = vec![event];
    if let Registered::Done(overruns) = outcome {
        events.extend(overruns.iter().map(|over| {
            about(&who, Kind::BudgetExceeded, name)
                .decision("limit_lowered")
                .with("window", over.window.to_string())
                .with("overrun_usd", money(over.usd))
                .with("overrun_tokens", over.tokens.to_string())
        }));
    }
    events
}

/// A budget went out of force.
pub(super) fn removed(name: &BudgetName, who: &Principal) -> AuditEvent {
    about(who, Kind::BudgetPolicyRegistered, name).decision("removed")
}

/// A call was refused.
pub(super) fn refused(held: &Held, ceiling: &Ceiling, error: &CostError) -> AuditEvent {
    let mut event = of(held, Kind::BudgetExceeded)
        .with("ceiling_tokens", number(ceiling.total_tokens()))
        .with("reason", error.reason());
    if let Some(usd) = held.usd {
        event = event.with("ceiling_usd", money(usd));
    }
    let word = match error {
        CostError::Exceeded {
            budget,
            window,
            limit,
            left,
            ..
        } => {
            event = event
                .with("budget", budget.as_str())
                .with("window", window.to_string())
                .with("unit", unit(limit))
                .with("limit", limit.to_string())
                .with("left", left.to_string());
            "exceeded"
        }
        CostError::SessionTooLong { budget, .. } => {
            event = event.with("budget", budget.as_str());
            "session_too_long"
        }
        CostError::NoBudget => "no_budget",
        CostError::UnknownModel => "unknown_model",
        _ => "unpriced",
    };
    event.decision(word)
}

/// The store could not be asked.
pub(super) fn check_failed(held: &Held, error: &CostError, fail_open: bool) -> AuditEvent {
    of(held, Kind::BudgetCheckFailed)
        .decision(if fail_open {
            "fail_open"
        } else {
            "fail_closed"
        })
        .with("reason", error.reason())
}

/// A reservation ended; if it cost more than its ceiling, that too.
pub(super) fn ended(
    held: &Held,
    ending: &Ending,
    settled: &Settled,
    finished: &Finished,
) -> Vec<AuditEvent> {
    let word = match ending {
        Ending::Settle(_) if finished.before == super::State::Unknown => "settled_late",
        Ending::Settle(_) => "settled",
        Ending::Charge(_) => "resolved_charged",
        Ending::Absolve => "resolved_released",
        Ending::Release | Ending::Forget => "released",
        Ending::Unknown(_) => "unknown",
    };
    let event = of(held, Kind::CostRecorded)
        .decision(word)
        .with("usd", money(settled.usd))
        .with("tokens", number(settled.tokens))
        .with("estimated", settled.estimated)
        .with("on_record_before", held.on_record);
    let parent = event.id();
    let mut events = vec![event];
    for charged in &finished.charged {
        let over_usd = charged.usd.minus_or_zero(charged.was_usd);
        let over_tokens = charged.tokens.saturating_sub(charged.was_tokens).max(0);
        if over_usd > Usd::ZERO || over_tokens > 0 {
            events.push(
                of(held, Kind::BudgetExceeded)
                    .caused_by(parent)
                    .decision("overrun")
                    .with("budget", charged.budget.as_str())
                    .with("window", charged.window.to_string())
                    .with("overrun_usd", money(over_usd))
                    .with("overrun_tokens", over_tokens.to_string()),
            );
        }
    }
    events
}

/// A lease ran out.
pub(super) fn swept(swept: &Swept) -> AuditEvent {
    let mut event = AuditEvent::system(Some(&principal(&swept.stored)), Kind::CostRecorded)
        .decision("unknown")
        .with("reservation", swept.id.to_string())
        .with("usd", money(swept.usd))
        .with("tokens", swept.tokens.to_string())
        .with("lease_expired", true);
    if let Some(model) = &swept.stored.model {
        event = event.model(model);
    }
    event
}

/// The principal of a stored reservation.
pub(super) fn principal(stored: &Stored) -> Principal {
    let who = Principal::agent(stored.agent.clone()).session(stored.session.clone());
    match &stored.user {
        Some(user) => who.on_behalf_of(user.clone()),
        None => who,
    }
}

const fn unit(amount: &Amount) -> &'static str {
    match amount {
        Amount::Usd(_) => "usd",
        Amount::Tokens(_) => "tokens",
    }
}

fn about(who: &Principal, kind: Kind, name: &BudgetName) -> AuditEvent {
    AuditEvent::system(Some(who), kind).with("budget", name.as_str())
}

fn of(held: &Held, kind: Kind) -> AuditEvent {
    let mut event =
        AuditEvent::system(Some(&held.who), kind).with("reservation", held.id.to_string());
    if let Some(call) = held.call {
        event = event.with("call_id", call.to_string());
    }
    match &held.model {
        Some(model) => event.model(model),
        None => event,
    }
}
