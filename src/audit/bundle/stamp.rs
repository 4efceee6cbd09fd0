//! What timestamp tokens come to. Their form is nothing that is known here: who is trusted brings
//! along how to check them.

use std::fmt;
use std::sync::Arc;

use crate::audit::anchor::AnchorError;
use crate::time::Timestamp;

/// The kind of an anchor's receipt that is such a token.
pub(super) const KIND: &str = "rfc3161";
/// The most tokens that are kept; all are counted.
const MAX_TOKENS: usize = 1_000;

/// That an authority saw a checkpoint at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stamp {
    /// The time that it vouches for.
    pub at: Timestamp,
    /// Its name, as its certificate has it.
    pub authority: String,
}

impl Stamp {
    /// What a token that was checked says.
    #[must_use]
    pub fn new(at: Timestamp, authority: impl Into<String>) -> Self {
        Self {
            at,
            authority: authority.into(),
        }
    }
}

/// One timestamp token of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimestampToken {
    /// The name of the anchor that gave it.
    pub anchor: String,
    /// The line of the bundle, from 1.
    pub line: u64,
    /// The size of the tree whose checkpoint it should stamp.
    pub size: u64,
    /// What became of it.
    pub outcome: TokenOutcome,
}

/// What became of a timestamp token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenOutcome {
    /// It stamps the checkpoint, and is of an authority that was named.
    Valid(Stamp),
    /// It does not; there is a finding that says why.
    Invalid(&'static str),
    /// No authority was named.
    NotChecked,
}

type Check = dyn Fn(&str, &[u8]) -> Result<Stamp, AnchorError> + Send + Sync;

/// How tokens are checked.
#[derive(Clone)]
pub(super) struct Timestamps(Arc<Check>);

impl Timestamps {
    pub(super) fn new(
        check: impl Fn(&str, &[u8]) -> Result<Stamp, AnchorError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(check))
    }

    pub(super) fn check(&self, note: &str, token: &[u8]) -> TokenOutcome {
        match (self.0)(note, token) {
            Ok(stamp) => TokenOutcome::Valid(stamp),
            Err(AnchorError::Invalid(problem)) => TokenOutcome::Invalid(problem),
            Err(_) => TokenOutcome::Invalid("the timestamp token could not be checked"),
        }
    }
}

impl fmt::Debug for Timestamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timestamps")
    }
}

/// All tokens of a bundle.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamps {
    pub(super) tokens: Vec<TimestampToken>,
    pub(super) total: u64,
    pub(super) unchecked: u64,
    /// The largest tree that was stamped; of several stamps on it, the earliest.
    pub(super) largest: Option<(u64, Stamp)>,
}

impl Stamps {
    pub(super) fn take(&mut self, token: TimestampToken) {
        self.total += 1;
        match &token.outcome {
            TokenOutcome::Valid(stamp) => {
                let better = |(size, known): &(u64, Stamp)| {
                    token.size > *size || (token.size == *size && stamp.at < known.at)
                };
                if self.largest.as_ref().is_none_or(better) {
                    self.largest = Some((token.size, stamp.clone()));
                }
            }
            TokenOutcome::NotChecked => self.unchecked += 1,
            TokenOutcome::Invalid(_) => {}
        }
        if self.tokens.len() < MAX_TOKENS {
            self.tokens.push(token);
        }
    }
}
