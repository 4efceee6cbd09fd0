//! The JSON text of a journal's line: what people see. The MAC covers the fields, in `line`.

use super::line::{Line, Said, Saying};
use super::note::Note;
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::model::{Draft, Ingest, Origin, Signed};
use crate::canon::{Flat, FlatWriter, Metadata};
use crate::ids::{AgentId, EventId, JournalId, ModelName, SessionId, UserId};
use crate::time::Timestamp;

/// Adds the line to `out`, in the one spelling that is read back.
pub(super) fn push(
    said: Saying<'_>,
    (seq, at): (u64, Timestamp),
    previous: &Tag,
    mac: &Tag,
    out: &mut Vec<u8>,
) {
    let mut line = FlatWriter::new(out);
    line.number("seq", seq).number("at", at.as_micros());
    match said {
        Saying::Event(draft) => event(draft, &mut line),
        Saying::Note(note) => {
            line.display("id", &note.id)
                .text("module", &note.module)
                .text("metadata", note.payload.as_str());
        }
    }
    line.hex("prev", previous).hex("mac", mac).end_line();
}

fn event(draft: &Draft, line: &mut FlatWriter<'_>) {
    line.display("id", &draft.id)
        .text("kind", draft.kind.as_str())
        .number("occurred", draft.occurred.as_micros())
        // Whether the caller said when.
        .if_true("given", draft.occurred_given)
        .maybe("session", draft.session.as_ref().map(AsRef::as_ref))
        .maybe("agent", draft.agent.as_ref().map(AsRef::as_ref))
        .maybe("user", draft.user.as_ref().map(AsRef::as_ref));
    if let Some(parent) = &draft.parent {
        line.display("parent", parent);
    }
    line.maybe("model", draft.model.as_ref().map(AsRef::as_ref));
    for (field, hash) in [("input", &draft.input), ("output", &draft.output)] {
        if let Some(hash) = hash {
            line.hex(field, hash);
        }
    }
    line.maybe("decision", draft.decision.as_deref());
    if let Some(signed) = &draft.signed {
        line.hex("signer", &signed.key)
            .hex("signature", &signed.signature);
    }
    // The canonical text, as a string: these very bytes are covered.
    line.text("metadata", draft.metadata.as_str());
}

/// What the text says, under the MAC that it gives, which is not checked here.
pub(super) fn parse(journal: JournalId, text: &[u8]) -> Option<Line> {
    let mut flat = Flat::read(text)?;
    let (seq, at) = (flat.number("seq")?, flat.number("at")?);
    let (previous, mac) = (bytes(&flat.text("prev")?)?, bytes(&flat.text("mac")?)?);
    let said = if flat.has("module") {
        Said::Note(Note {
            id: event_id(&flat.text("id")?)?,
            module: flat.text("module")?.into_owned(),
            payload: Metadata::stored(flat.text("metadata")?.into_owned()),
        })
    } else {
        let journal = *journal.as_bytes();
        let origin = Origin { journal, seq, mac };
        Said::Event(Box::new(draft(&mut flat, origin)?))
    };
    flat.is_empty().then_some(Line {
        seq,
        at: Timestamp::from_micros(at),
        previous,
        mac,
        said,
    })
}

fn draft(flat: &mut Flat<'_>, origin: Origin) -> Option<Draft> {
    Some(Draft {
        id: event_id(&flat.text("id")?)?,
        kind: Kind::parse(&flat.text("kind")?)?,
        occurred: Timestamp::from_micros(flat.number("occurred")?),
        occurred_given: flat.has("given") && flat.flag("given")?,
        session: there(flat, "session", |t| SessionId::parse(t).ok())?,
        agent: there(flat, "agent", |t| AgentId::parse(t).ok())?,
        user: there(flat, "user", |t| UserId::parse(t).ok())?,
        parent: there(flat, "parent", event_id)?,
        model: there(flat, "model", |t| ModelName::parse(t).ok())?,
        input: there(flat, "input", bytes)?,
        output: there(flat, "output", bytes)?,
        // Not kept: an event that is recorded again is compared by the hashes that were made.
        content: [None; 2],
        decision: there(flat, "decision", |t| Some(t.to_owned()))?,
        signed: match (
            there(flat, "signer", bytes)?,
            there(flat, "signature", bytes)?,
        ) {
            (None, None) => None,
            (Some(key), Some(signature)) => Some(Signed { key, signature }),
            _ => return None,
        },
        metadata: Metadata::stored(flat.text("metadata")?.into_owned()),
        ingest: Ingest::Journal(origin),
    })
}

/// `Some(None)` if there is no such field, `None` if there is one that cannot be read.
#[expect(
    clippy::option_option,
    reason = "absent, or there and unreadable: two different things"
)]
fn there<U>(
    flat: &mut Flat<'_>,
    field: &str,
    read: impl Fn(&str) -> Option<U>,
) -> Option<Option<U>> {
    if !flat.has(field) {
        return Some(None);
    }
    read(&flat.text(field)?).map(Some)
}

/// An event's id. Those that we make of what an entry says are no `UUIDv7`.
fn event_id(text: &str) -> Option<EventId> {
    EventId::parse(text).ok()
}

pub(super) fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
