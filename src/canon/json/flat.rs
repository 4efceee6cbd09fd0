//! One JSON object of texts, numbers and flags, in one line: read without copying, written in order.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// The fields of a line, to be taken out one by one. What is left over, once all that are known have
/// been taken, is unknown or there twice.
#[derive(Debug)]
pub(crate) struct Flat<'t>(Vec<(Cow<'t, str>, Scalar<'t>)>);

#[derive(Debug)]
enum Scalar<'t> {
    Text(Cow<'t, str>),
    Number(i128),
    Flag(bool),
}

impl<'t> Flat<'t> {
    /// Reads `line`; `None` if it is no such object.
    pub(crate) fn read(line: &'t [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Whether every field has been taken.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is such a field.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.0.iter().any(|(name, _)| name == field)
    }

    pub(crate) fn text(&mut self, field: &str) -> Option<Cow<'t, str>> {
        match self.take(field)? {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number<N: TryFrom<i128>>(&mut self, field: &str) -> Option<N> {
        match self.take(field)? {
            Scalar::Number(number) => N::try_from(number).ok(),
            _ => None,
        }
    }

    pub(crate) fn flag(&mut self, field: &str) -> Option<bool> {
        match self.take(field)? {
            Scalar::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    fn take(&mut self, field: &str) -> Option<Scalar<'t>> {
        let at = self.0.iter().position(|(name, _)| name == field)?;
        Some(self.0.swap_remove(at).1)
    }
}

impl<'de: 't, 't> Deserialize<'de> for Flat<'t> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Flat<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(24);
        while let Some((Name(name), value)) = entries.next_entry()? {
            fields.push((name, value));
        }
        Ok(Flat(fields))
    }
}

/// A key: one that is written without escapes is not copied.
struct Name<'t>(Cow<'t, str>);

impl<'de: 't, 't> Deserialize<'de> for Name<'t> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match from.deserialize_str(Values)? {
            Scalar::Text(name) => Ok(Self(name)),
            // INVARIANT: what is read as a string is one.
            _ => Ok(Self(Cow::Borrowed(""))),
        }
    }
}

impl<'de: 't, 't> Deserialize<'de> for Scalar<'t> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, an integer, or a flag")
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(v)))
    }
    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(v.to_owned())))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(v.into()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(v.into()))
    }
    fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Flag(v))
    }
}

/// Writes an object, field by field, at the end of a buffer.
#[derive(Debug)]
pub(crate) struct FlatWriter<'o> {
    out: &'o mut Vec<u8>,
    begun: bool,
}

impl<'o> FlatWriter<'o> {
    pub(crate) const fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, begun: false }
    }

    pub(crate) fn text(&mut self, field: &str, text: &str) -> &mut Self {
        self.key(field);
        // A string always has a JSON text, and a buffer takes it.
        let _ = serde_json::to_writer(&mut *self.out, text);
        self
    }

    /// A field that is there only if it has a text.
    pub(crate) fn maybe(&mut self, field: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(field, text),
            None => self,
        }
    }

    /// A field whose text needs no escapes.
    pub(crate) fn display(&mut self, field: &str, text: &impl fmt::Display) -> &mut Self {
        self.key(field);
        let _ = write!(self.out, "\"{text}\"");
        self
    }

    pub(crate) fn hex(&mut self, field: &str, bytes: &[u8]) -> &mut Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.key(field);
        self.out.push(b'"');
        let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
        self.out.extend(
            bytes
                .iter()
                .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]),
        );
        self.out.push(b'"');
        self
    }

    pub(crate) fn number(&mut self, field: &str, number: impl Into<i128>) -> &mut Self {
        self.key(field);
        let _ = write!(self.out, "{}", number.into());
        self
    }

    /// A field that is there only if it is true.
    pub(crate) fn if_true(&mut self, field: &str, flag: bool) -> &mut Self {
        if flag {
            self.key(field);
            self.out.extend_from_slice(b"true");
        }
        self
    }

    /// Ends the object, and its line.
    pub(crate) fn end_line(&mut self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn key(&mut self, field: &str) {
        self.out.push(if self.begun { b',' } else { b'{' });
        self.begun = true;
        self.out.push(b'"');
        self.out.extend_from_slice(field.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}
