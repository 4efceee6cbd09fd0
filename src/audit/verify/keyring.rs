//! The keys that entries were written under, by their numbers.

use crate::audit::keys::{AuditKeys, MacKey, Purpose};
use crate::audit::rotate::Marker;
use crate::ids::TenantId;

/// The chain keys of one tenant.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Keyring {
    keys: Vec<(u32, MacKey)>,
    ring: AuditKeys,
    tenant: TenantId,
}

impl Keyring {
    pub(in crate::audit) fn new(keys: &AuditKeys, tenant: &TenantId) -> Self {
        let chain = |id| Some((id, keys.derive_under(id, tenant, Purpose::Chain)?));
        Self {
            keys: keys.key_ids().filter_map(chain).collect(),
            ring: keys.clone(),
            tenant: tenant.clone(),
        }
    }

    pub(in crate::audit) fn key(&self, id: u32) -> Option<&MacKey> {
        self.keys
            .iter()
            .find(|(known, _)| *known == id)
            .map(|(_, key)| key)
    }

    /// Whether the fingerprints in the entries of a rotation are those of our keys.
    pub(in crate::audit) fn fits(&self, marker: &Marker) -> bool {
        marker.fits(&self.ring, &self.tenant)
    }
}
