//! The promise under `kill -9`: four processes of 64 tasks race for one budget.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis::cost::{Budget, Cost, CostError, CostSettings, Tokens};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Ceiling, Clock, Database, ManualClock, ModelName, Principal, SessionId, SystemClock,
    Usage, Usd,
};
use sqlx::{ConnectOptions, Connection};

use crate::cost::{count, ledger_agrees, open};

const URL: &str = "PORTCULLIS_KILL_CHILD_URL";
const SESSION: &str = "PORTCULLIS_KILL_CHILD_SESSION";
const MADE: &str = "SELECT count(*) FROM portcullis.reservations";
const PROCESSES: usize = 4;
const TASKS: u64 = 64;
const MILLIS: &str = "PORTCULLIS_KILL_CHILD_MILLIS";
/// How long a child runs that is not killed, and one that is to be.
const LIFETIMES: [&str; 2] = ["800", "60000"];
/// How many reservations a round makes before anybody is killed.
const UNDER_WAY: i64 = 40;

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn agent() -> AgentId {
    AgentId::parse("racer").unwrap()
}

/// Not a test of its own: what the child processes run.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Ok(url), Ok(session)) = (std::env::var(URL), std::env::var(SESSION)) else {
        return;
    };
    let session = SessionId::parse(session).unwrap();
    let cost = open(
        &Database::url(url),
        Arc::new(SystemClock::default()),
        CostSettings::default(),
    )
    .await;
    let me = Principal::agent(agent()).session(session);
    let tasks = (0..TASKS).map(|_| tokio::spawn(race(cost.clone(), me.clone())));
    let tasks: Vec<_> = tasks.collect();
    let millis = std::env::var(MILLIS).unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_millis(millis)).await;
    // Dropping the tasks cancels their calls, wherever they are.
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    cost.shutdown().await;
}

/// Reserves and ends in every way there is, for ever.
async fn race(cost: Cost, me: Principal) {
    let model = ModelName::parse("gpt-4o-mini").unwrap();
    loop {
        let roll = random();
        let cents = i64::try_from(1 + roll % 40).unwrap();
        let ceiling = match roll % 3 {
            0 => Ceiling::in_out(roll % 1_000, 1_000).of_model(&model),
            _ => Ceiling::usd(Usd::cents(cents)),
        };
        let held = match cost.check_or_raise(&me, ceiling).await {
            Ok(held) => held,
            // Nothing left for now, or a machine too busy to answer: refused either way.
            Err(CostError::Exceeded { .. } | CostError::Store(_)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        if roll.is_multiple_of(7) {
            tokio::task::yield_now().await;
        }
        // A hard ceiling: nothing costs more than it.
        match (roll / 64) % 16 {
            0 => drop(held),
            1 | 2 if !roll.is_multiple_of(3) => drop(held.settle(Usd::cents(cents)).await),
            3 if roll.is_multiple_of(3) => {
                drop(held.settle(Usage::tokens(roll % 1_000, 500)).await);
            }
            _ => drop(held.release().await),
        }
    }
}

fn start(url: &str, session: &SessionId, killed: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cost_kill::child", "--test-threads", "1"])
        .env(URL, url)
        .env(SESSION, session.as_str())
        .env(MILLIS, LIFETIMES[usize::from(killed)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_while_four_processes_race_and_are_killed() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let cost = open(&test.database(), clock.clone(), CostSettings::default()).await;
    let budget = Budget::for_agent(agent())
        .per_session(Usd::dollars(15))
        .per_session(Tokens(2_000_000))
        .per_day(Usd::dollars(200));
    cost.register(budget).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let reader = tokio::spawn(read(test.options(), Arc::clone(&stop), Arc::clone(&reads)));

    let url = test.options().to_url_lossy().to_string();
    for round in 0..6 {
        // Every other round is left to end by itself, cancelling its calls.
        let killed = round % 2 == 0;
        let session = SessionId::new();
        let before = count(&test, MADE).await;
        let mut children: Vec<Child> = (0..PROCESSES)
            .map(|_| start(&url, &session, killed))
            .collect();
        if killed {
            under_way(&test, before + UNDER_WAY).await;
            for child in &mut children {
                tokio::time::sleep(Duration::from_millis(random() % 200)).await;
                child.kill().unwrap();
            }
        }
        for mut child in children {
            let status = tokio::task::spawn_blocking(move || child.wait())
                .await
                .unwrap()
                .unwrap();
            assert!(killed || status.success(), "a child failed: {status}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    reader.await.unwrap();

    // Statements that outlived their processes have ended.
    while count(
        &test,
        "SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()",
    )
    .await
        > 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ledger_agrees(&test).await;
    assert!(reads.load(Ordering::SeqCst) > 50, "the reader looked often");
    let ended =
        "SELECT count(*) FROM portcullis.reservations WHERE state IN ('settled', 'released')";
    assert!(
        count(&test, ended).await > 100,
        "there was something to race for"
    );
    // What the killed processes held stays charged: unknown, once its lease has run out.
    let held = count(
        &test,
        "SELECT count(*) FROM portcullis.reservations WHERE state = 'held'",
    )
    .await;
    assert!(
        held > 0,
        "processes were killed while they held reservations"
    );
    clock.advance(Duration::from_hours(24));
    assert_eq!(i64::try_from(cost.sweep().await.unwrap()).unwrap(), held);
    ledger_agrees(&test).await;
}

/// Returns when so many reservations have been made.
async fn under_way(test: &TestDatabase, wanted: i64) {
    while count(test, MADE).await < wanted {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The fifth process: reads the windows over a connection of its own.
async fn read(
    options: sqlx::postgres::PgConnectOptions,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
) {
    let mut connection = options.connect().await.unwrap();
    while !stop.load(Ordering::SeqCst) {
        let broken: i64 = sqlx::query_scalar(
            "SELECT count(*)
               FROM portcullis.budget_windows
              WHERE settled_usd + held_usd > usd_limit + overrun_usd
                 OR settled_tokens + held_tokens > token_limit + overrun_tokens
                 OR overrun_usd <> 0 OR overrun_tokens <> 0",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(broken, 0, "settled + held <= limit, at every moment");
        reads.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connection.close().await.unwrap();
}
