//! Retention: what is archived and removed, by whom, past what, and what still verifies then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portcullis::audit::FindingClass::{BadMac, Checkpoint as Tree, Gap};
use portcullis::audit::bundle::{Bundle, BundleError, Export, Selection, Trust};
use portcullis::audit::retention::{
    ArchiveCheck, ArchiveReport, Archiving, KeptNote, RetentionError, RetentionPolicy, Status,
};
use portcullis::audit::{Audit, AuditError, AuditEvent, FindingClass, Query, Scope, Verification};
use portcullis::store::{Migration, TestDatabase};
use portcullis::tlog::{Checkpoint, LogKey};
use portcullis::{
    AgentId, Clock, Database, EventId, Governance, ManualClock, Principal, Secret, SystemClock,
    Timestamp, UserId,
};

use crate::common::journal::Directory;
use crate::common::trail::{Trail, append_many, keys, trail, writer};

pub(crate) const ORIGIN: &str = "audit.example/retention";
pub(crate) const SEED: &str = "77b0c3d2e1f40516a7b8c9d0e1f2031425364758697a8b9cadbecfd0e1f20314";
pub(crate) const APP: &str = "portcullis_test_keeper";
pub(crate) const ARCHIVIST: &str = "portcullis_test_archivist";
/// What somebody does to the lines of a file.
type Change = fn(&mut Vec<String>);

const DAY: Duration = Duration::from_hours(24);

pub(crate) fn log_key() -> LogKey {
    LogKey::new(ORIGIN, &Secret::parse(SEED).unwrap()).unwrap()
}

pub(crate) fn me() -> UserId {
    UserId::parse("u-17").unwrap()
}

fn ago(days: u32) -> Timestamp {
    SystemClock::default().now().minus(DAY * days)
}

/// A trail of which most is more than a year old, with roles and a directory of its own.
pub(crate) struct Aged {
    pub(crate) trail: Trail,
    /// As the role that archives.
    pub(crate) archivist: Audit,
    /// The events of a year ago, in their order.
    pub(crate) events: Vec<EventId>,
    /// The first checkpoint, of a year ago.
    pub(crate) first: String,
    /// The newest one, which somebody keeps.
    pub(crate) note: String,
    pub(crate) directory: Directory,
}

pub(crate) fn as_role(test: &TestDatabase, role: &'static str) -> Database {
    Database::options(test.options().options([("role", role)]))
}

/// One chain. Of a year ago: genesis, two policies, what anna did, a checkpoint (1 to 14); what bert
/// did, a checkpoint (15 to 25); what carl did, a checkpoint (26 to 36). Of today: 37 to 42.
pub(crate) async fn aged() -> Aged {
    // No other writer may be there: it would move what is queued, and take the chain.
    let test = TestDatabase::fresh().await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    for role in [APP, ARCHIVIST] {
        let made = format!(
            "DO $$ BEGIN CREATE ROLE {role};
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        let made = sqlx::query(sqlx::AssertSqlSafe(made));
        made.execute(&pool).await.unwrap();
    }
    Migration::new(&test.database())
        .app_role(APP)
        .archivist_role(ARCHIVIST)
        .run()
        .await
        .unwrap();
    let clock = Arc::new(ManualClock::at(ago(400)));
    let builder = |database| Governance::builder(database, keys()).shared_clock(clock.clone());
    let owner = builder(test.database()).connect().await.unwrap();
    for _ in 0..2 {
        let policy = RetentionPolicy::months(6).unwrap();
        let retention = owner.audit().retention();
        retention.set_policy(policy, &me(), "a test").await.unwrap();
    }
    // One writer after the other: they all go on with the same chain.
    owner.shutdown().await;
    let old = builder(as_role(&test, APP)).connect().await.unwrap();
    let (mut events, mut first) = (Vec::new(), None);
    for agent in ["anna", "bert", "carl"] {
        clock.advance(DAY);
        let who = Principal::agent(AgentId::parse(agent).unwrap());
        for n in 0..10 {
            let event = AuditEvent::new(&who, "app.old").with("n", n);
            events.push(event.id());
            old.audit().append(event).await.unwrap();
        }
        let signed = old.audit().checkpoint(&log_key()).await.unwrap();
        first.get_or_insert(signed.note().to_owned());
    }
    old.shutdown().await;
    let app = writer(&as_role(&test, APP)).await;
    append_many(&app, 1, 5).await;
    let note = app.checkpoint(&log_key()).await.unwrap().note().to_owned();
    app.shutdown().await;
    let archivist = writer(&as_role(&test, ARCHIVIST)).await;
    let audit = writer(&test.database()).await;
    Aged {
        trail: Trail { test, pool, audit },
        archivist,
        events,
        first: first.unwrap(),
        note,
        directory: Directory::fresh(),
    }
}

impl Aged {
    pub(crate) fn what(&self) -> Archiving {
        Archiving::into_directory(self.directory.path(), log_key().verifier().clone())
            .kept(KeptNote::new("worm", self.note.clone()))
    }

    pub(crate) async fn archive(&self) -> Result<ArchiveReport, RetentionError> {
        self.archivist.retention().archive(&self.what()).await
    }

    /// Everything but the removal: what is left by a process that is killed before it.
    pub(crate) async fn mark(&self) {
        self.trail
            .run("REVOKE DELETE ON portcullis.entries FROM portcullis_test_archivist")
            .await;
        let stopped = self.archive().await.unwrap_err();
        assert!(matches!(stopped, RetentionError::Store(_)), "{stopped}");
        self.trail
            .run("GRANT DELETE ON portcullis.entries TO portcullis_test_archivist")
            .await;
    }

    /// How many there are, however many chains there came to be.
    pub(crate) async fn entries(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM portcullis.entries WHERE kind <> 'chain.genesis'")
            .fetch_one(&self.trail.pool)
            .await
            .unwrap()
    }

    fn file(&self) -> PathBuf {
        let [file] = self.directory.files().try_into().expect("one file");
        file
    }

    async fn check(&self, file: &Path) -> ArchiveCheck {
        let retention = self.archivist.retention();
        let check = retention.verify_archive(file, log_key().verifier()).await;
        check.unwrap()
    }

    /// Both verifications; the findings of both.
    pub(crate) async fn verified(&self) -> (Verification, Verification) {
        let chains = self.trail.audit.verify_all().await.unwrap();
        let log = log_key();
        let tree = self
            .trail
            .audit
            .verify_checkpoints(log.verifier(), Some(&self.note));
        (chains, tree.await.unwrap())
    }

    pub(crate) async fn assert_clean(&self, archived: u64) {
        let (chains, tree) = self.verified().await;
        assert!(chains.is_clean(), "{chains}");
        assert!(tree.is_clean(), "{tree}");
        assert_eq!((chains.archived(), tree.archived()), (archived, archived));
    }

    async fn back_up(&self) {
        for sql in [
            "CREATE SCHEMA backup",
            "CREATE TABLE backup.entries AS TABLE portcullis.entries",
            "CREATE TABLE backup.archive_ranges AS TABLE portcullis.archive_ranges",
            "CREATE TABLE backup.archive_links AS TABLE portcullis.archive_links",
            "CREATE TABLE backup.checkpoints AS TABLE portcullis.checkpoints",
            "CREATE TABLE backup.tree_tiles AS TABLE portcullis.tree_tiles",
        ] {
            self.trail.run(sql).await;
        }
    }

    async fn restore(&self) {
        for sql in [
            "DELETE FROM portcullis.entries",
            "DELETE FROM portcullis.archive_ranges",
            "DELETE FROM portcullis.archive_links",
            "DELETE FROM portcullis.checkpoints",
            "DELETE FROM portcullis.tree_tiles",
            "INSERT INTO portcullis.entries TABLE backup.entries",
            "INSERT INTO portcullis.archive_ranges TABLE backup.archive_ranges",
            "INSERT INTO portcullis.archive_links TABLE backup.archive_links",
            "INSERT INTO portcullis.checkpoints TABLE backup.checkpoints",
            "INSERT INTO portcullis.tree_tiles TABLE backup.tree_tiles",
        ] {
            self.trail.run(sql).await;
        }
    }

    async fn disarm(&self) {
        for sql in [
            "ALTER TABLE portcullis.entries DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.archives DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.archive_ranges DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.archive_links DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.checkpoints DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.checkpoint_ranges DISABLE TRIGGER USER",
            "ALTER TABLE portcullis.tree_tiles DISABLE TRIGGER USER",
        ] {
            self.trail.run(sql).await;
        }
    }
}

fn found(report: &Verification) -> Vec<(FindingClass, u32, u64, u64)> {
    let findings = report.findings().iter();
    findings
        .map(|f| (f.class, f.chain_no, f.seq, f.through))
        .collect()
}

/// The places that are found, without what is said of them.
fn classes(report: &Verification) -> Vec<FindingClass> {
    let mut classes: Vec<_> = found(report).into_iter().map(|found| found.0).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

#[tokio::test]
async fn what_is_archived_is_gone_and_everything_still_verifies() {
    let aged = aged().await;
    aged.assert_clean(0).await;
    let before = aged.entries().await;
    let report = aged.archive().await.unwrap();
    let [archive] = report.archives.as_slice() else {
        panic!("{report:?}");
    };
    // All but the last of each range, and but what set the policy.
    assert_eq!(
        (archive.entries, archive.ranges, report.removed),
        (36, 3, 31)
    );
    assert_eq!(
        aged.entries().await,
        before - 30 + 1,
        "and retention.purged"
    );
    aged.assert_clean(31).await;

    // Nothing is left to do.
    let again = aged.archive().await.unwrap();
    assert_eq!(
        (again.archives.len(), again.removed, again.resumed),
        (0, 0, 0)
    );
    // The trail goes on, over the gap.
    append_many(&aged.trail.audit, 1, 3).await;
    let newer = aged.trail.audit.checkpoint(&log_key()).await.unwrap();
    aged.assert_clean(31).await;
    let kept = Checkpoint::open(&aged.first, log_key().verifier()).unwrap();
    let proof = aged
        .trail
        .audit
        .prove_consistency(kept.size())
        .await
        .unwrap();
    let newest = proof.verify(&kept, log_key().verifier()).unwrap();
    assert_eq!(newest.size(), newer.size());
}

#[tokio::test]
async fn what_is_archived_can_be_read_and_proved_from_its_file() {
    use std::os::unix::fs::MetadataExt as _;
    let aged = aged().await;
    let report = aged.archive().await.unwrap();
    let file = aged.file();
    assert_eq!(report.archives[0].file, file);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let check = aged.check(&file).await;
    assert!(check.is_clean(), "{:?}", check.findings());
    assert_eq!((check.entries(), check.proved()), (36, 36));
    assert_eq!(check.sha256(), &report.archives[0].sha256);

    let retention = aged.archivist.retention();
    for id in &aged.events {
        // The last event of a range is not its last entry: all are gone.
        let refused = aged.trail.audit.prove(*id).await.unwrap_err();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(refused, AuditError::Archived { file: name });
        let proof = retention
            .prove(&file, log_key().verifier(), *id)
            .await
            .unwrap();
        let proved = proof.proof().verify(&proof.leaf(), log_key().verifier());
        assert!(proved.is_ok());
    }
    let refused = aged.trail.audit.prove(EventId::new()).await.unwrap_err();
    assert_eq!(refused, AuditError::NoCheckpoint);
}

#[tokio::test]
async fn reading_and_following_go_on_past_what_is_archived() {
    let aged = aged().await;
    let _ = aged.archive().await.unwrap();
    let audit = aged.trail.audit.clone().verify_on_read(true);
    let page = audit.events(&Query::all().limit(1_000)).await.unwrap();
    let expected: i64 = sqlx::query_scalar("SELECT count(*) FROM portcullis.entries")
        .fetch_one(&aged.trail.pool)
        .await
        .unwrap();
    let expected = usize::try_from(expected).unwrap();
    assert_eq!(page.entries.len(), expected);
    let mut follow = audit.follow(&Query::all()).from_beginning();
    for _ in 0..expected {
        let next = tokio::time::timeout(Duration::from_secs(20), follow.next());
        next.await.unwrap().unwrap();
    }
    // What was archived is counted, and is no hole; but nothing proves it here.
    let range = Scope::Range {
        chain_no: 1,
        from: 5,
        to: 9,
    };
    let report = audit.verify(range).await.unwrap();
    assert_eq!(
        (report.finding_count(), report.archived(), report.entries()),
        (0, 5, 0)
    );
    assert!(!report.is_clean());
    let range = Scope::Range {
        chain_no: 1,
        from: 5,
        to: 27,
    };
    let report = audit.verify(range).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.archived(), report.proved()), (21, 2));
    // A hole that no archive explains stops who follows.
    aged.disarm().await;
    aged.trail
        .run("DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 25")
        .await;
    let mut follow = audit.follow(&Query::all()).from_beginning();
    let stopped = loop {
        match tokio::time::timeout(Duration::from_secs(20), follow.next())
            .await
            .unwrap()
        {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(stopped, AuditError::Tampered { .. }), "{stopped}");
}

#[tokio::test]
async fn what_is_missing_without_a_record_is_found_and_so_is_a_forged_one() {
    let aged = aged().await;
    let report = aged.archive().await.unwrap();
    aged.disarm().await;
    aged.back_up().await;
    let purged = report.archives[0].id.to_string();
    let (chain, seq): (i32, i64) = sqlx::query_as(
        "SELECT chain_no, seq FROM portcullis.entries WHERE event_id = $1::text::uuid",
    )
    .bind(&purged)
    .fetch_one(&aged.trail.pool)
    .await
    .unwrap();
    for (sql, by_chains, by_tree) in [
        // An entry that stays at the end of a range, and one that stays within.
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 14",
            vec![Gap],
            vec![Gap, Tree],
        ),
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 2",
            vec![Gap],
            vec![Gap, Tree],
        ),
        (
            "WITH a AS (DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 2), b AS (DELETE FROM portcullis.archive_links WHERE seq = 2) SELECT 1",
            vec![Gap],
            vec![Gap],
        ),
        // One that was never archived.
        (
            "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 39",
            vec![Gap],
            vec![Gap, Tree],
        ),
        // What stays is changed, or the MAC before it.
        (
            "UPDATE portcullis.entries SET metadata = '{}' WHERE chain_no = 1 AND seq = 14",
            vec![BadMac],
            vec![BadMac, Tree],
        ),
        (
            "UPDATE portcullis.archive_links SET previous_mac = sha256('x') WHERE chain_no = 1 AND seq = 14",
            vec![BadMac],
            vec![BadMac],
        ),
        // The marks are gone, or the record in the trail, or what it says.
        (
            "DELETE FROM portcullis.archive_ranges WHERE first_leaf = 0",
            vec![Gap],
            vec![Gap, Tree],
        ),
        (
            "UPDATE portcullis.archive_ranges SET archive_id = gen_random_uuid() WHERE first_leaf = 0",
            vec![Gap],
            vec![Gap, Tree],
        ),
        (
            "UPDATE portcullis.entries SET metadata = replace(metadata, '\"entries\":36', '\"entries\":38') WHERE kind = 'retention.purged'",
            vec![BadMac, Gap],
            vec![BadMac, Gap, Tree],
        ),
        // A mark for what was not archived, and its entries gone.
        (
            "INSERT INTO portcullis.archive_ranges SELECT m.tenant_id, r.first_leaf, m.archive_id FROM portcullis.archive_ranges m JOIN portcullis.checkpoint_ranges r ON m.first_leaf = 0 AND r.from_seq = 37",
            vec![],
            vec![],
        ),
        // No checkpoint covers it any more.
        ("DELETE FROM portcullis.checkpoints", vec![Tree], vec![Tree]),
    ] {
        aged.trail.run(sql).await;
        if sql.starts_with("INSERT") {
            aged.trail
                .run("DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq BETWEEN 37 AND 41")
                .await;
        }
        let (chains, tree) = aged.verified().await;
        if by_chains.is_empty() {
            assert!(
                classes(&chains).contains(&Gap) || classes(&chains).contains(&BadMac),
                "{sql}\n{chains}"
            );
            assert!(tree.finding_count() > 0, "{sql}\n{tree}");
        } else {
            assert_eq!(classes(&chains), by_chains, "{sql}\n{chains}");
            assert_eq!(classes(&tree), by_tree, "{sql}\n{tree}");
        }
        aged.restore().await;
        aged.assert_clean(31).await;
    }
    // Its record is the last entry of its chain: gone with the head set back, the marks excuse nothing.
    let gone = "DELETE FROM portcullis.entries WHERE chain_no = $1 AND seq >= $2";
    sqlx::query(gone)
        .bind(chain)
        .bind(seq)
        .execute(&aged.trail.pool)
        .await
        .unwrap();
    let (chains, tree) = aged.verified().await;
    let unrecorded =
        |f: &&portcullis::audit::Finding| f.detail.contains("no entry of the trail says so");
    assert!(chains.findings().iter().any(|f| unrecorded(&f)), "{chains}");
    assert!(tree.finding_count() > 0, "{tree}");
}

#[tokio::test]
async fn a_file_that_was_changed_is_found_line_by_line() {
    let aged = aged().await;
    let _ = aged.archive().await.unwrap();
    let lines = aged.directory.lines();
    let at = |n: usize| n - 1;
    // The first line is the header, the second a range; entries follow.
    let cases: [(&str, Change, u64); 11] = [
        (
            "metadata",
            |l| l[5] = l[5].replace("\\\"n\\\":", "\\\"m\\\":"),
            6,
        ),
        ("agent", |l| l[5] = l[5].replace("anna", "bert"), 6),
        (
            "time",
            |l| l[5] = l[5].replacen("\"occurred\":\"2", "\"occurred\":\"3", 1),
            6,
        ),
        (
            "mac",
            |l| l[5] = l[5].replacen("\"mac\":\"", "\"mac\":\"00", 1),
            6,
        ),
        (
            "unknown field",
            |l| l[5] = l[5].replacen("{\"entry\":{", "{\"entry\":{\"x\":1,", 1),
            6,
        ),
        ("removed", |l| drop(l.remove(5)), 6),
        ("doubled", |l| l.insert(5, l[5].clone()), 7),
        ("swapped", |l| l.swap(5, 6), 6),
        (
            "range",
            |l| l[1] = l[1].replace("\"to\":14", "\"to\":13"),
            2,
        ),
        ("end", |l| l.truncate(l.len() - 1), 0),
        ("more", |l| l.push("{}".to_owned()), 42),
    ];
    for (what, change, line) in cases {
        let mut changed = lines.clone();
        change(&mut changed);
        assert_ne!(changed, lines, "{what}");
        aged.directory.write_lines(&changed);
        let check = aged.check(&aged.file()).await;
        assert!(!check.is_clean(), "{what}");
        let places: Vec<u64> = check.findings().iter().map(|f| f.line).collect();
        assert!(places.contains(&line), "{what}: {:?}", check.findings());
        // The file as a whole is not the one on record either.
        assert!(places.contains(&0), "{what}");
    }
    // An entry that is whole, at a place where another one was signed.
    let mut other = lines.clone();
    other[at(6)] = lines[at(6)].clone();
    aged.directory.write_lines(&other);
    assert!(aged.check(&aged.file()).await.is_clean());
    // Another log's checkpoint, another tenant's file, no file at all.
    let retention = aged.archivist.retention();
    let other = LogKey::new(ORIGIN, &Secret::generate().unwrap()).unwrap();
    let refused = retention
        .verify_archive(&aged.file(), other.verifier())
        .await;
    assert!(
        matches!(refused, Err(RetentionError::Log(_))),
        "{refused:?}"
    );
    for (from, to) in [
        ("\"tenant\":\"default\"", "\"tenant\":\"acme\""),
        ("archive/v1", "archive/v2"),
    ] {
        let mut changed = lines.clone();
        changed[0] = changed[0].replace(from, to);
        aged.directory.write_lines(&changed);
        let refused = retention
            .verify_archive(&aged.file(), log_key().verifier())
            .await;
        assert!(
            matches!(refused, Err(RetentionError::Unsound { line: 1, .. })),
            "{refused:?}"
        );
    }
    let missing = aged.directory.path().join("missing.jsonl");
    let refused = retention
        .verify_archive(&missing, log_key().verifier())
        .await;
    assert!(
        matches!(refused, Err(RetentionError::File { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn nothing_is_removed_for_a_file_that_is_gone_or_not_what_was_written() {
    let aged = aged().await;
    aged.mark().await;
    let before = aged.entries().await;
    let (file, lines) = (aged.file(), aged.directory.lines());
    let mut changed = lines.clone();
    changed[7] = changed[7].replace("\\\"n\\\":", "\\\"m\\\":");
    aged.directory.write_lines(&changed);
    let refused = aged.archive().await;
    assert!(
        matches!(refused, Err(RetentionError::Unsound { line: 8, .. })),
        "{refused:?}"
    );
    std::fs::remove_file(&file).unwrap();
    let refused = aged.archive().await;
    assert!(
        matches!(refused, Err(RetentionError::FileMissing { .. })),
        "{refused:?}"
    );
    // A link is not followed.
    let elsewhere = Directory::fresh();
    std::fs::create_dir(elsewhere.path()).unwrap();
    let target = elsewhere.path().join("copy");
    std::fs::write(&target, lines.join("\n") + "\n").unwrap();
    std::os::unix::fs::symlink(&target, &file).unwrap();
    let refused = aged.archive().await;
    assert!(
        matches!(refused, Err(RetentionError::File { .. })),
        "{refused:?}"
    );
    assert_eq!(aged.entries().await, before);
    aged.assert_clean(0).await;
    // Put back, it goes on where it was.
    std::fs::rename(&target, &file).unwrap();
    let report = aged.archive().await.unwrap();
    assert_eq!(
        (report.resumed, report.removed, report.archives.len()),
        (1, 31, 0)
    );
    aged.assert_clean(31).await;
}

#[tokio::test]
async fn a_trail_that_is_not_the_one_that_was_signed_is_not_archived() {
    let aged = aged().await;
    aged.disarm().await;
    aged.back_up().await;
    for sql in [
        "UPDATE portcullis.entries SET metadata = '{\"n\":99}' WHERE chain_no = 1 AND seq = 4",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 4",
        "UPDATE portcullis.tree_tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1) WHERE level = 0",
    ] {
        aged.trail.run(sql).await;
        let before = aged.entries().await;
        let refused = aged.archive().await.unwrap_err();
        assert_eq!(
            refused.kind(),
            portcullis::ErrorKind::Integrity,
            "{sql}: {refused}"
        );
        assert_eq!(aged.entries().await, before, "{sql}");
        aged.restore().await;
    }
    aged.assert_clean(0).await;
}

#[tokio::test]
async fn what_is_missing_for_an_archival_is_said_before_anything_is_done() {
    let aged = aged().await;
    let retention = aged.archivist.retention();
    let log = log_key().verifier().clone();
    let bare = Archiving::into_directory(aged.directory.path(), log.clone());
    let refused = retention.archive(&bare).await.unwrap_err();
    assert_eq!(refused, RetentionError::NotAnchored);
    let refused = retention
        .archive(&aged.what().older_than_months(5))
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        RetentionError::BelowPolicy {
            asked: 5,
            min_months: 6
        }
    );
    // A checkpoint of another tree, though the log has signed it.
    let forged = Checkpoint::new(ORIGIN, 12, portcullis::tlog::TreeHash::of_leaf(b"x")).unwrap();
    let forged = log_key().sign(&forged).unwrap().to_string();
    let larger = Checkpoint::new(ORIGIN, 9_999, portcullis::tlog::TreeHash::of_leaf(b"x")).unwrap();
    let larger = log_key().sign(&larger).unwrap().to_string();
    for note in [forged, larger] {
        let what = aged.what().kept(KeptNote::new("other", note));
        let refused = retention.archive(&what).await.unwrap_err();
        assert_eq!(
            refused,
            RetentionError::AnchorMismatch {
                anchor: "other".to_owned()
            }
        );
    }
    // Only what is under the checkpoint that is kept: the first, of 14 entries.
    let what = bare
        .kept(KeptNote::new("worm", aged.first.clone()))
        .older_than_months(12);
    let report = retention.archive(&what).await.unwrap();
    assert_eq!((report.archives[0].entries, report.removed), (14, 11));
    aged.assert_clean(11).await;

    let unset = trail().await;
    let what = aged.what();
    let refused = unset.audit.retention().archive(&what).await.unwrap_err();
    assert_eq!(refused, RetentionError::NoPolicy);
}

#[tokio::test]
async fn six_months_are_evidenced_by_an_old_anchor_and_by_nothing_less() {
    let aged = aged().await;
    let _ = aged.archive().await.unwrap();
    let (retention, log) = (aged.archivist.retention(), log_key().verifier().clone());
    let newest = KeptNote::new("worm", aged.note.clone());
    let old = KeptNote::new("worm", aged.first.clone()).since(ago(390));
    let status = async |kept: &[KeptNote], months| {
        let evidence = retention.evidence(&log, kept, months).await.unwrap();
        (evidence.status, evidence.archived)
    };
    let both = [newest.clone(), old.clone()];
    assert_eq!(status(&both, 6).await, (Status::Evidenced, 31));
    assert_eq!(
        status(std::slice::from_ref(&newest), 6).await.0,
        Status::PolicyOnly
    );
    assert_eq!(status(&[], 6).await.0, Status::PolicyOnly);
    let young = KeptNote::new("worm", aged.first.clone()).since(ago(30));
    assert_eq!(status(&[young], 6).await.0, Status::PolicyOnly);
    assert_eq!(status(&both, 12).await.0, Status::NotEvidenced);
    let refused = retention.evidence(&log, &both, 5).await.unwrap_err();
    assert_eq!(refused, RetentionError::TooShort { months: 5 });
    // Another tree at the anchor.
    let forged = Checkpoint::new(ORIGIN, 12, portcullis::tlog::TreeHash::of_leaf(b"x")).unwrap();
    let forged = KeptNote::new("worm", log_key().sign(&forged).unwrap().to_string());
    assert_eq!(
        status(&[old.clone(), forged], 6).await.0,
        Status::Indeterminate
    );
    // Something is gone.
    aged.disarm().await;
    aged.trail
        .run("DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 39")
        .await;
    assert_eq!(status(&both, 6).await.0, Status::Indeterminate);
}

#[tokio::test]
async fn a_bundle_withholds_what_is_archived_and_never_claims_to_show_everything() {
    let aged = aged().await;
    let archived = aged.archive().await.unwrap().removed;
    let audit = &aged.trail.audit;
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    let order = || Export::new(log_key().verifier().clone(), log_key());
    let refused = audit.export(&order(), Vec::new()).await.unwrap_err();
    assert!(matches!(refused, BundleError::Archived), "{refused}");

    let mut out = Vec::new();
    let lately = order().select(Selection::all().from(ago(30)));
    audit.export(&lately, &mut out).await.unwrap();
    let trust = Trust::in_log(log_key().verifier().clone());
    let report = Bundle::new(out.as_slice()).verify(&trust).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(
        report.entries() > 0 && report.withheld() >= archived,
        "{report}"
    );

    // What no archive explains is not withheld.
    aged.disarm().await;
    let gone = "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 14";
    aged.trail.run(gone).await;
    let refused = audit.export(&lately, Vec::new()).await.unwrap_err();
    assert!(
        matches!(refused, BundleError::Audit(AuditError::Tampered { .. })),
        "{refused}"
    );
}
