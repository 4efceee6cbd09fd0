//! What a verification leaves for a later one to go on from: a note, a few facts, and a MAC over both.
//!
//! The note is that of the newest checkpoint under which everything was read and nothing was found.
//! The MAC says that a verification under these keys found so: without it, whoever can write the
//! token's file could move the verifier past what was changed. It does not replace the stored tree,
//! which must be the note's.

use std::fmt::Write as _;

use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::journals::Outage;
use crate::audit::AuditError;
use crate::audit::keys::{AuditKeys, Purpose};
use crate::audit::rotate::{Marker, Side};
use crate::canon::Fields;
use crate::ids::TenantId;
use crate::tlog::{Checkpoint, LogVerifier};

const LABEL: &str = "portcullis/verified/v1";

/// What is gone on from.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) checkpoint: Checkpoint,
    /// The rotations that were seen, which may stand before it.
    pub(super) rotations: Vec<Marker>,
    /// The outages that had no end yet.
    pub(super) open: Vec<Outage>,
}

/// The token of a verification; `None` if what it saw cannot be written down.
pub(super) fn write<'m>(
    (keys, tenant): (&AuditKeys, &TenantId),
    note: &str,
    rotations: impl Iterator<Item = &'m Marker>,
    open: &[Outage],
) -> Option<String> {
    let mut said: Vec<String> = Vec::new();
    for marker in rotations {
        let text = marker.metadata(Side::New).ok()?.as_str().to_owned();
        if !said.contains(&text) {
            said.push(text);
        }
    }
    let open: Vec<Value> = open
        .iter()
        .map(|outage| {
            let journal = outage.journal.map(|id| id.to_string());
            json!([
                outage.id,
                journal,
                outage.line,
                outage.place.0,
                outage.place.1
            ])
        })
        .collect();
    let facts = json!({ "rotations": said, "outages": open }).to_string();
    let key_id = keys.key_id();
    let mac = mac((keys, tenant), key_id, &facts, note)?;
    let mut token = format!("{LABEL}\n{key_id} ");
    // Writing to a string cannot fail.
    let _ = write!(token, "{}\n{facts}\n\n{note}", hex::encode(mac));
    Some(token)
}

/// Reads a token.
pub(super) fn read(
    (keys, tenant): (&AuditKeys, &TenantId),
    log: &LogVerifier,
    token: &str,
) -> Result<Point, AuditError> {
    let (facts, note) = open((keys, tenant), token).ok_or(AuditError::Resume)?;
    let checkpoint = Checkpoint::open(note, log)?;
    let (rotations, open) = believe(facts).ok_or(AuditError::Resume)?;
    Ok(Point {
        checkpoint,
        rotations,
        open,
    })
}

/// The facts and the note, if the MAC is right.
fn open<'t>(keys: (&AuditKeys, &TenantId), token: &'t str) -> Option<(&'t str, &'t str)> {
    let rest = token.strip_prefix(LABEL)?.strip_prefix('\n')?;
    let (head, note) = rest.split_once("\n\n")?;
    let (by, facts) = head.split_once('\n')?;
    let (key_id, tag) = by.split_once(' ')?;
    let key_id: u32 = key_id.parse().ok()?;
    let expected = mac(keys, key_id, facts, note)?;
    let same = hex::encode(expected).as_bytes().ct_eq(tag.as_bytes());
    let sound = bool::from(same) && by == format!("{key_id} {tag}");
    sound.then_some((facts, note))
}

fn mac(
    (keys, tenant): (&AuditKeys, &TenantId),
    key_id: u32,
    facts: &str,
    note: &str,
) -> Option<[u8; 32]> {
    let key = keys.derive_under(key_id, tenant, Purpose::Verified)?;
    let mut fields = Fields::labelled(LABEL);
    fields
        .present(tenant.as_str().as_bytes())
        .present(&key_id.to_be_bytes())
        .present(facts.as_bytes())
        .present(note.as_bytes());
    Some(key.tag(&[fields.as_bytes()]))
}

fn believe(facts: &str) -> Option<(Vec<Marker>, Vec<Outage>)> {
    let facts: Value = serde_json::from_str(facts).ok()?;
    let rotations = facts.get("rotations")?.as_array()?.iter();
    let rotations = rotations.map(|text| Some(Marker::parse(text.as_str()?)?.1));
    let open = facts.get("outages")?.as_array()?.iter().map(|outage| {
        let [id, journal, line, chain_no, seq] = outage.as_array()?.as_slice() else {
            return None;
        };
        let journal = match journal.as_str() {
            Some(text) => Some(Uuid::parse_str(text).ok()?),
            None => None,
        };
        Some(Outage {
            id: id.as_str()?.to_owned(),
            journal,
            line: line.as_u64()?,
            place: (u32::try_from(chain_no.as_u64()?).ok()?, seq.as_u64()?),
        })
    });
    Some((
        rotations.collect::<Option<_>>()?,
        open.collect::<Option<_>>()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::tlog::{LogKey, TreeHash};

    #[test]
    fn a_token_is_read_back_and_no_other_is() {
        let keys = AuditKeys::single(Secret::generate().unwrap());
        let (tenant, other) = (TenantId::single(), TenantId::parse("acme").unwrap());
        let log = LogKey::new("audit.example/x", &Secret::generate().unwrap()).unwrap();
        let checkpoint = Checkpoint::new("audit.example/x", 3, TreeHash::of_leaf(b"")).unwrap();
        let note = log.sign(&checkpoint).unwrap().to_string();
        let open = [Outage {
            id: "o-1".to_owned(),
            journal: Some(Uuid::from_bytes([7; 16])),
            line: 4,
            place: (2, 9),
        }];
        let token = write((&keys, &tenant), &note, std::iter::empty(), &open).unwrap();
        let read = |keys: &AuditKeys, tenant: &TenantId, token: &str| {
            read((keys, tenant), log.verifier(), token)
        };
        let point = read(&keys, &tenant, &token).unwrap();
        assert_eq!(point.checkpoint, checkpoint);
        assert_eq!(point.open, open);
        let stranger = AuditKeys::single(Secret::generate().unwrap());
        assert!(read(&stranger, &tenant, &token).is_err());
        assert!(read(&keys, &other, &token).is_err());
        // Every bit of it counts.
        for at in 0..token.len() {
            for bit in 0..8 {
                let mut bytes = token.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                if let Ok(text) = String::from_utf8(bytes) {
                    assert!(read(&keys, &tenant, &text).is_err(), "byte {at} bit {bit}");
                }
            }
        }
    }
}
