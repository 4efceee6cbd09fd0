//! Whether metadata is in the one form that this crate writes, without building it.
//!
//! The scanner says yes only where it is certain; what is rare (`\u` escapes, long integers, many
//! keys) goes through the parser, which allocates.

use crate::canon::Metadata;

/// What the parser's limits are; see [`Metadata`].
const MAX_DEPTH: usize = 16;
const MAX_KEYS: usize = 64;
/// Integers of up to 15 digits are below 2^53.
const SAFE_DIGITS: usize = 15;

/// Whether `text` is what [`Metadata`] would write.
pub(in crate::audit) fn is_canonical(text: &str) -> bool {
    let mut scan = Scan {
        rest: text.as_bytes(),
        keys: 0,
    };
    let sure = scan.rest.first() == Some(&b'{')
        && text.len() <= 65_536
        && scan.value(0).is_some()
        && scan.rest.is_empty();
    sure || Metadata::parse(text).is_ok_and(|metadata| metadata.as_str() == text)
}

struct Scan<'t> {
    rest: &'t [u8],
    keys: usize,
}

impl<'t> Scan<'t> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match *self.rest.first()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(drop),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.integer(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.word(b"{")?;
        if self.word(b"}").is_some() {
            return Some(());
        }
        let mut last: Option<&[u8]> = None;
        loop {
            self.keys += 1;
            let (key, escaped) = self.string()?;
            // An escaped key sorts by what it spells, which is the parser's business.
            if escaped || self.keys > MAX_KEYS || last.is_some_and(|last| last >= key) {
                return None;
            }
            last = Some(key);
            self.word(b":")?;
            self.value(depth + 1)?;
            if self.word(b",").is_none() {
                return self.word(b"}");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.word(b"[")?;
        if self.word(b"]").is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.word(b",").is_none() {
                return self.word(b"]");
            }
        }
    }

    /// What stands between the quotes, and whether some of it is escaped.
    fn string(&mut self) -> Option<(&'t [u8], bool)> {
        self.word(b"\"")?;
        let (mut end, mut escaped) = (0, false);
        loop {
            end += plain(self.rest.get(end..)?);
            match *self.rest.get(end)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    match self.rest.get(end + 1)? {
                        b'"' | b'\\' | b'n' | b'r' | b't' => end += 2,
                        _ => return None,
                    }
                }
                // A control, or 0xe2, which begins the line separators: both are written escaped.
                _ => return None,
            }
        }
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        self.word(b"\"")?;
        Some((text, escaped))
    }

    fn integer(&mut self) -> Option<()> {
        let negative = self.word(b"-").is_some();
        let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let zero = self.rest.first() == Some(&b'0');
        if digits == 0 || digits > SAFE_DIGITS || (zero && (digits > 1 || negative)) {
            return None;
        }
        self.rest = self.rest.get(digits..)?;
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }
}

/// How many bytes at the start of `text` stand for themselves in a string.
//
// Eight at a time, in one register (Bit Twiddling Hacks, "Determine if a word has a zero byte" and
// "has a byte less than n"): a mark may be wrong only above one that is right, and the lowest counts.
fn plain(mut text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let below = |word: u64, n: u8| word.wrapping_sub(ONES * u64::from(n)) & !word & HIGHS;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let mut count = 0;
    while let Some((chunk, rest)) = text.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let special =
            below(word, b' ') | is(word, b'"') | is(word, b'\\') | is(word, 0x7f) | is(word, 0xe2);
        if special != 0 {
            return count + special.trailing_zeros() as usize / 8;
        }
        count += 8;
        text = rest;
    }
    let special = |b: u8| b < b' ' || matches!(b, b'"' | b'\\' | 0x7f | 0xe2);
    count + text.iter().take_while(|&&b| !special(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(text: &str) -> bool {
        Metadata::parse(text).is_ok_and(|metadata| metadata.as_str() == text)
    }

    #[test]
    fn known_forms() {
        for good in [
            "{}",
            r#"{"a":1,"b":[true,null,-5,"x\n"],"c":{"d":"ä"}}"#,
            r#"{"a":9007199254740991}"#,
            r#"{"a":"\u2028"}"#,
            r#"{"\"a":1,"b":"…"}"#,
        ] {
            assert!(is_canonical(good) && slow(good), "{good}");
        }
        for bad in [
            "",
            "[]",
            "1",
            r#"{"a":1.0}"#,
            r#"{"a": 1}"#,
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":-0}"#,
            r#"{"a":01}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":1}}"#,
            r#"{"a":1e3}"#,
            r#"{"a":"\u0041"}"#,
            "{\"a\":\"\u{2028}\"}",
            r#"{"a":tru}"#,
            "{\"a\":\"\t\"}",
        ] {
            assert!(!is_canonical(bad) && !slow(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn plain_bytes_are_counted_right(bytes in proptest::collection::vec(any::<u8>(), 0..40), filler in any::<bool>()) {
            let bytes: Vec<u8> = bytes.into_iter().map(|b| if filler && b > 40 { b'a' } else { b }).collect();
            let slow = bytes.iter().take_while(|&&b| b >= b' ' && !b"\"\\\x7f\xe2".contains(&b)).count();
            prop_assert_eq!(plain(&bytes), slow);
        }

        #[test]
        fn it_says_what_the_parser_says(text in r#"[{}\[\]":,a-c0-9.\\ntu \-é]{0,24}"#) {
            prop_assert_eq!(is_canonical(&text), slow(&text));
        }

        #[test]
        fn what_is_written_is_canonical(keys in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..6)) {
            if let Ok(metadata) = Metadata::new(&keys) {
                prop_assert!(is_canonical(metadata.as_str()));
            }
        }
    }
}
