//! The manual: what is guaranteed and what proves it, against whom, what happens when things fail, how
//! it is operated, the format of bundles, and every tampering that was tried.

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("threat_model.md")]
pub mod threat_model {}

#[doc = include_str!("failure_modes.md")]
pub mod failure_modes {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("bundle.md")]
pub mod bundle {}

#[doc = include_str!("mutations.md")]
pub mod mutations {}
