//! What can go wrong, sorted by who can do something about it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::ids::RequestId;

/// Which of four answers an error asks for. Exhaustive on purpose: a host maps it to HTTP 403, 503,
/// 500 and 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a new kind must break the host's mapping"
)]
pub enum ErrorKind {
    /// A gate said no. Trying again changes nothing unless the remedy is followed.
    Denied,
    /// The answer could not be had. The call must not be made; it may be tried again.
    Unavailable,
    /// The caller's code or configuration is wrong.
    Misuse,
    /// What is stored is not what was written.
    Integrity,
}

/// The gates, in the order in which [`Governance::authorize`](crate::Governance::authorize) asks
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Gate {
    /// The call itself, before any gate: is it well formed?
    Call,
    /// The halt switch.
    Halt,
    /// What the agent may use.
    Scope,
    /// Whether the agent goes round in circles.
    Loops,
    /// What must hold before the call.
    Contracts,
    /// Whether a person has to agree.
    Approval,
    /// What the agent may spend.
    Cost,
    /// The decision's entry, which is on durable record before the permit is returned.
    Evidence,
}

impl Gate {
    /// The gate's name, as the audit trail spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Halt => "halt",
            Self::Scope => "scope",
            Self::Loops => "loops",
            Self::Contracts => "contracts",
            Self::Approval => "approval",
            Self::Cost => "cost",
            Self::Evidence => "evidence",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The modules that a host can switch off with
/// [`GovernanceBuilder::without`](crate::GovernanceBuilder::without).
///
/// Neither the halt switch nor the audit trail is among them. What cannot be stopped is not governed;
/// and every proof of this crate says that a decision is on record, which without a trail would be a
/// lie that compiles. [`Evidence::Spooled`](crate::audit::Evidence) is the cheap trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Module {
    /// What agents may use.
    Scope,
    /// What agents may spend.
    Cost,
    /// Agents that go round in circles.
    Loops,
    /// What a person has to agree to.
    Gates,
    /// Who is there.
    Presence,
    /// What must hold before and after a call.
    Contracts,
}

impl Module {
    /// Its name, as the audit trail spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Cost => "cost",
            Self::Loops => "loops",
            Self::Gates => "gates",
            Self::Presence => "presence",
            Self::Contracts => "contracts",
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What every call of a module answers that the host switched off: loudly absent, never quietly
/// inert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disabled {
    module: Module,
}

impl Disabled {
    /// Which module.
    #[must_use]
    pub const fn module(&self) -> Module {
        self.module
    }

    /// Which answer it asks for: [`ErrorKind::Misuse`].
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Misuse
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self.module {
            Module::Scope => "scope is switched off in this program",
            Module::Cost => "cost is switched off in this program",
            Module::Loops => "loops is switched off in this program",
            Module::Gates => "gates is switched off in this program",
            Module::Presence => "presence is switched off in this program",
            Module::Contracts => "contracts is switched off in this program",
        }
    }

    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self.module {
            Module::Scope => "build the handle without GovernanceBuilder::without(Module::Scope)",
            Module::Cost => "build the handle without GovernanceBuilder::without(Module::Cost)",
            Module::Loops => "build the handle without GovernanceBuilder::without(Module::Loops)",
            Module::Gates => "build the handle without GovernanceBuilder::without(Module::Gates)",
            Module::Presence => {
                "build the handle without GovernanceBuilder::without(Module::Presence)"
            }
            Module::Contracts => {
                "build the handle without GovernanceBuilder::without(Module::Contracts)"
            }
        }
    }
}

impl fmt::Display for Disabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason(), self.remedy())
    }
}

impl std::error::Error for Disabled {}

/// Which modules are switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    off: BTreeSet<Module>,
}

impl Switches {
    pub(crate) fn switch_off(&mut self, module: Module) {
        self.off.insert(module);
    }

    /// What the module is to answer every call, if it is switched off.
    pub(crate) fn disabled(&self, module: Module) -> Option<Disabled> {
        self.off.contains(&module).then_some(Disabled { module })
    }

    pub(crate) fn off(&self) -> impl Iterator<Item = Module> {
        self.off.iter().copied()
    }
}

/// A no: which gate, why, what would make it a yes, and when to try again.
///
/// Safe to show to a model: it never holds arguments, secrets, SQL or a URL, and does not reveal
/// what else a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    gate: Gate,
    kind: ErrorKind,
    reason: String,
    remedy: String,
    retry_after: Option<Duration>,
    request: Option<RequestId>,
}

impl Refusal {
    pub(crate) fn new(
        gate: Gate,
        kind: ErrorKind,
        reason: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            gate,
            kind,
            reason: reason.to_string(),
            remedy: remedy.into(),
            retry_after: None,
            request: None,
        }
    }

    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    pub(crate) fn about(mut self, request: Option<RequestId>) -> Self {
        self.request = request;
        self
    }

    /// The gate that refused.
    #[must_use]
    pub const fn gate(&self) -> Gate {
        self.gate
    }

    /// Which answer it asks for.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What would make it a yes.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// How long to wait before trying again; `None` if waiting does not help.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The request for a person's approval that the call waits for: what
    /// [`Gates::wait`](crate::gates::Gates::wait) takes.
    #[must_use]
    pub const fn request(&self) -> Option<RequestId> {
        self.request
    }

    /// Finds a refusal in `error` or in what caused it, however it was wrapped.
    #[must_use]
    pub fn find<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "refused by {}: {}; {}",
            self.gate, self.reason, self.remedy
        )
    }
}

impl std::error::Error for Refusal {}
