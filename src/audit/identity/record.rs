//! The entries that put keys on record and take them off.

use serde_json::Value;

use super::key::{AgentKey, AgentKeyId, PublicKey};
use crate::audit::keys::sha256;
use crate::audit::kind::Kind;
use crate::audit::model::AuditEvent;
use crate::audit::row::Row;
use crate::call::Principal;
use crate::canon::Fields;
use crate::ids::{AgentId, EventId, TenantId};
use crate::time::Timestamp;

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
    let mut id = [0; 16];
    for (slot, byte) in id.iter_mut().zip(sha256(fields.as_bytes())) {
        *slot = byte;
    }
    let id = uuid::Builder::from_custom_bytes(id).into_uuid();
    about(key.agent(), Kind::IdentityKeyRegistered)
        .with_id(EventId::from_uuid(id))
        .with("alg", "ed25519")
        .with("key", key.id().to_string())
        .with("public_key", hex::encode(key.public_key()))
        .with("ephemeral", key.is_ephemeral())
}

/// That the agent's key is not to be believed after `effective`, or after the entry itself.
pub(super) fn revoked(
    agent: &AgentId,
    key: AgentKeyId,
    effective: Option<Timestamp>,
) -> AuditEvent {
    let event = about(agent, Kind::IdentityKeyRevoked).with("key", key.to_string());
    match effective {
        Some(moment) => event.with("effective", moment.to_string()),
        None => event,
    }
}

/// An event that names the agent and is no part of a session.
fn about(agent: &AgentId, kind: Kind) -> AuditEvent {
    let mut event = AuditEvent::system(Some(&Principal::agent(agent.clone())), kind);
    event.session = None;
    event
}

/// What such an entry says.
pub(super) enum Said {
    Registered(AgentId, PublicKey),
    Revoked(AgentId, AgentKeyId, Timestamp),
}

/// Reads an entry; `None` if it is none of the two, or says nothing that can be used.
pub(super) fn read(row: &Row<'_>) -> Option<Said> {
    let agent = AgentId::parse(row.agent?).ok()?;
    let Ok(Value::Object(said)) = serde_json::from_str(row.metadata) else {
        return None;
    };
    let text = |name| said.get(name)?.as_str();
    if row.kind == Kind::IdentityKeyRegistered.as_str() {
        let mut public = [0; 32];
        hex::decode_to_slice(text("public_key")?, &mut public).ok()?;
        let known = text("alg")? == "ed25519";
        return Some(Said::Registered(agent, PublicKey::parse(&public)?)).filter(|_| known);
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
