//! Journals that were torn, tampered with, or hold what the database does not take.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::time::Duration;

use portcullis::TenantId;
use portcullis::audit::{Audit, AuditEvent, DrainReport, FindingClass, JournalSettings};
use proptest::prelude::*;

use crate::common::journal::Directory;
use crate::common::trail::{Trail, event, keys, wired_with};
use crate::journal::{assert_clean, metadata_of};

/// A journal of `events` and the start of their outage, whose writer is gone.
pub(crate) async fn left_behind(directory: &Directory, events: &[AuditEvent]) -> Trail {
    left_in(directory, directory.settings(), events).await
}

async fn left_in(directory: &Directory, settings: JournalSettings, events: &[AuditEvent]) -> Trail {
    let (mut trail, proxy) = wired_with(Duration::from_secs(3), settings).await;
    proxy.down();
    for event in events {
        trail.audit.append(event.clone()).await.unwrap();
    }
    trail.audit.shutdown().await;
    trail.audit = opened(&trail, &Directory::fresh()).await;
    // The lock goes with the thread that wrote.
    for file in directory.files() {
        let file = std::fs::File::open(&file).unwrap();
        while file.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    trail
}

/// A writer of the trail that drains `directory`.
async fn opened(trail: &Trail, directory: &Directory) -> Audit {
    let database = trail.test.database();
    Audit::open_with(&database, keys(), TenantId::single(), directory.settings())
        .await
        .unwrap()
}

/// Drains `directory`; what the background drained meanwhile is in the trail, not in the report.
async fn drain(trail: &mut Trail, directory: &Directory) {
    trail.audit = opened(trail, directory).await;
    for _ in 0..500 {
        trail.audit.drain().await.unwrap();
        if directory.files().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", directory.files());
}

/// As [`drain`], through a writer that looks for what others left only when it is told.
pub(crate) async fn report(trail: &mut Trail, directory: &Directory) -> DrainReport {
    let aside = Directory::fresh();
    trail.audit = opened(trail, &aside).await;
    // The first look of its own must be over, which finds nothing; the next is half a minute off.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        trail.audit.drain().await.unwrap();
    }
    std::fs::rename(directory.path(), aside.path()).unwrap();
    let report = trail.audit.drain().await.unwrap();
    std::fs::rename(aside.path(), directory.path()).unwrap();
    assert!(directory.files().is_empty());
    report
}

pub(crate) fn events(count: usize) -> Vec<AuditEvent> {
    (0..count).map(|n| event("app.step").with("n", n)).collect()
}

#[tokio::test]
async fn f17_a_poison_line_does_not_block_the_rest() {
    let directory = Directory::fresh();
    let events = events(10);
    let mut trail = left_behind(&directory, &events).await;
    let mut lines = directory.lines();
    assert_eq!(
        lines.len(),
        12,
        "the file's first line, the start, ten events"
    );
    lines[4] = "no line at all".to_owned();
    lines[6] = lines[6].replace("\"n\\\":4", "\"n\\\":5");
    directory.write_lines(&lines);
    let report = report(&mut trail, &directory).await;
    assert_eq!((report.drained, report.quarantined), (9, 2), "{report}");
    assert_eq!((report.missing, report.already_present), (0, 0), "{report}");
    let found: Vec<_> = report
        .findings()
        .iter()
        .map(|f| (f.class, f.line))
        .collect();
    let journal = FindingClass::Journal;
    assert_eq!(
        found,
        [(journal, 4), (journal, 6)],
        "the header has no number"
    );
    let aside = directory.quarantined();
    assert_eq!(aside, [lines[4].clone(), lines[6].clone()]);
    assert_eq!(trail.count().await, 8);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn f17_a_line_that_only_the_database_refuses_is_set_aside_alone() {
    let directory = Directory::fresh();
    let events = events(20);
    let mut trail = left_behind(&directory, &events).await;
    trail
        .run(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.metadata = '{\"n\":7}' THEN RAISE check_violation; END IF;
                 RETURN NEW;
             END $$",
        )
        .await;
    trail
        .run(
            "CREATE TRIGGER refuse BEFORE INSERT ON portcullis.entries
                FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        )
        .await;
    let report = report(&mut trail, &directory).await;
    assert_eq!((report.drained, report.quarantined), (20, 1), "{report}");
    assert_eq!(
        report.findings()[0].detail,
        "the database does not take the line"
    );
    assert!(directory.quarantined()[0].contains(r#"{\"n\":7}"#));
    assert_eq!(trail.count().await, 19);
    assert_eq!(trail.audit.stats().quarantined, 1);
    assert_clean(&trail).await;
}

/// Whoever drained the files before the last, empty one was killed before it could say so.
#[tokio::test]
async fn an_outage_ends_on_record_although_who_drained_it_was_killed() {
    let directory = Directory::fresh();
    let settings = directory.settings().segment(64 << 10);
    let padding = "x".repeat(40_000);
    let events: Vec<_> = (0..3)
        .map(|n| event("app.step").with("n", n).with("padding", &padding))
        .collect();
    let mut trail = left_in(&directory, settings, &events).await;
    let files = directory.files();
    assert!(files.len() > 1, "{files:?}");
    let (emptied, rest) = (&files[1], &files[2..]);
    let text = std::fs::read_to_string(emptied).unwrap();
    std::fs::write(emptied, text.split_inclusive('\n').next().unwrap()).unwrap();
    for file in rest {
        std::fs::remove_file(file).unwrap();
    }
    // Somebody is at it: the first file goes, and what it says is not the end.
    let held = std::fs::File::open(emptied).unwrap();
    held.lock().unwrap();
    trail.audit = opened(&trail, &directory).await;
    while directory.files().len() > 1 {
        trail.audit.drain().await.unwrap();
    }
    assert_eq!(metadata_of(&trail, "chain.degraded_end").await.len(), 0);
    drop(held);
    drain(&mut trail, &directory).await;
    let ends = metadata_of(&trail, "chain.degraded_end").await;
    assert_eq!(
        (ends.len(), &ends[0]["drained"]),
        (1, &0.into()),
        "{ends:?}"
    );
    assert!(ends[0]["last_line"].as_u64() > Some(1), "{ends:?}");
    assert_clean(&trail).await;
}

#[tokio::test]
async fn f14_a_torn_last_line_is_set_aside_and_the_history_before_it_stays() {
    let directory = Directory::fresh();
    let events = events(5);
    let mut trail = left_behind(&directory, &events).await;
    let file = directory.files()[0].clone();
    let bytes = std::fs::read(&file).unwrap();
    // The last line, cut in the middle: the machine went down.
    std::fs::write(&file, &bytes[..bytes.len() - 40]).unwrap();
    let report = report(&mut trail, &directory).await;
    assert_eq!((report.drained, report.quarantined), (5, 1), "{report}");
    assert_eq!(report.findings()[0].detail, "the last line is torn");
    assert_eq!(trail.count().await, 4);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn lines_that_were_taken_out_moved_or_doubled_are_reported() {
    let directory = Directory::fresh();
    let events = events(8);
    let mut trail = left_behind(&directory, &events).await;
    let lines = directory.lines();
    let mut changed = lines.clone();
    changed.drain(3..5);
    changed.push(lines[5].clone());
    directory.write_lines(&changed);
    let report = report(&mut trail, &directory).await;
    assert_eq!((report.drained, report.missing), (7, 2), "{report}");
    assert_eq!(report.already_present, 1, "{report}");
    let found: Vec<_> = report
        .findings()
        .iter()
        .map(|f| (f.line, f.through, f.detail))
        .collect();
    assert_eq!(
        found,
        [
            (3, 4, "lines are missing"),
            (5, 5, "the line is not where it was written"),
        ]
    );
    assert_eq!(trail.count().await, 6);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn a_line_of_another_journal_is_not_taken_for_one_of_this() {
    let (here, there) = (Directory::fresh(), Directory::fresh());
    let mut trail = left_behind(&here, &events(2)).await;
    let foreign = left_behind(&there, &events(2)).await;
    let mut lines = here.lines();
    lines.push(there.lines()[2].clone());
    here.write_lines(&lines);
    let report = report(&mut trail, &here).await;
    assert_eq!((report.drained, report.quarantined), (3, 1), "{report}");
    drop(foreign);
}

#[tokio::test]
async fn what_is_not_ours_alone_is_neither_read_nor_written() {
    let directory = Directory::fresh();
    let mut trail = left_behind(&directory, &events(2)).await;
    let file = directory.files()[0].clone();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(directory.path()) & 0o777, 0o700);
    assert_eq!(mode(&file) & 0o777, 0o600);
    // A link to a file elsewhere.
    let elsewhere = Directory::fresh();
    std::fs::rename(&file, elsewhere.path()).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &file).unwrap();
    trail.audit = opened(&trail, &directory).await;
    let report = trail.audit.drain().await.unwrap();
    assert_eq!(report.drained, 0, "{report}");
    assert_eq!(trail.count().await, 0);
    std::fs::remove_file(&file).unwrap();
    std::fs::rename(elsewhere.path(), &file).unwrap();
    // A directory that others may enter.
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(trail.audit.drain().await.is_err());
    assert_eq!(trail.count().await, 0);
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
    drain(&mut trail, &directory).await;
    assert_eq!(trail.count().await, 2);
}

#[tokio::test]
async fn nothing_that_was_said_stands_in_the_file() {
    let directory = Directory::fresh();
    let secret = event("app.step")
        .input(b"hunter2 asked")
        .output(b"hunter2 answered");
    let _trail = left_behind(&directory, &[secret]).await;
    assert!(!directory.lines().concat().contains("hunter2"));
}

/// Any one flipped bit: what is drained is what was written, and the rest is set aside.
#[test]
fn any_flipped_bit_of_a_journal_is_found_or_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = Directory::fresh();
    let events = events(6);
    let (trail, file, original) = runtime.block_on(async {
        let trail = left_behind(&directory, &events).await;
        let file = directory.files()[0].clone();
        let original = std::fs::read(&file).unwrap();
        (tokio::sync::Mutex::new(trail), file, original)
    });
    let ids: Vec<String> = events.iter().map(|event| event.id().to_string()).collect();
    proptest!(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() },
        |(at in any::<prop::sample::Index>(), bit in 0..8_u32)| {
        let mut bytes = original.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let mut options = std::fs::File::options();
        let mut made = options.write(true).create(true).truncate(true).mode(0o600).open(&file).unwrap();
        made.write_all(&bytes).unwrap();
        drop(made);
        let (report, stored) = runtime.block_on(async {
            let mut trail = trail.lock().await;
            trail.run("ALTER TABLE portcullis.entries DISABLE TRIGGER USER").await;
            trail.run("ALTER TABLE portcullis.chains DISABLE TRIGGER USER").await;
            trail.run("DELETE FROM portcullis.entries").await;
            trail.run("DELETE FROM portcullis.chains").await;
            let report = report(&mut trail, &directory).await;
            let stored: Vec<(String, String)> = sqlx::query_as(
                "SELECT event_id::text, metadata FROM portcullis.entries WHERE kind LIKE 'app.%' ORDER BY seq",
            )
            .fetch_all(&trail.pool)
            .await
            .unwrap();
            (report, stored)
        });
        for (id, metadata) in &stored {
            let n = ids.iter().position(|known| known == id).unwrap();
            prop_assert_eq!(metadata, &format!("{{\"n\":{n}}}"));
        }
        if stored.len() < events.len() || report.drained < 7 {
            prop_assert!(!report.is_clean(), "{}", report);
        }
        // Two lines at most: a flipped end of a line joins it with the next.
        prop_assert!(stored.len() + 2 >= events.len(), "{}", report);
    });
}
