//! How much of what.

use std::fmt;

use crate::money::Usd;

/// A number of tokens, in and out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a number with a name, written by callers"
)]
pub struct Tokens(pub u64);

/// A number of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a number with a name, written by callers"
)]
pub struct Calls(pub u64);

/// How much of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amount {
    /// Dollars.
    Usd(Usd),
    /// Tokens, in and out together.
    Tokens(Tokens),
    /// Calls.
    Calls(Calls),
}

impl Amount {
    /// The word that the audit trail uses for its unit.
    pub(super) const fn unit(&self) -> &'static str {
        match self {
            Self::Usd(_) => "usd",
            Self::Tokens(_) => "tokens",
            Self::Calls(_) => "calls",
        }
    }
}

impl From<Usd> for Amount {
    fn from(amount: Usd) -> Self {
        Self::Usd(amount)
    }
}

impl From<Tokens> for Amount {
    fn from(amount: Tokens) -> Self {
        Self::Tokens(amount)
    }
}

impl From<Calls> for Amount {
    fn from(amount: Calls) -> Self {
        Self::Calls(amount)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usd(amount) => write!(f, "{amount}"),
            Self::Tokens(Tokens(amount)) => write!(f, "{amount} tokens"),
            Self::Calls(Calls(1)) => f.write_str("1 call"),
            Self::Calls(Calls(amount)) => write!(f, "{amount} calls"),
        }
    }
}
