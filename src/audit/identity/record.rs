//! The entries that put keys on record and take them off.

use serde_json::Value;

use super::key::{AgentKey, AgentKeyId, PublicKey};
use super::process::{HeadPolicy, ProcessKey};
use crate::audit::keys::sha256;
use crate::audit::kind::Kind;
use crate::audit::model::AuditEvent;
use crate::audit::row::Row;
use crate::call::Principal;
use crate::canon::Fields;
use crate::ids::{AgentId, EventId, TenantId};
use crate::time::Timestamp;

/// What a process's key signs, as its entries say.
const HEADS: &str = "heads";

/// That `key` is its agent's.
///
/// Its event id is made of the tenant and the key, so that every process that has the key records
/// it, and it is on record once.
pub(super) fn registered(tenant: &TenantId, key: &AgentKey) -> AuditEvent {
    let mut fields = Fields::labelled("portcullis/agent-key-registration/v1");
    fields
        .present(tenant.as_str().as_bytes())
        .present(key.agent().as_str().as_bytes())
        .present(key.id().as_bytes());
    about(Some(key.agent()), Kind::IdentityKeyRegistered)
        .with_id(made_of(&fields))
        .with("alg", "ed25519")
        .with("key", key.id().to_string())
        .with("public_key", hex::encode(key.public_key()))
        .with("ephemeral", key.is_ephemeral())
}

/// That `key` signs heads, and whether every process of the tenant does. Once on record for each key
/// and policy.
pub(super) fn process_registered(
    tenant: &TenantId,
    key: &ProcessKey,
    policy: HeadPolicy,
) -> AuditEvent {
    let required = policy == HeadPolicy::Require;
    let mut fields = Fields::labelled("portcullis/process-key-registration/v1");
    fields
        .present(tenant.as_str().as_bytes())
        .present(key.id().as_bytes())
        .present(&[u8::from(required)]);
    about(None, Kind::IdentityKeyRegistered)
        .with_id(made_of(&fields))
        .with("alg", "ed25519")
        .with("key", key.id().to_string())
        .with("public_key", hex::encode(key.public_key()))
        .with("ephemeral", key.is_ephemeral())
        .with("signs", HEADS)
        .with("required", required)
}

/// That entries of an agent, or heads, went unsigned since `since`, so many of them, and why.
pub(super) fn unsigned(
    agent: Option<&AgentId>,
    count: u64,
    since: Timestamp,
    reason: &str,
) -> AuditEvent {
    let event = about(agent, Kind::IdentityUnsignedLocalFailure)
        .with("count", count)
        .with("since", since.to_string())
        .with("reason", reason);
    match agent {
        Some(_) => event,
        None => event.with("signs", HEADS),
    }
}

/// An id made of what `fields` say, the same for whoever says it.
fn made_of(fields: &Fields) -> EventId {
    let mut id = [0; 16];
    for (slot, byte) in id.iter_mut().zip(sha256(fields.as_bytes())) {
        *slot = byte;
    }
    EventId::from_uuid(uuid::Builder::from_custom_bytes(id).into_uuid())
}

/// That the key, an agent's or a process's, is not to be believed after `effective`, or after the
/// entry itself.
pub(super) fn revoked(
    agent: Option<&AgentId>,
    key: AgentKeyId,
    effective: Option<Timestamp>,
) -> AuditEvent {
    let event = about(agent, Kind::IdentityKeyRevoked).with("key", key.to_string());
    match effective {
        Some(moment) => event.with("effective", moment.to_string()),
        None => event,
    }
}

/// An event that may name an agent and is no part of a session.
fn about(agent: Option<&AgentId>, kind: Kind) -> AuditEvent {
    let who = agent.map(|agent| Principal::agent(agent.clone()));
    let mut event = AuditEvent::system(who.as_ref(), kind);
    event.session = None;
    event
}

/// What such an entry says.
pub(in crate::audit) enum Said {
    Registered(AgentId, PublicKey),
    /// A process's key, and whether every process signs.
    Process(PublicKey, bool),
    /// An agent's, or without an agent a process's.
    Revoked(Option<AgentId>, AgentKeyId, Timestamp),
}

/// Reads an entry; `None` if it is none of the two, or says nothing that can be used.
pub(in crate::audit) fn read(row: &Row<'_>) -> Option<Said> {
    let agent = row.agent.map(AgentId::parse).transpose().ok()?;
    let Ok(Value::Object(said)) = serde_json::from_str(row.metadata) else {
        return None;
    };
    let text = |name| said.get(name)?.as_str();
    if row.kind == Kind::IdentityKeyRegistered.as_str() {
        let mut public = [0; 32];
        hex::decode_to_slice(text("public_key")?, &mut public).ok()?;
        let key = PublicKey::parse(&public).filter(|_| text("alg") == Some("ed25519"))?;
        return match agent {
            Some(agent) => Some(Said::Registered(agent, key)),
            None if text("signs")? == HEADS => {
                Some(Said::Process(key, said.get("required")?.as_bool()?))
            }
            None => None,
        };
    }
    if row.kind == Kind::IdentityKeyRevoked.as_str() {
        let mut id = [0; 16];
        hex::decode_to_slice(text("key")?, &mut id).ok()?;
        let effective = match said.get("effective") {
            None => Timestamp::from_micros(row.recorded_us),
            Some(moment) => Timestamp::parse(moment.as_str()?).ok()?,
        };
        return Some(Said::Revoked(agent, AgentKeyId::stored(&id)?, effective));
    }
    None
}
