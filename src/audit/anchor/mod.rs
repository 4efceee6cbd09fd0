//! Anchors: places outside of the database that keep checkpoints.
//!
//! Whoever can write the database can put an old copy of it back, checkpoints included, and no key
//! is needed for that. Against it stands only what was kept elsewhere. An [`Anchor`] is such a
//! place: a directory on another machine's disk ([`FileAnchor`]), a program of the operator's
//! ([`CommandAnchor`]), a witness, a timestamp authority. Several may be active, and should be.
//!
//! The signer asks every anchor first, and signs nothing that does not go on from what each of them
//! holds; then it publishes what it signed. A verification asks them, too: an anchor that holds
//! another tree, or a larger one, is a finding.
//!
//! | The anchor is | signing | health and verification |
//! |---|---|---|
//! | in step | goes on, and publishes | well |
//! | behind (it was away) | goes on, and publishes the newest | stale once it misses a checkpoint for too long |
//! | away, another one answers | goes on, loudly | its last error is shown |
//! | away, and so are all that could answer | refuses: [`AuditError::AnchorsSilent`] | not well |
//! | ahead, or holds another tree | refuses: [`AuditError::AnchorAhead`], [`AuditError::AnchorFork`] | a finding, and an entry `chain.fork_detected` |
//!
//! The table `portcullis.anchor_receipts` remembers what was published where, and what came back.
//! It lies in the database, and so proves nothing about it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::audit::{CheckpointEvery, anchor::FileAnchor};
//! use portcullis::{Database, Governance, Secret, audit::AuditKeys, tlog::LogKey};
//!
//! let key = LogKey::new("audit.example/acme", &Secret::parse(&std::env::var("LOG_KEY")?)?)?;
//! let log = key.verifier().clone();
//! let gov = Governance::builder(Database::from_env()?, AuditKeys::from_env()?)
//!     .checkpoints(key, CheckpointEvery::default())
//!     .anchor(FileAnchor::new("vault", "/mnt/worm/portcullis")?)
//!     .connect()
//!     .await?;
//! for kept in gov.audit().kept(&log).await? {
//!     println!("{}: {:?}", kept.anchor(), kept.held().map(|held| held.size()));
//! }
//! # Ok(())
//! # }
//! ```

mod command;
mod error;
mod file;
mod judge;
mod model;
mod publication;
mod publish;
mod report;
mod set;
mod sign;
mod watch;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

pub use self::command::CommandAnchor;
pub use self::error::AnchorError;
pub use self::file::FileAnchor;
pub(super) use self::judge::Signed;
pub use self::model::{Held, Inquiry, Kept, KeptAt, Receipt};
pub use self::publication::Publication;
pub use self::report::{AnchorReport, Standing};
pub(crate) use self::set::Anchors;
pub use self::watch::AnchorHealth;

use super::store::anchor as sql;
use super::{Audit, AuditError};
use crate::tlog::LogVerifier;

/// The answer of an anchor, boxed so that anchors of several sorts stand in one list.
pub type AnchorFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, AnchorError>> + Send + 'a>>;

/// A place outside of the database that keeps checkpoints.
///
/// Implement it for a place of your own: an object store with a lock, a mail box, a ticket system.
/// It must be one that who writes the database cannot write back, or it proves nothing.
///
/// Both calls are given up after a time ([`AnchorError::TimedOut`]), by dropping the future.
pub trait Anchor: Send + Sync + fmt::Debug + 'static {
    /// Its name: 1 to 256 bytes of printable ASCII without blanks, another one for each anchor of a
    /// process, and always the same one for the same place.
    fn name(&self) -> &str;

    /// What sort it is: `file`, `command`, `witness`, `rfc3161`, or a name of one's own.
    fn kind(&self) -> &'static str;

    /// Whether it can tell what it holds. A timestamp authority cannot: it is only published to.
    fn remembers(&self) -> bool {
        true
    }

    /// The newest checkpoint of the log that it holds. Its signature is checked by whoever asks.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] if it cannot tell. "Nothing" is an answer, and must be true.
    fn latest<'a>(&'a self, inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>>;

    /// Keeps a checkpoint, durably before it answers. Never replaces what it holds by a smaller
    /// tree, or by another one of the same size; keeping the same one again is well.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Ahead`] or [`AnchorError::Mismatch`] if it holds what the checkpoint does not
    /// go on from; others if it could not keep it.
    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt>;
}

impl Audit {
    /// Asks each anchor what it holds, and checks it with the log's key. Those that cannot tell
    /// (timestamp authorities) are left out. In the order in which they were given.
    ///
    /// That an anchor holds a checkpoint says that the log signed it, and that it is outside of the
    /// database; whether the trail goes on from it, [`verify_checkpoints`](Self::verify_checkpoints)
    /// says.
    ///
    /// # Errors
    ///
    /// [`AuditError::Store`] if the database did not answer. What an anchor says, or that it does
    /// not answer, is in its [`KeptAt`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn kept(&self, log: &LogVerifier) -> Result<Vec<KeptAt>, AuditError> {
        if self.anchors.is_empty() {
            return Ok(Vec::new());
        }
        let newest = self.last_checkpoint().await?;
        let inquiry = Inquiry::new(log.clone(), newest);
        let kept = self.anchors.ask(inquiry, |_| true).await;
        Ok(kept.into_iter().map(|(_, kept)| kept).collect())
    }

    /// The same trail, with anchors for its checkpoints. [`Governance`](crate::Governance) takes
    /// them from its builder; this is for a job that makes or verifies checkpoints by itself.
    ///
    /// # Errors
    ///
    /// [`AuditError::AnchorName`] if a name is none, or two anchors have it.
    pub fn with_anchors(
        mut self,
        anchors: impl IntoIterator<Item = Arc<dyn Anchor>>,
    ) -> Result<Self, AuditError> {
        let list: Vec<_> = anchors.into_iter().collect();
        Anchors::check(&list)?;
        self.anchors = Anchors::new(list, None);
        Ok(self)
    }
}
