//! Row v1: the bytes that a MAC covers. Normative; golden vectors are in the tests.
//!
//! `mac = HMAC-SHA256(key, row || field(previous mac))`, where `row` is the label
//! `portcullis/row/v1` and the fields below, in this order, each absent or length-prefixed as
//! [`canon`](crate::canon) writes them. Integers are big-endian; times are microseconds since 1970;
//! UUIDs are their sixteen bytes. The first entry of a chain follows [`GENESIS`].

use super::keys::{MacKey, Tag};
use crate::canon::Fields;

const LABEL: &str = "portcullis/row/v1";

/// What the first entry of a chain follows.
pub(crate) const GENESIS: Tag = [0; 32];

/// One entry's fields as they are stored, before anything is parsed.
///
/// The writer fills it from a draft and the verifier from the database, so that there is one
/// encoding and not two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row<'r> {
    pub(crate) tenant: &'r str,
    pub(crate) chain_no: u32,
    pub(crate) seq: u64,
    pub(crate) key_id: u32,
    pub(crate) kind: &'r str,
    pub(crate) occurred_us: i64,
    pub(crate) recorded_us: i64,
    pub(crate) event_id: &'r [u8],
    pub(crate) session: Option<&'r str>,
    pub(crate) agent: Option<&'r str>,
    pub(crate) user: Option<&'r str>,
    pub(crate) agent_key: Option<&'r [u8]>,
    pub(crate) parent: Option<&'r [u8]>,
    pub(crate) model: Option<&'r str>,
    pub(crate) input_hash: Option<&'r [u8]>,
    pub(crate) output_hash: Option<&'r [u8]>,
    pub(crate) decision: Option<&'r str>,
    pub(crate) metadata: &'r str,
    pub(crate) sealed: Option<&'r [u8]>,
    pub(crate) ingest: &'r str,
    pub(crate) origin_journal: Option<&'r [u8]>,
    pub(crate) origin_seq: Option<u64>,
    pub(crate) origin_mac: Option<&'r [u8]>,
}

impl Row<'_> {
    /// Writes the row's bytes, the previous MAC not included, into `out`.
    pub(crate) fn encode(&self, out: &mut Fields) {
        out.restart(LABEL);
        out.present(self.tenant.as_bytes())
            .present(&self.chain_no.to_be_bytes())
            .present(&self.seq.to_be_bytes())
            .present(&self.key_id.to_be_bytes())
            .present(self.kind.as_bytes())
            .present(&self.occurred_us.to_be_bytes())
            .present(&self.recorded_us.to_be_bytes())
            .present(self.event_id)
            .text(self.session)
            .text(self.agent)
            .text(self.user)
            .maybe(self.agent_key)
            .maybe(self.parent)
            .text(self.model)
            .maybe(self.input_hash)
            .maybe(self.output_hash)
            .text(self.decision)
            .present(self.metadata.as_bytes())
            .maybe(self.sealed)
            .present(self.ingest.as_bytes())
            .maybe(self.origin_journal)
            .maybe(
                self.origin_seq
                    .map(u64::to_be_bytes)
                    .as_ref()
                    .map(<[u8; 8]>::as_slice),
            )
            .maybe(self.origin_mac);
    }
}

/// The MAC of the row whose bytes are `encoded`, after `previous`.
pub(crate) fn mac(key: &MacKey, encoded: &Fields, previous: &Tag) -> Tag {
    mac_of(key, encoded.as_bytes(), previous)
}

/// The MAC of the row with the bytes `encoded`, after `previous`.
pub(crate) fn mac_of(key: &MacKey, encoded: &[u8], previous: &Tag) -> Tag {
    // The previous MAC is a field too: present, 32 bytes long.
    key.tag(&[encoded, &[1, 0, 0, 0, 32], previous])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::keys::{AuditKeys, Purpose, sha256};
    use crate::ids::TenantId;
    use crate::secret::Secret;

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
            agent_key: None,
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

    fn bytes(row: &Row<'_>) -> Vec<u8> {
        let mut fields = Fields::default();
        row.encode(&mut fields);
        fields.as_bytes().to_vec()
    }

    /// Golden, computed apart from this crate (Python: struct, hmac, hashlib).
    #[test]
    fn golden_row() {
        let secret = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
        let keys = AuditKeys::single(Secret::parse(secret).unwrap());
        let key = keys.derive(&TenantId::parse("acme").unwrap(), Purpose::Chain);
        let mut fields = Fields::default();
        sample().encode(&mut fields);
        assert_eq!(
            hex::encode(sha256(fields.as_bytes())),
            "8955ba41a76ee1ea14203dcb80c837df71e5c3c112566566be7149567d79a35c"
        );
        let first = mac(&key, &fields, &GENESIS);
        assert_eq!(
            hex::encode(first),
            "21cf1a16698b65d23c1ff06df573fda296df5280ba46140c131a3e05ad072365"
        );
        assert_eq!(
            hex::encode(mac(&key, &fields, &first)),
            "dd6f7eb71f130f185149069179f507ed38c78183a58c7d1e924722b5d2fa6f32"
        );
    }

    #[test]
    fn every_field_is_in_the_bytes() {
        let a = sample();
        let changed = [
            Row {
                tenant: "acmf",
                ..a
            },
            Row { chain_no: 8, ..a },
            Row { seq: 43, ..a },
            Row { key_id: 2, ..a },
            Row {
                kind: "tool.call.failed",
                ..a
            },
            Row {
                occurred_us: 0,
                ..a
            },
            Row {
                recorded_us: 0,
                ..a
            },
            Row {
                event_id: &[0x12; 16],
                ..a
            },
            Row { session: None, ..a },
            Row {
                agent: Some("billing-agenT"),
                ..a
            },
            Row {
                user: Some(""),
                ..a
            },
            Row {
                agent_key: Some(&[]),
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
                decision: Some("deny"),
                ..a
            },
            Row {
                metadata: "{}",
                ..a
            },
            Row {
                sealed: Some(&[0; 32]),
                ..a
            },
            Row {
                ingest: "import",
                ..a
            },
            Row {
                origin_journal: Some(&[0; 16]),
                ..a
            },
            Row {
                origin_seq: Some(0),
                ..a
            },
            Row {
                origin_mac: Some(&[0; 32]),
                ..a
            },
        ];
        for (i, other) in changed.iter().enumerate() {
            assert_ne!(bytes(&a), bytes(other), "field {i}");
            for later in &changed[i + 1..] {
                assert_ne!(bytes(other), bytes(later));
            }
        }
    }
}
