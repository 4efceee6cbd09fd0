//! What is asked of an anchor, and what it answers.

use crate::time::Timestamp;
use crate::tlog::{Checkpoint, LogError, LogVerifier, TreeHash};

use super::AnchorError;

/// What an anchor is asked: which log it is about, and what the asker knows of it.
#[derive(Clone, Debug)]
pub struct Inquiry {
    log: LogVerifier,
    newest: Option<(Checkpoint, String)>,
}

impl Inquiry {
    /// A question about `log`. `newest` is the note of the newest checkpoint that the asker knows,
    /// which may be of an empty tree; it counts if the log signed it.
    #[must_use]
    pub fn new(log: LogVerifier, newest: Option<String>) -> Self {
        let newest = newest.and_then(|note| Some((Checkpoint::open(&note, &log).ok()?, note)));
        Self { log, newest }
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &LogVerifier {
        &self.log
    }

    /// The newest checkpoint that is known, and its signed note. Places that only talk to who has
    /// one (witnesses) need it.
    #[must_use]
    pub fn newest(&self) -> Option<(&Checkpoint, &str)> {
        let (checkpoint, note) = self.newest.as_ref()?;
        Some((checkpoint, note))
    }
}

/// What a place outside of the database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    what: What,
    at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Note(String),
    Size(u64),
}

impl Kept {
    /// A signed note. Whoever asked checks its signature.
    #[must_use]
    pub fn note(note: impl Into<String>) -> Self {
        Self {
            what: What::Note(note.into()),
            at: None,
        }
    }

    /// A tree of so many entries, of which the place tells no more.
    #[must_use]
    pub const fn size(size: u64) -> Self {
        Self {
            what: What::Size(size),
            at: None,
        }
    }

    /// When it was kept, as the place says.
    #[must_use]
    pub const fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }

    pub(super) fn check(self, log: &LogVerifier) -> Result<Held, LogError> {
        Ok(match self.what {
            What::Note(note) => {
                let checkpoint = Checkpoint::open(&note, log)?;
                Held {
                    size: checkpoint.size(),
                    root: Some(checkpoint.root()),
                    note: Some(note),
                    at: self.at,
                }
            }
            What::Size(size) => Held {
                size,
                root: None,
                note: None,
                at: self.at,
            },
        })
    }
}

/// What an anchor holds, checked with the log's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    size: u64,
    root: Option<TreeHash>,
    note: Option<String>,
    at: Option<Timestamp>,
}

impl Held {
    /// How many entries are under it.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root that the log signed; `None` where the place tells only the size.
    #[must_use]
    pub const fn root(&self) -> Option<TreeHash> {
        self.root
    }

    /// The signed note, where the place gave it.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// When it was kept, as the place says.
    #[must_use]
    pub const fn at(&self) -> Option<Timestamp> {
        self.at
    }
}

/// What one anchor says that it holds, or why it did not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAt {
    pub(super) anchor: String,
    pub(super) kind: &'static str,
    pub(super) found: Result<Option<Held>, AnchorError>,
}

impl KeptAt {
    /// The anchor's name.
    #[must_use]
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// What sort of anchor it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// The newest checkpoint there; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Why it could not be asked, or that what it holds is not the log's.
    pub const fn found(&self) -> Result<Option<&Held>, &AnchorError> {
        match &self.found {
            Ok(held) => Ok(held.as_ref()),
            Err(error) => Err(error),
        }
    }

    /// What it holds, if it answered and holds something.
    #[must_use]
    pub const fn held(&self) -> Option<&Held> {
        match &self.found {
            Ok(Some(held)) => Some(held),
            _ => None,
        }
    }
}

/// What an anchor gave for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    kind: &'static str,
    bytes: Vec<u8>,
}

impl Receipt {
    /// A receipt of `kind` (`file`, `witness`, `rfc3161`, `command`, or a name of one's own, of at
    /// most 64 bytes): cosignature lines, a timestamp token, or nothing.
    #[must_use]
    pub fn new(kind: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            bytes: bytes.into(),
        }
    }

    /// What sort it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// What was given.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
