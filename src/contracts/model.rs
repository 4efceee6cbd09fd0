//! What a contract says: of which calls, what must hold before, what after.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::about::About;
use super::declared::{Field, Named};
use super::error::InvalidContract;
use crate::call::Action;
use crate::ids::is_well_formed;
use crate::usage::Ceiling;

/// The most conditions and promises of one contract, together.
const MOST: usize = 64;
/// The longest that a check may take.
pub(super) const LONGEST: Duration = Duration::from_mins(1);

/// What must hold before and after the calls of some tools.
///
/// ```
/// use portcullis::contracts::{Condition, Contract, Promise};
///
/// let contract = Contract::new("refunds")
///     .for_tools(["refund_payment"])
///     .requires(Condition::Approved)
///     .requires(Condition::Audited)
///     .ensures(Promise::result("refund_has_id", |id: &String| id.starts_with("re_")));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a contract has no effect until it is registered"]
pub struct Contract {
    pub(super) name: String,
    pub(super) of: Of,
    pub(super) requires: Vec<Condition>,
    pub(super) ensures: Vec<Promise>,
    pub(super) on_broken: Option<OnBroken>,
    pub(super) record_passed: bool,
}

/// Which calls.
#[derive(Clone, Debug)]
pub(super) enum Of {
    Nothing,
    Any,
    /// In lower case: another case of its letters is no way around a contract.
    Tools(BTreeSet<String>),
    /// Both of it were said.
    Both,
}

/// What becomes of a call that kept its conditions and broke a promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum OnBroken {
    /// The call fails, although its work is done.
    #[default]
    Fail,
    /// It is on record, and the call goes on.
    Report,
}

impl Contract {
    /// A contract by the name `name`, an id like those of tools. It is of no calls yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            of: Of::Nothing,
            requires: Vec::new(),
            ensures: Vec::new(),
            on_broken: None,
            record_passed: false,
        }
    }

    /// Of the calls of these tools, in any case of their letters.
    pub fn for_tools<S: AsRef<str>>(mut self, tools: impl IntoIterator<Item = S>) -> Self {
        let tools = tools.into_iter();
        let mut lower: BTreeSet<_> = tools.map(|t| t.as_ref().to_ascii_lowercase()).collect();
        self.of = match self.of {
            Of::Nothing => Of::Tools(lower),
            Of::Tools(mut before) => {
                before.append(&mut lower);
                Of::Tools(before)
            }
            Of::Any | Of::Both => Of::Both,
        };
        self
    }

    /// Of every call, of models too.
    pub fn for_any(mut self) -> Self {
        self.of = match self.of {
            Of::Nothing | Of::Any => Of::Any,
            Of::Tools(_) | Of::Both => Of::Both,
        };
        self
    }

    /// What must hold before the call; all of them must.
    pub fn requires(mut self, condition: Condition) -> Self {
        self.requires.push(condition);
        self
    }

    /// What must hold after the call; all of them must.
    pub fn ensures(mut self, promise: Promise) -> Self {
        self.ensures.push(promise);
        self
    }

    /// What becomes of a call that broke a promise (it fails).
    pub const fn on_broken(mut self, what: OnBroken) -> Self {
        self.on_broken = Some(what);
        self
    }

    /// Puts calls that kept it on record, too (off: only violations are).
    pub const fn record_passed(mut self) -> Self {
        self.record_passed = true;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn applies_to(&self, action: &Action) -> bool {
        match (&self.of, action) {
            (Of::Any, _) => true,
            (Of::Tools(tools), Action::Tool(name)) => {
                let name = name.as_str();
                tools.contains(name)
                    || (name.bytes().any(|byte| byte.is_ascii_uppercase())
                        && tools.contains(&name.to_ascii_lowercase()))
            }
            (Of::Tools(_) | Of::Nothing | Of::Both, _) => false,
        }
    }

    pub(super) fn fails_when_broken(&self) -> bool {
        self.on_broken.unwrap_or_default() == OnBroken::Fail
    }

    /// Says what in it cannot be.
    pub(super) fn validate(&self) -> Result<(), InvalidContract> {
        let wrong = |field, problem| Err(InvalidContract { field, problem });
        if !is_well_formed(&self.name) {
            return wrong("name", "must be an id: letters, digits and . _ - : / @ + =");
        }
        match &self.of {
            Of::Nothing => return wrong("for_tools", "or for_any must be called"),
            Of::Both => return wrong("for_any", "contradicts for_tools; call one of them"),
            Of::Tools(tools) if tools.is_empty() => {
                return wrong(
                    "for_tools",
                    "names no tool, so the contract holds for nothing",
                );
            }
            Of::Tools(tools) if !tools.iter().all(|tool| is_well_formed(tool)) => {
                return wrong("for_tools", "has an entry that is no tool's name");
            }
            Of::Tools(_) | Of::Any => {}
        }
        if self.requires.is_empty() && self.ensures.is_empty() {
            return wrong(
                "requires",
                "or ensures must be called: the contract asks for nothing",
            );
        }
        if self.requires.len() + self.ensures.len() > MOST {
            return wrong("requires", "and ensures have more than 64 entries");
        }
        if self.ensures.is_empty() && self.on_broken.is_some() {
            return wrong(
                "on_broken",
                "says what becomes of broken promises, and there are none",
            );
        }
        distinct(self.requires.iter().map(Condition::word)).ok_or(InvalidContract {
            field: "requires",
            problem: "has a condition twice; two budgets or two checks of one name contradict each other",
        })?;
        distinct(self.ensures.iter().map(Promise::word)).ok_or(InvalidContract {
            field: "ensures",
            problem: "has a promise twice; two checks of one name contradict each other",
        })?;
        let mut of_results = self.ensures.iter().filter_map(|promise| match promise {
            Promise::Result(predicate) => Some(predicate.of),
            _ => None,
        });
        if let Some(first) = of_results.next()
            && of_results.any(|other| other != first)
        {
            return wrong(
                "ensures",
                "has predicates of results of two types, which no call has",
            );
        }
        for condition in &self.requires {
            match condition {
                Condition::Custom(check) => check.validate()?,
                Condition::Named(named) => named.validate()?,
                _ => {}
            }
        }
        for promise in &self.ensures {
            match promise {
                Promise::Custom(check) => check.validate()?,
                Promise::Named(named) => named.validate()?,
                Promise::Field(field) => field.validate()?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn distinct(words: impl Iterator<Item = String>) -> Option<()> {
    let mut seen = BTreeSet::new();
    words
        .into_iter()
        .all(|word| seen.insert(word))
        .then_some(())
}

/// What must hold before a call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Condition {
    /// So much could be reserved now. Nothing stays reserved: the call's own ceiling is asked for by
    /// the gate.
    BudgetAvailable(Ceiling),
    /// The agent may use the tool or model, and the URL if there is one.
    ScopeAllowed,
    /// A person agreed to this very call: who, what, with these arguments.
    Approved,
    /// That the call passed is on record before it begins: committed, or synced to the local disk.
    Audited,
    /// Neither the agent nor its session, parents or tenant is halted.
    NotHalted,
    /// A check of the host's.
    Custom(Check),
    /// A check of the host's that each process defines under a name.
    Named(Named),
}

impl Condition {
    /// A check of the host's, which is given what is known of the call and must say `Ok(true)` within
    /// `deadline`. Everything else is a no: false, an error, a panic, no answer in time.
    ///
    /// It runs on a thread that may block.
    pub fn custom<F, Fut, E>(name: impl Into<String>, deadline: Duration, ask: F) -> Self
    where
        F: Fn(Arc<About>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        Self::Custom(Check::new(name, deadline, ask))
    }

    /// The word of it in the trail.
    pub(super) fn word(&self) -> String {
        match self {
            Self::BudgetAvailable(_) => "budget_available".to_owned(),
            Self::ScopeAllowed => "scope_allowed".to_owned(),
            Self::Approved => "approved".to_owned(),
            Self::Audited => "audited".to_owned(),
            Self::NotHalted => "not_halted".to_owned(),
            Self::Custom(Check { name, .. }) | Self::Named(Named { name, .. }) => {
                format!("custom:{name}")
            }
        }
    }
}

/// What must hold after a call. Asked when it failed, too.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Promise {
    /// How the call ended is on record: committed, or synced to the local disk.
    Audited,
    /// The call did not fail.
    Completed,
    /// The result is as it must be. A call that failed has none, and is not asked.
    Result(Predicate),
    /// A part of the result is as it must be; as [`Result`](Self::Result) otherwise.
    Field(Field),
    /// A check of the host's.
    Custom(Check),
    /// A check of the host's that each process defines under a name.
    Named(Named),
}

impl Promise {
    /// A predicate of the result, which is shown to it by reference and kept by nobody. A result of
    /// another type, a panic, or a result that was not shown breaks the promise.
    pub fn result<T: 'static>(
        name: impl Into<String>,
        holds: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::Result(Predicate {
            name: name.into(),
            of: std::any::type_name::<T>(),
            holds: Arc::new(move |result| result.downcast_ref().map(&holds)),
        })
    }

    /// A check of the host's, as [`Condition::custom`]; it is told how the call ended
    /// ([`About::completed`]).
    pub fn custom<F, Fut, E>(name: impl Into<String>, deadline: Duration, ask: F) -> Self
    where
        F: Fn(Arc<About>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        Self::Custom(Check::new(name, deadline, ask))
    }

    /// The word of it in the trail.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Audited => "audited".to_owned(),
            Self::Completed => "completed".to_owned(),
            Self::Result(Predicate { name, .. }) | Self::Field(Field { name, .. }) => {
                format!("result:{name}")
            }
            Self::Custom(Check { name, .. }) | Self::Named(Named { name, .. }) => {
                format!("custom:{name}")
            }
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Option<bool>> + Send>>;

/// A check of the host's.
#[derive(Clone)]
pub struct Check {
    pub(super) name: String,
    pub(super) deadline: Duration,
    pub(super) ask: Arc<dyn Fn(Arc<About>) -> Answer + Send + Sync>,
}

impl Check {
    pub(crate) fn new<F, Fut, E>(name: impl Into<String>, deadline: Duration, ask: F) -> Self
    where
        F: Fn(Arc<About>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, E>> + Send + 'static,
    {
        let answer = move |about| -> Answer {
            let asked = ask(about);
            // What went wrong stays with the host: an error's text may hold anything.
            Box::pin(async move { asked.await.ok() })
        };
        Self {
            name: name.into(),
            deadline,
            ask: Arc::new(answer),
        }
    }

    pub(super) fn validate(&self) -> Result<(), InvalidContract> {
        let wrong = |problem| {
            Err(InvalidContract {
                field: "custom",
                problem,
            })
        };
        if !is_well_formed(&self.name) {
            return wrong("must have a name that is an id");
        }
        if self.deadline.is_zero() || self.deadline > LONGEST {
            return wrong("must have a deadline of more than nothing and at most 60 s");
        }
        Ok(())
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

type Holds = dyn Fn(&dyn Any) -> Option<bool> + Send + Sync;

/// A predicate of a result.
#[derive(Clone)]
pub struct Predicate {
    name: String,
    /// The type, by name: only to find two that contradict each other.
    of: &'static str,
    /// `None` if the result is of another type.
    pub(super) holds: Arc<Holds>,
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predicate")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
