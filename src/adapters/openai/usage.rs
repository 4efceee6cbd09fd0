//! What the provider says that a call has used.
//!
//! Token counts come from an untrusted wire. A count that is negative, fractional, a string or
//! larger than [`MOST`] makes the whole object unreadable, and so does an empty prompt: the usage is
//! *missing*, never zero. Numbers that contradict each other are read in the way that charges more.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::{Tier, Usage};

/// More tokens than any call can use. Above it a count is a fault of the provider, not a bill.
const MOST: u64 = 1_000_000_000;

/// The usage object of responses, with the names of chat completions beside; some compatible
/// servers send both.
#[derive(Deserialize)]
struct Wire {
    input_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    output_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    input_tokens_details: Option<InputDetails>,
    prompt_tokens_details: Option<InputDetails>,
    output_tokens_details: Option<OutputDetails>,
    completion_tokens_details: Option<OutputDetails>,
}

#[derive(Default, Deserialize)]
struct InputDetails {
    #[serde(rename = "cached_tokens")]
    cached: Option<u64>,
    #[serde(rename = "cache_write_tokens")]
    cache_write: Option<u64>,
    #[serde(rename = "audio_tokens")]
    audio: Option<u64>,
}

#[derive(Default, Deserialize)]
struct OutputDetails {
    #[serde(rename = "reasoning_tokens")]
    reasoning: Option<u64>,
    #[serde(rename = "audio_tokens")]
    audio: Option<u64>,
}

/// Reads a usage object; `None` if it cannot be trusted to mean anything.
pub(super) fn read(json: &str, tier: Tier) -> Option<Usage> {
    let wire: Wire = serde_json::from_str(json).ok()?;
    let input_tokens = wire.input_tokens.max(wire.prompt_tokens)?;
    let output_tokens = wire.output_tokens.max(wire.completion_tokens)?;
    let input = wire
        .input_tokens_details
        .or(wire.prompt_tokens_details)
        .unwrap_or_default();
    let output = wire
        .output_tokens_details
        .or(wire.completion_tokens_details)
        .unwrap_or_default();
    let counts = [
        Some(input_tokens),
        Some(output_tokens),
        wire.total_tokens,
        input.cached,
        input.cache_write,
        input.audio,
        output.reasoning,
        output.audio,
    ];
    if counts.into_iter().flatten().any(|count| count > MOST) {
        return None;
    }
    let mut usage = Usage {
        cached_input_tokens: input.cached.unwrap_or(0),
        cache_write_tokens: input.cache_write.unwrap_or(0),
        input_audio_tokens: input.audio.unwrap_or(0),
        reasoning_tokens: output.reasoning.unwrap_or(0),
        output_audio_tokens: output.audio.unwrap_or(0),
        tier,
        ..Usage::default()
    };
    // A whole already holds its parts. Some providers count reasoning beside the output, and only the
    // total tells; what of it is not input is then output.
    (usage.input_tokens, usage.output_tokens) = (input_tokens, output_tokens);
    let input = usage.consistent().input_tokens;
    let beside_input = wire
        .total_tokens
        .map_or(0, |total| total.saturating_sub(input));
    usage.output_tokens = output_tokens.max(beside_input);
    let usage = usage.consistent();
    // No call has an empty prompt: a server that reports zero does not count.
    (usage.input_tokens > 0).then_some(usage)
}

/// The price tier that a response names.
//
// The dearest tier stands in for one that we do not know: a new name is more often a faster
// service than a cheaper one. `scale` is capacity paid for in advance.
pub(super) fn tier(name: Option<&str>) -> Tier {
    match name {
        None | Some("default" | "auto" | "standard" | "scale") => Tier::Standard,
        Some("flex") => Tier::Flex,
        Some("batch") => Tier::Batch,
        Some(_) => Tier::Priority,
    }
}

/// The parts of a response body, or of one event, that say what it cost.
#[derive(Default, Deserialize)]
pub(super) struct Message<'a> {
    /// The kind of event (responses only).
    #[serde(default, borrow, rename = "type")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) model: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    service_tier: Option<Cow<'a, str>>,
    /// Present but `null` on the chunks before the last one.
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) choices: Option<Vec<IgnoredAny>>,
    /// The state of a response: `completed`, `in_progress`, ...
    #[serde(default, borrow)]
    pub(super) status: Option<Cow<'a, str>>,
    /// The response inside an event.
    #[serde(default, borrow)]
    pub(super) response: Option<Box<Message<'a>>>,
}

impl Message<'_> {
    /// The usage object is there, readable or not.
    pub(super) fn has_usage(&self) -> bool {
        self.usage.is_some_and(|raw| raw.get() != "null")
    }

    /// The tokens used, if the object is there and can be trusted.
    pub(super) fn usage(&self) -> Option<Usage> {
        read(self.usage?.get(), tier(self.service_tier.as_deref()))
    }

    /// The tier, when the message names one.
    pub(super) fn tier(&self) -> Option<Tier> {
        self.service_tier.as_deref().map(|name| tier(Some(name)))
    }
}
