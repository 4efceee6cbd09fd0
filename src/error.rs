//! What can go wrong, sorted by who can do something about it.

use std::fmt;
use std::time::Duration;

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
        }
    }

    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
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
