//! Why a command could not do its work, in words for whoever typed it.

use std::fmt;

/// A message without a secret in it, which says what to do.
#[derive(Clone, Debug)]
pub(crate) struct Fault(String);

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// For `map_err`: what was being done, then why it could not be.
    pub(crate) fn during<E: fmt::Display>(doing: &'static str) -> impl Fn(E) -> Self {
        move |error| Self(format!("{doing}: {error}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
