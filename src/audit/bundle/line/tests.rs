//! Lines are read back as they were written, and in no other spelling.

use proptest::prelude::*;

use super::*;
use crate::canon::write_text;

fn entry() -> EntryLine {
    EntryLine {
        agent: Some("billing-agent".to_owned()),
        agent_key: Some(Hex(vec![1; 16])),
        chain: 7,
        decision: Some("allow".to_owned()),
        event: Id([0x11; 16]),
        ingest: "journal".to_owned(),
        input_hash: Some(Hex(vec![2; 32])),
        key: 1,
        kind: "tool.call.completed".to_owned(),
        leaf: 41,
        mac: Hex(vec![3; 32]),
        metadata: "{\"text\":\"a \\\"quoted\\\" \u{7f}\u{2028}\"}".to_owned(),
        model: Some("gpt-4o-mini".to_owned()),
        occurred: Moment(Timestamp::from_micros(1_767_225_600_000_000)),
        origin_journal: Some(Id([5; 16])),
        origin_mac: Some(Hex(vec![6; 32])),
        origin_seq: Some(9),
        output_hash: Some(Hex(vec![4; 32])),
        parent: Some(Id([0x22; 16])),
        recorded: Moment(Timestamp::from_micros(1_767_225_600_000_001)),
        sealed: Some(Hex(vec![8; 32])),
        seq: 42,
        session: Some("s-1".to_owned()),
        signature: Some(Hex(vec![9; 64])),
        user: Some("u-1".to_owned()),
    }
}

fn lines() -> Vec<Line> {
    let b64 = || Base64(vec![1; 32]);
    vec![
        Line::Bundle(Box::new(Header {
            format: FORMAT.to_owned(),
            log: "log".to_owned(),
            root: b64(),
            selection: Selection::all().from(Timestamp::MIN).to(Timestamp::MAX),
            signer: "signer".to_owned(),
            size: 100,
            tenant: "default".to_owned(),
        })),
        Line::Checkpoint(CheckpointLine {
            consistency: vec![b64()],
            note: "a\n\n\u{2014} b c\n".to_owned(),
        }),
        Line::Anchor(AnchorLine {
            anchor: "vault".to_owned(),
            kept_at: Moment(Timestamp::MIN),
            kind: "file".to_owned(),
            receipt: Base64(Vec::new()),
            root: b64(),
            size: 3,
        }),
        Line::Key(KeyLine {
            agent: "a".to_owned(),
            id: Hex(vec![1; 16]),
            not_after: Some(Moment(Timestamp::MAX)),
            public: Hex(vec![1; 32]),
            registered: 1,
            revoked: Some(2),
        }),
        Line::Tile(TileLine {
            hashes: b64(),
            path: "tile/0/000.p/1".to_owned(),
        }),
        Line::Entry(Box::new(entry())),
        Line::Withheld(WithheldLine { count: 1, from: 2 }),
        Line::Former(SealLine {
            note: "note".to_owned(),
        }),
        Line::Seal(SealLine {
            note: "note".to_owned(),
        }),
    ]
}

/// The fields of every line are declared in the order of their names, so that the serialiser's order
/// is the canonical one.
#[test]
fn every_line_is_the_canonical_text_of_its_value_and_read_back() {
    for line in lines() {
        let text = line.write().unwrap();
        let canonical = write_text(&serde_json::to_value(&line).unwrap());
        assert_eq!(text, canonical);
        assert_eq!(Line::read(text.as_bytes()), Some(line), "{text}");
    }
}

#[test]
fn a_line_in_another_spelling_is_none() {
    let text = Line::Entry(Box::new(entry())).write().unwrap();
    for (from, to) in [
        ("\"chain\":7", "\"chain\": 7"),
        ("\"chain\":7", "\"chain\":07"),
        ("\"chain\":7", "\"chain\":7.0"),
        ("\"chain\":7", "\"chain\":\"7\""),
        ("\"chain\":7", "\"chain\":7,\"chain\":7"),
        ("\"chain\":7", "\"chain\":7,\"colour\":1"),
        ("\"chain\":7,", ""),
        ("\"decision\":\"allow\"", "\"decision\":null"),
        ("\"decision\":\"allow\"", "\"decision\":\"\\u0061llow\""),
        ("0303", "030G"),
        ("\"agent_key\":\"0101", "\"agent_key\":\"01 01"),
        ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00.000000Z", "2026-01-01t00:00:00.000000z"),
        ("11111111-1111", "111111111111"),
        ("\\u007f", "\u{7f}"),
        ("{\"entry\":", "{\"entries\":"),
        ("{\"entry\":", " {\"entry\":"),
    ] {
        assert!(text.contains(from), "{from}");
        let other = text.replacen(from, to, 1);
        assert_eq!(Line::read(other.as_bytes()), None, "{other}");
    }
    assert_eq!(Line::read(format!("{text}{text}").as_bytes()), None);
    assert_eq!(Line::read(format!("{text} ").as_bytes()), None);
    let upper = text.replace("0909", "0A0A").replace("0a0a", "0A0A");
    assert_ne!(upper, text);
    assert_eq!(Line::read(upper.as_bytes()), None);
}

/// The leaf that the manual describes, computed apart from this crate (`verify_bundle.py`).
#[test]
fn golden_leaf() {
    let line = entry();
    let stored = line.stored("acme");
    let mut encoded = Fields::default();
    let leaf = leaf_of(&stored, &mut encoded).unwrap();
    assert_eq!(
        hex::encode(leaf.as_bytes()),
        "25d7e5a78f83bf1f0370de3b11b61b5c18da12b2b5f5cdfa01cfd46e47d24434"
    );
    assert_eq!(EntryLine::of(41, &stored), Some(line.clone()));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Line::read(&bytes).is_none());
    }

    /// Whatever is changed in a line, it is another line or none.
    #[test]
    fn any_changed_byte_shows(which in 0..9_usize, at in any::<prop::sample::Index>(), x in 1..=255_u8) {
        let line = lines().swap_remove(which);
        let mut text = line.write().unwrap().into_bytes();
        let at = at.index(text.len());
        text[at] ^= x;
        prop_assert_ne!(Line::read(&text), Some(line));
    }
}
