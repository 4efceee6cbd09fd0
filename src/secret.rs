//! Secrets that do not leak, and the refusal of weak ones.
//!
//! A [`Secret`] is never printed, compares in constant time, and is wiped when dropped. It is read
//! from hex or base64, because a passphrase of 64 characters is not 64 bytes of randomness.
//!
//! ```
//! use portcullis::Secret;
//!
//! let secret = Secret::parse("f3b1c09a8e7d24556a0b91c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f507")?;
//! assert_eq!(format!("{secret:?}"), "Secret(..)");
//!
//! let weak = Secret::parse("changeme").unwrap_err();
//! assert!(weak.to_string().contains("openssl rand -hex 32"));
//! # Ok::<(), portcullis::WeakSecret>(())
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The fewest bytes a secret may have, after decoding.
pub const MIN_SECRET_BYTES: usize = 32;
const MIN_DISTINCT: usize = 8;
const LONGEST_PERIOD: usize = 16;

/// Words that stand in examples and templates, never in a random secret.
const PLACEHOLDERS: [&str; 9] = [
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "example",
    "password",
    "your-secret",
    "your_secret",
    "yoursecret",
];

/// A secret of at least [`MIN_SECRET_BYTES`] bytes.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Reads a secret from hex, or else from base64 (either alphabet, padded or not).
    ///
    /// Surrounding white space is ignored, since files end with a newline.
    ///
    /// # Errors
    ///
    /// [`WeakSecret`] says what is wrong and how to make a good one; it never repeats the text.
    pub fn parse(text: &str) -> Result<Self, WeakSecret> {
        let text = text.trim();
        if text.is_empty() {
            return Err(WeakSecret::Empty);
        }
        refuse_placeholder(text.as_bytes())?;
        Self::from_bytes(decode(text).ok_or(WeakSecret::Encoding)?)
    }

    /// Takes a secret that is already bytes, as a key management service hands it out.
    ///
    /// # Errors
    ///
    /// [`WeakSecret`] if it is too short or plainly not random.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, WeakSecret> {
        let bytes = Zeroizing::new(bytes);
        refuse_weak(&bytes)?;
        Ok(Self(bytes))
    }

    /// Makes a new random secret, for a throw-away installation.
    ///
    /// Keep it: without it, nothing that was written under it can be verified.
    ///
    /// # Errors
    ///
    /// [`WeakSecret::NoRandomness`] if the operating system has none to give.
    pub fn generate() -> Result<Self, WeakSecret> {
        let mut bytes = Zeroizing::new(vec![0; MIN_SECRET_BYTES]);
        getrandom::fill(&mut bytes).map_err(|_| WeakSecret::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The secret as hex, to be stored where only its owner can read it.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// Why a secret was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakSecret {
    /// Nothing was given.
    #[error("the secret is empty; make one with `openssl rand -hex 32`")]
    Empty,
    /// Neither hex nor base64.
    #[error("the secret is neither hex nor base64; make one with `openssl rand -hex 32`")]
    Encoding,
    /// Fewer than [`MIN_SECRET_BYTES`] bytes.
    #[error(
        "the secret has {bytes} bytes after decoding and needs {MIN_SECRET_BYTES}; make one with `openssl rand -hex 32`"
    )]
    TooShort {
        /// How many it has.
        bytes: usize,
    },
    /// Plainly not random: too few different bytes, or a pattern.
    #[error(
        "the secret is not random (few different bytes, or a pattern); make one with `openssl rand -hex 32`"
    )]
    NotRandom,
    /// A word that stands in templates and documentation.
    #[error("the secret is a placeholder from a template; make one with `openssl rand -hex 32`")]
    Placeholder,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes; check that /dev/urandom can be read")]
    NoRandomness,
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if let Ok(bytes) = hex::decode(text) {
        return Some(bytes);
    }
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| engine.decode(text).ok())
}

fn refuse_weak(bytes: &[u8]) -> Result<(), WeakSecret> {
    if bytes.len() < MIN_SECRET_BYTES {
        return Err(WeakSecret::TooShort { bytes: bytes.len() });
    }
    refuse_placeholder(bytes)?;
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    let distinct = seen.iter().filter(|seen| **seen).count();
    let periodic =
        (1..=LONGEST_PERIOD).any(|n| bytes.iter().zip(bytes.iter().skip(n)).all(|(a, b)| a == b));
    if distinct < MIN_DISTINCT || periodic || is_run(bytes) {
        return Err(WeakSecret::NotRandom);
    }
    Ok(())
}

/// Whether each byte follows from the one before by the same step, as in `00 01 02 03`.
fn is_run(bytes: &[u8]) -> bool {
    let steps = bytes.iter().zip(bytes.iter().skip(1));
    let mut steps = steps.map(|(a, b)| b.wrapping_sub(*a));
    let first = steps.next();
    steps.all(|step| Some(step) == first)
}

fn refuse_placeholder(bytes: &[u8]) -> Result<(), WeakSecret> {
    let lower = Zeroizing::new(bytes.to_ascii_lowercase());
    let found = PLACEHOLDERS
        .iter()
        .any(|word| lower.windows(word.len()).any(|at| at == word.as_bytes()));
    if found {
        Err(WeakSecret::Placeholder)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weak_secrets_are_refused_and_never_repeated() {
        let ascending = hex::encode((0..32).collect::<Vec<u8>>());
        let shorter = hex::encode((1..32).collect::<Vec<u8>>());
        let descending = hex::encode((100..164).rev().collect::<Vec<u8>>());
        let periodic = "0123456789abcdef0011223344556677".repeat(2);
        let wordy = STANDARD.encode("changeme-changeme-changeme-changeme!");
        for (text, expected) in [
            ("", WeakSecret::Empty),
            ("hunter2", WeakSecret::Encoding),
            ("deadbeef", WeakSecret::TooShort { bytes: 4 }),
            // 62 characters of hex are 31 bytes, whatever their number in ASCII.
            (&shorter, WeakSecret::TooShort { bytes: 31 }),
            (&ascending, WeakSecret::NotRandom),
            (&descending, WeakSecret::NotRandom),
            (&periodic, WeakSecret::NotRandom),
            (&"00".repeat(32), WeakSecret::NotRandom),
            (&"0b".repeat(32), WeakSecret::NotRandom),
            (&wordy, WeakSecret::Placeholder),
            ("ChangeMe", WeakSecret::Placeholder),
        ] {
            let error = Secret::parse(text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }

    #[test]
    fn hex_and_base64_of_the_same_bytes_are_the_same_secret() {
        let secret = Secret::generate().unwrap();
        for text in [
            secret.to_hex().to_string(),
            secret.to_hex().to_uppercase(),
            STANDARD.encode(secret.expose()),
            URL_SAFE_NO_PAD.encode(secret.expose()),
            format!(" {}\n", secret.to_hex().as_str()),
        ] {
            assert_eq!(Secret::parse(&text).unwrap(), secret);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 48..64)) {
            // 48 random bytes have fewer than 8 distinct ones about never.
            prop_assert!(Secret::from_bytes(bytes).is_ok());
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = Secret::parse(&text);
        }
    }
}
