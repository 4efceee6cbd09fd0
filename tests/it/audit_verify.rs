//! What verification says: of nothing, of clean trails, of losses, forks and forgeries.
//!
//! What no verification of a keyed chain alone can find, and takes a checkpoint kept elsewhere:
//! the last chain removed with its head; a tail removed and the head set back to match it; the
//! whole trail removed; an old backup restored; anything at all by who has the key.

use portcullis::audit::FindingClass::{BadMac, Fork, Gap, Truncated};
use portcullis::audit::{AuditEvent, AuditKeys, Scope, Verdict};
use portcullis::{ErrorKind, Secret, SessionId, TenantId};

use crate::trail::{Found, Trail, found, keys, rich, who};

#[tokio::test]
async fn f05_an_empty_trail_is_not_verified() {
    let trail = Trail::empty().await;
    let nothing = SessionId::parse("nobody").unwrap();
    for scope in [
        Scope::All,
        Scope::Session(nothing),
        Scope::Chain { chain_no: 1 },
        Scope::Range {
            chain_no: 1,
            from: 1,
            to: 9,
        },
    ] {
        let verified = trail.verify(scope).await;
        assert_eq!(verified.verdict(), Verdict::Nothing);
        assert!(!verified.is_clean());
        assert_eq!(verified.entries(), 0);
        assert!(
            verified.to_string().starts_with("nothing verified"),
            "{verified}"
        );
    }
}

#[tokio::test]
async fn f05_a_clean_trail_says_what_is_proved_and_what_is_not() {
    let trail = Trail::written().await;
    for (scope, entries, limits) in [
        (Scope::All, 36, 1),
        (Scope::Session(SessionId::parse("s-2").unwrap()), 11, 2),
        (Scope::Chain { chain_no: 2 }, 12, 2),
        (
            Scope::Range {
                chain_no: 2,
                from: 4,
                to: 9,
            },
            6,
            2,
        ),
        (
            Scope::Range {
                chain_no: 2,
                from: 12,
                to: 900,
            },
            1,
            2,
        ),
    ] {
        let verified = trail.verify(scope).await;
        assert!(verified.is_clean(), "{verified}");
        assert_eq!((verified.entries(), verified.proved()), (entries, entries));
        assert_eq!(verified.keys(), [(1, entries)]);
        assert_eq!(verified.limits().len(), limits);
        assert!(verified.to_string().contains("not proved: "), "{verified}");
    }
    let past = trail
        .verify(Scope::Range {
            chain_no: 2,
            from: 13,
            to: 20,
        })
        .await;
    assert_eq!(past.verdict(), Verdict::Nothing);
}

/// What of F06 shows without a checkpoint, and what does not; see the head of this file.
#[tokio::test]
async fn f06_lost_tails_starts_sessions_and_chains_show_but_for_what_a_checkpoint_takes() {
    let trail = Trail::written().await;
    trail.disarm().await;
    for (change, expected) in [
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq > 10",
            (Truncated, 1, 11),
        ),
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq < 3",
            (Gap, 1, 1),
        ),
        (
            "DELETE FROM portcullis.entries WHERE session_id = 's-1'",
            (Truncated, 1, 2),
        ),
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1; DELETE FROM portcullis.chains WHERE chain_no = 1",
            (Truncated, 1, 1),
        ),
    ] {
        trail.sql(change).await;
        assert_eq!(trail.found().await, [expected], "{change}");
        trail.restore().await;
    }
    // These do not: a checkpoint must. When one exists, turn these around.
    for change in [
        "DELETE FROM portcullis.entries WHERE chain_no = 3; DELETE FROM portcullis.chains WHERE chain_no = 3",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq > 10;
         UPDATE portcullis.chains c SET next_seq = 11, head_mac = e.mac, recorded_at = e.recorded_at
           FROM portcullis.entries e WHERE c.chain_no = 1 AND e.chain_no = 1 AND e.seq = 10",
    ] {
        trail.sql(change).await;
        let verified = trail.verify(Scope::All).await;
        assert_eq!(found(&verified), [], "{change}");
        assert!(verified.limits()[0].contains("checkpoint"));
        trail.restore().await;
    }
    trail
        .sql("DELETE FROM portcullis.entries; DELETE FROM portcullis.chains")
        .await;
    assert_eq!(trail.verify(Scope::All).await.verdict(), Verdict::Nothing);
}

#[tokio::test]
async fn f07_the_model_is_covered_and_a_deleted_row_and_a_fork_are_found() {
    let trail = Trail::written().await;
    trail.disarm().await;
    assert!(trail.verify(Scope::All).await.is_clean());
    for (change, expected) in [
        (
            "UPDATE portcullis.entries SET model = 'gpt-9' WHERE chain_no = 1 AND seq = 6",
            (BadMac, 1, 6),
        ),
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 6",
            (Gap, 1, 6),
        ),
        (
            "ALTER TABLE portcullis.entries DROP CONSTRAINT entries_pkey; INSERT INTO portcullis.entries SELECT * FROM portcullis.entries WHERE chain_no = 1 AND seq = 6",
            (Fork, 1, 6),
        ),
    ] {
        trail.sql(change).await;
        assert_eq!(trail.found().await, [expected], "{change}");
        trail.restore().await;
    }
}

#[tokio::test]
async fn f09_metadata_comes_back_byte_for_byte_and_raises_no_false_alarm() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await;
    let me = who("a-1", "s-1");
    let texts = [
        "1e17",
        "-0.0",
        "9007199254740993",
        "\u{2028}\u{7f}\t\\\"",
        "ünï 😀",
        "",
    ];
    for text in texts {
        let event = AuditEvent::new(&me, "app.x")
            .with("z", text)
            .with("a", [9_007_199_254_740_991_i64, -9_007_199_254_740_991, 0])
            .with(format!("key {text}"), ());
        let id = event.id();
        audit.append(event).await.unwrap();
        let read = audit.event(id).await.unwrap().unwrap();
        assert_eq!(read.metadata.to_value()["z"], text);
    }
    assert!(trail.verify(Scope::All).await.is_clean());
}

#[tokio::test]
async fn f11_bytes_cannot_move_from_one_field_to_the_next() {
    let trail = Trail::written().await;
    trail.disarm().await;
    for change in [
        "agent_id = agent_id || 'u', user_id = substr(user_id, 2)",
        "session_id = left(session_id, -1), agent_id = right(session_id, 1) || agent_id",
        "model = decision, decision = model",
        "model = NULL, decision = model || decision",
        "input_hash = output_hash, output_hash = input_hash",
        "decision = decision || metadata, metadata = ''",
    ] {
        let sql = format!("UPDATE portcullis.entries SET {change} WHERE chain_no = 1 AND seq = 6");
        assert_eq!(trail.sql(&sql).await, 1);
        assert_eq!(trail.found().await, [(BadMac, 1, 6)], "{change}");
        trail.restore().await;
    }
}

#[tokio::test]
async fn f12_who_has_no_key_cannot_chain_anything_again() {
    let trail = Trail::written().await;
    trail.disarm().await;
    // All that the database holds is at hand: every MAC is computed anew, as an unkeyed hash and
    // under a key of the attacker's.
    trail
        .sql("UPDATE portcullis.entries SET metadata = '{}', mac = sha256(convert_to(metadata, 'UTF8')) WHERE chain_no = 1 AND seq >= 6;
              UPDATE portcullis.chains c SET head_mac = e.mac FROM portcullis.entries e WHERE c.chain_no = 1 AND e.chain_no = 1 AND e.seq = 12")
        .await;
    let expected: Vec<Found> = (6..=12).map(|seq| (BadMac, 1, seq)).collect();
    assert_eq!(trail.found().await, expected);
    trail.restore().await;

    let thief = AuditKeys::single(Secret::generate().unwrap());
    trail
        .sql("DELETE FROM portcullis.entries; DELETE FROM portcullis.chains; DELETE FROM portcullis.keyring")
        .await;
    let forger = trail.audit_of(thief.clone(), TenantId::single()).await;
    forger
        .append(rich(&who("a-1", "s-1"), 1, None))
        .await
        .unwrap();
    assert!(forger.verify(Scope::All).await.unwrap().is_clean());
    let verified = trail.verify(Scope::All).await;
    assert_eq!(verified.proved(), 0);
    assert_eq!(found(&verified), [(BadMac, 1, 1), (BadMac, 1, 2)]);
}

#[tokio::test]
async fn f12_another_tenants_entries_and_key_are_of_no_use() {
    let trail = Trail::written().await;
    trail.disarm().await;
    let other = trail
        .audit_of(keys(), TenantId::parse("other").unwrap())
        .await;
    other
        .append(rich(&who("a-1", "s-1"), 1, None))
        .await
        .unwrap();
    assert!(other.verify(Scope::All).await.unwrap().is_clean());
    trail
        .sql("DELETE FROM portcullis.entries WHERE tenant_id = 'other';
              INSERT INTO portcullis.entries SELECT 'other', chain_no, seq, key_id, kind, occurred_at, recorded_at, gen_random_uuid(), session_id, agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision, metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, mac FROM portcullis.entries WHERE tenant_id = 'default' AND chain_no = 1 AND seq <= 2;
              UPDATE portcullis.chains c SET head_mac = e.mac, recorded_at = e.recorded_at FROM portcullis.entries e WHERE c.tenant_id = 'other' AND e.tenant_id = 'other' AND e.seq = 2")
        .await;
    let verified = other.verify(Scope::All).await.unwrap();
    assert_eq!(found(&verified), [(BadMac, 1, 1), (BadMac, 1, 2)]);
}

#[tokio::test]
async fn f13_places_are_never_used_twice() {
    let trail = Trail::written().await;
    let refused = sqlx::query(
        "INSERT INTO portcullis.entries SELECT tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, gen_random_uuid(), session_id, agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision, metadata, sealed, ingest, origin_journal, origin_seq, origin_mac, mac FROM portcullis.entries WHERE chain_no = 1 AND seq = 12",
    )
    .execute(&trail.pool)
    .await;
    assert!(refused.is_err());
    // Nor would it stay hidden where the key that forbids it was dropped: see the forks above.
    assert!(trail.verify(Scope::All).await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_chain_of_100_000_entries_by_four_writers_has_no_finding() {
    let trail = Trail::empty().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let audit = trail.audit().await;
        writers.spawn(async move {
            let me = who("a-1", &format!("s-{writer}"));
            for batch in 0..25_u64 {
                let event = |n| rich(&me, batch * 1_000 + n, None);
                let events = (0..1_000).map(event).collect();
                audit.append_all(events).await.unwrap();
            }
        });
    }
    // While they write, each look is clean as far as it goes.
    let reader = trail.audit().await;
    while !writers.is_empty() {
        tokio::select! {
            joined = writers.join_next() => { joined.unwrap().unwrap(); }
            verified = reader.verify(Scope::All) => assert_eq!(found(&verified.unwrap()), []),
        }
    }
    let mut seen = Vec::new();
    let verified = reader
        .verify_with(Scope::All, |progress| seen.push(progress))
        .await
        .unwrap();
    assert!(verified.is_clean(), "{verified}");
    assert!(verified.proved() >= 100_000);
    assert_eq!(seen.last().unwrap().entries, verified.entries());
    assert_eq!(verified.unproved(), 0);
}

#[tokio::test]
async fn an_unreachable_database_is_an_error_and_never_clean() {
    let database = portcullis::Database::url("postgres://nobody@127.0.0.1:1/none");
    let audit = portcullis::audit::Audit::open(&database, keys(), TenantId::single())
        .await
        .unwrap();
    let error = audit.verify(Scope::All).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
