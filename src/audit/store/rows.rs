//! The rows of a batch, encoded once as the array that `unnest` takes.
//!
//! The driver would want a `Vec` of values for each column and encode it afterwards; this writes
//! the bytes that go over the wire at once, and keeps the memory from batch to batch. One array of
//! rows and not one for each column: the server makes a list of what each `unnest` gives, and runs
//! through all of them side by side.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};
use uuid::Uuid;

/// The types of a field, by the numbers that every Postgres gives them.
const BYTEA: Oid = Oid(17);
const INT8: Oid = Oid(20);
const TEXT: Oid = Oid(25);
const TIMESTAMPTZ: Oid = Oid(1184);
const UUID: Oid = Oid(2950);
/// The server takes the type that the statement casts to: that of a row has no number of its own
/// before it is made.
const UNSAID: Oid = Oid(0);

/// Those of `portcullis.new_entry`, in order.
const FIELDS: [Oid; WIDTH] = [
    TEXT,        // kind
    TIMESTAMPTZ, // occurred_at
    UUID,        // event_id
    TEXT,        // session_id
    TEXT,        // agent_id
    TEXT,        // user_id
    UUID,        // parent_id
    TEXT,        // model
    BYTEA,       // input_hash
    BYTEA,       // output_hash
    TEXT,        // decision
    TEXT,        // metadata
    BYTEA,       // mac
    TEXT,        // ingest
    BYTEA,       // agent_key
    BYTEA,       // signature
    UUID,        // origin_journal
    INT8,        // origin_seq
    BYTEA,       // origin_mac
];
const WIDTH: usize = 19;
/// The same as the server reads it, and what a row has besides its values: its number of fields, and
/// the type and length of each.
const WIDTH_SENT: i32 = 19;
const HEADS: i32 = 4 + 8 * WIDTH_SENT;

/// The fields in which the entries of a batch differ, in their binary form. The others (tenant,
/// chain, key, the time of recording) are the same for all, and the places are counted.
pub(in crate::audit) type Fields<'r> = [Option<&'r [u8]>; WIDTH];

/// An array of rows in Postgres' binary form.
#[derive(Debug, Default)]
pub(in crate::audit) struct Rows {
    count: i32,
    bytes: Vec<u8>,
    /// The places of the outbox that the batch empties.
    pub(in crate::audit) outbox: Vec<Uuid>,
    /// Whether one of the last six fields of a row has something to say.
    pub(in crate::audit) rich: bool,
}

impl Rows {
    pub(in crate::audit) fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        self.outbox.clear();
        self.rich = false;
    }

    /// Adds a row.
    pub(in crate::audit) fn push(&mut self, fields: &Fields<'_>) {
        // INVARIANT: a batch has some thousands of values, each bounded far below 2 GiB.
        let len = |value: &[u8]| i32::try_from(value.len()).unwrap_or(-1);
        let all = fields.iter().flatten().map(|value| len(value));
        let whole = all.fold(HEADS, i32::saturating_add);
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(&whole.to_be_bytes());
        bytes.extend_from_slice(&WIDTH_SENT.to_be_bytes());
        for (value, Oid(oid)) in fields.iter().zip(FIELDS) {
            let mut head = [0; 8];
            let (first, last) = head.split_at_mut(4);
            first.copy_from_slice(&oid.to_be_bytes());
            last.copy_from_slice(&value.map_or(-1, len).to_be_bytes());
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(value.unwrap_or_default());
        }
        self.count = self.count.saturating_add(1);
    }

    /// The fields of the first row: of the only one, to be sent as values and not as an array.
    pub(in crate::audit) fn first(&self) -> impl Iterator<Item = Field<'_>> {
        // Behind its length and the number of its fields.
        let mut rest = self.bytes.get(8..).unwrap_or_default();
        FIELDS.into_iter().map_while(move |oid| {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            let [.., a, b, c, d] = *head;
            let len = usize::try_from(i32::from_be_bytes([a, b, c, d])).ok();
            let (value, tail) = tail.split_at_checked(len.unwrap_or(0))?;
            rest = tail;
            Some(Field {
                oid,
                value: len.map(|_| value),
            })
        })
    }
}

impl Type<Postgres> for Rows {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UNSAID)
    }
}

impl Encode<'_, Postgres> for Rows {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let one = 1_i32.to_be_bytes();
        buffer.extend_from_slice(&one); // dimensions
        buffer.extend_from_slice(&0_i32.to_be_bytes()); // no row is null
        buffer.extend_from_slice(&UNSAID.0.to_be_bytes());
        buffer.extend_from_slice(&self.count.to_be_bytes());
        buffer.extend_from_slice(&one); // the lower bound
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }
}

/// One field of a row.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Field<'r> {
    oid: Oid,
    value: Option<&'r [u8]>,
}

impl Type<Postgres> for Field<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TEXT)
    }
}

impl Encode<'_, Postgres> for Field<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let Some(value) = self.value else {
            return Ok(IsNull::Yes);
        };
        buffer.extend_from_slice(value);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.oid))
    }
}
