//! Changes one member of a JSON object in its text, and leaves every other byte as it was.
//!
//! A round trip through a parsed value could reorder keys or rewrite numbers.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object, in their order, each with its text.
///
/// A key that occurs twice is refused: which of the two counts would depend on the reader.
pub(super) struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads `text`; `None` if it is not an object, or not one with distinct keys.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The text of a member, unless it is absent or `null`.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.raw(key).filter(|text| *text != "null")
    }

    /// Every member with its text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, raw)| (key.as_str(), raw.get()))
    }

    fn raw(&self, key: &str) -> Option<&'a str> {
        self.iter()
            .find(|(name, _)| *name == key)
            .map(|(_, text)| text)
    }
}

/// The object `text` with its member `key` set to `value`.
///
/// `None` if `text` is not an object with distinct keys.
pub(super) fn with_member(text: &str, key: &str, value: &str) -> Option<String> {
    let members = Members::read(text)?;
    let (head, tail) = if let Some(old) = members.raw(key) {
        let start = old.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
        let end = start.checked_add(old.len())?;
        // `old` is a slice of `text`, so both cuts exist; asking costs nothing.
        let (head, tail) = (text.get(..start)?, text.get(end..)?);
        return Some([head, value, tail].concat());
    } else {
        text.split_at_checked(text.find('{')?.checked_add(1)?)?
    };
    let comma = if members.0.is_empty() { "" } else { "," };
    Some([head, "\"", key, "\":", value, comma, tail].concat())
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with distinct keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                let mut keys = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    if !keys.insert(key.clone()) {
                        return Err(A::Error::custom("a key occurs twice"));
                    }
                    members.push((key, value));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Object).map(Self)
    }
}
