//! Edges: each governs calls made through somebody else's library.

#[cfg(feature = "openai")]
pub mod openai;
