//! Which tools and models need approval: whole names, or prefixes that end at a separator.

use std::fmt;

use crate::ids::{InvalidId, ModelName, ToolName};

/// A name, the part of it up to a separator, or every name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pattern {
    Exact(Box<str>),
    /// The literal part, separator included.
    Prefix(Box<str>),
    Any,
}

impl Pattern {
    /// `name`, `name.*`, `name/*`, `name:*`, `name__*`, or `*`.
    pub(super) fn tool(text: &str) -> Result<Self, PatternFault> {
        let ends = |literal: &str| literal.ends_with(['.', '/', ':']) || literal.ends_with("__");
        Self::parse(text, |name| ToolName::parse(name).map(drop), ends)
    }

    /// `name`, a prefix that ends in one of `- . / : @`, or `*`.
    pub(super) fn model(text: &str) -> Result<Self, PatternFault> {
        let ends = |literal: &str| literal.ends_with(['-', '.', '/', ':', '@']);
        Self::parse(text, |name| ModelName::parse(name).map(drop), ends)
    }

    fn parse(
        text: &str,
        is_name: impl Fn(&str) -> Result<(), InvalidId>,
        ends_at_separator: impl Fn(&str) -> bool,
    ) -> Result<Self, PatternFault> {
        // More is asked for than was meant, never less: here `*` is the careful choice.
        if text == "*" {
            return Ok(Self::Any);
        }
        let Some(literal) = text.strip_suffix('*') else {
            is_name(text).map_err(PatternFault::Name)?;
            return Ok(Self::Exact(text.into()));
        };
        if literal.contains('*') || is_name(literal).is_err() || !ends_at_separator(literal) {
            return Err(PatternFault::Prefix);
        }
        Ok(Self::Prefix(literal.into()))
    }

    /// Whether it covers `name`, in any case of its letters: a tool that is the same to its server
    /// must not be another one to us.
    pub(super) fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.eq_ignore_ascii_case(name),
            Self::Prefix(literal) => name
                .get(..literal.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(literal)),
            Self::Any => true,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(literal) => write!(f, "{literal}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// What is wrong with a pattern, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternFault {
    /// No valid name.
    #[error("is no name: {0}")]
    Name(InvalidId),
    /// A `*` in a place where it would cover unrelated names.
    #[error(
        "has a * in the wrong place; write a whole name, a prefix that ends in a separator and then *, such as payments.*, or * for all"
    )]
    Prefix,
}
