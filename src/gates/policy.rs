//! What an agent needs approval for, as an operator writes it and as it is stored.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::approver::{ApproverRef, InvalidApprover};
use super::pattern::{Pattern, PatternFault};
use crate::call::Action;
use crate::canon::{BadDocument, Document, write_text};
use crate::ids::{AgentId, InvalidId};

/// For how long a request can be decided, and what was granted be used.
pub(super) const DEFAULT_LIFE: Duration = Duration::from_mins(15);
/// The longest of both: a year.
pub(super) const MAX_LIFE: Duration = Duration::from_hours(366 * 24);
/// The most people that a decision can take. The table's CHECK says the same.
const MAX_QUORUM: u32 = 16;
/// The most approvers of one policy, and the most patterns.
const MAX_APPROVERS: usize = 64;
const MAX_PATTERNS: usize = 4_096;
/// The most calls that can be agreed to in advance at once.
const MAX_USES: u32 = 1_000_000;

/// Which calls of one agent need a person's approval, and whose.
///
/// A pattern is a whole name, a prefix that ends at a separator and then `*`, or `*`; names are
/// compared in any case of their letters. Methods called twice add up.
///
/// ```
/// use std::time::Duration;
///
/// use portcullis::{AgentId, gates::ApprovalPolicy};
///
/// let policy = ApprovalPolicy::new(AgentId::parse("billing-agent")?)
///     .require_for_tools(["refund", "payments.*"])?
///     .approvers(["user:dana", "team:finance"])?
///     .quorum(2)
///     .expires_after(Duration::from_hours(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a policy has no effect until it is registered"]
pub struct ApprovalPolicy {
    agent: AgentId,
    tools: BTreeSet<Pattern>,
    models: BTreeSet<Pattern>,
    approvers: BTreeSet<ApproverRef>,
    quorum: u32,
    life: Duration,
    standing: Option<Standing>,
    unknown_operator: bool,
}

/// What may be agreed to in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) uses: u32,
    pub(super) life: Duration,
}

impl ApprovalPolicy {
    /// A policy that asks for nothing yet.
    pub const fn new(agent: AgentId) -> Self {
        Self {
            agent,
            tools: BTreeSet::new(),
            models: BTreeSet::new(),
            approvers: BTreeSet::new(),
            quorum: 1,
            life: DEFAULT_LIFE,
            standing: None,
            unknown_operator: false,
        }
    }

    /// Tools that need approval at every call.
    ///
    /// # Errors
    ///
    /// [`InvalidApprovalPolicy`] if an entry is no pattern.
    pub fn require_for_tools<S: AsRef<str>>(
        mut self,
        tools: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidApprovalPolicy> {
        extend("require_for_tools", &mut self.tools, tools, Pattern::tool)?;
        Ok(self)
    }

    /// Models that need approval at every call.
    ///
    /// # Errors
    ///
    /// As [`require_for_tools`](Self::require_for_tools).
    pub fn require_for_models<S: AsRef<str>>(
        mut self,
        models: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidApprovalPolicy> {
        extend(
            "require_for_models",
            &mut self.models,
            models,
            Pattern::model,
        )?;
        Ok(self)
    }

    /// Who may approve: `user:<id>`, or `team:<id>` for any of its members.
    ///
    /// # Errors
    ///
    /// [`InvalidApprovalPolicy`] if an entry is neither, or if there are more than 64.
    pub fn approvers<S: AsRef<str>>(
        mut self,
        approvers: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidApprovalPolicy> {
        for (index, entry) in approvers.into_iter().enumerate() {
            let approver = ApproverRef::parse(entry)
                .map_err(|fault| InvalidApprovalPolicy::Approver { index, fault })?;
            self.approvers.insert(approver);
        }
        if self.approvers.len() > MAX_APPROVERS {
            return Err(InvalidApprovalPolicy::TooMany { list: "approvers" });
        }
        Ok(self)
    }

    /// How many different people must agree (1); at most 16.
    pub const fn quorum(mut self, people: u32) -> Self {
        self.quorum = people;
        self
    }

    /// For how long a request can be decided, and, once granted, for how long the grant can be used
    /// (15 minutes).
    pub const fn expires_after(mut self, life: Duration) -> Self {
        self.life = life;
        self
    }

    /// Lets approvers agree in advance: to at most `uses` calls at once, for at most `life` (not at
    /// all). Not together with a quorum.
    pub const fn allow_standing(mut self, uses: u32, life: Duration) -> Self {
        self.standing = Some(Standing { uses, life });
        self
    }

    /// Lets an approver decide though nobody knows who operates the agent (refused): he may then be
    /// the one who does.
    pub const fn allow_unknown_operator(mut self) -> Self {
        self.unknown_operator = true;
        self
    }

    /// Whose policy it is.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// Whether `action` needs approval.
    pub(super) fn requires(&self, action: &Action) -> bool {
        let (patterns, name) = match action {
            Action::Tool(name) => (&self.tools, name.as_str()),
            Action::Model(name) => (&self.models, name.as_str()),
        };
        patterns.iter().any(|pattern| pattern.covers(name))
    }

    pub(super) const fn standing(&self) -> Option<Standing> {
        self.standing
    }

    pub(super) fn who(&self) -> &BTreeSet<ApproverRef> {
        &self.approvers
    }

    /// How to ask under this policy.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            approvers: self.approvers.iter().map(ToString::to_string).collect(),
            quorum: self.quorum,
            life: self.life,
            unknown_operator: self.unknown_operator,
        }
    }

    /// The policy as canonical JSON, and the hash of these bytes.
    pub(super) fn document(&self) -> Result<PolicyText, InvalidApprovalPolicy> {
        self.validate()?;
        let text = write_text(&json!({
            "agent": self.agent.as_str(),
            "tools": texts(&self.tools),
            "models": texts(&self.models),
            "approvers": texts(&self.approvers),
            "quorum": self.quorum,
            "life_seconds": self.life.as_secs(),
            "standing_uses": self.standing.map_or(0, |standing| standing.uses),
            "standing_seconds": self.standing.map_or(0, |standing| standing.life.as_secs()),
            "unknown_operator": self.unknown_operator,
        }));
        let hash = hex::encode(Sha256::digest(&text));
        Ok(PolicyText { text, hash })
    }

    /// Reads a stored document with the same eyes as a new policy.
    pub(super) fn from_document(
        agent: &AgentId,
        text: &str,
    ) -> Result<(Self, String), InvalidApprovalPolicy> {
        let mut document = Document::parse(text)?;
        let named = document.text("agent")?;
        let named = AgentId::parse(named).map_err(InvalidApprovalPolicy::Agent)?;
        if named != *agent {
            return Err(InvalidApprovalPolicy::OtherAgent);
        }
        let mut policy = Self::new(named)
            .require_for_tools(document.texts("tools")?)?
            .require_for_models(document.texts("models")?)?
            .approvers(document.texts("approvers")?)?
            .quorum(document.number("quorum")?)
            .expires_after(Duration::from_secs(document.number("life_seconds")?));
        let uses = document.number("standing_uses")?;
        let life = Duration::from_secs(document.number("standing_seconds")?);
        if uses > 0 {
            policy = policy.allow_standing(uses, life);
        }
        if document.flag("unknown_operator")? {
            policy = policy.allow_unknown_operator();
        }
        document.end()?;
        policy.validate()?;
        // The hash is that of what we would write: how the text is laid out is no other policy.
        let hash = policy.document()?.hash;
        Ok((policy, hash))
    }

    fn validate(&self) -> Result<(), InvalidApprovalPolicy> {
        self.terms().validate()?;
        let Some(standing) = self.standing else {
            return Ok(());
        };
        if self.quorum > 1 {
            return Err(InvalidApprovalPolicy::StandingQuorum);
        }
        let life = is_life(standing.life);
        if standing.uses == 0 || standing.uses > MAX_USES || !life {
            return Err(InvalidApprovalPolicy::Standing);
        }
        Ok(())
    }
}

/// On which terms somebody is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) approvers: Vec<String>,
    pub(super) quorum: u32,
    pub(super) life: Duration,
    pub(super) unknown_operator: bool,
}

impl Terms {
    pub(super) fn validate(&self) -> Result<(), InvalidApprovalPolicy> {
        if self.approvers.is_empty() {
            return Err(InvalidApprovalPolicy::NoApprovers);
        }
        if self.approvers.len() > MAX_APPROVERS {
            return Err(InvalidApprovalPolicy::TooMany { list: "approvers" });
        }
        if self.quorum == 0 || self.quorum > MAX_QUORUM {
            return Err(InvalidApprovalPolicy::Quorum);
        }
        let people = |approver: &String| approver.starts_with("user:");
        let enough = usize::try_from(self.quorum).unwrap_or(usize::MAX);
        // A team may have as many members as it takes.
        if self.approvers.iter().all(people) && self.approvers.len() < enough {
            return Err(InvalidApprovalPolicy::Quorum);
        }
        if !is_life(self.life) {
            return Err(InvalidApprovalPolicy::Life);
        }
        Ok(())
    }
}

/// Whole seconds, since that is how a life is stored.
pub(super) fn is_life(life: Duration) -> bool {
    life.as_secs() > 0 && life.subsec_nanos() == 0 && life <= MAX_LIFE
}

/// A policy as it is stored.
#[derive(Debug)]
pub(super) struct PolicyText {
    pub(super) text: String,
    /// SHA-256 of the text, in hex.
    pub(super) hash: String,
}

fn texts<T: fmt::Display>(all: &BTreeSet<T>) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn extend<S: AsRef<str>>(
    list: &'static str,
    set: &mut BTreeSet<Pattern>,
    entries: impl IntoIterator<Item = S>,
    parse: impl Fn(&str) -> Result<Pattern, PatternFault>,
) -> Result<(), InvalidApprovalPolicy> {
    for (index, entry) in entries.into_iter().enumerate() {
        let pattern = parse(entry.as_ref()).map_err(|fault| InvalidApprovalPolicy::Entry {
            list,
            index,
            fault,
        })?;
        set.insert(pattern);
        if set.len() > MAX_PATTERNS {
            return Err(InvalidApprovalPolicy::TooMany { list });
        }
    }
    Ok(())
}

/// What is wrong with an approval policy, or with the terms of a request. Never repeats an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidApprovalPolicy {
    /// An entry that is no pattern.
    #[error("{list}: entry {index} {fault}")]
    Entry {
        /// The list, by the name of the method that takes it.
        list: &'static str,
        /// The entry's place in what was given, from 0.
        index: usize,
        /// What is wrong with it, and how to write it.
        fault: PatternFault,
    },
    /// An entry that is no approver.
    #[error("approvers: entry {index}: {fault}")]
    Approver {
        /// The entry's place in what was given, from 0.
        index: usize,
        /// What is wrong with it.
        fault: InvalidApprover,
    },
    /// More entries than a list may have.
    #[error("{list}: too many entries; use prefixes such as payments.*, or teams")]
    TooMany {
        /// The list, by the name of the method that takes it.
        list: &'static str,
    },
    /// Nobody could ever agree.
    #[error("nobody may approve; call approvers")]
    NoApprovers,
    /// A quorum that cannot be met, or that is none.
    #[error("the quorum is 1 to 16 people, and no more than there are approvers")]
    Quorum,
    /// A life that is none.
    #[error("a request lives from a second to a year, in whole seconds")]
    Life,
    /// Grants in advance without a bound.
    #[error("grants in advance are for 1 to 1000000 calls, for a second to a year")]
    Standing,
    /// Grants in advance, which one person gives, where several must agree.
    #[error(
        "where several people must agree, none can do so in advance; drop allow_standing or quorum"
    )]
    StandingQuorum,
    /// A document with an unknown or missing field, or none at all.
    #[error(
        "the policy document is not one of this version: `{field}` {problem}; register the policy again"
    )]
    Document {
        /// The field, cut to 80 characters; empty for the whole.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The document's agent is not a valid id.
    #[error("agent: {0}")]
    Agent(InvalidId),
    /// The document is stored under another agent.
    #[error(
        "the policy document names another agent than the one it is stored for; register it again"
    )]
    OtherAgent,
}

impl From<BadDocument> for InvalidApprovalPolicy {
    fn from(BadDocument { field, problem }: BadDocument) -> Self {
        Self::Document { field, problem }
    }
}
