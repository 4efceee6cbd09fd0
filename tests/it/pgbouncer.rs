//! Through the real PgBouncer, in transaction mode, with two server sessions for everybody.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portcullis::audit::{AuditEvent, Query};
use portcullis::cost::Budget;
use portcullis::scope::ScopePolicy;
use portcullis::store::{Check, TestDatabase};
use portcullis::{AgentId, Ceiling, ConnectError, Database, ErrorKind, Governance, Principal, Usd};
use sqlx::{Executor, Row as _};

use crate::common::{bare_database, connect, governance, keys};

/// Takes a program that `cargo test` does not bring, so it asks to be asked: CI does.
const ASKED: &str = "PORTCULLIS_TEST_PGBOUNCER";
const HANDLES: usize = 4;
const TASKS: usize = 8;
const ROUNDS: usize = 12;

/// A PgBouncer of its own in front of a test's server; ended when dropped.
struct Bouncer {
    child: Child,
    directory: PathBuf,
    url: String,
}

impl Bouncer {
    async fn before(test: &TestDatabase, more: &str) -> Self {
        let options = test.options();
        let socket = options.get_socket().expect("the embedded server").clone();
        let owner = std::fs::metadata(&socket).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let directory = PathBuf::from(format!("/var/tmp/portcullis-pgbouncer-{port}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
        let user = options.get_username();
        let users = directory.join("users");
        std::fs::write(&users, format!("\"{user}\" \"\"\n")).unwrap();
        let ini = format!(
            "[databases]\n* = host={} port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 2\n\
             max_client_conn = 500\n{more}\n",
            socket.display(),
            options.get_port(),
            users.display(),
        );
        let file = directory.join("pgbouncer.ini");
        std::fs::write(&file, ini).unwrap();
        let mut command = Command::new(binary());
        command.arg("-q").arg(file);
        // It refuses to be root, and the server's socket is its owner's alone.
        if std::fs::metadata("/proc/self").unwrap().uid() != owner.uid() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let name = test.name();
        let bouncer = Self {
            child,
            directory,
            url: format!("postgres://{user}@127.0.0.1:{port}/{name}?sslmode=disable"),
        };
        for _ in 0..250 {
            let door = tokio::net::TcpStream::connect(("127.0.0.1", port));
            if door.await.is_ok() {
                return bouncer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = std::fs::read_to_string(bouncer.directory.join("log"));
        panic!("PgBouncer does not listen: {log:?}");
    }

    fn database(&self) -> Database {
        Database::url(&self.url)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn binary() -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|place| Path::new(place).join("pgbouncer"))
        .find(|file| file.is_file())
        .expect("PgBouncer is not installed: apt-get install pgbouncer")
}

fn asked() -> bool {
    let asked = std::env::var_os(ASKED).is_some();
    if !asked {
        eprintln!("not through PgBouncer: set {ASKED}=1, and install the package pgbouncer");
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_a_pooler_that_shares_sessions() {
    if !asked() {
        return;
    }
    let test = bare_database().await;
    let bouncer = Bouncer::before(&test, "").await;
    let pooled = || {
        let database = bouncer.database().pooled();
        database.statement_timeout(Duration::from_secs(20))
    };
    pooled().migrate().await.unwrap();
    assert!(pooled().migrate().await.unwrap().applied.is_empty());

    // Each handle has connections of its own, as a process would.
    let mut handles = Vec::new();
    for _ in 0..HANDLES {
        handles.push(governance(&pooled()).await.unwrap());
    }
    let agent = AgentId::parse("pooled").unwrap();
    let budget = Budget::for_agent(agent.clone()).per_session(Usd::dollars(1_000));
    handles[0].cost().register(budget).await.unwrap();
    let policy = ScopePolicy::new(agent.clone()).allow_tools(["read"]);
    for gov in &handles {
        gov.scope().register(policy.clone().unwrap()).await.unwrap();
    }
    let me = Principal::agent(agent);
    let tasks: Vec<_> = handles
        .iter()
        .flat_map(|gov| (0..TASKS).map(|task| tokio::spawn(work(gov.clone(), me.clone(), task))))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let spent = handles[1].cost().snapshot(&me).await.unwrap();
    let cents = i64::try_from(HANDLES * TASKS * ROUNDS).unwrap();
    let usd = &spent.session().unwrap().usd;
    assert_eq!((usd.settled, usd.held), (Usd::cents(cents), Usd::ZERO));
    for gov in &handles {
        gov.audit().move_outbox().await.unwrap();
        let health = gov.health().await;
        assert_eq!((health.audit.lost, health.audit.outbox_refused), (0, 0));
        // The owner of the schema may do anything.
        let amiss = |check: &&Check| !check.ok && check.name != "grants";
        assert_eq!(health.store.unwrap().checks.iter().find(amiss), None);
        let report = gov.audit().verify_all().await.unwrap();
        assert!(report.is_clean(), "{report}");
    }
    assert_nothing_is_left_in_the_sessions(&bouncer).await;
    assert_eq!(read(&bouncer, &me).await, 2 * HANDLES * TASKS * ROUNDS);
    for gov in handles {
        gov.shutdown().await;
    }
    let held = "SELECT count(*) FROM portcullis.chains WHERE lease_until > now()";
    let held = sqlx::query_scalar::<_, i64>(held)
        .fetch_one(&mut connect(&test.options()).await)
        .await;
    assert_eq!(held.unwrap(), 0, "the chains are given back");
}

/// One of everything, over and over: different statements of many clients on two sessions.
async fn work(gov: Governance, me: Principal, task: usize) {
    let pool = gov.database().connect_pool().await.unwrap();
    for n in 0..ROUNDS {
        let event = |kind| {
            let event = AuditEvent::new(&me, kind);
            event.with("task", task).with("n", n)
        };
        let live = event("app.live");
        let place = gov.audit().append(live.clone()).await.unwrap();
        assert_eq!(place.id(), live.id());
        let held = gov.cost().check_or_raise(&me, Ceiling::usd(Usd::cents(2)));
        let _ = held.await.unwrap().settle(Usd::cents(1)).await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let queued = gov.audit().append_in_tx(&mut tx, event("app.queued"));
        queued.await.unwrap();
        tx.commit().await.unwrap();
        let _ = gov.scope().check(&me, "read").await.unwrap();
        let found = gov.audit().event(live.id()).await.unwrap().unwrap();
        let at = place.committed().unwrap();
        assert_eq!((found.chain_no, found.seq), (at.chain_no, at.seq));
    }
}

/// What a client sets or names in a session, the next client finds there.
async fn assert_nothing_is_left_in_the_sessions(bouncer: &Bouncer) {
    let pool = bouncer.database().pooled().connect_pool().await.unwrap();
    // Two transactions at once have both sessions.
    let mut both = [pool.begin().await.unwrap(), pool.begin().await.unwrap()];
    let mut sessions = Vec::new();
    for tx in &mut both {
        let look = sqlx::raw_sql(
            "SELECT pg_backend_pid()::text,
                    current_setting('statement_timeout') || ' ' || current_setting('plan_cache_mode')
                    || ' ' || (SELECT count(*) FROM pg_catalog.pg_prepared_statements)",
        );
        let row = look.fetch_one(&mut **tx).await.unwrap();
        assert_eq!(row.get::<String, _>(1), "0 auto 0");
        sessions.push(row.get::<String, _>(0));
    }
    assert_ne!(sessions[0], sessions[1]);
}

/// How many events the callers have, page by page, over a pool of the host's.
async fn read(bouncer: &Bouncer, me: &Principal) -> usize {
    let host = bouncer.database().pooled().connect_pool().await.unwrap();
    let gov = Governance::builder(Database::pool(host).pooled(), keys());
    let gov = gov.connect().await.unwrap();
    let mut query = Query::all().session(me.session_id()).limit(100);
    let mut count = 0;
    loop {
        let page = gov.audit().events(&query).await.unwrap();
        let ours = |kind: &str| kind.starts_with("app.");
        count += page
            .entries
            .iter()
            .filter(|entry| ours(entry.kind.as_str()))
            .count();
        let Some(next) = page.next else { break };
        query = query.after(next);
    }
    gov.shutdown().await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_nobody_told_of_is_refused_with_what_to_call() {
    if !asked() {
        return;
    }
    let test = TestDatabase::fresh().await.unwrap();
    // One that refuses what a direct connection sets, and one that drops it.
    for more in ["", "ignore_startup_parameters = extra_float_digits,options"] {
        let bouncer = Bouncer::before(&test, more).await;
        let refused = governance(&bouncer.database()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Misuse, "{refused}");
        let said = refused.to_string();
        assert!(said.contains("Database::pooled"), "{said}");
        let told = governance(&bouncer.database().pooled()).await.unwrap();
        told.shutdown().await;
    }
    // Told of a pooler where there is none, all is as well; a missing schema is still said.
    let pooled = Database::options(test.options()).pooled();
    let gov = governance(&pooled).await.unwrap();
    let event = AuditEvent::new(&crate::common::principal("a"), "app.x");
    gov.audit().append(event).await.unwrap();
    gov.shutdown().await;
    let mut admin = connect(&test.options()).await;
    admin
        .execute("DROP SCHEMA portcullis CASCADE")
        .await
        .unwrap();
    let missing = governance(&pooled).await.unwrap_err();
    assert!(matches!(missing, ConnectError::Schema(_)), "{missing}");
}
