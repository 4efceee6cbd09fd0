//! What a check is told of a call.

use std::fmt;

use crate::call::{Action, Parts, Principal};

/// What a check is told of a call.
#[derive(Clone)]
pub struct About {
    principal: Principal,
    action: Action,
    resource: Option<String>,
    capability: Option<String>,
    labels: Vec<String>,
    args: Option<String>,
    completed: Option<bool>,
    pub(super) digest: [u8; 32],
}

impl About {
    pub(super) fn of(parts: &Parts<'_>, digest: &[u8; 32]) -> Self {
        Self {
            principal: parts.principal.clone(),
            action: parts.action.clone(),
            resource: parts.resource.map(str::to_owned),
            capability: parts.capability.map(str::to_owned),
            labels: parts.labels.to_vec(),
            args: parts.args.map(str::to_owned),
            completed: None,
            digest: *digest,
        }
    }

    pub(super) fn ended(&self, completed: bool) -> Self {
        Self {
            completed: Some(completed),
            ..self.clone()
        }
    }

    /// Who makes the call.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What is called.
    #[must_use]
    pub const fn action(&self) -> &Action {
        &self.action
    }

    /// What is acted on.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.resource.as_deref()
    }

    /// What it is an exercise of.
    #[must_use]
    pub fn capability(&self) -> Option<&str> {
        self.capability.as_deref()
    }

    /// What is known of it, in order.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The arguments, as canonical JSON.
    #[must_use]
    pub fn args(&self) -> Option<&str> {
        self.args.as_deref()
    }

    /// Whether the call completed; `None` before it began.
    #[must_use]
    pub const fn completed(&self) -> Option<bool> {
        self.completed
    }
}

impl fmt::Debug for About {
    /// Without the arguments, which are the caller's content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("About")
            .field("principal", &self.principal)
            .field("action", &self.action)
            .field("completed", &self.completed)
            .finish_non_exhaustive()
    }
}
