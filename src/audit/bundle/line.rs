//! The lines of a bundle. Normative together with the manual's page of bundles.
//!
//! Each is one JSON object with one name in it, which says what it is. A line has one spelling: one
//! that is not what [`Line::write`] gives is refused, so that unknown fields, white space, another
//! order and names that stand twice have no place to be.

use serde::{Deserialize, Serialize};

use super::selection::Selection;
use super::text::{self, Base64, Hex, Id, Moment};
use crate::audit::keys::Tag;
use crate::audit::row::Row;
use crate::audit::stored::Stored;
use crate::canon::Fields;
use crate::time::Timestamp;
use crate::tlog::TreeHash;

/// What the first line says that it is.
pub(super) const FORMAT: &str = "portcullis/bundle/v1";
/// The longest line: metadata of 64 KiB of which each byte is escaped twice, and room.
pub(super) const MAX_LINE: usize = 2 << 20;

/// One line.
//
// The names' order is that of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Bundle(Box<Header>),
    Checkpoint(CheckpointLine),
    Anchor(AnchorLine),
    Key(KeyLine),
    Tile(TileLine),
    Entry(Box<EntryLine>),
    Withheld(WithheldLine),
    /// A seal that it had before something was taken out, the oldest first.
    Former(SealLine),
    Seal(SealLine),
}

/// What it is a bundle of, as its maker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) format: String,
    pub(super) log: String,
    pub(super) root: Base64,
    pub(super) selection: Selection,
    pub(super) signer: String,
    pub(super) size: u64,
    pub(super) tenant: String,
}

/// A signed checkpoint, and that its tree is the beginning of the bundle's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointLine {
    pub(super) consistency: Vec<Base64>,
    pub(super) note: String,
}

/// What somebody outside gave for the checkpoint before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AnchorLine {
    pub(super) anchor: String,
    pub(super) kept_at: Moment,
    pub(super) kind: String,
    pub(super) receipt: Base64,
    pub(super) root: Base64,
    pub(super) size: u64,
}

/// An agent's public key, and the leaves of the entries that say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyLine {
    pub(super) agent: String,
    pub(super) id: Hex,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<Moment>,
    pub(super) public: Hex,
    pub(super) registered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<u64>,
}

/// A tile of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TileLine {
    pub(super) hashes: Base64,
    pub(super) path: String,
}

/// Leaves of which only the hashes are in the tree, and not what they are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WithheldLine {
    pub(super) count: u64,
    pub(super) from: u64,
}

/// The signature under everything before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealLine {
    pub(super) note: String,
}

/// An entry: all that its leaf is made from, and its agent's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent_key: Option<Hex>,
    pub(super) chain: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<String>,
    pub(super) event: Id,
    pub(super) ingest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input_hash: Option<Hex>,
    pub(super) key: u32,
    pub(super) kind: String,
    pub(super) leaf: u64,
    pub(super) mac: Hex,
    pub(super) metadata: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    pub(super) occurred: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin_journal: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin_mac: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output_hash: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Id>,
    pub(super) recorded: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<Hex>,
    pub(super) seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
}

impl Line {
    /// Reads a line, its newline not included; `None` if it is none, or not in its one spelling.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(line).ok()?;
        (read.write()?.as_bytes() == line).then_some(read)
    }

    /// The line, without a newline.
    pub(super) fn write(&self) -> Option<String> {
        text::write(self).ok()
    }
}

impl EntryLine {
    /// The line of an entry at `leaf`; `None` if a column holds what this crate never writes.
    pub(super) fn of(leaf: u64, stored: &Stored<'_>) -> Option<Self> {
        let row = &stored.row;
        let moment = |micros| {
            let moment = Timestamp::from_micros(micros);
            (moment.as_micros() == micros).then_some(Moment(moment))
        };
        let text = |text: Option<&str>| text.map(str::to_owned);
        let bytes = |bytes: Option<&[u8]>| bytes.map(|bytes| Hex(bytes.to_vec()));
        let id = |bytes: Option<&[u8]>| match bytes {
            None => Some(None),
            Some(bytes) => Some(Some(Id(bytes.try_into().ok()?))),
        };
        Some(Self {
            agent: text(row.agent),
            agent_key: bytes(row.agent_key),
            chain: row.chain_no,
            decision: text(row.decision),
            event: Id(row.event_id.try_into().ok()?),
            ingest: row.ingest.to_owned(),
            input_hash: bytes(row.input_hash),
            key: row.key_id,
            kind: row.kind.to_owned(),
            leaf,
            mac: Hex(stored.mac?.to_vec()),
            metadata: row.metadata.to_owned(),
            model: text(row.model),
            occurred: moment(row.occurred_us)?,
            origin_journal: id(row.origin_journal)?,
            origin_mac: bytes(row.origin_mac),
            origin_seq: row.origin_seq,
            output_hash: bytes(row.output_hash),
            parent: id(row.parent)?,
            recorded: moment(row.recorded_us)?,
            sealed: bytes(row.sealed),
            seq: row.seq,
            session: text(row.session),
            signature: bytes(stored.signature),
            user: text(row.user),
        })
    }

    /// The entry, of `tenant`, as the chain has it.
    pub(super) fn stored<'l>(&'l self, tenant: &'l str) -> Stored<'l> {
        fn bytes(bytes: Option<&Hex>) -> Option<&[u8]> {
            bytes.map(|bytes| bytes.0.as_slice())
        }
        fn id(id: Option<&Id>) -> Option<&[u8]> {
            id.map(|id| id.0.as_slice())
        }
        Stored {
            row: Row {
                tenant,
                chain_no: self.chain,
                seq: self.seq,
                key_id: self.key,
                kind: &self.kind,
                occurred_us: self.occurred.0.as_micros(),
                recorded_us: self.recorded.0.as_micros(),
                event_id: &self.event.0,
                session: self.session.as_deref(),
                agent: self.agent.as_deref(),
                user: self.user.as_deref(),
                agent_key: bytes(self.agent_key.as_ref()),
                parent: id(self.parent.as_ref()),
                model: self.model.as_deref(),
                input_hash: bytes(self.input_hash.as_ref()),
                output_hash: bytes(self.output_hash.as_ref()),
                decision: self.decision.as_deref(),
                metadata: &self.metadata,
                sealed: bytes(self.sealed.as_ref()),
                ingest: &self.ingest,
                origin_journal: id(self.origin_journal.as_ref()),
                origin_seq: self.origin_seq,
                origin_mac: bytes(self.origin_mac.as_ref()),
            },
            mac: self.mac.0.as_slice().try_into().ok(),
            signature: bytes(self.signature.as_ref()),
        }
    }
}

/// The leaf of an entry: the bytes that its MAC covers, and the MAC. `None` without one.
pub(super) fn leaf_of(stored: &Stored<'_>, encoded: &mut Fields) -> Option<TreeHash> {
    let mac: &Tag = stored.mac?;
    stored.row.encode(encoded);
    Some(crate::audit::checkpoint::leaf(encoded, mac))
}

/// A hash in a line.
pub(super) fn hash(bytes: &Base64) -> Option<TreeHash> {
    bytes.0.as_slice().try_into().ok().map(TreeHash::from_bytes)
}

#[cfg(test)]
mod tests;
