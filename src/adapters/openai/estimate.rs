//! How many tokens a prompt can be, before the provider has counted them.
//!
//! The estimate is only what is *reserved*; the charge comes from the wire. It errs upwards:
//!
//! | Part of the request | Tokens reserved |
//! |---|---|
//! | text: a lowercase ASCII letter | 2/3 |
//! | text: a space | 1/2 |
//! | text: every other byte (capitals, digits, punctuation, any other script) | 1 |
//! | an object of `messages` or `input` (a message, a part, a call) | 4 |
//! | an image, by reference or inline | 10 000; 50 000 for `gpt-4o-mini`; 3 000 with `detail: low` |
//! | inline audio | 1 for every 32 characters of base64 |
//! | an inline file | 1 for every character of base64 |
//! | what only the provider can see | what the host says: see [`Estimate::bounded`] |
//!
//! One token for each byte would be a proof for byte-level tokenizers, and four to five times too
//! much for prose: a session near its limit would be refused calls that it can afford. The classes
//! above, measured against `o200k` and `cl100k`, come to two to three times the real count for prose
//! and code, and stay above it for base64, hexadecimal, random letters of every kind, digits,
//! punctuation, and scripts other than Latin. Text made up to defeat them (the worst pair of
//! lowercase letters, repeated) reaches one and a half times the estimate; the excess is an overrun,
//! which the budget records.

use serde_json::{Map, Value};

/// Tokens for an image whose detail is not `low`.
const IMAGE: u64 = 10_000;
/// The same for models that count an image as tens of thousands of cheap tokens.
const IMAGE_MINI: u64 = 50_000;
/// Tokens for an image with `detail: low`.
const IMAGE_LOW: u64 = 3_000;
/// Base64 characters of audio for each token: a low-bitrate MP3 has about 130.
const AUDIO_CHARS: u64 = 32;
/// What the provider puts around a conversation.
const FRAME: u64 = 64;
/// What it puts around a message.
const OBJECT: u64 = 4;

/// A running upper bound of the input tokens.
#[derive(Debug)]
pub(super) struct Estimate {
    tokens: u64,
    image: u64,
    image_low: u64,
    bounded: bool,
}

impl Estimate {
    /// An empty prompt for `model`; `image` replaces the tokens of every image.
    pub(super) fn new(model: &str, image: Option<u64>) -> Self {
        let mini = model.starts_with("gpt-4o-mini");
        Self {
            tokens: FRAME,
            image: image.unwrap_or(if mini { IMAGE_MINI } else { IMAGE }),
            image_low: image.unwrap_or(IMAGE_LOW),
            bounded: true,
        }
    }

    /// The tokens, with `unseen` for the part of the prompt that is known to the provider only (a
    /// previous response, a conversation, an uploaded file, what a hosted tool reads) if there is
    /// one; `None` if there is one and nobody said how large it can be.
    pub(super) fn bounded(&self, unseen: Option<u64>) -> Option<u64> {
        let unseen = if self.bounded { Some(0) } else { unseen };
        unseen.map(|unseen| self.tokens.saturating_add(unseen))
    }

    /// Part of the prompt cannot be seen from here.
    pub(super) fn unbounded(&mut self) {
        self.bounded = false;
    }

    /// Adds text.
    pub(super) fn text(&mut self, text: &str) {
        self.add(text_tokens(text));
    }

    /// Adds the conversation: the value of `messages` or `input`.
    pub(super) fn conversation(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.conversation(item)),
            Value::Object(object) => self.part(object),
            Value::Null | Value::Bool(_) | Value::Number(_) => self.text(&value.to_string()),
        }
    }

    fn part(&mut self, part: &Map<String, Value>) {
        self.add(OBJECT);
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let media = match kind {
            "image_url" | "input_image" | "computer_screenshot" => {
                let inner = part.get("image_url").unwrap_or(&Value::Null);
                let detail = part.get("detail").or_else(|| inner.get("detail"));
                let low = detail.and_then(Value::as_str) == Some("low");
                self.add(if low { self.image_low } else { self.image });
                &["image_url", "file_id"][..]
            }
            "image_generation_call" => {
                self.add(self.image);
                &["result"]
            }
            "input_audio" => {
                let audio = part.get("input_audio").and_then(|audio| audio.get("data"));
                let length = audio.and_then(Value::as_str).map_or(0, str::len);
                self.add(count(length) / AUDIO_CHARS + 1);
                &["input_audio"]
            }
            _ => &[],
        };
        if kind == "item_reference" {
            self.unbounded();
        }
        for (key, value) in part {
            if media.contains(&key.as_str()) {
                continue;
            }
            if matches!(key.as_str(), "file_id" | "file_url") && !value.is_null() {
                self.unbounded();
            }
            // Audio that the model spoke before is sent back as its id.
            if key == "audio" && value.get("id").is_some() {
                self.unbounded();
            }
            self.text(key);
            self.conversation(value);
        }
    }

    fn add(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }
}

/// An upper bound of the tokens of `text`, for all but text that is made to pass it.
pub(super) fn text_tokens(text: &str) -> u64 {
    let mut letters = 0;
    let mut spaces = 0;
    for byte in text.bytes() {
        letters += usize::from(byte.is_ascii_lowercase());
        spaces += usize::from(byte == b' ');
    }
    count(
        text.len()
            .saturating_sub(letters / 3)
            .saturating_sub(spaces / 2),
    )
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
