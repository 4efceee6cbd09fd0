//! Checkpoints: what only they find, who may make them, and what they prove to others.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis::audit::{Audit, AuditError, CheckpointEvery, FindingClass, Verification};
use portcullis::store::Migration;
use portcullis::tlog::{Checkpoint, LogError, LogKey, LogProof, LogVerifier, TreeHash};
use portcullis::{Database, EventId, Governance, Secret, TenantId};

use crate::common::trail::{Trail, append_many, event, keys, trail, writer};

const ORIGIN: &str = "audit.example/test";
const SEED: &str = "5b1d0f3a7c9e2846d0b4f8a1c35e7924a9b8c7d6e5f4031221304f5e6d7c8b9a";

fn log_key() -> LogKey {
    LogKey::new(ORIGIN, &Secret::parse(SEED).unwrap()).unwrap()
}

/// A trail of three chains with some entries each; the events, in the order of writing.
async fn written() -> (Trail, Vec<EventId>) {
    let trail = trail().await;
    let mut events = Vec::new();
    // All three at once: a writer that is gone gives its chain to the next.
    let writers = [
        writer(&trail.test.database()).await,
        writer(&trail.test.database()).await,
        trail.audit.clone(),
    ];
    for audit in &writers {
        for n in 0..20 {
            let event = event("app.written").with("n", n);
            events.push(event.id());
            audit.append(event).await.unwrap();
        }
    }
    assert_eq!(trail.chains().await, 3);
    (trail, events)
}

impl Trail {
    async fn check(&self, kept: Option<&str>) -> Verification {
        let key = log_key();
        let report = self.audit.verify_checkpoints(key.verifier(), kept).await;
        report.unwrap()
    }

    /// What a superuser does first.
    async fn disarm_all(&self) {
        for sql in [
            "ALTER TABLE portcullis.entries DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.chains DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.checkpoints DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.checkpoint_ranges DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.tree_tiles DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.trees DISABLE TRIGGER USER",
        ] {
            self.run(sql).await;
        }
    }

    /// A copy of everything, as a backup has it.
    async fn back_up(&self) {
        for sql in [
            "CREATE SCHEMA backup",
            "CREATE TABLE backup.entries AS TABLE portcullis.entries",
            "CREATE TABLE backup.chains AS TABLE portcullis.chains",
            "CREATE TABLE backup.checkpoints AS TABLE portcullis.checkpoints",
            "CREATE TABLE backup.checkpoint_ranges AS TABLE portcullis.checkpoint_ranges",
            "CREATE TABLE backup.tree_tiles AS TABLE portcullis.tree_tiles",
            "CREATE TABLE backup.trees AS TABLE portcullis.trees",
        ] {
            self.run(sql).await;
        }
    }

    async fn restore(&self) {
        self.delete_everything().await;
        for sql in [
            "INSERT INTO portcullis.entries TABLE backup.entries",
            "INSERT INTO portcullis.chains TABLE backup.chains",
            "INSERT INTO portcullis.checkpoints TABLE backup.checkpoints",
            "INSERT INTO portcullis.checkpoint_ranges TABLE backup.checkpoint_ranges",
            "INSERT INTO portcullis.tree_tiles TABLE backup.tree_tiles",
            "INSERT INTO portcullis.trees TABLE backup.trees",
        ] {
            self.run(sql).await;
        }
        self.expire_leases().await;
    }

    async fn delete_everything(&self) {
        self.disarm_all().await;
        for sql in [
            "DELETE FROM portcullis.entries",
            "DELETE FROM portcullis.chains",
            "DELETE FROM portcullis.checkpoints",
            "DELETE FROM portcullis.checkpoint_ranges",
            "DELETE FROM portcullis.tree_tiles",
            "DELETE FROM portcullis.trees",
        ] {
            self.run(sql).await;
        }
    }
}

fn found(report: &Verification) -> Vec<(FindingClass, u32, u64)> {
    let findings = report.findings().iter();
    findings.map(|f| (f.class, f.chain_no, f.seq)).collect()
}

fn assert_clean(report: &Verification, entries: u64) {
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.proved(), entries, "{report}");
}

#[tokio::test]
async fn every_entry_is_proved_offline_by_the_public_key_alone_and_no_other_event() {
    let (trail, events) = written().await;
    let signed = trail.audit.checkpoint(&log_key()).await.unwrap();
    assert_eq!(signed.size(), 64);
    assert_eq!(
        trail.audit.last_checkpoint().await.unwrap().as_deref(),
        Some(signed.note())
    );
    // What the other side has: a line of text.
    let log = LogVerifier::parse(&log_key().verifier().to_string()).unwrap();
    let mut leaves: BTreeMap<u64, TreeHash> = BTreeMap::new();
    for id in &events {
        let proved = trail.audit.prove(*id).await.unwrap();
        let file = LogProof::parse(&proved.proof().to_string()).unwrap();
        let checkpoint = file.verify(&proved.leaf(), &log).unwrap();
        assert_eq!((checkpoint.size(), checkpoint.root()), (64, signed.root()));
        for other in leaves.values() {
            let refused = file.verify(other, &log);
            assert_eq!(refused, Err(LogError::Unproved));
        }
        // The content says which event it is, and its MAC blinds the leaf.
        let id: Vec<u8> = hex(&id.to_string().replace('-', ""));
        assert!(proved.content().windows(16).any(|at| at == id));
        assert_eq!(leaves.insert(file.index(), proved.leaf()), None);
    }
    assert_eq!(leaves.len(), 60);
    // Another log's key, though it has the same name.
    let other = LogKey::new(ORIGIN, &Secret::generate().unwrap()).unwrap();
    let proved = trail.audit.prove(events[0]).await.unwrap();
    let refused = proved.proof().verify(&proved.leaf(), other.verifier());
    assert_eq!(refused, Err(LogError::Unsigned));
    assert_clean(&trail.check(Some(signed.note())).await, 64);
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

#[tokio::test]
async fn an_event_that_is_not_under_a_checkpoint_yet_is_not_proved() {
    let (trail, events) = written().await;
    let refused = trail.audit.prove(events[0]).await;
    assert_eq!(refused, Err(AuditError::NoCheckpoint));
    let refused = trail.audit.prove_consistency(1).await;
    assert_eq!(refused, Err(AuditError::NoCheckpoint));
    let _ = trail.audit.checkpoint(&log_key()).await.unwrap();
    let late = event("app.late");
    trail.audit.append(late.clone()).await.unwrap();
    for id in [late.id(), EventId::new()] {
        let refused = trail.audit.prove(id).await;
        assert_eq!(refused, Err(AuditError::NoCheckpoint));
    }
    // An entry that was changed since gets no proof.
    trail.disarm_all().await;
    trail
        .run("UPDATE portcullis.entries SET metadata = '{\"n\":99}' WHERE chain_no = 1 AND seq = 2")
        .await;
    let refused = trail.audit.prove(events[0]).await;
    let place = AuditError::Tampered {
        chain_no: 1,
        seq: 2,
    };
    assert_eq!(refused, Err(place));
}

#[tokio::test]
async fn each_checkpoint_is_the_beginning_of_every_later_one() {
    let trail = trail().await;
    let key = log_key();
    let mut kept = Vec::new();
    // Past the end of a tile, and of the verifier's chunk, and again.
    for entries in [1, 2, 250, 20, 16_600, 3] {
        for _ in 0..=entries / 500 {
            let events = (0..entries.min(500)).map(|n| event("app.many").with("n", n));
            trail.audit.append_all(events.collect()).await.unwrap();
        }
        kept.push(trail.audit.checkpoint(&key).await.unwrap());
    }
    let newest = kept.last().unwrap().size();
    for old in &kept {
        let proof = trail.audit.prove_consistency(old.size()).await.unwrap();
        assert_eq!(proof.old_size(), old.size());
        let checkpoint = Checkpoint::open(old.note(), key.verifier()).unwrap();
        let latest = proof.verify(&checkpoint, key.verifier()).unwrap();
        assert_eq!(latest.size(), newest);
        // Not of another tree of that size.
        let other = Checkpoint::new(ORIGIN, old.size(), TreeHash::of_leaf(b"")).unwrap();
        let refused = proof.verify(&other, key.verifier());
        assert_eq!(refused, Err(LogError::Inconsistent));
    }
    assert_eq!(
        trail.audit.prove_consistency(0).await,
        Err(AuditError::Log(LogError::EmptyAnchor))
    );
    for old in [&kept[0], &kept[4]] {
        assert_clean(&trail.check(Some(old.note())).await, newest);
    }
}

#[tokio::test]
async fn f06_a_deleted_tail_is_found_by_a_checkpoint_kept_elsewhere() {
    let (trail, _) = written().await;
    let first = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.back_up().await;
    append_many(&trail.audit, 1, 5).await;
    let kept = trail.audit.checkpoint(&log_key()).await.unwrap();
    assert_clean(&trail.check(Some(kept.note())).await, kept.size());

    // The tail goes, the heads are set back, and every trace of the second checkpoint with it.
    trail.restore().await;
    let by_chains_alone = trail.audit.verify_all().await.unwrap();
    assert!(by_chains_alone.is_clean(), "{by_chains_alone}");
    assert_clean(&trail.check(None).await, first.size());
    assert_clean(&trail.check(Some(first.note())).await, first.size());
    let report = trail.check(Some(kept.note())).await;
    assert_eq!(
        found(&report),
        [(FindingClass::Rollback, 0, first.size() + 1)]
    );
    assert_eq!(report.findings()[0].through, kept.size());
}

#[tokio::test]
async fn f06_a_deleted_tail_under_a_stored_checkpoint_is_found_entry_by_entry() {
    let (trail, _) = written().await;
    let _ = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.disarm_all().await;
    trail
        .run("DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq > 18")
        .await;
    trail
        .run(
            "UPDATE portcullis.chains c
                SET next_seq = 19, recorded_at = e.recorded_at, head_mac = e.mac
               FROM portcullis.entries e
              WHERE c.chain_no = 2 AND e.chain_no = 2 AND e.seq = 18",
        )
        .await;
    let by_chains_alone = trail.audit.verify_all().await.unwrap();
    assert!(by_chains_alone.is_clean(), "{by_chains_alone}");
    let report = trail.check(None).await;
    assert_eq!(found(&report), [(FindingClass::Checkpoint, 2, 19)]);
    assert_eq!(report.findings()[0].through, 21);
    // And nothing is signed over it.
    let refused = trail.audit.checkpoint(&log_key()).await;
    let place = AuditError::Tampered {
        chain_no: 2,
        seq: 21,
    };
    assert_eq!(refused, Err(place));
}

#[tokio::test]
async fn f06_a_deleted_chain_is_found() {
    let (trail, _) = written().await;
    let kept = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.disarm_all().await;
    trail
        .run("DELETE FROM portcullis.entries WHERE chain_no = 3")
        .await;
    trail
        .run("DELETE FROM portcullis.chains WHERE chain_no = 3")
        .await;
    // The last chain: no number is missing.
    let by_chains_alone = trail.audit.verify_all().await.unwrap();
    assert!(by_chains_alone.is_clean(), "{by_chains_alone}");
    let report = trail.check(None).await;
    assert_eq!(found(&report), [(FindingClass::Checkpoint, 3, 1)]);
    assert_eq!(report.findings()[0].through, 22);
    // With its hashes and ranges gone too, the kept checkpoint shows it.
    trail
        .run("DELETE FROM portcullis.checkpoint_ranges WHERE chain_no = 3")
        .await;
    let report = trail.check(Some(kept.note())).await;
    assert!(found(&report).contains(&(FindingClass::Rollback, 0, 43)));
    let refused = writer(&trail.test.database())
        .await
        .checkpoint(&log_key())
        .await;
    assert_eq!(refused, Err(AuditError::Tree));
}

#[tokio::test]
async fn f06_that_everything_is_gone_is_found_by_a_checkpoint_kept_elsewhere() {
    let (trail, _) = written().await;
    let kept = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.delete_everything().await;
    let report = trail.check(None).await;
    assert!(!report.is_clean());
    assert_eq!(found(&report), []);
    let report = trail.check(Some(kept.note())).await;
    assert_eq!(found(&report), [(FindingClass::Truncated, 0, 1)]);
    assert_eq!(report.findings()[0].through, kept.size());
}

#[tokio::test]
async fn f06_a_restored_backup_is_found_also_after_the_trail_went_on() {
    let (trail, _) = written().await;
    let _ = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.back_up().await;
    append_many(&trail.audit, 1, 3).await;
    let kept = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.restore().await;
    // Another writer goes on from the backup, and signs a tree that is larger than the lost one.
    let audit = writer(&trail.test.database()).await;
    append_many(&audit, 1, 30).await;
    let newer = audit.checkpoint(&log_key()).await.unwrap();
    assert!(newer.size() > kept.size());
    let by_chains_alone = audit.verify_all().await.unwrap();
    assert!(by_chains_alone.is_clean(), "{by_chains_alone}");
    assert_clean(&trail.check(None).await, newer.size());
    let report = trail.check(Some(kept.note())).await;
    assert_eq!(found(&report), [(FindingClass::Fork, 0, kept.size())]);
    // Nor can consistency be proved.
    let proof = audit.prove_consistency(kept.size()).await.unwrap();
    let kept = Checkpoint::open(kept.note(), log_key().verifier()).unwrap();
    let refused = proof.verify(&kept, log_key().verifier());
    assert_eq!(refused, Err(LogError::Inconsistent));
}

/// CVE-2022-36111 (immudb): between two points that were checked, the history could be another.
#[tokio::test]
async fn two_histories_that_differ_only_between_checkpoints_are_told_apart() {
    let (trail, events) = written().await;
    let before = trail.audit.checkpoint(&log_key()).await.unwrap();
    append_many(&trail.audit, 1, 9).await;
    trail.disarm_all().await;
    // Entries 23 to 31 of chain 3 are new; both ends stay as they are.
    let swap = "UPDATE portcullis.entries a
                   SET metadata = b.metadata, occurred_at = b.occurred_at
                  FROM portcullis.entries b
                 WHERE a.chain_no = 3 AND b.chain_no = 3
                   AND a.seq IN (26, 28) AND b.seq = 54 - a.seq";
    trail.run(swap).await;
    let refused = trail.audit.checkpoint(&log_key()).await;
    let place = AuditError::Tampered {
        chain_no: 3,
        seq: 26,
    };
    assert_eq!(refused, Err(place));
    assert_eq!(
        trail.audit.last_checkpoint().await.unwrap().as_deref(),
        Some(before.note())
    );
    trail.run(swap).await;
    let after = trail.audit.checkpoint(&log_key()).await.unwrap();
    assert_clean(&trail.check(Some(before.note())).await, after.size());

    // Changed once it is signed: found at its place, though both checkpoints still fit each other.
    trail.run(swap).await;
    let class = FindingClass::Checkpoint;
    for kept in [None, Some(before.note()), Some(after.note())] {
        let report = trail.check(kept).await;
        // As links and as leaves.
        let link = FindingClass::BadMac;
        assert_eq!(
            found(&report),
            [(link, 3, 26), (class, 3, 26), (link, 3, 28), (class, 3, 28)]
        );
    }
    let proof = trail.audit.prove_consistency(before.size()).await.unwrap();
    let kept = Checkpoint::open(before.note(), log_key().verifier()).unwrap();
    assert!(proof.verify(&kept, log_key().verifier()).is_ok());
    assert!(trail.audit.prove(events[0]).await.is_ok());
}

#[tokio::test]
async fn every_kind_of_change_under_a_checkpoint_is_found_at_its_place() {
    let (trail, _) = written().await;
    let _ = trail.audit.checkpoint(&log_key()).await.unwrap();
    append_many(&trail.audit, 1, 4).await;
    let kept = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.disarm_all().await;
    trail.back_up().await;
    let class = FindingClass::Checkpoint;
    let at = |chain: u32, seq: u64| vec![(class, chain, seq)];
    let last = kept.size();
    for (sql, expected) in [
        // Entries.
        (
            "UPDATE portcullis.entries SET agent_id = 'other' WHERE chain_no = 1 AND seq = 5",
            at(1, 5),
        ),
        (
            "UPDATE portcullis.entries SET mac = sha256('x') WHERE chain_no = 1 AND seq = 5",
            at(1, 5),
        ),
        (
            "UPDATE portcullis.entries SET mac = sha256('x'), model = 'x' WHERE chain_no = 2 AND seq = 21",
            at(2, 21),
        ),
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq = 1",
            at(2, 1),
        ),
        (
            "UPDATE portcullis.entries SET kind = 'app.x' WHERE chain_no = 3 AND seq = 23",
            at(3, 23),
        ),
        // Hashes: the signed root says that it was not the entry.
        (
            "UPDATE portcullis.tree_tiles SET hashes = set_byte(hashes, 128, get_byte(hashes, 128) # 1)",
            // The fifth leaf.
            at(1, 5),
        ),
        ("DELETE FROM portcullis.tree_tiles WHERE level = 1", vec![]),
        // Checkpoints.
        (
            "UPDATE portcullis.checkpoints SET root = sha256('x') WHERE size = 64",
            at(0, 64),
        ),
        (
            "UPDATE portcullis.checkpoints SET note = replace(note, 'test', 'tent') WHERE size = 64",
            at(0, 64),
        ),
        (
            "UPDATE portcullis.checkpoints SET size = 63 WHERE size = 64",
            at(0, last),
        ),
        // Ranges.
        (
            "UPDATE portcullis.checkpoint_ranges SET to_mac = sha256('x') WHERE first_leaf = 0",
            at(1, 21),
        ),
    ] {
        trail.run(sql).await;
        for kept in [None, Some(kept.note())] {
            let report = trail.check(kept).await;
            let places = found(&report);
            assert_eq!(places.is_empty(), expected.is_empty(), "{sql}\n{report}");
            let all = expected.iter().all(|place| places.contains(place));
            assert!(all, "{sql}\n{report}");
        }
        trail.restore().await;
    }
    assert_clean(&trail.check(Some(kept.note())).await, last);
}

#[tokio::test]
async fn nothing_is_signed_that_does_not_go_on_from_what_was_signed() {
    let (trail, _) = written().await;
    let signed = trail.audit.checkpoint(&log_key()).await.unwrap();
    trail.disarm_all().await;
    trail.back_up().await;
    for sql in [
        "UPDATE portcullis.tree_tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1)",
        "UPDATE portcullis.tree_tiles SET hashes = substring(hashes FROM 1 FOR 32)",
        "DELETE FROM portcullis.tree_tiles",
        "UPDATE portcullis.trees SET root = sha256('x')",
        "UPDATE portcullis.trees SET size = 63",
        "UPDATE portcullis.trees SET size = 0, root = sha256('')",
        "DELETE FROM portcullis.trees",
        "DELETE FROM portcullis.checkpoints",
        "DELETE FROM portcullis.checkpoint_ranges WHERE chain_no = 2",
        "UPDATE portcullis.checkpoints SET note = replace(note, E'\\n64\\n', E'\\n65\\n')",
        "UPDATE portcullis.checkpoints SET root = sha256('x')",
    ] {
        assert!(trail.run(sql).await > 0, "{sql}");
        let refused = trail.audit.checkpoint(&log_key()).await;
        assert_eq!(refused, Err(AuditError::Tree), "{sql}");
        trail.restore().await;
    }
    // Under another key with this name, and under another name.
    let impostor = LogKey::new(ORIGIN, &Secret::generate().unwrap()).unwrap();
    let refused = trail.audit.checkpoint(&impostor).await;
    assert_eq!(refused, Err(AuditError::Tree));
    let renamed = LogKey::new("audit.example/other", &Secret::parse(SEED).unwrap()).unwrap();
    let refused = trail.audit.checkpoint(&renamed).await;
    assert_eq!(refused, Err(AuditError::Log(LogError::Origin)));
    // Another tenant's tree under this name would be a fork to everybody else.
    let tenant = TenantId::parse("acme").unwrap();
    let acme = Audit::open(&trail.test.database(), keys(), tenant.clone())
        .await
        .unwrap();
    let refused = acme.checkpoint(&log_key()).await;
    assert_eq!(refused, Err(AuditError::Log(LogError::Origin)));
    let of_acme = log_key().for_tenant(&tenant).unwrap();
    assert_eq!(acme.checkpoint(&of_acme).await.unwrap().size(), 2);
    let next = trail.audit.checkpoint(&log_key()).await.unwrap();
    assert!(next.size() > signed.size());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_make_checkpoints_at_once_never_sign_two_histories() {
    let trail = trail().await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let audit = writer(&trail.test.database()).await;
        tasks.push(tokio::spawn(async move {
            let mut notes = Vec::new();
            for _ in 0..5 {
                append_many(&audit, 2, 3).await;
                notes.push(audit.checkpoint(&log_key()).await.unwrap());
            }
            notes
        }));
    }
    let mut notes = BTreeMap::new();
    for task in tasks {
        for signed in task.await.unwrap() {
            assert_eq!(notes.insert(signed.size(), signed), None, "one note a size");
        }
    }
    assert_eq!(notes.len(), 20);
    let newest = *notes.keys().last().unwrap();
    for signed in notes.values() {
        assert_clean(&trail.check(Some(signed.note())).await, newest);
        let kept = Checkpoint::open(signed.note(), log_key().verifier()).unwrap();
        let proof = trail.audit.prove_consistency(kept.size()).await.unwrap();
        assert!(proof.verify(&kept, log_key().verifier()).is_ok());
    }
    trail.assert_whole().await;
}

#[tokio::test]
async fn checkpoints_are_made_in_the_background_where_there_is_something_new() {
    let trail = trail().await;
    let every = CheckpointEvery::default()
        .entries(10)
        .interval(Duration::from_millis(300));
    let build = || {
        Governance::builder(trail.test.database(), keys())
            .checkpoints(log_key(), every)
            .connect()
    };
    let (gov, other) = (build().await.unwrap(), build().await.unwrap());
    let mut more = Vec::new();
    for _ in 0..4 {
        more.push(build().await.unwrap());
    }
    let count = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM portcullis.checkpoints")
            .fetch_one(&trail.pool)
            .await
            .unwrap()
    };
    // Nothing is recorded, nothing is signed.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(count().await, 0);
    let written = event("app.one");
    gov.audit().append(written.clone()).await.unwrap();
    let proved = async {
        loop {
            match other.audit().prove(written.id()).await {
                Ok(proved) => return proved,
                Err(AuditError::NoCheckpoint) => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let proved = tokio::time::timeout(Duration::from_secs(20), proved)
        .await
        .unwrap();
    assert!(
        proved
            .proof()
            .verify(&proved.leaf(), log_key().verifier())
            .is_ok()
    );
    // Of all six one made it, and none goes on where nothing is new.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count().await, 1);
    // Other tenants have trees of their own.
    let tenant = TenantId::parse("acme").unwrap();
    let acme = gov.for_tenant(tenant.clone()).await.unwrap();
    acme.audit().append(event("app.one")).await.unwrap();
    let key = log_key().for_tenant(&tenant).unwrap();
    let made = async {
        loop {
            if let Some(note) = acme.audit().last_checkpoint().await.unwrap() {
                return note;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let made = tokio::time::timeout(Duration::from_secs(20), made)
        .await
        .unwrap();
    assert!(Checkpoint::open(&made, key.verifier()).is_ok());
    assert!(
        gov.for_tenant(TenantId::parse("a+b").unwrap())
            .await
            .is_err()
    );
    gov.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn what_was_signed_cannot_be_changed_or_removed() {
    let (trail, _) = written().await;
    let _ = trail.audit.checkpoint(&log_key()).await.unwrap();
    for sql in [
        "UPDATE portcullis.checkpoints SET note = ''",
        "DELETE FROM portcullis.checkpoints",
        "TRUNCATE portcullis.checkpoints",
        "UPDATE portcullis.checkpoint_ranges SET to_seq = to_seq",
        "DELETE FROM portcullis.checkpoint_ranges",
        "TRUNCATE portcullis.checkpoint_ranges",
        "UPDATE portcullis.tree_tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1)",
        "UPDATE portcullis.tree_tiles SET hashes = substring(hashes FROM 1 FOR 32)",
        "UPDATE portcullis.tree_tiles SET tile_no = 9",
        "DELETE FROM portcullis.tree_tiles",
        "TRUNCATE portcullis.tree_tiles",
        "UPDATE portcullis.trees SET size = size - 1",
        "UPDATE portcullis.trees SET origin = 'other', size = size + 1",
        "DELETE FROM portcullis.trees",
        "TRUNCATE portcullis.trees",
    ] {
        let refused = sqlx::query(sql).execute(&trail.pool).await.unwrap_err();
        let code = refused.as_database_error().unwrap().code();
        assert_eq!(code.as_deref(), Some("42501"), "{sql}");
    }
}

#[tokio::test]
async fn the_application_role_makes_checkpoints_and_changes_none() {
    let trail = trail().await;
    let made = "DO $$ BEGIN CREATE ROLE portcullis_test_log;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    trail.run(made).await;
    Migration::new(&trail.test.database())
        .app_role("portcullis_test_log")
        .run()
        .await
        .unwrap();
    let as_app = trail
        .test
        .options()
        .options([("role", "portcullis_test_log")]);
    let database = Database::options(as_app);
    let audit = writer(&database).await;
    for _ in 0..2 {
        let written = event("app.x");
        audit.append(written.clone()).await.unwrap();
        let _ = audit.checkpoint(&log_key()).await.unwrap();
        assert!(audit.prove(written.id()).await.is_ok());
    }
    let report = audit.verify_checkpoints(log_key().verifier(), None).await;
    assert_clean(&report.unwrap(), 5);
    let pool = database.connect_pool().await.unwrap();
    for sql in [
        "UPDATE portcullis.checkpoints SET note = ''",
        "DELETE FROM portcullis.checkpoints",
        "UPDATE portcullis.checkpoint_ranges SET to_seq = to_seq",
        "DELETE FROM portcullis.checkpoint_ranges",
        "DELETE FROM portcullis.tree_tiles",
        "DELETE FROM portcullis.trees",
        "TRUNCATE portcullis.trees",
    ] {
        let refused = sqlx::query(sql).execute(&pool).await.unwrap_err();
        let refused = refused.as_database_error().unwrap();
        assert_eq!(refused.code().as_deref(), Some("42501"), "{sql}");
        // By the grants, before any trigger is asked.
        assert!(!refused.message().contains("append-only"), "{sql}");
    }
}
