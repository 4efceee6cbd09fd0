//! The keys that entries were written under, by their numbers.

use crate::audit::keys::{AuditKeys, MacKey, Purpose};
use crate::ids::TenantId;

/// The chain keys of one tenant.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Keyring {
    keys: Vec<(u32, MacKey)>,
}

impl Keyring {
    pub(in crate::audit) fn new(keys: &AuditKeys, tenant: &TenantId) -> Self {
        Self {
            keys: vec![(keys.key_id(), keys.derive(tenant, Purpose::Chain))],
        }
    }

    pub(in crate::audit) fn key(&self, id: u32) -> Option<&MacKey> {
        self.keys
            .iter()
            .find(|(known, _)| *known == id)
            .map(|(_, key)| key)
    }
}
