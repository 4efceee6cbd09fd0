//! Keys: one secret in, one key for each purpose out.

mod builder;
mod cache;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub use self::builder::AuditKeysBuilder;
use self::cache::Cache;
pub use self::source::{FileFault, KeySource};
use crate::canon::Fields;
use crate::ids::TenantId;
use crate::secret::{Secret, WeakSecret};

/// The environment variable that holds the secret, and the one that lists several.
const SECRET_VARIABLE: &str = "PORTCULLIS_AUDIT_SECRET";
const LIST_VARIABLE: &str = "PORTCULLIS_AUDIT_KEYS";

/// 32 bytes of HMAC-SHA256.
pub(crate) type Tag = [u8; 32];

/// The secrets under which the audit trail is written and verified, each with its number.
///
/// None is ever used itself: HKDF-SHA256 (RFC 5869) derives a key for each tenant and purpose, salt
/// the tenant's id, info `portcullis/<purpose>/v1`. Whoever holds one can verify what is under it,
/// and could forge it: keep them from the database's administrators.
///
/// Which of the keys a tenant is written under is said by the tenant's keyring in the database;
/// see [`Audit::rotate`](crate::audit::Audit::rotate).
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
    ring: Arc<Ring>,
    key_id: u32,
    /// The one with this number.
    current: Arc<Secret>,
}

struct Ring {
    secrets: BTreeMap<u32, Arc<Secret>>,
    derived: Cache,
}

impl Ring {
    fn new(secrets: BTreeMap<u32, Arc<Secret>>) -> Self {
        Self {
            secrets,
            derived: Cache::default(),
        }
    }
}

impl AuditKeys {
    /// One secret, key number 1.
    #[must_use]
    pub fn single(secret: Secret) -> Self {
        let current = Arc::new(secret);
        Self {
            ring: Arc::new(Ring::new(BTreeMap::from([(1, Arc::clone(&current))]))),
            key_id: 1,
            current,
        }
    }

    /// Several secrets, for a trail whose key was changed or is about to be.
    pub fn builder() -> AuditKeysBuilder {
        AuditKeysBuilder::default()
    }

    /// The keys that `PORTCULLIS_AUDIT_KEYS` lists (`1=file:/etc/audit-1.key,2=env:AUDIT_2`), or
    /// else the one secret in `PORTCULLIS_AUDIT_SECRET`, as hex or base64.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it is not set or weak. There is no silent default: a trail under a key that
    /// nobody kept could never be verified.
    pub fn from_env() -> Result<Self, KeyError> {
        if std::env::var_os(LIST_VARIABLE).is_some() {
            let list = source::read_variable(LIST_VARIABLE)?;
            return Self::builder().list(&list)?.build();
        }
        let text = source::read_variable(SECRET_VARIABLE)?;
        Ok(Self::single(Secret::parse(&text)?))
    }

    /// The number of the key that a tenant without entries begins with.
    #[must_use]
    pub const fn key_id(&self) -> u32 {
        self.key_id
    }

    /// The numbers of all keys, in order.
    pub fn key_ids(&self) -> impl Iterator<Item = u32> {
        self.ring.secrets.keys().copied()
    }

    /// The key of `tenant` for `purpose`, under the secret that new tenants begin with.
    pub(crate) fn derive(&self, tenant: &TenantId, purpose: Purpose) -> MacKey {
        self.derive_from(self.key_id, &self.current, tenant, purpose)
    }

    /// The key of `tenant` for `purpose`, under the secret with this number, if it is here.
    pub(crate) fn derive_under(
        &self,
        key_id: u32,
        tenant: &TenantId,
        purpose: Purpose,
    ) -> Option<MacKey> {
        let secret = self.ring.secrets.get(&key_id)?;
        Some(self.derive_from(key_id, secret, tenant, purpose))
    }

    fn derive_from(
        &self,
        key_id: u32,
        secret: &Secret,
        tenant: &TenantId,
        purpose: Purpose,
    ) -> MacKey {
        self.ring.derived.get((tenant, key_id, purpose), || {
            let hkdf = Hkdf::<Sha256>::new(Some(tenant.as_str().as_bytes()), secret.expose());
            let mut key = Zeroizing::new([0; 32]);
            // INVARIANT: expanding fails only past 255 * 32 bytes; this asks for 32.
            let _ = hkdf.expand(purpose.info().as_bytes(), key.as_mut());
            MacKey::new(&key)
        })
    }

    /// The fingerprint of a key under `salt`, if the key is here.
    pub(crate) fn fingerprint(
        &self,
        key_id: u32,
        tenant: &TenantId,
        salt: [u8; 16],
    ) -> Option<Fingerprint> {
        let key = self.derive_under(key_id, tenant, Purpose::Fingerprint)?;
        Some(Fingerprint::of(&key, salt))
    }
}

impl fmt::Debug for AuditKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditKeys")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// By which a key is recognised without being known: a MAC under a key derived from it, over a
/// random salt. A plain hash of the key would let weak ones be guessed, and one secret be
/// recognised in two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) salt: [u8; 16],
    pub(crate) tag: [u8; 16],
}

impl Fingerprint {
    fn of(key: &MacKey, salt: [u8; 16]) -> Self {
        let mut fields = Fields::labelled("portcullis/fingerprint/v1");
        fields.present(&salt);
        let mut tag = [0; 16];
        let whole = key.tag(&[fields.as_bytes()]);
        for (slot, byte) in tag.iter_mut().zip(whole) {
            *slot = byte;
        }
        Self { salt, tag }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.salt.ct_eq(&other.salt) & self.tag.ct_eq(&other.tag)).into()
    }
}

/// What a key is for. A key that serves two purposes lets one be used to forge the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// The MACs of the chain.
    Chain,
    /// Hashes of content that is not stored.
    Content,
    /// The digest that binds a permit to its call.
    Call,
    /// The MACs of events that wait to be chained.
    Outbox,
    /// By which the key itself is recognised.
    Fingerprint,
    /// The MACs of the journal on the local disk.
    Journal,
    /// What a verification says that a later one goes on from.
    Verified,
    /// Tokens by which a decision is made outside.
    Approval,
    /// Fingerprints of what agents repeat.
    Loop,
    /// Digests of the hosts that wrapped clients call.
    Coverage,
    /// On which terms a person was asked.
    Terms,
}

impl Purpose {
    #[cfg(test)]
    const ALL: [Self; 11] = [
        Self::Chain,
        Self::Content,
        Self::Call,
        Self::Outbox,
        Self::Fingerprint,
        Self::Journal,
        Self::Verified,
        Self::Approval,
        Self::Loop,
        Self::Coverage,
        Self::Terms,
    ];

    const fn info(self) -> &'static str {
        match self {
            Self::Chain => "portcullis/audit-hmac/v1",
            Self::Content => "portcullis/content-hash/v1",
            Self::Call => "portcullis/call-digest/v1",
            Self::Outbox => "portcullis/outbox-hmac/v1",
            Self::Fingerprint => "portcullis/key-fingerprint/v1",
            Self::Journal => "portcullis/journal-hmac/v1",
            Self::Verified => "portcullis/verified/v1",
            Self::Approval => "portcullis/approval-token/v1",
            Self::Loop => "portcullis/loop-fingerprint/v1",
            Self::Coverage => "portcullis/coverage-host/v1",
            Self::Terms => "portcullis/approval-terms/v1",
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The environment has no secret.
    #[error(
        "{variable} is not set; make a secret with `openssl rand -hex 32`, keep it, and set it"
    )]
    NotSet {
        /// The environment variable that should hold it.
        variable: String,
    },
    /// The file is not there, or not ours alone.
    #[error("cannot take a key from `{}`: {fault}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        fault: FileFault,
    },
    /// The secret is weak.
    #[error(transparent)]
    Weak(#[from] WeakSecret),
    /// The seed of an agent's key must have 32 bytes.
    #[error(
        "the seed of a signing key has 32 bytes and this one {bytes}; make one with `openssl rand -hex 32`"
    )]
    Seed {
        /// How many it has.
        bytes: usize,
    },
    /// Neither a file nor an environment variable.
    #[error("a key is named by `file:/path` or `env:NAME`")]
    Reference,
    /// Not a list of keys.
    #[error("a list of keys is written `1=file:/path,2=env:NAME`")]
    List,
    /// A keyring without keys.
    #[error("the keyring has no key; add one")]
    Empty,
    /// A key without a number.
    #[error("the number of a key begins with 1")]
    Number,
    /// A number that stands for two keys.
    #[error("there are two keys with the number {number}; give each its own")]
    Repeated {
        /// Which.
        number: u32,
    },
    /// A secret under two numbers: rotating from one to the other would change nothing.
    #[error("key {number} has the same secret as another; make one with `openssl rand -hex 32`")]
    SameSecret {
        /// The second of them.
        number: u32,
    },
    /// The key to begin with is not in the keyring.
    #[error("key {number} is to be the current one, and is not in the keyring; add it")]
    Missing {
        /// Which.
        number: u32,
    },
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

    const GOLDEN: [&str; 11] = [
        "980865591c0023bf6ba8b44364ce4b95e92fc637e8924504b3181e71bb682690",
        "72a6fe1dc89d4d1c7fec110be3e18eb8b06fd151415501d5dafa3af8492b1443",
        "3091c5d523e2b63c189f8e8d09874b71ad3ec4844f3e62b9d8bfa2368ff0adb7",
        "19072d9d606cf675a56f4841088de5587d82543e13692b552c7a8e87f0414605",
        "261dfc8ced60d2d7851da58add6f46084f5d0ebed2049b5cfd9612463efc1b06",
        "136c02c0e7d74564d28861f22beee71ac64e335fe2048c737740e832df112f05",
        "35fdc6226932ccf3f5a794d080f5257a1691860c392622bf2a0c80f4898ee6ce",
        "0fdbd9a59c0303b8a0797686331b8b8ecca1f0ef5af608470bc85f8e93a23c07",
        "dd11d3ab11b0da3464bc1e49c618c8d000162c57a67ae7d5172f69b2d013f279",
        "f001a81ef9da35a68f4a13d022cdab25dc43a0cfb81fee9ce62fc7bbc8f4d6a3",
        "8a929ef1c0c9247f5ca5bd9b3d3dad01b3c0d2d6d1a0b4352643cc9004043526",
    ];

    fn ring(numbers: &[u32]) -> AuditKeysBuilder {
        let secret = || KeySource::memory(Secret::generate().unwrap());
        let keys = numbers.iter();
        keys.fold(AuditKeys::builder(), |ring, n| ring.key(*n, secret()))
    }

    /// Golden, computed apart from this crate (Python).
    #[test]
    fn a_fingerprint_is_a_mac_over_its_salt() {
        let secret =
            Secret::parse("8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90");
        let keys = AuditKeys::single(secret.unwrap());
        let print = |salt| keys.fingerprint(1, &TenantId::single(), salt).unwrap();
        assert_eq!(
            hex::encode(print([0x5a; 16]).tag),
            "4647ed0b5b8bee46ffc46597d77b7dcd"
        );
        assert!(print([1; 16]).is(&print([1; 16])));
        assert!(!print([1; 16]).is(&print([2; 16])));
        assert_eq!(keys.fingerprint(2, &TenantId::single(), [0; 16]), None);
    }

    #[test]
    fn a_keyring_begins_with_its_newest_key_unless_told_otherwise() {
        let keys = ring(&[2, 7, 1]).build().unwrap();
        assert_eq!(keys.key_id(), 7);
        assert_eq!(keys.key_ids().collect::<Vec<_>>(), [1, 2, 7]);
        assert_eq!(ring(&[1, 2]).current(1).build().unwrap().key_id(), 1);
        for (ring, error) in [
            (ring(&[]), KeyError::Empty),
            (ring(&[0]), KeyError::Number),
            (ring(&[1, 1]), KeyError::Repeated { number: 1 }),
            (ring(&[1]).current(2), KeyError::Missing { number: 2 }),
        ] {
            assert_eq!(ring.build().unwrap_err(), error);
        }
        let secret = Secret::generate().unwrap().to_hex();
        let same = |ring: AuditKeysBuilder, n| {
            ring.key(n, KeySource::memory(Secret::parse(&secret).unwrap()))
        };
        let twice = same(same(AuditKeys::builder(), 1), 2);
        assert_eq!(
            twice.build().unwrap_err(),
            KeyError::SameSecret { number: 2 }
        );
        for bad in ["", "1", "x=env:A", "1=A", "1=env:A,"] {
            assert!(AuditKeys::builder().list(bad).is_err(), "{bad}");
        }
        assert!(AuditKeys::builder().list("1=file:/a, 2=env:B").is_ok());
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret::generate().unwrap().to_hex();
        let source = || KeySource::memory(Secret::parse(&secret).unwrap());
        let ring = AuditKeys::builder().key(1, source());
        let shown = format!("{ring:?}");
        let keys = ring.build().unwrap();
        let key = keys.derive(&TenantId::single(), Purpose::Chain);
        let shown = format!("{shown} {keys:?} {key:?}");
        assert!(!shown.contains(secret.split_at(8).0), "{shown}");
    }

    /// Derived keys are kept, a bounded number of them, and wiped as they go.
    #[test]
    fn derived_keys_are_kept_in_bounds() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        // What an HMAC keeps of its key: two states of the hash, and a buffer that goes with them.
        wiped::<Sha256>();

        let keys = ring(&[1, 2]).build().unwrap();
        let tag = |n: u32| {
            let tenant = TenantId::parse(format!("t-{n}")).unwrap();
            let key = keys.derive_under(n % 2 + 1, &tenant, Purpose::Chain);
            key.unwrap().tag(&[b"x"])
        };
        let before: Vec<_> = (0..3_000).map(tag).collect();
        assert_eq!(keys.ring.derived.len(), 1_024);
        let after: Vec<_> = (0..3_000).map(tag).collect();
        assert_eq!(before, after);
    }
}
