//! Bundles: the trail in a file that a stranger can check, with no database and no secret.
//!
//! A bundle holds entries with all that their leaves are made from, the tree down to them, the
//! log's signed checkpoints, what anchors gave for these, the agents' public keys, and a seal over
//! the file. Entries that are not shown, because they were not selected or were taken out, are
//! there as hashes: their number and places are seen, and every other proof holds. Their content
//! cannot be guessed from the hash, which covers a MAC under a key that no reader has.
//!
//! The format is described byte for byte in [the manual](crate::manual::bundle). The same trail,
//! checkpoint and options give the same bytes.
//!
//! | The store is | [`Audit::export`] | [`Bundle::verify`] |
//! |---|---|---|
//! | reachable | writes the bundle, and records that it did | needs none |
//! | unreachable, or lost in the middle | an error; what was written has no seal | needs none |
//! | not as it was signed | refuses | needs none |
//!
//! ```no_run
//! # async fn example(audit: portcullis::audit::Audit) -> Result<(), Box<dyn std::error::Error>> {
//! use std::{fs::File, io::BufWriter};
//! use portcullis::audit::bundle::{Bundle, Export, Selection, Trust};
//! use portcullis::{Secret, SessionId, tlog::LogKey};
//!
//! let key = LogKey::new("audit.example/acme", &Secret::parse(&std::env::var("LOG_KEY")?)?)?;
//! let export = Export::new(key.verifier().clone(), key.clone())
//!     .select(Selection::all().session(&SessionId::parse("s-381")?));
//! audit.export(&export, BufWriter::new(File::create("s-381.bundle")?)).await?;
//!
//! // Elsewhere, by somebody who got the log's public key by another way:
//! let report = Bundle::open("s-381.bundle")?.verify(&Trust::in_log(key.verifier().clone()))?;
//! assert!(report.is_clean(), "{report}");
//! # Ok(())
//! # }
//! ```

mod error;
mod export;
mod keys;
mod line;
mod read;
mod redact;
mod report;
mod seal;
mod selection;
mod sink;
mod stamp;
mod text;
mod tree;
mod verify;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

pub use self::error::BundleError;
pub use self::redact::Redaction;
pub use self::report::{AnchorReport, Class, Finding, Redacted, Report, Trust};
pub use self::selection::Selection;
pub use self::stamp::{Stamp, TimestampToken, TokenOutcome};

use self::sink::Sealed;
use super::Audit;
use crate::tlog::{Checkpoint, LogKey, LogVerifier, TreeHash};

/// What to export, and who seals it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Export {
    log: LogVerifier,
    signer: LogKey,
    selection: Selection,
}

impl Export {
    /// Everything under the newest checkpoint of `log`, sealed with `signer`: the log's own key, or
    /// one that is only for this. A key that is not the log's must not have the log's name.
    pub fn new(log: LogVerifier, signer: LogKey) -> Self {
        Self {
            log,
            signer,
            selection: Selection::all(),
        }
    }

    /// Only what `selection` says; the rest is withheld.
    pub fn select(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    size: u64,
    root: TreeHash,
    entries: u64,
    withheld: u64,
    seal: String,
}

impl Exported {
    fn new(checkpoint: &Checkpoint, sealed: Sealed) -> Self {
        Self {
            size: checkpoint.size(),
            root: checkpoint.root(),
            entries: sealed.seal.entries,
            withheld: sealed.seal.withheld,
            seal: sealed.note,
        }
    }

    /// How many entries the tree has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    #[must_use]
    pub const fn root(&self) -> TreeHash {
        self.root
    }

    /// How many entries are shown.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many are not.
    #[must_use]
    pub const fn withheld(&self) -> u64 {
        self.withheld
    }

    /// The seal: a signed note that has the SHA-256 of the file before it.
    #[must_use]
    pub fn seal(&self) -> &str {
        &self.seal
    }
}

/// A copy of a bundle, with less in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    before: u64,
    entries: u64,
    withheld: u64,
    seal: String,
}

impl Copied {
    /// How many entries the bundle shows that it is a copy of.
    #[must_use]
    pub const fn before(&self) -> u64 {
        self.before
    }

    /// How many entries it shows.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many it does not.
    #[must_use]
    pub const fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Its seal.
    #[must_use]
    pub fn seal(&self) -> &str {
        &self.seal
    }
}

impl Audit {
    /// Writes a bundle to `out`, and then records an entry `export.generated` that says of what.
    ///
    /// Every entry under the newest checkpoint is read and compared with the signed tree, also those
    /// that are not selected, so that none can be edited out of a selection. Memory does not grow
    /// with the trail. Writing blocks: give it a buffer, and a disk or a pipe that keeps up.
    ///
    /// # Errors
    ///
    /// * [`BundleError::Audit`] with [`AuditError::NoCheckpoint`](super::AuditError::NoCheckpoint),
    ///   `Log` if the newest checkpoint is of another log, `Tampered` or `Tree` if what is stored is
    ///   not what was signed, `Store` if the database did not answer; and as
    ///   [`append`](Self::append) if the bundle was written and is on no record.
    /// * [`BundleError::Io`] if `out` did not take it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was written until then has no seal, and verifies as truncated.
    pub async fn export<W: Write + Send>(
        &self,
        export: &Export,
        out: W,
    ) -> Result<Exported, BundleError> {
        export::export(self, export, out).await
    }
}

/// A bundle to be read.
#[derive(Debug)]
pub struct Bundle<R> {
    reader: R,
}

impl Bundle<BufReader<File>> {
    /// The bundle in a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(BufReader::new(File::open(path)?)))
    }
}

impl<R: BufRead> Bundle<R> {
    /// The bundle that `reader` gives.
    #[must_use]
    pub const fn new(reader: R) -> Self {
        Self { reader }
    }

    /// Checks everything that can be checked without a secret; see [`Report`]. Memory does not grow
    /// with the bundle, whoever made it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. What is wrong with what was read is no error but a finding.
    pub fn verify(self, trust: &Trust) -> io::Result<Report> {
        verify::verify(self.reader, trust)
    }

    /// Writes a copy to `out` that does not show what `redaction` names. Everything else verifies as
    /// before; that something was taken out, and how much, is seen. It is sealed with `signer`, the
    /// key of whoever takes it out; the log's key is not needed.
    ///
    /// # Errors
    ///
    /// * [`BundleError::NotSound`] if the bundle does not verify.
    /// * [`BundleError::NotThere`] if something that is named is not shown, or nothing is named.
    /// * [`BundleError::KeyEntry`] if an entry is named that says whose a key is.
    /// * [`BundleError::TooOften`] if it was redacted sixteen times before.
    /// * [`BundleError::Io`] if a file could not be read or written.
    pub fn redact<W: Write>(
        self,
        redaction: &Redaction,
        signer: &LogKey,
        out: W,
    ) -> Result<Copied, BundleError> {
        if redaction.is_empty() {
            return Err(BundleError::NotThere {
                what: "nothing: name an event, a session, an agent or a user".to_owned(),
            });
        }
        let (sealed, before) = redact::redact(self.reader, redaction, signer, out)?;
        Ok(Copied {
            before: before.entries(),
            entries: sealed.seal.entries,
            withheld: sealed.seal.withheld,
            seal: sealed.note,
        })
    }
}
