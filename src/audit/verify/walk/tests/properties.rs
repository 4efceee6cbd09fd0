//! What holds of every chain and every change.

use proptest::prelude::*;

use super::*;

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let text = || proptest::option::of("[a-z]{1,6}");
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 1..33));
    let line = (
        [text(), text(), text(), text(), text()],
        [
            bytes(),
            bytes(),
            bytes(),
            bytes(),
            bytes(),
            bytes(),
            bytes(),
        ],
        proptest::option::of(any::<u64>()),
    );
    proptest::collection::vec(line, 1..12).prop_map(|all| {
        let mut lines: Vec<Line> = (1..)
            .zip(all)
            .map(|(seq, (texts, bytes, origin))| {
                let mut line = Line::new(seq);
                line.maybe_texts = texts;
                line.maybe_bytes = bytes;
                line.origin_seq = origin;
                line
            })
            .collect();
        sign(&mut lines);
        lines
    })
}

/// Changes one byte of a text, of the ASCII that ours are in.
fn touch_text(text: &mut String, at: usize) -> bool {
    let Some(last) = text.len().checked_sub(1) else {
        return false;
    };
    let at = at % (last + 1);
    let byte = if text.as_bytes()[at] == b'~' {
        "}"
    } else {
        "~"
    };
    text.replace_range(at..=at, byte);
    true
}

fn touch_bytes(bytes: &mut [u8], at: usize, bit: u8) -> bool {
    let len = bytes.len();
    if len == 0 {
        return false;
    }
    bytes[at % len] ^= bit;
    true
}

/// Changes one byte of the field `field` of `line`; says whether there was one.
fn touch(line: &mut Line, field: usize, at: usize, bit: u8) -> bool {
    let flip = |value: u64| {
        let mut bytes = value.to_be_bytes();
        bytes[at % 8] ^= bit;
        u64::from_be_bytes(bytes)
    };
    match field {
        0 => touch_text(&mut line.tenant, at),
        1 => {
            line.chain_no ^= u32::from(bit);
            true
        }
        2 | 3 => {
            let time = &mut line.times[field - 2];
            *time = flip(time.cast_unsigned()).cast_signed();
            true
        }
        4..=6 => touch_text(&mut line.texts[field - 4], at),
        7..=11 => match &mut line.maybe_texts[field - 7] {
            Some(text) if bit > 8 => touch_text(text, at),
            slot => {
                *slot = if slot.is_some() {
                    None
                } else {
                    Some(String::new())
                };
                true
            }
        },
        12 => touch_bytes(&mut line.event_id, at, bit),
        13..=19 => match &mut line.maybe_bytes[field - 13] {
            Some(bytes) if bit > 8 => touch_bytes(bytes, at, bit),
            slot => {
                *slot = if slot.is_some() {
                    None
                } else {
                    Some(Vec::new())
                };
                true
            }
        },
        20 => {
            line.origin_seq = match line.origin_seq {
                Some(seq) if bit > 8 => Some(flip(seq)),
                Some(_) => None,
                None => Some(0),
            };
            true
        }
        _ => touch_bytes(&mut line.mac, at, bit),
    }
}

proptest! {
    #[test]
    fn a_clean_chain_has_no_findings_whatever_is_in_it(lines in lines()) {
        prop_assert_eq!(found(&lines, &lines), vec![]);
    }

    #[test]
    fn any_changed_byte_is_found_where_it_is(lines in lines(), line in any::<usize>(), field in 0_usize..22, at in any::<usize>(), bit in 0_u32..8) {
        let line = line % lines.len();
        let mut now = lines.clone();
        prop_assume!(touch(&mut now[line], field, at, 1 << bit));
        prop_assert_eq!(found(&lines, &now), one(C::BadMac, lines[line].seq));
    }

    #[test]
    fn any_lost_run_is_found(lines in lines(), from in any::<usize>(), count in 1_usize..5) {
        let from = from % lines.len();
        let to = (from + count).min(lines.len());
        let mut now = lines.clone();
        now.drain(from..to);
        let class = if to == lines.len() { C::Truncated } else { C::Gap };
        prop_assert_eq!(found(&lines, &now), vec![(class, from as u64 + 1, to as u64)]);
    }

    /// Whatever is done to a chain by who has no key, it is never clean.
    #[test]
    fn no_shuffle_is_clean(lines in lines(), picks in proptest::collection::vec((any::<usize>(), 1_u64..14), 0..14)) {
        let mut now: Vec<Line> = picks
            .iter()
            .map(|(pick, seq)| Line { seq: *seq, ..lines[pick % lines.len()].clone() })
            .collect();
        now.sort_by_key(|line| line.seq);
        prop_assert_eq!(found(&lines, &now).is_empty(), now == lines);
    }

    #[test]
    fn the_wrong_key_proves_nothing(lines in lines()) {
        let other = Keyring::new(
            &AuditKeys::single(Secret::generate().unwrap()),
            &TenantId::single(),
        );
        let part = Part::whole(7, Some(head(&lines)), lines.len() as u64);
        let mut walk = Walk::new(&other, part);
        let mut findings = Findings::default();
        for line in &lines {
            walk.entry(&line.stored(), &mut findings);
        }
        let report = walk.finish(&mut findings);
        prop_assert_eq!(report.proved, 0);
        prop_assert_eq!(findings.total(), lines.len() as u64);
    }
}
