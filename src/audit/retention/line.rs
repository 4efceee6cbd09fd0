//! The lines of an archive's file: what an entry is in JSON, and back to the bytes of its leaf.
//!
//! A header, then for each range a line that names it and its entries in order, then the end with
//! the counts. Everything that the MAC covers is there, so the leaf can be made again from the line;
//! it stands there too, for people.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::checkpoint::leaf;
use crate::audit::keys::Tag;
use crate::audit::row::Row;
use crate::audit::stored::Stored;
use crate::canon::Fields;
use crate::ids::EventId;
use crate::time::Timestamp;
use crate::tlog::TreeHash;

pub(super) const FORMAT: &str = "portcullis/archive/v1";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Header(Header),
    Range(Range),
    Entry(Box<EntryLine>),
    End(End),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) format: String,
    pub(super) archive: String,
    pub(super) tenant: String,
    /// The name of the anchor that keeps the checkpoint.
    pub(super) anchor: String,
    /// Its note.
    pub(super) checkpoint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    pub(super) first_leaf: u64,
    pub(super) chain: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Range {
    pub(super) const fn last_leaf(&self) -> u64 {
        self.first_leaf
            .saturating_add(self.to.saturating_sub(self.from))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) entries: u64,
    pub(super) ranges: u64,
}

/// An entry. Absent is not the same as empty: both are what the MAC covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine {
    pub(super) chain: u32,
    pub(super) seq: u64,
    key: u32,
    kind: String,
    occurred: String,
    recorded: String,
    event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<String>,
    /// The stored text, letter by letter: the MAC covers it.
    metadata: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    ingest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin_journal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin_seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin_mac: Option<String>,
    mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    leaf: String,
}

impl EntryLine {
    /// The line of a stored entry; `None` if it has a column that this crate never writes so.
    pub(super) fn of(stored: &Stored<'_>, encoded: &mut Fields) -> Option<Self> {
        let row = &stored.row;
        let mac = stored.mac?;
        row.encode(encoded);
        let own = |text: Option<&str>| text.map(str::to_owned);
        let bytes = |bytes: Option<&[u8]>| bytes.map(hex::encode);
        let id = |bytes: &[u8]| Uuid::from_slice(bytes).map(|id| id.to_string()).ok();
        let maybe_id = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => id(bytes).map(Some),
            None => Some(None),
        };
        let time = |micros| Timestamp::from_micros(micros).to_string();
        Some(Self {
            chain: row.chain_no,
            seq: row.seq,
            key: row.key_id,
            kind: row.kind.to_owned(),
            occurred: time(row.occurred_us),
            recorded: time(row.recorded_us),
            event: id(row.event_id)?,
            session: own(row.session),
            agent: own(row.agent),
            user: own(row.user),
            agent_key: bytes(row.agent_key),
            parent: maybe_id(row.parent)?,
            model: own(row.model),
            input_hash: bytes(row.input_hash),
            output_hash: bytes(row.output_hash),
            decision: own(row.decision),
            metadata: row.metadata.to_owned(),
            sealed: bytes(row.sealed),
            ingest: row.ingest.to_owned(),
            origin_journal: maybe_id(row.origin_journal)?,
            origin_seq: row.origin_seq,
            origin_mac: bytes(row.origin_mac),
            mac: hex::encode(mac),
            signature: bytes(stored.signature),
            leaf: leaf(encoded, mac).to_string(),
        })
    }

    /// Which event it is of.
    pub(super) fn event(&self) -> Option<EventId> {
        Uuid::parse_str(&self.event).ok().map(EventId::from_uuid)
    }

    /// The bytes that the MAC covers, into `encoded`, and the MAC.
    pub(super) fn encode(&self, tenant: &str, encoded: &mut Fields) -> Option<Tag> {
        let bytes = |text: &Option<String>| text.as_ref().map(hex::decode).transpose().ok();
        let time = |text: &str| Timestamp::parse(text).ok().map(Timestamp::as_micros);
        let id = |text: &Option<String>| {
            let parsed = text.as_deref().map(Uuid::parse_str).transpose();
            parsed.ok().map(|id| id.map(Uuid::into_bytes))
        };
        let (parent, origin_journal) = (id(&self.parent)?, id(&self.origin_journal)?);
        let (agent_key, sealed) = (bytes(&self.agent_key)?, bytes(&self.sealed)?);
        let (input, output) = (bytes(&self.input_hash)?, bytes(&self.output_hash)?);
        let origin_mac = bytes(&self.origin_mac)?;
        let event = self.event()?.as_uuid();
        let row = Row {
            tenant,
            chain_no: self.chain,
            seq: self.seq,
            key_id: self.key,
            kind: &self.kind,
            occurred_us: time(&self.occurred)?,
            recorded_us: time(&self.recorded)?,
            event_id: event.as_bytes(),
            session: self.session.as_deref(),
            agent: self.agent.as_deref(),
            user: self.user.as_deref(),
            agent_key: agent_key.as_deref(),
            parent: parent.as_ref().map(<[u8; 16]>::as_slice),
            model: self.model.as_deref(),
            input_hash: input.as_deref(),
            output_hash: output.as_deref(),
            decision: self.decision.as_deref(),
            metadata: &self.metadata,
            sealed: sealed.as_deref(),
            ingest: &self.ingest,
            origin_journal: origin_journal.as_ref().map(<[u8; 16]>::as_slice),
            origin_seq: self.origin_seq,
            origin_mac: origin_mac.as_deref(),
        };
        row.encode(encoded);
        let mut mac = Tag::default();
        hex::decode_to_slice(&self.mac, &mut mac).ok()?;
        Some(mac)
    }

    /// The leaf, made of what the line says; `None` if that is no entry, or it names another leaf.
    pub(super) fn leaf(&self, tenant: &str, encoded: &mut Fields) -> Option<TreeHash> {
        let mac = self.encode(tenant, encoded)?;
        let made = leaf(encoded, &mac);
        (TreeHash::parse(&self.leaf) == Some(made)).then_some(made)
    }
}
