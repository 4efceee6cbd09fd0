//! The pure decision: a policy made ready for look-ups, and what it says of one name or URL.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::error::ScopeError;
use super::model::{PolicyHash, ScopePolicy};
use super::pattern::{ApiPattern, NamePattern};
use super::url::ApiUrl;
use crate::ids::{MAX_ID_LEN, is_well_formed};

/// What an agent wants to use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'t> {
    /// A tool, by name.
    Tool(&'t str),
    /// An API, by URL.
    Api(&'t str),
    /// A model, by name.
    Model(&'t str),
}

/// What is known of an agent. Both policies count: what either denies is denied, so that what is
/// stored can narrow what the program pinned, and never widen it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known<'k> {
    /// The policy that the program brought along.
    pub(super) pinned: Option<&'k Compiled>,
    /// What is stored for everybody.
    pub(super) stored: Option<&'k Stored>,
}

impl Known<'_> {
    /// Whether either policy hides the tool.
    pub(super) fn hides(&self, tool: &str) -> bool {
        let stored = self.stored.and_then(Stored::policy);
        [self.pinned, stored]
            .into_iter()
            .flatten()
            .any(|policy| policy.hides(tool))
    }
}

/// What is in force of what is stored.
#[derive(Debug)]
pub(super) enum Stored {
    /// It.
    Policy(Policy),
    /// It cannot be read: the last good one, which this process has seen.
    Kept(Arc<Self>),
    /// It cannot be read, and there is no good one.
    Broken,
}

impl Stored {
    pub(super) fn policy(&self) -> Option<&Compiled> {
        match self {
            Self::Policy(policy) => Some(&policy.compiled),
            Self::Kept(last) => last.policy(),
            Self::Broken => None,
        }
    }

    /// What is in force when the next version cannot be read.
    pub(super) fn last_good(self: &Arc<Self>) -> Self {
        match &**self {
            Self::Policy(_) => Self::Kept(Arc::clone(self)),
            Self::Kept(last) => Self::Kept(Arc::clone(last)),
            Self::Broken => Self::Broken,
        }
    }

    /// The hash of the text that is in force; empty if none is.
    pub(super) fn hash(&self) -> &[u8] {
        match self {
            Self::Policy(policy) => &policy.hash,
            Self::Kept(last) => last.hash(),
            Self::Broken => &[],
        }
    }
}

/// A policy, and the hash of the text that it was read from.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) compiled: Compiled,
    pub(super) hash: PolicyHash,
}

/// A policy, made ready for look-ups.
#[derive(Debug)]
pub(super) struct Compiled {
    tools: Names,
    // Most policies have few of these lists, and there may be a million policies.
    hidden: Option<Box<Names>>,
    models: Option<Box<Names>>,
    apis: Option<Box<Apis>>,
    any_model: bool,
}

impl Compiled {
    pub(super) fn new(policy: &ScopePolicy) -> Self {
        let names = |set: &BTreeSet<NamePattern>| {
            (!set.is_empty()).then(|| Box::new(Names::new(set.iter().cloned())))
        };
        Self {
            tools: Names::new(policy.tools.iter().cloned()),
            hidden: (!policy.hidden.is_empty())
                .then(|| Box::new(Names::new(policy.hidden.iter().map(lower_case)))),
            models: names(&policy.models),
            apis: (!policy.apis.is_empty()).then(|| Box::new(Apis::new(&policy.apis))),
            any_model: policy.any_model,
        }
    }

    fn allows(&self, target: Target<'_>) -> Result<(), ScopeError> {
        let allowed = |allowed: bool, error| if allowed { Ok(()) } else { Err(error) };
        match target {
            Target::Tool(name) => allowed(
                self.tools.contain(name) && !self.hides(name),
                ScopeError::ToolDenied,
            ),
            Target::Model(name) => {
                let models = self.models.as_ref();
                let listed = models.is_some_and(|models| models.contain(name));
                let any = self.any_model && is_well_formed(name);
                allowed(listed || any, ScopeError::ModelDenied)
            }
            Target::Api(url) => {
                let url = ApiUrl::parse(url).map_err(ScopeError::InvalidUrl)?;
                let listed = self.apis.as_ref().is_some_and(|apis| apis.contain(&url));
                allowed(listed, ScopeError::ApiDenied)
            }
        }
    }

    /// Whether the tool is hidden from the agent, whatever the case of its letters: a host that
    /// ignores case must not run what was hidden.
    pub(super) fn hides(&self, tool: &str) -> bool {
        let Some(hidden) = &self.hidden else {
            return false;
        };
        let mut buffer = [0; MAX_ID_LEN];
        let Some(lower) = buffer.get_mut(..tool.len()) else {
            return false;
        };
        lower.copy_from_slice(tool.as_bytes());
        lower.make_ascii_lowercase();
        std::str::from_utf8(lower).is_ok_and(|tool| hidden.contain(tool))
    }
}

/// Decides; the one rule of this module. What is unknown is denied.
pub(super) fn decide(known: Known<'_>, target: Target<'_>) -> Result<(), ScopeError> {
    if known.pinned.is_none() && known.stored.is_none() {
        return Err(ScopeError::UnknownAgent);
    }
    if let Some(policy) = known.pinned {
        policy.allows(target)?;
    }
    if let Some(stored) = known.stored {
        let policy = stored.policy().ok_or(ScopeError::BrokenPolicy)?;
        policy.allows(target)?;
    }
    Ok(())
}

/// A set of names and prefixes.
#[derive(Debug)]
struct Names {
    exact: Exact,
    prefixes: Option<Box<Prefixes>>,
}

impl Names {
    fn new(patterns: impl Iterator<Item = NamePattern>) -> Self {
        let mut exact = Vec::new();
        let mut prefixes = Vec::new();
        for pattern in patterns {
            match pattern {
                NamePattern::Exact(name) => exact.push(name),
                NamePattern::Prefix(literal) => prefixes.push(literal),
            }
        }
        Self {
            exact: Exact::new(exact),
            prefixes: Prefixes::new(prefixes),
        }
    }

    fn contain(&self, name: &str) -> bool {
        // INVARIANT: an exact entry is well formed, so only what a prefix would let through has
        // to be looked at closely.
        self.exact.contains(name)
            || self
                .prefixes
                .as_ref()
                .is_some_and(|prefixes| is_well_formed(name) && prefixes.begin(name, 1))
    }
}

/// A set of texts.
//
// A short one is compared one by one: its texts lie side by side in one piece of memory, so that
// looking in a policy that is not in the processor's cache costs one miss instead of three.
#[derive(Debug)]
enum Exact {
    Short {
        text: Box<str>,
        count: usize,
        ends: [u16; SHORT_COUNT],
    },
    Long(HashSet<Box<str>, RandomState>),
}

/// The most texts that are compared one by one.
const SHORT_COUNT: usize = 8;
/// The most bytes that they may have together.
const SHORT_BYTES: usize = 512;

impl Exact {
    fn new(texts: Vec<Box<str>>) -> Self {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        if texts.len() > SHORT_COUNT || bytes > SHORT_BYTES {
            return Self::Long(texts.into_iter().collect());
        }
        let mut ends = [0; SHORT_COUNT];
        let mut end = 0;
        for (slot, text) in ends.iter_mut().zip(&texts) {
            end += text.len();
            // INVARIANT: at most SHORT_BYTES.
            *slot = u16::try_from(end).unwrap_or(u16::MAX);
        }
        Self::Short {
            count: texts.len(),
            text: texts.concat().into(),
            ends,
        }
    }

    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::Long(set) => set.contains(wanted),
            Self::Short { text, count, ends } => {
                let mut start = 0;
                ends.iter().take(*count).any(|end| {
                    let end = usize::from(*end);
                    let here = text.get(start..end);
                    start = end;
                    here == Some(wanted)
                })
            }
        }
    }
}

/// A set of beginnings.
#[derive(Debug)]
struct Prefixes {
    /// The lengths that occur, each once: one look-up for each, however many prefixes there are.
    lengths: Box<[usize]>,
    set: HashSet<Box<str>, RandomState>,
}

impl Prefixes {
    fn new(prefixes: Vec<Box<str>>) -> Option<Box<Self>> {
        if prefixes.is_empty() {
            return None;
        }
        let mut lengths: Vec<usize> = prefixes.iter().map(|prefix| prefix.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Some(Box::new(Self {
            lengths: lengths.into(),
            set: prefixes.into_iter().collect(),
        }))
    }

    /// Whether one of them begins `text` and leaves at least `rest` bytes of it.
    fn begin(&self, text: &str, rest: usize) -> bool {
        self.lengths
            .iter()
            .take_while(|length| **length + rest <= text.len())
            .filter_map(|length| text.get(..*length))
            .any(|beginning| self.set.contains(beginning))
    }
}

/// A set of APIs, by host.
#[derive(Debug)]
struct Apis(HashMap<Box<str>, Vec<Service>, RandomState>);

/// What of one scheme, host and port is allowed.
#[derive(Debug)]
struct Service {
    https: bool,
    port: u16,
    exact: Exact,
    prefixes: Option<Box<Prefixes>>,
}

impl Apis {
    fn new(patterns: &BTreeSet<ApiPattern>) -> Self {
        type Paths = (Vec<Box<str>>, Vec<Box<str>>);
        let mut paths: HashMap<(&str, bool, u16), Paths, RandomState> = HashMap::default();
        for pattern in patterns {
            let service = (&*pattern.host, pattern.https, pattern.port);
            let (exact, prefixes) = paths.entry(service).or_default();
            let list = if pattern.is_prefix { prefixes } else { exact };
            list.push(pattern.path.clone());
        }
        let mut hosts: HashMap<Box<str>, Vec<Service>, RandomState> = HashMap::default();
        for ((host, https, port), (exact, prefixes)) in paths {
            hosts.entry(host.into()).or_default().push(Service {
                https,
                port,
                exact: Exact::new(exact),
                prefixes: Prefixes::new(prefixes),
            });
        }
        Self(hosts)
    }

    fn contain(&self, url: &ApiUrl<'_>) -> bool {
        let services = self.0.get(url.host.as_str());
        services.into_iter().flatten().any(|service| {
            service.https == url.https
                && service.port == url.port
                && (service.exact.contains(url.path())
                    || service
                        .prefixes
                        .as_ref()
                        .is_some_and(|prefixes| prefixes.begin(url.path(), 0)))
        })
    }
}

fn lower_case(pattern: &NamePattern) -> NamePattern {
    match pattern {
        NamePattern::Exact(name) => NamePattern::Exact(name.to_ascii_lowercase().into()),
        NamePattern::Prefix(literal) => NamePattern::Prefix(literal.to_ascii_lowercase().into()),
    }
}
