//! Every SQL statement of the audit trail, and nothing else.

pub(super) mod anchor;
pub(super) mod append;
pub(super) mod archive;
#[cfg(feature = "evidence")]
pub(super) mod bundle;
pub(super) mod chain;
pub(super) mod checkpoint;
pub(super) mod columns;
pub(super) mod heads;
pub(super) mod identity;
pub(super) mod keyring;
pub(super) mod lineage;
pub(super) mod lookup;
pub(super) mod outbox;
pub(super) mod read;
pub(super) mod retention;
pub(super) mod rows;
#[cfg(all(test, feature = "embedded"))]
mod tests;
pub(super) mod tree;
pub(super) mod verify;
