//! Anchors: what is kept outside of the database holds the signer and the verifier to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::audit::anchor::{
    Anchor, AnchorError, AnchorFuture, AnchorHealth, CommandAnchor, FileAnchor, Held, Inquiry,
    Kept, KeptAt, Publication, Receipt,
};
use portcullis::audit::{Audit, AuditError, CheckpointEvery, FindingClass, Kind, Query};
use portcullis::store::Migration;
use portcullis::tlog::{Checkpoint, LogKey};
use portcullis::{Database, ErrorKind, Governance, Secret, TenantId};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};

use crate::common::trail::{Trail, append_many, keys, trail, writer};

const ORIGIN: &str = "audit.example/anchored";

fn log_key() -> LogKey {
    let seed = "1f6f0b1d3a5c7e9284b6d8fa0c1e3a5b7d9f1b3c5e7a9d8c6b4a2f0e1d3c5b79";
    LogKey::new(ORIGIN, &Secret::parse(seed).unwrap()).unwrap()
}

/// A directory of its own, removed at the end.
struct Vault(PathBuf);

impl Vault {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-vault-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn anchor(&self, name: &str) -> Arc<dyn Anchor> {
        Arc::new(FileAnchor::new(name, self.0.join(name)).unwrap())
    }

    /// Every file that an anchor made, in the order of sizes.
    fn files(&self, name: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![self.0.join(name)];
        while let Some(path) = waiting.pop() {
            let Ok(entries) = fs::read_dir(&path) else {
                continue;
            };
            for entry in entries {
                let path = entry.unwrap().path();
                if fs::symlink_metadata(&path).unwrap().is_dir() {
                    waiting.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An anchor that is away when told to be, and can say what it likes.
#[derive(Debug, Default)]
struct Fickle {
    away: AtomicBool,
    hangs: AtomicBool,
    holds: Mutex<Option<String>>,
    asked: AtomicU32,
    taken: AtomicU32,
}

impl Fickle {
    async fn fault(&self) -> Result<(), AnchorError> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(AnchorError::Away("it was told to be"));
        }
        Ok(())
    }
}

impl Anchor for Fickle {
    fn name(&self) -> &'static str {
        "fickle"
    }

    fn kind(&self) -> &'static str {
        "test"
    }

    fn latest<'a>(&'a self, _inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.fault().await?;
            Ok(self.holds.lock().unwrap().clone().map(Kept::note))
        })
    }

    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt> {
        Box::pin(async {
            self.fault().await?;
            self.taken.fetch_add(1, Ordering::SeqCst);
            *self.holds.lock().unwrap() = Some(publication.note().to_owned());
            Ok(Receipt::new("test", "taken"))
        })
    }
}

impl Trail {
    async fn anchored(&self, anchors: impl IntoIterator<Item = Arc<dyn Anchor>>) -> Audit {
        let audit = writer(&self.test.database()).await;
        audit.with_anchors(anchors).unwrap()
    }
}

/// How many entries of a kind there are.
async fn count(audit: &Audit, kind: Kind) -> usize {
    let page = audit.events(&Query::all().kind(&kind)).await.unwrap();
    page.entries.len()
}

async fn sizes(audit: &Audit) -> Vec<Option<u64>> {
    let kept = audit.kept(log_key().verifier()).await.unwrap();
    let size = |kept: &KeptAt| kept.held().map(Held::size);
    kept.iter().map(size).collect()
}

#[tokio::test]
async fn what_is_signed_is_published_to_every_anchor_and_told_in_the_trail() {
    let (trail, vault) = (trail().await, Vault::new());
    let audit = trail.anchored([vault.anchor("a"), vault.anchor("b")]).await;
    assert_eq!(sizes(&audit).await, [None, None]);
    append_many(&audit, 1, 3).await;
    let first = audit.checkpoint(&log_key()).await.unwrap();
    append_many(&audit, 1, 3).await;
    let second = audit.checkpoint(&log_key()).await.unwrap();

    let kept = audit.kept(log_key().verifier()).await.unwrap();
    assert_eq!(kept.len(), 2);
    for (kept, name) in kept.iter().zip(["a", "b"]) {
        let held = kept.held().unwrap();
        assert_eq!((kept.anchor(), kept.kind()), (name, "file"));
        assert_eq!(
            (held.size(), held.root()),
            (second.size(), Some(second.root()))
        );
        assert_eq!(held.note(), Some(second.note()));
        assert!(held.at().is_some());
        let files = vault.files(name);
        let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
        let notes: Vec<_> = files.iter().map(read).collect();
        assert_eq!(notes, [first.note(), second.note()]);
        for path in files {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
    // Of the first one the trail tells, under the second.
    assert_eq!(count(&audit, Kind::ChainAnchored).await, 2);
    let receipts: Vec<(String, i64)> =
        sqlx::query_as("SELECT anchor, size FROM portcullis.anchor_receipts ORDER BY anchor, size")
            .fetch_all(&trail.pool)
            .await
            .unwrap();
    let (first, second) = (first.size().cast_signed(), second.size().cast_signed());
    let at = |name: &str, size| (name.to_owned(), size);
    assert_eq!(
        receipts,
        [
            at("a", first),
            at("a", second),
            at("b", first),
            at("b", second)
        ]
    );
    assert!(audit.anchor_health().iter().all(AnchorHealth::is_ok));
}

/// The database goes back to a copy of it that was taken earlier.
async fn copy_database(options: &PgConnectOptions, from: &str, to: &str) {
    let mut admin = options
        .clone()
        .database("postgres")
        .connect()
        .await
        .unwrap();
    let drop = format!("DROP DATABASE IF EXISTS \"{to}\" WITH (FORCE)");
    admin.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
    let copy = format!("CREATE DATABASE \"{to}\" TEMPLATE \"{from}\"");
    // Whoever is in the template is thrown out; what is not, comes back.
    for _ in 0..100 {
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        let others = sqlx::query(others).bind(from);
        others.execute(&mut admin).await.unwrap();
        if admin
            .execute(sqlx::AssertSqlSafe(copy.clone()))
            .await
            .is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the database could not be copied");
}

#[tokio::test]
async fn f06_after_a_restored_backup_nothing_is_signed_and_the_verification_says_so() {
    let (trail, vault) = (trail().await, Vault::new());
    let name = trail.test.name().to_owned();
    let backup = format!("{name}_backup");
    append_many(&trail.audit, 1, 5).await;
    let audit = trail.anchored([vault.anchor("vault")]).await;
    let early = audit.checkpoint(&log_key()).await.unwrap();
    audit.shutdown().await;
    trail.audit.shutdown().await;
    drop(audit);
    let options = trail.test.options();
    copy_database(&options, &name, &backup).await;

    // It goes on, and is checkpointed.
    let audit = trail.anchored([vault.anchor("vault")]).await;
    append_many(&audit, 1, 9).await;
    let late = audit.checkpoint(&log_key()).await.unwrap();
    audit.shutdown().await;
    drop(audit);
    copy_database(&options, &backup, &name).await;

    // Without the anchor, nobody could tell.
    let alone = writer(&trail.test.database()).await;
    let report = alone.verify_checkpoints(log_key().verifier(), None).await;
    assert!(report.unwrap().is_clean());
    let audit = trail.anchored([vault.anchor("vault")]).await;
    let ahead = AuditError::AnchorAhead {
        anchor: "vault".to_owned(),
        held: late.size(),
        signed: early.size(),
    };
    for _ in 0..2 {
        let refused = audit.checkpoint(&log_key()).await;
        assert_eq!(refused.as_ref(), Err(&ahead));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Integrity);
    }
    let refused = audit.publish_checkpoint(log_key().verifier()).await;
    assert_eq!(refused, Err(ahead.clone()));
    let health = &audit.anchor_health()[0];
    assert!(health.conflict && !health.is_ok(), "{health:?}");
    // The alarm is in the trail, once.
    assert_eq!(count(&audit, Kind::ChainForkDetected).await, 1);
    // What is there now grows past what was lost, and is still refused.
    append_many(&audit, 1, 50).await;
    assert_eq!(audit.checkpoint(&log_key()).await, Err(ahead));
    let report = audit
        .verify_checkpoints(log_key().verifier(), None)
        .await
        .unwrap();
    let finding = &report.findings()[0];
    assert_eq!(
        (finding.class, finding.seq, finding.through),
        (FindingClass::Rollback, early.size() + 1, late.size())
    );
    assert!(report.to_string().contains("vault"), "{report}");

    // Somebody signs a second history all the same, without asking: a fork, and found.
    let forked = alone.checkpoint(&log_key()).await.unwrap();
    assert!(forked.size() > late.size());
    let fork = AuditError::AnchorFork {
        anchor: "vault".to_owned(),
        held: late.size(),
        signed: forked.size(),
    };
    assert_eq!(audit.checkpoint(&log_key()).await, Err(fork));
    let report = audit
        .verify_checkpoints(log_key().verifier(), None)
        .await
        .unwrap();
    let finding = &report.findings()[0];
    assert_eq!(
        (finding.class, finding.seq),
        (FindingClass::Fork, late.size())
    );
    assert_eq!(vault.files("vault").len(), 2, "nothing of it was published");
    let mut admin = options.database("postgres").connect().await.unwrap();
    let drop = format!("DROP DATABASE \"{backup}\" WITH (FORCE)");
    admin.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
}

#[tokio::test]
async fn f06_an_empty_database_under_an_anchor_that_holds_something_signs_nothing() {
    let vault = Vault::new();
    let before = trail().await;
    let audit = before.anchored([vault.anchor("vault")]).await;
    let held = audit.checkpoint(&log_key()).await.unwrap().size();
    // Everything is gone: another database, with nothing in it.
    let after = trail().await;
    let audit = after.anchored([vault.anchor("vault")]).await;
    let refused = audit.checkpoint(&log_key()).await;
    let anchor = "vault".to_owned();
    let ahead = AuditError::AnchorAhead {
        anchor,
        held,
        signed: 0,
    };
    assert_eq!(refused, Err(ahead));
    let report = audit
        .verify_checkpoints(log_key().verifier(), None)
        .await
        .unwrap();
    let finding = &report.findings()[0];
    assert_eq!(
        (finding.class, finding.seq, finding.through),
        (FindingClass::Truncated, 1, held)
    );
}

#[tokio::test]
async fn one_anchor_that_answers_is_enough_and_none_is_not() {
    let (trail, vault) = (trail().await, Vault::new());
    let fickle = Arc::new(Fickle::default());
    let audit = trail
        .anchored([vault.anchor("vault"), fickle.clone()])
        .await;
    let first = audit.checkpoint(&log_key()).await.unwrap();
    fickle.away.store(true, Ordering::SeqCst);
    let second = audit.checkpoint(&log_key()).await.unwrap();
    assert_eq!(sizes(&audit).await, [Some(second.size()), None]);
    let health = audit.anchor_health();
    assert_eq!(
        health[1].error,
        Some(AnchorError::Away("it was told to be"))
    );
    assert!(health[1].missing_since.is_some() && !health[1].stale);
    assert_eq!(health[1].size, Some(first.size()));
    assert_eq!(health[0].size, Some(second.size()));
    // Told once, however often it fails.
    let third = audit.checkpoint(&log_key()).await.unwrap();
    assert_eq!(count(&audit, Kind::ChainAnchorFailed).await, 1);
    // The one in the vault cannot be read any more.
    let directory = vault.0.join("vault");
    fs::rename(&directory, vault.0.join("elsewhere")).unwrap();
    symlink(vault.0.join("elsewhere"), &directory).unwrap();
    for _ in 0..2 {
        let refused = audit.checkpoint(&log_key()).await;
        assert_eq!(refused, Err(AuditError::AnchorsSilent { anchors: 2 }));
    }
    // Back, and brought up to the newest alone.
    fickle.away.store(false, Ordering::SeqCst);
    let health = audit
        .publish_checkpoint(log_key().verifier())
        .await
        .unwrap();
    assert_eq!(health[1].size, Some(third.size()));
    assert_eq!((&health[1].error, health[1].missing_since), (&None, None));
    assert_eq!(fickle.taken.load(Ordering::SeqCst), 2);
    assert!(health[0].error.is_some());
    let _ = audit.checkpoint(&log_key()).await.unwrap();
}

#[tokio::test]
async fn an_anchor_that_hangs_holds_nobody_up_for_long() {
    let (trail, vault) = (trail().await, Vault::new());
    let fickle = Arc::new(Fickle::default());
    fickle.hangs.store(true, Ordering::SeqCst);
    let audit = trail
        .anchored([vault.anchor("vault"), fickle.clone()])
        .await;
    let key = log_key();
    let made = audit.checkpoint(&key);
    let made = tokio::time::timeout(Duration::from_mins(1), made).await;
    assert!(made.unwrap().is_ok());
    let health = audit.anchor_health();
    assert_eq!(health[1].error, Some(AnchorError::TimedOut));
}

#[tokio::test]
async fn an_anchor_that_lost_what_it_took_or_holds_what_the_log_never_signed_is_no_witness() {
    let trail = trail().await;
    let fickle = Arc::new(Fickle::default());
    let audit = trail.anchored([fickle.clone() as Arc<dyn Anchor>]).await;
    let first = audit.checkpoint(&log_key()).await.unwrap();
    let second = audit.checkpoint(&log_key()).await.unwrap();
    let set = |note: Option<String>| *fickle.holds.lock().unwrap() = note;
    let other = LogKey::new(ORIGIN, &Secret::generate().unwrap()).unwrap();
    let foreign = other
        .sign(&Checkpoint::new(ORIGIN, second.size(), second.root()).unwrap())
        .unwrap();
    let silent = AuditError::AnchorsSilent { anchors: 1 };
    let published = second.size();
    for (note, error) in [
        (None, AnchorError::Lost { published }),
        (
            Some(first.note().to_owned()),
            AnchorError::Lost { published },
        ),
        (
            Some(foreign.to_string()),
            AnchorError::Log(portcullis::tlog::LogError::Unsigned),
        ),
    ] {
        set(note);
        let refused = audit.checkpoint(&log_key()).await;
        assert_eq!(refused.as_ref(), Err(&silent));
        assert_eq!(audit.anchor_health()[0].error, Some(error));
    }
    // Another tree of that size, signed by the log: a second history.
    let root = portcullis::tlog::TreeHash::of_leaf(b"another");
    let forged = Checkpoint::new(ORIGIN, first.size(), root).unwrap();
    set(Some(log_key().sign(&forged).unwrap().to_string()));
    // Though it holds less than it took, it shows that the key signed two histories.
    let refused = audit.checkpoint(&log_key()).await.unwrap_err();
    assert!(
        matches!(refused, AuditError::AnchorFork { held, .. } if held == first.size()),
        "{refused}"
    );
    set(Some(second.note().to_owned()));
    assert!(audit.checkpoint(&log_key()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_sign_and_publish_at_once_leave_one_history_in_the_anchor() {
    let (trail, vault) = (trail().await, Vault::new());
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let audit = trail.anchored([vault.anchor("vault")]).await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..5 {
                append_many(&audit, 1, 2).await;
                let _ = audit.checkpoint(&log_key()).await.unwrap();
            }
            audit.anchor_health()
        }));
    }
    for task in tasks {
        let health = task.await.unwrap();
        assert!(health[0].is_ok() && health[0].error.is_none(), "{health:?}");
    }
    let audit = trail.anchored([vault.anchor("vault")]).await;
    assert_eq!(count(&audit, Kind::ChainForkDetected).await, 0);
    assert_eq!(count(&audit, Kind::ChainAnchorFailed).await, 0);
    let newest = audit.last_checkpoint().await.unwrap().unwrap();
    let kept = audit.kept(log_key().verifier()).await.unwrap();
    assert_eq!(kept[0].held().unwrap().note(), Some(newest.as_str()));
    for path in vault.files("vault") {
        let note = fs::read_to_string(path).unwrap();
        let kept = Checkpoint::open(&note, log_key().verifier()).unwrap();
        let proof = audit.prove_consistency(kept.size()).await.unwrap();
        assert!(proof.verify(&kept, log_key().verifier()).is_ok());
    }
    let report = audit
        .verify_checkpoints(log_key().verifier(), None)
        .await
        .unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn in_the_background_an_anchor_that_was_away_is_brought_up_and_a_stale_one_shows() {
    let (trail, vault) = (trail().await, Vault::new());
    let every = CheckpointEvery::default()
        .entries(5)
        .interval(Duration::from_millis(300));
    let fickle = Arc::new(Fickle::default());
    fickle.away.store(true, Ordering::SeqCst);
    let gov = Governance::builder(trail.test.database(), keys())
        .checkpoints(log_key(), every)
        .anchor(FileAnchor::new("vault", vault.0.join("vault")).unwrap())
        .anchor(Shared(fickle.clone()))
        .anchors_stale_after(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    append_many(gov.audit(), 1, 3).await;
    let until = async |what: &str, done: &dyn Fn(&portcullis::Health) -> bool| {
        for _ in 0..400 {
            let health = gov.health().await;
            if done(&health) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {what}: {:?}", gov.health().await.anchors);
    };
    until("stale", &|health| {
        health.anchors[1].stale && health.anchors[0].size > Some(0) && !health.anchors[1].is_ok()
    })
    .await;
    fickle.away.store(false, Ordering::SeqCst);
    until("brought up", &|health| {
        health.anchors[1].size == health.anchors[0].size
            && health.anchors.iter().all(AnchorHealth::is_ok)
    })
    .await;
    // Quiet from then on: what was published makes no entry of its own.
    let newest = gov.audit().last_checkpoint().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(gov.audit().last_checkpoint().await.unwrap(), newest);
    gov.shutdown().await;
}

/// An anchor that the test can reach, too.
#[derive(Debug)]
struct Shared(Arc<Fickle>);

impl Anchor for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn latest<'a>(&'a self, inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>> {
        self.0.latest(inquiry)
    }

    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt> {
        self.0.publish(publication)
    }
}

#[tokio::test]
async fn what_an_anchor_misses_for_too_long_is_a_finding() {
    let trail = trail().await;
    let fickle = Arc::new(Fickle::default());
    let vault = Vault::new();
    let audit = trail
        .anchored([vault.anchor("vault"), fickle.clone()])
        .await;
    let first = audit.checkpoint(&log_key()).await.unwrap();
    fickle.away.store(true, Ordering::SeqCst);
    let second = audit.checkpoint(&log_key()).await.unwrap();
    fickle.away.store(false, Ordering::SeqCst);
    let check = async || {
        let log = log_key();
        audit
            .verify_checkpoints(log.verifier(), None)
            .await
            .unwrap()
    };
    // Not for long enough yet.
    let report = check().await;
    assert!(report.is_clean(), "{report}");
    let ago = "UPDATE portcullis.checkpoints SET made_at = made_at - interval '20 minutes'";
    trail
        .run("ALTER TABLE portcullis.checkpoints DISABLE TRIGGER USER")
        .await;
    trail.run(ago).await;
    let report = check().await;
    let finding = &report.findings()[0];
    assert_eq!(
        (finding.class, finding.seq, finding.through),
        (FindingClass::Checkpoint, first.size() + 1, second.size())
    );
    assert!(report.to_string().contains("fickle"), "{report}");
    // Where no anchor says anything, that is a finding too.
    fickle.away.store(true, Ordering::SeqCst);
    let report = check().await;
    assert!(report.is_clean(), "{report}");
    fs::write(vault.0.join("x"), "").unwrap();
    fs::rename(vault.0.join("vault"), vault.0.join("gone")).unwrap();
    fs::rename(vault.0.join("x"), vault.0.join("vault")).unwrap();
    let report = check().await;
    assert_eq!(report.findings()[0].class, FindingClass::Checkpoint);
    assert_eq!(report.anchors().len(), 2);
}

#[tokio::test]
async fn tenants_are_apart_in_one_vault_and_names_are_checked() {
    let (trail, vault) = (trail().await, Vault::new());
    let tenant = TenantId::parse("acme").unwrap();
    let acme = Audit::open(&trail.test.database(), keys(), tenant.clone())
        .await
        .unwrap()
        .with_anchors([vault.anchor("vault")])
        .unwrap();
    let audit = trail.anchored([vault.anchor("vault")]).await;
    append_many(&audit, 1, 9).await;
    let ours = audit.checkpoint(&log_key()).await.unwrap();
    let of_acme = log_key().for_tenant(&tenant).unwrap();
    let theirs = acme.checkpoint(&of_acme).await.unwrap();
    assert_ne!(ours.size(), theirs.size());
    let kept = acme.kept(of_acme.verifier()).await.unwrap();
    assert_eq!(kept[0].held().unwrap().size(), theirs.size());
    assert_eq!(sizes(&audit).await, [Some(ours.size())]);
    let twice = || [vault.anchor("a"), vault.anchor("a")];
    let refused = audit.clone().with_anchors(twice());
    assert!(matches!(refused, Err(AuditError::AnchorName { .. })));
    for bad in ["", "a b", "ä", "x\n", &"x".repeat(257)] {
        let anchor: Arc<dyn Anchor> = Arc::new(FileAnchor::new(bad, "/nowhere").unwrap());
        let refused = audit.clone().with_anchors([anchor]);
        assert!(
            matches!(refused, Err(AuditError::AnchorName { .. })),
            "{bad}"
        );
    }
    let relative = FileAnchor::new("a", Path::new("here"));
    assert!(matches!(relative, Err(AnchorError::Settings(_))));
}

/// A script that keeps notes in a directory, and does as `variant` says.
fn script(vault: &Vault, variant: &str) -> PathBuf {
    let path = vault.0.join(format!("{variant}.sh"));
    let body = match variant {
        "keeps" => {
            r#"case "$2" in
                 publish) cat > "$1/$4.tmp" && mv "$1/$4.tmp" "$1/$4.note" && echo "kept $4 of $3 env=$(env | grep -c CARGO) with $KEEPER" ;;
                 latest) newest=$(ls "$1" | grep note | sort -n | tail -1); [ -z "$newest" ] || cat "$1/$newest" ;;
               esac"#
        }
        "fails" => "cat > /dev/null; exit 3",
        "hangs" => "exec sleep 600",
        "orphans" => "sleep 20 & exit 0",
        "floods" => "exec cat /dev/zero",
        "lies" => "echo nonsense",
        "deaf" => "exit 0",
        other => panic!("{other}"),
    };
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn a_program_keeps_checkpoints_and_gets_no_secret() {
    // What it would inherit from us, were it to inherit anything.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let (trail, vault) = (trail().await, Vault::new());
    let store = vault.0.join("store");
    fs::create_dir(&store).unwrap();
    let anchor = CommandAnchor::new("bucket", script(&vault, "keeps"))
        .unwrap()
        .argument(store.to_str().unwrap())
        .env("KEEPER", "hunter2");
    assert!(!format!("{anchor:?}").contains("hunter2"));
    let audit = trail.anchored([Arc::new(anchor) as Arc<dyn Anchor>]).await;
    let first = audit.checkpoint(&log_key()).await.unwrap();
    let second = audit.checkpoint(&log_key()).await.unwrap();
    assert_eq!(sizes(&audit).await, [Some(second.size())]);
    let kept = fs::read_to_string(store.join(format!("{}.note", first.size()))).unwrap();
    assert_eq!(kept, first.note());
    let receipt: Vec<u8> =
        sqlx::query_scalar("SELECT receipt FROM portcullis.anchor_receipts ORDER BY size LIMIT 1")
            .fetch_one(&trail.pool)
            .await
            .unwrap();
    let said = format!("kept {} of {ORIGIN} env=0 with hunter2\n", first.size());
    assert_eq!(String::from_utf8(receipt).unwrap(), said);
    // What is removed from there is missed.
    fs::remove_file(store.join(format!("{}.note", second.size()))).unwrap();
    let refused = audit.checkpoint(&log_key()).await;
    assert_eq!(refused, Err(AuditError::AnchorsSilent { anchors: 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_hangs_floods_or_lies_is_no_witness_and_leaves_nobody_behind() {
    let (trail, vault) = (trail().await, Vault::new());
    let failure = |text| AnchorError::Refused(text);
    for (variant, error) in [
        ("fails", failure("the program ended with a failure")),
        ("hangs", AnchorError::TimedOut),
        ("orphans", AnchorError::TimedOut),
        (
            "floods",
            AnchorError::Invalid("the program printed more than 1 MiB"),
        ),
    ] {
        let anchor = CommandAnchor::new(variant, script(&vault, variant)).unwrap();
        let anchor = anchor.deadline(Duration::from_millis(1_500));
        let audit = trail.anchored([Arc::new(anchor) as Arc<dyn Anchor>]).await;
        let refused = audit.checkpoint(&log_key()).await;
        assert_eq!(
            refused,
            Err(AuditError::AnchorsSilent { anchors: 1 }),
            "{variant}"
        );
        assert_eq!(audit.anchor_health()[0].error, Some(error), "{variant}");
        audit.shutdown().await;
    }
    let lies = CommandAnchor::new("lies", script(&vault, "lies")).unwrap();
    let audit = trail.anchored([Arc::new(lies) as Arc<dyn Anchor>]).await;
    assert!(audit.checkpoint(&log_key()).await.is_err());
    assert!(matches!(
        audit.anchor_health()[0].error,
        Some(AnchorError::Log(_))
    ));
    // One that reads nothing, and has nothing to say, holds nothing up.
    let deaf = CommandAnchor::new("deaf", script(&vault, "deaf")).unwrap();
    let audit = trail.anchored([Arc::new(deaf) as Arc<dyn Anchor>]).await;
    assert!(audit.checkpoint(&log_key()).await.is_ok());
    let missing = CommandAnchor::new("missing", vault.0.join("nothing")).unwrap();
    let audit = trail.anchored([Arc::new(missing) as Arc<dyn Anchor>]).await;
    assert!(audit.checkpoint(&log_key()).await.is_err());
    let error = audit.anchor_health()[0].error.clone();
    assert_eq!(error, Some(AnchorError::Away("there is no such program")));
    assert!(CommandAnchor::new("relative", "keep").is_err());
}

#[tokio::test]
async fn nothing_in_a_vault_is_ever_overwritten_and_no_link_is_followed() {
    let (trail, vault) = (trail().await, Vault::new());
    let audit = trail.anchored([vault.anchor("vault")]).await;
    let made = audit.checkpoint(&log_key()).await.unwrap();
    let path = vault.files("vault").pop().unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let newest = audit
        .publish_checkpoint(log_key().verifier())
        .await
        .unwrap();
    assert_eq!(newest[0].size, Some(made.size()));
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    assert_eq!(vault.files("vault").len(), 1, "no draft is left");
    // What others left there is passed over.
    let group = path.parent().unwrap();
    for name in ["99999999999999999999.note", "99.checkpoint", ".x.draft"] {
        fs::write(group.join(name), "nonsense").unwrap();
    }
    fs::create_dir(group.parent().unwrap().join("99999999999999999999")).unwrap();
    assert_eq!(sizes(&audit).await, [Some(made.size())]);
    // A link in place of the file, to a good copy of it.
    let copy = vault.0.join("copy");
    fs::rename(&path, &copy).unwrap();
    symlink(&copy, &path).unwrap();
    assert_eq!(sizes(&audit).await, [None]);
    let refused = audit.checkpoint(&log_key()).await;
    assert_eq!(refused, Err(AuditError::AnchorsSilent { anchors: 1 }));
    // Something else in its place is neither believed nor replaced.
    for content in ["", "nonsense", &made.note().replace('\n', "\n\n")] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, content).unwrap();
        let refused = audit.checkpoint(&log_key()).await;
        assert_eq!(refused, Err(AuditError::AnchorsSilent { anchors: 1 }));
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    fs::rename(&copy, &path).unwrap();
    assert!(audit.checkpoint(&log_key()).await.is_ok());
}

#[tokio::test]
async fn receipts_cannot_be_changed_and_the_application_role_adds_them() {
    let (trail, vault) = (trail().await, Vault::new());
    let made = "DO $$ BEGIN CREATE ROLE portcullis_test_anchor;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    trail.run(made).await;
    Migration::new(&trail.test.database())
        .app_role("portcullis_test_anchor")
        .run()
        .await
        .unwrap();
    let as_app = trail.test.options();
    let as_app = Database::options(as_app.options([("role", "portcullis_test_anchor")]));
    let audit = writer(&as_app).await;
    let audit = audit.with_anchors([vault.anchor("vault")]).unwrap();
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    let count = "SELECT count(*) FROM portcullis.anchor_receipts";
    let count: i64 = sqlx::query_scalar(count)
        .fetch_one(&trail.pool)
        .await
        .unwrap();
    assert_eq!(count, 2);
    let app = as_app.connect_pool().await.unwrap();
    for sql in [
        "UPDATE portcullis.anchor_receipts SET size = size + 1",
        "DELETE FROM portcullis.anchor_receipts",
        "TRUNCATE portcullis.anchor_receipts",
    ] {
        for (pool, by_trigger) in [(&trail.pool, true), (&app, false)] {
            let refused = sqlx::query(sql).execute(pool).await.unwrap_err();
            let refused = refused.as_database_error().unwrap();
            assert_eq!(refused.code().as_deref(), Some("42501"), "{sql}");
            let said = refused.message().contains("append-only");
            assert_eq!(said, by_trigger, "{sql}: {}", refused.message());
        }
    }
}
