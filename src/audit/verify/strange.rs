//! What this crate never writes, whoever made its MAC.

use super::canonical::is_canonical;
use crate::audit::kind::{AppKind, Kind};
use crate::audit::row::Row;

pub(super) const GENESIS_KIND: &str = "chain.genesis";
const INGESTS: [&str; 4] = ["live", "journal", "transaction", "import"];

/// What an entry has that this crate does not write, though it has the key's MAC.
pub(super) fn strange(row: &Row<'_>) -> Option<&'static str> {
    let known = if row.kind.starts_with("app.") {
        AppKind::check(row.kind).is_ok()
    } else {
        Kind::parse(row.kind).is_some()
    };
    if !known {
        return Some("the entry's kind is unknown");
    }
    if (row.kind == GENESIS_KIND) != (row.seq == 1) {
        return Some("a chain begins with chain.genesis, and only there");
    }
    if !INGESTS.contains(&row.ingest) {
        return Some("the entry came in a way that is unknown");
    }
    (!is_canonical(row.metadata)).then_some("the entry's metadata is not canonical")
}
