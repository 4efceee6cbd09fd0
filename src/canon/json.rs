//! JSON that comes back as it went in: canonical text, and what is refused on the way.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

use strict::Strict;

mod document;
mod flat;
mod parse;
mod pieces;
mod strict;

pub(crate) use document::{BadDocument, Document};
pub(crate) use flat::{Flat, FlatWriter};
pub(crate) use pieces::Pieces;

/// The most keys of an object of metadata, and of all objects within it together.
const MAX_KEYS: usize = 64;
/// The longest metadata, in bytes of canonical text.
const MAX_BYTES: usize = 64 * 1024;
/// How deep metadata may nest.
const MAX_DEPTH: usize = 16;
/// The largest integer that every JSON reader keeps.
const MAX_SAFE_INTEGER: i128 = (1 << 53) - 1;

/// What an event says beyond its fixed fields: one JSON object, as canonical text.
///
/// Keys are sorted. Floats, integers past ±(2^53-1), NUL and duplicate keys are refused, because
/// they do not come back from every store and reader as they went in; send them as strings. At
/// most 64 keys, 64 KiB, 16 levels.
///
/// ```
/// use portcullis::audit::Metadata;
///
/// let metadata = Metadata::new(&serde_json::json!({"tool": "refund", "cents": 1250}))?;
/// assert_eq!(metadata.as_str(), r#"{"cents":1250,"tool":"refund"}"#);
/// let refused = Metadata::new(&serde_json::json!({"price": 12.5})).unwrap_err();
/// assert_eq!(refused.to_string(), "metadata `price` is a float; send it as a string");
/// # Ok::<(), portcullis::audit::MetadataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata(String);

impl Metadata {
    /// Takes anything that serialises to a JSON object.
    ///
    /// # Errors
    ///
    /// [`JsonError`] names the path of what was refused, and what to do instead.
    pub fn new(value: &impl Serialize) -> Result<Self, JsonError> {
        Self::from_value(&value.serialize(Strict::METADATA)?)
    }

    /// Reads JSON text, refusing duplicate keys.
    ///
    /// # Errors
    ///
    /// [`JsonError`] as in [`new`](Self::new), and for text that is no JSON.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        // The canonical text may be shorter than the one read, but not by more than white space.
        if text.len() > 4 * MAX_BYTES {
            return Err(JsonError::at("", JsonRule::TooLarge { bytes: text.len() }));
        }
        Self::from_value(&parse::unique_keys(text)?)
    }

    /// No metadata: `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self("{}".to_owned())
    }

    /// The canonical text: what is stored, and what the chain's MAC covers.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object that the text spells.
    #[must_use]
    pub fn to_value(&self) -> Value {
        // By our own reader: `serde_json` takes an object with a certain key for raw JSON.
        parse::unique_keys(&self.0).unwrap_or(Value::Null)
    }

    /// Checks and writes a whole object.
    pub(crate) fn from_map(map: serde_json::Map<String, Value>) -> Result<Self, JsonError> {
        Self::from_value(&Value::Object(map))
    }

    /// Text that was read from the trail, which is shown as it stands.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    fn from_value(value: &Value) -> Result<Self, JsonError> {
        let Value::Object(_) = value else {
            return Err(JsonError::at("", JsonRule::NotAnObject));
        };
        check(value, None, &mut 0)?;
        Self::of_text(write_text(value))
    }

    fn of_text(text: String) -> Result<Self, JsonError> {
        if text.len() > MAX_BYTES {
            return Err(JsonError::at("", JsonRule::TooLarge { bytes: text.len() }));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a value stands.
struct Path<'p> {
    within: Option<&'p Self>,
    key: &'p str,
    depth: usize,
}

impl<'p> Path<'p> {
    /// In the object itself.
    const fn first(key: &'p str) -> Self {
        Self {
            within: None,
            key,
            depth: 1,
        }
    }

    fn under(within: Option<&'p Self>, key: &'p str) -> Self {
        let depth = within.map_or(0, |within| within.depth) + 1;
        Self { within, key, depth }
    }

    fn spell(&self) -> String {
        match self.within {
            None => self.key.to_owned(),
            Some(within) => format!("{}.{}", within.spell(), self.key),
        }
    }
}

fn check(value: &Value, path: Option<&Path<'_>>, keys: &mut usize) -> Result<(), JsonError> {
    let depth = path.map_or(0, |path| path.depth);
    if let Some(rule) = broken(value, depth, keys) {
        return Err(JsonError::at(
            &path.map(Path::spell).unwrap_or_default(),
            rule,
        ));
    }
    match value {
        Value::Array(items) => {
            let at = Path::under(path, "[]");
            items
                .iter()
                .try_for_each(|item| check(item, Some(&at), keys))
        }
        Value::Object(map) => map
            .iter()
            .try_for_each(|(key, item)| check(item, Some(&Path::under(path, key)), keys)),
        _ => Ok(()),
    }
}

fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

/// The rule that `value` itself breaks, what it holds aside.
fn broken(value: &Value, depth: usize, keys: &mut usize) -> Option<JsonRule> {
    if depth > MAX_DEPTH {
        return Some(JsonRule::TooDeep);
    }
    match value {
        Value::Number(number) => match number.as_i128() {
            None => Some(JsonRule::Float),
            Some(n) => (n.abs() > MAX_SAFE_INTEGER).then_some(JsonRule::Integer),
        },
        Value::String(text) => has_nul(text).then_some(JsonRule::Nul),
        Value::Object(map) => {
            *keys += map.len();
            if *keys > MAX_KEYS {
                return Some(JsonRule::TooManyKeys);
            }
            map.keys().any(|key| has_nul(key)).then_some(JsonRule::Nul)
        }
        Value::Null | Value::Bool(_) | Value::Array(_) => None,
    }
}

/// The canonical text of a tool's arguments: sorted keys; finite floats as they are written.
///
/// It is hashed, never stored, so what it may hold is wider than [`Metadata`].
pub(crate) fn canonical_arguments(value: &impl Serialize) -> Result<String, JsonError> {
    value
        .serialize(Strict::ARGUMENTS)
        .map(|value| write_text(&value))
}

/// Writes `value` with sorted keys, whatever order the map keeps: a host that switches on
/// `serde_json/preserve_order` changes it for all.
pub(crate) fn write_text(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, key);
                out.push(':');
                write_value(out, value);
            }
            out.push('}');
        }
        Value::String(text) => write_string(out, text),
        // INVARIANT: null, booleans and numbers have one spelling each.
        Value::Number(number) if !number.is_f64() => {
            // Writing to a string cannot fail.
            let _ = write!(out, "{number}");
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    // Nearly always: nothing in it is written otherwise. 0xE2 may begin a line separator.
    let plain = |byte: u8| !matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f | 0xe2);
    if text.bytes().all(plain) {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line separators end lines for some readers of JSONL, so they are escaped too.
            c if c < ' ' || c == '\u{7f}' || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A value that has no canonical form here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    path: String,
    rule: JsonRule,
}

impl JsonError {
    fn at(path: &str, rule: JsonRule) -> Self {
        // A key is the caller's text: shown, so that it can be found, but cut and without controls.
        let path = path.chars().filter(|c| !c.is_control()).take(80).collect();
        Self { path, rule }
    }

    /// Which rule was broken.
    #[must_use]
    pub fn rule(&self) -> &JsonRule {
        &self.rule
    }

    /// Where, as keys joined by points; empty for the whole.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "metadata {}", self.rule)
        } else {
            write!(f, "metadata `{}` {}", self.path, self.rule)
        }
    }
}

impl std::error::Error for JsonError {}

impl serde::ser::Error for JsonError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        // The text of a foreign serialiser may hold the value, so it is not kept.
        Self::at("", JsonRule::NotSerializable)
    }
}

/// The rules of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonRule {
    /// The whole is not an object.
    #[error("is not a JSON object; wrap it in one")]
    NotAnObject,
    /// A float: it would not come back from every store as it went in.
    #[error("is a float; send it as a string")]
    Float,
    /// NaN or an infinity, which JSON cannot write.
    #[error("is NaN or infinite; send it as a string")]
    NotFinite,
    /// An integer past ±(2^53-1), which many readers round.
    #[error("is an integer past 2^53-1; send it as a string")]
    Integer,
    /// A NUL character, which Postgres cannot store.
    #[error("has a NUL character; remove it or encode the bytes")]
    Nul,
    /// The same key twice in one object.
    #[error("stands twice in one object; give each key once")]
    DuplicateKey,
    /// A map whose keys are not text.
    #[error("has a key that is not text; use strings as keys")]
    KeyNotText,
    /// More keys than allowed.
    #[error("has more than 64 keys; log less, or more events")]
    TooManyKeys,
    /// More bytes than allowed.
    #[error("has {bytes} bytes and may have 65536; store the content elsewhere and log its hash")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// More levels than allowed.
    #[error("nests deeper than 16 levels; flatten it")]
    TooDeep,
    /// Text that is no JSON.
    #[error("is not valid JSON (line {line}, column {column})")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The type's own serialiser failed.
    #[error("could not be serialised")]
    NotSerializable,
}

#[cfg(test)]
mod tests;
