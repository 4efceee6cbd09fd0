//! Events as callers give them, entries as they are read, receipts in between.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use uuid::Uuid;

use super::error::AuditError;
use super::identity::AgentKeyId;
use super::keys::{MacKey, Tag, sha256};
use super::kind::{AppKind, Kind};
use super::several::Several;
use crate::call::Principal;
use crate::canon::{Metadata, Pieces};
use crate::ids::{AgentId, EventId, JournalId, ModelName, SessionId, UserId};
use crate::time::Timestamp;

/// The longest decision text.
const MAX_DECISION: usize = 64;

/// Something that happened, to be recorded.
///
/// The builder never fails: what is wrong with an event is said when it is recorded. Content is
/// never stored; [`input`](Self::input) and [`output`](Self::output) keep a keyed hash of it.
///
/// ```
/// use portcullis::audit::AuditEvent;
/// # use portcullis::{AgentId, Principal};
/// # let me = Principal::agent(AgentId::parse("a")?);
///
/// let read = AuditEvent::new(&me, "app.invoice.read").with("invoice", "inv_381").input(b"the request");
/// let mailed = AuditEvent::new(&me, "app.invoice.mailed").caused_by(read.id());
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug)]
pub struct AuditEvent {
    pub(super) id: EventId,
    pub(super) kind: Result<Kind, AuditError>,
    pub(super) occurred: Option<Timestamp>,
    pub(super) session: Option<SessionId>,
    pub(super) agent: Option<AgentId>,
    pub(super) user: Option<UserId>,
    pub(super) parent: Option<EventId>,
    pub(super) model: Option<ModelName>,
    pub(super) input: Option<Tag>,
    pub(super) output: Option<Tag>,
    pub(super) decision: Option<String>,
    pub(super) metadata: Result<Pieces, AuditError>,
}

impl AuditEvent {
    /// Something that `who` did, of a kind under `app.`.
    #[must_use]
    pub fn new(who: &Principal, kind: impl AsRef<str>) -> Self {
        let kind = AppKind::parse(kind.as_ref()).map(Kind::App);
        Self::of(Some(who), kind.map_err(AuditError::Kind))
    }

    /// An event of the system's own.
    pub(crate) fn system(who: Option<&Principal>, kind: Kind) -> Self {
        Self::of(who, Ok(kind))
    }

    fn of(who: Option<&Principal>, kind: Result<Kind, AuditError>) -> Self {
        Self {
            id: EventId::new(),
            kind,
            occurred: None,
            session: who.map(|who| who.session_id().clone()),
            agent: who.map(|who| who.agent_id().clone()),
            user: who.and_then(|who| who.user_id().cloned()),
            parent: None,
            model: None,
            input: None,
            output: None,
            decision: None,
            metadata: Ok(Pieces::default()),
        }
    }

    /// The event's id. Recording the same event twice records it once.
    #[must_use]
    pub const fn id(&self) -> EventId {
        self.id
    }

    /// Gives the event an id of the caller's, so that a retry after a crash records it once.
    #[must_use]
    pub const fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// When it happened, where that was not just now.
    #[must_use]
    pub const fn occurred(mut self, at: Timestamp) -> Self {
        self.occurred = Some(at);
        self
    }

    /// The event that led to this one.
    #[must_use]
    pub const fn caused_by(mut self, parent: EventId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// The model that took part.
    #[must_use]
    pub fn model(mut self, model: &ModelName) -> Self {
        self.model = Some(model.clone());
        self
    }

    /// What went in. Only a keyed hash of it is kept.
    #[must_use]
    pub fn input(mut self, content: &[u8]) -> Self {
        self.input = Some(sha256(content));
        self
    }

    /// What came out. Only a keyed hash of it is kept.
    #[must_use]
    pub fn output(mut self, content: &[u8]) -> Self {
        self.output = Some(sha256(content));
        self
    }

    /// What came out, hashed already.
    pub(crate) const fn output_sha256(mut self, hash: Tag) -> Self {
        self.output = Some(hash);
        self
    }

    /// What was decided, in a word.
    #[must_use]
    pub fn decision(mut self, decision: impl Into<String>) -> Self {
        self.decision = Some(decision.into());
        self
    }

    /// Adds one piece of metadata. See [`Metadata`] for what it may be.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        if let Ok(pieces) = &mut self.metadata
            && let Err(error) = pieces.put(key.into(), &value)
        {
            self.metadata = Err(error.into());
        }
        self
    }

    /// Checks everything that can be wrong with an event, before it is batched with others.
    ///
    /// `now` is when it happened if the caller does not say; `content` keys the hashes.
    pub(super) fn seal(self, now: Timestamp, content: &MacKey) -> Result<Draft, AuditError> {
        let metadata = self.metadata?.into_metadata()?;
        if let Some(decision) = &self.decision
            && (decision.is_empty() || decision.len() > MAX_DECISION || decision.contains('\0'))
        {
            return Err(AuditError::Field {
                field: "decision",
                problem: "must have 1 to 64 bytes and no NUL; use one word",
            });
        }
        Ok(Draft {
            id: self.id,
            kind: self.kind?,
            occurred: self.occurred.unwrap_or(now),
            occurred_given: self.occurred.is_some(),
            session: self.session,
            agent: self.agent,
            user: self.user,
            parent: self.parent,
            model: self.model,
            input: self.input.map(|sha256| content.content_hash(&sha256)),
            output: self.output.map(|sha256| content.content_hash(&sha256)),
            decision: self.decision,
            content: [self.input, self.output],
            metadata,
            signed: None,
            ingest: Ingest::Live,
        })
    }
}

/// Events on their way into one batch, shared by whoever waits for them and whoever writes them.
#[derive(Debug)]
pub(super) struct Sealed {
    drafts: Several<Draft>,
    in_journal: AtomicBool,
}

impl Sealed {
    pub(super) fn new(drafts: impl Into<Several<Draft>>) -> Self {
        Self {
            drafts: drafts.into(),
            in_journal: AtomicBool::new(false),
        }
    }

    /// Takes it upon the caller to bring the events into the journal; false if another has.
    pub(super) fn claim_for_journal(&self) -> bool {
        !self.in_journal.swap(true, Ordering::Relaxed)
    }
}

impl std::ops::Deref for Sealed {
    type Target = Several<Draft>;

    fn deref(&self) -> &Several<Draft> {
        &self.drafts
    }
}

/// An event that is known to be storable.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) id: EventId,
    pub(super) kind: Kind,
    pub(super) occurred: Timestamp,
    /// Whether the caller said so. If not, recording the same event again gives another moment.
    pub(super) occurred_given: bool,
    pub(super) session: Option<SessionId>,
    pub(super) agent: Option<AgentId>,
    pub(super) user: Option<UserId>,
    pub(super) parent: Option<EventId>,
    pub(super) model: Option<ModelName>,
    /// Keyed hashes of the content.
    pub(super) input: Option<Tag>,
    pub(super) output: Option<Tag>,
    /// Their plain SHA-256, which is never stored: to make the keyed hash under another key.
    pub(super) content: [Option<Tag>; 2],
    pub(super) decision: Option<String>,
    pub(super) metadata: Metadata,
    pub(super) signed: Option<Signed>,
    pub(super) ingest: Ingest,
}

/// Who signed an event, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signed {
    /// The id of the public key, which the MAC covers.
    pub(super) key: [u8; 16],
    pub(super) signature: [u8; 64],
}

/// How an event comes into its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ingest {
    /// Straight from the process in which it happened.
    Live,
    /// Committed together with the host's own rows, at this place of the outbox.
    Transaction(Uuid),
    /// By way of the local disk, while the database was away or behind.
    Journal(Origin),
}

impl Ingest {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Transaction(_) => "transaction",
            Self::Journal(_) => "journal",
        }
    }

    /// Its line in a journal, if it was in one.
    pub(super) const fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Journal(origin) => Some(origin),
            Self::Live | Self::Transaction(_) => None,
        }
    }

    /// Its place in the outbox, if it is in there.
    pub(super) const fn place(&self) -> Option<&Uuid> {
        match self {
            Self::Transaction(place) => Some(place),
            Self::Live | Self::Journal(_) => None,
        }
    }
}

/// A line of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) journal: [u8; 16],
    pub(super) seq: u64,
    pub(super) mac: Tag,
}

/// What is on durable record before a caller goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a third way must be chosen")]
pub enum Evidence {
    /// The commit; while the database is away, the journal, synced to the disk.
    #[default]
    Durable,
    /// The journal's file, written but not synced: it survives `kill -9` of the process, not a crash
    /// of the machine. The commit follows.
    Spooled,
}

/// Where an event that was recorded is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recorded {
    /// Committed to a chain.
    Committed(Committed),
    /// In the journal, synced to the local disk, because the database is away. It is committed when
    /// that is back.
    Journalled(Journalled),
    /// In the journal's file, written and not synced. It is committed behind
    /// ([`Evidence::Spooled`]).
    Spooled(Journalled),
}

impl Recorded {
    /// The event's id.
    #[must_use]
    pub const fn id(&self) -> EventId {
        match self {
            Self::Committed(committed) => committed.id,
            Self::Journalled(line) | Self::Spooled(line) => line.id,
        }
    }

    /// Where it is committed; `None` if it is not yet.
    #[must_use]
    pub const fn committed(&self) -> Option<&Committed> {
        match self {
            Self::Committed(committed) => Some(committed),
            Self::Journalled(_) | Self::Spooled(_) => None,
        }
    }
}

/// A line of the journal that holds an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Journalled {
    /// The event.
    pub id: EventId,
    /// The journal.
    pub journal: JournalId,
    /// The line's number in it, from 1.
    pub line: u64,
}

/// What became of an event that was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a lost event is only known from its receipt"]
pub enum Receipt {
    /// It is committed to the chain.
    Committed(Committed),
    /// The database is away: it is on the local disk, synced, and is committed later.
    Journalled(Journalled),
    /// It is in the journal's file, not synced, and is committed behind ([`Evidence::Spooled`]).
    Spooled(Journalled),
    /// It could not be made durable anywhere. The trail has a hole that nothing marks.
    Lost {
        /// The event.
        id: EventId,
        /// Why.
        error: AuditError,
    },
}

impl Receipt {
    /// The event's id.
    #[must_use]
    pub const fn id(&self) -> EventId {
        match self {
            Self::Committed(committed) => committed.id,
            Self::Journalled(line) | Self::Spooled(line) => line.id,
            Self::Lost { id, .. } => *id,
        }
    }

    /// Where it is committed; `None` if it is not, or not yet.
    #[must_use]
    pub const fn committed(&self) -> Option<&Committed> {
        match self {
            Self::Committed(committed) => Some(committed),
            Self::Journalled(_) | Self::Spooled(_) | Self::Lost { .. } => None,
        }
    }

    /// Why it is nowhere; `None` if it is somewhere.
    #[must_use]
    pub const fn lost(&self) -> Option<&AuditError> {
        match self {
            Self::Lost { error, .. } => Some(error),
            Self::Committed(_) | Self::Journalled(_) | Self::Spooled(_) => None,
        }
    }
}

impl From<Recorded> for Receipt {
    fn from(recorded: Recorded) -> Self {
        match recorded {
            Recorded::Committed(committed) => Self::Committed(committed),
            Recorded::Journalled(line) => Self::Journalled(line),
            Recorded::Spooled(line) => Self::Spooled(line),
        }
    }
}

/// Where an event stands in the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Committed {
    /// The event.
    pub id: EventId,
    /// Its chain.
    pub chain_no: u32,
    /// Its place in the chain, from 1.
    pub seq: u64,
}

/// One entry of the trail, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The event's id.
    pub id: EventId,
    /// The chain.
    pub chain_no: u32,
    /// The place in the chain, from 1.
    pub seq: u64,
    /// The number of the key it was written under.
    pub key_id: u32,
    /// What happened.
    pub kind: Kind,
    /// When it happened, as the caller says.
    pub occurred_at: Timestamp,
    /// When it was recorded; never earlier than the entry before it in its chain.
    pub recorded_at: Timestamp,
    /// The session.
    pub session: Option<SessionId>,
    /// The agent.
    pub agent: Option<AgentId>,
    /// On whose behalf.
    pub user: Option<UserId>,
    /// The event that led to it.
    pub parent: Option<EventId>,
    /// The model that took part.
    pub model: Option<ModelName>,
    /// Keyed hash of what went in.
    pub input_hash: Option<[u8; 32]>,
    /// Keyed hash of what came out.
    pub output_hash: Option<[u8; 32]>,
    /// What was decided.
    pub decision: Option<String>,
    /// The agent's key that signed it. Whether the signature holds is for a verification to say.
    pub signed_by: Option<AgentKeyId>,
    /// What else there is to say, as canonical JSON.
    pub metadata: Metadata,
    /// The chain's MAC.
    pub mac: [u8; 32],
}
