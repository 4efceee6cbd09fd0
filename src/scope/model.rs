//! What an agent may use, as an operator writes it and as it is stored.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::InvalidPolicy;
use super::pattern::{ApiPattern, NamePattern, PatternProblem};
use crate::canon::{Document, write_text};
use crate::ids::AgentId;

/// The most entries of one list.
const MAX_ENTRIES: usize = 16_384;
/// The longest document, in bytes. The table's CHECK says the same.
const MAX_DOCUMENT: usize = 8 * 1024 * 1024;

/// What one agent may use. What is not listed is denied.
///
/// An entry is a whole name, or a prefix that ends at a separator and then `*`. There are no other
/// wildcards: what they allow is hard to see. Up to 16,384 entries a list; entries given twice count
/// once; methods called twice add up.
///
/// | method | whole | prefix |
/// |---|---|---|
/// | [`allow_tools`](Self::allow_tools), [`hide_tools`](Self::hide_tools) | `read_invoice` | `fs.*` `db/*` `mcp:*` `mcp__files__*` |
/// | [`allow_apis`](Self::allow_apis) | `https://api.example.com/v1/me` | `https://api.example.com/v1/*` |
/// | [`allow_models`](Self::allow_models) | `gpt-4o-mini` | `gpt-4o-*` `openai/*` |
///
/// Tools and models are compared byte for byte. An API is compared by scheme, host, port and path;
/// its query is not looked at.
///
/// ```
/// use portcullis::{AgentId, scope::ScopePolicy};
///
/// let policy = ScopePolicy::new(AgentId::parse("billing-agent")?)
///     .allow_tools(["read_invoice", "fs.*"])?
///     .hide_tools(["fs.delete"])?
///     .allow_apis(["https://api.example.com/*"])?
///     .allow_models(["gpt-4o-*"])?;
///
/// let error = policy.allow_apis(["https://api.example.com*"]).unwrap_err();
/// assert!(error.to_string().ends_with("such as https://api.example.com/*"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a policy has no effect until it is registered"]
pub struct ScopePolicy {
    pub(super) agent: AgentId,
    pub(super) tools: BTreeSet<NamePattern>,
    pub(super) apis: BTreeSet<ApiPattern>,
    pub(super) hidden: BTreeSet<NamePattern>,
    pub(super) models: BTreeSet<NamePattern>,
    pub(super) any_model: bool,
}

impl ScopePolicy {
    /// A policy that allows `agent` nothing yet.
    pub const fn new(agent: AgentId) -> Self {
        Self {
            agent,
            tools: BTreeSet::new(),
            apis: BTreeSet::new(),
            hidden: BTreeSet::new(),
            models: BTreeSet::new(),
            any_model: false,
        }
    }

    /// Tools that the agent may call.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if an entry is no name and no prefix that ends in `.`, `/`, `:` or `__`.
    pub fn allow_tools<S: AsRef<str>>(
        mut self,
        tools: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidPolicy> {
        extend("allow_tools", &mut self.tools, tools, NamePattern::tool)?;
        Ok(self)
    }

    /// Tools that the agent may neither see nor call, even if they are allowed, in any case of
    /// their letters. To the agent they do not exist.
    ///
    /// # Errors
    ///
    /// As [`allow_tools`](Self::allow_tools).
    pub fn hide_tools<S: AsRef<str>>(
        mut self,
        tools: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidPolicy> {
        extend("hide_tools", &mut self.hidden, tools, NamePattern::tool)?;
        Ok(self)
    }

    /// APIs that the agent may call, `http://` or `https://`.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if an entry is no URL without user, query, dot segments or encoded
    /// separators, or a prefix whose path does not end in `/`.
    pub fn allow_apis<S: AsRef<str>>(
        mut self,
        apis: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidPolicy> {
        extend("allow_apis", &mut self.apis, apis, ApiPattern::parse)?;
        Ok(self)
    }

    /// Models that the agent may call. With none listed it may call none.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if an entry is no name and no prefix that ends in one of `- . / : @`.
    pub fn allow_models<S: AsRef<str>>(
        mut self,
        models: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidPolicy> {
        extend("allow_models", &mut self.models, models, NamePattern::model)?;
        Ok(self)
    }

    /// Lets the agent call every model.
    pub const fn allow_any_model(mut self) -> Self {
        self.any_model = true;
        self
    }

    /// Whose policy it is.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The allowed tools, as patterns.
    pub fn tools(&self) -> impl Iterator<Item = String> {
        self.tools.iter().map(ToString::to_string)
    }

    /// The hidden tools, as patterns.
    pub fn hidden_tools(&self) -> impl Iterator<Item = String> {
        self.hidden.iter().map(ToString::to_string)
    }

    /// The allowed APIs, as patterns, normalised.
    pub fn apis(&self) -> impl Iterator<Item = String> {
        self.apis.iter().map(ToString::to_string)
    }

    /// The allowed models, as patterns; `None` if every model is allowed.
    #[must_use]
    pub fn models(&self) -> Option<Vec<String>> {
        (!self.any_model).then(|| texts(&self.models))
    }

    /// The policy as canonical JSON, and the hash of these bytes.
    pub(super) fn document(&self) -> Result<PolicyText, InvalidPolicy> {
        let text = write_text(&json!({
            "agent": self.agent.as_str(),
            "tools": texts(&self.tools),
            "apis": texts(&self.apis),
            "hidden": texts(&self.hidden),
            "models": texts(&self.models),
            "any_model": self.any_model,
        }));
        if text.len() > MAX_DOCUMENT {
            return Err(InvalidPolicy::TooLong);
        }
        let hash = hash_of(&text);
        Ok(PolicyText { text, hash })
    }

    /// Reads a stored document with the same eyes as a new policy: what would not be registered
    /// is not loaded.
    pub(super) fn from_document(agent: &AgentId, text: &str) -> Result<Self, InvalidPolicy> {
        let mut document = Document::parse(text)?;
        let named = AgentId::parse(document.text("agent")?).map_err(InvalidPolicy::Agent)?;
        if named != *agent {
            return Err(InvalidPolicy::OtherAgent);
        }
        let policy = Self::new(named)
            .allow_tools(document.texts("tools")?)?
            .hide_tools(document.texts("hidden")?)?
            .allow_apis(document.texts("apis")?)?
            .allow_models(document.texts("models")?)?;
        let any_model = document.flag("any_model")?;
        document.end()?;
        Ok(if any_model {
            policy.allow_any_model()
        } else {
            policy
        })
    }
}

/// A policy as it is stored.
#[derive(Debug)]
pub(super) struct PolicyText {
    pub(super) text: String,
    pub(super) hash: PolicyHash,
}

/// SHA-256 of a policy's text, by which it is on record.
pub(super) type PolicyHash = [u8; 32];

pub(super) fn hash_of(text: &str) -> PolicyHash {
    Sha256::digest(text).into()
}

fn texts<P: fmt::Display>(patterns: &BTreeSet<P>) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

fn extend<P: Ord, S: AsRef<str>>(
    list: &'static str,
    set: &mut BTreeSet<P>,
    entries: impl IntoIterator<Item = S>,
    parse: impl Fn(&str) -> Result<P, PatternProblem>,
) -> Result<(), InvalidPolicy> {
    for (index, entry) in entries.into_iter().enumerate() {
        let pattern = parse(entry.as_ref()).map_err(|problem| InvalidPolicy::Entry {
            list,
            index,
            problem,
        })?;
        set.insert(pattern);
        if set.len() > MAX_ENTRIES {
            return Err(InvalidPolicy::TooMany { list });
        }
    }
    Ok(())
}
