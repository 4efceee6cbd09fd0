//! What the audit trail is told.

use super::advice::Advice;
use super::budget::{Budget, Limits, Subject};
use super::error::CostError;
use super::reservation::{Held, Settled};
use super::settings::Warning;
use super::settle::Ending;
use super::store::{Finished, Registered, Shortfall, Stored, Swept};
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
    let whose = &budget.subject;
    let mut event = about(whose, Kind::BudgetPolicyRegistered, name)
        .decision("registered")
        .with("on_limit", budget.on_limit.as_str());
    for (period, limits) in budget.periods() {
        let Limits {
            usd,
            tokens,
            calls,
            seconds,
        } = limits;
        // A colon is none of a field's name.
        let period = period.to_text().replace(':', "_");
        if let Some(usd) = usd {
            event = event.with(format!("{period}_usd"), money(usd));
        }
        if let Some(tokens) = tokens {
            event = event.with(format!("{period}_tokens"), number(tokens));
        }
        if let Some(calls) = calls {
            event = event.with(format!("{period}_calls"), number(calls));
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
    for percent in &budget.warn_at {
        event = event.with(format!("warn_at_{percent}"), true);
    }
    if let Some(percent) = budget.leased {
        event = event.with("leased_percent", u32::from(percent));
    }
    let mut events = vec![event];
    if let Registered::Done(overruns) = outcome {
        events.extend(overruns.iter().map(|over| {
            about(whose, Kind::BudgetExceeded, name)
                .decision("limit_lowered")
                .with("window", over.window.to_string())
                .with("overrun_usd", money(over.usd))
                .with("overrun_tokens", over.tokens.to_string())
                .with("overrun_calls", over.calls.to_string())
        }));
    }
    events
}

/// A budget went out of force.
pub(super) fn removed(name: &BudgetName, whose: &Subject) -> AuditEvent {
    about(whose, Kind::BudgetPolicyRegistered, name).decision("removed")
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
                .with("unit", limit.unit())
                .with("limit", limit.to_string())
                .with("left", left.to_string());
            "exceeded"
        }
        CostError::NeedsApproval {
            budget,
            window,
            missing,
            ..
        } => {
            event = event
                .with("budget", budget.as_str())
                .with("window", window.to_string())
                .with("unit", missing.unit())
                .with("missing", missing.to_string());
            "needs_approval"
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
        Ending::Refund => "refunded",
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

/// A budget passed one of its thresholds.
pub(super) fn warned(warning: &Warning) -> AuditEvent {
    AuditEvent::system(None, Kind::BudgetWarned)
        .decision(if warning.percent >= 100 {
            "full"
        } else {
            "threshold"
        })
        .with("budget", warning.budget.as_str())
        .with("window", warning.window.to_string())
        .with("percent", u32::from(warning.percent))
        .with("unit", warning.limit.unit())
        .with("limit", warning.limit.to_string())
        .with("taken", warning.taken.to_string())
}

/// The limit of a window was raised.
pub(super) fn topped_up(short: &Shortfall, id: &str, decision: &str) -> AuditEvent {
    AuditEvent::system(None, Kind::BudgetToppedUp)
        .decision(decision)
        .with("raise", id)
        .with("budget", short.budget.as_str())
        .with("window", short.window.to_string())
        .with("unit", short.amount.unit())
        .with("amount", short.amount.to_string())
}

/// A model was recommended.
pub(super) fn advised(who: &Principal, advice: &Advice) -> AuditEvent {
    let event = AuditEvent::system(Some(who), Kind::RoutingAdvised)
        .decision("advised")
        .model(&advice.model)
        .with("passed_over", number(count(advice.passed_over)));
    match advice.usd {
        Some(usd) => event.with("usd", money(usd)),
        None => event,
    }
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

fn about(whose: &Subject, kind: Kind, name: &BudgetName) -> AuditEvent {
    let who = whose.agent.clone().map(Principal::agent);
    let mut event = AuditEvent::system(who.as_ref(), kind).with("budget", name.as_str());
    if let Some(user) = &whose.user {
        event = event.with("user", user.as_str());
    }
    match &whose.model {
        Some(model) => event.model(model),
        None => event,
    }
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
