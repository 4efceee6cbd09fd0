//! What a signature covers. Normative; a golden vector is in the tests.
//!
//! SHA-256 over the label `portcullis/agent-sig/v1` and the fields below, in this order, each absent
//! or length-prefixed as [`canon`](crate::canon) writes them. The place in the chain is not covered,
//! nor when it was recorded: the agent signs what happened, and the event's id is used once.

use crate::audit::keys::{Tag, sha256};
use crate::audit::model::Draft;
use crate::audit::row::Row;
use crate::canon::Fields;
use crate::ids::TenantId;

const LABEL: &str = "portcullis/agent-sig/v1";

/// Of a draft, which `key` is about to sign.
pub(super) fn of_draft(tenant: &TenantId, key: &[u8; 16], draft: &Draft) -> Tag {
    of(&Row {
        tenant: tenant.as_str(),
        chain_no: 0,
        seq: 0,
        key_id: 0,
        kind: draft.kind.as_str(),
        occurred_us: draft.occurred.as_micros(),
        recorded_us: 0,
        event_id: draft.id.as_bytes(),
        session: draft.session.as_ref().map(AsRef::as_ref),
        agent: draft.agent.as_ref().map(AsRef::as_ref),
        user: draft.user.as_ref().map(AsRef::as_ref),
        agent_key: Some(key),
        parent: draft.parent.as_ref().map(|id| id.as_bytes().as_slice()),
        model: draft.model.as_ref().map(AsRef::as_ref),
        input_hash: draft.input.as_ref().map(Tag::as_slice),
        output_hash: draft.output.as_ref().map(Tag::as_slice),
        decision: draft.decision.as_deref(),
        metadata: draft.metadata.as_str(),
        sealed: None,
        ingest: "",
        origin_journal: None,
        origin_seq: None,
        origin_mac: None,
    })
}

/// Of an entry.
pub(super) fn of(row: &Row<'_>) -> Tag {
    let mut fields = Fields::labelled(LABEL);
    fields
        .present(row.tenant.as_bytes())
        .present(row.event_id)
        .present(row.kind.as_bytes())
        .present(&row.occurred_us.to_be_bytes())
        .text(row.session)
        .text(row.agent)
        .text(row.user)
        .maybe(row.agent_key)
        .maybe(row.parent)
        .text(row.model)
        .maybe(row.input_hash)
        .maybe(row.output_hash)
        .text(row.decision)
        .present(row.metadata.as_bytes());
    sha256(fields.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Row<'static> {
        Row {
            tenant: "acme",
            chain_no: 7,
            seq: 42,
            key_id: 1,
            kind: "tool.call.completed",
            occurred_us: 1_767_225_600_000_000,
            recorded_us: 1_767_225_600_000_001,
            event_id: &[0x11; 16],
            session: Some("s-1"),
            agent: Some("billing-agent"),
            user: None,
            agent_key: Some(&[0x44; 16]),
            parent: Some(&[0x22; 16]),
            model: Some("gpt-4o-mini"),
            input_hash: Some(&[0x33; 32]),
            output_hash: None,
            decision: Some("allow"),
            metadata: r#"{"tool":"refund"}"#,
            sealed: None,
            ingest: "live",
            origin_journal: None,
            origin_seq: None,
            origin_mac: None,
        }
    }

    /// Golden, computed apart from this crate (Python).
    #[test]
    fn golden_digest() {
        assert_eq!(
            hex::encode(of(&sample())),
            "0fd8267f19b47f7352082122ff203acf166920d05a7265f74b142e12bb780884"
        );
    }

    #[test]
    fn what_happened_is_covered_and_its_place_is_not() {
        let a = sample();
        let changed = [
            Row { tenant: "b", ..a },
            Row { kind: "app.x", ..a },
            Row {
                occurred_us: 0,
                ..a
            },
            Row {
                event_id: &[0x12; 16],
                ..a
            },
            Row { session: None, ..a },
            Row { agent: None, ..a },
            Row {
                user: Some("u"),
                ..a
            },
            Row {
                agent_key: None,
                ..a
            },
            Row { parent: None, ..a },
            Row { model: None, ..a },
            Row {
                input_hash: None,
                ..a
            },
            Row {
                output_hash: Some(&[0x33; 32]),
                ..a
            },
            Row {
                decision: None,
                ..a
            },
            Row {
                metadata: "{}",
                ..a
            },
        ];
        for (i, other) in changed.iter().enumerate() {
            assert_ne!(of(&a), of(other), "field {i}");
        }
        let elsewhere = Row {
            chain_no: 8,
            seq: 1,
            key_id: 2,
            recorded_us: 0,
            ..a
        };
        assert_eq!(of(&a), of(&elsewhere));
    }
}
