//! A real server that stops where it stands, with every process of it: no gate waits for it past its
//! deadline, and what a gate says from memory it says is as old as it is.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use portcullis::cost::{Budget, CostError, LeaseSettings};
use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision, GateError, Requested};
use portcullis::halt::{HaltSettings, Target, WhenStale};
use portcullis::presence::Filter;
use portcullis::scope::ScopePolicy;
use portcullis::store::embedded::{Cluster, Durability};
use portcullis::{
    Call, Ceiling, Clock, Database, ErrorKind, Governance, OperatorId, Principal, RequestId,
    SystemClock, Usd,
};
use serde_json::json;
use tokio::time::Instant;

use crate::common::journal::Directory;
use crate::common::{keys, principal};

const DEADLINE: Duration = Duration::from_secs(1);
/// How late an answer may be on a machine that has much else to do.
const SLACK: Duration = Duration::from_secs(2);
const STALE: Duration = Duration::from_millis(1_500);
const CENT: Usd = Usd::cents(1);

/// A server of this test alone.
struct Server {
    cluster: Cluster,
    journals: Directory,
    _directory: Directory,
}

/// Every process of it is stopped until the value is dropped, also by a test that fails.
struct Frozen(Vec<String>);

impl Server {
    async fn start() -> Self {
        let directory = Directory::fresh();
        let cluster = directory.path().join("postgres");
        let cluster = Cluster::start_with(cluster, Durability::Throwaway);
        let server = Self {
            cluster: cluster.await.unwrap(),
            journals: Directory::fresh(),
            _directory: directory,
        };
        server.database().migrate().await.unwrap();
        server
    }

    fn database(&self) -> Database {
        Database::options(self.cluster.options("postgres"))
            .statement_timeout(DEADLINE)
            .acquire_timeout(DEADLINE)
    }

    fn freeze(&self) -> Frozen {
        let postmaster = self.cluster.postmaster_pid().unwrap().to_string();
        let found = Command::new("pgrep").args(["-P", &postmaster]).output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        // First the one that starts others.
        let pids = [postmaster.as_str()].into_iter().chain(found.lines());
        let frozen = Frozen(pids.map(str::to_owned).collect());
        assert!(frozen.0.len() > 5, "it has backends, too");
        frozen.signal("STOP");
        frozen
    }
}

impl Frozen {
    fn signal(&self, name: &str) {
        // Some of them may have ended.
        let _ = Command::new("kill")
            .arg(format!("-{name}"))
            .args(&self.0)
            .output();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

async fn open(server: &Server, when_stale: WhenStale) -> Governance {
    let leases = LeaseSettings::default().lease(Duration::from_secs(2));
    let halt = HaltSettings::default()
        .poll_every(Duration::from_millis(200))
        .stale_after(STALE)
        .when_stale(when_stale);
    Governance::builder(server.database(), keys())
        .journal(server.journals.settings())
        .budget_leases(leases)
        .halt(halt)
        .connect()
        .await
        .unwrap()
}

fn operator(name: &str) -> OperatorId {
    OperatorId::parse(name).unwrap()
}

/// Somebody with an exact budget, and somebody with a leased one of which he holds a slice.
async fn ready(gov: &Governance) -> (Principal, Principal) {
    let asker = principal("asker").operated_by(operator("dana"));
    let leaser = principal("leaser");
    let scope = ScopePolicy::new(asker.agent_id().clone())
        .allow_tools(["refund", "read"])
        .unwrap();
    gov.scope().register(scope).await.unwrap();
    let people = ApprovalPolicy::new(asker.agent_id().clone())
        .require_for_tools(["refund"])
        .and_then(|policy| policy.approvers(["user:erin"]))
        .unwrap();
    gov.gates().register(people).await.unwrap();
    let exact = Budget::for_agent(asker.agent_id().clone()).per_day(Usd::dollars(10));
    gov.cost().register(exact).await.unwrap();
    let leased = Budget::for_agent(leaser.agent_id().clone())
        .per_day(Usd::dollars(100))
        .leased(50);
    gov.cost().register(leased).await.unwrap();
    for _ in 0..2 {
        spend(gov, &leaser).await.unwrap();
    }
    spend(gov, &asker).await.unwrap();
    let stopped = Target::agent_of(&principal("stopped"));
    let by = operator("user:anna");
    gov.halt().halt(&stopped, &by, "before").await.unwrap();
    (asker, leaser)
}

async fn spend(gov: &Governance, who: &Principal) -> Result<(), CostError> {
    let held = gov.cost().reserve(who, Ceiling::usd(CENT)).await?;
    held.settle(CENT).await.map(drop)
}

fn refund(who: &Principal, n: u32) -> Call {
    Call::tool(who, "refund").args(&json!({ "n": n }))
}

async fn ask(gov: &Governance, call: &Call) -> RequestId {
    match gov.gates().request(call, Ask::policy()).await.unwrap() {
        Requested::Stored(request) => request.id,
        Requested::Journalled { .. } => panic!("the database is there"),
    }
}

/// What comes of `work`, which may wait for so many operations.
async fn within<T>(what: &str, operations: u32, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let outcome = tokio::time::timeout(DEADLINE * operations + SLACK, work).await;
    outcome.unwrap_or_else(|_| panic!("{what} still waits after {:?}", started.elapsed()))
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_with_the_servers_processes_stopped_no_gate_waits_past_its_deadline_nor_believes_its_memory_too_long()
 {
    let server = Server::start().await;
    // The gates behind the switch are asked, too; and a switch that stops everybody.
    let gov = open(&server, WhenStale::HoldLastKnown).await;
    let strict = Arc::new(open(&server, WhenStale::CountAsHalted).await);
    let (asker, leaser) = ready(&gov).await;
    let asked = ask(&gov, &refund(&asker, 1)).await;
    let erin = ApproverRef::parse("user:erin").unwrap();
    let (granted, call) = (ask(&gov, &refund(&asker, 2)).await, refund(&asker, 2));
    let decided = gov.gates().decide(granted, &erin, Decision::grant()).await;
    decided.unwrap();
    let read = Call::tool(&asker, "read").ceiling(Ceiling::usd(CENT));
    gov.authorize(&read).await.unwrap().release().await;

    let frozen = server.freeze();
    let frozen_at = Instant::now();
    // What was asked before has the newest answer that there can be.
    let known_until = SystemClock::default().now();
    let hot = tokio::spawn(look_all_the_time(Arc::clone(&strict), frozen_at));

    // From memory: at once.
    let started = Instant::now();
    assert!(gov.halt().check(&principal("stopped")).is_err());
    let allowed = within("scope", 0, gov.scope().check(&asker, "read"));
    allowed.await.unwrap();
    gov.presence().heartbeat(&asker);
    within("a slice", 0, spend(&gov, &leaser)).await.unwrap();
    assert!(started.elapsed() < SLACK);

    // From the database: refused, each within its deadline.
    let refused = within("a budget", 1, spend(&gov, &asker)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    let listed = within("presence", 1, gov.presence().list(&Filter::default())).await;
    assert!(listed.is_err());
    let gates = gov.gates();
    let waited = within("a wait", 0, gates.wait(asked, DEADLINE / 2)).await;
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
    let decided = within(
        "a decision",
        1,
        gates.decide(asked, &erin, Decision::grant()),
    )
    .await;
    assert_eq!(decided.unwrap_err().kind(), ErrorKind::Unavailable);
    let new = refund(&asker, 3);
    let requested = within("a request", 1, gates.request(&new, Ask::policy())).await;
    assert!(
        matches!(requested, Ok(Requested::Journalled { .. })),
        "{requested:?}"
    );
    // It looks whether it is granted, and then who is to be asked.
    let redeemed = within("an approval", 2, gates.redeem(&call, Ask::policy())).await;
    assert!(
        matches!(redeemed, Err(GateError::Journalled { .. })),
        "{redeemed:?}"
    );
    let permit = within("authorize", 2, gov.authorize(&read)).await;
    assert_eq!(permit.unwrap_err().kind(), ErrorKind::Unavailable);

    // By now all of it is too old to be believed.
    tokio::time::sleep_until(frozen_at + STALE + DEADLINE).await;
    for halt in [gov.halt(), strict.halt()] {
        let status = halt.status();
        assert!(status.stale && status.age > STALE, "{status:?}");
    }
    let halted = strict.halt().check(&asker).unwrap_err();
    assert_eq!(halted.kind(), ErrorKind::Unavailable);
    let past = within("a slice that is over", 1, spend(&gov, &leaser)).await;
    assert_eq!(past.unwrap_err().kind(), ErrorKind::Unavailable);
    let scope = gov.scope().status();
    assert!(scope.failing && !scope.is_ok(), "{scope:?}");
    assert!(scope.loaded_at.unwrap() <= known_until);
    let people = gates.status();
    assert!(people.failing && people.looked_at.unwrap() <= known_until);
    assert!(!within("health", 4, gov.health()).await.is_ok());
    let longest = hot.await.unwrap();
    assert!(longest < SLACK, "a check from memory took {longest:?}");

    drop(frozen);
    // And it is as before: nobody had to be restarted.
    let again = async {
        while spend(&gov, &asker).await.is_err() || spend(&gov, &leaser).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gov.gates().redeem(&call, Ask::policy()).await
    };
    within("the end of it", 30, again)
        .await
        .unwrap()
        .give_back()
        .await;
    gov.shutdown().await;
    strict.shutdown().await;
    server.cluster.stop().await;
}

/// Asks what is decided from memory, and whether it says how old that is.
async fn look_all_the_time(gov: Arc<Governance>, frozen_at: Instant) -> Duration {
    let (stopped, free) = (principal("stopped"), principal("free"));
    let mut longest = Duration::ZERO;
    while frozen_at.elapsed() < STALE + DEADLINE {
        let began = Instant::now();
        assert!(gov.halt().check(&stopped).is_err(), "it stays halted");
        let passes = gov.halt().check(&free).is_ok();
        longest = longest.max(began.elapsed());
        let since = began.duration_since(frozen_at);
        assert!(
            !passes || since <= STALE,
            "it passes {since:?} after the last answer"
        );
        let age = gov.halt().status().age;
        assert!(age >= since, "{age:?} old after {since:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    longest
}
