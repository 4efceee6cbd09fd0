//! Journals and processes that are killed, live on, or drain at the same time.

use std::process::Stdio;
use std::time::Duration;

use portcullis::audit::{Audit, AuditEvent, Evidence, JournalSettings, Receipt};
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Call, Database, Governance, Permit, Refusal, TenantId};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::common::journal::Directory;
use crate::common::proxy::Proxy;
use crate::common::trail::{Trail, event, keys, trail};
use crate::common::{principal, url};
use crate::journal::assert_clean;

const URL: &str = "PORTCULLIS_JOURNAL_CHILD_URL";
const DIRECTORY: &str = "PORTCULLIS_JOURNAL_CHILD_DIRECTORY";
const EVIDENCE: &str = "PORTCULLIS_JOURNAL_CHILD_EVIDENCE";

/// Not a test of its own: what each process runs. It says the id of each event once it is
/// acknowledged, until it is killed.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let spooled = std::env::var(EVIDENCE).is_ok();
    let journal = JournalSettings::in_directory(std::env::var(DIRECTORY).unwrap());
    let database = Database::url(url);
    let database = database.statement_timeout(Duration::from_secs(2));
    let gov = Governance::builder(database, keys())
        .journal(journal)
        .evidence(if spooled {
            Evidence::Spooled
        } else {
            Evidence::Durable
        })
        .connect()
        .await
        .unwrap();
    // The test takes the database away once it has heard this.
    println!("ready");
    let me = principal("writer");
    loop {
        let receipt = gov.audit().log(AuditEvent::new(&me, "app.step")).await;
        if receipt.lost().is_none() {
            println!("id {}", receipt.id());
        }
        if !spooled && receipt.committed().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Running {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    ids: Vec<String>,
}

impl Running {
    fn start(url: &str, directory: &Directory, spooled: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["journal_processes::child", "--exact", "--nocapture"])
            .env(URL, url)
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if spooled {
            command.env(EVIDENCE, "spooled");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            ids: Vec::new(),
        }
    }

    async fn ready(&mut self) {
        while self.lines.next_line().await.unwrap().unwrap() != "ready" {}
    }

    /// Hears of `count` more events.
    async fn hear(&mut self, count: usize) {
        for _ in 0..count {
            let line = self.lines.next_line().await.unwrap().unwrap();
            self.ids.extend(line.strip_prefix("id ").map(str::to_owned));
        }
    }

    /// `kill -9`, and everything that it had acknowledged.
    async fn kill(mut self) -> Vec<String> {
        self.child.kill().await.unwrap();
        while let Ok(Some(line)) = self.lines.next_line().await {
            // The last line may be cut.
            let id = line.strip_prefix("id ").filter(|id| id.len() == 36);
            self.ids.extend(id.map(str::to_owned));
        }
        self.ids
    }
}

/// The URL of a proxy, which reads the protocol in the clear.
fn through(proxy: &Proxy) -> String {
    format!("{}&sslmode=disable", url(&proxy.options()))
}

async fn opened(trail: &Trail, directory: &Directory) -> Audit {
    let database = trail.test.database();
    Audit::open_with(&database, keys(), TenantId::single(), directory.settings())
        .await
        .unwrap()
}

/// All of `ids` are in the trail, once each.
async fn assert_all_there(trail: &Trail, ids: &[String]) {
    let found: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM portcullis.entries WHERE event_id = ANY ($1::text[]::uuid[])",
    )
    .bind(ids)
    .fetch_one(&trail.pool)
    .await
    .unwrap();
    assert_eq!(found, i64::try_from(ids.len()).unwrap());
}

#[tokio::test]
async fn f16_what_a_killed_process_journalled_is_drained_by_the_next() {
    let directory = Directory::fresh();
    let mut trail = trail().await;
    let proxy = Proxy::before(&trail.test.options()).await;
    let mut running = Running::start(&through(&proxy), &directory, false);
    running.ready().await;
    running.hear(3).await;
    proxy.down();
    running.hear(50).await;
    let ids = running.kill().await;
    assert_eq!(directory.files().len(), 1);
    trail.audit = opened(&trail, &directory).await;
    trail.audit.drain().await.unwrap();
    assert!(directory.files().is_empty());
    assert_all_there(&trail, &ids).await;
    assert_clean(&trail).await;
}

#[tokio::test]
async fn what_was_spooled_survives_kill_9_and_is_there_once() {
    let directory = Directory::fresh();
    let mut trail = trail().await;
    for round in 0..3 {
        let mut running = Running::start(&url(&trail.test.options()), &directory, true);
        running.ready().await;
        running.hear(200 * (round + 1)).await;
        let ids = running.kill().await;
        trail.audit = opened(&trail, &directory).await;
        trail.audit.drain().await.unwrap();
        assert!(directory.files().is_empty(), "{:?}", directory.files());
        assert_all_there(&trail, &ids).await;
    }
    assert_clean(&trail).await;
}

#[tokio::test]
async fn f18_two_processes_never_share_a_journal() {
    let directory = Directory::fresh();
    let mut trail = trail().await;
    let proxy = Proxy::before(&trail.test.options()).await;
    let mut both = [false, false].map(|s| Running::start(&through(&proxy), &directory, s));
    for running in &mut both {
        running.ready().await;
        running.hear(1).await;
    }
    proxy.down();
    for running in &mut both {
        running.hear(20).await;
    }
    let files = directory.files();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert!(name.contains(header["journal"].as_str().unwrap()));
        assert!(
            std::fs::File::open(file).unwrap().try_lock().is_err(),
            "locked"
        );
    }
    // While they live, nobody else drains their files.
    trail.audit = opened(&trail, &directory).await;
    let report = trail.audit.drain().await.unwrap();
    assert_eq!((report.drained, report.in_use), (0, 2), "{report}");
    let [one, two] = both;
    let (one, two) = (one.kill().await, two.kill().await);
    let report = trail.audit.drain().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_all_there(&trail, &[one, two].concat()).await;
    assert_clean(&trail).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_drain_at_once_make_no_duplicates() {
    let directory = Directory::fresh();
    let mut trail = trail().await;
    let proxy = Proxy::before(&trail.test.options()).await;
    // Small files, so that there is something to share.
    let settings = directory.settings().segment(4_000);
    let through = Database::options(proxy.options()).statement_timeout(Duration::from_secs(3));
    let first = Audit::open_with(&through, keys(), TenantId::single(), settings)
        .await
        .unwrap();
    proxy.down();
    let mut ids = Vec::new();
    for _ in 0..200 {
        let event = event("app.step");
        ids.push(event.id().to_string());
        first.append(event).await.unwrap();
    }
    first.shutdown().await;
    drop(first);
    assert!(directory.files().len() > 10);
    while std::fs::File::open(&directory.files()[0])
        .unwrap()
        .try_lock()
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let drainers: Vec<_> = [
        opened(&trail, &directory).await,
        opened(&trail, &directory).await,
    ]
    .into_iter()
    .map(|audit| tokio::spawn(async move { (audit.drain().await.unwrap(), audit) }))
    .collect();
    for drainer in drainers {
        let (report, audit) = drainer.await.unwrap();
        assert!(report.is_clean(), "{report}");
        trail.audit = audit;
    }
    // One of them may have passed over what the other held.
    trail.audit.drain().await.unwrap();
    while !directory.files().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        trail.audit.drain().await.unwrap();
    }
    assert_eq!(trail.count().await, 200);
    assert_all_there(&trail, &ids).await;
    assert_clean(&trail).await;
}

async fn spooling(test: &TestDatabase, directory: &Directory) -> Governance {
    let gov = Governance::builder(test.database(), keys())
        .journal(directory.settings())
        .evidence(Evidence::Spooled)
        .connect()
        .await
        .unwrap();
    let agent = AgentId::parse("billing-agent").unwrap();
    let policy = ScopePolicy::new(agent)
        .allow_tools(["read_invoice"])
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    gov
}

#[tokio::test]
async fn a_spooled_decision_is_in_the_file_before_the_call_and_in_the_trail_behind_it() {
    let directory = Directory::fresh();
    let trail = trail().await;
    let gov = spooling(&trail.test, &directory).await;
    let me = principal("billing-agent");
    let call = Call::tool(&me, "read_invoice");
    let done = gov
        .run(&call, async |_: &Permit| {
            let texts: Vec<_> = directory
                .files()
                .iter()
                .map(std::fs::read_to_string)
                .collect();
            let text: String = texts.into_iter().map(Result::unwrap).collect();
            assert!(text.contains("tool.call.started") && text.contains("policy.decision"));
            Ok::<_, Refusal>(())
        })
        .await;
    assert_eq!(done, Ok(()));
    let receipt = gov.audit().log(AuditEvent::new(&me, "app.after")).await;
    assert!(matches!(receipt, Receipt::Spooled(_)), "{receipt:?}");
    gov.shutdown().await;
    assert!(directory.files().is_empty(), "all of it is in the trail");
    let kinds: Vec<String> = sqlx::query_scalar(
        "SELECT kind FROM portcullis.entries WHERE session_id = $1 AND ingest = 'journal' ORDER BY origin_seq",
    )
    .bind(me.session_id().as_str())
    .fetch_all(&trail.pool)
    .await
    .unwrap();
    let expected = [
        "policy.decision",
        "tool.call.started",
        "tool.call.completed",
        "app.after",
    ];
    assert_eq!(kinds, expected);
    let stats = gov.audit().stats();
    assert_eq!((stats.depth, stats.lost, stats.journalled), (0, 0, 0));
    assert!(stats.spooled >= 4);
    let marked: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM portcullis.entries WHERE kind LIKE 'chain.degraded%'",
    )
    .fetch_one(&trail.pool)
    .await
    .unwrap();
    assert_eq!(marked, 0, "no outage was");
    assert_clean(&trail).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spooled_files_are_removed_as_they_drain() {
    let directory = Directory::fresh();
    let trail = trail().await;
    let gov = spooling(&trail.test, &directory).await;
    for n in 0..2_000 {
        let receipt = gov.audit().log(event("app.step").with("n", n)).await;
        assert!(matches!(receipt, Receipt::Spooled(_)), "{receipt:?}");
    }
    for _ in 0..1_000 {
        if directory.files().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(directory.files().is_empty(), "at rest nothing is left");
    assert_eq!(trail.count().await, 2_000);
    gov.shutdown().await;
    assert_clean(&trail).await;
}

#[tokio::test]
async fn without_a_journal_spooling_is_refused_when_it_is_asked_for() {
    let test = TestDatabase::fresh().await.unwrap();
    let refused = Governance::builder(test.database(), keys())
        .journal(JournalSettings::off())
        .evidence(Evidence::Spooled)
        .connect()
        .await;
    let error = refused.err().unwrap();
    assert!(
        matches!(error, portcullis::ConnectError::Journal(_)),
        "{error}"
    );
}

const FULL: &str = "PORTCULLIS_JOURNAL_FULL_CHILD";

/// Not a test of its own: fills a disk of 64 KiB with a journal, makes room, and goes on.
#[tokio::test]
async fn full_child() {
    let Ok(name) = std::env::var(FULL) else {
        return;
    };
    let (small, kept) = (
        std::env::var("SMALL").unwrap(),
        std::env::var("KEPT").unwrap(),
    );
    let filler = format!("{small}/filler");
    std::fs::write(&filler, vec![0; 16 << 10]).unwrap();
    // Nothing listens there.
    let nowhere = Database::url(format!("postgres://nobody@127.0.0.1:9/{name}"));
    let directory = JournalSettings::in_directory(format!("{small}/journal"));
    let audit = Audit::open_with(&nowhere, keys(), TenantId::single(), directory)
        .await
        .unwrap();
    let step = || event("app.step").with("text", "x".repeat(500));
    let mut error = None;
    while error.is_none() {
        match audit.append(step()).await {
            Ok(recorded) => println!("id {}", recorded.id()),
            Err(refused) => error = Some(refused),
        }
    }
    println!("{}", error.unwrap());
    std::fs::remove_file(filler).unwrap();
    for _ in 0..5 {
        println!("id {}", audit.append(step()).await.unwrap().id());
    }
    println!("lost {}", audit.stats().lost);
    audit.shutdown().await;
    let done = std::process::Command::new("cp")
        .args(["-a", &format!("{small}/journal"), &kept])
        .status();
    assert!(done.unwrap().success());
}

#[tokio::test]
async fn f14_on_a_full_disk_what_was_acknowledged_is_kept_and_the_rest_is_said_to_be_lost() {
    let (small, directory) = (Directory::fresh(), Directory::fresh());
    std::fs::create_dir(small.path()).unwrap();
    let mut trail = trail().await;
    let script = "mount -t tmpfs -o size=64k none \"$SMALL\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["journal_processes::full_child", "--exact", "--nocapture"])
        .env(FULL, trail.test.name())
        .env("SMALL", small.path())
        .env("KEPT", directory.path())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    if !said.contains("running 1 test") {
        // Mounting takes root; `.ci/run` is root.
        assert!(
            !std::env::var("USER").is_ok_and(|user| user == "root"),
            "{why}"
        );
        return;
    }
    assert!(output.status.success(), "{said}{why}");
    assert!(
        said.contains("could not be written") && said.contains("lost 1"),
        "{said}"
    );
    let ids: Vec<String> = said
        .lines()
        .filter_map(|line| line.strip_prefix("id ").map(str::to_owned))
        .collect();
    assert!(ids.len() > 20, "{said}");
    assert!(
        directory.files().len() > 1,
        "nothing is added to a torn file"
    );
    trail.audit = opened(&trail, &directory).await;
    trail.audit.drain().await.unwrap();
    assert!(directory.files().is_empty());
    assert_all_there(&trail, &ids).await;
    assert_eq!(directory.quarantined().len(), 1, "the torn line");
    assert_clean(&trail).await;
}
