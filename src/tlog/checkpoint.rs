//! Checkpoints (c2sp.org/tlog-checkpoint): what a log's tree was, in three lines.

use std::fmt::Write as _;

use super::error::LogError;
use super::hash::TreeHash;
use super::key::LogVerifier;
use super::note::{Note, is_name};

/// The size and root of a log's tree.
///
/// ```
/// use portcullis::tlog::{Checkpoint, TreeHash};
///
/// let checkpoint = Checkpoint::new("audit.example/acme", 0, TreeHash::of_nothing())?;
/// assert_eq!(checkpoint.body(), "audit.example/acme\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
/// assert_eq!(Checkpoint::parse(&checkpoint.body())?, checkpoint);
/// # Ok::<(), portcullis::tlog::LogError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: TreeHash,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// The checkpoint of the log `origin` at `size` leaves.
    ///
    /// # Errors
    ///
    /// * [`LogError::Name`] if the origin cannot be a key's name too, which it should be.
    /// * [`LogError::Checkpoint`] if an empty tree has a root other than the empty one.
    pub fn new(origin: &str, size: u64, root: TreeHash) -> Result<Self, LogError> {
        if !is_name(origin) {
            return Err(LogError::Name);
        }
        check_empty(size, &root)?;
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            extensions: Vec::new(),
        })
    }

    /// Reads the text of a checkpoint, without its signatures. Extension lines are kept, and mean
    /// nothing here.
    ///
    /// # Errors
    ///
    /// [`LogError::Checkpoint`] says what is wrong.
    pub fn parse(body: &str) -> Result<Self, LogError> {
        let body = body
            .strip_suffix('\n')
            .ok_or(LogError::Checkpoint("no newline at the end"))?;
        let mut lines = body.split('\n');
        let mut line = |missing| lines.next().ok_or(LogError::Checkpoint(missing));
        let origin = line("no origin")?;
        let size = line("no size")?;
        let root = line("no root")?;
        if origin.is_empty() {
            return Err(LogError::Checkpoint("the origin is empty"));
        }
        let size = decimal(size).ok_or(LogError::Checkpoint(
            "the size is not a decimal number without leading zeros",
        ))?;
        let root = TreeHash::parse(root).ok_or(LogError::Checkpoint(
            "the root is not the base64 of 32 bytes",
        ))?;
        check_empty(size, &root)?;
        let extensions: Vec<_> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(LogError::Checkpoint("an extension line is empty"));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            extensions,
        })
    }

    /// Reads a signed checkpoint of the log that `log` names: signed by its key, and under its
    /// name.
    ///
    /// # Errors
    ///
    /// * [`LogError::Note`] or [`LogError::Checkpoint`] if it is none.
    /// * [`LogError::Unsigned`] or [`LogError::BadSignature`] if the log did not sign it.
    /// * [`LogError::Origin`] if it is of another log.
    pub fn open(note: &str, log: &LogVerifier) -> Result<Self, LogError> {
        Self::from_note(&Note::parse(note)?, log)
    }

    pub(super) fn from_note(note: &Note, log: &LogVerifier) -> Result<Self, LogError> {
        log.verify(note)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin == log.origin() {
            Ok(checkpoint)
        } else {
            Err(LogError::Origin)
        }
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many leaves the tree has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    #[must_use]
    pub const fn root(&self) -> TreeHash {
        self.root
    }

    /// The text that is signed.
    #[must_use]
    pub fn body(&self) -> String {
        let mut body = format!("{}\n{}\n{}\n", self.origin, self.size, self.root);
        for line in &self.extensions {
            // Writing to a string cannot fail.
            let _ = writeln!(body, "{line}");
        }
        body
    }
}

/// There is one empty tree.
fn check_empty(size: u64, root: &TreeHash) -> Result<(), LogError> {
    if size == 0 && *root != TreeHash::of_nothing() {
        return Err(LogError::Checkpoint("a tree of size 0 has another root"));
    }
    Ok(())
}

/// A number in its one spelling.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
