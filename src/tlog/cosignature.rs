//! Cosignatures (c2sp.org/tlog-cosignature v1, Ed25519): a witness saw this tree, then, and it was
//! consistent with every tree of the log that it had seen before.

use std::fmt;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::checkpoint::Checkpoint;
use super::error::LogError;
use super::key::{COSIGNATURE, PublicKey, sign};
use super::note::{Note, NoteSignature};
use crate::secret::Secret;
use crate::time::Timestamp;

const MICROS: i64 = 1_000_000;

/// The key of a witness. One key has one name: the signed bytes do not hold it.
///
/// ```
/// use portcullis::tlog::{Checkpoint, LogKey, TreeHash, WitnessKey};
/// use portcullis::{Secret, Timestamp};
///
/// let log = LogKey::new("audit.example/acme", &Secret::generate()?)?;
/// let witness = WitnessKey::new("witness.example/w1", &Secret::generate()?)?;
///
/// let mut note = log.sign(&Checkpoint::new(log.origin(), 0, TreeHash::of_nothing())?)?;
/// let at = Timestamp::from_micros(1_767_225_600_000_000);
/// witness.cosign(&mut note, at)?;
/// assert_eq!(witness.verifier().verify(&note)?, at);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WitnessKey {
    signing: SigningKey,
    verifier: WitnessVerifier,
}

impl WitnessKey {
    /// The key of the witness `name`, from a secret of 32 bytes.
    ///
    /// # Errors
    ///
    /// * [`LogError::Name`] if the name is none.
    /// * [`LogError::Seed`] if the secret is not 32 bytes long.
    pub fn new(name: &str, seed: &Secret) -> Result<Self, LogError> {
        let seed = seed.expose().try_into().map_err(|_| LogError::Seed)?;
        Self::from_seed(name, &Zeroizing::new(seed))
    }

    pub(super) fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, LogError> {
        let signing = SigningKey::from_bytes(seed);
        let key = PublicKey::new(name, COSIGNATURE, signing.verifying_key())?;
        Ok(Self {
            signing,
            verifier: WitnessVerifier(key),
        })
    }

    /// What verifies this key's cosignatures.
    #[must_use]
    pub const fn verifier(&self) -> &WitnessVerifier {
        &self.verifier
    }

    /// Adds a cosignature to a checkpoint, as of `at` (in whole seconds).
    ///
    /// That it is consistent with what was cosigned before is the caller's to check first.
    ///
    /// # Errors
    ///
    /// * [`LogError::Checkpoint`] if the note is none.
    /// * [`LogError::OutOfRange`] if `at` lies before 1970.
    pub fn cosign(&self, note: &mut Note, at: Timestamp) -> Result<(), LogError> {
        Checkpoint::parse(note.text())?;
        let seconds = u64::try_from(at.as_micros().div_euclid(MICROS));
        let seconds = seconds.map_err(|_| LogError::OutOfRange)?;
        let signature = sign(&self.signing, &message(seconds, note.text()));
        let blob = [seconds.to_be_bytes().as_slice(), &signature].concat();
        let key = &self.verifier.0;
        note.add(NoteSignature::new(&key.name, key.id, blob))
    }
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitnessKey")
            .field("name", &self.verifier.name())
            .finish_non_exhaustive()
    }
}

/// The public key of a witness; its text is a `vkey` of the cosignatures' kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessVerifier(PublicKey);

impl WitnessVerifier {
    /// Reads a `vkey` of a witness.
    ///
    /// # Errors
    ///
    /// * [`LogError::Key`] if it is none, or of a log.
    /// * [`LogError::WeakKey`] if anybody could sign under it.
    pub fn parse(vkey: &str) -> Result<Self, LogError> {
        PublicKey::parse(vkey, COSIGNATURE).map(Self)
    }

    /// The witness's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Checks this witness's cosignatures, and returns when it made the latest.
    ///
    /// The log's own signature is not checked: [`Checkpoint::open`] does that.
    ///
    /// # Errors
    ///
    /// * [`LogError::Checkpoint`] if the note is none.
    /// * [`LogError::Unsigned`] if there is no cosignature of this key.
    /// * [`LogError::BadSignature`] if one is wrong, even next to a good one.
    pub fn verify(&self, note: &Note) -> Result<Timestamp, LogError> {
        Checkpoint::parse(note.text())?;
        let mut latest = None;
        note.check(&self.0.name, self.0.id, |blob| {
            let Some((seconds, signature)) = blob.split_first_chunk::<8>() else {
                return false;
            };
            let seconds = u64::from_be_bytes(*seconds);
            let Some(micros) = i64::try_from(seconds)
                .ok()
                .and_then(|s| s.checked_mul(MICROS))
            else {
                return false;
            };
            latest = latest.max(Some(Timestamp::from_micros(micros)));
            self.0.verifies(&message(seconds, note.text()), signature)
        })?;
        latest.ok_or(LogError::Unsigned)
    }
}

/// The `vkey`.
impl fmt::Display for WitnessVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn message(seconds: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes()
}
