//! Ed25519 keys: an agent's own, and the public ones that signatures are checked with.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::audit::keys::{KeyError, KeySource};
use crate::audit::model::Signed;
use crate::canon::Fields;
use crate::ids::AgentId;
use crate::secret::WeakSecret;

/// What an agent signs with.
pub struct AgentKey {
    agent: AgentId,
    id: AgentKeyId,
    signing: SigningKey,
    ephemeral: bool,
}

impl AgentKey {
    /// The key of `agent`: a seed of 32 bytes, raw or as hex or base64 (`openssl rand -hex 32`).
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it cannot be read, is weak, or is not 32 bytes.
    pub fn load(agent: AgentId, source: KeySource) -> Result<Self, KeyError> {
        read_seed(source, |seed| Self::of(agent, seed, false))
    }

    /// A key that is forgotten with the process, and marked so on record: it proves that the
    /// entries of one run come from one hand, and no more.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the operating system has no randomness.
    pub fn ephemeral(agent: AgentId) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|_| WeakSecret::NoRandomness)?;
        Ok(Self::of(agent, &seed, true))
    }

    fn of(agent: AgentId, seed: &[u8; 32], ephemeral: bool) -> Self {
        let signing = SigningKey::from_bytes(seed);
        Self {
            agent,
            id: AgentKeyId::of(signing.verifying_key().as_bytes()),
            signing,
            ephemeral,
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// By which its entries name it.
    #[must_use]
    pub const fn id(&self) -> AgentKeyId {
        self.id
    }

    /// The public key, for whoever is to check signatures outside.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    pub(super) const fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    pub(super) fn sign(&self, digest: &[u8; 32]) -> Signed {
        Signed {
            key: self.id.0,
            signature: self.signing.sign(digest).to_bytes(),
        }
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentKey")
            .field("agent", &self.agent)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Makes a key of the seed that `source` has.
pub(super) fn read_seed<K>(
    source: KeySource,
    make: impl FnOnce(&[u8; 32]) -> K,
) -> Result<K, KeyError> {
    let secret = source.load_seed()?;
    let seed = secret.expose();
    let seed = <&[u8; 32]>::try_from(seed).map_err(|_| KeyError::Seed { bytes: seed.len() })?;
    Ok(make(seed))
}

/// By which entries name an agent's key, and signed heads a process's: the first half of a SHA-256 of
/// the public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentKeyId([u8; 16]);

impl AgentKeyId {
    fn of(public: &[u8; 32]) -> Self {
        Self::labelled("portcullis/agent-key/v1", public)
    }

    pub(super) fn of_process(public: &[u8; 32]) -> Self {
        Self::labelled("portcullis/process-key/v1", public)
    }

    fn labelled(label: &str, public: &[u8; 32]) -> Self {
        let mut fields = Fields::labelled(label);
        fields.present(public);
        let mut id = [0; 16];
        for (slot, byte) in id.iter_mut().zip(Sha256::digest(fields.as_bytes())) {
            *slot = byte;
        }
        Self(id)
    }

    /// The id in an entry.
    pub(in crate::audit) fn stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for AgentKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for AgentKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKeyId({self})")
    }
}

/// A public key that a signature can be checked with.
#[derive(Clone, Debug)]
pub(in crate::audit) struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Takes a public key, if it is one that only its holder can sign for.
    //
    // A key of small order has signatures that anybody can make, for any message. Decoding accepts
    // encodings that are not the canonical one (ZIP 215), so that one key would have two ids.
    pub(in crate::audit) fn parse(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        let canonical = key.to_edwards().compress().to_bytes() == *bytes;
        (canonical && !key.is_weak()).then_some(Self(key))
    }

    pub(in crate::audit) fn id(&self) -> AgentKeyId {
        AgentKeyId::of(self.0.as_bytes())
    }

    pub(in crate::audit) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Its id as the key of a process.
    pub(super) fn process_id(&self) -> AgentKeyId {
        AgentKeyId::of_process(self.0.as_bytes())
    }

    /// Whether `signature` is this key's over `digest`. Strict: signatures with a point of small
    /// order in them are none.
    pub(super) fn verify(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.0.verify_strict(digest, &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use ed25519_dalek::Verifier as _;

    fn agent() -> AgentId {
        AgentId::parse("billing-agent").unwrap()
    }

    /// The identity point is a public key for which (identity, 0) signs any message.
    #[test]
    fn a_weak_key_is_refused_though_its_signature_verifies_by_the_common_rule() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let key = VerifyingKey::from_bytes(&identity).unwrap();
        assert!(
            key.verify(b"anything", &Signature::from_bytes(&signature))
                .is_ok()
        );
        assert!(PublicKey::parse(&identity).is_none());
        assert!(!PublicKey(key).verify(&[7; 32], &signature), "strict");
        // The same point in an encoding that is not canonical: y = p + 1.
        let mut other = [0xff; 32];
        other[0] = 0xee;
        other[31] = 0x7f;
        assert!(VerifyingKey::from_bytes(&other).is_ok());
        assert!(PublicKey::parse(&other).is_none());
    }

    /// RFC 8032, section 7.1, test 1: the public key of a known seed.
    #[test]
    fn a_seed_makes_the_key_of_the_standard() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let source = KeySource::memory(Secret::parse(seed).unwrap());
        let key = AgentKey::load(agent(), source).unwrap();
        assert_eq!(
            hex::encode(key.public_key()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert!(!format!("{key:?}").contains("9d61b1"));
        let signed = key.sign(&[7; 32]);
        let public = PublicKey::parse(&key.public_key()).unwrap();
        assert_eq!(public.id(), key.id());
        assert!(public.verify(&[7; 32], &signed.signature));
        assert!(!public.verify(&[8; 32], &signed.signature));
    }

    #[test]
    fn what_is_no_seed_is_refused() {
        let long = Secret::from_bytes((0..40).map(|n: u8| n.wrapping_mul(n)).collect()).unwrap();
        assert_eq!(
            AgentKey::load(agent(), KeySource::memory(long)).unwrap_err(),
            KeyError::Seed { bytes: 40 }
        );
        assert!(AgentKey::load(agent(), KeySource::file("/nonexistent/key")).is_err());
        let (a, b) = (AgentKey::ephemeral(agent()), AgentKey::ephemeral(agent()));
        assert_ne!(a.unwrap().id(), b.unwrap().id());
    }
}
