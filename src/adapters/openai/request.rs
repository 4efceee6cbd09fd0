//! What a request asks for, read from its URL and body, and the one thing that is added to it.

use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Ungoverned;
use super::estimate::{Estimate, text_tokens};
use super::splice::{Members, with_member};
use super::usage;
use crate::Tier;

/// Tools that the model only asks for: the application runs them, behind its own gates.
const CLIENT_RUN: &[&str] = &[
    "function",
    "custom",
    "namespace",
    "local_shell",
    "apply_patch",
    "computer",
    "computer_use_preview",
];

/// Endpoints by the first part of their path, for the message of a refusal.
const FAMILIES: &[&str] = &[
    "embeddings",
    "images",
    "audio",
    "videos",
    "batches",
    "files",
    "uploads",
    "fine_tuning",
    "moderations",
    "assistants",
    "threads",
    "vector_stores",
    "evals",
    "containers",
    "realtime",
    "conversations",
    "completions",
    "chatkit",
    "skills",
    "decisions",
    "organization",
    "responses",
];

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Calls a model, and is metered.
    Chat,
    /// Calls a model, and is metered.
    Responses,
    /// Reads, or ends something that was started: costs nothing.
    Free,
    /// Everything else.
    Unmetered(&'static str),
}

/// Classifies a request. What is not known to be harmless is [`Endpoint::Unmetered`].
pub(super) fn endpoint(method: &Method, path: &str) -> Endpoint {
    let under = |family: &str| path.contains(family);
    if *method == Method::GET || *method == Method::HEAD {
        Endpoint::Free
    } else if *method == Method::POST && path.ends_with("/chat/completions") {
        Endpoint::Chat
    } else if *method == Method::POST && path.ends_with("/responses") {
        Endpoint::Responses
    } else if *method == Method::POST && under("/responses/") && path.ends_with("/cancel")
        || *method == Method::DELETE && (under("/responses/") || under("/chat/completions/"))
    {
        Endpoint::Free
    } else {
        let family = FAMILIES
            .iter()
            .find(|family| path.split('/').any(|part| part == **family));
        Endpoint::Unmetered(family.copied().unwrap_or("requested"))
    }
}

/// How the host wants requests to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Asks for the usage of chat streams.
    pub(super) stream_usage: bool,
    /// Lets the provider run tools by itself.
    pub(super) hosted_tools: bool,
    /// Tokens of an image, instead of the defaults.
    pub(super) image_tokens: Option<u64>,
    /// Tokens of what only the provider can see.
    pub(super) unseen_input_tokens: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            stream_usage: true,
            hosted_tools: false,
            image_tokens: None,
            unseen_input_tokens: None,
        }
    }
}

/// A request to a model, understood.
#[derive(Debug)]
pub(super) struct ModelRequest {
    /// The body to send.
    pub(super) body: String,
    pub(super) model: String,
    /// `None`: part of the input cannot be seen from here.
    pub(super) input: Option<u64>,
    /// `None`: the request sets no limit.
    pub(super) output: Option<u64>,
    /// The dearest tier that may be billed.
    pub(super) tier: Tier,
    pub(super) stream: bool,
    /// The usage chunk was asked for by us, not by the application.
    pub(super) withhold: bool,
}

impl ModelRequest {
    /// Reads the body of a request to `endpoint`, and asks for the usage of a chat stream.
    ///
    /// # Errors
    ///
    /// [`Ungoverned`] if the call could not be bounded or metered.
    pub(super) fn read(endpoint: Endpoint, body: &[u8], rules: &Rules) -> Result<Self, Ungoverned> {
        let text = str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
        let members =
            Members::read(text).ok_or(malformed("it is not a JSON object with distinct keys"))?;
        let model: String = optional(&members, "model")?.ok_or(malformed("it names no model"))?;
        if optional(&members, "background")? == Some(true) {
            return Err(Ungoverned::Background);
        }
        let hosted = hosted_tools(&members)?;
        if hosted && !rules.hosted_tools {
            return Err(Ungoverned::HostedTools);
        }
        let stream = optional(&members, "stream")?.unwrap_or(false);
        let mut request = Self {
            body: text.to_owned(),
            input: input_tokens(&members, &model, hosted, rules)?,
            output: output_tokens(endpoint, &members)?,
            tier: reserved_tier(optional::<String>(&members, "service_tier")?.as_deref()),
            model,
            stream,
            withhold: false,
        };
        if stream && endpoint == Endpoint::Chat && rules.stream_usage {
            request.ask_for_usage(&members)?;
        }
        Ok(request)
    }

    fn ask_for_usage(&mut self, members: &Members<'_>) -> Result<(), Ungoverned> {
        #[derive(Default, Deserialize)]
        struct StreamOptions {
            include_usage: Option<bool>,
        }
        let options: StreamOptions = optional(members, "stream_options")?.unwrap_or_default();
        if options.include_usage == Some(true) {
            return Ok(());
        }
        let old = members.text("stream_options").unwrap_or("{}");
        self.body = with_member(old, "include_usage", "true")
            .and_then(|new| with_member(&self.body, "stream_options", &new))
            .ok_or(malformed(
                "its stream_options are not an object with distinct keys",
            ))?;
        self.withhold = true;
        Ok(())
    }
}

/// The tier by whose price the call is reserved.
//
// Never a cheaper one than the ordinary: a provider may answer in it after all.
fn reserved_tier(name: Option<&str>) -> Tier {
    match usage::tier(name) {
        Tier::Priority => Tier::Priority,
        _ => Tier::Standard,
    }
}

/// The most tokens that the request lets the model produce.
fn output_tokens(endpoint: Endpoint, members: &Members<'_>) -> Result<Option<u64>, Ungoverned> {
    if endpoint == Endpoint::Responses {
        return optional(members, "max_output_tokens");
    }
    let most: Option<u64> = optional(members, "max_completion_tokens")?;
    let most = most.max(optional(members, "max_tokens")?);
    let choices: u64 = optional(members, "n")?.unwrap_or(1);
    let Some(most) = most else {
        // The default limit is for one choice: multiplied by an unknown it would bound nothing.
        return if choices <= 1 {
            Ok(None)
        } else {
            Err(malformed(
                "more than one choice needs max_completion_tokens",
            ))
        };
    };
    // Predicted text that the model rejects is billed as output, whatever the limit.
    let prediction = members.text("prediction").map_or(0, text_tokens);
    Ok(Some(
        most.saturating_mul(choices.max(1))
            .saturating_add(prediction),
    ))
}

/// An upper bound of the prompt, if there is one.
fn input_tokens(
    members: &Members<'_>,
    model: &str,
    hosted: bool,
    rules: &Rules,
) -> Result<Option<u64>, Ungoverned> {
    let mut estimate = Estimate::new(model, rules.image_tokens);
    if hosted {
        estimate.unbounded(); // the provider feeds the tools' results back to the model
    }
    for (key, text) in members.iter() {
        match key {
            "messages" | "input" => {
                estimate.conversation(&parse(text, "its messages cannot be read")?);
            }
            "previous_response_id" | "conversation" | "prompt" if text != "null" => {
                estimate.unbounded();
            }
            _ => estimate.text(text),
        }
    }
    Ok(estimate.bounded(rules.unseen_input_tokens))
}

/// Whether the provider may run tools by itself. A stored prompt may hold some.
fn hosted_tools(members: &Members<'_>) -> Result<bool, Ungoverned> {
    let tools: Vec<Value> = optional(members, "tools")?.unwrap_or_default();
    let hosted = |tool: &Value| {
        let kind = tool.get("type").and_then(Value::as_str);
        !kind.is_some_and(|kind| CLIENT_RUN.contains(&kind))
    };
    Ok(tools.iter().any(hosted)
        || members.text("web_search_options").is_some()
        || members.text("prompt").is_some())
}

fn optional<T: DeserializeOwned>(
    members: &Members<'_>,
    key: &str,
) -> Result<Option<T>, Ungoverned> {
    members
        .text(key)
        .map(|text| parse(text, "a member has a type that the API does not define"))
        .transpose()
}

fn parse<T: DeserializeOwned>(text: &str, reason: &'static str) -> Result<T, Ungoverned> {
    serde_json::from_str(text).map_err(|_| malformed(reason))
}

fn malformed(reason: &'static str) -> Ungoverned {
    Ungoverned::Body { reason }
}
