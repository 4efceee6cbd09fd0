//! Edges: each governs calls made through somebody else's library.

#[cfg(feature = "anchors-http")]
pub mod anchors;
#[cfg(feature = "webhooks")]
pub mod approvals;
#[cfg(feature = "openai")]
pub mod openai;
