//! A stored document, read field by field.

use serde_json::{Map, Value};

use super::JsonRule;
use super::parse::unique_keys;

/// An object whose fields are taken out one by one. What is left over once all that are known have been
/// taken is an error: a field that nobody reads would be a rule that nobody keeps.
#[derive(Debug)]
pub(crate) struct Document(Map<String, Value>);

/// What is wrong with a document, and in which field; empty for the whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub(crate) struct BadDocument {
    pub(crate) field: String,
    pub(crate) problem: &'static str,
}

impl BadDocument {
    fn at(field: &str, problem: &'static str) -> Self {
        // A key is somebody's text: shown, so that it can be found, but cut and without controls.
        let field = field.chars().filter(|c| !c.is_control()).take(80).collect();
        Self { field, problem }
    }
}

impl Document {
    /// Reads `text`, in which no key may be twice.
    pub(crate) fn parse(text: &str) -> Result<Self, BadDocument> {
        match unique_keys(text) {
            Ok(value) => Self::of("", value),
            Err(error) => Err(BadDocument::at(
                "",
                match error.rule() {
                    JsonRule::DuplicateKey => "has a field twice",
                    _ => "is not valid JSON",
                },
            )),
        }
    }

    /// The object that `value` is.
    pub(crate) fn of(field: &str, value: Value) -> Result<Self, BadDocument> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(BadDocument::at(field, "is not an object")),
        }
    }

    /// A text.
    pub(crate) fn text(&mut self, field: &str) -> Result<String, BadDocument> {
        self.maybe_text(field)?
            .ok_or_else(|| BadDocument::at(field, "is null, and has to be a text"))
    }

    /// A text, or null.
    pub(crate) fn maybe_text(&mut self, field: &str) -> Result<Option<String>, BadDocument> {
        match self.take(field)? {
            Value::String(text) => Ok(Some(text)),
            Value::Null => Ok(None),
            _ => Err(BadDocument::at(field, "is not a text")),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, field: &str) -> Result<Vec<String>, BadDocument> {
        let bad = || BadDocument::at(field, "is not a list of texts");
        let Value::Array(items) = self.take(field)? else {
            return Err(bad());
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let Value::String(text) = item else {
                return Err(bad());
            };
            texts.push(text);
        }
        Ok(texts)
    }

    /// A whole number from 0, as large as `N` holds.
    pub(crate) fn number<N: TryFrom<u64>>(&mut self, field: &str) -> Result<N, BadDocument> {
        self.take(field)?
            .as_u64()
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| BadDocument::at(field, "is not a whole number from 0, or too large"))
    }

    /// True or false.
    pub(crate) fn flag(&mut self, field: &str) -> Result<bool, BadDocument> {
        self.take(field)?
            .as_bool()
            .ok_or_else(|| BadDocument::at(field, "is not true or false"))
    }

    /// An object within it.
    pub(crate) fn object(&mut self, field: &str) -> Result<Self, BadDocument> {
        let value = self.take(field)?;
        Self::of(field, value)
    }

    /// Any value.
    pub(crate) fn take(&mut self, field: &str) -> Result<Value, BadDocument> {
        self.0
            .remove(field)
            .ok_or_else(|| BadDocument::at(field, "is missing"))
    }

    /// The names of the fields that are left.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Refuses what is left over.
    pub(crate) fn end(self) -> Result<(), BadDocument> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(unknown) => Err(BadDocument::at(unknown, "is no field of such a document")),
        }
    }
}
