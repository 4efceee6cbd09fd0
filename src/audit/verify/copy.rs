//! What `COPY .. TO STDOUT (FORMAT binary)` sends, taken apart without copying it.
//!
//! A header, then entries: a big-endian i16 number of fields, and for each an i32 length (-1 for
//! NULL) and its bytes; -1 fields are the end. The server sends one entry in each message; where
//! something between us cuts them otherwise, the rest of one is kept for the next.

use crate::audit::stored::{COLUMNS, Raw};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// [`COLUMNS`], as the format counts.
const FIELDS: i16 = 24;
const _: () = assert!(COLUMNS == 24);
/// An entry is at most some 70 KiB (64 KiB of metadata); what is much longer is none.
const MAX_CARRY: usize = 16 << 20;

/// Bytes that are not in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Malformed;

/// The state between two messages.
#[derive(Debug, Default)]
pub(in crate::audit) struct Decoder {
    carry: Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Header,
    Entries,
    End,
}

impl Decoder {
    /// Hands every whole entry of `message` to `each`.
    pub(in crate::audit) fn feed(
        &mut self,
        message: &[u8],
        mut each: impl FnMut(&Raw<'_>),
    ) -> Result<(), Malformed> {
        if self.carry.is_empty() {
            let rest = self.take_all(message, &mut each)?;
            self.carry.extend_from_slice(rest);
        } else {
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(message);
            let rest = self.take_all(&carry, &mut each)?.len();
            carry.drain(..carry.len() - rest);
            self.carry = carry;
        }
        if self.carry.len() > MAX_CARRY {
            return Err(Malformed);
        }
        Ok(())
    }

    /// Whether the end was seen, and nothing after it.
    pub(in crate::audit) fn is_complete(&self) -> bool {
        self.place == Place::End && self.carry.is_empty()
    }

    /// Takes what is whole and returns the rest.
    fn take_all<'b>(
        &mut self,
        mut bytes: &'b [u8],
        each: &mut impl FnMut(&Raw<'_>),
    ) -> Result<&'b [u8], Malformed> {
        if self.place == Place::Header {
            match header(bytes)? {
                Some(rest) => bytes = rest,
                None => return Ok(bytes),
            }
            self.place = Place::Entries;
        }
        while self.place == Place::Entries {
            match entry(bytes)? {
                Step::Entry(raw, rest) => {
                    each(&raw);
                    bytes = rest;
                }
                Step::End(rest) => {
                    self.place = Place::End;
                    bytes = rest;
                }
                Step::More => return Ok(bytes),
            }
        }
        if bytes.is_empty() {
            Ok(bytes)
        } else {
            Err(Malformed)
        }
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "an entry is on the stack for a moment; a box would be an allocation for each"
)]
enum Step<'b> {
    Entry(Raw<'b>, &'b [u8]),
    End(&'b [u8]),
    More,
}

fn header(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((signature, rest)) = bytes.split_at_checked(SIGNATURE.len()) else {
        return Ok(None);
    };
    if signature != SIGNATURE {
        return Err(Malformed);
    }
    // Flags, of which none is known to us, and the length of an extension, which there is none of.
    match rest.split_first_chunk::<8>() {
        Some(([0, 0, 0, 0, 0, 0, 0, 0], rest)) => Ok(Some(rest)),
        Some(_) => Err(Malformed),
        None => Ok(None),
    }
}

fn entry(bytes: &[u8]) -> Result<Step<'_>, Malformed> {
    let Some((count, mut rest)) = bytes.split_first_chunk::<2>() else {
        return Ok(Step::More);
    };
    match i16::from_be_bytes(*count) {
        FIELDS => {}
        -1 => return Ok(Step::End(rest)),
        _ => return Err(Malformed),
    }
    let mut raw: Raw<'_> = [None; COLUMNS];
    for slot in &mut raw {
        let Some((len, after)) = rest.split_first_chunk::<4>() else {
            return Ok(Step::More);
        };
        rest = after;
        match usize::try_from(i32::from_be_bytes(*len)) {
            Ok(len) => {
                let Some((field, after)) = rest.split_at_checked(len) else {
                    return Ok(Step::More);
                };
                *slot = Some(field);
                rest = after;
            }
            Err(_) if *len == [0xff; 4] => {}
            Err(_) => return Err(Malformed),
        }
    }
    Ok(Step::Entry(raw, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::stored::Stored;
    use proptest::prelude::*;

    type Fields = Vec<Option<Vec<u8>>>;

    fn written(entries: &[Fields]) -> Vec<u8> {
        let mut out = [SIGNATURE, &[0; 8]].concat();
        for fields in entries {
            out.extend_from_slice(&FIELDS.to_be_bytes());
            for field in fields {
                match field {
                    Some(bytes) => {
                        out.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                        out.extend_from_slice(bytes);
                    }
                    None => out.extend_from_slice(&[0xff; 4]),
                }
            }
        }
        out.extend_from_slice(&[0xff; 2]);
        out
    }

    fn entries() -> impl Strategy<Value = Vec<Fields>> {
        let field = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9));
        proptest::collection::vec(proptest::collection::vec(field, COLUMNS), 0..5)
    }

    fn owned(raw: &Raw<'_>) -> Fields {
        raw.iter().map(|field| field.map(<[u8]>::to_vec)).collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_is_cut(entries in entries(), cuts in proptest::collection::vec(1_usize..40, 1..50)) {
            let bytes = written(&entries);
            let (mut decoder, mut read) = (Decoder::default(), Vec::new());
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                prop_assert!(!decoder.is_complete());
                let cut = rest.len().min(*cuts.next().unwrap());
                decoder.feed(&rest[..cut], |raw| read.push(owned(raw))).unwrap();
                rest = &rest[cut..];
            }
            prop_assert!(decoder.is_complete());
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), headed in any::<bool>(), cut in 0_usize..400) {
            if headed {
                bytes.splice(0..0, [SIGNATURE, &[0; 8], &[0, 24]].concat());
            }
            let cut = cut.min(bytes.len());
            let mut decoder = Decoder::default();
            for part in [&bytes[..cut], &bytes[cut..]] {
                if decoder.feed(part, |raw| { let _ = Stored::decode("t", raw).map(|s| s.entry()); }).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn arbitrary_fields_never_panic(entries in entries()) {
            for fields in &entries {
                let mut raw: Raw<'_> = [None; COLUMNS];
                for (slot, field) in raw.iter_mut().zip(fields) {
                    *slot = field.as_deref();
                }
                let _ = Stored::decode("t", &raw).map(|s| s.entry());
            }
        }
    }
}
