//! The line of each gate.

use super::model::{Freshness, GatePosture, Loaded, StoreAway};
use crate::error::Gate;
use crate::governance::Governance;

/// How many policies are named.
const NAMED: usize = 8;

impl Governance {
    pub(super) fn halt_line(&self) -> GatePosture {
        let away = if self.halt().stops_when_stale() {
            StoreAway::MemoryUntilStale
        } else {
            StoreAway::Memory
        };
        let mut line = GatePosture::new(Gate::Halt, away);
        let status = self.halt().status();
        if status.stale {
            line.lacks(format!(
                "what is known of halts is {} ms old, and may be {}; check the database",
                status.age.as_millis(),
                status.stale_after.as_millis()
            ));
        }
        if status.not_stored > 0 {
            line.lacks(format!(
                "{} halts are in force in this process alone; check the database",
                status.not_stored
            ));
        }
        line.freshness = Some(Freshness {
            age: status.age,
            bound: status.stale_after,
            stale: status.stale,
            heard: status.heard,
        });
        line
    }

    pub(super) fn scope_line(&self) -> GatePosture {
        let mut line = GatePosture::new(Gate::Scope, StoreAway::Memory);
        if !self.scope().is_on() {
            return line.off();
        }
        let status = self.scope().status();
        if status.agents == 0 && status.pinned.is_empty() {
            line.lacks("no policy is in force; register or pin one");
        }
        line.unreadable(&status.broken, "everything is denied");
        line.unreadable(&status.kept, "older ones are in force");
        line.failing(status.failing);
        line.loaded = Some(Loaded {
            stored: status.agents,
            pinned: status.pinned.len(),
            revision: status.revision,
            hash: hex::encode(self.scope().in_force()),
            as_of: status.loaded_at,
            names: Vec::new(),
        });
        line
    }

    pub(super) fn loops_line(&self) -> GatePosture {
        let mut line = GatePosture::new(Gate::Loops, StoreAway::Memory);
        if !self.loops().is_on() {
            return line.off();
        }
        let status = self.loops().status();
        line.unreadable(&status.broken, "older ones or the defaults are in force");
        line.failing(status.failing);
        line.loaded = Some(Loaded {
            stored: status.stored,
            pinned: status.pinned,
            revision: status.revision,
            hash: hex::encode(self.loops().in_force()),
            as_of: status.looked_at,
            names: Vec::new(),
        });
        line
    }

    pub(super) fn contracts_line(&self) -> GatePosture {
        let mut line = GatePosture::new(Gate::Contracts, StoreAway::Memory);
        if !self.contracts().is_on() {
            return line.off();
        }
        let status = self.contracts().status();
        line.unreadable(&status.broken, "every call is refused");
        line.unreadable(&status.kept, "older ones are in force");
        if let Some(names) = named(&status.undefined) {
            line.lacks(format!(
                "checks that contracts name are not defined in this program, and their calls are refused: define them with the builder's contract_check: {names}"
            ));
        }
        line.failing(status.failing);
        line.loaded = Some(Loaded {
            stored: status.stored.len(),
            pinned: status.registered.len(),
            revision: status.revision,
            // Of checks that are code, the names are all that can be told.
            hash: hex::encode(self.contracts().in_force()),
            as_of: status.looked_at,
            names: self.contracts().names(),
        });
        line
    }

    pub(super) fn approval_line(&self) -> GatePosture {
        let mut line = GatePosture::new(Gate::Approval, StoreAway::Closed);
        if !self.gates().is_on() {
            return line.off();
        }
        let status = self.gates().status();
        line.unreadable(&status.broken, "these agents are refused everything");
        line.unreadable(&status.kept, "older ones are in force");
        line.failing(status.failing);
        line.loaded = Some(Loaded {
            stored: status.policies.len() + status.broken.len(),
            pinned: 0,
            revision: status.revision,
            hash: hex::encode(self.gates().in_force()),
            as_of: status.looked_at,
            names: Vec::new(),
        });
        line
    }

    pub(super) fn cost_line(&self) -> GatePosture {
        let away = if self.cost().fails_open() {
            StoreAway::Open
        } else {
            StoreAway::Closed
        };
        let mut line = GatePosture::new(Gate::Cost, away);
        if !self.cost().is_on() {
            return line.off();
        }
        let status = self.cost().status();
        if !status.sweeping {
            line.lacks("nobody looks for leases that ran out; open the handle again");
        } else if status.sweep_late || status.sweep_failing {
            line.lacks("leases that ran out are not found; check the database");
        }
        if status.slices_failing > 0 {
            line.lacks(format!(
                "what is spent of {} slices is not reported; check the database",
                status.slices_failing
            ));
        }
        if status.endings_failing {
            line.lacks("what calls cost is not charged yet; check the database");
        }
        line
    }

    pub(super) fn evidence_line(&self) -> GatePosture {
        let mut line = GatePosture::new(Gate::Evidence, StoreAway::Journal);
        let stats = self.audit().stats();
        if stats.lost > 0 {
            line.lacks(format!(
                "{} entries are nowhere: neither the database nor the journal took them",
                stats.lost
            ));
        }
        line
    }
}

impl GatePosture {
    /// Says whose stored policies cannot be read, if any, and what follows.
    fn unreadable<N: AsRef<str>>(&mut self, whose: &[N], so: &str) {
        if let Some(names) = named(whose) {
            self.lacks(format!(
                "stored policies cannot be read, and {so}: register them again: {names}"
            ));
        }
    }

    fn failing(&mut self, failing: bool) {
        if failing {
            self.lacks("the stored policies could not be read at the last look");
        }
    }
}

/// The first of `all`, and how many more there are; `None` if there is none.
fn named<N: AsRef<str>>(all: &[N]) -> Option<String> {
    let first: Vec<&str> = all.iter().take(NAMED).map(AsRef::as_ref).collect();
    match all.len().checked_sub(NAMED) {
        _ if first.is_empty() => None,
        Some(more) if more > 0 => Some(format!("{} and {more} more", first.join(", "))),
        _ => Some(first.join(", ")),
    }
}
