//! The seal: who vouches for the file as a whole, in a signed note.
//!
//! ```text
//! portcullis/bundle/v1
//! sha256 <of every byte before the seal's line, in hex>
//! size <of the tree>
//! root <of the tree, in base64>
//! entries <that are shown>
//! withheld <that are not>
//! ```
//!
//! Its second line is no number, so that a log's key can sign it and no one can take it for a
//! checkpoint.

use std::fmt;

use super::line::FORMAT;
use crate::audit::keys::Tag;
use crate::tlog::{LogError, LogKey, Note, TreeHash};

/// What a seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) sha256: Tag,
    pub(super) size: u64,
    pub(super) root: TreeHash,
    pub(super) entries: u64,
    pub(super) withheld: u64,
}

impl Seal {
    /// Reads the text of a seal, in its one spelling.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != FORMAT {
            return None;
        }
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let mut sha256 = [0; 32];
        hex::decode_to_slice(value("sha256")?, &mut sha256).ok()?;
        let seal = Self {
            sha256,
            size: value("size")?.parse().ok()?,
            root: TreeHash::parse(value("root")?)?,
            entries: value("entries")?.parse().ok()?,
            withheld: value("withheld")?.parse().ok()?,
        };
        (seal.to_string() == text).then_some(seal)
    }

    pub(super) fn sign(&self, signer: &LogKey) -> Result<Note, LogError> {
        signer.sign_text_of_another_format(&self.to_string())
    }
}

/// What is signed.
impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FORMAT}")?;
        writeln!(f, "sha256 {}", hex::encode(self.sha256))?;
        writeln!(f, "size {}", self.size)?;
        writeln!(f, "root {}", self.root)?;
        writeln!(f, "entries {}", self.entries)?;
        writeln!(f, "withheld {}", self.withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::tlog::Checkpoint;

    #[test]
    fn a_seal_has_one_spelling_and_is_no_checkpoint() {
        let seal = Seal {
            sha256: [7; 32],
            size: 10,
            root: TreeHash::of_leaf(b"x"),
            entries: 4,
            withheld: 6,
        };
        let text = seal.to_string();
        assert_eq!(Seal::parse(&text), Some(seal));
        for bad in [
            text.replace("size 10", "size 010"),
            text.replace("size 10", "size +10"),
            text.replace("entries 4\nwithheld 6", "withheld 6\nentries 4"),
            text.replace("0707", "07 07"),
            text.to_uppercase(),
            format!("{text}more\n"),
            text.trim_end().to_owned(),
        ] {
            assert_eq!(Seal::parse(&bad), None, "{bad}");
        }
        // Even of a log that is called as the format is.
        let key = LogKey::new(FORMAT, &Secret::generate().unwrap()).unwrap();
        let note = seal.sign(&key).unwrap();
        assert!(key.verifier().verify(&note).is_ok());
        assert!(Checkpoint::open(&note.to_string(), key.verifier()).is_err());
        let checkpoint = Checkpoint::new(FORMAT, 0, TreeHash::of_nothing()).unwrap();
        let refused = key.sign_text_of_another_format(&checkpoint.body());
        assert!(refused.is_err(), "a checkpoint is signed as one only");
    }
}
