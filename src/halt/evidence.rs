//! What the halt switch puts on record.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Halted;
use super::model::{Order, Target, WhenStale};
use crate::audit::{Audit, AuditEvent, Kind};
use crate::call::Principal;
use crate::ids::{AgentId, OperatorId, SessionId};

/// How often the refusals of one agent and session are put on record, counted.
const EVERY: Duration = Duration::from_secs(1);
/// How many agents and sessions are told apart; those beyond are counted together.
const APART: usize = 4_096;

/// A halt. `decision`: `halted`, or `halted_here` if no other process knows of it yet.
pub(super) fn halted(order: &Order, decision: &str) -> AuditEvent {
    about(Kind::AgentHalted, &order.target, &order.by, &order.why).decision(decision)
}

/// A resumption.
pub(super) fn resumed(target: &Target, by: &OperatorId, why: &str) -> AuditEvent {
    about(Kind::AgentResumed, target, by, why).decision("resumed")
}

fn about(kind: Kind, target: &Target, by: &OperatorId, why: &str) -> AuditEvent {
    let mut event = AuditEvent::system(None, kind)
        .with("target", target.word())
        .with("operator_id", by.as_str())
        .with("why", why);
    if let Some(agent) = target.agent() {
        event = event.with("agent", agent.as_str());
    }
    if let Some(session) = target.session() {
        event = event.with("session", session.as_str());
    }
    event
}

/// What is known of halts is older than its bound, or no longer.
pub(super) fn stale(age: Duration, bound: Duration, when: WhenStale, over: bool) -> AuditEvent {
    let setting = match when {
        WhenStale::HoldLastKnown => "hold_last_known",
        WhenStale::CountAsHalted => "count_as_halted",
    };
    AuditEvent::system(None, Kind::HaltStateStale)
        .decision(if over { "fresh" } else { "stale" })
        .with("age_ms", millis(age))
        .with("bound_ms", millis(bound))
        .with("when_stale", setting)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Refused calls: each agent and session's first at once, then counted.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    total: AtomicU64,
    recent: Mutex<HashMap<(AgentId, SessionId), Recent>>,
}

#[derive(Debug)]
struct Recent {
    who: Principal,
    since: Instant,
    /// Those that are not on record yet.
    unsaid: u64,
    word: &'static str,
}

impl Refusals {
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Counts a refusal, and puts it on record unless one of the same agent and session just was.
    pub(super) fn note(&self, audit: &Audit, who: &Principal, halted: &Halted) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let key = (who.agent_id().clone(), who.session_id().clone());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent.get_mut(&key) {
            known.unsaid += 1;
            known.word = halted.word();
            return;
        }
        if recent.len() >= APART {
            // Memory is bounded: `total` has it, the trail does not.
            return;
        }
        let known = Recent {
            who: who.clone(),
            since: now,
            unsaid: 0,
            word: halted.word(),
        };
        recent.insert(key, known);
        drop(recent);
        audit.log_detached(refusals(who, halted.word(), 1));
    }

    /// Puts on record what was only counted, of those whose second is over; of all if `now` is none.
    pub(super) fn flush(&self, audit: &Audit, now: Option<Instant>) {
        let mut due = Vec::new();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, known| {
            if now.is_some_and(|now| now.duration_since(known.since) < EVERY) {
                return true;
            }
            if known.unsaid == 0 {
                return false;
            }
            due.push(refusals(&known.who, known.word, known.unsaid));
            known.unsaid = 0;
            known.since = now.unwrap_or(known.since);
            now.is_some()
        });
        drop(recent);
        for event in due {
            audit.log_detached(event);
        }
    }
}

fn refusals(who: &Principal, word: &'static str, count: u64) -> AuditEvent {
    AuditEvent::system(Some(who), Kind::AgentHaltBlockedCall)
        .decision("deny")
        .with("halted", word)
        .with("count", count)
}
