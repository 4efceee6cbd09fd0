//! Keys: one secret in, one key for each purpose out.

use std::fmt;
use std::sync::Arc;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::ids::TenantId;
use crate::secret::{Secret, WeakSecret};

/// The environment variable that holds the secret.
const SECRET_VARIABLE: &str = "PORTCULLIS_AUDIT_SECRET";

/// 32 bytes of HMAC-SHA256.
pub(crate) type Tag = [u8; 32];

/// The secret under which the audit trail is written.
///
/// It is never used itself: HKDF-SHA256 (RFC 5869) derives a key for each tenant and purpose, salt
/// the tenant's id, info `portcullis/<purpose>/v1`. Whoever holds it can verify the trail, and could
/// forge it: keep it from the database's administrators.
///
/// ```
/// use portcullis::{Secret, audit::AuditKeys};
///
/// let keys = AuditKeys::single(Secret::generate()?);
/// assert_eq!(format!("{keys:?}"), "AuditKeys { key_id: 1, .. }");
/// # Ok::<(), portcullis::WeakSecret>(())
/// ```
#[derive(Clone)]
pub struct AuditKeys {
    secret: Arc<Secret>,
    key_id: u32,
}

impl AuditKeys {
    /// One secret, key number 1.
    #[must_use]
    pub fn single(secret: Secret) -> Self {
        Self {
            secret: Arc::new(secret),
            key_id: 1,
        }
    }

    /// The secret in `PORTCULLIS_AUDIT_SECRET`, as hex or base64.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it is not set or weak. There is no silent default: a trail under a key that
    /// nobody kept could never be verified.
    pub fn from_env() -> Result<Self, KeyError> {
        let text = std::env::var(SECRET_VARIABLE).map_err(|_| KeyError::NotSet)?;
        Ok(Self::single(Secret::parse(&Zeroizing::new(text))?))
    }

    /// The number of the key, which every entry names.
    #[must_use]
    pub const fn key_id(&self) -> u32 {
        self.key_id
    }

    /// The key of `tenant` for `purpose`.
    pub(crate) fn derive(&self, tenant: &TenantId, purpose: Purpose) -> MacKey {
        let hkdf = Hkdf::<Sha256>::new(Some(tenant.as_str().as_bytes()), self.secret.expose());
        let mut key = Zeroizing::new([0; 32]);
        // INVARIANT: expanding fails only past 255 * 32 bytes; this asks for 32.
        let _ = hkdf.expand(purpose.info().as_bytes(), key.as_mut());
        MacKey::new(&key)
    }
}

impl fmt::Debug for AuditKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditKeys")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// What a key is for. A key that serves two purposes lets one be used to forge the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The MACs of the chain.
    Chain,
    /// Hashes of content that is not stored.
    Content,
    /// The digest that binds a permit to its call.
    Call,
    /// The MACs of events that wait to be chained.
    Outbox,
}

impl Purpose {
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Chain, Self::Content, Self::Call, Self::Outbox];

    const fn info(self) -> &'static str {
        match self {
            Self::Chain => "portcullis/audit-hmac/v1",
            Self::Content => "portcullis/content-hash/v1",
            Self::Call => "portcullis/call-digest/v1",
            Self::Outbox => "portcullis/outbox-hmac/v1",
        }
    }
}

/// An HMAC-SHA256 key, ready to be used. Wiped when dropped.
#[derive(Clone)]
pub(crate) struct MacKey(Hmac<Sha256>);

impl MacKey {
    fn new(key: &[u8; 32]) -> Self {
        // A key shorter than the block is padded with zeros (RFC 2104); done here, because a key
        // of the block's length cannot be refused.
        let mut block = Zeroizing::new([0; 64]);
        for (slot, byte) in block.iter_mut().zip(key) {
            *slot = *byte;
        }
        Self(Hmac::<Sha256>::new((&*block).into()))
    }

    /// The tag of `parts`, one after the other.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// A keyed hash of content: the content is hashed first, so that it need not be kept until the
    /// key is at hand.
    pub(crate) fn content_hash(&self, sha256: &Tag) -> Tag {
        self.tag(&[b"portcullis/content/v1", sha256])
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// SHA-256, unkeyed: only ever an input of a keyed hash.
pub(crate) fn sha256(content: &[u8]) -> Tag {
    Sha256::digest(content).into()
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The environment has no secret.
    #[error(
        "PORTCULLIS_AUDIT_SECRET is not set; make a secret with `openssl rand -hex 32`, keep it, and set it"
    )]
    NotSet,
    /// The secret is weak.
    #[error(transparent)]
    Weak(#[from] WeakSecret),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenant_and_purpose_has_its_own_key() {
        let keys = AuditKeys::single(Secret::generate().unwrap());
        let mut tags = Vec::new();
        for tenant in ["a", "b"] {
            let tenant = TenantId::parse(tenant).unwrap();
            for purpose in Purpose::ALL {
                tags.push(keys.derive(&tenant, purpose).tag(&[b"x"]));
            }
        }
        for (i, a) in tags.iter().enumerate() {
            assert!(tags.iter().skip(i + 1).all(|b| a != b));
        }
    }

    /// Golden, computed apart from this crate (Python: hmac, hashlib), so that no refactoring
    /// changes a key.
    #[test]
    fn golden_keys() {
        let secret =
            Secret::parse("8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90");
        let keys = AuditKeys::single(secret.unwrap());
        let tags = Purpose::ALL.map(|purpose| {
            hex::encode(
                keys.derive(&TenantId::single(), purpose)
                    .tag(&[b"portcullis"]),
            )
        });
        assert_eq!(tags, GOLDEN);
    }

    const GOLDEN: [&str; 4] = [
        "980865591c0023bf6ba8b44364ce4b95e92fc637e8924504b3181e71bb682690",
        "72a6fe1dc89d4d1c7fec110be3e18eb8b06fd151415501d5dafa3af8492b1443",
        "3091c5d523e2b63c189f8e8d09874b71ad3ec4844f3e62b9d8bfa2368ff0adb7",
        "19072d9d606cf675a56f4841088de5587d82543e13692b552c7a8e87f0414605",
    ];
}
