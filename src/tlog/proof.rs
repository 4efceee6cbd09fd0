//! Proof files (c2sp.org/tlog-proof): one entry is in the log, checked offline.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{Checkpoint, decimal};
use super::error::LogError;
use super::hash::TreeHash;
use super::key::LogVerifier;
use super::merkle::verify_inclusion;
use super::note::{MAX_NOTE_BYTES, Note};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2^63 leaves has paths of this many hashes.
const MAX_HASHES: usize = 63;

/// That one entry is in the tree of a signed checkpoint. As text it is a `.tlog-proof` file.
///
/// ```
/// use portcullis::tlog::{Checkpoint, LogKey, LogProof, Plan, TreeHash};
///
/// let key = LogKey::new("audit.example/acme", &portcullis::Secret::generate()?)?;
/// let leaf = TreeHash::of_leaf(b"the only entry");
/// let note = key.sign(&Checkpoint::new(key.origin(), 1, leaf)?)?;
/// let file = LogProof::new(0, vec![], note)?.to_string();
///
/// let checkpoint = LogProof::parse(&file)?.verify(&leaf, key.verifier())?;
/// assert_eq!(checkpoint.size(), 1);
/// assert!(LogProof::parse(&file)?.verify(&TreeHash::of_leaf(b"another"), key.verifier()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProof {
    index: u64,
    hashes: Vec<TreeHash>,
    extra: Option<Vec<u8>>,
    note: Note,
}

impl LogProof {
    /// The proof that the entry at `index` is in the tree of the checkpoint `note`.
    ///
    /// # Errors
    ///
    /// [`LogError::Proof`] if it has more hashes than any tree is high.
    pub fn new(index: u64, hashes: Vec<TreeHash>, note: Note) -> Result<Self, LogError> {
        if hashes.len() > MAX_HASHES {
            return Err(LogError::Proof("more than 63 hashes"));
        }
        Ok(Self {
            index,
            hashes,
            extra: None,
            note,
        })
    }

    /// Adds data that nothing vouches for, such as what the entry's hash is made from.
    #[must_use]
    pub fn with_extra(mut self, extra: Vec<u8>) -> Self {
        self.extra = Some(extra).filter(|extra| !extra.is_empty());
        self
    }

    /// Reads a proof file, in its one spelling.
    ///
    /// # Errors
    ///
    /// [`LogError::Proof`] or [`LogError::Note`] says what is wrong.
    pub fn parse(file: &str) -> Result<Self, LogError> {
        if file.len() > 2 * MAX_NOTE_BYTES {
            return Err(LogError::Proof("it is longer than 2 MiB"));
        }
        let (head, note) = file
            .split_once("\n\n")
            .ok_or(LogError::Proof("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(LogError::Proof("it does not begin with its format's name"));
        }
        let extra = lines
            .next_if(|line| line.starts_with("extra "))
            .map(|line| read_extra(line).ok_or(LogError::Proof("the extra data is not base64")))
            .transpose()?;
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(decimal)
            .ok_or(LogError::Proof("no index"))?;
        // More than any tree is high is too many, however many they are.
        let hashes = lines
            .take(MAX_HASHES + 1)
            .map(TreeHash::parse)
            .collect::<Option<_>>()
            .ok_or(LogError::Proof("a hash is not the base64 of 32 bytes"))?;
        let proof = Self::new(index, hashes, Note::parse(note)?)?;
        Ok(Self { extra, ..proof })
    }

    /// Checks that `leaf` is in the log that `log` names, and returns the checkpoint that says so.
    ///
    /// # Errors
    ///
    /// * [`LogError::Unsigned`], [`LogError::BadSignature`], [`LogError::Origin`] if the
    ///   checkpoint is not the log's.
    /// * [`LogError::Checkpoint`] if it is none.
    /// * [`LogError::OutOfRange`] or [`LogError::Unproved`] if the leaf is not proved by it.
    pub fn verify(&self, leaf: &TreeHash, log: &LogVerifier) -> Result<Checkpoint, LogError> {
        let checkpoint = Checkpoint::from_note(&self.note, log)?;
        let (size, root) = (checkpoint.size(), checkpoint.root());
        verify_inclusion(self.index, size, leaf, &self.hashes, &root)?;
        Ok(checkpoint)
    }

    /// The entry's place in the log, as the proof says.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The extra data. Nothing vouches for it.
    #[must_use]
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// The signed checkpoint, not checked.
    #[must_use]
    pub const fn note(&self) -> &Note {
        &self.note
    }
}

/// The file.
impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.note)
    }
}

fn read_extra(line: &str) -> Option<Vec<u8>> {
    let extra = STANDARD.decode(line.strip_prefix("extra ")?).ok()?;
    (!extra.is_empty()).then_some(extra)
}
