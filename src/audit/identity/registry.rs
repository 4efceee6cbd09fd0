//! The keys that are on record, as a verification needs them.

use std::collections::HashMap;

use super::digest;
use super::key::{AgentKeyId, PublicKey};
use super::record::{Said, read};
use crate::audit::stored::Stored;
use crate::ids::AgentId;
use crate::time::Timestamp;

/// Every key that is on record for the tenant.
#[derive(Debug, Default)]
pub(in crate::audit) struct Registry {
    keys: HashMap<AgentKeyId, Registered>,
}

#[derive(Debug)]
struct Registered {
    key: PublicKey,
    /// Usually one.
    agents: Vec<AgentId>,
    /// The earliest moment after which it is not believed.
    revoked: Option<Timestamp>,
}

impl Registry {
    /// Takes what an entry says whose MAC is right. Registrations come before revocations.
    pub(in crate::audit) fn take(&mut self, stored: &Stored<'_>) {
        match read(&stored.row) {
            Some(Said::Registered(agent, key)) => {
                let known = self.keys.entry(key.id()).or_insert_with(|| Registered {
                    key,
                    agents: Vec::new(),
                    revoked: None,
                });
                if !known.agents.contains(&agent) {
                    known.agents.push(agent);
                }
            }
            Some(Said::Revoked(agent, id, effective)) => {
                if let Some(known) = self.keys.get_mut(&id)
                    && known.agents.contains(&agent)
                {
                    let earliest = known.revoked.map_or(effective, |at| at.min(effective));
                    known.revoked = Some(earliest);
                }
            }
            None => {}
        }
    }

    /// What is wrong with the signature of an entry whose MAC is right.
    pub(in crate::audit) fn fault(&self, stored: &Stored<'_>) -> Option<&'static str> {
        let row = &stored.row;
        let (id, signature) = match (row.agent_key, stored.signature) {
            (None, None) => return None,
            (Some(id), Some(signature)) => (id, signature),
            (Some(_), None) => {
                return Some("the entry names the key that signed it, and has no signature");
            }
            (None, Some(_)) => return Some("the entry has a signature, and names no key"),
        };
        let Some(known) = AgentKeyId::stored(id).and_then(|id| self.keys.get(&id)) else {
            return Some("the entry is signed by a key that is not on record");
        };
        let agent = row.agent;
        if !known
            .agents
            .iter()
            .any(|known| Some(known.as_str()) == agent)
        {
            return Some("the entry is signed by a key of another agent");
        }
        if known
            .revoked
            .is_some_and(|at| row.recorded_us > at.as_micros())
        {
            return Some("the entry is signed by a key that was revoked before");
        }
        let sound = signature
            .try_into()
            .is_ok_and(|signature| known.key.verify(&digest::of(row), signature));
        (!sound).then_some("the signature is not the agent's for this entry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::identity::AgentKey;
    use crate::audit::identity::record::{registered, revoked};
    use crate::audit::keys::{AuditKeys, Purpose, Tag};
    use crate::audit::model::{AuditEvent, Draft};
    use crate::audit::row::Row;
    use crate::ids::TenantId;
    use crate::secret::Secret;

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    fn sealed(event: AuditEvent) -> Draft {
        let keys = AuditKeys::single(Secret::generate().unwrap());
        let content = keys.derive(&TenantId::single(), Purpose::Content);
        event.seal(Timestamp::from_micros(5), &content).unwrap()
    }

    /// The entry of a draft, recorded at `recorded_us`.
    fn row(draft: &Draft, recorded_us: i64) -> Row<'_> {
        Row {
            tenant: "default",
            chain_no: 1,
            seq: 9,
            key_id: 1,
            kind: draft.kind.as_str(),
            occurred_us: draft.occurred.as_micros(),
            recorded_us,
            event_id: draft.id.as_bytes(),
            session: draft.session.as_ref().map(AsRef::as_ref),
            agent: draft.agent.as_ref().map(AsRef::as_ref),
            user: draft.user.as_ref().map(AsRef::as_ref),
            agent_key: draft.signed.as_ref().map(|signed| signed.key.as_slice()),
            parent: None,
            model: None,
            input_hash: draft.input.as_ref().map(Tag::as_slice),
            output_hash: draft.output.as_ref().map(Tag::as_slice),
            decision: draft.decision.as_deref(),
            metadata: draft.metadata.as_str(),
            sealed: None,
            ingest: "live",
            origin_journal: None,
            origin_seq: None,
            origin_mac: None,
        }
    }

    fn stored<'r>(row: &Row<'r>, signature: Option<&'r [u8]>) -> Stored<'r> {
        Stored {
            row: *row,
            mac: None,
            signature,
        }
    }

    fn put(registry: &mut Registry, event: AuditEvent, recorded_us: i64) {
        registry.take(&stored(&row(&sealed(event), recorded_us), None));
    }

    fn signed(key: &AgentKey, by: &AgentId) -> Draft {
        let who = crate::call::Principal::agent(by.clone());
        let event = AuditEvent::new(&who, "app.x").input(b"in").with("n", 1);
        let mut draft = sealed(event);
        let tenant = TenantId::single();
        let digest = digest::of_draft(&tenant, key.id().as_bytes(), &draft);
        draft.signed = Some(key.sign(&digest));
        draft
    }

    fn fault(registry: &Registry, draft: &Draft, recorded_us: i64) -> Option<&'static str> {
        let signature = draft.signed.as_ref().map(|s| s.signature.as_slice());
        registry.fault(&stored(&row(draft, recorded_us), signature))
    }

    #[test]
    fn a_signature_holds_for_its_agent_and_until_its_key_is_revoked() {
        let (a, b) = (agent("a"), agent("b"));
        let key = AgentKey::ephemeral(a.clone()).unwrap();
        let mut registry = Registry::default();
        let draft = signed(&key, &a);
        assert!(
            fault(&registry, &draft, 5)
                .unwrap()
                .contains("not on record")
        );
        put(&mut registry, registered(&TenantId::single(), &key), 1);
        assert_eq!(fault(&registry, &draft, 5), None);
        // Another agent's entry, though the signature is right.
        let borrowed = fault(&registry, &signed(&key, &b), 5);
        assert!(borrowed.unwrap().contains("another agent"));

        // Somebody else cannot revoke it; the earliest revocation counts.
        put(&mut registry, revoked(&b, key.id(), None), 2);
        assert_eq!(fault(&registry, &draft, 5), None);
        put(&mut registry, revoked(&a, key.id(), None), 100);
        assert_eq!(fault(&registry, &draft, 100), None);
        assert!(fault(&registry, &draft, 101).unwrap().contains("revoked"));
        let since = Timestamp::from_micros(50);
        put(&mut registry, revoked(&a, key.id(), Some(since)), 200);
        assert_eq!(fault(&registry, &draft, 50), None);
        assert!(fault(&registry, &draft, 51).unwrap().contains("revoked"));
    }

    #[test]
    fn a_changed_or_missing_signature_is_a_fault_and_so_is_one_of_another_entry() {
        let a = agent("a");
        let key = AgentKey::ephemeral(a.clone()).unwrap();
        let mut registry = Registry::default();
        put(&mut registry, registered(&TenantId::single(), &key), 1);
        let draft = signed(&key, &a);
        let good = draft.signed.clone().unwrap().signature;
        let of = |signature: Option<&[u8]>| registry.fault(&stored(&row(&draft, 5), signature));
        assert_eq!(of(Some(good.as_slice())), None);
        for at in 0..64 {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(of(Some(&bad)).is_some(), "byte {at}");
        }
        assert!(of(None).is_some());
        assert!(of(Some(&good[..63])).is_some());
        let other = signed(&key, &a).signed.unwrap().signature;
        assert!(of(Some(&other)).is_some(), "moved");
        let mut unsigned = draft.clone();
        unsigned.signed = None;
        assert_eq!(fault(&registry, &unsigned, 5), None);
        let stray = registry.fault(&stored(&row(&unsigned, 5), Some(&good)));
        assert!(stray.unwrap().contains("names no key"));
    }

    /// A registration of a key that anybody can sign for registers nothing.
    #[test]
    fn a_weak_key_on_record_is_none() {
        let a = agent("a");
        let key = AgentKey::ephemeral(a.clone()).unwrap();
        let draft = sealed(registered(&TenantId::single(), &key));
        let weak = format!("01{}", "00".repeat(31));
        let metadata = draft
            .metadata
            .as_str()
            .replace(&hex::encode(key.public_key()), &weak);
        let mut registry = Registry::default();
        let row = Row {
            metadata: &metadata,
            ..row(&draft, 1)
        };
        registry.take(&stored(&row, None));
        assert!(registry.keys.is_empty());
    }
}
