//! The keys that are on record, as a verification needs them.

use std::collections::HashMap;

use super::digest;
use super::key::{AgentKeyId, PublicKey};
use super::process::SignedHead;
use super::record::{Said, read};
use crate::audit::stored::Stored;
use crate::ids::AgentId;
use crate::time::Timestamp;

/// How far apart the clocks of two processes may be, in microseconds; further is seen in health.
const SKEW: i64 = 5_000_000;
/// The ways on which an entry may be for longer than a call takes.
const INDIRECT: [&str; 2] = ["journal", "transaction"];

/// Every key that is on record for the tenant.
#[derive(Debug, Default)]
pub(in crate::audit) struct Registry {
    keys: HashMap<AgentKeyId, Registered>,
    processes: HashMap<AgentKeyId, Process>,
    /// When it was first on record, in microseconds, that heads are signed; and that all are.
    signed: Option<i64>,
    required: Option<i64>,
}

#[derive(Debug)]
struct Process {
    key: PublicKey,
    revoked: Option<Timestamp>,
}

/// What is wrong with the signature of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) enum Wrong {
    /// It does not hold.
    Fault(&'static str),
    /// It is the key's, which was revoked before the entry was recorded; the entry came on a way that
    /// takes time, and does not say that it happened later. Nothing shows when it was signed.
    Late,
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
            Some(Said::Registered(agent, key)) => self.register(agent, key),
            Some(Said::Process(key, required)) => {
                let at = stored.row.recorded_us;
                let earliest = |known: Option<i64>| Some(known.map_or(at, |known| known.min(at)));
                self.signed = earliest(self.signed);
                if required {
                    self.required = earliest(self.required);
                }
                self.processes
                    .entry(key.process_id())
                    .or_insert(Process { key, revoked: None });
            }
            Some(Said::Revoked(agent, id, effective)) => {
                self.revoke(agent.as_ref(), id, effective);
            }
            None => {}
        }
    }

    /// The key is the agent's.
    pub(in crate::audit) fn register(&mut self, agent: AgentId, key: PublicKey) {
        let known = self.keys.entry(key.id()).or_insert_with(|| Registered {
            key,
            agents: Vec::new(),
            revoked: None,
        });
        if !known.agents.contains(&agent) {
            known.agents.push(agent);
        }
    }

    /// The key of the agent, or without one a process's, holds no longer.
    pub(in crate::audit) fn revoke(
        &mut self,
        agent: Option<&AgentId>,
        id: AgentKeyId,
        effective: Timestamp,
    ) {
        let revoked = match agent {
            Some(agent) => {
                let known = self.keys.get_mut(&id);
                let known = known.filter(|known| known.agents.contains(agent));
                known.map(|known| &mut known.revoked)
            }
            None => self.processes.get_mut(&id).map(|known| &mut known.revoked),
        };
        if let Some(revoked) = revoked {
            *revoked = Some(revoked.map_or(effective, |at| at.min(effective)));
        }
    }

    /// Since when it is on record that heads are signed, in microseconds, and whether all are.
    pub(in crate::audit) fn heads_signed(&self) -> Option<(i64, bool)> {
        match (self.required, self.signed) {
            (Some(required), _) => Some((required, true)),
            (None, signed) => Some((signed?, false)),
        }
    }

    /// What is wrong with the signature of a head by the key `id`, whose last entry was recorded at
    /// `recorded`.
    pub(in crate::audit) fn head_fault(
        &self,
        head: &SignedHead<'_>,
        recorded: Timestamp,
        id: &[u8],
        signature: &[u8],
    ) -> Option<&'static str> {
        let id = AgentKeyId::stored(id);
        let Some((id, known)) = id.and_then(|id| Some((id, self.processes.get(&id)?))) else {
            return Some("the head is signed by a key that is not on record as a process's");
        };
        if known.revoked.is_some_and(|at| recorded > at) {
            return Some("the head is signed by a key that was revoked before");
        }
        let sound = signature
            .try_into()
            .is_ok_and(|signature| known.key.verify(&head.digest(id.as_bytes()), signature));
        (!sound).then_some("the signature is not the process's for this head")
    }

    /// What is wrong with the signature of an entry whose MAC is right.
    pub(in crate::audit) fn wrong(&self, stored: &Stored<'_>) -> Option<Wrong> {
        let row = &stored.row;
        let fault = |detail| Some(Wrong::Fault(detail));
        let (id, signature) = match (row.agent_key, stored.signature) {
            (None, None) => return None,
            (Some(id), Some(signature)) => (id, signature),
            (Some(_), None) => {
                return fault("the entry names the key that signed it, and has no signature");
            }
            (None, Some(_)) => return fault("the entry has a signature, and names no key"),
        };
        let Some(known) = AgentKeyId::stored(id).and_then(|id| self.keys.get(&id)) else {
            return fault("the entry is signed by a key that is not on record");
        };
        let agent = row.agent;
        if !known
            .agents
            .iter()
            .any(|known| Some(known.as_str()) == agent)
        {
            return fault("the entry is signed by a key of another agent");
        }
        let sound = signature
            .try_into()
            .is_ok_and(|signature| known.key.verify(&digest::of(row), signature));
        if !sound {
            return fault("the signature is not the agent's for this entry");
        }
        let revoked = known.revoked?.as_micros();
        if row.recorded_us <= revoked {
            return None;
        }
        if !INDIRECT.contains(&row.ingest) {
            return fault("the entry is signed by a key that was revoked before");
        }
        // The signature covers when it happened, as its signer says: a thief says what suits him, so
        // that only what speaks against it counts.
        if row.occurred_us > revoked.saturating_add(SKEW) {
            return fault("the entry says itself that it happened after its key was revoked");
        }
        Some(Wrong::Late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::identity::AgentKey;
    use crate::audit::identity::record::{process_registered, registered, revoked};
    use crate::audit::identity::{HeadPolicy, ProcessKey};
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
        detail(registry.wrong(&stored(&row(draft, recorded_us), signature)))
    }

    fn detail(wrong: Option<Wrong>) -> Option<&'static str> {
        match wrong? {
            Wrong::Fault(detail) => Some(detail),
            Wrong::Late => Some("late"),
        }
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
        put(&mut registry, revoked(Some(&b), key.id(), None), 2);
        assert_eq!(fault(&registry, &draft, 5), None);
        put(&mut registry, revoked(Some(&a), key.id(), None), 100);
        assert_eq!(fault(&registry, &draft, 100), None);
        assert!(fault(&registry, &draft, 101).unwrap().contains("revoked"));
        let since = Timestamp::from_micros(50);
        put(&mut registry, revoked(Some(&a), key.id(), Some(since)), 200);
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
        let of = |signature: Option<&[u8]>| registry.wrong(&stored(&row(&draft, 5), signature));
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
        let stray = registry.wrong(&stored(&row(&unsigned, 5), Some(&good)));
        assert!(detail(stray).unwrap().contains("names no key"));
    }

    /// Whoever has the key can say of an entry that it happened long ago; nobody can show that it did.
    #[test]
    fn what_came_late_is_undecided_unless_it_speaks_against_itself() {
        let a = agent("a");
        let key = AgentKey::ephemeral(a.clone()).unwrap();
        let mut registry = Registry::default();
        put(&mut registry, registered(&TenantId::single(), &key), 1);
        let at = Timestamp::from_micros(50);
        put(&mut registry, revoked(Some(&a), key.id(), Some(at)), 200);
        let wrong = |draft: &Draft, ingest, recorded_us| {
            let signature = draft.signed.as_ref().map(|s| s.signature.as_slice());
            let row = Row {
                ingest,
                ..row(draft, recorded_us)
            };
            detail(registry.wrong(&stored(&row, signature)))
        };
        let early = signed(&key, &a);
        assert!(early.occurred < at);
        let mut late = signed(&key, &a);
        late.occurred = Timestamp::from_micros(50 + SKEW + 1);
        let digest = digest::of_draft(&TenantId::single(), key.id().as_bytes(), &late);
        late.signed = Some(key.sign(&digest));
        for ingest in INDIRECT {
            assert_eq!(wrong(&early, ingest, 50), None, "recorded in time");
            assert_eq!(wrong(&early, ingest, 51), Some("late"), "{ingest}");
            assert!(wrong(&late, ingest, 51).unwrap().contains("says itself"));
        }
        for ingest in ["live", "import"] {
            assert!(wrong(&early, ingest, 51).unwrap().contains("revoked"));
        }
        // What is not the key's at all is not undecided.
        let mut forged = early.clone();
        forged.decision = Some("allow".to_owned());
        assert!(
            wrong(&forged, "journal", 51)
                .unwrap()
                .contains("not the agent's")
        );
    }

    #[test]
    fn a_head_holds_by_a_process_key_on_record_until_it_is_revoked() {
        let tenant = TenantId::single();
        let (key, agents) = (ProcessKey::ephemeral().unwrap(), agent("a"));
        let head = SignedHead {
            tenant: &tenant,
            chain_no: 1,
            seq: 9,
            mac: &[7; 32],
        };
        let signed = key.sign(&head);
        let mut registry = Registry::default();
        let fault = |registry: &Registry, head: &SignedHead<'_>, at| {
            let at = Timestamp::from_micros(at);
            registry.head_fault(head, at, &signed.key, &signed.signature)
        };
        assert!(
            fault(&registry, &head, 5)
                .unwrap()
                .contains("not on record")
        );
        assert_eq!(registry.heads_signed(), None);
        // On record as an agent's it is no process's.
        let agents_key = AgentKey::ephemeral(agents.clone()).unwrap();
        put(&mut registry, registered(&tenant, &agents_key), 1);
        let borrowed = registry.head_fault(
            &head,
            Timestamp::from_micros(5),
            agents_key.id().as_bytes(),
            &signed.signature,
        );
        assert!(borrowed.unwrap().contains("not on record"));
        put(
            &mut registry,
            process_registered(&tenant, &key, HeadPolicy::Sign),
            3,
        );
        assert_eq!(registry.heads_signed(), Some((3, false)));
        put(
            &mut registry,
            process_registered(&tenant, &key, HeadPolicy::Require),
            4,
        );
        assert_eq!(registry.heads_signed(), Some((4, true)));
        assert_eq!(fault(&registry, &head, 5), None);
        assert!(fault(&registry, &SignedHead { seq: 8, ..head }, 5).is_some());
        // An agent's revocation is not a process's.
        put(&mut registry, revoked(Some(&agents), key.id(), None), 5);
        assert_eq!(fault(&registry, &head, 6), None);
        put(&mut registry, revoked(None, key.id(), None), 7);
        assert_eq!(fault(&registry, &head, 7), None);
        assert!(fault(&registry, &head, 8).unwrap().contains("revoked"));
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
