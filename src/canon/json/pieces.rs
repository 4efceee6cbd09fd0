//! Metadata as it is given, one key after the other.

use serde::Serialize;
use serde_json::Value;

use super::strict::{self, Strict};
use super::{JsonError, JsonRule, MAX_KEYS, Metadata, check, has_nul, write_string, write_value};

/// An object of metadata that is being put together.
///
/// Events have a few keys: looking through them is faster than a map, which would take memory for
/// many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces(Vec<(String, Value)>);

impl Pieces {
    /// Adds `value` under `key`, which must be new.
    pub(crate) fn put(&mut self, key: String, value: &impl Serialize) -> Result<(), JsonError> {
        let value = value
            .serialize(Strict::METADATA)
            .map_err(|error| strict::under(&key, &error))?;
        if self.get(&key).is_some() {
            return Err(JsonError::at(&key, JsonRule::DuplicateKey));
        }
        // Past it, the whole is refused, and the key that was one too many is enough to see it.
        if self.0.len() <= MAX_KEYS {
            if self.0.is_empty() {
                self.0.reserve(4);
            }
            self.0.push((key, value));
        }
        Ok(())
    }

    /// What was put under `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        let mut pieces = self.0.iter();
        pieces.find_map(|(name, value)| (name == key).then_some(value))
    }

    /// Checks and writes the whole object.
    pub(crate) fn into_metadata(mut self) -> Result<Metadata, JsonError> {
        let mut keys = self.0.len();
        if keys > MAX_KEYS {
            return Err(JsonError::at("", JsonRule::TooManyKeys));
        }
        if self.0.iter().any(|(key, _)| has_nul(key)) {
            return Err(JsonError::at("", JsonRule::Nul));
        }
        self.0.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut text = String::with_capacity(128);
        text.push('{');
        for (at, (key, value)) in self.0.iter().enumerate() {
            check(value, Some(&super::Path::first(key)), &mut keys)?;
            if at > 0 {
                text.push(',');
            }
            write_string(&mut text, key);
            text.push(':');
            write_value(&mut text, value);
        }
        text.push('}');
        Metadata::of_text(text)
    }
}
