//! Four processes, a chain each: what they write together is clean.

use portcullis::audit::{Audit, AuditEvent, Scope};
use portcullis::store::TestDatabase;
use portcullis::{Database, TenantId};

use crate::common::{keys, principal, url};

const URL: &str = "PORTCULLIS_PROCESS_CHILD_URL";
const PROCESSES: usize = 4;
const ENTRIES: usize = 25_000;
const CALLERS: usize = 50;

/// Not a test of its own: what each process runs.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let audit = Audit::open(&Database::url(url), keys(), TenantId::single())
        .await
        .unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let audit = audit.clone();
            tokio::spawn(async move {
                let me = principal("writer");
                // In groups of ten, so that a hundred thousand entries take seconds.
                for n in 0..ENTRIES / CALLERS / 10 {
                    let group = (0..10).map(|_| AuditEvent::new(&me, "app.step").with("n", n));
                    audit.append_all(group.collect()).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    audit.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_write_a_clean_trail() {
    let test = TestDatabase::fresh().await.unwrap();
    let audit = Audit::open(&test.database(), keys(), TenantId::single())
        .await
        .unwrap();
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            tokio::process::Command::new(std::env::current_exe().unwrap())
                .args(["audit_processes::child", "--exact"])
                .env(URL, url(&test.options()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().await.unwrap().success());
    }

    let report = audit.verify(Scope::All).await.unwrap();
    assert!(report.is_clean(), "{report}");
    // Besides what was written, each chain has its first entry.
    let chains = report.chains().len();
    assert!(chains >= PROCESSES, "a chain for each process: {report}");
    let written = u64::try_from(PROCESSES * ENTRIES + chains).unwrap();
    assert_eq!(report.entries(), written, "{report}");
}
