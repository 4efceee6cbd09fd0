//! The lines' form, fixed for ever.

use super::fuzzed::context;
use super::line::{Context, FIRST, Header, Line, Said, Saying};
use super::note::Note;
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::model::{Draft, Ingest, Signed};
use crate::canon::{Fields, Metadata};
use crate::ids::{AgentId, EventId, ModelName, SessionId, UserId};
use crate::time::Timestamp;

const AT: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

fn draft() -> Draft {
    Draft {
        id: EventId::parse("01987654-3210-7abc-8def-000000000001").unwrap(),
        kind: Kind::ToolCallCompleted,
        occurred: Timestamp::from_micros(-5),
        occurred_given: true,
        session: Some(SessionId::parse("s-1").unwrap()),
        agent: Some(AgentId::parse("billing-agent").unwrap()),
        user: Some(UserId::parse("u-1").unwrap()),
        parent: Some(EventId::parse("01987654-3210-7abc-8def-000000000002").unwrap()),
        model: Some(ModelName::parse("gpt-4o-mini").unwrap()),
        input: Some([0x33; 32]),
        output: Some([0x44; 32]),
        content: [None; 2],
        decision: Some("allow".to_owned()),
        metadata: Metadata::new(&serde_json::json!({"text": "Grüße \"x\"\n\u{1F600}"})).unwrap(),
        signed: Some(Signed {
            key: [0x55; 16],
            signature: [0x66; 64],
        }),
        ingest: Ingest::Live,
    }
}

fn line(context: &Context, said: Saying<'_>, previous: &Tag) -> (Tag, Vec<u8>) {
    let mut out = Vec::new();
    let mut fields = Fields::default();
    let mac = Line::write(context, said, (7, AT), previous, &mut fields, &mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'));
    (mac, out)
}

fn read(context: &Context, text: &[u8]) -> Option<Line> {
    Line::read(context, text, &mut Fields::default())
}

/// Golden, computed apart from this crate (Python: struct, hmac, hashlib).
#[tokio::test]
async fn golden_lines() {
    let context = context("golden", "acme");
    let (mac, _) = line(&context, Saying::Event(&draft()), &FIRST);
    assert_eq!(hex::encode(mac), GOLDEN_EVENT);
    let note = Note {
        id: draft().id,
        module: "cost".to_owned(),
        payload: Metadata::empty(),
    };
    let (mac, _) = line(&context, Saying::Note(&note), &mac);
    assert_eq!(hex::encode(mac), GOLDEN_NOTE);
}

const GOLDEN_EVENT: &str = "336300ab08f2fcd64f08bbb235ed02c6200eb62cf65afd9ee017c3ef62d3db6c";
const GOLDEN_NOTE: &str = "165ee838a3eddabdf431d86a8adc7d2dc317dc1455d38ea883ca25eefd3f4057";

#[tokio::test]
async fn a_line_is_read_back_as_it_was_written_and_by_nobody_else() {
    let here = context("golden", "acme");
    let (mac, text) = line(&here, Saying::Event(&draft()), &FIRST);
    let back = read(&here, &text).unwrap();
    assert_eq!(
        (back.seq, back.at, back.previous, back.mac),
        (7, AT, FIRST, mac)
    );
    let Said::Event(said) = back.said else {
        panic!("an event")
    };
    assert_eq!(said.ingest.origin().map(|o| (o.seq, o.mac)), Some((7, mac)));
    let as_written = Draft {
        ingest: Ingest::Live,
        ..*said
    };
    assert_eq!(format!("{as_written:?}"), format!("{:?}", draft()));
    for (database, tenant) in [("golden", "other"), ("other", "acme")] {
        assert!(read(&context(database, tenant), &text).is_none());
    }
    let mut header = Vec::new();
    Header::write(&here, 1, 7, &mac, &mut header);
    assert_eq!(Header::read(&here, &header), Some((7, mac)));
    assert!(Header::read(&context("other", "acme"), &header).is_none());
}

#[tokio::test]
async fn every_field_of_a_line_is_covered() {
    let here = context("golden", "acme");
    let (mac, text) = line(&here, Saying::Event(&draft()), &FIRST);
    let whole: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let fields: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields.len(), 19, "{fields:?}");
    for field in &fields {
        let mut without = whole.clone();
        without.as_object_mut().unwrap().remove(field);
        assert!(
            read(&here, without.to_string().as_bytes()).is_none(),
            "{field}"
        );
    }
    // What no MAC would cover cannot be there.
    let mut more = whole.clone();
    more["more"] = true.into();
    assert!(read(&here, more.to_string().as_bytes()).is_none());
    let note = Note {
        id: draft().id,
        module: "cost".to_owned(),
        payload: Metadata::empty(),
    };
    let (_, text) = line(&here, Saying::Note(&note), &mac);
    let mut more: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert!(matches!(read(&here, &text).unwrap().said, Said::Note(back) if back == note));
    more["agent"] = "billing-agent".into();
    assert!(read(&here, more.to_string().as_bytes()).is_none());
}

/// A line has one spelling: no flipped bit of it is taken, be it one that means the same.
#[tokio::test]
async fn no_line_with_a_flipped_bit_is_taken() {
    let here = context("golden", "acme");
    let (mac, event) = line(&here, Saying::Event(&draft()), &FIRST);
    let note = Note {
        id: draft().id,
        module: "cost".to_owned(),
        payload: Metadata::empty(),
    };
    let (_, note) = line(&here, Saying::Note(&note), &mac);
    let mut header = Vec::new();
    Header::write(&here, 1, 7, &mac, &mut header);
    header.pop();
    let flipped = |text: &[u8], bit: usize| {
        let mut text = text.to_vec();
        text[bit / 8] ^= 1 << (bit % 8);
        text
    };
    for text in [&event, &note] {
        assert!(read(&here, text).is_some());
        for bit in 0..text.len() * 8 {
            assert!(read(&here, &flipped(text, bit)).is_none(), "bit {bit}");
        }
    }
    // What a first line says for people is not believed; what it says for us is covered.
    let meant = Header::read(&here, &header).unwrap();
    for bit in 0..header.len() * 8 {
        let read = Header::read(&here, &flipped(&header, bit));
        assert!(read.is_none_or(|read| read == meant), "bit {bit}");
    }
}
