//! Events that wait in the outbox: an entry in the making, under a MAC of its own.
//!
//! The MAC covers all that is stored of the event, in the way of [`row`](super::row): what stands in
//! the outbox without our key's word for it is never chained as ours.

use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::keys::{MacKey, Tag};
use super::kind::Kind;
use super::model::{Draft, Ingest, Signed};
use crate::canon::{Fields, Metadata};
use crate::ids::{AgentId, EventId, ModelName, SessionId, TenantId, UserId};
use crate::time::Timestamp;

const LABEL: &str = "portcullis/outbox/v1";

/// One row of the outbox, before anything of it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) place: Uuid,
    pub(super) event_id: Uuid,
    pub(super) key_id: i64,
    pub(super) kind: String,
    pub(super) occurred_at: Timestamp,
    pub(super) occurred_given: bool,
    pub(super) session_id: Option<String>,
    pub(super) agent_id: Option<String>,
    pub(super) user_id: Option<String>,
    pub(super) agent_key: Option<Vec<u8>>,
    pub(super) parent_id: Option<Uuid>,
    pub(super) model: Option<String>,
    pub(super) input_hash: Option<Vec<u8>>,
    pub(super) output_hash: Option<Vec<u8>>,
    pub(super) decision: Option<String>,
    pub(super) metadata: String,
    pub(super) signature: Option<Vec<u8>>,
    pub(super) mac: Vec<u8>,
}

/// Why a row of the outbox is left where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A column cannot be read.
    Torn,
    /// It names a key that we do not have.
    Key,
    /// It is not as it was written, or we never wrote it.
    Mac,
    /// Ours, but not understood: a later version wrote it.
    Content,
    /// Its event's id is on record with another content.
    IdReused,
    /// The database does not take it as an entry.
    Refused,
}

impl Unfit {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Torn => "a column cannot be read",
            Self::Key => "it names a key that this process does not have",
            Self::Mac => "its MAC is wrong: it was edited, or never written by us",
            Self::Content => "it cannot be understood; a later version may have written it",
            Self::IdReused => "its event's id is on record with another content",
            Self::Refused => "the database does not take it as an entry",
        }
    }
}

impl Queued {
    /// The row of `draft` at `place`, under the key `key_id`.
    pub(super) fn seal(
        draft: Draft,
        place: Uuid,
        tenant: &TenantId,
        key_id: u32,
        key: &MacKey,
    ) -> Self {
        let (agent_key, signature) = match draft.signed {
            Some(signed) => (Some(signed.key.to_vec()), Some(signed.signature.to_vec())),
            None => (None, None),
        };
        let mut queued = Self {
            place,
            event_id: draft.id.as_uuid(),
            key_id: i64::from(key_id),
            kind: draft.kind.as_str().to_owned(),
            occurred_at: draft.occurred,
            occurred_given: draft.occurred_given,
            session_id: draft.session.map(|id| id.as_str().to_owned()),
            agent_id: draft.agent.map(|id| id.as_str().to_owned()),
            user_id: draft.user.map(|id| id.as_str().to_owned()),
            agent_key,
            parent_id: draft.parent.map(EventId::as_uuid),
            model: draft.model.map(|name| name.as_str().to_owned()),
            input_hash: draft.input.map(|hash| hash.to_vec()),
            output_hash: draft.output.map(|hash| hash.to_vec()),
            decision: draft.decision,
            metadata: draft.metadata.as_str().to_owned(),
            signature,
            mac: Vec::new(),
        };
        queued.mac = queued.tag(tenant, key).to_vec();
        queued
    }

    /// The event, if it is ours and as it was written.
    pub(super) fn open(self, tenant: &TenantId, key: &MacKey) -> Result<Draft, Unfit> {
        if !bool::from(self.tag(tenant, key).as_slice().ct_eq(&self.mac)) {
            return Err(Unfit::Mac);
        }
        self.draft().ok_or(Unfit::Content)
    }

    fn tag(&self, tenant: &TenantId, key: &MacKey) -> Tag {
        let mut fields = Fields::labelled(LABEL);
        fields
            .present(tenant.as_str().as_bytes())
            .present(self.place.as_bytes())
            .present(self.event_id.as_bytes())
            .present(&self.key_id.to_be_bytes())
            .present(self.kind.as_bytes())
            .present(&self.occurred_at.as_micros().to_be_bytes())
            .present(&[u8::from(self.occurred_given)])
            .text(self.session_id.as_deref())
            .text(self.agent_id.as_deref())
            .text(self.user_id.as_deref())
            .maybe(self.agent_key.as_deref())
            .maybe(self.parent_id.as_ref().map(|id| id.as_bytes().as_slice()))
            .text(self.model.as_deref())
            .maybe(self.input_hash.as_deref())
            .maybe(self.output_hash.as_deref())
            .text(self.decision.as_deref())
            .present(self.metadata.as_bytes())
            .maybe(self.signature.as_deref());
        key.tag(&[fields.as_bytes()])
    }

    fn draft(self) -> Option<Draft> {
        let signed = match (self.agent_key, self.signature) {
            (Some(key), Some(signature)) => Some(Signed {
                key: key.try_into().ok()?,
                signature: signature.try_into().ok()?,
            }),
            (None, None) => None,
            _ => return None,
        };
        Some(Draft {
            id: EventId::from_uuid(self.event_id),
            kind: Kind::parse(&self.kind)?,
            occurred: self.occurred_at,
            occurred_given: self.occurred_given,
            session: self.session_id.map(SessionId::parse).transpose().ok()?,
            agent: self.agent_id.map(AgentId::parse).transpose().ok()?,
            user: self.user_id.map(UserId::parse).transpose().ok()?,
            parent: self.parent_id.map(EventId::from_uuid),
            model: self.model.map(ModelName::parse).transpose().ok()?,
            input: self.input_hash.map(TryInto::try_into).transpose().ok()?,
            output: self.output_hash.map(TryInto::try_into).transpose().ok()?,
            // Not kept: an event that is queued again is compared by the hashes that were made.
            content: [None; 2],
            decision: self.decision,
            metadata: Metadata::stored(self.metadata),
            signed,
            ingest: Ingest::Transaction(self.place),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::keys::{AuditKeys, Purpose};
    use crate::secret::Secret;

    fn key() -> MacKey {
        let secret = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
        AuditKeys::single(Secret::parse(secret).unwrap())
            .derive(&TenantId::single(), Purpose::Outbox)
    }

    fn draft() -> Draft {
        Draft {
            id: EventId::from_uuid(Uuid::from_bytes([0x11; 16])),
            kind: Kind::parse("app.invoice.paid").unwrap(),
            occurred: Timestamp::from_micros(1_767_225_600_000_000),
            occurred_given: false,
            session: Some(SessionId::parse("s-1").unwrap()),
            agent: Some(AgentId::parse("billing-agent").unwrap()),
            user: None,
            parent: Some(EventId::from_uuid(Uuid::from_bytes([0x22; 16]))),
            model: Some(ModelName::parse("gpt-4o-mini").unwrap()),
            input: Some([0x33; 32]),
            output: None,
            decision: Some("allow".to_owned()),
            content: [None; 2],
            metadata: Metadata::stored(r#"{"n":1}"#.to_owned()),
            signed: Some(Signed {
                key: [0x44; 16],
                signature: [0x55; 64],
            }),
            ingest: Ingest::Live,
        }
    }

    fn sealed() -> Queued {
        let place = Uuid::from_bytes([0x66; 16]);
        Queued::seal(draft(), place, &TenantId::single(), 1, &key())
    }

    #[test]
    fn what_is_opened_is_what_was_sealed() {
        let opened = sealed().open(&TenantId::single(), &key()).unwrap();
        let again = Queued::seal(opened, sealed().place, &TenantId::single(), 1, &key());
        assert_eq!(again, sealed());
    }

    /// Golden, computed apart from this crate (Python: struct, hmac, hashlib).
    #[test]
    fn golden_mac() {
        assert_eq!(
            hex::encode(sealed().mac),
            "196366d372ae15e1e5d1e9959e6cb2eeec5bdbb53b18305ddce976077309de05"
        );
    }

    #[test]
    fn every_column_is_under_the_mac_and_so_are_tenant_and_key() {
        let changes: [fn(&mut Queued); 17] = [
            |row| row.place = Uuid::nil(),
            |row| row.event_id = Uuid::nil(),
            |row| row.key_id = 2,
            |row| row.kind = "app.invoice.paid2".to_owned(),
            |row| row.occurred_at = Timestamp::from_micros(0),
            |row| row.occurred_given = true,
            |row| row.session_id = None,
            |row| row.agent_id = Some("other".to_owned()),
            |row| row.user_id = Some("u".to_owned()),
            |row| row.agent_key = None,
            |row| row.parent_id = None,
            |row| row.model = None,
            |row| row.input_hash = None,
            |row| row.output_hash = Some(vec![0x33; 32]),
            |row| row.decision = Some("deny".to_owned()),
            |row| row.metadata = "{}".to_owned(),
            |row| row.signature = Some(vec![0; 64]),
        ];
        for change in changes {
            let mut row = sealed();
            change(&mut row);
            let opened = row.open(&TenantId::single(), &key());
            assert_eq!(opened.unwrap_err(), Unfit::Mac);
        }
        for mac in [Vec::new(), vec![0; 32], sealed().mac[..31].to_vec()] {
            let row = Queued { mac, ..sealed() };
            assert_eq!(
                row.open(&TenantId::single(), &key()).unwrap_err(),
                Unfit::Mac
            );
        }
        let other = TenantId::parse("other").unwrap();
        assert_eq!(sealed().open(&other, &key()).unwrap_err(), Unfit::Mac);
        let keys = AuditKeys::single(Secret::generate().unwrap());
        let theirs = keys.derive(&TenantId::single(), Purpose::Outbox);
        let opened = sealed().open(&TenantId::single(), &theirs);
        assert_eq!(opened.unwrap_err(), Unfit::Mac);
    }
}
