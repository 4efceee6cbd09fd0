//! One report: what stands behind which entries, what is exposed, and going on from an earlier one.

use std::fmt::Write as _;

use portcullis::audit::FindingClass::{BadMac, Checkpoint as Tree, Fork, Journal, Rollback};
use portcullis::audit::{
    Assurance, Audit, AuditError, Rotation, SignedCheckpoint, Verification, Verify,
};
use portcullis::tlog::{LogError, LogKey};
use portcullis::{ErrorKind, Secret, TenantId};

use crate::common::trail::{Trail, append_many, event, trail, writer};
use crate::keys::ring;
use crate::trail::found;

const SEED: &str = "5b1d0f3a7c9e2846d0b4f8a1c35e7924a9b8c7d6e5f4031221304f5e6d7c8b9a";

const TABLES: [&str; 6] = [
    "entries",
    "chains",
    "checkpoints",
    "checkpoint_ranges",
    "tree_tiles",
    "trees",
];

fn log_key() -> LogKey {
    LogKey::new("audit.example/report", &Secret::parse(SEED).unwrap()).unwrap()
}

fn everything() -> Verify {
    Verify::everything().log(log_key().verifier())
}

impl Trail {
    async fn report(&self, what: Verify) -> Verification {
        self.audit.verify(what).await.unwrap()
    }

    /// A checkpoint over `entries` new ones, in one chain.
    async fn signed(&self, entries: usize) -> SignedCheckpoint {
        append_many(&self.audit, 1, entries).await;
        self.audit.checkpoint(&log_key()).await.unwrap()
    }

    async fn unlock(&self) {
        for sql in [
            "ALTER TABLE portcullis.entries DISABLE TRIGGER ALL",
            "ALTER TABLE portcullis.chains DISABLE TRIGGER ALL",
            "ALTER TABLE portcullis.checkpoints DISABLE TRIGGER ALL",
            "ALTER TABLE portcullis.checkpoint_ranges DISABLE TRIGGER ALL",
            "ALTER TABLE portcullis.tree_tiles DISABLE TRIGGER ALL",
            "ALTER TABLE portcullis.trees DISABLE TRIGGER ALL",
        ] {
            self.run(sql).await;
        }
    }
}

fn ranges(report: &Verification) -> Vec<(u32, Assurance, u64, u64)> {
    let chains = report.chains().iter();
    chains
        .flat_map(|chain| {
            let ranges = chain.ranges.iter();
            ranges.map(|range| (chain.chain_no, range.assurance, range.from, range.to))
        })
        .collect()
}

#[tokio::test]
async fn the_report_says_what_stands_behind_which_entries_and_what_is_exposed() {
    use Assurance::{Anchored, Keyed, Signed, Unproved};
    let trail = trail().await;
    // The genesis, 9 entries and the checkpoint's own: 11; then 6 more; then 3.
    let kept = trail.signed(9).await;
    let _ = trail.signed(5).await;
    append_many(&trail.audit, 1, 3).await;

    let alone = trail.audit.verify_all().await.unwrap();
    assert_eq!(ranges(&alone), [(1, Keyed, 1, 20)]);
    let exposure = alone.exposure().unwrap();
    assert_eq!((&exposure.anchor, exposure.entries), (&None, 20));
    assert!(exposure.to_string().starts_with("everything, 20 entries"));

    let signed = trail.report(everything()).await;
    assert_eq!(ranges(&signed), [(1, Signed, 1, 17), (1, Keyed, 18, 20)]);
    assert_eq!(signed.exposure().unwrap().entries, 20, "nothing is kept");
    assert!(signed.limits()[0].contains("kept elsewhere"), "{signed}");

    let anchored = trail.report(everything().kept("worm", kept.note())).await;
    assert!(anchored.is_clean(), "{anchored}");
    assert_eq!(
        ranges(&anchored),
        [
            (1, Anchored, 1, 11),
            (1, Signed, 12, 17),
            (1, Keyed, 18, 20)
        ]
    );
    assert_eq!(anchored.limits(), [""; 0]);
    let exposure = anchored.exposure().unwrap();
    assert_eq!(exposure.anchor.as_deref(), Some("worm"));
    assert_eq!((exposure.size, exposure.entries), (11, 9));
    assert!(exposure.time().is_some());

    // What is wrong has nothing behind it, and what is right keeps what it has.
    trail.unlock().await;
    trail
        .run("UPDATE portcullis.entries SET decision = 'x' WHERE seq IN (5, 19)")
        .await;
    let report = trail.report(everything().kept("worm", kept.note())).await;
    assert_eq!(
        found(&report),
        [(BadMac, 1, 5), (BadMac, 1, 19), (Tree, 1, 5)]
    );
    assert_eq!(
        ranges(&report),
        [
            (1, Anchored, 1, 4),
            (1, Unproved, 5, 5),
            (1, Anchored, 6, 11),
            (1, Signed, 12, 17),
            (1, Keyed, 18, 18),
            (1, Unproved, 19, 19),
            (1, Keyed, 20, 20)
        ]
    );
}

#[tokio::test]
async fn a_finding_names_the_place_that_holds_the_checkpoint() {
    let trail = trail().await;
    let kept = trail.signed(4).await;
    // Another history of that size, signed by the log: it was stolen, or restored.
    let forged = portcullis::tlog::Checkpoint::new(
        "audit.example/report",
        kept.size(),
        portcullis::tlog::TreeHash::of_leaf(b"other"),
    );
    let forged = log_key().sign(&forged.unwrap()).unwrap().to_string();
    let larger = portcullis::tlog::Checkpoint::new(
        "audit.example/report",
        kept.size() + 9,
        portcullis::tlog::TreeHash::of_leaf(b"other"),
    );
    let larger = log_key().sign(&larger.unwrap()).unwrap().to_string();
    let what = everything().kept("worm", kept.note());
    let report = trail
        .report(what.kept("mirror", forged).kept("witness", larger))
        .await;
    assert_eq!(found(&report), [(Fork, 0, 6), (Rollback, 0, 7)]);
    let anchors: Vec<_> = report.findings().iter().map(|f| f.anchor.clone()).collect();
    assert_eq!(
        anchors,
        [Some("mirror".to_owned()), Some("witness".to_owned())]
    );
    assert_eq!(report.exposure().unwrap().anchor.as_deref(), Some("worm"));
    // What cannot be read is an error, before anything is read.
    let other = LogKey::new("audit.example/report", &Secret::generate().unwrap()).unwrap();
    let strange = Verify::everything().log(other.verifier());
    let refused = trail.audit.verify(strange.kept("worm", kept.note())).await;
    assert_eq!(refused, Err(AuditError::Log(LogError::Unsigned)));
    for what in [
        Verify::everything().kept("worm", kept.note()),
        Verify::everything().resume("x"),
    ] {
        let refused = trail.audit.verify(what).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Misuse, "{refused}");
    }
}

#[tokio::test]
async fn a_resumed_verification_reads_what_is_new_and_says_what_it_did_not_read() {
    let trail = trail().await;
    let other = writer(&trail.test.database()).await;
    append_many(&trail.audit, 1, 4).await;
    append_many(&other, 1, 4).await;
    let _ = trail.signed(300).await;
    append_many(&trail.audit, 1, 2).await;
    let whole = trail.report(everything()).await;
    let token = whole.resume_token().unwrap().to_owned();

    // Nothing new under a checkpoint, then something, then another.
    for (more, new) in [(0, 2), (5, 8), (700, 701)] {
        if more > 0 {
            append_many(&other, 1, 1).await;
        }
        let _ = new;
        let resumed = trail.report(everything().resume(&token)).await;
        assert!(resumed.is_clean(), "{resumed}");
        let size = resumed.resumed_from().unwrap();
        assert_eq!(resumed.count(Assurance::Resumed), size);
        assert_eq!(size, 311);
        let all = trail.report(everything()).await;
        assert_eq!(resumed.entries() + size, all.entries(), "{resumed}");
        assert!(resumed.to_string().contains("not read again"), "{resumed}");
        assert!(
            resumed
                .limits()
                .iter()
                .any(|limit| limit.contains("goes on from"))
        );
        // The token is a checkpoint that is kept.
        assert_eq!(resumed.exposure().unwrap().size, size);
        if more > 0 {
            let _ = trail.signed(more).await;
        }
    }
    // With the token of a resumed one, and with a kept checkpoint from before it and after it.
    let resumed = trail.report(everything().resume(&token)).await;
    let token = resumed.resume_token().unwrap();
    let kept = trail.signed(3).await;
    let what = everything().resume(token).kept("worm", kept.note());
    let again = trail.report(what).await;
    assert!(again.is_clean(), "{again}");
    assert_eq!(again.exposure().unwrap().anchor.as_deref(), Some("worm"));
    assert!(again.resumed_from().unwrap() > 311);
}

#[tokio::test]
async fn a_resumed_verification_finds_what_is_wrong_after_it_and_when_it_cannot_go_on() {
    let trail = trail().await;
    let other = writer(&trail.test.database()).await;
    append_many(&other, 1, 5).await;
    let _ = trail.signed(20).await;
    trail.unlock().await;
    trail.copy_to("before").await;
    let _ = trail.signed(20).await;
    let token = trail.report(everything()).await;
    let token = token.resume_token().unwrap().to_owned();
    append_many(&trail.audit, 1, 5).await;
    let _ = trail.signed(5).await;
    trail.copy_to("now").await;
    let resume = || everything().resume(&token);
    assert!(trail.report(resume()).await.is_clean());
    let last: i64 =
        sqlx::query_scalar("SELECT max(seq) FROM portcullis.entries WHERE chain_no = 2")
            .fetch_one(&trail.pool)
            .await
            .unwrap();
    let last = u64::try_from(last).unwrap();
    for (sql, resumed, wanted) in [
        // After the checkpoint: found as ever.
        (
            "UPDATE portcullis.entries SET decision = 'x' WHERE chain_no = 2 AND seq = (SELECT max(seq) - 2 FROM portcullis.entries WHERE chain_no = 2)",
            true,
            (BadMac, 2, last - 2),
        ),
        // Where the chain goes on: nothing is taken from there, and everything is read.
        (
            "UPDATE portcullis.entries SET decision = 'x' WHERE chain_no = 2 AND seq = 43",
            false,
            (BadMac, 2, 43),
        ),
        // The ends of the chains, moved so that entries would never be read.
        (
            "UPDATE portcullis.checkpoint_ranges SET to_seq = to_seq + 1 WHERE chain_no = 2 AND from_seq > 1 AND from_seq < 40",
            false,
            (Tree, 2, 44),
        ),
        (
            "UPDATE portcullis.checkpoint_ranges SET to_mac = sha256('x') WHERE chain_no = 2 AND from_seq > 1 AND from_seq < 40",
            true,
            (BadMac, 0, 0),
        ),
        (
            "DELETE FROM portcullis.checkpoint_ranges WHERE chain_no = 1",
            false,
            (Tree, 2, 1),
        ),
        // The tree.
        (
            "UPDATE portcullis.tree_tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)",
            false,
            (Tree, 1, 2),
        ),
        // A head set back behind it.
        (
            "UPDATE portcullis.chains SET next_seq = 9 WHERE chain_no = 2",
            true,
            (Rollback, 2, 9),
        ),
    ] {
        trail.run(sql).await;
        let report = trail.report(resume()).await;
        assert_eq!(report.resumed_from().is_some(), resumed, "{sql}\n{report}");
        if wanted.1 > 0 {
            assert!(found(&report).contains(&wanted), "{sql}\n{report}");
            assert_eq!(report.resume_token(), None);
        } else {
            // The MAC is taken from the entry itself, which is a leaf: nothing else is believed.
            assert!(report.is_clean(), "{sql}\n{report}");
            assert!(!trail.report(everything()).await.is_clean(), "{sql}");
        }
        trail.back_to("now").await;
    }
    // What lies under it is not read, which the report says; the next one of everything finds it.
    trail
        .run("UPDATE portcullis.entries SET decision = 'x' WHERE chain_no = 2 AND seq = 7")
        .await;
    let report = trail.report(resume()).await;
    assert!(report.is_clean() && !report.limits().is_empty(), "{report}");
    assert_eq!(
        found(&trail.report(everything()).await),
        [(BadMac, 2, 7), (Tree, 2, 7)]
    );
    // A backup from before it: the token's note is larger than the tree.
    trail.back_to("before").await;
    let report = trail.report(resume()).await;
    assert_eq!(report.resumed_from(), None, "{report}");
    let classes: Vec<_> = report.findings().iter().map(|f| f.class).collect();
    assert_eq!(classes, [Rollback], "{report}");
}

impl Trail {
    async fn copy_to(&self, schema: &str) {
        let mut sql = format!("CREATE SCHEMA {schema};");
        for table in TABLES {
            let _ = write!(
                sql,
                "CREATE TABLE {schema}.{table} AS TABLE portcullis.{table};"
            );
        }
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn back_to(&self, schema: &str) {
        for table in TABLES {
            let sql = format!(
                "DELETE FROM portcullis.{table}; INSERT INTO portcullis.{table} TABLE {schema}.{table}"
            );
            let sql = sqlx::AssertSqlSafe(sql);
            sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_token_of_nobody_and_of_another_trail_is_refused() {
    let trail = trail().await;
    let kept = trail.signed(3).await;
    let token = trail.report(everything()).await;
    let token = token.resume_token().unwrap().to_owned();
    // Of a larger tree, which the log signed: it moves nobody past what was not verified.
    let later = trail.signed(3).await;
    let moved = token.replace(kept.note(), later.note());
    assert_ne!(moved, token);
    for bad in [moved.as_str(), "", kept.note(), &token[1..], &token[..90]] {
        let refused = trail.audit.verify(everything().resume(bad)).await;
        assert_eq!(refused, Err(AuditError::Resume), "{bad}");
    }
    let tenant = TenantId::parse("acme").unwrap();
    let database = trail.test.database();
    let acme = Audit::open(&database, crate::common::keys(), tenant);
    let refused = acme
        .await
        .unwrap()
        .verify(everything().resume(&token))
        .await;
    assert_eq!(refused, Err(AuditError::Resume));
    assert!(trail.report(everything().resume(&token)).await.is_clean());
}

#[tokio::test]
async fn rotations_from_before_are_remembered_by_the_token() {
    let trail = trail().await;
    let database = trail.test.database();
    let open = || async {
        let audit = Audit::open(&database, ring(&[1, 2, 3]), TenantId::single());
        audit.await.unwrap()
    };
    append_many(&trail.audit, 1, 3).await;
    let other = writer(&trail.test.database()).await;
    append_many(&other, 1, 3).await;
    other.shutdown().await;
    trail.audit.shutdown().await;
    // One chain is stopped, and stays under its key; the other is handed on.
    trail
        .run("UPDATE portcullis.chains SET stopped = true WHERE chain_no = 2")
        .await;
    let audit = open().await;
    let since = Rotation::Compromise { since: None };
    audit.rotate(2, since).await.unwrap();
    append_many(&audit, 1, 3).await;
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    let whole = audit.verify(everything()).await.unwrap();
    assert!(whole.is_clean(), "{whole}");
    append_many(&audit, 1, 3).await;
    let token = whole.resume_token().unwrap();
    let resumed = audit.verify(everything().resume(token)).await.unwrap();
    assert!(resumed.is_clean(), "{resumed}");
    assert_eq!(resumed.compromised_keys(), whole.compromised_keys());
    assert_eq!(resumed.compromised_keys().len(), 1);
}

#[tokio::test]
async fn an_outage_that_is_not_over_is_a_limit_while_its_chain_is_held_and_then_a_finding() {
    let directory = crate::common::journal::Directory::fresh();
    let mut trail = crate::journal_files::left_behind(&directory, &[event("app.x")]).await;
    let drained = crate::journal_files::report(&mut trail, &directory).await;
    assert!(drained.is_clean(), "{drained}");
    trail.unlock().await;
    // As if it had died before it put the end on record.
    trail
        .run("DELETE FROM portcullis.entries WHERE kind = 'chain.degraded_end'")
        .await;
    trail
        .run(
            "UPDATE portcullis.chains c SET next_seq = e.seq + 1, head_mac = e.mac, recorded_at = e.recorded_at
               FROM portcullis.entries e
              WHERE e.seq = (SELECT max(seq) FROM portcullis.entries)",
        )
        .await;
    let held = trail.report(Verify::everything()).await;
    assert!(held.is_clean(), "{held}");
    assert!(
        held.limits().iter().any(|l| l.contains("not over")),
        "{held}"
    );
    trail.expire_leases().await;
    let report = trail.report(Verify::everything()).await;
    assert_eq!(found(&report), [(Journal, 1, 2)], "{report}");
}
