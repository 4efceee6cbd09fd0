//! Edges: each governs calls made through somebody else's library.

#[cfg(feature = "anchors-http")]
pub mod anchors;
#[cfg(feature = "openai")]
pub mod openai;
