//! The promise while processes that hold slices are killed, and stopped past their leases.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis::cost::{Budget, Cost, CostError, CostSettings, LeaseSettings, Resolution};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Ceiling, Clock, Database, ManualClock, Principal, ReservationId, SystemClock, Usd,
};
use sqlx::{ConnectOptions, Connection};

use crate::common::url;
use crate::cost::{count, ledger_agrees, open};

const URL: &str = "PORTCULLIS_LEASE_CHILD_URL";
const AGENT: &str = "PORTCULLIS_LEASE_CHILD_AGENT";
const MILLIS: &str = "PORTCULLIS_LEASE_CHILD_MILLIS";
const LEASE: &str = "PORTCULLIS_LEASE_CHILD_LEASE";
const PROCESSES: usize = 4;
const TASKS: usize = 16;
const ROUNDS: usize = 6;
const SOON: Duration = Duration::from_secs(5);
/// After how many refusals a task gives up.
const ENOUGH: usize = 10;

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn settings(lease: Duration) -> CostSettings {
    let leases = LeaseSettings::default()
        .lease(lease)
        .report_every(Duration::from_millis(100));
    CostSettings::default().leases(leases)
}

/// Not a test of its own: what the child processes run. Says at the end what it settled.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Ok(url), Ok(agent)) = (std::env::var(URL), std::env::var(AGENT)) else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    let clock = Arc::new(SystemClock::default());
    let lease = Duration::from_millis(number(LEASE));
    let cost = open(&Database::url(url), clock, settings(lease)).await;
    let me = Principal::agent(AgentId::parse(agent).unwrap());
    let spent = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let tasks = (0..TASKS).map(|_| {
        let race = race(
            cost.clone(),
            me.clone(),
            Arc::clone(&spent),
            Arc::clone(&stop),
        );
        tokio::spawn(race)
    });
    let tasks: Vec<_> = tasks.collect();
    match number(MILLIS) {
        // Until nothing is left.
        0 => {}
        millis => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            stop.store(true, Ordering::SeqCst);
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    cost.shutdown().await;
    println!("spent {}", spent.load(Ordering::SeqCst));
}

/// Not a test of its own: a process that says that it settled a call, for more than its ceiling, and
/// then does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn overrunning_child() {
    let (Ok(url), Ok(agent)) = (std::env::var(URL), std::env::var(AGENT)) else {
        return;
    };
    // Nothing is reported by itself.
    let leases = LeaseSettings::default().report_every(Duration::from_hours(1));
    let settings = CostSettings::default().leases(leases);
    let cost = open(
        &Database::url(url),
        Arc::new(SystemClock::default()),
        settings,
    )
    .await;
    let me = Principal::agent(AgentId::parse(agent).unwrap());
    let ask = || cost.reserve(&me, Ceiling::usd(Usd::cents(1)));
    // The first one opens the slice.
    ask().await.unwrap().settle(Usd::cents(1)).await.unwrap();
    ask().await.unwrap().settle(Usd::dollars(3)).await.unwrap();
    let spender = cost.spender(&me);
    let held = spender.reserve(Ceiling::usd(Usd::cents(1))).await.unwrap();
    held.settle(Usd::dollars(2)).await.unwrap();
    println!("spent {}", Usd::cents(501).as_nanos());
    std::future::pending::<()>().await;
}

/// Reserves and ends in every way there is, until told to stop.
async fn race(cost: Cost, me: Principal, spent: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut refused = 0;
    while !stop.load(Ordering::SeqCst) && refused < ENOUGH {
        let roll = random();
        let nanos = 1 + roll % 3_000_000;
        let amount = Usd::nanos(i64::try_from(nanos).unwrap());
        let held = match cost.reserve(&me, Ceiling::usd(amount)).await {
            Ok(held) => held,
            Err(CostError::Exceeded { .. }) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        if roll.is_multiple_of(64) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else if roll.is_multiple_of(7) {
            tokio::task::yield_now().await;
        }
        match (roll / 64) % 64 {
            0 => {
                // Of unknown outcome: it stays charged at its ceiling.
                if held.leave_unknown().await.is_ok() {
                    spent.fetch_add(nanos, Ordering::SeqCst);
                }
            }
            1..=20 => {
                let less = Usd::nanos(i64::try_from(nanos / 2).unwrap());
                if held.settle(less).await.is_ok() {
                    spent.fetch_add(nanos / 2, Ordering::SeqCst);
                }
            }
            21..=30 => drop(held.release().await),
            _ => {
                if held.settle(amount).await.is_ok() {
                    spent.fetch_add(nanos, Ordering::SeqCst);
                }
            }
        }
    }
}

fn start(url: &str, agent: &str, millis: u64, lease: Duration) -> Child {
    start_as("child", url, agent, millis, lease)
}

fn start_as(child: &str, url: &str, agent: &str, millis: u64, lease: Duration) -> Child {
    let child = format!("cost_lease::kill::{child}");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &child, "--test-threads", "1", "--nocapture"])
        .env(URL, url)
        .env(AGENT, agent)
        .env(MILLIS, millis.to_string())
        .env(LEASE, lease.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn ended(child: Child) -> (bool, u64) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let spent = text
        .lines()
        .find_map(|line| line.split_once("spent ")?.1.parse().ok());
    (output.status.success(), spent.unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_while_holders_of_slices_race_and_are_killed() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let lease = Duration::from_secs(5);
    let cost = open(&test.database(), clock.clone(), settings(lease)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let reader = tokio::spawn(read(test.options(), Arc::clone(&stop), Arc::clone(&reads)));
    let url = url(&test.options());
    let mut truth = Vec::new();
    for round in 0..ROUNDS {
        let killed = round % 3 != 2;
        let agent = format!("racer-{round}");
        let budget = Budget::for_agent(AgentId::parse(&agent).unwrap())
            .per_day(if killed {
                Usd::dollars(200)
            } else {
                Usd::cents(50)
            })
            .leased(5);
        cost.register(budget).await.unwrap();
        let millis = if killed { 60_000 } else { 0 };
        let mut children: Vec<Child> = (0..PROCESSES)
            .map(|_| start(&url, &agent, millis, lease))
            .collect();
        if killed {
            spending(&test).await;
            for child in &mut children {
                tokio::time::sleep(Duration::from_millis(random() % 300)).await;
                child.kill().unwrap();
            }
        }
        let mut sum = 0;
        for child in children {
            let (fine, spent) = ended(child).await;
            assert!(killed || fine, "a child failed");
            sum += spent;
        }
        if !killed {
            truth.push((agent, sum));
        }
    }
    stop.store(true, Ordering::SeqCst);
    reader.await.unwrap();
    while count(
        &test,
        "SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()
            AND backend_type = 'client backend'",
    )
    .await
        > 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ledger_agrees(&test).await;
    assert!(reads.load(Ordering::SeqCst) > 50, "the reader looked often");

    // What the dead had and did not report counts as spent, until somebody says what it was.
    let before = taken(&test).await;
    clock.advance(Duration::from_mins(30));
    assert!(
        cost.sweep().await.unwrap() > 0,
        "holders of slices were killed"
    );
    assert_eq!(taken(&test).await, before);
    ledger_agrees(&test).await;
    let mut connection = test.options().connect().await.unwrap();
    let unknown: Vec<uuid::Uuid> = sqlx::query_scalar(
        "SELECT reservation_id FROM portcullis.reservations WHERE state = 'unknown'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    for id in unknown {
        let id = ReservationId::parse(id.to_string()).unwrap();
        let kept: Option<i64> = sqlx::query_scalar(
            "SELECT charged_usd[1] FROM portcullis.reservations WHERE reservation_id = $1",
        )
        .bind(uuid::Uuid::parse_str(&id.to_string()).unwrap())
        .fetch_one(&mut connection)
        .await
        .unwrap();
        let charge = Resolution::Charge(Usd::nanos(kept.unwrap()).into());
        cost.resolve(id, charge).await.unwrap();
    }
    ledger_agrees(&test).await;
    let held = "SELECT coalesce(sum(held_usd), 0)::bigint FROM portcullis.budget_windows";
    assert_eq!(count(&test, held).await, 0, "nothing is left open");
    assert_eq!(taken(&test).await, before);
    // Where nobody was killed, every nano-dollar is accounted for.
    for (agent, spent) in truth {
        let settled: i64 = sqlx::query_scalar(
            "SELECT settled_usd FROM portcullis.budget_windows WHERE budget = $1",
        )
        .bind(format!("agent:{agent}"))
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(settled, i64::try_from(spent).unwrap(), "{agent}");
        assert!(spent >= 495_000_000, "99 % of the limit was used: {spent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_past_its_lease_spends_nothing_of_its_slice() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let lease = Duration::from_secs(2);
    let cost = open(&test.database(), clock.clone(), settings(lease)).await;
    let budget = Budget::for_agent(AgentId::parse("sleeper").unwrap())
        .per_day(Usd::dollars(100))
        .leased(50);
    cost.register(budget).await.unwrap();
    let child = start(&url(&test.options()), "sleeper", 4_000, lease);
    spending(&test).await;
    signal(&child, "STOP");
    // Its lease runs out, and what it had is given to others.
    tokio::time::sleep(lease).await;
    clock.set(SystemClock::default().now());
    while cost.sweep().await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        clock.set(SystemClock::default().now());
    }
    let unknown = "SELECT charged_usd[1] FROM portcullis.reservations WHERE state = 'unknown' ORDER BY charged_usd[1] DESC LIMIT 1";
    let owed = count(&test, unknown).await;
    assert!(owed > 0);
    let lost = "SELECT count(*) FROM portcullis.budget_leases WHERE state = 'lost'";
    assert_eq!(count(&test, lost).await, 1);
    signal(&child, "CONT");
    let (fine, spent) = ended(child).await;
    assert!(fine, "it goes on, with another slice");
    // It said what it had spent of the lost one, and no more: all that it spent is charged, once.
    ledger_agrees(&test).await;
    assert_eq!(
        taken(&test).await,
        Usd::nanos(i64::try_from(spent).unwrap())
    );
    assert!(taken(&test).await <= Usd::dollars(100));
    cost.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_cost_beyond_its_ceiling_outlives_the_process_that_said_so() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let cost = open(&test.database(), clock.clone(), settings(SOON)).await;
    let budget = Budget::for_agent(AgentId::parse("overrunner").unwrap())
        .per_day(Usd::dollars(4))
        .leased(2);
    cost.register(budget).await.unwrap();
    let url = url(&test.options());
    let mut child = start_as("overrunning_child", &url, "overrunner", 0, SOON);
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let spent = loop {
        let line = said.next().unwrap().unwrap();
        if let Some((_, spent)) = line.split_once("spent ") {
            break Usd::nanos(spent.parse().unwrap());
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        taken(&test).await >= spent,
        "it was acknowledged, and is on the books"
    );
    clock.advance(Duration::from_mins(5));
    cost.sweep().await.unwrap();
    assert!(taken(&test).await >= spent);
    ledger_agrees(&test).await;
    cost.shutdown().await;
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Returns when somebody has reported what it spent of a slice.
async fn spending(test: &TestDatabase) {
    let reported =
        "SELECT count(*) FROM portcullis.budget_leases WHERE state = 'live' AND spent_usd > 0";
    while count(test, reported).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn taken(test: &TestDatabase) -> Usd {
    let sum =
        "SELECT coalesce(sum(settled_usd + held_usd), 0)::bigint FROM portcullis.budget_windows";
    Usd::nanos(count(test, sum).await)
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
              WHERE settled_usd + held_usd > usd_limit OR overrun_usd <> 0 OR held_usd < 0",
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
