//! What counts as going round in circles, as an operator writes it and as it is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::error::InvalidLoopPolicy;
use super::ring::REMEMBERED;
use crate::canon::{Document, write_text};
use crate::ids::{AgentId, ToolName};

/// How pollers are spelled in a document.
const WHILE_CHANGING: &str = "while_changing";
const AT_MOST: &str = "at_most";
/// The longest round that can be looked for.
const LONGEST_ROUND: usize = 16;
/// The most pollers of one policy.
const MOST_POLLERS: usize = 32;
/// The longest window, and the longest time of a poller.
const LONGEST_WINDOW: Duration = Duration::from_hours(24);

/// What to do about a loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a new one must be decided upon")]
pub enum LoopAction {
    /// Let the call through, with a reason to hand to the model.
    Warn,
    /// Refuse the call.
    #[default]
    Refuse,
    /// Refuse the call, and halt the agent until an operator resumes it.
    Halt,
}

impl LoopAction {
    /// The action as the trail spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Refuse => "refuse",
            Self::Halt => "halt",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Warn, Self::Refuse, Self::Halt];
        all.into_iter().find(|action| action.as_str() == text)
    }
}

/// How often a tool may be called that asks for news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a new one must be decided upon")]
pub enum Poller {
    /// As often as it likes while what comes of it changes; the same result counts as a repetition.
    WhileChanging,
    /// This many times in this time, whatever the arguments and the results: a bucket of `most`,
    /// which fills evenly over `per`.
    AtMost {
        /// How many calls are in a full bucket.
        most: usize,
        /// How long an empty bucket takes to be full, in seconds.
        per_seconds: u64,
    },
}

impl Poller {
    /// `most` times in `per`, which counts in whole seconds.
    #[must_use]
    pub const fn at_most(most: usize, per: Duration) -> Self {
        Self::AtMost {
            most,
            per_seconds: per.as_secs(),
        }
    }

    fn to_value(self) -> Value {
        match self {
            Self::WhileChanging => WHILE_CHANGING.into(),
            Self::AtMost { most, per_seconds } => {
                json!({ AT_MOST: { "most": most, "per_seconds": per_seconds } })
            }
        }
    }

    fn read(listed: &mut Document, tool: &str) -> Option<Self> {
        match listed.take(tool).ok()? {
            Value::String(text) => (text == WHILE_CHANGING).then_some(Self::WhileChanging),
            value => {
                let mut poller = Document::of(tool, value).ok()?;
                let mut bucket = poller.object(AT_MOST).ok()?;
                let read = Self::AtMost {
                    most: bucket.number("most").ok()?,
                    per_seconds: bucket.number("per_seconds").ok()?,
                };
                bucket.end().and_then(|()| poller.end()).ok()?;
                Some(read)
            }
        }
    }
}

/// What a process does with a session that others may have begun, while nobody can say what they did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a new one must be decided upon")]
pub enum WhenAway {
    /// Refuse its calls.
    Refuse,
    /// Go on with what this process has seen, on record as `loop.state_unavailable`.
    GoOn,
}

impl WhenAway {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::GoOn => "go_on",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Refuse, Self::GoOn];
        all.into_iter().find(|answer| answer.as_str() == text)
    }
}

/// What counts as a loop of one agent, and what to do about it.
///
/// Counted is a call: the tool (in any case of its letters), the arguments, the resource and the URL
/// together, in one session of one agent. A tool that is called with other arguments is another call.
///
/// | setting | default | |
/// |---|---|---|
/// | [`window`](Self::window) | 60 s | calls longer ago do not count |
/// | [`repeats`](Self::repeats) | 5 | the call that is the fifth of its kind, as far as the result is the same or unknown |
/// | [`changing_repeats`](Self::changing_repeats) | 20 | the same with results that differ |
/// | [`cycle_len`](Self::cycle_len), [`cycle_repeats`](Self::cycle_repeats) | 8, 3 | the third time around, of up to eight calls |
/// | [`action`](Self::action) | refuse | |
///
/// ```
/// use std::time::Duration;
/// use portcullis::{AgentId, loops::{LoopAction, LoopPolicy, Poller}};
///
/// let policy = LoopPolicy::new(AgentId::parse("billing-agent")?)
///     .window(Duration::from_mins(2))
///     .repeats(4)
///     .action(LoopAction::Warn)
///     .poller("get_status", Poller::WhileChanging)
///     .poller("list_jobs", Poller::at_most(30, Duration::from_mins(1)));
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a policy has no effect until it is registered"]
pub struct LoopPolicy {
    agent: Option<AgentId>,
    window: Duration,
    repeats: usize,
    changing_repeats: usize,
    cycle_len: usize,
    cycle_repeats: usize,
    action: LoopAction,
    pollers: BTreeMap<String, Poller>,
    shared: Option<WhenAway>,
}

impl LoopPolicy {
    /// The policy of `agent`.
    pub const fn new(agent: AgentId) -> Self {
        Self::of(Some(agent))
    }

    /// The policy of every agent that has none of its own.
    pub const fn for_any_agent() -> Self {
        Self::of(None)
    }

    const fn of(agent: Option<AgentId>) -> Self {
        Self {
            agent,
            window: Duration::from_mins(1),
            repeats: 5,
            changing_repeats: 20,
            cycle_len: 8,
            cycle_repeats: 3,
            action: LoopAction::Refuse,
            pollers: BTreeMap::new(),
            shared: None,
        }
    }

    /// How far back calls count: a second to a day.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Which call of its kind is one too many: 2 to 128.
    pub const fn repeats(mut self, repeats: usize) -> Self {
        self.repeats = repeats;
        self
    }

    /// Which call of its kind is one too many although something else comes of it each time: at
    /// least [`repeats`](Self::repeats), at most 128.
    pub const fn changing_repeats(mut self, repeats: usize) -> Self {
        self.changing_repeats = repeats;
        self
    }

    /// How many calls a round may have that is looked for: 2 to 16; 1 looks for none.
    pub const fn cycle_len(mut self, calls: usize) -> Self {
        self.cycle_len = calls;
        self
    }

    /// Which round is one too many: 2 or more; the longest rounds must fit into 128 calls.
    pub const fn cycle_repeats(mut self, rounds: usize) -> Self {
        self.cycle_repeats = rounds;
        self
    }

    /// What to do.
    pub const fn action(mut self, action: LoopAction) -> Self {
        self.action = action;
        self
    }

    /// Declares that `tool` asks for news: only `poller` applies to it, and it is no part of a round.
    pub fn poller(mut self, tool: impl AsRef<str>, poller: Poller) -> Self {
        self.pollers
            .insert(tool.as_ref().to_ascii_lowercase(), poller);
        self
    }

    /// Sessions of this agent move between processes: what is seen of them is written to the
    /// database within a moment, and read where a session is met first.
    pub const fn shared(mut self, when_away: WhenAway) -> Self {
        self.shared = Some(when_away);
        self
    }

    /// Whose policy it is; `None` for every agent that has none.
    #[must_use]
    pub const fn agent(&self) -> Option<&AgentId> {
        self.agent.as_ref()
    }

    /// The policy as the pure decision reads it, if every part of it can be.
    pub(super) fn compile(&self) -> Result<Rule, InvalidLoopPolicy> {
        let wrong = |field, problem| Err(InvalidLoopPolicy { field, problem });
        let in_time = |time: Duration| (Duration::from_secs(1)..=LONGEST_WINDOW).contains(&time);
        if !in_time(self.window) {
            return wrong("window", "must be a second to a day");
        }
        if !(2..=REMEMBERED).contains(&self.repeats) {
            return wrong("repeats", "must be 2 to 128");
        }
        if !(self.repeats..=REMEMBERED).contains(&self.changing_repeats) {
            return wrong("changing_repeats", "must be from repeats to 128");
        }
        if !(1..=LONGEST_ROUND).contains(&self.cycle_len) {
            return wrong("cycle_len", "must be 2 to 16, or 1 for none");
        }
        if self.cycle_repeats < 2 || self.cycle_repeats.saturating_mul(self.cycle_len) > REMEMBERED
        {
            return wrong(
                "cycle_repeats",
                "must be 2 or more, and cycle_len times it at most 128",
            );
        }
        if self.pollers.len() > MOST_POLLERS {
            return wrong("poller", "must be at most 32 tools");
        }
        let mut pollers = Vec::new();
        for (tool, poller) in &self.pollers {
            if ToolName::parse(tool).is_err() {
                return wrong("poller", "must be the name of a tool");
            }
            if let Poller::AtMost { most, per_seconds } = poller
                && (*most == 0 || *most > 100_000 || !in_time(Duration::from_secs(*per_seconds)))
            {
                return wrong("poller", "must be 1 to 100000 times in a second to a day");
            }
            pollers.push((tool.clone(), *poller));
        }
        Ok(Rule {
            window: micros(self.window),
            repeats: self.repeats,
            changing_repeats: self.changing_repeats,
            cycle_len: self.cycle_len,
            cycle_repeats: self.cycle_repeats,
            action: self.action,
            pollers,
            shared: self.shared,
        })
    }

    /// The policy as canonical JSON, to be stored.
    pub(super) fn document(&self) -> String {
        let pollers = self.pollers.iter();
        let pollers = pollers.map(|(tool, poller)| (tool.clone(), poller.to_value()));
        write_text(&json!({
            "agent": self.agent.as_ref().map(AgentId::as_str),
            "window_ms": u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX),
            "repeats": self.repeats,
            "changing_repeats": self.changing_repeats,
            "cycle_len": self.cycle_len,
            "cycle_repeats": self.cycle_repeats,
            "action": self.action.as_str(),
            "pollers": pollers.collect::<Map<_, _>>(),
            "shared": self.shared.map(WhenAway::as_str),
        }))
    }

    /// Reads a stored document with the same eyes as a new policy.
    pub(super) fn from_document(text: &str) -> Result<Self, InvalidLoopPolicy> {
        let policy = Self::read(text).ok_or(BROKEN)?;
        policy.compile()?;
        Ok(policy)
    }

    fn read(text: &str) -> Option<Self> {
        let mut document = Document::parse(text).ok()?;
        let agent = document.maybe_text("agent").ok()?.map(AgentId::parse);
        let mut listed = document.object("pollers").ok()?;
        let mut pollers = BTreeMap::new();
        for tool in listed.names() {
            let poller = Poller::read(&mut listed, &tool)?;
            pollers.insert(tool, poller);
        }
        let shared = document.maybe_text("shared").ok()?;
        let policy = Self {
            agent: agent.transpose().ok()?,
            window: Duration::from_millis(document.number("window_ms").ok()?),
            repeats: document.number("repeats").ok()?,
            changing_repeats: document.number("changing_repeats").ok()?,
            cycle_len: document.number("cycle_len").ok()?,
            cycle_repeats: document.number("cycle_repeats").ok()?,
            action: LoopAction::parse(&document.text("action").ok()?)?,
            pollers,
            shared: match shared {
                None => None,
                Some(text) => Some(WhenAway::parse(&text)?),
            },
        };
        document.end().ok()?;
        Some(policy)
    }
}

const BROKEN: InvalidLoopPolicy = InvalidLoopPolicy {
    field: "document",
    problem: "is not one of this version; register the policy again",
};

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// A policy, ready to be applied.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Microseconds.
    pub(super) window: i64,
    pub(super) repeats: usize,
    pub(super) changing_repeats: usize,
    pub(super) cycle_len: usize,
    pub(super) cycle_repeats: usize,
    pub(super) action: LoopAction,
    /// By names in lower case.
    pub(super) pollers: Vec<(String, Poller)>,
    pub(super) shared: Option<WhenAway>,
}

impl Rule {
    /// With fewer calls of a kind than this, nothing can be a loop.
    pub(super) fn fewest(&self) -> usize {
        // INVARIANT: changing_repeats is not below repeats; a round has each of its calls.
        self.repeats.min(self.cycle_repeats)
    }

    pub(super) fn poller(&self, tool: &str) -> Option<(usize, Poller)> {
        let named = |(name, _): &(String, Poller)| name.eq_ignore_ascii_case(tool);
        let at = self.pollers.iter().position(named)?;
        self.pollers.get(at).map(|(_, poller)| (at, *poller))
    }
}
