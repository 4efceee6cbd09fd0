//! What somebody wants to do: principal, action, resource, context.
//!
//! ```
//! use portcullis::{AgentId, Call, Principal, SessionId};
//!
//! let me = Principal::agent(AgentId::parse("billing-agent")?).session(SessionId::new());
//! let call = Call::tool(&me, "send_email").args(&serde_json::json!({"to": "c_381"}));
//! let call = Call::model(&me, "gpt-4o-mini").max_input_tokens(2_000).max_output_tokens(500);
//! # Ok::<(), portcullis::InvalidId>(())
//! ```

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::canon::{JsonError, canonical_arguments};
use crate::ids::{
    AgentId, InvalidId, ModelName, OperatorId, SessionId, ToolName, UserId, is_well_formed,
};
use crate::usage::{Ceiling, Tier};

/// The most labels of a call.
const MOST_LABELS: usize = 16;

/// Who acts: an agent, in a session, perhaps on somebody's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    agent: AgentId,
    session: SessionId,
    user: Option<UserId>,
    operator: Option<OperatorId>,
    parent: Option<Arc<Principal>>,
}

impl Principal {
    /// `agent`, in a session of its own.
    #[must_use]
    pub fn agent(agent: AgentId) -> Self {
        Self {
            agent,
            session: SessionId::new(),
            user: None,
            operator: None,
            parent: None,
        }
    }

    /// The session: one run of the agent, over which per-session limits count.
    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = session;
        self
    }

    /// On whose behalf: a pseudonym, since it enters the chain for ever.
    #[must_use]
    pub fn on_behalf_of(mut self, user: UserId) -> Self {
        self.user = Some(user);
        self
    }

    /// Who operates the agent, and may therefore never approve what it does.
    #[must_use]
    pub fn operated_by(mut self, operator: OperatorId) -> Self {
        self.operator = Some(operator);
        self
    }

    /// The agent that started this one.
    #[must_use]
    pub fn child_of(mut self, parent: &Principal) -> Self {
        self.parent = Some(Arc::new(parent.clone()));
        self
    }

    /// The agent.
    #[must_use]
    pub const fn agent_id(&self) -> &AgentId {
        &self.agent
    }

    /// The session.
    #[must_use]
    pub const fn session_id(&self) -> &SessionId {
        &self.session
    }

    /// On whose behalf.
    #[must_use]
    pub const fn user_id(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Who operates the agent.
    #[must_use]
    pub const fn operator_id(&self) -> Option<&OperatorId> {
        self.operator.as_ref()
    }

    /// Who started the agent.
    #[must_use]
    pub fn parent(&self) -> Option<&Principal> {
        self.parent.as_deref()
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Call a tool.
    Tool(ToolName),
    /// Call a model.
    Model(ModelName),
}

impl Action {
    /// `tool` or `model`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tool(_) => "tool",
            Self::Model(_) => "model",
        }
    }

    /// The name of the tool or the model.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Tool(name) => name.as_str(),
            Self::Model(name) => name.as_str(),
        }
    }
}

/// A call that somebody wants to make, to be [authorized](crate::Governance::authorize).
///
/// The builder never fails: what is wrong with a call (a name that is none, arguments that do not
/// serialise) is said by `authorize`, which refuses it.
#[derive(Clone)]
pub struct Call {
    principal: Principal,
    action: Result<Action, InvalidCall>,
    resource: Option<String>,
    capability: Result<Option<String>, InvalidCall>,
    /// In order, each once.
    labels: Result<Vec<String>, InvalidCall>,
    api: Option<String>,
    args: Result<Option<Arc<str>>, InvalidCall>,
    provider: Option<String>,
    max_input: Option<u64>,
    max_output: Option<u64>,
    ceiling: Option<Ceiling>,
    tier: Option<Tier>,
}

impl Call {
    /// A call of the tool `name`.
    #[must_use]
    pub fn tool(who: &Principal, name: impl AsRef<str>) -> Self {
        Self::new(who, ToolName::parse(name).map(Action::Tool))
    }

    /// A call of the model `name`, as its provider names it.
    #[must_use]
    pub fn model(who: &Principal, name: impl AsRef<str>) -> Self {
        Self::new(who, ModelName::parse(name).map(Action::Model))
    }

    fn new(who: &Principal, action: Result<Action, InvalidId>) -> Self {
        Self {
            principal: who.clone(),
            action: action.map_err(InvalidCall::Name),
            resource: None,
            capability: Ok(None),
            labels: Ok(Vec::new()),
            api: None,
            args: Ok(None),
            provider: None,
            max_input: None,
            max_output: None,
            ceiling: None,
            tier: None,
        }
    }

    /// The arguments. They are bound to the permit by a keyed hash and not stored.
    #[must_use]
    pub fn args(mut self, args: &impl Serialize) -> Self {
        self.args = canonical_arguments(args)
            .map(|text| Some(Arc::from(text)))
            .map_err(InvalidCall::Arguments);
        self
    }

    /// What is acted on: a record, a file, a customer. A pseudonym: it enters the chain.
    #[must_use]
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// What the call is an exercise of, where several tools are: `payments.refund`. An id; on record with
    /// the decision, and part of what is permitted and approved.
    #[must_use]
    pub fn capability(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.capability = if is_well_formed(&name) {
            Ok(Some(name))
        } else {
            Err(InvalidCall::Capability)
        };
        self
    }

    /// Something that is known of the call or its data, such as `pii` or `untrusted`; call it once for
    /// each. An id, of which a call has at most 16; on record with the decision, and part of what is
    /// permitted and approved.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        let label = label.into();
        self.labels = self.labels.and_then(|mut labels| {
            if !is_well_formed(&label) {
                return Err(InvalidCall::Label);
            }
            if let Err(place) = labels.binary_search(&label) {
                labels.insert(place, label);
            }
            if labels.len() > MOST_LABELS {
                return Err(InvalidCall::Label);
            }
            Ok(labels)
        });
        self
    }

    /// The URL that will be called: the agent must be allowed the API too.
    #[must_use]
    pub fn api(mut self, url: impl Into<String>) -> Self {
        self.api = Some(url.into());
        self
    }

    /// The provider of the model, as `genai-prices` names it.
    #[must_use]
    pub fn provider(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// The most input that the call can have.
    #[must_use]
    pub fn max_input_tokens(mut self, tokens: u64) -> Self {
        self.max_input = Some(tokens);
        self
    }

    /// The most output that the call can have.
    #[must_use]
    pub fn max_output_tokens(mut self, tokens: u64) -> Self {
        self.max_output = Some(tokens);
        self
    }

    /// The most that the call can take, where tokens in and out do not say it.
    #[must_use]
    pub fn ceiling(mut self, ceiling: Ceiling) -> Self {
        self.ceiling = Some(ceiling);
        self
    }

    /// The dearest service tier that the provider may bill: the ceiling is reserved at its price.
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Who wants to make it.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    pub(crate) fn parts(&self) -> Result<Parts<'_>, &InvalidCall> {
        Ok(Parts {
            principal: &self.principal,
            action: self.action.as_ref()?,
            resource: self.resource.as_deref(),
            capability: self.capability.as_ref()?.as_deref(),
            labels: self.labels.as_ref()?,
            api: self.api.as_deref(),
            args: self.args.as_ref()?.as_deref(),
            provider: self.provider.as_deref(),
        })
    }

    /// Whether the caller declared what the call may cost at most, and so counts on its being held to
    /// it.
    pub(crate) const fn declares_ceiling(&self) -> bool {
        self.ceiling.is_some()
    }

    /// The ceiling to reserve: the declared one, or tokens in and out, with `default_output` where
    /// the output was not declared. `Ok(None)`: a tool that costs nothing.
    pub(crate) fn reserved(
        &self,
        default_output: Option<u64>,
    ) -> Result<Option<Ceiling>, InvalidCall> {
        let with_model = |ceiling: Ceiling| match &self.action {
            Ok(Action::Model(model)) => Ceiling {
                model: ceiling.model.or_else(|| Some(model.clone())),
                provider: ceiling.provider.or_else(|| self.provider.clone()),
                tier: self.tier.unwrap_or(ceiling.tier),
                ..ceiling
            },
            _ => ceiling,
        };
        if let Some(ceiling) = &self.ceiling {
            return Ok(Some(with_model(ceiling.clone())));
        }
        match (
            &self.action,
            self.max_input,
            self.max_output.or(default_output),
        ) {
            (Ok(Action::Model(_)), Some(input), Some(output)) => {
                Ok(Some(with_model(Ceiling::in_out(input, output))))
            }
            (Ok(Action::Model(_)), None, _) => Err(InvalidCall::NoInputCeiling),
            (Ok(Action::Model(_)), _, None) => Err(InvalidCall::NoOutputCeiling),
            _ => Ok(None),
        }
    }
}

impl fmt::Debug for Call {
    /// Without the arguments, which are the caller's content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("principal", &self.principal)
            .field("action", &self.action)
            .field("ceiling", &self.ceiling)
            .finish_non_exhaustive()
    }
}

/// A call, once it is known to be well formed.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'c> {
    pub(crate) principal: &'c Principal,
    pub(crate) action: &'c Action,
    pub(crate) resource: Option<&'c str>,
    pub(crate) capability: Option<&'c str>,
    pub(crate) labels: &'c [String],
    pub(crate) api: Option<&'c str>,
    pub(crate) args: Option<&'c str>,
    pub(crate) provider: Option<&'c str>,
}

/// What is wrong with a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCall {
    /// The tool or model has no valid name.
    #[error(transparent)]
    Name(InvalidId),
    /// The capability is no id.
    #[error("the capability must be an id: letters, digits and . _ - : / @ + =")]
    Capability,
    /// A label is no id, or there are more than 16.
    #[error("labels must be ids (letters, digits and . _ - : / @ + =), at most 16")]
    Label,
    /// The arguments have no canonical form.
    #[error("the arguments cannot be hashed: {}", .0.rule())]
    Arguments(JsonError),
    /// A model call without a bound on its input.
    #[error("a model call must declare its largest input; call max_input_tokens or ceiling")]
    NoInputCeiling,
    /// A model call without a bound on its output.
    #[error(
        "a model call must declare its largest output; call max_output_tokens, or set a default on the builder"
    )]
    NoOutputCeiling,
}
