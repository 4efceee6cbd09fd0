//! What could not be signed, said in the trail: once for each agent and a while, with a count.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record;
use crate::audit::model::AuditEvent;
use crate::ids::AgentId;
use crate::time::Timestamp;

/// How long the failures of one agent are counted before they are said again, in microseconds.
const WHILE: i64 = 60_000_000;
/// The most agents that are told apart. Callers choose the names; what is beyond is only in the
/// statistics.
const MOST: usize = 1_000;

/// What went unsigned and is not on record yet. `None` stands for heads.
#[derive(Debug, Default)]
pub(super) struct Missing(Mutex<BTreeMap<Option<AgentId>, Unsaid>>);

#[derive(Debug)]
struct Unsaid {
    count: u64,
    since: Timestamp,
    said: Timestamp,
    reason: &'static str,
}

impl Missing {
    /// Counts one more; answers with an entry when it is time for one. The first is said at once.
    pub(super) fn count(
        &self,
        agent: Option<&AgentId>,
        reason: &'static str,
        now: Timestamp,
    ) -> Option<AuditEvent> {
        let mut all = self.lock();
        let key = agent.cloned();
        if !all.contains_key(&key) && all.len() >= MOST {
            return None;
        }
        let mut first = false;
        let unsaid = all.entry(key).or_insert_with(|| {
            first = true;
            Unsaid {
                count: 0,
                since: now,
                said: now,
                reason,
            }
        });
        if unsaid.count == 0 {
            unsaid.since = now;
        }
        unsaid.count = unsaid.count.saturating_add(1);
        unsaid.reason = reason;
        if !first && now.as_micros().saturating_sub(unsaid.said.as_micros()) < WHILE {
            return None;
        }
        unsaid.said = now;
        let count = std::mem::take(&mut unsaid.count);
        Some(record::unsigned(agent, count, unsaid.since, reason))
    }

    /// What is not said yet of agents, at the end. The heads of a last batch would be without end.
    pub(super) fn rest(&self) -> Vec<AuditEvent> {
        let mut all = self.lock();
        let left = all
            .iter_mut()
            .filter(|(agent, unsaid)| agent.is_some() && unsaid.count > 0);
        left.map(|(agent, unsaid)| {
            let count = std::mem::take(&mut unsaid.count);
            record::unsigned(agent.as_ref(), count, unsaid.since, unsaid.reason)
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<AgentId>, Unsaid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    fn said(event: &AuditEvent) -> u64 {
        let said = event.metadata.as_ref().unwrap().get("count");
        said.and_then(serde_json::Value::as_u64).unwrap()
    }

    #[test]
    fn the_first_is_said_at_once_and_the_rest_is_counted() {
        let (missing, now) = (Missing::default(), Timestamp::from_micros(5));
        let (a, b) = (agent("a"), agent("b"));
        assert_eq!(
            missing.count(Some(&a), "x", now).as_ref().map(said),
            Some(1)
        );
        assert!((0..9).all(|_| missing.count(Some(&a), "x", now).is_none()));
        assert!(
            missing.count(Some(&b), "x", now).is_some(),
            "each agent for itself"
        );
        assert!(missing.count(None, "x", now).is_some());
        assert!(missing.count(None, "x", now).is_none());
        let rest = missing.rest();
        assert_eq!(rest.iter().map(said).collect::<Vec<_>>(), [9]);
        assert!(missing.rest().is_empty());
    }

    #[test]
    fn after_a_while_it_is_said_again_with_all_since() {
        let (missing, now) = (Missing::default(), Timestamp::from_micros(5));
        let a = agent("a");
        missing.count(Some(&a), "x", now).unwrap();
        assert!(missing.count(Some(&a), "x", now).is_none());
        let later = Timestamp::from_micros(5 + WHILE);
        assert_eq!(
            missing.count(Some(&a), "x", later).as_ref().map(said),
            Some(2)
        );
        assert!(missing.count(Some(&a), "x", later).is_none());
    }

    #[test]
    fn names_that_callers_make_up_fill_no_memory() {
        let (missing, now) = (Missing::default(), Timestamp::from_micros(5));
        let told = (0..MOST + 50)
            .filter(|n| {
                missing
                    .count(Some(&agent(&format!("a{n}"))), "x", now)
                    .is_some()
            })
            .count();
        assert_eq!((told, missing.lock().len()), (MOST, MOST));
    }
}
