//! The key of a log, and what verifies it.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::checkpoint::Checkpoint;
use super::error::LogError;
use super::note::{Note, NoteSignature, is_name};
use crate::ids::TenantId;
use crate::secret::Secret;

/// A plain signature of the note's text.
pub(super) const ED25519: u8 = 0x01;
/// A cosignature v1.
pub(super) const COSIGNATURE: u8 = 0x04;

/// The key that signs a log's checkpoints (Ed25519). Cheap to clone; wiped when the last clone is
/// dropped.
///
/// Keep it where the agents' processes cannot read it: whoever holds it can sign a history that
/// never was. Its name is the log's origin; one origin has one tree.
///
/// ```
/// use portcullis::{Secret, tlog::LogKey};
///
/// let seed = Secret::generate()?; // keep it: 32 bytes, as hex
/// let key = LogKey::new("audit.example/acme", &seed)?;
/// assert!(key.verifier().to_string().starts_with("audit.example/acme+"));
/// assert_eq!(format!("{key:?}"), "LogKey { origin: \"audit.example/acme\", .. }");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LogKey {
    signing: Arc<SigningKey>,
    verifier: LogVerifier,
}

impl LogKey {
    /// The key of the log `origin`, from a secret of 32 bytes.
    ///
    /// # Errors
    ///
    /// * [`LogError::Name`] if the origin is none.
    /// * [`LogError::Seed`] if the secret is not 32 bytes long.
    pub fn new(origin: &str, seed: &Secret) -> Result<Self, LogError> {
        let seed = seed.expose().try_into().map_err(|_| LogError::Seed)?;
        Self::from_seed(origin, &Zeroizing::new(seed))
    }

    pub(super) fn from_seed(origin: &str, seed: &[u8; 32]) -> Result<Self, LogError> {
        let signing = SigningKey::from_bytes(seed);
        let key = PublicKey::new(origin, ED25519, signing.verifying_key())?;
        Ok(Self {
            signing: Arc::new(signing),
            verifier: LogVerifier(key),
        })
    }

    /// The same key for the log of another tenant: its origin is this one's, a slash, and the
    /// tenant's name. Two trees under one origin would look like a fork.
    ///
    /// # Errors
    ///
    /// [`LogError::Name`] if the tenant's name has a plus, or the origin becomes too long.
    pub fn for_tenant(&self, tenant: &TenantId) -> Result<Self, LogError> {
        let origin = format!("{}/{tenant}", self.origin());
        let key = PublicKey::new(&origin, ED25519, self.signing.verifying_key())?;
        Ok(Self {
            signing: Arc::clone(&self.signing),
            verifier: LogVerifier(key),
        })
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.verifier.origin()
    }

    /// What verifies this key's signatures; its text may be published.
    #[must_use]
    pub const fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// Signs a checkpoint of this log.
    ///
    /// Nothing here keeps a key from signing two histories:
    /// [`Audit::checkpoint`](crate::audit::Audit::checkpoint) does.
    ///
    /// # Errors
    ///
    /// [`LogError::Origin`] if the checkpoint is of another log.
    pub fn sign(&self, checkpoint: &Checkpoint) -> Result<Note, LogError> {
        if checkpoint.origin() != self.origin() {
            return Err(LogError::Origin);
        }
        let mut note = Note::unsigned(checkpoint.body())?;
        note.add(self.sign_text(note.text()))?;
        Ok(note)
    }

    /// Signs a text that is no checkpoint, and refuses one that could be read as one.
    pub(crate) fn sign_text_of_another_format(&self, text: &str) -> Result<Note, LogError> {
        if Checkpoint::parse(text).is_ok() {
            return Err(LogError::Note("a checkpoint in the place of another text"));
        }
        let mut note = Note::unsigned(text.to_owned())?;
        note.add(self.sign_text(note.text()))?;
        Ok(note)
    }

    pub(super) fn sign_text(&self, text: &str) -> NoteSignature {
        let signature = sign(&self.signing, text.as_bytes());
        let key = &self.verifier.0;
        NoteSignature::new(&key.name, key.id, signature.to_vec())
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogKey")
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

/// The public key of a log, with the log's name: what a verifier pins. Its text is the C2SP
/// `vkey`, `name+id+key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogVerifier(pub(super) PublicKey);

impl LogVerifier {
    /// Reads a `vkey` of an Ed25519 log.
    ///
    /// # Errors
    ///
    /// * [`LogError::Key`] if it is none, or of a witness.
    /// * [`LogError::WeakKey`] if anybody could sign under it.
    pub fn parse(vkey: &str) -> Result<Self, LogError> {
        PublicKey::parse(vkey, ED25519).map(Self)
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.0.name
    }

    /// The id that signatures name the key by.
    #[must_use]
    pub const fn key_id(&self) -> [u8; 4] {
        self.0.id
    }

    /// Checks the note's signature by this key; others' are passed over.
    ///
    /// # Errors
    ///
    /// * [`LogError::Unsigned`] if there is none.
    /// * [`LogError::BadSignature`] if one is wrong, even next to a good one.
    pub fn verify(&self, note: &Note) -> Result<(), LogError> {
        let message = note.text().as_bytes();
        note.check(&self.0.name, self.0.id, |signature| {
            self.0.verifies(message, signature)
        })
    }
}

/// The `vkey`.
impl fmt::Display for LogVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key as a `vkey` has it: with its name, and what kind of signatures it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey {
    pub(super) name: String,
    pub(super) id: [u8; 4],
    algorithm: u8,
    key: VerifyingKey,
}

impl PublicKey {
    pub(super) fn new(name: &str, algorithm: u8, key: VerifyingKey) -> Result<Self, LogError> {
        if !is_name(name) {
            return Err(LogError::Name);
        }
        // A point of small order verifies anything; a point with two encodings has two key ids.
        if key.is_weak() || key.to_edwards().compress().as_bytes() != key.as_bytes() {
            return Err(LogError::WeakKey);
        }
        let hash = Sha256::new()
            .chain_update(name)
            .chain_update([b'\n', algorithm])
            .chain_update(key.as_bytes())
            .finalize();
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
        Ok(Self {
            name: name.to_owned(),
            id: [a, b, c, d],
            algorithm,
            key,
        })
    }

    pub(super) fn parse(vkey: &str, algorithm: u8) -> Result<Self, LogError> {
        // Base64 has pluses too, names have none.
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(_id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(LogError::Key);
        };
        let key = STANDARD.decode(key).map_err(|_| LogError::Key)?;
        let key: &[u8; 32] = match key.split_first() {
            Some((first, key)) if *first == algorithm => {
                key.try_into().map_err(|_| LogError::Key)?
            }
            _ => return Err(LogError::Key),
        };
        let key = VerifyingKey::from_bytes(key).map_err(|_| LogError::Key)?;
        let parsed = Self::new(name, algorithm, key)?;
        // The id included, and each part in its one spelling.
        if parsed.to_string() == vkey {
            Ok(parsed)
        } else {
            Err(LogError::Key)
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // Strict: no signature of a second form, none under a point of small order.
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.algorithm], self.key.as_bytes().as_slice()].concat();
        let (name, id) = (&self.name, hex::encode(self.id));
        write!(f, "{name}+{id}+{}", STANDARD.encode(key))
    }
}

pub(super) fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    key.sign(message).to_bytes()
}
