//! What an error means for what was sent, and what becomes of groups that cannot be committed.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::queue::Group;
use crate::audit::error::AuditError;
use crate::audit::journal::Answer;
use crate::audit::keys::{Purpose, Tag};
use crate::audit::model::Draft;
use crate::audit::rotate::Locked;
use crate::audit::store::lookup::StoredEvent;
use crate::store::{StoreError, StoreFault};

/// The constraint that an event's second entry violates.
const EVENT_ID_KEY: &str = "entries_event_id_key";
const UNIQUE_VIOLATION: &str = "23505";

/// What is known about a statement that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No answer: it may have been applied, or may still be.
    Lost,
    /// The database undid it; it can be tried again.
    Aborted,
    /// Undone: an event of the batch is on record already.
    Duplicate,
    /// Undone: there is an entry past the chain's head.
    Occupied,
    /// Undone: the database does not take some row of it.
    Poison,
    /// Undone, and it would be again.
    Refused,
    /// Not sent: this process does not have the key that it would take.
    Locked(Locked),
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) error: StoreError,
}

impl Failure {
    pub(super) fn of(operation: &'static str, error: &sqlx::Error) -> Self {
        let constraint = match error {
            sqlx::Error::Database(refusal) => refusal.constraint(),
            _ => None,
        };
        let stored = StoreError::from_driver(operation, error);
        let fault = match (stored.fault(), stored.sqlstate()) {
            (StoreFault::Aborted, _) => Fault::Aborted,
            (_, Some(UNIQUE_VIOLATION)) if constraint == Some(EVENT_ID_KEY) => Fault::Duplicate,
            (_, Some(UNIQUE_VIOLATION)) => Fault::Occupied,
            _ if is_poison(&stored) => Fault::Poison,
            // A server that shuts down may say so after the commit.
            (StoreFault::Unreachable, _) | (_, None) => Fault::Lost,
            _ => Fault::Refused,
        };
        Self {
            fault,
            error: stored,
        }
    }

    pub(super) fn timed_out(operation: &'static str) -> Self {
        Self {
            fault: Fault::Lost,
            error: StoreError::timed_out(operation),
        }
    }

    pub(super) fn locked(locked: Locked) -> Self {
        Self {
            fault: Fault::Locked(locked),
            error: StoreError::new("write under the current audit key", StoreFault::Refused),
        }
    }

    pub(super) fn unreachable(operation: &'static str) -> Self {
        Self {
            fault: Fault::Lost,
            error: StoreError::new(operation, StoreFault::Unreachable),
        }
    }

    /// Whether the connection can be used for the next statement.
    pub(super) fn keeps_connection(&self) -> bool {
        !matches!(self.fault, Fault::Lost | Fault::Refused)
    }
}

/// Whether the database does not take what a row holds: 22 a value, 23 a constraint, 54 too large for
/// an index.
pub(super) fn is_poison(error: &StoreError) -> bool {
    error.fault() != StoreFault::Unreachable
        && error.sqlstate().is_some_and(|code| {
            ["22", "23", "54"]
                .iter()
                .any(|class| code.starts_with(class))
        })
}

/// The one place that decides what becomes of events that could not be committed: they are kept
/// elsewhere, or the journal takes them now; without one they are lost.
pub(super) fn give_up(groups: Vec<Group>, error: &StoreError, shared: &Arc<Shared>) {
    for mut group in groups {
        if group.kept {
            group.answer(Err(AuditError::Store(error.clone())));
        } else if let Some(journal) = &shared.journal {
            let answer = group.reply.take().map_or(Answer::Nobody, Answer::Queue);
            shared.spill(journal, &group.drafts, answer, Some(error));
        } else {
            refuse(vec![group], &error.clone().into(), shared);
        }
    }
}

/// Answers `groups` with an error that no waiting would mend.
pub(super) fn refuse(groups: Vec<Group>, error: &AuditError, shared: &Shared) {
    for group in groups {
        if !group.kept {
            let events = group.drafts.len();
            tracing::error!(events, %error, "audit events could not be committed");
            shared.stats.lose(events);
        }
        group.answer(Err(error.clone()));
    }
}

/// Takes those of `groups` out that have waited longer than `patience`.
pub(super) fn expired(groups: &mut Vec<Group>, patience: Duration) -> Vec<Group> {
    let (gone, left) = std::mem::take(groups)
        .into_iter()
        .partition(|group| group.queued.elapsed() >= patience);
    *groups = left;
    gone
}

/// Takes those out that have an id of an earlier group: one entry for each event in one batch.
pub(super) fn repeated(groups: &mut Vec<Group>) -> Vec<Group> {
    if groups.len() < 2 {
        return Vec::new();
    }
    let mut seen = std::collections::HashSet::with_capacity_and_hasher(
        groups.len(),
        foldhash::fast::RandomState::default(),
    );
    let mut found = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        if group.drafts.iter().any(|draft| seen.contains(&draft.id)) {
            found.push(at);
        } else {
            seen.extend(group.drafts.iter().map(|draft| draft.id));
        }
    }
    let mut later: Vec<Group> = found
        .into_iter()
        .rev()
        .map(|at| groups.remove(at))
        .collect();
    later.reverse();
    later
}

/// Settles what is on record already: gives its place to each event that was found with the same
/// content, and answers the groups that have an event of another content, or nothing left to write.
pub(super) fn settle(groups: &mut Vec<Group>, found: &[StoredEvent], shared: &Shared) {
    for mut group in std::mem::take(groups) {
        let mut reused = None;
        for (draft, placed) in group.drafts.iter().zip(group.placed.iter_mut()) {
            let stored = found.iter().find(|s| s.event_id == draft.id.as_uuid());
            match stored {
                Some(stored) if same_content(shared, draft, stored) => {
                    placed.at.chain_no = stored.chain_no;
                    placed.at.seq = stored.seq;
                    placed.on_record = true;
                }
                Some(_) => reused = Some(draft.id),
                None => placed.on_record = false,
            }
        }
        if let Some(id) = reused {
            group.answer(Err(AuditError::IdReused { id }));
        } else if group.placed.iter().all(|placed| placed.on_record) {
            group.answer(Ok(()));
        } else {
            groups.push(group);
        }
    }
}

/// Whether `stored` is the entry that `draft` would make, its place and time of recording apart.
fn same_content(shared: &Shared, draft: &Draft, stored: &StoredEvent) -> bool {
    let [input, output] = draft.content;
    same_hash(shared, draft.input, input, stored.input_hash.as_deref())
        && same_hash(shared, draft.output, output, stored.output_hash.as_deref())
        && draft.kind.as_str() == stored.kind
        && (!draft.occurred_given || draft.occurred == stored.occurred_at)
        && draft.session.as_ref().map(AsRef::as_ref) == stored.session_id.as_deref()
        && draft.agent.as_ref().map(AsRef::as_ref) == stored.agent_id.as_deref()
        && draft.user.as_ref().map(AsRef::as_ref) == stored.user_id.as_deref()
        && draft.parent.map(crate::ids::EventId::as_uuid) == stored.parent_id
        && draft.model.as_ref().map(AsRef::as_ref) == stored.model.as_deref()
        && draft.decision.as_deref() == stored.decision.as_deref()
        && draft.metadata.as_str() == stored.metadata
}

/// Whether `stored` is the hash `ours`, or that of the same content under another of our keys: the
/// event may have been sealed once before a rotation and once after it.
fn same_hash(
    shared: &Shared,
    ours: Option<Tag>,
    content: Option<Tag>,
    stored: Option<&[u8]>,
) -> bool {
    let (Some(ours), Some(stored)) = (ours, stored) else {
        return ours.is_none() && stored.is_none();
    };
    ours == stored
        || content.is_some_and(|sha256| {
            let tenant = shared.store.tenant();
            shared.ring.key_ids().any(|id| {
                let key = shared.ring.derive_under(id, tenant, Purpose::Content);
                key.is_some_and(|key| key.content_hash(&sha256) == stored)
            })
        })
}
