//! Several secrets under their numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AuditKeys, KeyError, KeySource, Ring};

/// Puts a keyring together. The newest key is the one with the highest number.
///
/// ```no_run
/// use portcullis::audit::{AuditKeys, KeySource};
///
/// let keys = AuditKeys::builder()
///     .key(1, KeySource::file("/etc/portcullis/audit-1.key"))
///     .key(2, KeySource::file("/etc/portcullis/audit-2.key"))
///     .build()?;
/// # Ok::<(), portcullis::audit::KeyError>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a keyring is made by build"]
pub struct AuditKeysBuilder {
    keys: Vec<(u32, KeySource)>,
    current: Option<u32>,
}

impl AuditKeysBuilder {
    /// Adds the key with this number.
    ///
    /// Keep old keys for as long as what was written under them is to be verified. Numbers begin
    /// with 1 and are never used again.
    pub fn key(mut self, number: u32, source: KeySource) -> Self {
        self.keys.push((number, source));
        self
    }

    /// The key that a tenant without entries begins with (the highest number).
    ///
    /// For a tenant that has entries, its keyring in the database says which key is current, and
    /// [`Audit::rotate`](crate::audit::Audit::rotate) changes it. Set this while some of the
    /// processes do not have the newest key yet.
    pub const fn current(mut self, number: u32) -> Self {
        self.current = Some(number);
        self
    }

    /// Reads the secrets.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if one of them cannot be read or is weak, or the numbers are not right.
    pub fn build(self) -> Result<AuditKeys, KeyError> {
        let mut secrets = BTreeMap::new();
        for (number, source) in self.keys {
            if number == 0 {
                return Err(KeyError::Number);
            }
            let secret = Arc::new(source.load()?);
            if secrets.values().any(|known| *known == secret) {
                return Err(KeyError::SameSecret { number });
            }
            if secrets.insert(number, secret).is_some() {
                return Err(KeyError::Repeated { number });
            }
        }
        let newest = secrets.keys().next_back().copied();
        let key_id = self.current.or(newest).ok_or(KeyError::Empty)?;
        let current = secrets
            .get(&key_id)
            .cloned()
            .ok_or(KeyError::Missing { number: key_id })?;
        Ok(AuditKeys {
            ring: Arc::new(Ring::new(secrets)),
            key_id,
            current,
        })
    }

    /// Adds the keys of a list such as `1=file:/etc/audit-1.key,2=env:AUDIT_2`.
    ///
    /// # Errors
    ///
    /// [`KeyError::List`] or [`KeyError::Reference`] if it is no such list. Nothing is read yet, and
    /// nothing of the text is repeated.
    pub fn list(mut self, text: &str) -> Result<Self, KeyError> {
        for item in text.split(',') {
            let (number, reference) = item.split_once('=').ok_or(KeyError::List)?;
            let number = number.trim().parse().map_err(|_| KeyError::List)?;
            self = self.key(number, KeySource::parse(reference)?);
        }
        Ok(self)
    }
}
