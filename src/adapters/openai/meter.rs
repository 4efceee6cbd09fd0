//! What a response has said so far about its cost, and whether that is the last word.

use crate::{Outcome, Tier, Usage};

use super::usage::Message;

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// The usage chunk, which the application did not ask for.
    Withhold,
}

/// How a call ended, as far as its response tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the provider's last word on what it cost.
    Reported(Report),
    /// Without it; the least that has been used, if anything was seen.
    Unknown(Option<Usage>),
}

/// The last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) usage: Usage,
    /// The model that answered.
    pub(super) model: Option<String>,
    /// What the provider calls the failure, if it was one.
    pub(super) failure: Option<&'static str>,
    /// SHA-256 of what the application has.
    pub(super) output: [u8; 32],
}

impl From<Report> for Outcome {
    fn from(report: Report) -> Self {
        let outcome = report
            .failure
            .map_or_else(Self::completed, Self::failed)
            .usage(report.usage)
            .output_sha256(report.output);
        match report.model {
            Some(model) => outcome.model(model),
            None => outcome,
        }
    }
}

/// How far a response has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Running,
    /// The newest usage is the last word, unless more words follow.
    LastWord,
    /// The provider has said that nothing follows.
    Closed,
}

/// Reads the messages of one response.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The bound of the input that was reserved, for a stream that is cut.
    input: Option<u64>,
    withhold: bool,
    model: Option<String>,
    tier: Tier,
    /// The newest usage object that could be read.
    usage: Option<Usage>,
    /// The newest usage object could not be read.
    unreadable: bool,
    progress: Progress,
    failure: Option<&'static str>,
    /// Pieces of output: each holds a token or more.
    pieces: u64,
}

impl Meter {
    /// A meter of a response to a prompt of at most `input` tokens.
    pub(super) fn new(input: Option<u64>, withhold: bool) -> Self {
        Self {
            input,
            withhold,
            ..Self::default()
        }
    }

    /// Reads the data of an event.
    pub(super) fn event(&mut self, data: &[u8]) -> Verdict {
        if data.trim_ascii() == b"[DONE]" {
            self.progress = Progress::Closed;
            return Verdict::Pass;
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(data) else {
            return Verdict::Pass;
        };
        if let Some(response) = &message.response {
            self.response(message.kind.as_deref().unwrap_or_default(), response);
            return Verdict::Pass;
        }
        self.read(&message);
        let choices = message.choices.as_ref().map(Vec::len);
        let kind = message.kind.as_deref().unwrap_or_default();
        let deltas = usize::from(kind.rsplit('.').next() == Some("delta"));
        let pieces = u64::try_from(choices.unwrap_or(deltas)).unwrap_or(u64::MAX);
        self.pieces = self.pieces.saturating_add(pieces);

        let is_usage_chunk = choices == Some(0) && message.has_usage();
        if is_usage_chunk {
            self.progress = Progress::LastWord;
        } else if pieces > 0 {
            self.progress = Progress::Running;
        }
        if self.withhold && is_usage_chunk {
            Verdict::Withhold
        } else {
            Verdict::Pass
        }
    }

    /// Reads a whole response that is not a stream.
    pub(super) fn whole(&mut self, body: &[u8]) {
        if let Ok(message) = serde_json::from_slice::<Message<'_>>(body) {
            self.read(&message);
            self.failure =
                (message.status.as_deref() == Some("failed")).then_some("response.failed");
            self.progress = Progress::Closed;
        }
    }

    /// The stream is over, though the connection may not be.
    pub(super) fn is_closed(&self) -> bool {
        self.progress == Progress::Closed
    }

    /// How the call ends if nothing follows, with `output` as the hash of what was answered.
    pub(super) fn end(&self, output: [u8; 32]) -> End {
        match self.priced() {
            Some(usage) if self.progress != Progress::Running && !self.unreadable => {
                End::Reported(Report {
                    usage,
                    model: self.model.clone(),
                    failure: self.failure,
                    output,
                })
            }
            _ => End::Unknown(self.seen()),
        }
    }

    /// The least that has been used; `None` if nothing has been seen.
    fn seen(&self) -> Option<Usage> {
        if self.pieces == 0 && self.usage.is_none() {
            return None;
        }
        let mut seen = self.priced().unwrap_or_default();
        seen.tier = self.tier;
        // A model that answers has read all of its input.
        seen.input_tokens = seen.input_tokens.max(self.input.unwrap_or(0));
        seen.output_tokens = seen.output_tokens.max(self.pieces);
        Some(seen)
    }

    fn priced(&self) -> Option<Usage> {
        let mut usage = self.usage?;
        usage.tier = self.tier;
        Some(usage)
    }

    fn response(&mut self, kind: &str, response: &Message<'_>) {
        self.read(response);
        if matches!(
            kind,
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled"
        ) {
            self.failure = (kind == "response.failed").then_some("response.failed");
            self.progress = Progress::Closed;
        }
    }

    fn read(&mut self, message: &Message<'_>) {
        if let Some(model) = message.model.as_deref().filter(|model| !model.is_empty()) {
            self.model = Some(model.to_owned());
        }
        if let Some(tier) = message.tier() {
            self.tier = tier;
        }
        if message.has_usage() {
            let usage = message.usage();
            self.unreadable = usage.is_none();
            self.usage = usage.or(self.usage.take());
        }
    }
}
