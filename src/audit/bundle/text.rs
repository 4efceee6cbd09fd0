//! The one spelling of a line: canonical JSON, and of bytes, ids and times within it.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::ser::{CharEscape, Formatter};
use uuid::Uuid;

use crate::time::Timestamp;

/// `value` as canonical JSON, if its fields are declared in the order of their names.
pub(super) fn write<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut out = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Canonical);
    value.serialize(&mut serializer)?;
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

/// Escapes what [`canon`](crate::canon) escapes, and as it does: nothing in a line ends the line for
/// any reader.
struct Canonical;

impl Formatter for Canonical {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, special)) = rest
            .char_indices()
            .find(|(_, c)| matches!(c, '\u{7f}' | '\u{2028}' | '\u{2029}'))
        {
            let (plain, after) = rest.split_at(at);
            write!(out, "{plain}\\u{:04x}", u32::from(special))?;
            rest = after.get(special.len_utf8()..).unwrap_or("");
        }
        out.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => out.write_all(b"\\\""),
            CharEscape::ReverseSolidus => out.write_all(b"\\\\"),
            CharEscape::LineFeed => out.write_all(b"\\n"),
            CharEscape::CarriageReturn => out.write_all(b"\\r"),
            CharEscape::Tab => out.write_all(b"\\t"),
            CharEscape::Solidus => out.write_all(b"/"),
            CharEscape::Backspace => out.write_all(b"\\u0008"),
            CharEscape::FormFeed => out.write_all(b"\\u000c"),
            CharEscape::AsciiControl(byte) => write!(out, "\\u{byte:04x}"),
        }
    }
}

/// Bytes as lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Hex(pub(super) Vec<u8>);

impl From<Hex> for String {
    fn from(bytes: Hex) -> Self {
        hex::encode(bytes.0)
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self).map_err(|_| "not hex")
    }
}

/// Bytes as base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Base64(pub(super) Vec<u8>);

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Base64 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self).map_err(|_| "not base64")
    }
}

/// A UUID, with hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Id(pub(super) [u8; 16]);

impl From<Id> for String {
    fn from(id: Id) -> Self {
        Uuid::from_bytes(id.0).to_string()
    }
}

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let id = Uuid::parse_str(&text).map_err(|_| "not a UUID")?;
        Ok(Self(id.into_bytes()))
    }
}

/// A moment, in RFC 3339 with six digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Moment(pub(super) Timestamp);

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.0.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Timestamp::parse(&text).map(Self).map_err(|_| "not a time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_is_the_canonical_text_of_its_value(map in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..5), special in "[\u{7f}\u{2028}\u{2029}\u{8}\u{c}\u{1b}\"\\\\/\n\r\ta-c]{0,12}") {
            let value = (map, special, 7_u64, [true]);
            let canonical = crate::canon::write_text(&serde_json::to_value(&value).unwrap());
            prop_assert_eq!(write(&value).unwrap(), canonical);
        }
    }

    #[test]
    fn bytes_ids_and_times_come_back_as_they_went_in() {
        let both = (
            Hex(vec![0, 255]),
            Base64(vec![1, 2]),
            Id([7; 16]),
            Moment(Timestamp::from_micros(-1)),
        );
        let text = write(&both).unwrap();
        assert_eq!(
            text,
            r#"["00ff","AQI=","07070707-0707-0707-0707-070707070707","1969-12-31T23:59:59.999999Z"]"#
        );
        let read: (Hex, Base64, Id, Moment) = serde_json::from_str(&text).unwrap();
        assert_eq!(read, both);
    }
}
