//! Where the journal is, and how large it may become.

use std::path::{Path, PathBuf};

/// The size at which a file is closed and the next one begun.
const SEGMENT: u64 = 8 << 20;
/// The most that one writer's files may hold together.
const LIMIT: u64 = 256 << 20;

/// Where the journal of an audit trail is, and how large it may become.
///
/// Without settings it is `$XDG_STATE_HOME/portcullis`, or `$HOME/.local/state/portcullis`; the
/// directory is made, for this account alone, when the first event goes there. Several processes may
/// use one directory. Give containers a volume: what is not committed yet is in there.
#[derive(Clone, Debug)]
pub struct JournalSettings {
    place: Place,
    segment: u64,
    limit: u64,
    on_request: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Default,
    At(PathBuf),
    Nowhere,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self::at(Place::Default)
    }
}

impl JournalSettings {
    /// A journal in `directory`, which belongs to this account alone.
    #[must_use]
    pub fn in_directory(directory: impl AsRef<Path>) -> Self {
        Self::at(Place::At(directory.as_ref().to_owned()))
    }

    /// No journal: what the database does not take is lost, and reported so.
    #[must_use]
    pub const fn off() -> Self {
        Self::at(Place::Nowhere)
    }

    /// The size in bytes at which a file is closed and the next one begun (8 MiB). Files are removed
    /// as a whole, once all that is in them is committed.
    #[must_use]
    pub const fn segment(mut self, bytes: u64) -> Self {
        self.segment = bytes;
        self
    }

    /// The most bytes that the files of one writer may have together (256 MiB). Beyond it events are
    /// refused: [`log`](super::super::Audit::log) answers `Lost`, strict callers get an error, and a
    /// governed call is not made.
    #[must_use]
    pub const fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// Drains only when [`Audit::drain`](super::super::Audit::drain) is called, and not by itself: for
    /// a program that drains, says what it found, and ends.
    #[must_use]
    pub const fn on_request(mut self) -> Self {
        self.on_request = true;
        self
    }

    pub(super) const fn is_on_request(&self) -> bool {
        self.on_request
    }

    const fn at(place: Place) -> Self {
        Self {
            place,
            segment: SEGMENT,
            limit: LIMIT,
            on_request: false,
        }
    }

    pub(super) const fn segment_bytes(&self) -> u64 {
        self.segment
    }

    pub(super) const fn limit_bytes(&self) -> u64 {
        self.limit
    }

    /// The directory; `None` if there is to be no journal, or the environment names no place for it.
    pub(super) fn place(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Nowhere => None,
            Place::At(directory) => Some(directory.clone()),
            // A relative path is to be ignored (XDG base directory specification).
            Place::Default => absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
                .map(|state| state.join("portcullis")),
        }
    }
}

fn absolute(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    path.is_absolute().then_some(path)
}
