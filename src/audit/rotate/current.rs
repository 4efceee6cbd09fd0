//! Which key this process writes under, or why it must not write at all.

use crate::audit::error::AuditError;
use crate::audit::keys::AuditKeys;
use crate::audit::store::keyring::{Current, StoredKey};
use crate::ids::TenantId;

/// What the keyring asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) enum Choice {
    /// Write under this key.
    Use(u32),
    /// There is no keyring yet: begin one with this key, and look again.
    Begin(u32),
}

/// Why this process must not write. It never falls back to an older key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) enum Locked {
    NotHeld { current: u32 },
    Wrong { key_id: u32 },
    SetBack { current: u32, newest: u32 },
}

impl From<Locked> for AuditError {
    fn from(locked: Locked) -> Self {
        match locked {
            Locked::NotHeld { current } => Self::KeyNotHeld { current },
            Locked::Wrong { key_id } => Self::WrongKey { key_id },
            Locked::SetBack { current, newest } => Self::KeySetBack { current, newest },
        }
    }
}

/// What to do about what is stored. `known` is the newest key that this process has written under.
pub(in crate::audit) fn choose(
    keys: &AuditKeys,
    tenant: &TenantId,
    stored: &Current,
    known: u32,
) -> Result<Choice, Locked> {
    let newest = stored.chains.unwrap_or(0).max(known);
    let Some(key) = stored.key else {
        let first = if newest > 0 { newest } else { keys.key_id() };
        return if keys.key_ids().any(|id| id == first) {
            Ok(Choice::Begin(first))
        } else {
            Err(Locked::NotHeld { current: first })
        };
    };
    let current = key.key_id;
    if current < newest {
        return Err(Locked::SetBack { current, newest });
    }
    match keys.fingerprint(current, tenant, key.fingerprint.salt) {
        None => Err(Locked::NotHeld { current }),
        Some(ours) if ours.is(&key.fingerprint) => Ok(Choice::Use(current)),
        Some(_) => Err(Locked::Wrong { key_id: current }),
    }
}

/// The key with this number as the keyring stores it, under a new salt; `None` if it is not here,
/// or the operating system has no randomness.
pub(in crate::audit) fn to_store(
    keys: &AuditKeys,
    tenant: &TenantId,
    key_id: u32,
) -> Option<StoredKey> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).ok()?;
    Some(StoredKey {
        key_id,
        fingerprint: keys.fingerprint(key_id, tenant, salt)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::keys::KeySource;
    use crate::secret::Secret;

    #[test]
    fn a_process_writes_under_the_current_key_or_not_at_all() {
        let tenant = TenantId::single();
        let secrets: Vec<_> = (0..3)
            .map(|_| Secret::generate().unwrap().to_hex())
            .collect();
        let ring = |numbers: &[usize]| {
            let ring = numbers.iter().fold(AuditKeys::builder(), |ring, n| {
                let number = u32::try_from(*n).unwrap();
                let secret = Secret::parse(&secrets[n - 1]).unwrap();
                ring.key(number, KeySource::memory(secret))
            });
            ring.build().unwrap()
        };
        let both = ring(&[1, 2]);
        let stored = |key_id| Current {
            key: to_store(&both, &tenant, key_id),
            chains: Some(key_id),
        };
        let none = Current {
            key: None,
            chains: None,
        };
        let choose =
            |keys: &AuditKeys, stored: &Current, known| choose(keys, &tenant, stored, known);
        assert_eq!(choose(&both, &stored(1), 0), Ok(Choice::Use(1)));
        assert_eq!(choose(&both, &stored(2), 1), Ok(Choice::Use(2)));
        assert_eq!(
            choose(&ring(&[1]), &stored(2), 1),
            Err(Locked::NotHeld { current: 2 })
        );
        // Another secret under the same number.
        let wrong = AuditKeys::single(Secret::generate().unwrap());
        assert_eq!(
            choose(&wrong, &stored(1), 0),
            Err(Locked::Wrong { key_id: 1 })
        );
        // A keyring that was set back, seen by the chains or by what was written.
        let set_back = Locked::SetBack {
            current: 1,
            newest: 2,
        };
        assert_eq!(choose(&both, &stored(1), 2), Err(set_back));
        let beside = Current {
            chains: Some(2),
            ..stored(1)
        };
        assert_eq!(choose(&both, &beside, 0), Err(set_back));
        // A clean install, and one whose keyring was lost.
        assert_eq!(choose(&both, &none, 0), Ok(Choice::Begin(2)));
        let lost = Current {
            key: None,
            chains: Some(1),
        };
        assert_eq!(choose(&both, &lost, 0), Ok(Choice::Begin(1)));
        assert_eq!(
            choose(&ring(&[3]), &lost, 0),
            Err(Locked::NotHeld { current: 1 })
        );
    }
}
