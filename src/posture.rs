//! What protects, and how: for an operator's eyes, for evidence, and for
//! [`strict`](crate::GovernanceBuilder::strict).

use std::fmt;

use crate::error::{ErrorKind, Gate, Module};
use crate::governance::Governance;
use crate::ids::AgentId;
use crate::time::Timestamp;

/// How many agents are named.
const NAMED: usize = 8;

impl Governance {
    /// Every gate in the order in which it is asked: what it does while the store is away, what is
    /// loaded, and what is missing. From memory: nobody is asked.
    ///
    /// Naming what is loaded takes a second where there are a million policies.
    #[must_use]
    pub fn posture(&self) -> Posture {
        Posture {
            // A module that decides has its line here.
            gates: vec![
                self.halt_line(),
                self.scope_line(),
                self.cost_line(),
                evidence(),
            ],
            switched_off: self.switches().off().collect(),
            strict: self.settings().strict,
        }
    }

    /// Refuses, if the builder was told to be strict, what does not protect.
    pub(crate) async fn hold_to_strict(&self) -> Result<(), Unprotected> {
        if !self.settings().strict {
            return Ok(());
        }
        let mut missing = self.posture().missing();
        if let Err(error) = self.audit().prepare_journal().await {
            missing.push(format!("audit: the journal cannot be used: {error}"));
        }
        match self.store().health().await {
            Ok(health) => {
                let failed = health.checks.into_iter().filter(|check| !check.ok);
                missing.extend(failed.map(|check| format!("{}: {}", check.name, check.detail)));
            }
            Err(error) => missing.push(error.to_string()),
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Unprotected { missing })
        }
    }

    fn halt_line(&self) -> GatePosture {
        let _ = self.halt();
        GatePosture::new(Gate::Halt, StoreAway::Memory)
    }

    fn scope_line(&self) -> GatePosture {
        let mut line = GatePosture::new(Gate::Scope, StoreAway::Memory);
        if !self.scope().is_on() {
            return line.off();
        }
        let status = self.scope().status();
        if status.agents == 0 && status.pinned.is_empty() {
            line.lacks("no policy is in force; register or pin one");
        }
        if let Some(agents) = named(&status.broken) {
            line.lacks(format!(
                "stored policies cannot be read, and everything is denied: register them again: {agents}"
            ));
        }
        if let Some(agents) = named(&status.kept) {
            line.lacks(format!(
                "stored policies cannot be read, and older ones are in force: register them again: {agents}"
            ));
        }
        if status.failing {
            line.lacks("the stored policies could not be read at the last look");
        }
        line.loaded = Some(Loaded {
            stored: status.agents,
            pinned: status.pinned.len(),
            revision: status.revision,
            hash: hex::encode(self.scope().in_force()),
            as_of: status.loaded_at,
        });
        line
    }

    fn cost_line(&self) -> GatePosture {
        let away = if self.cost().fails_open() {
            StoreAway::Open
        } else {
            StoreAway::Closed
        };
        let line = GatePosture::new(Gate::Cost, away);
        if self.cost().is_on() {
            line
        } else {
            line.off()
        }
    }
}

/// The first of `agents`, and how many more there are; `None` if there is none.
fn named(agents: &[AgentId]) -> Option<String> {
    let first: Vec<&str> = agents.iter().take(NAMED).map(AgentId::as_str).collect();
    match agents.len().checked_sub(NAMED) {
        _ if first.is_empty() => None,
        Some(more) if more > 0 => Some(format!("{} and {more} more", first.join(", "))),
        _ => Some(first.join(", ")),
    }
}

fn evidence() -> GatePosture {
    GatePosture::new(Gate::Evidence, StoreAway::Journal)
}

/// What protects, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posture {
    /// The gates, in the order in which they are asked.
    pub gates: Vec<GatePosture>,
    /// What the host switched off.
    pub switched_off: Vec<Module>,
    /// Whether the handle would not have opened with something missing.
    pub strict: bool,
}

impl Posture {
    /// The line of one gate.
    #[must_use]
    pub fn of(&self, gate: Gate) -> Option<&GatePosture> {
        self.gates.iter().find(|line| line.gate == gate)
    }

    /// What should protect and does not, gate by gate; empty if all is well.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let lines = self.gates.iter();
        lines
            .flat_map(|line| {
                line.missing
                    .iter()
                    .map(|what| format!("{}: {what}", line.gate))
            })
            .collect()
    }
}

/// How one gate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatePosture {
    /// The gate.
    pub gate: Gate,
    /// What it does while the store is away.
    pub store_away: StoreAway,
    /// What is loaded; `None` for a gate that loads nothing.
    pub loaded: Option<Loaded>,
    /// What should protect and does not.
    pub missing: Vec<String>,
}

impl GatePosture {
    const fn new(gate: Gate, store_away: StoreAway) -> Self {
        Self {
            gate,
            store_away,
            loaded: None,
            missing: Vec::new(),
        }
    }

    fn off(self) -> Self {
        Self {
            store_away: StoreAway::SwitchedOff,
            ..self
        }
    }

    fn lacks(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }
}

/// What a gate does while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreAway {
    /// Decides from what is loaded.
    Memory,
    /// Refuses.
    Closed,
    /// Lets through, and says so in the trail.
    Open,
    /// Goes on with the entry in the journal on the local disk; refuses if that cannot be written.
    Journal,
    /// Nothing, at any time: the host switched it off.
    SwitchedOff,
}

/// What a gate has loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// How many policies are stored.
    pub stored: usize,
    /// How many this program pinned.
    pub pinned: usize,
    /// Counts the changes of what is stored.
    pub revision: i64,
    /// SHA-256 in hex, over the hashes of all policies in force: the same in every process in which
    /// the same is in force.
    pub hash: String,
    /// When what is in force was last known to be what is stored.
    pub as_of: Option<Timestamp>,
}

/// Something that should protect does not, and the builder was told to be strict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprotected {
    missing: Vec<String>,
}

impl Unprotected {
    /// What does not protect, and what to do about each.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Which answer it asks for: [`ErrorKind::Misuse`].
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Misuse
    }
}

impl fmt::Display for Unprotected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "strict: not everything protects: {}",
            self.missing.join("; ")
        )
    }
}

impl std::error::Error for Unprotected {}
