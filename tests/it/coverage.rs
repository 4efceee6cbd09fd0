//! Which clients are wrapped, and whether calls went past them, against a real Postgres.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::adapters::openai::{Governed, governed};
use portcullis::audit::{AuditKeys, Entry, KeySource, Kind, Query, Rotation};
use portcullis::coverage::{Comparison, CoverageError, Window, Wrapped};
use portcullis::store::TestDatabase;
use portcullis::{
    Call, Clock as _, Database, ErrorKind, Governance, ManualClock, Secret, TenantId, Timestamp,
};
use sqlx::Executor as _;
use tracing::field::{Field, Visit};

use crate::common::openai_gate::Gate;
use crate::common::openai_server::{Behaviour, Failure, Server};
use crate::common::proxy::{Fault, Proxy, Statement};
use crate::common::{connect, governance, keys, principal};
use crate::openai::request;

fn openai() -> Wrapped {
    Wrapped::new("openai", "api.example.com").unwrap()
}

/// Half past noon.
fn noon() -> Timestamp {
    Timestamp::parse("2026-11-27T12:30:00Z").unwrap()
}

fn minutes(n: u64) -> Duration {
    Duration::from_mins(n)
}

fn around(from: Timestamp, wide: u64) -> Window {
    Window::between(from, from.plus(minutes(wide))).unwrap()
}

/// A handle whose clock stands at noon.
async fn at_noon(database: &Database) -> (Governance, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(noon()));
    let gov = Governance::builder(database.clone(), keys())
        .shared_clock(clock.clone())
        .connect()
        .await
        .unwrap();
    (gov, clock)
}

/// The calls of the client that every test wraps, in the first quarter of an hour.
async fn governed_calls(gov: &Governance) -> u64 {
    let (client, window) = (openai(), around(noon(), 15));
    let found = gov.coverage().compare(&client, 0, window).await;
    found.unwrap().governed
}

async fn entries(gov: &Governance, kind: &Kind) -> Vec<Entry> {
    let query = Query::all().kind(kind).limit(100);
    gov.audit().events(&query).await.unwrap().entries
}

#[tokio::test]
async fn clients_are_listed_by_kind_and_digest_and_no_host_is_stored() {
    let test = TestDatabase::fresh().await.unwrap();
    let (here, clock) = at_noon(&test.database()).await;
    let first = here.coverage().register(&openai());
    clock.advance(minutes(20));
    first.count();
    first.count();
    here.coverage()
        .register(&Wrapped::new("mcp", "tools.example.com:8443").unwrap());
    here.shutdown().await;

    // Another process: the same host is the same client.
    let (there, _) = at_noon(&test.database()).await;
    there.coverage().register(&openai()).count();
    let listed = there.coverage().list().await.unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|client| (client.kind.as_str(), client.calls))
        .collect();
    assert_eq!(seen, [("mcp", 0), ("openai", 3)]);
    assert_eq!(listed[1].first_seen, noon());
    assert_eq!(listed[1].last_seen, noon().plus(minutes(20)));
    assert_ne!(listed[0].host, listed[1].host);
    assert_eq!(there.coverage().status().wrapped, 1);
    assert_eq!(there.coverage().status().waiting, 0);

    let (snapshot, recorded) = there.coverage().snapshot().await.unwrap();
    assert_eq!(snapshot, listed);
    let [entry] = &entries(&there, &Kind::CoverageSnapshot).await[..] else {
        panic!("one snapshot")
    };
    assert_eq!(entry.id, recorded.id());
    let said = entry.metadata.to_value();
    assert_eq!(said["count"], 2);
    assert_eq!(said["clients"][1][0], "openai");
    assert_eq!(said["clients"][1][1], listed[1].host.to_string());
    assert_eq!(said["clients"][1][2], 3);

    let mut session = connect(&test.options()).await;
    let stored: String = sqlx::query_scalar(
        "SELECT (SELECT string_agg(c::text, ' ') FROM portcullis.coverage_clients c)
             || (SELECT string_agg(c::text, ' ') FROM portcullis.coverage_calls c)
             || (SELECT string_agg(e::text, ' ') FROM portcullis.entries e)",
    )
    .fetch_one(&mut session)
    .await
    .unwrap();
    for host in ["example", hex::encode("example").as_str()] {
        assert!(!stored.contains(host), "{stored}");
    }
}

#[tokio::test]
async fn f48_a_bypass_is_found_by_a_count_from_outside() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, clock) = at_noon(&test.database()).await;
    let client = gov.coverage().register(&openai());
    for _ in 0..3 {
        client.count();
        clock.advance(minutes(10));
    }
    let compare = async |reported, window| {
        let found = gov.coverage().compare(&openai(), reported, window).await;
        found.unwrap()
    };
    // At 12:30, 12:40, 12:50: two and one.
    let hour = around(noon(), 60);
    let agreed = compare(3, hour).await;
    assert_eq!((agreed.governed, agreed.difference()), (3, 0));
    assert!(!agreed.is_bypass() && agreed.receipt.is_none());
    assert_eq!(compare(2, around(noon(), 15)).await.governed, 2);
    let before = around(noon().minus(minutes(15)), 15);
    assert_eq!(compare(0, before).await.governed, 0);
    let fewer = compare(1, hour).await;
    assert_eq!((fewer.difference(), fewer.is_bypass()), (-2, false));
    assert_eq!(
        entries(&gov, &Kind::CoverageBypassDetected).await.len(),
        0,
        "nothing was found yet"
    );

    let bypass: Comparison = compare(5, hour).await;
    assert!(bypass.is_bypass());
    assert_eq!((bypass.governed, bypass.difference()), (3, 2));
    let receipt = bypass.receipt.unwrap();
    assert!(receipt.committed().is_some());
    let [entry] = &entries(&gov, &Kind::CoverageBypassDetected).await[..] else {
        panic!("one finding")
    };
    let said = entry.metadata.to_value();
    assert_eq!(said["client"], "openai");
    assert_eq!(said["host"], bypass.host.to_string());
    assert_eq!(
        (&said["governed"], &said["reported"]),
        (&"3".into(), &"5".into())
    );

    // A client that nobody wrapped is all bypass; however many there were, nothing overflows.
    let other = Wrapped::new("openai", "other.example.com").unwrap();
    let found = gov
        .coverage()
        .compare(&other, u64::MAX, hour)
        .await
        .unwrap();
    assert_eq!((found.governed, found.difference()), (0, i64::MAX));
    assert!(found.receipt.unwrap().committed().is_some());
}

#[tokio::test]
async fn f48_what_the_wire_saw_is_what_the_adapter_counted() {
    let server = Server::start(Behaviour {
        failures: vec![Failure::now(429), Failure::now(400)],
        ..Behaviour::default()
    })
    .await;
    let gate = Gate::open(&server).await;
    // Wrapped, and not used yet.
    let client = Governed::new(&gate.gov, &gate.me)
        .retries(1)
        .wrap(server.client());
    assert_eq!(gate.gov.coverage().status().wrapped, 1);

    // Tried twice, and refused by the provider: nothing that it would bill.
    client.chat().create(request()).await.expect_err("a 400");
    client.chat().create(request()).await.expect("an answer");
    client.chat().create(request()).await.expect("an answer");
    let [listed] = &gate.gov.coverage().list().await.unwrap()[..] else {
        panic!("one client")
    };
    assert_eq!((listed.kind.as_str(), listed.calls), ("openai", 2));

    // Past the gate: the server answers, nobody counts.
    server
        .client()
        .chat()
        .create(request())
        .await
        .expect("an answer");
    let answered = server.seen().len() - 2;
    let host = server.base().replace("http://", "").replace("/v1", "");
    let wrapped = Wrapped::new("openai", host).unwrap();
    let today = Window::day(portcullis::SystemClock::default().now().utc_day());
    let coverage = gate.gov.coverage();
    let found = coverage.compare(&wrapped, answered as u64, today).await;
    let found = found.unwrap();
    assert_eq!((found.governed, found.difference()), (2, 1));
    assert!(found.is_bypass());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_written_once_whatever_the_connection_does() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let through = Database::options(proxy.options()).statement_timeout(Duration::from_secs(2));
    let (gov, _) = at_noon(&through).await;
    let client = gov.coverage().register(&openai());
    let counting = Statement::With("INSERT INTO portcullis.coverage_writers");
    let mut counted = 0;
    for fault in [
        Fault::CutAfterCommit,
        Fault::CutBeforeCommit,
        Fault::HangAfterCommit,
        Fault::Hang,
    ] {
        proxy.inject_into(counting, fault);
        for _ in 0..7 {
            client.count();
        }
        counted += 7;
        // Cut: sent again at once. Hung: an error at the deadline, and again with the next batch.
        let _ = gov.coverage().list().await;
        let listed = gov.coverage().list().await.unwrap();
        assert!(proxy.spent());
        assert_eq!(listed[0].calls, counted, "{fault:?}");
        assert_eq!(governed_calls(&gov).await, counted, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_counting_goes_on_and_is_written_when_it_is_back() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let through = Database::options(proxy.options())
        .statement_timeout(Duration::from_secs(2))
        .acquire_timeout(Duration::from_secs(1));
    let (gov, _) = at_noon(&through).await;
    proxy.down();
    let client = gov.coverage().register(&openai());
    client.count();
    client.count();
    let error = gov.coverage().list().await.unwrap_err();
    assert!(matches!(error, CoverageError::Store(_)));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    client.count();
    assert_eq!(gov.coverage().status().uncounted, 0);
    assert!(gov.coverage().status().waiting > 0);
    proxy.up();
    // Nobody asks: it is written by itself. Retried every few seconds.
    let (other, _) = at_noon(&test.database()).await;
    let mut calls = 0;
    for _ in 0..600 {
        calls = other
            .coverage()
            .list()
            .await
            .unwrap()
            .first()
            .map_or(0, |client| client.calls);
        if calls == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(calls, 3);
    assert_eq!(gov.coverage().status().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_count_together_and_no_call_is_lost() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6_usize {
        let database = Database::options(test.options()).pool_size(2);
        tasks.spawn(async move {
            let (gov, _) = at_noon(&database).await;
            // Each in another order.
            let clients: Vec<_> = (0..4)
                .map(|i| Wrapped::new("openai", format!("host-{}", (i + n) % 4)).unwrap())
                .collect();
            for _ in 0..10 {
                for client in &clients {
                    gov.coverage().register(client).count();
                }
                gov.coverage().list().await.unwrap();
            }
            gov.shutdown().await;
        });
    }
    tasks.join_all().await;
    let (gov, _) = at_noon(&test.database()).await;
    let listed = gov.coverage().list().await.unwrap();
    let calls: Vec<_> = listed.iter().map(|client| client.calls).collect();
    assert_eq!(calls, [60; 4]);
}

#[tokio::test]
async fn a_tenants_clients_are_its_own() {
    let test = TestDatabase::fresh().await.unwrap();
    let (one, _) = at_noon(&test.database()).await;
    one.coverage().register(&openai()).count();
    let other = one
        .for_tenant(TenantId::parse("other").unwrap())
        .await
        .unwrap();
    assert_eq!(other.coverage().list().await.unwrap(), []);
    other.coverage().register(&openai());
    let (ours, theirs) = (one.coverage().list().await, other.coverage().list().await);
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_ne!(ours[0].host, theirs[0].host, "a key of its own");
    assert_eq!(governed_calls(&other).await, 0);
}

#[tokio::test]
async fn calls_from_before_a_rotation_of_the_key_are_found() {
    let test = TestDatabase::fresh().await.unwrap();
    let secret = || KeySource::memory(Secret::generate().unwrap());
    let ring = AuditKeys::builder().key(1, secret()).key(2, secret());
    let ring = ring.current(1).build().unwrap();
    let clock = Arc::new(ManualClock::at(noon()));
    let gov = Governance::builder(test.database(), ring).shared_clock(clock);
    let gov = gov.connect().await.unwrap();
    gov.coverage().register(&openai()).count();
    gov.coverage().list().await.unwrap();
    gov.audit().rotate(2, Rotation::Planned).await.unwrap();
    gov.coverage().register(&openai()).count();
    let listed = gov.coverage().list().await.unwrap();
    assert_eq!(listed.len(), 2, "the host has another digest");
    assert_eq!(governed_calls(&gov).await, 2);
}

#[tokio::test]
async fn a_snapshot_of_many_clients_fits_an_entry() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, _) = at_noon(&test.database()).await;
    let kind = "k".repeat(64);
    // More than an entry names, and more than a page.
    for n in 0..1_100 {
        let client = Wrapped::new(&kind, format!("host-{n}")).unwrap();
        gov.coverage().register(&client);
    }
    let (clients, recorded) = gov.coverage().snapshot().await.unwrap();
    assert_eq!(clients.len(), 1_100);
    let entry = gov.audit().event(recorded.id()).await.unwrap().unwrap();
    let said = entry.metadata.to_value();
    assert_eq!(said["count"], 1_100);
    assert_eq!(said["clients"].as_array().unwrap().len(), 200);
}

#[tokio::test]
async fn the_marks_of_processes_that_are_gone_are_removed() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gone, _) = at_noon(&test.database()).await;
    gone.coverage().register(&openai()).count();
    gone.shutdown().await;
    let mut session = connect(&test.options()).await;
    session
        .execute(
            "UPDATE portcullis.coverage_writers SET written_at = written_at - interval '25 hours'",
        )
        .await
        .unwrap();

    let (gov, _) = at_noon(&test.database()).await;
    gov.coverage().register(&openai()).count();
    // By the first batch that is written behind.
    let mut writers = 0_i64;
    for _ in 0..600 {
        let (count, calls): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM portcullis.coverage_writers),
                    (SELECT sum(calls)::bigint FROM portcullis.coverage_clients)",
        )
        .fetch_one(&mut session)
        .await
        .unwrap();
        writers = count;
        if calls == 2 && writers == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(writers, 1);
}

// --- what the log says

/// Keeps what is said in the log, on this thread.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl tracing::Subscriber for Heard {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("portcullis::coverage")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                let (text, name) = (&mut self.0, field.name());
                write!(text, " {name}={value:?}").unwrap();
            }
        }
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_process_without_a_wrapped_client_is_warned_of_once_where_that_was_asked_for() {
    let heard = Heard::default();
    let _hearing = tracing::subscriber::set_default(heard.clone());
    let test = TestDatabase::fresh().await.unwrap();
    let me = principal("agent");
    let call = Call::tool(&me, "read_invoice");
    let open = async |warn| {
        let builder = Governance::builder(test.database(), keys()).warn_on_no_wrappers(warn);
        builder.connect().await.unwrap()
    };

    let quiet = governance(&test.database()).await.unwrap();
    quiet.authorize(&call).await.unwrap_err();
    assert_eq!(heard.take(), [""; 0], "off unless asked for");

    let first = open(true).await;
    let said = heard.take();
    assert!(
        said.len() == 1 && said[0].contains("WARN message=no wrapped client is known"),
        "{said:?}"
    );
    first.authorize(&call).await.unwrap_err();
    let said = heard.take();
    assert!(
        said.len() == 1 && said[0].contains("has wrapped no client"),
        "{said:?}"
    );
    assert!(said[0].contains("known=\"none\""), "{said:?}");
    first.authorize(&call).await.unwrap_err();
    assert_eq!(heard.take(), [""; 0], "once");

    // A process with a client.
    let second = open(true).await;
    heard.take();
    second.coverage().register(&openai());
    second.authorize(&call).await.unwrap_err();
    assert_eq!(heard.take(), [""; 0]);
    second.shutdown().await;

    // One without, which knows of the other.
    let third = open(true).await;
    let said = heard.take();
    assert!(
        said.len() == 1 && said[0].starts_with("INFO") && said[0].contains("openai@"),
        "{said:?}"
    );
    third.authorize(&call).await.unwrap_err();
    let said = heard.take();
    assert!(
        said.len() == 1 && said[0].contains("known=\"openai@"),
        "{said:?}"
    );
    assert!(!said[0].contains("example"), "no host in the log");
}

#[tokio::test]
async fn a_client_that_is_wrapped_by_its_adapter_is_known_before_its_first_call() {
    let server = Server::start(Behaviour::default()).await;
    let gate = Gate::open(&server).await;
    drop(governed(&gate.gov, &gate.me, server.client()));
    let [listed] = &gate.gov.coverage().list().await.unwrap()[..] else {
        panic!("one client")
    };
    assert_eq!((listed.kind.as_str(), listed.calls), ("openai", 0));
}
