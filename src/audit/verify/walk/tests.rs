//! The walk over chains that are made here, by the encoder that the writer uses.

mod properties;

use super::super::assurance::{Assurance, Marks};
use super::super::finding::{FindingClass as C, Findings};
use super::super::report::{Verdict, Verification};
use super::*;
use crate::audit::keys::{AuditKeys, Purpose};
use crate::audit::row::Row;
use crate::audit::verify::strange::GENESIS_KIND;
use crate::ids::TenantId;
use crate::secret::Secret;

const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";

fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

fn keyring() -> Keyring {
    Keyring::new(&keys(), &TenantId::single())
}

/// An entry that can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    tenant: String,
    chain_no: u32,
    seq: u64,
    key_id: u32,
    times: [i64; 2],
    /// kind, metadata, ingest
    texts: [String; 3],
    /// session, agent, user, model, decision
    maybe_texts: [Option<String>; 5],
    event_id: Vec<u8>,
    /// agent key, parent, input, output, sealed, origin journal, origin mac
    maybe_bytes: [Option<Vec<u8>>; 7],
    origin_seq: Option<u64>,
    mac: Tag,
}

impl Line {
    fn new(seq: u64) -> Self {
        let kind = if seq == 1 { GENESIS_KIND } else { "app.test" };
        Self {
            tenant: "default".into(),
            chain_no: 7,
            seq,
            key_id: 1,
            times: [5, 1_000 + i64::try_from(seq / 2).unwrap()],
            texts: [kind.into(), format!(r#"{{"n":{seq}}}"#), "live".into()],
            maybe_texts: [const { None }; 5],
            event_id: vec![u8::try_from(seq % 256).unwrap(); 16],
            maybe_bytes: [const { None }; 7],
            origin_seq: None,
            mac: GENESIS,
        }
    }

    fn stored(&self) -> Stored<'_> {
        let [kind, metadata, ingest] = self.texts.each_ref().map(String::as_str);
        let [session, agent, user, model, decision] =
            self.maybe_texts.each_ref().map(Option::as_deref);
        let [
            agent_key,
            parent,
            input_hash,
            output_hash,
            sealed,
            origin_journal,
            origin_mac,
        ] = self.maybe_bytes.each_ref().map(Option::as_deref);
        let row = Row {
            tenant: &self.tenant,
            chain_no: self.chain_no,
            seq: self.seq,
            key_id: self.key_id,
            kind,
            occurred_us: self.times[0],
            recorded_us: self.times[1],
            event_id: &self.event_id,
            session,
            agent,
            user,
            agent_key,
            parent,
            model,
            input_hash,
            output_hash,
            decision,
            metadata,
            sealed,
            ingest,
            origin_journal,
            origin_seq: self.origin_seq,
            origin_mac,
        };
        Stored {
            row,
            signature: None,
            mac: Some(&self.mac),
        }
    }

    fn sign(&mut self, previous: &Tag) {
        let mut fields = Fields::default();
        self.stored().row.encode(&mut fields);
        let key = keys().derive(&TenantId::single(), Purpose::Chain);
        self.mac = row::mac(&key, &fields, previous);
    }
}

fn sign(lines: &mut [Line]) {
    let mut previous = GENESIS;
    for line in lines {
        line.sign(&previous);
        previous = line.mac;
    }
}

fn chain(length: u64) -> Vec<Line> {
    let mut lines: Vec<Line> = (1..=length).map(Line::new).collect();
    sign(&mut lines);
    lines
}

fn head(lines: &[Line]) -> Head {
    let last = lines.last().unwrap();
    Head {
        next_seq: last.seq + 1,
        mac: Some(last.mac),
        key_id: Some(1),
        recorded_us: last.times[1],
    }
}

fn walk(part: Part, lines: &[Line]) -> (Vec<(C, u64, u64)>, ChainReport) {
    let keyring = keyring();
    let mut walk = Walk::new(&keyring, part);
    let mut findings = Findings::default();
    for line in lines {
        if line.seq >= part.lead_in() && line.seq <= part.to {
            walk.entry(&line.stored(), &mut findings);
        }
    }
    let report = walk.finish(&mut findings);
    let found: Vec<_> = findings
        .kept()
        .iter()
        .map(|f| (f.class, f.seq, f.through))
        .collect();
    assert_eq!(u64::try_from(found.len()), Ok(findings.total()));
    (found, report)
}

/// What is found in `now`, of which the head says what `before` was.
fn found(before: &[Line], now: &[Line]) -> Vec<(C, u64, u64)> {
    let max_seq = now.last().map_or(0, |line| line.seq);
    let mut found = walk(Part::whole(7, Some(head(before)), max_seq), now).0;
    found.sort();
    found
}

/// How many entries are said to have nothing behind them.
fn unproved(report: &ChainReport) -> u64 {
    let mut report = report.clone();
    report.rank(Marks::default());
    report.count(Assurance::Unproved)
}

fn one(class: C, seq: u64) -> Vec<(C, u64, u64)> {
    vec![(class, seq, seq)]
}

#[test]
fn a_clean_chain_has_no_finding_and_all_is_proved() {
    let lines = chain(20);
    let (found, report) = walk(Part::whole(7, Some(head(&lines)), 20), &lines);
    assert_eq!(found, []);
    assert_eq!((report.entries, report.proved), (20, 20));
    assert_eq!(report.keys, [(1, 20)]);
    assert_eq!(unproved(&report), 0);
}

#[test]
fn changed_content_and_changed_macs_are_one_finding_each() {
    let lines = chain(9);
    for at in 0..9 {
        let seq = lines[at].seq;
        let mut now = lines.clone();
        now[at].texts[1] = "{}".into();
        assert_eq!(found(&lines, &now), one(C::BadMac, seq), "content {seq}");
        now = lines.clone();
        now[at].mac[31] ^= 1;
        assert_eq!(found(&lines, &now), one(C::BadMac, seq), "mac {seq}");
    }
    // All contents, all MACs: each has its own finding, and no other class.
    let mut now = lines.clone();
    for line in &mut now {
        line.texts[1] = "{}".into();
    }
    let each: Vec<_> = (1..=9).map(|seq| (C::BadMac, seq, seq)).collect();
    assert_eq!(found(&lines, &now), each);
    now = lines.clone();
    for line in &mut now {
        line.mac[0] ^= 1;
    }
    assert_eq!(found(&lines, &now), each);
    // Two in a row, of which one lied with its content and one with its MAC.
    now = lines.clone();
    now[3].texts[1] = "{}".into();
    now[4].mac[0] ^= 1;
    assert_eq!(found(&lines, &now), [(C::BadMac, 4, 4), (C::BadMac, 5, 5)]);
}

#[test]
fn content_and_mac_replaced_together_take_the_next_entry_along() {
    let lines = chain(9);
    let mut now = lines.clone();
    now[3].texts[1] = "{}".into();
    now[3].mac = [9; 32];
    assert_eq!(found(&lines, &now), [(C::BadMac, 4, 4), (C::BadMac, 5, 5)]);
}

#[test]
fn deleted_entries_are_gaps_with_their_extent() {
    let lines = chain(9);
    for (range, class) in [
        (0..1, C::Gap),
        (0..4, C::Gap),
        (3..4, C::Gap),
        (3..7, C::Gap),
        (8..9, C::Truncated),
        (5..9, C::Truncated),
        (0..9, C::Truncated),
    ] {
        let mut now = lines.clone();
        now.drain(range.clone());
        let gone = (class, range.start as u64 + 1, range.end as u64);
        assert_eq!(found(&lines, &now), [gone], "{range:?}");
        // The one after is not accused, but not called proved either.
        let (_, report) = walk(Part::whole(7, Some(head(&lines)), 9), &now);
        let after = u64::from(class == C::Gap);
        assert_eq!(report.entries - report.proved, after);
        assert_eq!(unproved(&report), after);
    }
}

#[test]
fn swapped_entries_are_two_findings_however_far_apart() {
    let lines = chain(12);
    for (a, b) in [(3, 4), (3, 5), (2, 9), (0, 1), (10, 11), (0, 11)] {
        let mut now = lines.clone();
        now.swap(a, b);
        let (seq_a, seq_b) = (lines[a].seq, lines[b].seq);
        (now[a].seq, now[b].seq) = (seq_a, seq_b);
        let expected = [(C::BadMac, seq_a, seq_a), (C::BadMac, seq_b, seq_b)];
        assert_eq!(found(&lines, &now), expected, "{a} {b}");
    }
}

#[test]
fn a_moved_entry_is_a_gap_where_it_was_and_a_bad_mac_where_it_is() {
    let lines = chain(9);
    let mut now = lines.clone();
    let mut moved = now.remove(4);
    moved.seq = 10;
    now.push(moved);
    assert_eq!(found(&lines, &now), [(C::BadMac, 10, 10), (C::Gap, 5, 5)]);
}

#[test]
fn inserted_and_duplicated_entries_are_bad_macs() {
    let lines = chain(9);
    let mut now = lines.clone();
    let mut copy = lines[4].clone();
    copy.seq = 10;
    copy.event_id = vec![0xee; 16];
    now.push(copy.clone());
    assert_eq!(found(&lines, &now), one(C::BadMac, 10));
    // Far past the head nothing is missing, since nothing was there.
    now[9].seq = 1_000;
    assert_eq!(found(&lines, &now), one(C::BadMac, 1_000));
}

#[test]
fn two_entries_at_one_place_are_a_fork_whichever_comes_first() {
    let lines = chain(9);
    for first in [true, false] {
        let mut now = lines.clone();
        let mut other = lines[4].clone();
        other.texts[1] = "{}".into();
        now.insert(if first { 4 } else { 5 }, other);
        assert_eq!(found(&lines, &now), [(C::BadMac, 5, 5), (C::Fork, 5, 5)]);
        now[4] = lines[4].clone();
        now[5] = lines[4].clone();
        assert_eq!(found(&lines, &now), one(C::Fork, 5));
    }
    // A branch by who has the key.
    let mut other = lines[4].clone();
    other.texts[1] = "{}".into();
    other.sign(&lines[3].mac);
    let mut now = lines.clone();
    now.insert(4, other);
    assert_eq!(found(&lines, &now), one(C::Fork, 5));
}

#[test]
fn heads_that_do_not_fit() {
    let lines = chain(9);
    let of = |head: Option<Head>| {
        let mut found = walk(Part::whole(7, head, 9), &lines).0;
        found.sort();
        found
    };
    let good = head(&lines);
    assert_eq!(of(None), one(C::Truncated, 10));
    let back = Head {
        next_seq: 6,
        mac: Some(lines[4].mac),
        ..good
    };
    assert_eq!(of(Some(back)), [(C::Rollback, 6, 9)]);
    assert_eq!(
        of(Some(Head {
            next_seq: 1,
            ..good
        })),
        [(C::Rollback, 1, 9)]
    );
    assert_eq!(
        of(Some(Head {
            next_seq: 11,
            ..good
        })),
        one(C::Truncated, 10)
    );
    assert_eq!(
        of(Some(Head {
            next_seq: u64::MAX,
            ..good
        })),
        [(C::Truncated, 10, u64::MAX - 1)]
    );
    assert_eq!(
        of(Some(Head {
            mac: Some([1; 32]),
            ..good
        })),
        one(C::Fork, 9)
    );
    assert_eq!(of(Some(Head { mac: None, ..good })), one(C::Fork, 9));
    assert_eq!(
        of(Some(Head {
            key_id: Some(2),
            ..good
        })),
        one(C::UnknownKey, 9)
    );
    assert_eq!(
        of(Some(Head {
            key_id: None,
            ..good
        })),
        one(C::UnknownKey, 9)
    );
    assert_eq!(
        of(Some(Head {
            recorded_us: 0,
            ..good
        })),
        one(C::Time, 9)
    );
}

#[test]
fn an_unknown_key_is_one_finding() {
    let lines = chain(9);
    for at in 0..9 {
        let mut now = lines.clone();
        now[at].key_id = 2;
        assert_eq!(found(&lines, &now), one(C::UnknownKey, lines[at].seq));
    }
}

#[test]
fn what_we_do_not_write_is_found_though_its_mac_is_good() {
    let strange: [fn(&mut Line); 5] = [
        |line| line.texts[0] = "gate.forged".into(),
        |line| line.texts[0] = "app.X".into(),
        |line| line.texts[0] = GENESIS_KIND.into(),
        |line| line.texts[1] = r#"{"a": 1}"#.into(),
        |line| line.texts[2] = "otherwise".into(),
    ];
    for change in strange {
        let mut lines = chain(9);
        change(&mut lines[4]);
        sign(&mut lines);
        assert_eq!(found(&lines, &lines), one(C::Encoding, 5));
    }
    let mut lines = chain(9);
    lines[0].texts[0] = "app.first".into();
    sign(&mut lines);
    assert_eq!(found(&lines, &lines), one(C::Encoding, 1));
    let mut lines = chain(9);
    lines[4].times[1] = 1;
    sign(&mut lines);
    assert_eq!(found(&lines, &lines), one(C::Time, 5));
}

#[test]
fn a_range_is_judged_by_itself_alone() {
    let lines = chain(20);
    let part = Part {
        from: 8,
        to: 14,
        ..Part::whole(7, Some(head(&lines)), 20)
    };
    let (clean, report) = walk(part, &lines);
    assert_eq!(clean, []);
    assert_eq!((report.entries, report.proved), (7, 7));
    // Changes before and after it are not its business, not even of the MAC just before it.
    for at in [0, 4, 5, 6, 14, 19] {
        let mut now = lines.clone();
        now[at].texts[1] = "{}".into();
        assert_eq!(walk(part, &now).0, [], "content of {}", at + 1);
        now = lines.clone();
        now[at].mac[0] ^= 1;
        assert_eq!(walk(part, &now).0, [], "MAC of {}", at + 1);
    }
    for at in 7..14 {
        let mut now = lines.clone();
        now[at].texts[1] = "{}".into();
        assert_eq!(walk(part, &now).0, one(C::BadMac, at as u64 + 1));
        let mut now = lines.clone();
        now.remove(at);
        assert_eq!(walk(part, &now).0, one(C::Gap, at as u64 + 1));
    }
    // Without its predecessor the first entry is not proved, so the range is not clean.
    let mut now = lines.clone();
    now.remove(6);
    assert_eq!(walk(part, &now).0, one(C::Gap, 7));
}

#[test]
fn no_entries_are_never_clean() {
    let part = Part::whole(7, None, 0);
    let nothing = Verification::new(
        Findings::default(),
        vec![ChainReport::new(7, 1, 0, None)],
        Vec::new(),
    );
    assert_eq!(part.to, 0);
    assert_eq!(nothing.verdict(), Verdict::Nothing);
    assert!(!nothing.is_clean());
    assert!(
        nothing.to_string().starts_with("nothing verified"),
        "{nothing}"
    );
}
