//! How a reservation stands.

use std::fmt;

/// How a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Charged at its ceiling, until it is settled or its lease runs out.
    Held,
    /// Its outcome is not known. It stays charged until somebody says what it was.
    Unknown,
    /// Charged at what it cost.
    Settled,
    /// Nothing happened; charged at nothing.
    Released,
    /// The call was made and came to nothing: it counts as a call, and costs nothing.
    Refunded,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unknown => "unknown",
            Self::Settled => "settled",
            Self::Released => "released",
            Self::Refunded => "refunded",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [
            Self::Held,
            Self::Unknown,
            Self::Settled,
            Self::Released,
            Self::Refunded,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
