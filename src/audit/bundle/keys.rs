//! The agents' public keys that a bundle needs: from the entries that put them on record, and, in a
//! bundle, checked against these.

use std::collections::{BTreeMap, BTreeSet};

use super::line::KeyLine;
use super::text::{Hex, Moment};
use crate::audit::AuditError;
use crate::audit::identity::{AgentKeyId, PublicKey, Registry, Said, Wrong, read_record};
use crate::audit::kind::Kind;
use crate::audit::row::Row;
use crate::audit::store::checkpoint::fetch_range_of;
use crate::audit::store::identity::list_key_entries;
use crate::audit::stored::Stored;
use crate::ids::AgentId;
use crate::store::{Store, StoreError};

/// The most keys that a bundle may list.
const MAX_KEYS: usize = 100_000;

type Place = (String, [u8; 16]);

/// The keys on record under the first `size` leaves; with `used`, only those.
pub(super) async fn on_record(
    store: &Store,
    size: u64,
    used: Option<&BTreeSet<Vec<u8>>>,
) -> Result<Vec<KeyLine>, AuditError> {
    let malformed = || StoreError::malformed("read the agents' keys");
    let mut lines: BTreeMap<Place, KeyLine> = BTreeMap::new();
    for fetched in list_key_entries(store).await? {
        let read = fetched.stored(store.tenant()).map_err(|_| malformed())?;
        // One that cannot be read is found when the tree is.
        let Ok(stored) = read else { continue };
        let Some(said) = read_record(&stored.row) else {
            continue;
        };
        let (chain_no, seq) = (stored.row.chain_no, stored.row.seq);
        let Some(range) = fetch_range_of(store, chain_no, seq).await? else {
            continue;
        };
        let leaf = range.first_leaf + (seq - range.from_seq);
        let Some(id) = said_of(&said) else { continue };
        if leaf >= size || used.is_some_and(|used| !used.contains(id.as_slice())) {
            continue;
        }
        match said {
            Said::Registered(agent, key) => {
                let place = (agent.as_str().to_owned(), id);
                let line = lines.entry(place).or_insert_with(|| KeyLine {
                    agent: agent.as_str().to_owned(),
                    id: Hex(id.to_vec()),
                    not_after: None,
                    public: Hex(key.as_bytes().to_vec()),
                    registered: leaf,
                    revoked: None,
                });
                line.registered = line.registered.min(leaf);
            }
            Said::Revoked(Some(agent), _, effective) => {
                if let Some(line) = lines.get_mut(&(agent.as_str().to_owned(), id)) {
                    let known = line.not_after.zip(line.revoked);
                    let this = (Moment(effective), leaf);
                    let first = known.map_or(this, |known| known.min(this));
                    (line.not_after, line.revoked) = (Some(first.0), Some(first.1));
                }
            }
            // The keys of processes sign heads, which no bundle has.
            Said::Process(..) | Said::Revoked(None, ..) => {}
        }
    }
    Ok(lines.into_values().collect())
}

/// The id of the agent's key that an entry is about.
fn said_of(said: &Said) -> Option<[u8; 16]> {
    match said {
        Said::Registered(_, key) => Some(*key.id().as_bytes()),
        Said::Revoked(Some(_), id, _) => Some(*id.as_bytes()),
        Said::Process(..) | Said::Revoked(None, ..) => None,
    }
}

/// The keys that a bundle lists, and which of them its entries bear out.
#[derive(Debug, Default)]
pub(super) struct Listed {
    registry: Registry,
    lines: BTreeMap<Place, (KeyLine, bool, bool)>,
}

impl Listed {
    /// Takes a line; says what is wrong with it.
    pub(super) fn take(&mut self, line: KeyLine) -> Option<&'static str> {
        let Ok(agent) = AgentId::parse(&line.agent) else {
            return Some("the key's agent has no name");
        };
        let public = line.public.0.as_slice().try_into().ok();
        let Some(key) = public.and_then(PublicKey::parse) else {
            return Some("the public key is none, or one that anybody can sign for");
        };
        let id = *key.id().as_bytes();
        if line.id.0 != id {
            return Some("the key's id is not that of the public key");
        }
        if line.not_after.is_some() != line.revoked.is_some() {
            return Some("a revocation without its moment, or a moment without its entry");
        }
        let place = (line.agent.clone(), id);
        if self
            .lines
            .last_key_value()
            .is_some_and(|(last, _)| *last >= place)
        {
            return Some("the keys are not in their order, or one stands twice");
        }
        if self.lines.len() >= MAX_KEYS {
            return Some("more than 100,000 keys");
        }
        self.registry.register(agent.clone(), key);
        if let (Some(moment), Some(id)) = (line.not_after, AgentKeyId::stored(&id)) {
            self.registry.revoke(Some(&agent), id, moment.0);
        }
        let borne_out = (false, line.revoked.is_none());
        self.lines.insert(place, (line, borne_out.0, borne_out.1));
        None
    }

    /// Takes a proved entry at `leaf` that may say something about a listed key; says what is wrong.
    pub(super) fn hear(&mut self, row: &Row<'_>, leaf: u64) -> Option<&'static str> {
        if !is_key_entry(row.kind) {
            return None;
        }
        let said = read_record(row)?;
        let id = said_of(&said)?;
        match said {
            Said::Registered(agent, key) => {
                let (line, registered, _) = self.lines.get_mut(&(agent.as_str().to_owned(), id))?;
                let same = line.public.0 == *key.as_bytes();
                *registered |= same && line.registered == leaf;
                None
            }
            Said::Revoked(Some(agent), _, effective) => {
                let (line, _, revoked) = self.lines.get_mut(&(agent.as_str().to_owned(), id))?;
                let Some(listed) = line.not_after.filter(|listed| listed.0 <= effective) else {
                    return Some("the entry revokes a key from an earlier moment than is listed");
                };
                *revoked |= line.revoked == Some(leaf) && listed.0 == effective;
                None
            }
            Said::Process(..) | Said::Revoked(None, ..) => None,
        }
    }

    /// What is wrong with an entry's signature.
    pub(super) fn wrong(&self, stored: &Stored<'_>) -> Option<Wrong> {
        self.registry.wrong(stored)
    }

    /// Whether an entry that is shown bears out each listed key.
    pub(super) fn all_borne_out(&self) -> bool {
        let mut all = self.lines.values();
        all.all(|(_, registered, revoked)| *registered && *revoked)
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }
}

/// Whether entries of this kind say whose keys are whose.
pub(super) fn is_key_entry(kind: &str) -> bool {
    kind == Kind::IdentityKeyRegistered.as_str() || kind == Kind::IdentityKeyRevoked.as_str()
}
