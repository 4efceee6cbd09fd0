//! Who may agree: people and teams, and when two names are one person's.

use std::fmt;
use std::str::FromStr;

use super::store::Stored;
use crate::call::Principal;
use crate::ids::{Id, InvalidId, UserId, kind};

/// A person or a team that approves, written `user:<id>` or `team:<id>`.
///
/// Teams are listed in policies; a decision is always a person's.
///
/// ```
/// use portcullis::gates::ApproverRef;
///
/// let dana = ApproverRef::parse("user:dana")?;
/// assert!(dana.is_person());
/// assert!(ApproverRef::parse("agent:billing").is_err());
/// // A look-alike letter is no letter.
/// assert!(ApproverRef::parse("user:d\u{430}na").is_err());
/// # Ok::<(), portcullis::gates::InvalidApprover>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApproverRef {
    sort: Sort,
    id: UserId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Sort {
    User,
    Team,
}

/// What is put before a name to say whose it is, and makes no other person of it.
const PREFIXES: &[&str] = &[
    "user", "operator", "agent", "team", "mailto", "human", "session",
];

impl ApproverRef {
    /// Parses `user:<id>` or `team:<id>`.
    ///
    /// # Errors
    ///
    /// [`InvalidApprover`] if it is neither, or if the id is none.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidApprover> {
        let text = text.as_ref();
        let (sort, id) = match text.split_once(':') {
            Some(("user", id)) => (Sort::User, id),
            Some(("team", id)) => (Sort::Team, id),
            _ => return Err(InvalidApprover::Form),
        };
        let id = UserId::parse(id).map_err(InvalidApprover::Id)?;
        if fold(id.as_str()).is_empty() {
            return Err(InvalidApprover::Form);
        }
        Ok(Self { sort, id })
    }

    /// The person `user`.
    ///
    /// # Errors
    ///
    /// [`InvalidApprover`] if the id has neither letters nor digits.
    pub fn user(user: &UserId) -> Result<Self, InvalidApprover> {
        Self::parse(format!("user:{user}"))
    }

    /// The id, without `user:` or `team:`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Whether it is one person.
    #[must_use]
    pub const fn is_person(&self) -> bool {
        matches!(self.sort, Sort::User)
    }
}

impl fmt::Display for ApproverRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sort = match self.sort {
            Sort::User => "user",
            Sort::Team => "team",
        };
        f.pad(&format!("{sort}:{}", self.id))
    }
}

impl FromStr for ApproverRef {
    type Err = InvalidApprover;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Text that names no approver. Never repeats it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidApprover {
    /// Neither a person nor a team.
    #[error("an approver is written user:<id> or team:<id>")]
    Form,
    /// No id after it.
    #[error(transparent)]
    Id(InvalidId),
}

/// A name as it is compared: what tells two people apart, and nothing else.
///
/// Case, `. _ - : / + =`, what stands before (`user:`), and of an address the part after the `@` or
/// after a `+` make no other person. Ids are ASCII, so there are no other forms of a letter. It would
/// rather take two people for one than one for two: the first is an approval that somebody else
/// must give, the second is somebody who agrees with himself.
pub(super) fn fold(id: &str) -> String {
    let lower = id.to_ascii_lowercase();
    let mut rest = lower.as_str();
    while let Some((before, after)) = rest.split_once([':', '/'])
        && (PREFIXES.contains(&before) || before.is_empty())
        && !after.is_empty()
    {
        rest = after;
    }
    let name = rest.split_once(['@', '+']).map_or(rest, |(name, _)| name);
    match letters(name) {
        // An address of nobody is compared as a whole.
        folded if folded.is_empty() => letters(rest),
        folded => folded,
    }
}

fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Who may never decide what `who` asks for: all agents of its line, who operates them, and on
/// whose behalf they act.
pub(super) fn barred(who: &Principal) -> Vec<String> {
    let mut all = Vec::new();
    for one in line(who) {
        let names = [
            Some(one.agent_id().as_str()),
            one.user_id().map(Id::<kind::User>::as_str),
            one.operator_id().map(Id::<kind::Operator>::as_str),
        ];
        all.extend(names.into_iter().flatten().map(fold));
    }
    all.retain(|name| !name.is_empty());
    all.sort_unstable();
    all.dedup();
    all
}

/// Who may never decide what a stored request is about, by its own ids. Whoever wrote the row may have left them out
/// of its list.
pub(super) fn barred_in(request: &Stored) -> impl Iterator<Item = String> {
    let ancestors = request.ancestors.iter();
    let agents = ancestors.filter_map(|line| line.split(' ').next());
    let own = [
        Some(request.shown.agent.as_str()),
        request.user.as_deref(),
        request.operator.as_deref(),
    ];
    own.into_iter().flatten().chain(agents).map(fold)
}

/// The agents that started this one, nearest first, as they are stored.
pub(super) fn ancestors(who: &Principal) -> Vec<String> {
    line(who)
        .skip(1)
        .map(|one| format!("{} {}", one.agent_id(), one.session_id()))
        .collect()
}

/// Whether it is known who operates the agents of the line. Who operates one operates those that it
/// started; so it is enough to know it of the first, and nothing less is.
pub(super) fn operator_is_known(who: &Principal) -> bool {
    line(who)
        .last()
        .is_some_and(|first| first.operator_id().is_some())
}

/// The agent, the one that started it, and so on.
pub(super) fn line(who: &Principal) -> impl Iterator<Item = &Principal> {
    std::iter::successors(Some(who), |one| one.parent())
}
