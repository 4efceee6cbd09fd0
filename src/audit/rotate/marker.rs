//! The two entries of a rotation, as they are written and read: `chain.key_rotated`, twice.
//!
//! The first is the last under the old key, the second the first under the new one. Both say the
//! same, so that both keys attest it: whoever has only the old one cannot make the second.

use serde_json::{Map, Value, json};

use super::Rotation;
use crate::audit::keys::{AuditKeys, Fingerprint};
use crate::canon::{JsonError, Metadata};
use crate::ids::TenantId;
use crate::time::Timestamp;

pub(in crate::audit) const KIND: &str = "chain.key_rotated";
/// The most stopped chains that are listed. One that is not shows in a verification as left behind.
const MOST_STOPPED: usize = 1_000;

/// Which of the two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) enum Side {
    Old,
    New,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

/// What both entries say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Marker {
    pub(in crate::audit) from: u32,
    pub(in crate::audit) to: u32,
    /// The fingerprints of both keys, under one salt.
    pub(in crate::audit) from_print: Fingerprint,
    pub(in crate::audit) to_print: Fingerprint,
    pub(in crate::audit) reason: Rotation,
    /// Chains that were stopped before, and the place at which each was: they stay under their key.
    pub(in crate::audit) stopped: Vec<(u32, u64)>,
}

impl Marker {
    /// The metadata of one of the two entries.
    pub(in crate::audit) fn metadata(&self, side: Side) -> Result<Metadata, JsonError> {
        let stopped = self.stopped.iter().take(MOST_STOPPED);
        let stopped: Vec<u64> = stopped
            .flat_map(|(chain_no, next)| [u64::from(*chain_no), *next])
            .collect();
        let Value::Object(mut map) = json!({
            "half": side.as_str(),
            "from": self.from,
            "to": self.to,
            "salt": hex::encode(self.to_print.salt),
            "from_fingerprint": hex::encode(self.from_print.tag),
            "to_fingerprint": hex::encode(self.to_print.tag),
            "reason": self.reason.as_str(),
            "stopped": stopped,
        }) else {
            return Ok(Metadata::empty());
        };
        if let Rotation::Compromise { since: Some(since) } = self.reason {
            map.insert("since".to_owned(), Value::String(since.to_string()));
        }
        Metadata::from_map(map)
    }

    /// Reads what one of the two entries says; `None` if it is no such entry.
    pub(in crate::audit) fn parse(metadata: &str) -> Option<(Side, Self)> {
        let Ok(Value::Object(map)) = serde_json::from_str(metadata) else {
            return None;
        };
        let side = match text(&map, "half")? {
            "old" => Side::Old,
            "new" => Side::New,
            _ => return None,
        };
        let salt = bytes(&map, "salt")?;
        let print = |name| {
            Some(Fingerprint {
                salt,
                tag: bytes(&map, name)?,
            })
        };
        let reason = match text(&map, "reason")? {
            "planned" => Rotation::Planned,
            "compromise" => Rotation::Compromise {
                since: match map.get("since") {
                    None => None,
                    Some(since) => Some(Timestamp::parse(since.as_str()?).ok()?),
                },
            },
            _ => return None,
        };
        let stopped = map.get("stopped")?.as_array()?.chunks_exact(2);
        let stopped = stopped.map(|pair| {
            let mut pair = pair.iter().map(Value::as_u64);
            Some((u32::try_from(pair.next()??).ok()?, pair.next()??))
        });
        let marker = Self {
            from: number(&map, "from")?,
            to: number(&map, "to")?,
            from_print: print("from_fingerprint")?,
            to_print: print("to_fingerprint")?,
            reason,
            stopped: stopped.collect::<Option<_>>()?,
        };
        (marker.to > marker.from).then_some((side, marker))
    }

    /// Whether the fingerprints are those of the keys that we have. A key that we do not have
    /// cannot be compared; what is under it is not proved either.
    pub(in crate::audit) fn fits(&self, keys: &AuditKeys, tenant: &TenantId) -> bool {
        let fits = |key_id, print: &Fingerprint| {
            keys.fingerprint(key_id, tenant, print.salt)
                .is_none_or(|ours| ours.is(print))
        };
        fits(self.from, &self.from_print) && fits(self.to, &self.to_print)
    }
}

fn text<'m>(map: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
    map.get(name)?.as_str()
}

fn number(map: &Map<String, Value>, name: &str) -> Option<u32> {
    u32::try_from(map.get(name)?.as_u64()?).ok()
}

fn bytes(map: &Map<String, Value>, name: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text(map, name)?, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let print = |tag| Fingerprint {
            salt: [1; 16],
            tag: [tag; 16],
        };
        for reason in [
            Rotation::Planned,
            Rotation::Compromise { since: None },
            Rotation::Compromise {
                since: Some(Timestamp::from_micros(1_767_225_600_000_001)),
            },
        ] {
            let marker = Marker {
                from: 1,
                to: 2,
                from_print: print(3),
                to_print: print(4),
                reason,
                stopped: vec![(3, 17), (9, 1)],
            };
            for side in [Side::Old, Side::New] {
                let text = marker.metadata(side).unwrap();
                let read = Marker::parse(text.as_str());
                assert_eq!(read, Some((side, marker.clone())), "{text}");
                for part in ["half", "from", "to", "salt", "from_fingerprint", "stopped"] {
                    let broken = text.as_str().replace(&format!("\"{part}\""), "\"x\"");
                    assert_eq!(Marker::parse(&broken), None, "{part}");
                }
            }
        }
        assert_eq!(Marker::parse("{}"), None);
        assert_eq!(Marker::parse("no"), None);
    }
}
