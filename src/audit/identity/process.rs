//! A process's own key, and what it signs: where a chain ended after each of its batches.
//!
//! Normative: the signature is over the SHA-256 of the label `portcullis/head-sig/v1` and the
//! fields tenant, chain, id of the key, last place and last MAC, as [`canon`](crate::canon) writes
//! them, integers big-endian. A golden vector is in the tests.
//!
//! The last MAC covers everything before it in its chain, so one signature attests all of a batch
//! and what came before. It is made once for each commit, by the writer and not by a caller.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::key::{AgentKeyId, read_seed};
use crate::audit::keys::{KeyError, KeySource, Tag, sha256};
use crate::audit::model::Signed;
use crate::canon::Fields;
use crate::ids::TenantId;
use crate::secret::WeakSecret;

const LABEL: &str = "portcullis/head-sig/v1";

/// Whether a process signs where its chains end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadPolicy {
    /// No.
    #[default]
    None,
    /// Yes. Others may write to the tenant's chains without: a verification lists what stands after
    /// the last signed head as not proved by it.
    Sign,
    /// Yes, and so does every process of the tenant. It is on record with the key, and from there on
    /// what stands after the last signed head is a finding.
    Require,
}

/// What a process signs the heads of its chains with.
pub struct ProcessKey {
    id: AgentKeyId,
    signing: SigningKey,
    ephemeral: bool,
}

impl ProcessKey {
    /// A key kept outside: a seed of 32 bytes, raw or as hex or base64 (`openssl rand -hex 32`).
    ///
    /// Processes may share one, or have one each. It proves most where whoever has the audit secret
    /// does not have it.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it cannot be read, is weak, or is not 32 bytes.
    pub fn load(source: KeySource) -> Result<Self, KeyError> {
        read_seed(source, |seed| Self::of(seed, false))
    }

    /// A key that is forgotten with the process, and marked so on record.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the operating system has no randomness.
    pub fn ephemeral() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|_| WeakSecret::NoRandomness)?;
        Ok(Self::of(&seed, true))
    }

    fn of(seed: &[u8; 32], ephemeral: bool) -> Self {
        let signing = SigningKey::from_bytes(seed);
        Self {
            id: AgentKeyId::of_process(signing.verifying_key().as_bytes()),
            signing,
            ephemeral,
        }
    }

    /// By which signatures name it. Never the id of an agent's key, be the seed the same.
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

    pub(super) fn sign(&self, head: &SignedHead<'_>) -> Signed {
        let key = *self.id.as_bytes();
        Signed {
            key,
            signature: self.signing.sign(&head.digest(&key)).to_bytes(),
        }
    }
}

impl fmt::Debug for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Where a chain ends: what is signed.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct SignedHead<'h> {
    pub(in crate::audit) tenant: &'h TenantId,
    pub(in crate::audit) chain_no: u32,
    /// The last entry.
    pub(in crate::audit) seq: u64,
    pub(in crate::audit) mac: &'h Tag,
}

impl SignedHead<'_> {
    pub(super) fn digest(&self, key: &[u8; 16]) -> Tag {
        let mut fields = Fields::labelled(LABEL);
        fields
            .present(self.tenant.as_str().as_bytes())
            .present(&self.chain_no.to_be_bytes())
            .present(key)
            .present(&self.seq.to_be_bytes())
            .present(self.mac);
        sha256(fields.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::identity::AgentKey;
    use crate::audit::identity::key::PublicKey;
    use crate::ids::AgentId;
    use crate::secret::Secret;

    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    fn key() -> ProcessKey {
        ProcessKey::load(KeySource::memory(Secret::parse(SEED).unwrap())).unwrap()
    }

    /// Golden, computed apart from this crate (Python: struct, hashlib).
    #[test]
    fn golden_digest() {
        let tenant = TenantId::parse("acme").unwrap();
        let head = SignedHead {
            tenant: &tenant,
            chain_no: 7,
            seq: 42,
            mac: &[0x33; 32],
        };
        assert_eq!(
            hex::encode(head.digest(&[0x44; 16])),
            "9bd22d38c962f291a44df32e687d1396221dd6b1dc0e34145689fc7bfb5a171d"
        );
    }

    #[test]
    fn a_head_is_covered_in_all_that_names_it() {
        let (tenant, other) = (TenantId::single(), TenantId::parse("other").unwrap());
        let key = key();
        let head = SignedHead {
            tenant: &tenant,
            chain_no: 7,
            seq: 42,
            mac: &[0x33; 32],
        };
        let signed = key.sign(&head);
        let public = PublicKey::parse(&key.public_key()).unwrap();
        assert!(public.verify(&head.digest(&signed.key), &signed.signature));
        let elsewhere = [
            SignedHead {
                tenant: &other,
                ..head
            },
            SignedHead {
                chain_no: 8,
                ..head
            },
            SignedHead { seq: 41, ..head },
            SignedHead {
                mac: &[0x34; 32],
                ..head
            },
        ];
        for head in elsewhere {
            assert!(
                !public.verify(&head.digest(&signed.key), &signed.signature),
                "{head:?}"
            );
        }
        assert!(!public.verify(&head.digest(&[0; 16]), &signed.signature));
    }

    #[test]
    fn a_process_key_is_no_agents_key_though_the_seed_is_the_same() {
        let source = KeySource::memory(Secret::parse(SEED).unwrap());
        let agent = AgentKey::load(AgentId::parse("a").unwrap(), source).unwrap();
        assert_eq!(agent.public_key(), key().public_key());
        assert_ne!(agent.id(), key().id());
        assert!(!format!("{:?}", key()).contains("9d61b1"));
        assert_ne!(
            ProcessKey::ephemeral().unwrap().id(),
            ProcessKey::ephemeral().unwrap().id()
        );
    }
}
