//! What other modules have the journal keep for them while the database is away.

use crate::canon::Metadata;
use crate::ids::EventId;

/// Something that a module could not store, to be done when the database is back: no entry of the
/// trail. It may be handed back more than once, and doing it twice must be doing it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) id: EventId,
    /// Whose it is.
    pub(crate) module: String,
    pub(crate) payload: Metadata,
}
