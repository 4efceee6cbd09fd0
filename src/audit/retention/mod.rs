//! Retention: how long entries stay, what must stay longer, and what is archived and removed.
//!
//! Entries are archived and removed in whole ranges of a checkpoint, by a database role that the
//! application does not have. A range goes only if it lies under a checkpoint that is kept outside
//! of the database, is older than the policy, and is under no legal hold; and only after it was
//! written to a file, synced, read back, and each entry was found to be the leaf that was signed.
//! Its last entry stays, for the chain to follow, with what later verifications read (rotations,
//! signing keys, and what says all this). The tree stays whole, so that every archived entry can
//! still be proved. A trigger in the database lets exactly that happen and nothing else; a hold is
//! set before a removal, or after it, and never beside it.
//!
//! | The store is | [`Retention::archive`] |
//! |---|---|
//! | reachable | archives and removes what is old enough |
//! | lost, or the process killed, at any point | nothing is gone that is not in a verified file; run it again, and it goes on |
//! | not as it was signed | refuses; nothing is removed |
//!
//! ```no_run
//! # async fn example(audit: portcullis::audit::Audit) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::UserId;
//! use portcullis::audit::retention::{Archiving, KeptNote, LegalHold, RetentionPolicy};
//! use portcullis::tlog::LogVerifier;
//!
//! let retention = audit.retention();
//! let me = UserId::parse("u-17")?;
//! retention.set_policy(RetentionPolicy::months(12)?, &me, "internal rule 4.2").await?;
//! let hold = retention.hold(LegalHold::everything(), &me, "incident 381").await?;
//! retention.release(hold, &me, "incident 381 is closed").await?;
//!
//! let log = LogVerifier::parse(&std::fs::read_to_string("acme.vkey")?)?;
//! let kept = KeptNote::new("worm", std::fs::read_to_string("/mnt/worm/acme.checkpoint")?);
//! let what = Archiving::into_directory("/srv/archive/acme", log.clone()).kept(kept);
//! for archive in retention.archive(&what).await?.archives {
//!     assert!(retention.verify_archive(&archive.file, &log).await?.is_clean());
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "evidence")]
mod archive;
#[cfg(feature = "evidence")]
mod check;
#[cfg(feature = "evidence")]
mod error;
#[cfg(feature = "evidence")]
mod evidence;
#[cfg(feature = "evidence")]
mod file;
#[cfg(feature = "evidence")]
mod handle;
mod hold;
#[cfg(feature = "evidence")]
mod leaves;
#[cfg(feature = "evidence")]
mod line;
#[cfg(feature = "evidence")]
mod model;
#[cfg(feature = "evidence")]
mod policy;
#[cfg(feature = "evidence")]
mod prove;
mod purged;
mod record;

#[cfg(feature = "evidence")]
pub use self::check::{ArchiveCheck, ArchiveFinding};
#[cfg(feature = "evidence")]
pub use self::error::RetentionError;
#[cfg(feature = "evidence")]
pub use self::evidence::{RetentionEvidence, Status};
#[cfg(feature = "evidence")]
pub use self::handle::Retention;
#[cfg(feature = "evidence")]
pub use self::hold::{LegalHold, OpenHold};
#[cfg(feature = "evidence")]
pub use self::model::{ArchiveProgress, ArchiveReport, Archived, Archiving, KeptNote};
#[cfg(feature = "evidence")]
pub use self::policy::{PolicyInForce, RetentionPolicy};
pub(in crate::audit) use self::purged::{Gap, Purged};
