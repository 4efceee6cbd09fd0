//! What holds of canonical bytes and of a journal's lines whatever they are made of: the bodies of
//! those fuzz targets that reach what is private. Not in any build but tests' and fuzzing's.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a fuzz target says it by a panic"
)]

pub use super::journal::fuzzed::journal_line;
use super::row::Row;
use super::stored::{COLUMNS, Raw, Stored};
use super::verify::{Decoder, is_canonical};
use crate::canon::{Fields, Metadata, canonical_arguments};

/// Takes `bytes` as JSON, and as entries as the database sends them.
///
/// # Panics
///
/// If something that must hold does not.
pub fn canonical(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        json(text);
    }
    rows(bytes);
}

fn json(text: &str) {
    let parsed = Metadata::parse(text);
    let canonical = parsed.as_ref().is_ok_and(|m| m.as_str() == text);
    assert_eq!(is_canonical(text), canonical, "scanner and parser agree");
    if let Ok(metadata) = parsed {
        let value = metadata.to_value();
        assert!(is_canonical(metadata.as_str()));
        assert_eq!(Metadata::parse(metadata.as_str()).unwrap(), metadata);
        assert_eq!(Metadata::new(&value).unwrap(), metadata);
        assert_eq!(canonical_arguments(&value).unwrap(), metadata.as_str());
        // An object with a certain key is raw JSON to the other reader.
        if !text.contains("$serde_json::private::") && !text.contains('\\') {
            let read: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(value, read, "nothing is lost");
        }
    }
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(text)
        && let Ok(arguments) = canonical_arguments(&value)
    {
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&arguments).is_ok());
    }
}

fn rows(bytes: &[u8]) {
    // The first byte says where the message is cut.
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let header = [b"PGCOPY\n\xff\r\n\0".as_slice(), &[0; 8]].concat();
    let message = [&header, bytes].concat();
    let cut = usize::from(*cut).min(message.len());
    let (mut whole, mut cut_up) = (Decoder::default(), Decoder::default());
    let (mut at_once, mut in_parts) = (Vec::new(), Vec::new());
    let read = whole.feed(&message, |raw| at_once.push(row(raw)));
    let (first, second) = message.split_at(cut);
    let read_in_parts = cut_up
        .feed(first, |raw| in_parts.push(row(raw)))
        .and_then(|()| cut_up.feed(second, |raw| in_parts.push(row(raw))));
    assert_eq!(read.is_ok(), read_in_parts.is_ok());
    assert_eq!(at_once, in_parts, "however it is cut");
    assert!(read.is_err() || whole.is_complete() == cut_up.is_complete());
}

/// The canonical bytes of an entry, from which its fields are read back.
fn row(raw: &Raw<'_>) -> Option<Vec<u8>> {
    let stored = Stored::decode("acme", raw).ok()?;
    // No panic, whatever is in it.
    let _ = stored.entry();
    let mut out = Fields::default();
    stored.row.encode(&mut out);
    let fields = fields(out.as_bytes());
    assert_eq!(
        fields.len(),
        COLUMNS,
        "the label and the tenant for the MAC and the signature"
    );
    assert_eq!(fields[0], Some(b"portcullis/row/v1".as_slice()));
    assert_eq!(fields[1], Some(b"acme".as_slice()));
    assert!(
        same(&stored.row, &fields[2..]),
        "each field is read back in its place"
    );
    Some(out.as_bytes().to_vec())
}

fn same(row: &Row<'_>, fields: &[Option<&[u8]>]) -> bool {
    let text = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
    let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let expected = [
        Some(row.chain_no.to_be_bytes().to_vec()),
        Some(row.seq.to_be_bytes().to_vec()),
        Some(row.key_id.to_be_bytes().to_vec()),
        text(Some(row.kind)),
        Some(row.occurred_us.to_be_bytes().to_vec()),
        Some(row.recorded_us.to_be_bytes().to_vec()),
        bytes(Some(row.event_id)),
        text(row.session),
        text(row.agent),
        text(row.user),
        bytes(row.agent_key),
        bytes(row.parent),
        text(row.model),
        bytes(row.input_hash),
        bytes(row.output_hash),
        text(row.decision),
        text(Some(row.metadata)),
        bytes(row.sealed),
        text(Some(row.ingest)),
        bytes(row.origin_journal),
        row.origin_seq.map(|seq| seq.to_be_bytes().to_vec()),
        bytes(row.origin_mac),
    ];
    expected
        .iter()
        .map(Option::as_deref)
        .eq(fields.iter().copied())
}

/// Reads what [`Fields`] has written; there is one way to.
fn fields(mut bytes: &[u8]) -> Vec<Option<&[u8]>> {
    let mut fields = Vec::new();
    loop {
        match *bytes {
            [] => return fields,
            [0, ref rest @ ..] => {
                fields.push(None);
                bytes = rest;
            }
            [1, a, b, c, d, ref rest @ ..] => {
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                let (field, after) = rest.split_at(len);
                fields.push(Some(field));
                bytes = after;
            }
            _ => panic!("bytes that are no field"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An entry with each column, as the database sends it.
    fn whole() -> Vec<u8> {
        let int8 = 7_i64.to_be_bytes();
        let columns: [&[u8]; COLUMNS] = [
            &[0, 0, 0, 1],
            &int8,
            &int8,
            b"app.work.done",
            &int8,
            &int8,
            &[1; 16],
            b"s",
            b"a",
            b"u",
            &[2; 16],
            &[3; 16],
            b"m",
            &[4; 32],
            &[5; 32],
            b"allow",
            b"{}",
            &[6; 32],
            b"journal",
            &[7; 16],
            &int8,
            &[8; 32],
            &[9; 32],
            &[10; 64],
        ];
        // Cut in the middle.
        let mut out = vec![200, 0, 24];
        for column in columns {
            out.extend_from_slice(&u32::try_from(column.len()).unwrap().to_be_bytes());
            out.extend_from_slice(column);
        }
        out.extend_from_slice(&[0xff; 2]);
        out
    }

    #[test]
    fn a_whole_entry_is_read_and_its_fields_are_where_they_belong() {
        canonical(&whole());
        let mut read = 0;
        let message = [b"PGCOPY\n\xff\r\n\0".as_slice(), &[0; 8], &whole()[1..]].concat();
        let each = |raw: &Raw<'_>| read += usize::from(row(raw).is_some());
        Decoder::default().feed(&message, each).unwrap();
        assert_eq!(read, 1);
    }

    proptest! {
        #[test]
        fn a_changed_byte_of_an_entry_breaks_no_reader(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = whole();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            canonical(&bytes);
        }

        #[test]
        fn whatever_stands_in_a_journal_what_is_intact_is_read(parts in proptest::collection::vec("[{}\\[\\]\":,a-c0-9.\n ]{0,6}\n?", 0..8)) {
            let bytes: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
            journal_line(&bytes.join(&0xff));
        }
    }
}
