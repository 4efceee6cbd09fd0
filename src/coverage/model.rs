//! What coverage is about: clients, windows, and what a comparison found.

use std::fmt;

use crate::audit::Receipt;
use crate::time::{Timestamp, UtcDay};

/// The longest kind of a client.
const MAX_KIND: usize = 64;
/// The longest host, port included: what DNS allows, and six more.
const MAX_HOST: usize = 259;

/// Calls are counted by quarters of an hour, which every time zone and every provider's report can
/// be cut along.
pub(super) const QUARTER_MICROS: i64 = 15 * 60 * 1_000_000;

/// A client of a model or a tool that has been put behind the gates: what it is, and which host it
/// calls.
///
/// ```
/// use portcullis::coverage::Wrapped;
///
/// let client = Wrapped::new("openai", "api.openai.com")?;
/// let local = Wrapped::new("openai", "LOCALHOST:8080")?;
/// # Ok::<(), portcullis::coverage::InvalidWrapped>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Wrapped {
    kind: String,
    host: String,
}

impl Wrapped {
    /// A client of `kind` (its library or protocol, such as `openai`) that calls `host`, with the
    /// port where it is not the usual one. The case of the host's letters does not matter.
    ///
    /// # Errors
    ///
    /// [`InvalidWrapped`] says what is wrong, without repeating it.
    pub fn new(kind: impl AsRef<str>, host: impl AsRef<str>) -> Result<Self, InvalidWrapped> {
        let (kind, host) = (kind.as_ref(), host.as_ref());
        let in_kind = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b);
        if kind.is_empty() || kind.len() > MAX_KIND || !kind.bytes().all(in_kind) {
            return Err(InvalidWrapped::Kind);
        }
        // One name for one host: `Example.com.` is `example.com`.
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let in_host = |b: u8| b.is_ascii_graphic() && !b"/\\@?#%\"'<>".contains(&b);
        if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(in_host) {
            return Err(InvalidWrapped::Host);
        }
        Ok(Self {
            kind: kind.to_owned(),
            host,
        })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Debug for Wrapped {
    /// Without the host, which is kept out of logs as it is out of the database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Not a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWrapped {
    /// The kind is none.
    #[error("invalid kind of client; write 1 to 64 of a-z 0-9 _ - .")]
    Kind,
    /// The host is none.
    #[error("invalid host; write the host of the URL, and its port if it has one, without a path")]
    Host,
}

/// A keyed digest of a host: the same host has the same one in a tenant, under one audit key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostDigest([u8; 32]);

impl HostDigest {
    pub(super) const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for HostDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for HostDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A wrapped client, as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    /// What it is.
    pub kind: String,
    /// The keyed digest of the host that it calls.
    pub host: HostDigest,
    /// When it was first wrapped.
    pub first_seen: Timestamp,
    /// When it was last wrapped or used.
    pub last_seen: Timestamp,
    /// How many governed calls it has made.
    pub calls: u64,
}

/// A stretch of time that calls are counted in: whole quarters of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    from: Timestamp,
    to: Timestamp,
}

impl Window {
    /// From `from` to before `to`; both at a full quarter of an hour, in whatever time zone.
    ///
    /// # Errors
    ///
    /// [`InvalidWindow`] if they are not, or if there is nothing between them.
    pub fn between(from: Timestamp, to: Timestamp) -> Result<Self, InvalidWindow> {
        let whole = |at: Timestamp| at.as_micros().rem_euclid(QUARTER_MICROS) == 0;
        if from < to && whole(from) && whole(to) {
            Ok(Self { from, to })
        } else {
            Err(InvalidWindow)
        }
    }

    /// A day in UTC.
    #[must_use]
    pub fn day(day: UtcDay) -> Self {
        Self {
            from: day.start(),
            to: day.next().start(),
        }
    }

    /// Its first moment.
    #[must_use]
    pub const fn from(&self) -> Timestamp {
        self.from
    }

    /// The first moment after it.
    #[must_use]
    pub const fn to(&self) -> Timestamp {
        self.to
    }
}

/// Not a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid window; it must begin and end at a full quarter of an hour, and not be empty")]
#[non_exhaustive]
pub struct InvalidWindow;

/// The calls that went through the gates, beside those that the provider says it answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Comparison {
    /// The kind of client.
    pub kind: String,
    /// The keyed digest of the host, under the current audit key.
    pub host: HostDigest,
    /// What was looked at.
    pub window: Window,
    /// The calls that were governed.
    pub governed: u64,
    /// The calls that the provider counted, as it was told to [`compare`](super::Coverage::compare).
    pub reported: u64,
    /// What became of the entry about a bypass; `None` if there was none to write.
    pub receipt: Option<Receipt>,
}

impl Comparison {
    /// What the provider saw, less what was governed. Above zero, calls went past the gates; below,
    /// some did not reach the provider, or the window or the account is another one.
    #[must_use]
    pub fn difference(&self) -> i64 {
        let difference = i128::from(self.reported) - i128::from(self.governed);
        i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether the provider saw calls that no gate did.
    #[must_use]
    pub const fn is_bypass(&self) -> bool {
        self.reported > self.governed
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} governed, {} reported by the provider, {}",
            self.kind,
            self.governed,
            self.reported,
            if self.is_bypass() {
                "calls went past the gates"
            } else {
                "none went past the gates"
            }
        )
    }
}

/// What this process knows of its own coverage, without asking the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoverageStatus {
    /// How many clients were wrapped in this process.
    pub wrapped: usize,
    /// How many counts wait to be written.
    pub waiting: usize,
    /// How many calls are missing from the counts, because the database was away for too long. They
    /// show as a difference when counts are compared.
    pub uncounted: u64,
}
