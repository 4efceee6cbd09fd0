//! Requests that were made while the store was away, kept by the audit journal: whichever process
//! drains it stores them.

use std::sync::{Arc, Weak};

use serde_json::{Value, json};

use super::core::Core;
use super::error::GateError;
use super::store::NewRequest;
use crate::audit::{Metadata, Note, Redeem, Redeemed};
use crate::error::ErrorKind;
use crate::ids::{EventId, RequestId};

/// Whose notes they are.
pub(super) const MODULE: &str = "gates";

impl Core {
    /// Has the journal keep `new`, synced.
    pub(super) async fn write_note(&self, new: &NewRequest) -> Result<(), GateError> {
        let payload = Metadata::new(&write(new)).map_err(crate::audit::AuditError::from)?;
        let note = Note {
            id: EventId::new(),
            module: MODULE.to_owned(),
            payload,
        };
        self.audit.note(note).await.map_err(GateError::Audit)
    }

    /// Stores what a note says. The same note twice stores it once, by its id; one about a call for
    /// which a request lives already stores nothing.
    async fn redeem(&self, note: &Note) -> Redeemed {
        let Some(new) = read(&note.payload.to_value()) else {
            return Redeemed::Never;
        };
        match self.store_kept(&new).await {
            Ok(()) => Redeemed::Done,
            Err(error) if error.kind() == ErrorKind::Unavailable => Redeemed::Later,
            Err(error) => {
                tracing::error!(id = %new.id, %error, "a request for approval could not be stored from the journal");
                Redeemed::Never
            }
        }
    }
}

/// What takes the notes of this module.
pub(super) fn taker(core: &Arc<Core>) -> Redeem {
    // Weak: the gate has the trail, and the trail has this.
    let core: Weak<Core> = Arc::downgrade(core);
    Arc::new(move |note| {
        let core = core.clone();
        Box::pin(async move {
            match core.upgrade() {
                Some(core) => core.redeem(&note).await,
                None => Redeemed::Later,
            }
        })
    })
}

fn write(new: &NewRequest) -> Value {
    json!({
        "request": new.id.to_string(),
        "call": new.is_call,
        "label": new.label,
        "agent": new.agent,
        "session": new.session,
        "user": new.user,
        "operator": new.operator,
        "ancestors": new.ancestors,
        "digest": hex::encode(new.call_digest),
        "frame": hex::encode(new.frame_digest),
        "policy": new.policy_hash,
        "approvers": new.approvers,
        "quorum": new.quorum,
        "barred": new.barred,
        "operator_known": new.operator_known,
        "life": new.life_micros,
    })
}

fn read(value: &Value) -> Option<NewRequest> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let owned = |key: &str| text(key).map(str::to_owned);
    let list = |key: &str| -> Option<Vec<String>> {
        let items = value.get(key)?.as_array()?.iter();
        items.map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let digest = |key: &str| -> Option<[u8; 32]> { hex::decode(text(key)?).ok()?.try_into().ok() };
    Some(NewRequest {
        id: RequestId::parse(text("request")?).ok()?,
        is_call: flag("call")?,
        label: owned("label")?,
        agent: owned("agent")?,
        session: owned("session")?,
        user: owned("user"),
        operator: owned("operator"),
        ancestors: list("ancestors")?,
        call_digest: digest("digest")?,
        frame_digest: digest("frame")?,
        policy_hash: owned("policy")?,
        approvers: list("approvers")?,
        quorum: value.get("quorum")?.as_u64()?.try_into().ok()?,
        barred: list("barred")?,
        operator_known: flag("operator_known")?,
        life_micros: value.get("life")?.as_i64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f43_a_request_is_read_back_as_it_was_written() {
        for user in [None, Some("u_17".to_owned())] {
            let new = NewRequest {
                id: RequestId::new(),
                is_call: true,
                label: "refund".to_owned(),
                agent: "billing".to_owned(),
                session: "s".to_owned(),
                user,
                operator: Some("dana".to_owned()),
                ancestors: vec!["planner s".to_owned()],
                call_digest: [7; 32],
                frame_digest: [9; 32],
                policy_hash: "a".repeat(64),
                approvers: vec!["user:erin".to_owned(), "team:finance".to_owned()],
                quorum: 2,
                barred: vec!["billing".to_owned(), "dana".to_owned()],
                operator_known: true,
                life_micros: 900_000_000,
            };
            let payload = Metadata::new(&write(&new)).unwrap();
            let kept = read(&payload.to_value()).unwrap();
            assert_eq!(format!("{kept:?}"), format!("{new:?}"));
        }
        assert!(read(&json!({})).is_none());
    }
}
