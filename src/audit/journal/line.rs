//! The lines of a journal: what they say, and the bytes that their MAC covers. Normative.
//!
//! The MAC covers fields, not JSON text: the label, then the context that is not repeated in each
//! line (tenant, database, journal, key), then the line's fields in the order below, each absent or
//! length-prefixed as [`canon`](crate::canon) writes them, then the MAC of the line before. Each line
//! repeats that one, so that a line can be checked though its neighbour is broken.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::note::Note;
use crate::audit::keys::{AuditKeys, MacKey, Purpose, Tag, sha256};
use crate::audit::kind::Kind;
use crate::audit::model::{Draft, Ingest, Origin, Signed};
use crate::canon::{Fields, Metadata};
use crate::ids::{AgentId, EventId, JournalId, ModelName, SessionId, UserId};
use crate::store::Store;
use crate::time::Timestamp;

const LINE: &str = "portcullis/journal-line/v1";
const NOTE: &str = "portcullis/journal-note/v1";
const HEADER: &str = "portcullis/journal-file/v1";
const VERSION: u32 = 1;
/// What the first line of a journal follows.
pub(super) const FIRST: Tag = [0; 32];

/// What all lines of one journal have in common, for those who write and who read it.
#[derive(Debug)]
pub(in crate::audit) struct Context {
    pub(super) store: Store,
    pub(in crate::audit) journal: JournalId,
    keys: AuditKeys,
    /// The one of them that the journal is written under: the current one when it was begun.
    key_id: u32,
    /// Which database the journal belongs to: one secret may serve several.
    database: String,
    key: MacKey,
}

impl Context {
    pub(in crate::audit) fn new(store: &Store, keys: &AuditKeys) -> Self {
        Self::of(store, keys, JournalId::new())
    }

    fn of(store: &Store, keys: &AuditKeys, journal: JournalId) -> Self {
        let options = store.connect_options();
        let name = options
            .get_database()
            .unwrap_or_else(|| options.get_username());
        // Hashed, because names may be long and are nobody's business; no secret.
        let database = sha256(name.as_bytes());
        Self {
            journal,
            database: hex::encode(database.get(..8).unwrap_or_default()),
            key: keys.derive(store.tenant(), Purpose::Journal),
            key_id: keys.key_id(),
            keys: keys.clone(),
            store: store.clone(),
        }
    }

    /// The same tenant and database, but the journal of somebody else.
    pub(in crate::audit) fn for_journal(&self, journal: JournalId) -> Self {
        Self::of(&self.store, &self.keys, journal)
    }

    /// The same under another of our keys, if it is one.
    fn under(&self, key_id: u32) -> Option<Self> {
        let key = self
            .keys
            .derive_under(key_id, self.store.tenant(), Purpose::Journal)?;
        let mut other = Self::of(&self.store, &self.keys, self.journal);
        (other.key_id, other.key) = (key_id, key);
        Some(other)
    }

    fn begin(&self, label: &str, out: &mut Fields) {
        out.restart(label);
        out.present(self.store.tenant().as_str().as_bytes())
            .present(self.database.as_bytes())
            .present(self.journal.as_bytes())
            .present(&self.key_id.to_be_bytes());
    }

    fn mac(&self, fields: &Fields, previous: &Tag) -> Tag {
        // The previous MAC is a field too: present, 32 bytes long.
        self.key
            .tag(&[fields.as_bytes(), &[1, 0, 0, 0, 32], previous])
    }
}

/// The first line of each file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header<'t> {
    v: u32,
    #[serde(borrow)]
    journal: Cow<'t, str>,
    segment: u32,
    #[serde(borrow)]
    tenant: Cow<'t, str>,
    #[serde(borrow)]
    database: Cow<'t, str>,
    key: u32,
    process: u32,
    at: i64,
    /// The line that comes first in the file.
    first: u64,
    #[serde(borrow)]
    prev: Cow<'t, str>,
    #[serde(borrow)]
    mac: Cow<'t, str>,
}

impl Header<'_> {
    pub(super) fn write(
        context: &Context,
        segment: u32,
        first: u64,
        previous: &Tag,
        out: &mut Vec<u8>,
    ) {
        let mut header = Header {
            v: VERSION,
            journal: context.journal.to_string().into(),
            segment,
            tenant: context.store.tenant().as_str().into(),
            database: context.database.as_str().into(),
            key: context.key_id,
            process: std::process::id(),
            at: context.store.now().as_micros(),
            first,
            prev: hex::encode(previous).into(),
            mac: "".into(),
        };
        let mac = context.mac(&header.fields(context), previous);
        header.mac = hex::encode(mac).into();
        push_line(&header, out);
    }

    fn fields(&self, context: &Context) -> Fields {
        let mut fields = Fields::default();
        context.begin(HEADER, &mut fields);
        fields
            .present(&self.v.to_be_bytes())
            .present(&self.segment.to_be_bytes())
            .present(&self.process.to_be_bytes())
            .present(&self.at.to_be_bytes())
            .present(&self.first.to_be_bytes());
        fields
    }

    /// How to read a file that was begun before a rotation, or after one that we have not heard of.
    pub(super) fn under_another_key(context: &Context, text: &[u8]) -> Option<Context> {
        let header: Header<'_> = serde_json::from_slice(text).ok()?;
        let other = context
            .under(header.key)
            .filter(|other| other.key_id != context.key_id)?;
        Self::read(&other, text).map(|_| other)
    }

    /// The line that comes first in the file, and the MAC that it follows; `None` if this is not a
    /// first line that we wrote. What it says of tenant and database is for people: the MAC decides.
    pub(super) fn read(context: &Context, text: &[u8]) -> Option<(u64, Tag)> {
        let header: Header<'_> = serde_json::from_slice(text).ok()?;
        let (previous, mac) = (tag(&header.prev)?, tag(&header.mac)?);
        let expected = context.mac(&header.fields(context), &previous);
        let ours = bool::from(expected.ct_eq(&mac)) && header.v == VERSION;
        ours.then_some((header.first, previous))
    }
}

/// What a line is to say.
#[derive(Clone, Copy)]
pub(super) enum Saying<'s> {
    Event(&'s Draft),
    Note(&'s Note),
}

/// What a line says.
#[derive(Clone, Debug)]
pub(in crate::audit) enum Said {
    /// Of `ingest` journal, with the line as its origin.
    Event(Box<Draft>),
    Note(Note),
}

impl Said {
    const fn saying(&self) -> Saying<'_> {
        match self {
            Self::Event(draft) => Saying::Event(draft),
            Self::Note(note) => Saying::Note(note),
        }
    }
}

/// A line of a journal.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Line {
    pub(in crate::audit) seq: u64,
    /// When it was written.
    pub(in crate::audit) at: Timestamp,
    pub(in crate::audit) previous: Tag,
    pub(in crate::audit) mac: Tag,
    pub(in crate::audit) said: Said,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text<'t> {
    seq: u64,
    at: i64,
    #[serde(borrow)]
    id: Cow<'t, str>,
    /// Of an event; a note has a module instead.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    module: Option<Cow<'t, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occurred: Option<i64>,
    /// Whether the caller said when.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    session: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    agent: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    parent: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    model: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    input: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    output: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    decision: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    signer: Option<Cow<'t, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    signature: Option<Cow<'t, str>>,
    /// The canonical text, as a string: these very bytes are covered.
    #[serde(borrow)]
    metadata: Cow<'t, str>,
    #[serde(borrow)]
    prev: Cow<'t, str>,
    #[serde(borrow)]
    mac: Cow<'t, str>,
}

impl Line {
    /// Adds a line that says `said` to `out`; answers with its MAC.
    pub(super) fn write(
        context: &Context,
        said: Saying<'_>,
        (seq, at): (u64, Timestamp),
        previous: &Tag,
        fields: &mut Fields,
        out: &mut Vec<u8>,
    ) -> Tag {
        encode(context, said, seq, at, fields);
        let mac = context.mac(fields, previous);
        push_line(&Text::of(said, (seq, at), previous, &mac), out);
        mac
    }

    /// Reads a line; `None` if it is not one that we wrote, in the one spelling that we write: what
    /// means the same in other letters was touched by somebody.
    pub(super) fn read(context: &Context, line: &[u8], fields: &mut Fields) -> Option<Self> {
        let text: Text<'_> = serde_json::from_slice(line).ok()?;
        let (previous, mac) = (tag(&text.prev)?, tag(&text.mac)?);
        let (seq, at) = (text.seq, Timestamp::from_micros(text.at));
        let said = text.said(context, mac)?;
        encode(context, said.saying(), seq, at, fields);
        let expected = context.mac(fields, &previous);
        // Also: what a note has no place for is not there, where no MAC would cover it.
        let mut spelled = Vec::with_capacity(line.len() + 1);
        push_line(
            &Text::of(said.saying(), (seq, at), &previous, &mac),
            &mut spelled,
        );
        let as_written = spelled.strip_suffix(b"\n") == Some(line);
        let sound = as_written && bool::from(expected.ct_eq(&mac));
        sound.then_some(Self {
            seq,
            at,
            previous,
            mac,
            said,
        })
    }
}

#[cfg(any(test, fuzzing))]
impl Line {
    /// What somebody with the key would write who wanted to say the same as `text`: the line, and
    /// what it is to be read as.
    pub(super) fn rewritten(context: &Context, text: &[u8]) -> Option<(Self, Vec<u8>)> {
        let text: Text<'_> = serde_json::from_slice(text).ok()?;
        let (seq, at) = (text.seq, Timestamp::from_micros(text.at));
        let previous = tag(&text.prev)?;
        let mut line = Self {
            seq,
            at,
            previous,
            mac: tag(&text.mac)?,
            said: text.said(context, FIRST)?,
        };
        let (mut fields, mut out) = (Fields::default(), Vec::new());
        line.mac = Self::write(
            context,
            line.said.saying(),
            (seq, at),
            &previous,
            &mut fields,
            &mut out,
        );
        line.said = text.said(context, line.mac)?;
        Some((line, out))
    }
}

impl<'t> Text<'t> {
    fn of(said: Saying<'t>, (seq, at): (u64, Timestamp), previous: &Tag, mac: &Tag) -> Self {
        Self {
            seq,
            at: at.as_micros(),
            prev: hex::encode(previous).into(),
            mac: hex::encode(mac).into(),
            ..match said {
                Saying::Event(draft) => Text::of_event(draft),
                Saying::Note(note) => Text::of_note(note),
            }
        }
    }

    fn of_event(draft: &'t Draft) -> Self {
        let hash = |tag: &Option<Tag>| tag.map(|tag| hex::encode(tag).into());
        let signed = draft.signed.as_ref();
        Self {
            id: draft.id.to_string().into(),
            kind: Some(draft.kind.as_str().into()),
            occurred: Some(draft.occurred.as_micros()),
            given: draft.occurred_given,
            session: draft.session.as_ref().map(|id| id.as_str().into()),
            agent: draft.agent.as_ref().map(|id| id.as_str().into()),
            user: draft.user.as_ref().map(|id| id.as_str().into()),
            parent: draft.parent.map(|id| id.to_string().into()),
            model: draft.model.as_ref().map(|id| id.as_str().into()),
            input: hash(&draft.input),
            output: hash(&draft.output),
            decision: draft.decision.as_deref().map(Cow::from),
            signer: signed.map(|signed| hex::encode(signed.key).into()),
            signature: signed.map(|signed| hex::encode(signed.signature).into()),
            metadata: draft.metadata.as_str().into(),
            ..Self::default()
        }
    }

    fn of_note(note: &'t Note) -> Self {
        Self {
            id: note.id.to_string().into(),
            module: Some(note.module.as_str().into()),
            metadata: note.payload.as_str().into(),
            ..Self::default()
        }
    }

    /// What the text says, under the MAC that it gives, which is not checked here.
    fn said(&self, context: &Context, mac: Tag) -> Option<Said> {
        let Some(module) = &self.module else {
            return Some(Said::Event(Box::new(draft(context, self, mac)?)));
        };
        Some(Said::Note(Note {
            id: event_id(&self.id)?,
            module: module.clone().into_owned(),
            payload: Metadata::stored(self.metadata.clone().into_owned()),
        }))
    }
}

fn draft(context: &Context, text: &Text<'_>, mac: Tag) -> Option<Draft> {
    let signed = match (&text.signer, &text.signature) {
        (None, None) => None,
        (Some(key), Some(signature)) => Some(Signed {
            key: bytes(key)?,
            signature: bytes(signature)?,
        }),
        _ => return None,
    };
    Some(Draft {
        id: event_id(&text.id)?,
        kind: Kind::parse(text.kind.as_ref()?)?,
        occurred: Timestamp::from_micros(text.occurred?),
        occurred_given: text.given,
        session: there(text.session.as_ref(), |t| SessionId::parse(t).ok())?,
        agent: there(text.agent.as_ref(), |t| AgentId::parse(t).ok())?,
        user: there(text.user.as_ref(), |t| UserId::parse(t).ok())?,
        parent: there(text.parent.as_ref(), event_id)?,
        model: there(text.model.as_ref(), |t| ModelName::parse(t).ok())?,
        input: there(text.input.as_ref(), tag)?,
        output: there(text.output.as_ref(), tag)?,
        // Not kept: an event that is recorded again is compared by the hashes that were made.
        content: [None; 2],
        decision: text.decision.as_ref().map(|t| t.clone().into_owned()),
        metadata: Metadata::stored(text.metadata.clone().into_owned()),
        signed,
        ingest: Ingest::Journal(Origin {
            journal: *context.journal.as_bytes(),
            seq: text.seq,
            mac,
        }),
    })
}

fn encode(context: &Context, said: Saying<'_>, seq: u64, at: Timestamp, out: &mut Fields) {
    let draft = match said {
        Saying::Event(draft) => draft,
        Saying::Note(note) => {
            context.begin(NOTE, out);
            out.present(&seq.to_be_bytes())
                .present(&at.as_micros().to_be_bytes())
                .present(note.id.as_bytes())
                .present(note.module.as_bytes())
                .present(note.payload.as_str().as_bytes());
            return;
        }
    };
    context.begin(LINE, out);
    let signed = draft.signed.as_ref();
    out.present(&seq.to_be_bytes())
        .present(&at.as_micros().to_be_bytes())
        .present(draft.id.as_bytes())
        .present(draft.kind.as_str().as_bytes())
        .present(&draft.occurred.as_micros().to_be_bytes())
        .present(&[u8::from(draft.occurred_given)])
        .text(draft.session.as_ref().map(AsRef::as_ref))
        .text(draft.agent.as_ref().map(AsRef::as_ref))
        .text(draft.user.as_ref().map(AsRef::as_ref))
        .maybe(draft.parent.as_ref().map(|id| id.as_bytes().as_slice()))
        .text(draft.model.as_ref().map(AsRef::as_ref))
        .maybe(draft.input.as_ref().map(Tag::as_slice))
        .maybe(draft.output.as_ref().map(Tag::as_slice))
        .text(draft.decision.as_deref())
        .maybe(signed.map(|signed| signed.key.as_slice()))
        .maybe(signed.map(|signed| signed.signature.as_slice()))
        .present(draft.metadata.as_str().as_bytes());
}

fn push_line(value: &impl Serialize, out: &mut Vec<u8>) {
    let before = out.len();
    // Strings, numbers and options always have a JSON text, and a buffer takes it.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
    }
    out.push(b'\n');
}

/// `Some(None)` if there is nothing, `None` if there is something that cannot be read.
#[expect(
    clippy::option_option,
    reason = "absent, or there and unreadable: two different things"
)]
fn there<U>(text: Option<&Cow<'_, str>>, read: impl Fn(&str) -> Option<U>) -> Option<Option<U>> {
    match text {
        None => Some(None),
        Some(text) => read(text).map(Some),
    }
}

/// An event's id. Those that we make of what an entry says are no `UUIDv7`.
fn event_id(text: &str) -> Option<EventId> {
    EventId::parse(text).ok()
}

fn tag(text: &str) -> Option<Tag> {
    bytes(text)
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
