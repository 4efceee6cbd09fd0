//! Reading and writing DER, as much as timestamps take.
//!
//! Strict where it can be: definite lengths in their shortest form, one-byte tags, nothing left over
//! where something must end.

/// A value with its tag, and the bytes that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tlv<'d> {
    pub(super) tag: u8,
    pub(super) value: &'d [u8],
    /// Tag and length included.
    pub(super) whole: &'d [u8],
}

/// What is wrong with it is not told apart: it came over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotDer;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[n]`, constructed.
pub(super) const fn context(n: u8) -> u8 {
    0xa0 | n
}

/// What is left to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    pub(super) const fn new(bytes: &'d [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), NotDer> {
        if self.is_empty() { Ok(()) } else { Err(NotDer) }
    }

    /// The next value, whatever it is.
    pub(super) fn any(&mut self) -> Result<Tlv<'d>, NotDer> {
        let all = self.0;
        let (&tag, rest) = all.split_first().ok_or(NotDer)?;
        // Tags of several bytes are used by none of this.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (&first, rest) = rest.split_first().ok_or(NotDer)?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return Err(NotDer);
            }
            let (digits, rest) = rest.split_at_checked(count).ok_or(NotDer)?;
            let length = digits
                .iter()
                .fold(0, |n, digit| n << 8 | usize::from(*digit));
            // In the shortest form.
            if length < 0x80 || digits.first() == Some(&0) {
                return Err(NotDer);
            }
            (length, rest)
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(NotDer)?;
        self.0 = rest;
        let (whole, _) = all.split_at_checked(all.len() - rest.len()).ok_or(NotDer)?;
        Ok(Tlv { tag, value, whole })
    }

    /// The next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<&'d [u8], NotDer> {
        let next = self.any()?;
        if next.tag == tag {
            Ok(next.value)
        } else {
            Err(NotDer)
        }
    }

    /// The next value, if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<&'d [u8]>, NotDer> {
        if self.0.first() == Some(&tag) {
            self.take(tag).map(Some)
        } else {
            Ok(None)
        }
    }

    /// What is in the next value, which must have this tag.
    pub(super) fn within(&mut self, tag: u8) -> Result<Self, NotDer> {
        self.take(tag).map(Self)
    }

    /// The next integer, if it fits.
    pub(super) fn small(&mut self) -> Result<u64, NotDer> {
        let bytes = unsigned(self.take(INTEGER)?)?;
        if bytes.len() > 8 {
            return Err(NotDer);
        }
        Ok(bytes.iter().fold(0, |n, digit| n << 8 | u64::from(*digit)))
    }
}

/// The magnitude of an integer that is not negative, in its one spelling.
pub(super) fn unsigned(value: &[u8]) -> Result<&[u8], NotDer> {
    match value {
        [] | [0x80..=0xff, ..] | [0, 0..0x80, ..] => Err(NotDer),
        [0] => Ok(value),
        [0, rest @ ..] => Ok(rest),
        _ => Ok(value),
    }
}

/// A value under a tag.
pub(super) fn encode(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = value.len();
    if let Ok(short @ ..0x80) = u8::try_from(length) {
        out.push(short);
    } else {
        let digits = length.to_be_bytes();
        let digits: Vec<u8> = digits.into_iter().skip_while(|digit| *digit == 0).collect();
        out.push(0x80 | u8::try_from(digits.len()).unwrap_or(0));
        out.extend(digits);
    }
    out.extend_from_slice(value);
    out
}

/// A sequence of what is encoded already.
pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    encode(SEQUENCE, &parts.concat())
}

/// An integer that is not negative.
pub(super) fn integer(magnitude: &[u8]) -> Vec<u8> {
    let mut digits: Vec<u8> = magnitude.iter().copied().skip_while(|d| *d == 0).collect();
    if digits.first().is_none_or(|first| *first >= 0x80) {
        digits.insert(0, 0);
    }
    encode(INTEGER, &digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_one_encoding_is_refused() {
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0x01],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x81, 0x01, 0x00],
            &[0x30, 0x82, 0x00, 0x81],
            &[0x30, 0x85, 0, 0, 0, 0, 1],
            &[0x1f, 0x01, 0x00],
        ] {
            assert_eq!(Reader::new(bad).any(), Err(NotDer), "{bad:x?}");
        }
        for bad in [&[][..], &[0x80], &[0, 1], &[0xff, 1]] {
            assert_eq!(unsigned(bad), Err(NotDer), "{bad:x?}");
        }
        assert!(Reader::new(&[0, 0]).any().is_ok());
    }

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 70_000] {
            let value = vec![7; length];
            let bytes = encode(OCTETS, &value);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.take(OCTETS), Ok(value.as_slice()));
            assert_eq!(reader.end(), Ok(()));
        }
        for number in [0, 1, 0x7f, 0x80, 0x1234, u64::MAX] {
            let bytes = integer(&number.to_be_bytes());
            assert_eq!(Reader::new(&bytes).small(), Ok(number));
        }
    }
}
