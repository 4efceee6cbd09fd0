//! The enforcement point: gates in order, decisions on record first, permits that cannot be lost.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::audit::{Entry, JournalSettings, Query};
use portcullis::contracts::{About, Condition, Contract};
use portcullis::cost::{Budget, Price, Prices};
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Call, Ceiling, ErrorKind, Gate, Governance, ModelName, Outcome, Permit, Principal,
    Refusal, RunError, TenantId, Usage, Usd,
};
use serde_json::json;
use sqlx::Executor;

use crate::common::{connect, governance, keys, principal};

const MODEL: &str = "gpt-4o-mini";

/// A handle whose agent may read invoices and call a model, for a dollar a session.
async fn governed(test: &TestDatabase) -> (Governance, Principal) {
    let gov = governance(&test.database()).await.unwrap();
    allow(&gov).await;
    (gov, principal("billing-agent"))
}

/// The same, where what the database does not take is lost.
async fn without_a_journal(test: &TestDatabase) -> Governance {
    let gov = Governance::builder(test.database(), keys())
        .journal(JournalSettings::off())
        .connect()
        .await
        .unwrap();
    allow(&gov).await;
    gov
}

async fn allow(gov: &Governance) {
    let agent = AgentId::parse("billing-agent").unwrap();
    let policy = ScopePolicy::new(agent.clone())
        .allow_tools(["read_invoice", "charge_card"])
        .and_then(|policy| policy.allow_models([MODEL]))
        .and_then(|policy| policy.allow_apis(["https://api.example.com/v1/*"]))
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    gov.cost()
        .register(Budget::for_agent(agent).per_session(Usd::dollars(1)))
        .await
        .unwrap();
}

/// Every entry of the session, in order.
async fn trail(gov: &Governance, me: &Principal) -> Vec<Entry> {
    let query = Query::all().session(me.session_id()).limit(500);
    gov.audit().events(&query).await.unwrap().entries
}

/// What the trail says happened, once `count` entries are there: refusals are recorded behind the
/// caller's back.
async fn kinds(gov: &Governance, me: &Principal, count: usize) -> Vec<String> {
    let mut entries = Vec::new();
    for _ in 0..500 {
        entries = trail(gov, me).await;
        if entries.len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let with = |entry: &Entry| match &entry.decision {
        Some(decision) => format!("{} {decision}", entry.kind),
        None => entry.kind.to_string(),
    };
    entries.iter().map(with).collect()
}

#[tokio::test]
async fn a_permitted_call_is_on_record_before_it_happens() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let call = Call::tool(&me, "read_invoice").args(&json!({"invoice": "inv_381"}));

    let done = gov
        .run(&call, async |_: &Permit| {
            // Seen by somebody else, while the call is still to happen.
            let mut other = connect(&test.options()).await;
            let seen: Vec<String> = sqlx::query_scalar(
                "SELECT kind FROM portcullis.entries WHERE session_id = $1 ORDER BY seq",
            )
            .bind(me.session_id().as_str())
            .fetch_all(&mut other)
            .await
            .unwrap();
            assert_eq!(seen, ["policy.decision", "tool.call.started"]);
            Ok::<_, Refusal>(7)
        })
        .await;

    assert_eq!(done, Ok(7));
    assert_eq!(
        kinds(&gov, &me, 3).await,
        [
            "policy.decision allow",
            "tool.call.started",
            "tool.call.completed completed"
        ]
    );
    let entries = trail(&gov, &me).await;
    let ids: Vec<_> = entries
        .iter()
        .map(|e| e.metadata.to_value()["call_id"].to_string())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one call id: {ids:?}");
    assert_eq!(entries[1].parent, Some(entries[0].id));
    assert_eq!(entries[2].parent, Some(entries[1].id));
    assert!(
        entries[1].input_hash.is_some(),
        "the arguments are bound by a keyed hash"
    );
    assert!(
        !format!("{entries:?}").contains("inv_381"),
        "content is never stored"
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_refused_call_is_not_made() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let called = AtomicBool::new(false);
    let call = Call::tool(&me, "refund_payment");

    let refused = gov
        .run(&call, async |_: &Permit| {
            called.store(true, Ordering::SeqCst);
            Ok::<_, Refusal>(())
        })
        .await
        .unwrap_err();

    let refusal = refused.refusal().unwrap();
    assert_eq!(
        (refusal.gate(), refusal.kind()),
        (Gate::Scope, ErrorKind::Denied)
    );
    assert!(!refusal.remedy().is_empty());
    assert!(!called.load(Ordering::SeqCst));
    let seen = kinds(&gov, &me, 2).await;
    assert!(
        seen.contains(&"policy.decision deny".to_owned()),
        "{seen:?}"
    );
    assert!(
        seen.iter().any(|kind| kind.starts_with("scope.violation")),
        "{seen:?}"
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_call_must_pass_every_gate() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let unknown = principal("stranger");
    let model = |name: &str| {
        Call::model(&me, name)
            .max_input_tokens(10)
            .max_output_tokens(10)
    };
    for (call, gate, kind) in [
        (Call::tool(&me, "not a name"), Gate::Call, ErrorKind::Misuse),
        (
            Call::tool(&me, "read_invoice").args(&[f64::NAN]),
            Gate::Call,
            ErrorKind::Misuse,
        ),
        (
            Call::tool(&unknown, "read_invoice"),
            Gate::Scope,
            ErrorKind::Denied,
        ),
        (model("gpt-4o"), Gate::Scope, ErrorKind::Denied),
        (
            model(MODEL).api("https://api.example.com.evil.test/v1/x"),
            Gate::Scope,
            ErrorKind::Denied,
        ),
        (
            model(MODEL).max_output_tokens(u64::from(u32::MAX)),
            Gate::Cost,
            ErrorKind::Denied,
        ),
        (
            Call::model(&me, MODEL).max_input_tokens(10),
            Gate::Call,
            ErrorKind::Misuse,
        ),
        (
            Call::tool(&me, "charge_card").ceiling(Ceiling::usd(Usd::cents(101))),
            Gate::Cost,
            ErrorKind::Denied,
        ),
    ] {
        let refusal = gov.authorize(&call).await.unwrap_err();
        assert_eq!((refusal.gate(), refusal.kind()), (gate, kind), "{refusal}");
    }
    gov.authorize(&model(MODEL).api("https://api.example.com/v1/chat"))
        .await
        .unwrap()
        .release()
        .await;
    gov.shutdown().await;
}

/// What is settled and held of the session's dollar budget, in nano-dollars.
async fn spent(test: &TestDatabase) -> (i64, i64) {
    let mut other = connect(&test.options()).await;
    sqlx::query_as(
        "SELECT coalesce(sum(settled_usd), 0)::bigint, coalesce(sum(held_usd), 0)::bigint
           FROM portcullis.budget_windows WHERE period = 'session'",
    )
    .fetch_one(&mut other)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_settled_call_costs_what_it_cost_and_a_released_one_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let call = Call::model(&me, MODEL)
        .max_input_tokens(10_000)
        .max_output_tokens(1_000);

    let permit = gov.authorize(&call).await.unwrap();
    let (settled, held) = spent(&test).await;
    assert!(settled == 0 && held > 0);
    let settlement = permit
        .settle(
            Outcome::completed()
                .usage(Usage::tokens(1_000, 100))
                .model(MODEL),
        )
        .await;
    assert!(settlement.charged.unwrap().is_ok() && settlement.receipt.committed().is_some());
    let (settled, left) = spent(&test).await;
    assert!(
        left == 0 && settled > 0 && settled < held,
        "{settled} {left}"
    );

    gov.authorize(&call).await.unwrap().release().await;
    assert_eq!(spent(&test).await, (settled, 0));
    assert_eq!(
        kinds(&gov, &me, 6).await.last().unwrap(),
        "llm.call.failed failed"
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_dropped_permit_is_unknown_and_stays_charged() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let call = Call::model(&me, MODEL)
        .max_input_tokens(10_000)
        .max_output_tokens(1_000);

    let permit = gov.authorize(&call).await.unwrap();
    let (_, reserved) = spent(&test).await;
    drop(permit);
    assert_eq!(
        kinds(&gov, &me, 3).await.last().unwrap(),
        "llm.call.failed unknown"
    );
    gov.shutdown().await;
    let (settled, held) = spent(&test).await;
    assert_eq!(settled + held, reserved, "charged at the ceiling");
}

#[tokio::test]
async fn the_builder_takes_prices() {
    let test = TestDatabase::fresh().await.unwrap();
    let ours = ModelName::parse("our-own-llama").unwrap();
    let price = Price::per_million(Usd::dollars(10), Usd::dollars(30));
    let gov = Governance::builder(test.database(), keys())
        .prices(Prices::bundled().with(&ours, price))
        .connect()
        .await
        .unwrap();
    allow(&gov).await;
    let me = principal("billing-agent");
    let ceiling = Ceiling::in_out(1_000, 100).of_model(&ours);
    let held = gov.cost().reserve(&me, ceiling).await.unwrap();
    let settled = held.settle(Usage::tokens(500, 10)).await.unwrap();
    assert_eq!(settled.usd, Usd::nanos(500 * 10_000 + 10 * 30_000));
    gov.shutdown().await;
}

/// What broke off may have taken more than it told.
#[tokio::test]
async fn f28_a_run_that_breaks_off_is_charged_the_larger_of_seen_and_reserved() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let call = Call::model(&me, MODEL)
        .max_input_tokens(10_000)
        .max_output_tokens(1_000);
    let permit = gov.authorize(&call).await.unwrap();
    let (_, reserved) = spent(&test).await;
    permit.release().await;

    let broke = gov
        .run(&call, async |permit: &Permit| {
            permit.observe(&Usage::tokens(900, 1));
            Err::<(), _>("connection reset")
        })
        .await;
    assert_eq!(broke, Err(RunError::Failed("connection reset")));
    assert_eq!(spent(&test).await, (0, reserved), "nothing is given back");
    // More than was reserved has been seen.
    let tool = Call::tool(&me, "charge_card").ceiling(Ceiling::usd(Usd::cents(2)));
    let broke = gov
        .run(&tool, async |permit: &Permit| {
            permit.observe_cost(Usd::cents(3));
            Err::<(), _>("connection reset")
        })
        .await;
    assert_eq!(broke, Err(RunError::Failed("connection reset")));
    let (settled, held) = spent(&test).await;
    assert_eq!(
        (settled, held),
        (0, reserved + Usd::cents(3).as_nanos()),
        "what was seen is more"
    );
    // What is done is charged what it told.
    let done = gov
        .run(&tool, async |permit: &Permit| {
            permit.observe_cost(Usd::cents(1));
            Ok::<_, Refusal>(())
        })
        .await;
    assert_eq!(done, Ok(()));
    assert_eq!(spent(&test).await, (Usd::cents(1).as_nanos(), held));
    gov.shutdown().await;
}

#[tokio::test]
async fn a_cancelled_run_is_unknown_and_a_refused_evidence_is_released() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without_a_journal(&test).await;
    let me = principal("billing-agent");
    let call = Call::tool(&me, "charge_card").ceiling(Ceiling::usd(Usd::cents(60)));
    let started = Arc::new(tokio::sync::Notify::new());

    let running = tokio::spawn({
        let (gov, call, started) = (gov.clone(), call.clone(), Arc::clone(&started));
        async move {
            gov.run(&call, async |_: &Permit| {
                started.notify_one();
                std::future::pending::<()>().await;
                Ok::<_, Refusal>(())
            })
            .await
        }
    });
    started.notified().await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(
        kinds(&gov, &me, 3).await.last().unwrap(),
        "tool.call.failed unknown"
    );
    // The sixty cents are still held: forty more are there, sixty are not.
    assert_eq!(gov.authorize(&call).await.unwrap_err().gate(), Gate::Cost);

    // The trail cannot be written: the call is refused, and its reserve given back.
    let other = principal("billing-agent");
    let call = Call::tool(&other, "charge_card").ceiling(Ceiling::usd(Usd::cents(60)));
    let mut admin = connect(&test.options()).await;
    admin
        .execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER fail BEFORE INSERT ON portcullis.entries EXECUTE FUNCTION fail()",
        )
        .await
        .unwrap();
    let refusal = gov.authorize(&call).await.unwrap_err();
    assert_eq!(refusal.gate(), Gate::Evidence, "{refusal}");
    admin
        .execute("DROP TRIGGER fail ON portcullis.entries")
        .await
        .unwrap();
    for _ in 0..500 {
        if spent(&test).await.1 == Usd::cents(60).as_nanos() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        spent(&test).await.1,
        Usd::cents(60).as_nanos(),
        "only the cancelled one is held"
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn a_permit_is_bound_to_its_call() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let mut digests = Vec::new();
    for call in [
        Call::tool(&me, "read_invoice"),
        Call::tool(&me, "charge_card"),
        Call::tool(&me, "read_invoice").args(&json!({"a": 1})),
        Call::tool(&me, "read_invoice").args(&json!({"a": "1"})),
        Call::tool(&me, "read_invoice").resource("inv_1"),
        Call::tool(&me, "read_invoice").capability("inv_1"),
        Call::tool(&me, "read_invoice").label("inv_1"),
        Call::tool(&me, "read_invoice").label("inv_1").label("x"),
        Call::tool(&principal("billing-agent"), "read_invoice"),
    ] {
        let permit = gov.authorize(&call).await.unwrap();
        digests.push(permit.digest().unwrap());
        permit.release().await;
    }
    for (i, digest) in digests.iter().enumerate() {
        assert!(!digests[i + 1..].contains(digest), "{i}");
    }
    let same = |call: Call| {
        let gov = gov.clone();
        async move {
            let permit = gov.authorize(&call).await.unwrap();
            let digest = permit.digest();
            permit.release().await;
            digest
        }
    };
    let ab = same(Call::tool(&me, "read_invoice").args(&json!({"a": 1, "b": 2}))).await;
    let ba = same(Call::tool(&me, "read_invoice").args(&json!({"b": 2, "a": 1}))).await;
    assert_eq!(ab, ba, "the order of keys does not matter");
    let ab = same(Call::tool(&me, "read_invoice").label("a").label("b")).await;
    let ba = same(
        Call::tool(&me, "read_invoice")
            .label("b")
            .label("a")
            .label("b"),
    )
    .await;
    assert_eq!(ab, ba, "nor does that of labels");
    gov.shutdown().await;
}

/// What is said of a call is on record with the decision, is what a contract's check is told, and must
/// be ids.
#[tokio::test]
async fn a_calls_capability_and_labels_are_on_record_and_known_to_contracts() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let check = Condition::custom(
        "untainted",
        Duration::from_secs(30),
        async |about: Arc<About>| {
            let known = about.capability() == Some("invoices.read");
            Ok::<_, Infallible>(known && !about.labels().contains(&"untrusted".to_owned()))
        },
    );
    let contract = Contract::new("untainted").for_any().requires(check);
    gov.contracts().register(contract).await.unwrap();
    let call = || {
        Call::tool(&me, "read_invoice")
            .capability("invoices.read")
            .label("pii")
    };
    let permit = gov.authorize(&call()).await.unwrap();
    permit.release().await;
    let refused = gov.authorize(&call().label("untrusted")).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Contracts);
    let mut many = call();
    for n in 0..16 {
        many = many.label(format!("label-{n}"));
    }
    for wrong in [call().capability("no id"), call().label("no id"), many] {
        let refused = gov.authorize(&wrong).await.unwrap_err();
        assert_eq!(
            (refused.gate(), refused.kind()),
            (Gate::Call, ErrorKind::Misuse)
        );
    }
    gov.shutdown().await;
    let mut admin = connect(&test.options()).await;
    let said: Vec<(String, String)> = sqlx::query_as(
        "SELECT kind, metadata FROM portcullis.entries
          WHERE metadata LIKE '%\"capability\":\"invoices.read\"%' ORDER BY recorded_at, seq",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let with = |label: &str| said.iter().filter(|(_, text)| text.contains(label)).count();
    assert_eq!(
        with("\"labels\":[\"pii\"]"),
        2,
        "decided and started: {said:?}"
    );
    assert_eq!(
        with("\"labels\":[\"pii\",\"untrusted\"]"),
        1,
        "refused: {said:?}"
    );
}

#[tokio::test]
async fn without_a_store_and_a_journal_every_governed_call_is_refused() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = without_a_journal(&test).await;
    let me = principal("billing-agent");
    let mut admin = connect(&test.options()).await;
    admin.execute("ALTER TABLE portcullis.entries RENAME TO gone; ALTER TABLE portcullis.budget_windows RENAME TO gone_too").await.unwrap();
    for (call, gate) in [
        (Call::tool(&me, "read_invoice"), Gate::Evidence),
        (
            Call::model(&me, MODEL)
                .max_input_tokens(1)
                .max_output_tokens(1),
            Gate::Cost,
        ),
    ] {
        let refused = gov
            .run(&call, async |_: &Permit| Ok::<_, Refusal>(()))
            .await
            .unwrap_err();
        let RunError::Refused(refusal) = refused else {
            panic!("the work was done")
        };
        assert_eq!(refusal.gate(), gate);
        assert_ne!(refusal.kind(), ErrorKind::Denied, "it is no denial");
    }
    gov.shutdown().await;
}

#[tokio::test]
async fn tenants_see_nothing_of_each_other() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    let other = gov
        .for_tenant(TenantId::parse("other").unwrap())
        .await
        .unwrap();
    let again = gov
        .for_tenant(TenantId::parse("other").unwrap())
        .await
        .unwrap();

    let call = Call::tool(&me, "read_invoice");
    assert_eq!(
        other.authorize(&call).await.unwrap_err().gate(),
        Gate::Scope
    );
    gov.authorize(&call).await.unwrap().release().await;

    allow(&again).await;
    other.authorize(&call).await.unwrap().release().await;

    let of_ours: Vec<_> = trail(&gov, &me)
        .await
        .into_iter()
        .map(|entry| entry.id)
        .collect();
    let of_theirs = trail(&other, &me).await;
    assert!(!of_theirs.is_empty() && of_theirs.iter().all(|entry| !of_ours.contains(&entry.id)));
    gov.shutdown().await;
}

#[tokio::test]
async fn shutdown_waits_for_settlements_and_for_the_trail() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, me) = governed(&test).await;
    for _ in 0..20 {
        let call = Call::model(&me, MODEL)
            .max_input_tokens(100)
            .max_output_tokens(100);
        let permit = gov.authorize(&call).await.unwrap();
        permit.settle_detached(
            Outcome::completed()
                .usage(Usage::tokens(10, 10))
                .model(MODEL),
        );
    }
    gov.shutdown().await;

    let mut other = connect(&test.options()).await;
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM portcullis.entries WHERE kind = 'llm.call.completed'",
    )
    .fetch_one(&mut other)
    .await
    .unwrap();
    assert_eq!(ended, 20);
    assert_eq!(spent(&test).await.1, 0);
    assert!(
        gov.authorize(&Call::tool(&me, "read_invoice"))
            .await
            .is_err(),
        "it is closed"
    );
}

/// Part of [`sigterm_drains_before_the_process_ends`]: the process that is told to end.
#[tokio::test]
async fn sigterm_child() {
    let Ok(url) = std::env::var("PORTCULLIS_SIGTERM_CHILD") else {
        return;
    };
    let database = portcullis::Database::url(url);
    let gov = Governance::builder(database, keys())
        .drain_on_sigterm()
        .connect()
        .await
        .unwrap();
    allow(&gov).await;
    let me = principal("billing-agent");
    let permit = gov
        .authorize(&Call::tool(&me, "read_invoice"))
        .await
        .unwrap();
    permit.settle_detached(Outcome::completed());
    println!("\n@ready {}", me.session_id());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn sigterm_drains_before_the_process_ends() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let test = TestDatabase::fresh().await.unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["permit::sigterm_child", "--exact", "--nocapture"])
        .env(
            "PORTCULLIS_SIGTERM_CHILD",
            crate::common::url(&test.options()),
        )
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let session = loop {
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("the child says that it is ready");
        if let Some(session) = line.strip_prefix("@ready ") {
            break session.to_owned();
        }
    };
    let pid = child.id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().await.unwrap().code(), Some(143));

    let mut other = connect(&test.options()).await;
    let seen: Vec<String> = sqlx::query_scalar(
        "SELECT kind FROM portcullis.entries WHERE session_id = $1 ORDER BY recorded_at, seq",
    )
    .bind(session)
    .fetch_all(&mut other)
    .await
    .unwrap();
    assert_eq!(
        seen,
        [
            "policy.decision",
            "tool.call.started",
            "tool.call.completed"
        ]
    );
    let free: i64 =
        sqlx::query_scalar("SELECT count(*) FROM portcullis.chains WHERE lease_until > now()")
            .fetch_one(&mut other)
            .await
            .unwrap();
    assert_eq!(free, 0, "the chains were given back");
}
