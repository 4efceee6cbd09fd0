//! Loop detection against a real Postgres, and between processes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use portcullis::audit::{Entry, JournalSettings, Query};
use portcullis::loops::{LoopAction, LoopError, LoopPolicy, Pattern, Poller, WhenAway};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Call, Clock, Database, ErrorKind, Governance, ManualClock, Principal, SessionId,
    Timestamp,
};
use serde_json::json;
use sqlx::Executor;

use crate::common::{connect, governance, keys, principal, url};

const URL: &str = "PORTCULLIS_LOOP_CHILD_URL";
const SESSION: &str = "PORTCULLIS_LOOP_CHILD_SESSION";

async fn clocked(database: &Database) -> (Governance, Arc<ManualClock>) {
    let noon = Timestamp::parse("2026-11-21T12:00:00Z").unwrap();
    let clock = Arc::new(ManualClock::at(noon));
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let gov = Governance::builder(database.clone(), keys())
        .shared_clock(shared)
        .connect()
        .await
        .unwrap();
    (gov, clock)
}

fn any() -> LoopPolicy {
    LoopPolicy::for_any_agent()
}

fn agent(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

/// Makes the call `times` times; the last answer.
async fn again(
    gov: &Governance,
    me: &Principal,
    tool: &str,
    times: usize,
) -> Result<(), LoopError> {
    let mut last = Ok(());
    for _ in 0..times {
        let args = json!({"invoice": "inv_381"});
        last = gov.loops().check(me, tool, &args).await.map(drop);
    }
    last
}

/// The entries of a kind, once there are `count`: refusals are recorded behind the caller's back.
async fn entries(gov: &Governance, kind: &str, count: usize) -> Vec<Entry> {
    let mut found = Vec::new();
    for _ in 0..500 {
        let page = gov.audit().events(&Query::all().limit(500)).await.unwrap();
        found = page.entries;
        found.retain(|entry| entry.kind.as_str() == kind);
        if found.len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    found
}

/// Waits until `holds`.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds: {what}");
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "it reads better at the calls"
)]
fn looping(answer: Result<(), LoopError>) -> bool {
    matches!(answer, Err(LoopError::Looping { .. }))
}

#[tokio::test]
async fn the_fifth_call_is_refused_for_a_reason_and_clears_when_it_says() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, clock) = clocked(&test.database()).await;
    let me = principal("a");
    // Nobody asked for it.
    assert_eq!(again(&gov, &me, "read_invoice", 10).await, Ok(()));

    gov.loops().pin(any()).await.unwrap();
    assert_eq!(again(&gov, &me, "read_invoice", 4).await, Ok(()));
    let error = again(&gov, &me, "READ_Invoice", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let LoopError::Looping { pattern, halts, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((pattern, halts), (Pattern::Repetition { times: 5 }, false));
    for text in [error.to_string(), error.reason().to_owned()] {
        assert!(
            !text.contains("inv_381") && !text.contains("read_invoice"),
            "{text}"
        );
        assert!(
            !text.contains('5'),
            "the policy's numbers stay its own: {text}"
        );
    }
    assert!(!error.remedy().is_empty());
    // Another call may be made at once.
    gov.loops()
        .check(&me, "read_invoice", &json!({"invoice": "inv_382"}))
        .await
        .unwrap();
    gov.loops()
        .check(&me, "send_email", &json!({"invoice": "inv_381"}))
        .await
        .unwrap();

    // A call that is tried again and again stays refused; left alone, it clears as promised.
    for _ in 0..5 {
        clock.advance(Duration::from_secs(20));
        assert!(looping(again(&gov, &me, "read_invoice", 2).await));
    }
    let wait = again(&gov, &me, "read_invoice", 1)
        .await
        .unwrap_err()
        .retry_after()
        .unwrap();
    assert!(wait <= Duration::from_mins(1));
    clock.advance(wait);
    assert_eq!(again(&gov, &me, "read_invoice", 1).await, Ok(()));

    let found = entries(&gov, "loop.detected", 1).await;
    assert_eq!(
        found.len(),
        1,
        "once for all the calls of one loop: {found:?}"
    );
    assert_eq!(found[0].decision.as_deref(), Some("refuse"));
    let told = found[0].metadata.to_value();
    assert_eq!(
        (&told["tool"], &told["pattern"]),
        (&json!("READ_Invoice"), &json!("repetition"))
    );
    assert!(!format!("{found:?}").contains("inv_381"));
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_twenty_parallel_calls_with_different_arguments_raise_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().pin(any()).await.unwrap();
    let me = principal("a");
    for _ in 0..2 {
        let calls = (0..20).map(|invoice| {
            let (gov, me) = (gov.clone(), me.clone());
            tokio::spawn(async move {
                let args = json!({"invoice": invoice});
                let answer = gov.loops().check(&me, "read_invoice", &args).await;
                gov.loops().observe(&me, "read_invoice", &args, b"the same");
                answer
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
    }
    // The same arguments twenty times at once are one.
    let calls = (0..20).map(|_| {
        let (gov, me) = (gov.clone(), me.clone());
        tokio::spawn(async move { again(&gov, &me, "read_ledger", 1).await })
    });
    let mut refused = 0;
    for call in calls.collect::<Vec<_>>() {
        refused += usize::from(looping(call.await.unwrap()));
    }
    assert_eq!(refused, 16, "four of twenty went through");
    gov.shutdown().await;
}

#[tokio::test]
async fn f45_a_polling_agent_goes_on_while_something_changes_and_as_often_as_it_may() {
    let test = TestDatabase::fresh().await.unwrap();
    let (gov, clock) = clocked(&test.database()).await;
    let policy = LoopPolicy::new(agent("a"))
        .poller("get_status", Poller::WhileChanging)
        .poller("list_jobs", Poller::at_most(3, Duration::from_mins(1)));
    gov.loops().pin(policy).await.unwrap();
    let me = principal("a");
    let job = json!({"job": 7});
    for percent in 0..100 {
        gov.loops().check(&me, "Get_Status", &job).await.unwrap();
        gov.loops()
            .observe(&me, "get_status", &job, format!("{percent} %").as_bytes());
    }
    let mut let_through = 0;
    while gov.loops().check(&me, "get_status", &job).await.is_ok() {
        gov.loops()
            .observe(&me, "get_status", &job, b"stuck at 99 %");
        let_through += 1;
    }
    assert_eq!(let_through, 4, "nothing changes any more");

    for _ in 0..3 {
        gov.loops()
            .check(&me, "list_jobs", &json!({}))
            .await
            .unwrap();
    }
    let error = gov
        .loops()
        .check(&me, "list_jobs", &json!({"page": 2}))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        LoopError::Looping {
            pattern: Pattern::Polling,
            ..
        }
    ));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(20)));
    clock.advance(Duration::from_secs(20));
    gov.loops()
        .check(&me, "list_jobs", &json!({}))
        .await
        .unwrap();
    gov.shutdown().await;
}

#[tokio::test]
async fn f45_no_agent_and_no_session_is_blamed_for_another() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().pin(any()).await.unwrap();
    let session = SessionId::new();
    let [one, other] = ["one", "other"].map(|name| principal(name).session(session.clone()));
    assert!(looping(again(&gov, &one, "read_invoice", 5).await));
    assert_eq!(again(&gov, &other, "read_invoice", 4).await, Ok(()));
    let elsewhere = principal("one");
    assert_eq!(again(&gov, &elsewhere, "read_invoice", 4).await, Ok(()));
    gov.shutdown().await;
}

#[tokio::test]
async fn f45_with_the_database_away_a_loop_is_found_all_the_same() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().register(any()).await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute("ALTER SCHEMA portcullis RENAME TO away")
        .await
        .unwrap();
    let me = principal("a");
    assert_eq!(again(&gov, &me, "read_invoice", 4).await, Ok(()));
    assert!(looping(again(&gov, &me, "read_invoice", 1).await));
    until("it is known that policies cannot be read", async || {
        gov.loops().status().failing
    })
    .await;
    assert!(gov.loops().register(any().repeats(3)).await.is_err());
    admin
        .execute("ALTER SCHEMA away RENAME TO portcullis")
        .await
        .unwrap();
    gov.shutdown().await;
}

#[tokio::test]
async fn rounds_are_found_and_a_warning_is_for_the_model() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops()
        .pin(any().action(LoopAction::Warn))
        .await
        .unwrap();
    let me = principal("a");
    let mut warned = Vec::new();
    for nth in 0..6 {
        let tool = ["open_file", "close_file"][nth % 2];
        let clear = gov
            .loops()
            .check(&me, tool, &json!({"path": "a"}))
            .await
            .unwrap();
        warned.push(clear.warning());
    }
    assert!(warned[..5].iter().all(Option::is_none));
    let warning = warned[5].expect("the third time around");
    assert_eq!(
        warning.pattern(),
        Pattern::Cycle {
            length: 2,
            rounds: 3
        }
    );
    assert!(warning.to_string().contains("something else"), "{warning}");
    let found = entries(&gov, "loop.detected", 1).await;
    assert_eq!(found[0].decision.as_deref(), Some("warn"));
    gov.shutdown().await;
}

#[tokio::test]
async fn what_is_only_observed_never_fails_and_is_on_record() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().pin(any()).await.unwrap();
    let me = principal("a");
    for _ in 0..7 {
        gov.loops()
            .observe(&me, "read_invoice", &json!({}), b"the same");
    }
    gov.loops().observe(&me, "no name", &json!({}), b"");
    gov.loops().observe(&me, "read_invoice", &[f64::NAN], b"");
    let found = entries(&gov, "loop.detected", 1).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].decision.as_deref(), Some("observed"));
    gov.shutdown().await;
}

#[tokio::test]
async fn a_call_is_told_by_its_resource_too_and_a_model_by_its_prompt() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().pin(any()).await.unwrap();
    let me = principal("a");
    for nth in 0..10 {
        let call = Call::tool(&me, "read").resource(format!("invoice-{nth}"));
        gov.loops().check_call(&call).await.unwrap();
        // Of a call without its prompt nothing can be said.
        gov.loops()
            .check_call(&Call::model(&me, "gpt-4o-mini"))
            .await
            .unwrap();
    }
    let prompt = Call::model(&me, "gpt-4o-mini").args(&json!({"messages": ["again"]}));
    for _ in 0..4 {
        gov.loops().check_call(&prompt).await.unwrap();
    }
    assert!(gov.loops().check_call(&prompt).await.is_err());
    gov.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_is_to_be_halted_is_refused_from_then_on() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops()
        .pin(any().action(LoopAction::Halt))
        .await
        .unwrap();
    let error = again(&gov, &principal("a"), "read_invoice", 5)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        LoopError::Halted(_) | LoopError::Looping { halts: true, .. }
    ));
    assert_eq!(error.retry_after(), None);
    gov.shutdown().await;
}

#[tokio::test]
async fn a_policy_that_is_stored_is_in_force_everywhere_and_gone_when_removed() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = governance(&test.database()).await.unwrap();
    let there = governance(&test.database()).await.unwrap();
    there.loops().register(any().repeats(2)).await.unwrap();
    let tries = |name| again(&here, name, "read_invoice", 2);
    let me = principal("a");
    until("the policy is in force here", async || {
        here.loops().status().stored == 1
    })
    .await;
    assert!(looping(tries(&me).await));
    // One of its own goes before the one for any agent.
    there
        .loops()
        .register(LoopPolicy::new(agent("a")).repeats(50).changing_repeats(50))
        .await
        .unwrap();
    until("the second one, too", async || {
        here.loops().status().stored == 2
    })
    .await;
    assert_eq!(tries(&me).await, Ok(()));
    assert!(there.loops().remove(Some(&agent("a"))).await.unwrap());
    assert!(there.loops().remove(None).await.unwrap());
    assert!(!there.loops().remove(None).await.unwrap());
    until("they are gone here", async || {
        here.loops().status().stored == 0
    })
    .await;
    assert_eq!(tries(&principal("b")).await, Ok(()));
    let kinds = entries(&there, "loop.policy_registered", 4).await;
    assert_eq!(kinds.len(), 4);
    here.shutdown().await;
    there.shutdown().await;
}

#[tokio::test]
async fn f46_what_code_pins_and_what_is_stored_both_apply() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().pin(any().repeats(3)).await.unwrap();
    gov.loops()
        .register(any().repeats(10).action(LoopAction::Warn))
        .await
        .unwrap();
    let me = principal("a");
    // Storing a laxer one takes nothing from what the code says, and no reload does.
    gov.loops().reload().await.unwrap();
    assert!(looping(again(&gov, &me, "read_invoice", 3).await));
    let stored = any().repeats(2);
    gov.loops().register(stored).await.unwrap();
    gov.loops()
        .pin(any().repeats(100).changing_repeats(100))
        .await
        .unwrap();
    assert!(looping(
        again(&gov, &principal("b"), "read_invoice", 2).await
    ));
    let wrong = gov.loops().pin(any().repeats(1)).await.unwrap_err();
    assert!(wrong.to_string().starts_with("repeats "), "{wrong}");
    gov.shutdown().await;
}

#[tokio::test]
async fn a_stored_policy_that_cannot_be_read_leaves_the_last_good_one_in_force() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().register(any().repeats(2)).await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute(
            "BEGIN;
             UPDATE portcullis.policy_revisions SET revision = revision + 1 WHERE module = 'loops';
             UPDATE portcullis.policies p
                SET document = '{}', version = version + 1, revision = r.revision
               FROM portcullis.policy_revisions r
              WHERE p.module = 'loops' AND r.module = 'loops';
             COMMIT",
        )
        .await
        .unwrap();
    gov.loops().reload().await.unwrap();
    assert_eq!(gov.loops().status().broken, ["*"]);
    assert!(looping(
        again(&gov, &principal("a"), "read_invoice", 2).await
    ));
    // Where it was never seen, the defaults stand in.
    let fresh = governance(&test.database()).await.unwrap();
    assert_eq!(
        again(&fresh, &principal("a"), "read_invoice", 4).await,
        Ok(())
    );
    assert!(looping(
        again(&fresh, &principal("b"), "read_invoice", 5).await
    ));
    gov.loops().register(any().repeats(3)).await.unwrap();
    assert!(gov.loops().status().broken.is_empty());
    gov.shutdown().await;
    fresh.shutdown().await;
}

fn moving(when_away: WhenAway) -> LoopPolicy {
    any().shared(when_away)
}

/// Not a test of its own: a process in which a session begins.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Ok(url), Ok(session)) = (std::env::var(URL), std::env::var(SESSION)) else {
        return;
    };
    let gov = governance(&Database::url(url)).await.unwrap();
    let me = principal("a").session(SessionId::parse(session).unwrap());
    assert_eq!(again(&gov, &me, "read_invoice", 4).await, Ok(()));
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moves_to_another_process_takes_its_calls_with_it() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops()
        .register(moving(WhenAway::Refuse))
        .await
        .unwrap();
    let me = principal("a");
    let status = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["loops::child", "--exact"])
        .env(URL, url(&test.options()))
        .env(SESSION, me.session_id().as_str())
        .stdout(std::process::Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(status.success());
    assert!(looping(again(&gov, &me, "read_invoice", 1).await));
    // What is stored are fingerprints.
    let mut admin = connect(&test.options()).await;
    let rows: Vec<Vec<u8>> = sqlx::query_scalar("SELECT calls FROM portcullis.loop_windows")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    assert_eq!(rows[0].len(), 4 * 25);
    assert!(!rows.concat().windows(4).any(|part| part == b"inv_"));
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_session_learn_of_each_other() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = governance(&test.database()).await.unwrap();
    let there = governance(&test.database()).await.unwrap();
    for gov in [&here, &there] {
        gov.loops().pin(moving(WhenAway::Refuse)).await.unwrap();
    }
    let me = principal("a");
    // Both know the session before either has called much.
    assert_eq!(again(&here, &me, "read_invoice", 1).await, Ok(()));
    assert_eq!(again(&there, &me, "read_invoice", 1).await, Ok(()));
    let mut calls = 2;
    while !looping(again(&here, &me, "read_invoice", 1).await)
        && !looping(again(&there, &me, "read_invoice", 1).await)
    {
        calls += 2;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert!(calls <= 6, "alone, each would have made four: {calls}");
    here.shutdown().await;
    there.shutdown().await;
}

#[tokio::test]
async fn f45_a_session_whose_calls_elsewhere_are_unknown_is_refused_or_goes_on_loudly() {
    let test = TestDatabase::fresh().await.unwrap();
    let database = Database::options(test.options()).statement_timeout(Duration::from_millis(500));
    let gov = governance(&database).await.unwrap();
    gov.loops().pin(moving(WhenAway::Refuse)).await.unwrap();
    gov.loops()
        .pin(LoopPolicy::new(agent("bold")).shared(WhenAway::GoOn))
        .await
        .unwrap();
    let [me, bold] = ["a", "bold"].map(principal);
    let known = principal("a");
    assert_eq!(again(&gov, &known, "read_invoice", 1).await, Ok(()));

    // A table that is gone, and then one that hangs.
    let mut admin = connect(&test.options()).await;
    admin
        .execute("ALTER TABLE portcullis.loop_windows RENAME TO away")
        .await
        .unwrap();
    let error = again(&gov, &me, "read_invoice", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(matches!(error, LoopError::Unavailable(_)));
    assert!(gov.loops().status().sharing_away);
    assert_eq!(again(&gov, &bold, "read_invoice", 4).await, Ok(()));
    assert!(
        looping(again(&gov, &bold, "read_invoice", 1).await),
        "it counts alone"
    );
    assert_eq!(
        again(&gov, &known, "read_invoice", 3).await,
        Ok(()),
        "known before"
    );
    admin
        .execute("ALTER TABLE portcullis.away RENAME TO loop_windows")
        .await
        .unwrap();
    let told = entries(&gov, "loop.state_unavailable", 1).await;
    assert_eq!(told[0].decision.as_deref(), Some("deny"), "{told:?}");
    assert_eq!(
        again(&gov, &me, "read_invoice", 1).await,
        Ok(()),
        "it is back"
    );

    admin
        .execute("BEGIN; LOCK TABLE portcullis.loop_windows")
        .await
        .unwrap();
    let begun = Instant::now();
    let hung = again(&gov, &principal("a"), "read_invoice", 1)
        .await
        .unwrap_err();
    assert_eq!(hung.kind(), ErrorKind::Unavailable);
    assert_eq!(
        again(&gov, &principal("bold"), "read_invoice", 1).await,
        Ok(())
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "a second each");
    admin.execute("ROLLBACK").await.unwrap();
    let told = entries(&gov, "loop.state_unavailable", 2).await;
    assert!(told.len() >= 2, "{told:?}");
    gov.shutdown().await;
}

#[tokio::test]
async fn f45_going_on_alone_is_on_record() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    gov.loops().pin(moving(WhenAway::GoOn)).await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute("ALTER TABLE portcullis.loop_windows RENAME TO away")
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(
            again(&gov, &principal("a"), "read_invoice", 1).await,
            Ok(())
        );
    }
    admin
        .execute("ALTER TABLE portcullis.away RENAME TO loop_windows")
        .await
        .unwrap();
    let told = entries(&gov, "loop.state_unavailable", 1).await;
    assert_eq!(told.len(), 1, "once for an outage: {told:?}");
    assert_eq!(told[0].decision.as_deref(), Some("allow"));
    gov.shutdown().await;
}

#[tokio::test]
async fn a_stored_window_that_was_changed_is_not_counted_and_shows() {
    let test = TestDatabase::fresh().await.unwrap();
    let here = governance(&test.database()).await.unwrap();
    here.loops().pin(moving(WhenAway::Refuse)).await.unwrap();
    let me = principal("a");
    assert_eq!(again(&here, &me, "read_invoice", 4).await, Ok(()));
    here.shutdown().await;
    let mut admin = connect(&test.options()).await;
    admin
        .execute("UPDATE portcullis.loop_windows SET calls = set_byte(calls, 3, 255 - get_byte(calls, 3))")
        .await
        .unwrap();
    let there = governance(&test.database()).await.unwrap();
    there.loops().pin(moving(WhenAway::Refuse)).await.unwrap();
    assert_eq!(again(&there, &me, "read_invoice", 1).await, Ok(()));
    assert_eq!(there.loops().status().unreadable, 1);
    there.shutdown().await;
}

#[tokio::test]
async fn without_a_journal_a_loop_is_refused_although_it_cannot_be_told() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = Governance::builder(test.database(), keys())
        .journal(JournalSettings::off())
        .connect()
        .await
        .unwrap();
    gov.loops().pin(any()).await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute("ALTER TABLE portcullis.entries RENAME TO away")
        .await
        .unwrap();
    assert!(looping(
        again(&gov, &principal("a"), "read_invoice", 5).await
    ));
}

#[tokio::test]
async fn switched_off_it_says_so() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = Governance::builder(test.database(), keys())
        .without(portcullis::Module::Loops)
        .connect()
        .await
        .unwrap();
    let error = again(&gov, &principal("a"), "read_invoice", 1)
        .await
        .unwrap_err();
    assert!(matches!(error, LoopError::Disabled(_)));
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(gov.loops().register(any()).await.is_err() && gov.loops().pin(any()).await.is_err());
    assert!(gov.loops().status().switched_off);
    gov.shutdown().await;
}
