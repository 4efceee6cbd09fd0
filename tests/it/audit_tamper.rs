//! Tampering, as data: what is done to the trail, and exactly what must be found.

use portcullis::audit::FindingClass::{
    BadMac, Encoding, Fork, Gap, Rollback, Time, Truncated, UnknownKey,
};
use portcullis::audit::{Scope, Verdict};
use portcullis::{ErrorKind, SessionId};

use crate::trail::{Found, Trail, found};

/// The entries that are changed: the first, one that has everything, one that has little, the last.
const PLACES: [u64; 4] = [1, 6, 7, 12];

/// Columns and what they are changed to; any of it is one bad MAC at its place.
const CONTENT: &[(&str, &[&str])] = &[
    (
        "kind",
        &[
            "'app.other'",
            "'tool.call.completed'",
            "kind || 'x'",
            "upper(kind)",
        ],
    ),
    (
        "occurred_at",
        &["occurred_at + interval '1 microsecond'", "'infinity'"],
    ),
    (
        "recorded_at",
        &[
            "recorded_at - interval '1 microsecond'",
            "recorded_at + interval '1 day'",
            "'-infinity'",
        ],
    ),
    ("event_id", &["gen_random_uuid()"]),
    ("session_id", &["'other'", "NULL", "''"]),
    ("agent_id", &["'other'", "NULL"]),
    ("user_id", &["'other'", "NULL"]),
    ("agent_key", &["'\\x01'", "''"]),
    ("parent_id", &["gen_random_uuid()", "NULL", "event_id"]),
    ("model", &["'other'", "NULL"]),
    (
        "input_hash",
        &["sha256('x')", "NULL", "output_hash", "'\\x00'"],
    ),
    ("output_hash", &["sha256('x')", "NULL", "input_hash"]),
    ("decision", &["'deny'", "NULL"]),
    (
        "metadata",
        &[
            "'{\"n\":999}'",
            "metadata || ' '",
            "''",
            "replace(metadata, 'ä', 'a') || E'\\n'",
        ],
    ),
    ("sealed", &["sha256('x')", "''"]),
    ("ingest", &["'import'", "''"]),
    ("origin_journal", &["gen_random_uuid()"]),
    ("origin_seq", &["1", "-1"]),
    ("origin_mac", &["sha256('x')"]),
    (
        "mac",
        &[
            "sha256('x')",
            "NULL",
            "'\\x00'",
            "set_byte(mac, 31, get_byte(mac, 31) # 1)",
        ],
    ),
];

/// Columns that must be there.
const NEEDED: [&str; 6] = [
    "kind",
    "occurred_at",
    "recorded_at",
    "event_id",
    "metadata",
    "ingest",
];

#[tokio::test]
async fn every_changed_column_of_every_kind_of_row_is_found_exactly() {
    let trail = Trail::written().await;
    trail.disarm().await;
    assert_eq!(trail.found().await, []);
    let audit = trail.audit().await;
    let mut tried = 0;
    for seq in PLACES {
        let mut cases: Vec<(String, Found)> = Vec::new();
        for (column, values) in CONTENT {
            for value in *values {
                cases.push((format!("{column} = {value}"), (BadMac, 2, seq)));
            }
        }
        for column in NEEDED {
            cases.push((format!("{column} = NULL"), (Encoding, 2, seq)));
        }
        for value in ["key_id + 1", "0"] {
            cases.push((format!("key_id = {value}"), (UnknownKey, 2, seq)));
        }
        for value in ["-1", "NULL", "1::bigint << 40"] {
            cases.push((format!("key_id = {value}"), (Encoding, 2, seq)));
        }
        for (change, expected) in cases {
            let column = change.split(' ').next().unwrap();
            let value = change.split(" = ").nth(1).unwrap();
            let changed = trail
                .sql(&format!(
                    "UPDATE portcullis.entries SET {change}
                      WHERE chain_no = 2 AND seq = {seq} AND {column} IS DISTINCT FROM ({value})"
                ))
                .await;
            if changed == 0 {
                continue;
            }
            tried += 1;
            let what = format!("{change} at {seq}");
            let mut scopes = vec![
                Scope::All,
                Scope::Chain { chain_no: 2 },
                Scope::Range {
                    chain_no: 2,
                    from: seq,
                    to: seq,
                },
                Scope::Range {
                    chain_no: 2,
                    from: seq.saturating_sub(3),
                    to: seq + 3,
                },
            ];
            if (3..12).contains(&seq) {
                scopes.push(Scope::Session(SessionId::parse("s-2").unwrap()));
            }
            for scope in scopes {
                let verified = audit.verify(scope.clone()).await.unwrap();
                assert_eq!(
                    found(&verified),
                    [expected],
                    "{what}, {scope:?}\n{verified}"
                );
                assert!(!verified.is_clean());
                assert_eq!(
                    verified.into_result().unwrap_err().kind(),
                    ErrorKind::Integrity
                );
            }
            trail.restore().await;
        }
    }
    assert!(tried > 150, "{tried}");
    assert_eq!(trail.found().await, []);
}

/// Statements, and what must be found after them.
const STRUCTURE: &[(&str, &[Found])] = &[
    // Deleted.
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 1",
        &[(Gap, 1, 1)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq <= 5",
        &[(Gap, 1, 1)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 6",
        &[(Gap, 1, 6)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq IN (4, 5, 8)",
        &[(Gap, 1, 4), (Gap, 1, 8)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 12",
        &[(Truncated, 1, 12)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq > 3",
        &[(Truncated, 1, 4)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 3",
        &[(Truncated, 3, 1)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE session_id = 's-2'",
        &[(Truncated, 2, 2)],
    ),
    (
        "DELETE FROM portcullis.entries",
        &[(Truncated, 1, 1), (Truncated, 2, 1), (Truncated, 3, 1)],
    ),
    // Chains, with their heads and without.
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 2; DELETE FROM portcullis.chains WHERE chain_no = 2",
        &[(Truncated, 2, 1)],
    ),
    (
        "DELETE FROM portcullis.chains WHERE chain_no = 2",
        &[(Truncated, 2, 13)],
    ),
    (
        "DELETE FROM portcullis.chains",
        &[(Truncated, 1, 13), (Truncated, 2, 13), (Truncated, 3, 13)],
    ),
    // Heads.
    (
        "UPDATE portcullis.chains SET next_seq = next_seq - 1 WHERE chain_no = 1",
        &[(Rollback, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains c SET next_seq = 6, head_mac = e.mac FROM portcullis.entries e WHERE c.chain_no = 1 AND e.chain_no = 1 AND e.seq = 5",
        &[(Rollback, 1, 6)],
    ),
    (
        "UPDATE portcullis.chains SET next_seq = 0 WHERE chain_no = 1",
        &[(Rollback, 1, 1)],
    ),
    (
        "UPDATE portcullis.chains SET next_seq = -5 WHERE chain_no = 1",
        &[(Rollback, 1, 1)],
    ),
    (
        "UPDATE portcullis.chains SET next_seq = NULL WHERE chain_no = 1",
        &[(Truncated, 1, 13)],
    ),
    (
        "UPDATE portcullis.chains SET next_seq = next_seq + 1 WHERE chain_no = 1",
        &[(Truncated, 1, 13)],
    ),
    (
        "UPDATE portcullis.chains SET next_seq = 9223372036854775807 WHERE chain_no = 1",
        &[(Truncated, 1, 13)],
    ),
    (
        "UPDATE portcullis.chains SET head_mac = sha256('x') WHERE chain_no = 1",
        &[(Fork, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET head_mac = NULL WHERE chain_no = 1",
        &[(Fork, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET head_mac = '' WHERE chain_no = 1",
        &[(Fork, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET key_id = 2 WHERE chain_no = 1",
        &[(UnknownKey, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET key_id = NULL WHERE chain_no = 1",
        &[(UnknownKey, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET recorded_at = recorded_at - interval '1 day' WHERE chain_no = 1",
        &[(Time, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET recorded_at = recorded_at + interval '1 day' WHERE chain_no = 1",
        &[(Time, 1, 12)],
    ),
    (
        "UPDATE portcullis.chains SET recorded_at = NULL WHERE chain_no = 1",
        &[(Time, 1, 12)],
    ),
    // Moved within a chain and between chains.
    (
        "UPDATE portcullis.entries SET seq = 13 WHERE chain_no = 1 AND seq = 6",
        &[(BadMac, 1, 13), (Gap, 1, 6)],
    ),
    (
        "UPDATE portcullis.entries SET seq = 9223372036854775807 WHERE chain_no = 1 AND seq = 6",
        &[(BadMac, 1, 9_223_372_036_854_775_807), (Gap, 1, 6)],
    ),
    (
        "UPDATE portcullis.entries SET seq = 0 WHERE chain_no = 1 AND seq = 6",
        &[(Gap, 1, 6), (Encoding, 1, 0)],
    ),
    (
        "UPDATE portcullis.entries SET seq = -3 WHERE chain_no = 1 AND seq = 6",
        &[(Gap, 1, 6), (Encoding, 1, 0)],
    ),
    (
        "UPDATE portcullis.entries SET chain_no = 2, seq = 13 WHERE chain_no = 1 AND seq = 6",
        &[(BadMac, 2, 13), (Gap, 1, 6)],
    ),
    (
        "UPDATE portcullis.entries SET chain_no = 2, seq = 13 WHERE chain_no = 1 AND seq = 12",
        &[(BadMac, 2, 13), (Truncated, 1, 12)],
    ),
    (
        "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq = 6; UPDATE portcullis.entries SET chain_no = 2 WHERE chain_no = 1 AND seq = 6",
        &[(BadMac, 2, 6), (BadMac, 2, 7), (Gap, 1, 6)],
    ),
    (
        "UPDATE portcullis.entries SET chain_no = 4 WHERE chain_no = 3; UPDATE portcullis.chains SET chain_no = 4 WHERE chain_no = 3",
        &[
            (BadMac, 4, 1),
            (BadMac, 4, 2),
            (BadMac, 4, 3),
            (BadMac, 4, 4),
            (BadMac, 4, 5),
            (BadMac, 4, 6),
            (BadMac, 4, 7),
            (BadMac, 4, 8),
            (BadMac, 4, 9),
            (BadMac, 4, 10),
            (BadMac, 4, 11),
            (BadMac, 4, 12),
            (Truncated, 3, 1),
        ],
    ),
    (
        "UPDATE portcullis.entries SET tenant_id = 'other' WHERE chain_no = 1 AND seq = 6",
        &[(Gap, 1, 6)],
    ),
    (
        "UPDATE portcullis.entries SET tenant_id = 'other' WHERE chain_no = 1 AND seq = 12",
        &[(Truncated, 1, 12)],
    ),
    // Swapped: next to each other, apart, and between chains.
    (
        "UPDATE portcullis.entries SET seq = 100 WHERE chain_no = 1 AND seq = 6; UPDATE portcullis.entries SET seq = 6 WHERE chain_no = 1 AND seq = 7; UPDATE portcullis.entries SET seq = 7 WHERE chain_no = 1 AND seq = 100",
        &[(BadMac, 1, 6), (BadMac, 1, 7)],
    ),
    (
        "UPDATE portcullis.entries SET seq = 100 WHERE chain_no = 1 AND seq = 3; UPDATE portcullis.entries SET seq = 3 WHERE chain_no = 1 AND seq = 9; UPDATE portcullis.entries SET seq = 9 WHERE chain_no = 1 AND seq = 100",
        &[(BadMac, 1, 3), (BadMac, 1, 9)],
    ),
    (
        "UPDATE portcullis.entries SET chain_no = 9 WHERE chain_no = 1; UPDATE portcullis.entries SET chain_no = 1 WHERE chain_no = 2 AND seq = 12; UPDATE portcullis.entries SET chain_no = 2 WHERE chain_no = 9 AND seq = 12; UPDATE portcullis.entries SET chain_no = 1 WHERE chain_no = 9",
        &[(BadMac, 1, 12), (BadMac, 2, 12)],
    ),
    // Inserted and duplicated.
    (
        "INSERT INTO portcullis.entries SELECT tenant_id, chain_no, 13, key_id, kind, occurred_at, recorded_at, gen_random_uuid(), session_id, agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision, metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, mac FROM portcullis.entries WHERE chain_no = 1 AND seq = 6",
        &[(BadMac, 1, 13)],
    ),
    (
        "INSERT INTO portcullis.entries SELECT tenant_id, chain_no, 13, key_id, kind, occurred_at, recorded_at, gen_random_uuid(), session_id, agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision, metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, sha256('x') FROM portcullis.entries WHERE chain_no = 1 AND seq = 12; UPDATE portcullis.chains SET next_seq = 14, head_mac = sha256('x') WHERE chain_no = 1",
        &[(BadMac, 1, 13)],
    ),
    (
        "INSERT INTO portcullis.entries SELECT tenant_id, 4, seq, key_id, kind, occurred_at, recorded_at, gen_random_uuid(), session_id, agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision, metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, mac FROM portcullis.entries WHERE chain_no = 1 AND seq = 1",
        &[(BadMac, 4, 1), (Truncated, 4, 2)],
    ),
    // A second entry at a place, which takes a dropped primary key.
    (
        "ALTER TABLE portcullis.entries DROP CONSTRAINT entries_pkey; INSERT INTO portcullis.entries SELECT * FROM portcullis.entries WHERE chain_no = 1 AND seq = 6",
        &[(Fork, 1, 6)],
    ),
    (
        "INSERT INTO portcullis.entries SELECT * FROM portcullis.entries WHERE chain_no = 1 AND seq = 12",
        &[(Fork, 1, 12)],
    ),
];

#[tokio::test]
async fn deleted_moved_swapped_and_inserted_rows_are_found_with_class_chain_and_seq() {
    let trail = Trail::written().await;
    trail.disarm().await;
    for (change, expected) in STRUCTURE {
        trail.sql(change).await;
        let verified = trail.verify(Scope::All).await;
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(found(&verified), expected, "{change}\n{verified}");
        assert_eq!(verified.verdict(), Verdict::Findings);
        trail.restore().await;
    }
    assert_eq!(trail.found().await, []);
}
