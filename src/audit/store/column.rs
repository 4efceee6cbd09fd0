//! The columns of a batch, encoded once as the arrays that `unnest` takes.
//!
//! The driver would want a `Vec` of values for each column and encode it afterwards; this writes
//! the bytes that go over the wire at once, and keeps the memory from batch to batch.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::time::Timestamp;

/// The type of a column's values, by the numbers that every Postgres gives it.
#[derive(Clone, Copy, Debug)]
enum Element {
    Bytea,
    Int8,
    Text,
    Timestamptz,
    Uuid,
}

impl Element {
    const fn oid(self) -> u32 {
        match self {
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Text => 25,
            Self::Timestamptz => 1184,
            Self::Uuid => 2950,
        }
    }

    const fn array_oid(self) -> u32 {
        match self {
            Self::Bytea => 1001,
            Self::Int8 => 1016,
            Self::Text => 1009,
            Self::Timestamptz => 1185,
            Self::Uuid => 2951,
        }
    }
}

/// One column: an array of one dimension in Postgres' binary form.
#[derive(Debug)]
pub(in crate::audit) struct Column {
    element: Element,
    count: i32,
    nulls: bool,
    bytes: Vec<u8>,
}

impl Column {
    const fn of(element: Element) -> Self {
        Self {
            element,
            count: 0,
            nulls: false,
            bytes: Vec::new(),
        }
    }

    pub(in crate::audit) fn clear(&mut self) {
        self.count = 0;
        self.nulls = false;
        self.bytes.clear();
    }

    /// Adds a value in its binary form.
    pub(in crate::audit) fn push(&mut self, value: Option<&[u8]>) {
        // INVARIANT: a batch has some thousands of values, each bounded far below 2 GiB.
        let sized = value.and_then(|value| Some((value, i32::try_from(value.len()).ok()?)));
        if let Some((value, len)) = sized {
            self.bytes.extend_from_slice(&len.to_be_bytes());
            self.bytes.extend_from_slice(value);
        } else {
            self.nulls = true;
            self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        }
        self.count = self.count.saturating_add(1);
    }

    /// Adds a moment.
    pub(in crate::audit) fn push_time(&mut self, time: Timestamp) {
        self.push(Some(&time.to_postgres().to_be_bytes()));
    }
}

impl Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Element::Text.array_oid()))
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let one = 1_i32.to_be_bytes();
        buffer.extend_from_slice(&one); // dimensions
        buffer.extend_from_slice(&i32::from(self.nulls).to_be_bytes());
        buffer.extend_from_slice(&self.element.oid().to_be_bytes());
        buffer.extend_from_slice(&self.count.to_be_bytes());
        buffer.extend_from_slice(&one); // the lower bound
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.element.array_oid())))
    }
}

/// The only value of a column that has one, sent as a value and not as an array.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Only<'c>(pub(in crate::audit) &'c Column);

impl Type<Postgres> for Only<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Element::Text.oid()))
    }
}

impl Encode<'_, Postgres> for Only<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // Behind its length.
        match self.0.bytes.get(4..) {
            Some(value) if !self.0.nulls => {
                buffer.extend_from_slice(value);
                Ok(IsNull::No)
            }
            _ => Ok(IsNull::Yes),
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.0.element.oid())))
    }
}

/// The columns in which the entries of a batch differ. The others (tenant, chain, key, the time of
/// recording) are the same for all, and the places are counted.
#[derive(Debug)]
pub(in crate::audit) struct Columns {
    pub(in crate::audit) kind: Column,
    pub(in crate::audit) occurred_at: Column,
    pub(in crate::audit) event_id: Column,
    pub(in crate::audit) session_id: Column,
    pub(in crate::audit) agent_id: Column,
    pub(in crate::audit) user_id: Column,
    pub(in crate::audit) parent_id: Column,
    pub(in crate::audit) model: Column,
    pub(in crate::audit) input_hash: Column,
    pub(in crate::audit) output_hash: Column,
    pub(in crate::audit) decision: Column,
    pub(in crate::audit) metadata: Column,
    pub(in crate::audit) mac: Column,
    pub(in crate::audit) agent_key: Column,
    pub(in crate::audit) signature: Column,
    pub(in crate::audit) ingest: Column,
    pub(in crate::audit) origin_journal: Column,
    pub(in crate::audit) origin_seq: Column,
    pub(in crate::audit) origin_mac: Column,
    /// The places of the outbox that the batch empties: not a column of entries.
    pub(in crate::audit) outbox: Column,
    /// Whether one of the last seven has something to say. They are filled either way.
    pub(in crate::audit) rich: bool,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            kind: Column::of(Element::Text),
            occurred_at: Column::of(Element::Timestamptz),
            event_id: Column::of(Element::Uuid),
            session_id: Column::of(Element::Text),
            agent_id: Column::of(Element::Text),
            user_id: Column::of(Element::Text),
            parent_id: Column::of(Element::Uuid),
            model: Column::of(Element::Text),
            input_hash: Column::of(Element::Bytea),
            output_hash: Column::of(Element::Bytea),
            decision: Column::of(Element::Text),
            metadata: Column::of(Element::Text),
            mac: Column::of(Element::Bytea),
            agent_key: Column::of(Element::Bytea),
            signature: Column::of(Element::Bytea),
            ingest: Column::of(Element::Text),
            origin_journal: Column::of(Element::Uuid),
            origin_seq: Column::of(Element::Int8),
            origin_mac: Column::of(Element::Bytea),
            outbox: Column::of(Element::Uuid),
            rich: false,
        }
    }
}

impl Columns {
    pub(in crate::audit) fn clear(&mut self) {
        for column in [
            &mut self.kind,
            &mut self.occurred_at,
            &mut self.event_id,
            &mut self.session_id,
            &mut self.agent_id,
            &mut self.user_id,
            &mut self.parent_id,
            &mut self.model,
            &mut self.input_hash,
            &mut self.output_hash,
            &mut self.decision,
            &mut self.metadata,
            &mut self.mac,
            &mut self.agent_key,
            &mut self.signature,
            &mut self.ingest,
            &mut self.origin_journal,
            &mut self.origin_seq,
            &mut self.origin_mac,
            &mut self.outbox,
        ] {
            column.clear();
        }
        self.rich = false;
    }
}
