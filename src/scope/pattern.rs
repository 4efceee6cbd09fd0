//! Entries of an allow-list: one name, or a prefix that ends at a separator.

use std::fmt;

use super::url::{self, ApiUrl, UrlProblem};
use crate::ids::{InvalidId, ModelName, ToolName};

/// The longest API pattern, in bytes.
const MAX_API: usize = 2_048;

/// A tool or a model: its name, or the part of it up to a separator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NamePattern {
    Exact(Box<str>),
    /// The literal part, separator included.
    Prefix(Box<str>),
}

impl NamePattern {
    /// `name`, or `name.*`, `name/*`, `name:*`, `name__*`.
    pub(super) fn tool(text: &str) -> Result<Self, PatternProblem> {
        Self::parse(
            text,
            |name| ToolName::parse(name).map(drop),
            |literal| literal.ends_with(['.', '/', ':']) || literal.ends_with("__"),
            PatternProblem::ToolPrefix,
        )
    }

    /// `name`, or a prefix that ends in one of `- . / : @`.
    pub(super) fn model(text: &str) -> Result<Self, PatternProblem> {
        Self::parse(
            text,
            |name| ModelName::parse(name).map(drop),
            |literal| literal.ends_with(['-', '.', '/', ':', '@']),
            PatternProblem::ModelPrefix,
        )
    }

    fn parse(
        text: &str,
        is_name: impl Fn(&str) -> Result<(), InvalidId>,
        ends_at_separator: impl Fn(&str) -> bool,
        problem: PatternProblem,
    ) -> Result<Self, PatternProblem> {
        if !text.contains('*') {
            is_name(text).map_err(PatternProblem::Name)?;
            return Ok(Self::Exact(text.into()));
        }
        match text.strip_suffix('*') {
            Some(literal) if is_name(literal).is_ok() && ends_at_separator(literal) => {
                // A separator alone is no name that anything could be under.
                if literal.bytes().any(|b| b.is_ascii_alphanumeric()) {
                    Ok(Self::Prefix(literal.into()))
                } else {
                    Err(problem)
                }
            }
            _ => Err(problem),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(literal) => write!(f, "{literal}*"),
        }
    }
}

/// An API: one URL without its query, or all URLs under a path that ends in `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ApiPattern {
    pub(super) host: Box<str>,
    pub(super) https: bool,
    pub(super) port: u16,
    /// Whether `path` is the beginning of what is allowed, rather than all of it.
    pub(super) is_prefix: bool,
    pub(super) path: Box<str>,
}

impl ApiPattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternProblem> {
        if text.len() > MAX_API {
            return Err(PatternProblem::TooLong);
        }
        let (literal, is_prefix) = match text.strip_suffix('*') {
            Some(literal) => (literal, true),
            None => (text, false),
        };
        if literal.contains('*') {
            return Err(PatternProblem::ApiPrefix);
        }
        if literal.contains(['?', '#']) {
            return Err(PatternProblem::Query);
        }
        let url = ApiUrl::parse(literal).map_err(PatternProblem::Url)?;
        // `https://api.example.com*` would be a prefix of `https://api.example.com.evil.test`.
        if is_prefix && !url.raw_path.ends_with('/') {
            return Err(PatternProblem::ApiPrefix);
        }
        Ok(Self {
            host: url.host.as_str().into(),
            https: url.https,
            port: url.port,
            is_prefix,
            path: url.path().into(),
        })
    }
}

impl fmt::Display for ApiPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = url::origin(self.https, &self.host, self.port);
        let star = if self.is_prefix { "*" } else { "" };
        write!(f, "{origin}{}{star}", self.path)
    }
}

/// What is wrong with an entry of an allow-list, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternProblem {
    /// No valid name.
    Name(InvalidId),
    /// A `*` in the pattern of a tool, in a place where it would allow unrelated names.
    ToolPrefix,
    /// A `*` in the pattern of a model, in a place where it would allow unrelated names.
    ModelPrefix,
    /// A `*` in the pattern of an API, in a place where it would allow other hosts or paths.
    ApiPrefix,
    /// A query or a fragment in the pattern of an API.
    Query,
    /// The pattern of an API is longer than 2,048 bytes.
    TooLong,
    /// No URL that can be read in one way only.
    Url(UrlProblem),
}

impl fmt::Display for PatternProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "is no name: {error}"),
            Self::ToolPrefix => f.write_str(
                "has a * in the wrong place; write a whole name, or a prefix that ends in . / : or __ and then *, such as fs.*",
            ),
            Self::ModelPrefix => f.write_str(
                "has a * in the wrong place; write a whole name, or a prefix that ends in - . / : or @ and then *, such as gpt-4o-*; for all models call allow_any_model",
            ),
            Self::ApiPrefix => f.write_str(
                "has a * in the wrong place; write a whole URL, or one whose path ends in / and then *, such as https://api.example.com/*",
            ),
            Self::Query => f.write_str(
                "has a query or fragment, which are not compared; leave out ? and # and what follows",
            ),
            Self::TooLong => f.write_str("is longer than 2048 bytes; use a shorter prefix"),
            Self::Url(problem) => write!(f, "is no URL that can be allowed; {problem}"),
        }
    }
}
