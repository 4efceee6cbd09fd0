//! What the audit trail is told of slices.

use super::hold::Hold;
use super::store::Renewal;
use super::unknown::Left;
use crate::audit::{AuditEvent, Kind};
use crate::call::Principal;
use crate::cost::reservation::Settled;
use crate::ids::{CallId, ModelName};
use crate::money::Usd;

/// What was spent of a slice since it was last reported, by all calls together.
pub(super) fn spent_of_slice(hold: &Hold, renewal: &Renewal) -> AuditEvent {
    let [usd, tokens, calls] = renewal.spent;
    AuditEvent::system(Some(&hold.who), Kind::CostRecorded)
        .decision("slice_spent")
        .with("budget", hold.of.budget.as_str())
        .with("period", hold.of.period.to_text())
        .with("window", hold.of.key.as_str())
        .with("lease", renewal.lease.to_string())
        .with("calls", calls.to_string())
        .with("usd", Usd::nanos(usd).to_string())
        .with("tokens", tokens.to_string())
}

/// A call that was charged to slices is of unknown outcome.
pub(super) fn left(left: &Left) -> AuditEvent {
    let [usd, tokens, _] = left.charged;
    of(
        &left.who,
        Kind::CostRecorded,
        left.call,
        left.model.as_ref(),
    )
    .decision("unknown")
    .with("reservation", left.id.to_string())
    .with("usd", Usd::nanos(usd).to_string())
    .with("tokens", tokens.to_string())
    .with("from_slices", true)
}

/// A call that was charged to slices ended; if it cost more than its ceiling, that too.
pub(super) fn ended(
    who: &Principal,
    call: Option<CallId>,
    model: Option<&ModelName>,
    settled: &Settled,
    word: &'static str,
) -> Vec<AuditEvent> {
    let event = of(who, Kind::CostRecorded, call, model)
        .decision(word)
        .with("reservation", settled.id.to_string())
        .with("usd", settled.usd.to_string())
        .with("tokens", settled.tokens.to_string())
        .with("estimated", settled.estimated)
        .with("from_slices", true);
    let parent = event.id();
    let mut events = vec![event];
    if settled.overrun > Usd::ZERO || settled.overrun_tokens > 0 {
        events.push(
            of(who, Kind::BudgetExceeded, call, model)
                .caused_by(parent)
                .decision("overrun")
                .with("reservation", settled.id.to_string())
                .with("overrun_usd", settled.overrun.to_string())
                .with("overrun_tokens", settled.overrun_tokens.to_string()),
        );
    }
    events
}

fn of(who: &Principal, kind: Kind, call: Option<CallId>, model: Option<&ModelName>) -> AuditEvent {
    let mut event = AuditEvent::system(Some(who), kind);
    if let Some(call) = call {
        event = event.with("call_id", call.to_string());
    }
    match model {
        Some(model) => event.model(model),
        None => event,
    }
}
