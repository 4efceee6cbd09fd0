//! Anchors over HTTP: witnesses and timestamp authorities.
//!
//! A [`WitnessAnchor`] is somebody else's server (C2SP `tlog-witness`) that remembers the largest
//! tree of a log that it saw, and cosigns nothing that does not go on from it. A [`TimestampAnchor`]
//! is a timestamp authority (RFC 3161): it remembers nothing, and its token shows that a checkpoint
//! existed at a time.
//!
//! Both check what they are answered: by the witness's key, by the authority's certificate. That the
//! transport is encrypted therefore adds no proof; only hashes and signatures travel.
//!
//! | The server is | the anchor |
//! |---|---|
//! | away, slow, or answers what it must not | has failed, is tried again later, and shows in health |
//! | of another opinion about the log's history | raises the alarm: `chain.fork_detected` |
//!
//! ```no_run
//! # fn example(builder: portcullis::GovernanceBuilder) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::adapters::anchors::{TimestampAnchor, WitnessAnchor};
//! use portcullis::tlog::WitnessVerifier;
//!
//! let key = WitnessVerifier::parse("witness.example/w1+36e5b1ab+BHQ...")?;
//! let builder = builder
//!     .anchor(WitnessAnchor::new("w1", "https://witness.example/api", key)?)
//!     .anchor(TimestampAnchor::new("tsa", "http://tsa.example/tsr")?.root(std::fs::read("/etc/portcullis/tsa-root.pem")?)?);
//! # let _ = builder;
//! # Ok(())
//! # }
//! ```

mod http;
mod timestamp;
mod witness;

#[cfg(feature = "evidence")]
pub use self::timestamp::TimestampRoots;
pub use self::timestamp::{TimestampAnchor, Timestamped};
pub use self::witness::WitnessAnchor;
