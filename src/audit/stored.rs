//! An entry as the database sent it, before anything of it is believed.
//!
//! `COPY .. (FORMAT binary)` and the rows of a prepared statement have the same fields, so that
//! what is verified and what is read is decoded by one function.

use sqlx::Row as _;
use sqlx::postgres::{PgRow, PgValueFormat};

use super::identity::AgentKeyId;
use super::keys::Tag;
use super::kind::Kind;
use super::model::Entry;
use super::row::Row;
use crate::canon::Metadata;
use crate::ids::{AgentId, EventId, ModelName, SessionId, UserId};
use crate::time::Timestamp;

/// How many columns an entry has, the tenant not counted.
pub(super) const COLUMNS: usize = 24;

/// The columns as bytes; `None` is NULL.
pub(super) type Raw<'b> = [Option<&'b [u8]>; COLUMNS];

/// An entry whose columns could all be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored<'b> {
    /// What the MAC covers.
    pub(super) row: Row<'b>,
    /// The MAC; `None` if what is stored is not 32 bytes.
    pub(super) mac: Option<&'b Tag>,
    /// The agent's signature, as it is stored.
    pub(super) signature: Option<&'b [u8]>,
}

/// An entry that is none: a column is NULL or has the wrong size, which the table's constraints
/// forbid for as long as nobody drops them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn<'b> {
    /// Where it stands; `None` if not even that can be read.
    pub(super) seq: Option<i64>,
    pub(super) chain_no: Option<u32>,
    pub(super) column: &'static str,
    pub(super) mac: Option<&'b Tag>,
}

impl<'b> Stored<'b> {
    /// Reads the columns, in the order of the SQL.
    pub(super) fn decode(tenant: &'b str, raw: &Raw<'b>) -> Result<Self, Torn<'b>> {
        let [
            chain_no,
            seq,
            key_id,
            kind,
            occurred_at,
            recorded_at,
            event_id,
            session,
            agent,
            user,
            agent_key,
            parent,
            model,
            input_hash,
            output_hash,
            decision,
            metadata,
            sealed,
            ingest,
            origin_journal,
            origin_seq,
            origin_mac,
            mac,
            signature,
        ] = *raw;
        let seq = int8(seq);
        let chain_no = chain_no
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes);
        let mac = mac.and_then(|bytes| bytes.try_into().ok());
        let torn = |column| Torn {
            seq,
            chain_no,
            column,
            mac,
        };
        let row = Row {
            tenant,
            chain_no: chain_no.ok_or(torn("chain_no"))?,
            seq: seq
                .filter(|&seq| seq > 0)
                .map(i64::cast_unsigned)
                .ok_or(torn("seq"))?,
            key_id: int8(key_id)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or(torn("key_id"))?,
            kind: text(kind).ok_or(torn("kind"))?,
            occurred_us: time(occurred_at).ok_or(torn("occurred_at"))?,
            recorded_us: time(recorded_at).ok_or(torn("recorded_at"))?,
            event_id: event_id.ok_or(torn("event_id"))?,
            session: maybe(session, text).ok_or(torn("session_id"))?,
            agent: maybe(agent, text).ok_or(torn("agent_id"))?,
            user: maybe(user, text).ok_or(torn("user_id"))?,
            agent_key,
            parent,
            model: maybe(model, text).ok_or(torn("model"))?,
            input_hash,
            output_hash,
            decision: maybe(decision, text).ok_or(torn("decision"))?,
            metadata: text(metadata).ok_or(torn("metadata"))?,
            sealed,
            ingest: text(ingest).ok_or(torn("ingest"))?,
            origin_journal,
            origin_seq: maybe(origin_seq, |bytes| int8(bytes).map(i64::cast_unsigned))
                .ok_or(torn("origin_seq"))?,
            origin_mac,
        };
        Ok(Self {
            row,
            mac,
            signature,
        })
    }

    /// The entry that callers see; `None` if a column holds what this crate never writes.
    pub(super) fn entry(&self) -> Option<Entry> {
        let row = &self.row;
        Some(Entry {
            id: event_id(row.event_id)?,
            chain_no: row.chain_no,
            seq: row.seq,
            key_id: row.key_id,
            kind: Kind::parse(row.kind)?,
            occurred_at: Timestamp::from_micros(row.occurred_us),
            recorded_at: Timestamp::from_micros(row.recorded_us),
            session: maybe(row.session, |t| SessionId::parse(t?).ok())?,
            agent: maybe(row.agent, |t| AgentId::parse(t?).ok())?,
            user: maybe(row.user, |t| UserId::parse(t?).ok())?,
            parent: maybe(row.parent, |bytes| event_id(bytes?))?,
            model: maybe(row.model, |t| ModelName::parse(t?).ok())?,
            input_hash: maybe(row.input_hash, |bytes| bytes?.try_into().ok())?,
            output_hash: maybe(row.output_hash, |bytes| bytes?.try_into().ok())?,
            decision: row.decision.map(str::to_owned),
            signed_by: maybe(row.agent_key, |bytes| AgentKeyId::stored(bytes?))?,
            metadata: Metadata::stored(row.metadata.to_owned()),
            mac: *self.mac?,
        })
    }
}

/// The columns of `row`, which begin at `first`.
pub(super) fn raw(row: &PgRow, first: usize) -> Result<Raw<'_>, sqlx::Error> {
    let mut raw: Raw<'_> = [None; COLUMNS];
    for (i, slot) in raw.iter_mut().enumerate() {
        let value = row.try_get_raw(first + i)?;
        if value.format() != PgValueFormat::Binary {
            return Err(sqlx::Error::Decode("a column in text form".into()));
        }
        // A NULL has no bytes; that is no error here.
        *slot = value.as_bytes().ok();
    }
    Ok(raw)
}

fn event_id(bytes: &[u8]) -> Option<EventId> {
    let id = sqlx::types::Uuid::from_slice(bytes).ok()?;
    Some(EventId::from_uuid(id))
}

/// `Some(None)` if there is nothing, `None` if there is something that cannot be read.
#[expect(
    clippy::option_option,
    reason = "absent, or there and unreadable: two different things"
)]
fn maybe<T: Copy, U>(value: Option<T>, read: impl Fn(Option<T>) -> Option<U>) -> Option<Option<U>> {
    match value {
        None => Some(None),
        some => read(some).map(Some),
    }
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(bytes?).ok()
}

fn int8(bytes: Option<&[u8]>) -> Option<i64> {
    bytes?.try_into().ok().map(i64::from_be_bytes)
}

/// Microseconds from 1970, where Postgres counts from 2000.
fn time(bytes: Option<&[u8]>) -> Option<i64> {
    const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
    int8(bytes).map(|micros| micros.saturating_add(POSTGRES_EPOCH_MICROS))
}
