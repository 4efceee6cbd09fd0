//! Where a page ended.

use std::fmt;
use std::str::FromStr;

use crate::audit::keys::sha256;
use crate::audit::{AuditError, Entry};
use crate::time::Timestamp;

/// The first byte: the version of the form.
const VERSION: u8 = 1;
const PLACE: usize = 21;
const CHECK: usize = 4;

/// Where a page ended: the next one begins after it.
///
/// Opaque text, to be handed out and taken back. What is not a cursor, or was mistyped, is refused;
/// it is no secret and no proof, and holds nothing but a place.
///
/// ```
/// use portcullis::audit::Cursor;
///
/// assert!("not one of ours".parse::<Cursor>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    recorded_at: Timestamp,
    chain_no: u32,
    seq: u64,
}

impl Cursor {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            recorded_at: entry.recorded_at,
            chain_no: entry.chain_no,
            seq: entry.seq,
        }
    }

    pub(super) const fn place(&self) -> (Timestamp, i32, i64) {
        (
            self.recorded_at,
            self.chain_no.cast_signed(),
            self.seq.cast_signed(),
        )
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.recorded_at.as_micros().to_be_bytes());
        bytes.extend_from_slice(&self.chain_no.to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (place, check) = bytes.split_at_checked(PLACE)?;
        let (version, rest) = place.split_first()?;
        let (recorded, rest) = rest.split_first_chunk::<8>()?;
        let (chain_no, seq) = rest.split_first_chunk::<4>()?;
        let recorded = i64::from_be_bytes(*recorded);
        let cursor = Self {
            recorded_at: Timestamp::from_micros(recorded),
            chain_no: u32::from_be_bytes(*chain_no),
            seq: u64::from_be_bytes(seq.try_into().ok()?),
        };
        let whole = sha256(place).starts_with(check) && check.len() == CHECK;
        (*version == VERSION && whole && cursor.recorded_at.as_micros() == recorded)
            .then_some(cursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.bytes();
        let check = sha256(&bytes);
        bytes.extend(check.iter().take(CHECK));
        f.write_str(&hex::encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = AuditError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = hex::decode(text).map_err(|_| AuditError::Cursor)?;
        Self::read(&bytes).ok_or(AuditError::Cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_back_and_no_other(micros in Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros(), chain_no: u32, seq: u64, at in 0_usize..50, to in 0_u8..16) {
            let cursor = Cursor { recorded_at: Timestamp::from_micros(micros), chain_no, seq };
            let text = cursor.to_string();
            prop_assert_eq!(text.parse(), Ok(cursor));
            let mut other = text.clone().into_bytes();
            other[at] = b"0123456789abcdef"[usize::from(to)];
            let other = String::from_utf8(other).unwrap();
            if other != text {
                prop_assert_eq!(other.parse::<Cursor>(), Err(AuditError::Cursor));
            }
            prop_assert!(text.split_at(48).0.parse::<Cursor>().is_err());
            let longer = text.clone() + "00";
            prop_assert!(longer.parse::<Cursor>().is_err());
        }

        #[test]
        fn garbage_never_panics(text in any::<String>(), hex in "[0-9a-f]{0,60}") {
            prop_assert!(text.parse::<Cursor>().is_err());
            prop_assert!(hex.parse::<Cursor>().is_err());
        }
    }
}
