//! The lines of a journal: what they say, and the bytes that their MAC covers. Normative.
//!
//! The MAC covers fields, not JSON text: the label, then the context that is not repeated in each
//! line (tenant, database, journal, key), then the line's fields in the order below, each absent or
//! length-prefixed as [`canon`](crate::canon) writes them, then the MAC of the line before. Each line
//! repeats that one, so that a line can be checked though its neighbour is broken.

use std::borrow::Cow;

use subtle::ConstantTimeEq as _;

use super::note::Note;
use super::spelling::{self, bytes};
use crate::audit::keys::{AuditKeys, MacKey, Purpose, Tag, sha256};
use crate::audit::model::Draft;
#[cfg(any(test, fuzzing))]
use crate::audit::model::Ingest;
use crate::canon::{Fields, Flat, FlatWriter};
use crate::ids::JournalId;
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
#[derive(Debug)]
pub(super) struct Header<'t> {
    v: u32,
    journal: Cow<'t, str>,
    segment: u32,
    tenant: Cow<'t, str>,
    database: Cow<'t, str>,
    key: u32,
    process: u32,
    at: i64,
    /// The line that comes first in the file.
    first: u64,
    prev: Tag,
    mac: Tag,
}

impl<'t> Header<'t> {
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
            prev: *previous,
            mac: FIRST,
        };
        header.mac = context.mac(&header.fields(context), previous);
        header.push(out);
    }

    fn push(&self, out: &mut Vec<u8>) {
        FlatWriter::new(out)
            .number("v", self.v)
            .text("journal", &self.journal)
            .number("segment", self.segment)
            .text("tenant", &self.tenant)
            .text("database", &self.database)
            .number("key", self.key)
            .number("process", self.process)
            .number("at", self.at)
            .number("first", self.first)
            .hex("prev", &self.prev)
            .hex("mac", &self.mac)
            .end_line();
    }

    fn parse(text: &'t [u8]) -> Option<Self> {
        let mut flat = Flat::read(text)?;
        let header = Self {
            v: flat.number("v")?,
            journal: flat.text("journal")?,
            segment: flat.number("segment")?,
            tenant: flat.text("tenant")?,
            database: flat.text("database")?,
            key: flat.number("key")?,
            process: flat.number("process")?,
            at: flat.number("at")?,
            first: flat.number("first")?,
            prev: bytes(&flat.text("prev")?)?,
            mac: bytes(&flat.text("mac")?)?,
        };
        flat.is_empty().then_some(header)
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
        let header = Header::parse(text)?;
        let other = context
            .under(header.key)
            .filter(|other| other.key_id != context.key_id)?;
        Self::read(&other, text).map(|_| other)
    }

    /// The line that comes first in the file, and the MAC that it follows; `None` if this is not a
    /// first line that we wrote. What it says of tenant and database is for people: the MAC decides.
    pub(super) fn read(context: &Context, text: &[u8]) -> Option<(u64, Tag)> {
        let header = Header::parse(text)?;
        let expected = context.mac(&header.fields(context), &header.prev);
        let ours = bool::from(expected.ct_eq(&header.mac)) && header.v == VERSION;
        ours.then_some((header.first, header.prev))
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
        spelling::push(said, (seq, at), previous, &mac, out);
        mac
    }

    /// Reads a line; `None` if it is not one that we wrote, in the one spelling that we write: what
    /// means the same in other letters was touched by somebody.
    pub(super) fn read(context: &Context, line: &[u8], fields: &mut Fields) -> Option<Self> {
        let read = spelling::parse(context.journal, line)?;
        let said = read.said.saying();
        encode(context, said, read.seq, read.at, fields);
        let expected = context.mac(fields, &read.previous);
        // Also: what a note has no place for is not there, where no MAC would cover it.
        let mut spelled = Vec::with_capacity(line.len() + 1);
        let place = (read.seq, read.at);
        spelling::push(said, place, &read.previous, &read.mac, &mut spelled);
        let as_written = spelled.strip_suffix(b"\n") == Some(line);
        let sound = as_written && bool::from(expected.ct_eq(&read.mac));
        sound.then_some(read)
    }
}

#[cfg(any(test, fuzzing))]
impl Line {
    /// What somebody with the key would write who wanted to say the same as `text`: the line, and
    /// what it is to be read as.
    pub(super) fn rewritten(context: &Context, text: &[u8]) -> Option<(Self, Vec<u8>)> {
        let mut line = spelling::parse(context.journal, text)?;
        let (mut fields, mut out) = (Fields::default(), Vec::new());
        line.mac = Self::write(
            context,
            line.said.saying(),
            (line.seq, line.at),
            &line.previous,
            &mut fields,
            &mut out,
        );
        if let Said::Event(draft) = &mut line.said
            && let Ingest::Journal(origin) = &mut draft.ingest
        {
            origin.mac = line.mac;
        }
        Some((line, out))
    }
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
