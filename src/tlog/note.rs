//! Signed notes (c2sp.org/signed-note): a text, and the signatures of whoever vouches for it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::LogError;

/// The longest note that is read.
pub const MAX_NOTE_BYTES: usize = 1 << 20;
/// The most signatures that a note may have; the standard asks for 16 at least.
pub const MAX_SIGNATURES: usize = 64;

const LONGEST_NAME: usize = 512;
const DASH: &str = "\u{2014} ";

/// A text with signatures, of which none has been checked by itself: see
/// [`LogVerifier::verify`](super::LogVerifier::verify) and
/// [`WitnessVerifier::verify`](super::WitnessVerifier::verify).
///
/// ```
/// use portcullis::tlog::{LogVerifier, Note};
///
/// // The example of the standard.
/// let note = Note::parse("This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n")?;
/// let key = LogVerifier::parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")?;
/// key.verify(&note)?;
/// assert_eq!(note.text(), "This is an example message.\n");
/// # Ok::<(), portcullis::tlog::LogError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One line of a note's signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

impl Note {
    /// Reads a note. Its base64 must be the one text of its bytes.
    ///
    /// # Errors
    ///
    /// [`LogError::Note`] says what is wrong.
    pub fn parse(note: &str) -> Result<Self, LogError> {
        check_text(note)?;
        // A signature line has no blank line in it, so the last one ends the text.
        let (before, lines) = note
            .rsplit_once("\n\n")
            .ok_or(LogError::Note("no blank line before the signatures"))?;
        let text = format!("{before}\n");
        let lines = lines
            .strip_suffix('\n')
            .ok_or(LogError::Note("no newline at the end"))?;
        if lines.split('\n').count() > MAX_SIGNATURES {
            return Err(LogError::Note("more than 64 signatures"));
        }
        let signatures = lines
            .split('\n')
            .map(|line| {
                NoteSignature::parse(line).ok_or(LogError::Note("a signature line is none"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { text, signatures })
    }

    pub(super) fn unsigned(text: String) -> Result<Self, LogError> {
        check_text(&text)?;
        Ok(Self {
            text,
            signatures: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, signature: NoteSignature) -> Result<(), LogError> {
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(LogError::Note("more than 64 signatures"));
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// What is signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, checked or not.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Checks every signature of the key `name` and `key_id`. Lines of other keys are passed over,
    /// also if they share the name or the id; one wrong signature of this key refuses the note.
    pub(super) fn check(
        &self,
        name: &str,
        key_id: [u8; 4],
        mut is_good: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), LogError> {
        let ours = |line: &&NoteSignature| line.name == name && line.key_id == key_id;
        let mut lines = self.signatures.iter().filter(ours).peekable();
        if lines.peek().is_none() {
            return Err(LogError::Unsigned);
        }
        if lines.all(|line| is_good(&line.signature)) {
            Ok(())
        } else {
            Err(LogError::BadSignature)
        }
    }
}

/// The note, as it is stored and sent.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.signatures {
            let blob = [line.key_id.as_slice(), &line.signature].concat();
            writeln!(f, "{DASH}{} {}", line.name, STANDARD.encode(blob))?;
        }
        Ok(())
    }
}

impl NoteSignature {
    pub(super) fn new(name: &str, key_id: [u8; 4], signature: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            key_id,
            signature,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, blob) = line.strip_prefix(DASH)?.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let (key_id, signature) = blob.split_first_chunk::<4>()?;
        if !is_foreign_name(name) || signature.is_empty() {
            return None;
        }
        Some(Self::new(name, *key_id, signature.to_vec()))
    }

    /// The name of the key, as the note has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id, as the note has it.
    #[must_use]
    pub const fn key_id(&self) -> [u8; 4] {
        self.key_id
    }
}

/// Whether `name` may name a key of ours. Of others' keys less is asked.
pub(super) fn is_name(name: &str) -> bool {
    is_foreign_name(name) && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control)
}

/// Whether the standard allows `name`: not empty, without white space and pluses.
fn is_foreign_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c == '+')
}

fn check_text(text: &str) -> Result<(), LogError> {
    if text.len() > MAX_NOTE_BYTES {
        return Err(LogError::Note("it is longer than 1 MiB"));
    }
    if text.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
        return Err(LogError::Note("a control character"));
    }
    if text.ends_with('\n') {
        Ok(())
    } else {
        Err(LogError::Note("no newline at the end"))
    }
}
