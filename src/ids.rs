//! Typed names, parsed once at the door.
//!
//! An id is a short piece of printable ASCII. What is refused here cannot surprise anyone later: no
//! white space, no control or bidirectional characters, no look-alike letters, nothing enormous.
//!
//! ```
//! use portcullis::AgentId;
//!
//! let agent = AgentId::parse("billing-agent")?;
//! assert_eq!(agent.as_str(), "billing-agent");
//! assert!(AgentId::parse("billing agent").is_err());
//! # Ok::<(), portcullis::InvalidId>(())
//! ```

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// The longest id, in bytes.
pub const MAX_ID_LEN: usize = 256;

/// What an [`Id`] names. Sealed: the kinds are the ones of this crate.
pub trait IdKind: sealed::Sealed + 'static {
    /// The word that error messages use.
    const NAME: &'static str;
}

mod sealed {
    #[expect(
        unnameable_types,
        reason = "a sealed trait is one that nobody else can name"
    )]
    pub trait Sealed {}
}

/// The kinds of [`Id`].
pub mod kind {
    use super::{IdKind, sealed::Sealed};

    macro_rules! kinds {
        ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
            #[non_exhaustive]
            pub struct $name;
            impl Sealed for $name {}
            impl IdKind for $name { const NAME: &'static str = $text; }
        )*};
    }

    kinds! {
        /// An agent: the program that acts.
        Agent = "agent id";
        /// A model, as its provider names it.
        Model = "model name";
        /// A person or system that operates an agent.
        Operator = "operator id";
        /// One run of an agent.
        Session = "session id";
        /// One customer of a shared installation.
        Tenant = "tenant id";
        /// A tool that an agent can call.
        Tool = "tool name";
        /// On whose behalf an agent acts. A pseudonym, never a name or an e-mail address.
        User = "user id";
        /// A budget.
        Budget = "budget name";
    }
}

/// A parsed name of kind `K`: 1 to [`MAX_ID_LEN`] bytes of ASCII letters, digits and `. _ - : / @ + =`.
///
/// Cheap to clone. Compared byte for byte: case matters.
pub struct Id<K: IdKind> {
    text: Arc<str>,
    kind: PhantomData<fn() -> K>,
}

/// Names an agent.
pub type AgentId = Id<kind::Agent>;
/// Names a model, as its provider does.
pub type ModelName = Id<kind::Model>;
/// Names who operates an agent.
pub type OperatorId = Id<kind::Operator>;
/// Names one run of an agent.
pub type SessionId = Id<kind::Session>;
/// Names one customer of a shared installation.
pub type TenantId = Id<kind::Tenant>;
/// Names a tool.
pub type ToolName = Id<kind::Tool>;
/// A pseudonym of the person on whose behalf an agent acts.
pub type UserId = Id<kind::User>;
/// Names a budget.
pub type BudgetName = Id<kind::Budget>;

impl<K: IdKind> Id<K> {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] says which rule was broken, and never repeats the text.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidId> {
        let text = text.as_ref();
        validate::<K>(text)?;
        Ok(Self::trusted(Arc::from(text)))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn trusted(text: Arc<str>) -> Self {
        Self {
            text,
            kind: PhantomData,
        }
    }
}

fn validate<K: IdKind>(text: &str) -> Result<(), InvalidId> {
    let broken = |rule| {
        Err(InvalidId {
            what: K::NAME,
            rule,
        })
    };
    if text.is_empty() {
        return broken(Rule::Empty);
    }
    if text.len() > MAX_ID_LEN {
        return broken(Rule::TooLong { bytes: text.len() });
    }
    match text.bytes().position(|b| !is_allowed(b)) {
        Some(at) => broken(Rule::Character { at }),
        None => Ok(()),
    }
}

/// Whether `text` could be parsed as an id, without making one.
pub(crate) fn is_well_formed(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ID_LEN && text.bytes().all(is_allowed)
}

const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'_' | b'-' | b':' | b'/' | b'@' | b'+' | b'=')
}

impl SessionId {
    /// A new, unique session (a UUIDv7).
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        Self::trusted(Arc::from(crate::random::uuid_v7().to_string()))
    }
}

impl TenantId {
    /// The tenant of an installation that has only one.
    #[must_use]
    pub fn single() -> Self {
        Self::trusted(Arc::from("default"))
    }
}

impl<K: IdKind> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self::trusted(Arc::clone(&self.text))
    }
}

impl<K: IdKind> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<K: IdKind> Eq for Id<K> {}

impl<K: IdKind> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: IdKind> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

// Hashes as the text does, so that maps keyed by an id can be asked with a `&str`.
impl<K: IdKind> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl<K: IdKind> Borrow<str> for Id<K> {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl<K: IdKind> AsRef<str> for Id<K> {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl<K: IdKind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A name that breaks the rules of [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: {rule}; use 1 to {MAX_ID_LEN} ASCII letters, digits or . _ - : / @ + =")]
pub struct InvalidId {
    what: &'static str,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Empty,
    TooLong { bytes: usize },
    Character { at: usize },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong { bytes } => write!(f, "it has {bytes} bytes"),
            Self::Character { at } => write!(f, "byte {at} is not allowed"),
        }
    }
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident, $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new, unique id (a UUIDv7).
            #[must_use]
            #[expect(clippy::new_without_default, reason = "two defaults would differ")]
            pub fn new() -> Self {
                Self(crate::random::uuid_v7())
            }

            /// Parses the text form of a UUIDv7, or of a version 8: the entry that registers an agent's
            /// key has an id that is made of the key.
            ///
            /// # Errors
            ///
            /// [`InvalidUuid`] if it is not one.
            pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidUuid> {
                match Uuid::try_parse(text.as_ref()) {
                    Ok(id) if matches!(id.get_version_num(), 7 | 8) => Ok(Self(id)),
                    _ => Err(InvalidUuid { what: $text }),
                }
            }

            /// The sixteen bytes of the UUID.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidUuid;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
    )*};
}

uuid_ids! {
    /// Names one entry of the audit trail.
    EventId, "event id";
    /// Names one governed call, from decision to outcome.
    CallId, "call id";
    /// Names one reservation of a budget.
    ReservationId, "reservation id";
    /// Names one request for approval.
    RequestId, "request id";
    /// Names what was approved in advance.
    GrantId, "grant id";
    /// Names one journal: what one writer wrote to the local disk.
    JournalId, "journal id";
}

/// The kinds that are stored as a UUID of their own column.
macro_rules! stored_ids {
    ($($name:ident),*) => {$(
        impl $name {
            pub(crate) const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            pub(crate) const fn as_uuid(self) -> Uuid {
                self.0
            }
        }
    )*};
}

stored_ids!(EventId, ReservationId, RequestId, GrantId);

/// Text that is not a `UUIDv7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {what}: not a UUID of version 7; use the one you were given, or make one with new()"
)]
pub struct InvalidUuid {
    what: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_name_is_refused_without_being_repeated() {
        let long = "a".repeat(257);
        for bad in [
            "",
            " ",
            "a b",
            "a\0",
            "a\n",
            "ä",
            "a\u{202e}b",
            "\u{410}gent",
            &long,
        ] {
            let error = AgentId::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid agent id"), "{error}");
            assert!(bad.len() < 3 || !error.contains(bad), "{error}");
        }
        assert!(AgentId::parse("a".repeat(256)).is_ok());
    }

    #[test]
    fn every_id_that_this_crate_makes_is_read_and_no_other() {
        assert!(EventId::parse("550e8400-e29b-41d4-a716-446655440000").is_err());
        let of_contents = uuid::Builder::from_custom_bytes([7; 16]).into_uuid();
        for id in [EventId::new(), EventId::from_uuid(of_contents)] {
            assert_eq!(EventId::parse(id.to_string()), Ok(id));
        }
    }

    proptest! {
        #[test]
        fn parsing_never_changes_a_name(text in "[a-zA-Z0-9._:/@+=-]{1,256}") {
            let id = AgentId::parse(&text).unwrap();
            prop_assert_eq!(id.as_str(), text);
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = AgentId::parse(&text);
            let _ = EventId::parse(&text);
        }
    }
}
