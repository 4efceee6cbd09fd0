//! The halt switch, on a real database and between real processes.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use portcullis::halt::{HaltError, HaltSettings, Target, WhenStale};
use portcullis::store::{MigrateError, Migration, TestDatabase};
use portcullis::{
    AgentId, Clock, ConnectError, Database, ErrorKind, Governance, OperatorId, Principal,
    SessionId, SystemClock, TenantId,
};
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::time::Instant;

use crate::common::proxy::Proxy;
use crate::common::{connect, governance, keys, principal, url};
use crate::retention::as_role;

const URL: &str = "PORTCULLIS_HALT_CHILD_URL";
const HOW: &str = "PORTCULLIS_HALT_CHILD_HOW";
const APP: &str = "portcullis_test_halt_app";
const OPERATOR: &str = "portcullis_test_halt_operator";

pub(crate) fn anna() -> OperatorId {
    OperatorId::parse("user:anna").unwrap()
}

/// Looks often, and bounds what it knows by a third of a second.
fn quick() -> HaltSettings {
    HaltSettings::default()
        .poll_every(Duration::from_millis(50))
        .stale_after(Duration::from_millis(300))
}

/// The same, and nobody goes on past the bound: however busy the machine is.
fn strict() -> HaltSettings {
    quick().when_stale(WhenStale::CountAsHalted)
}

/// Hears of changes, or never learns of them.
fn by_ear() -> HaltSettings {
    HaltSettings::default()
        .poll_every(Duration::from_mins(1))
        .stale_after(Duration::from_hours(1))
}

async fn with(database: Database, settings: HaltSettings) -> Governance {
    let builder = Governance::builder(database, keys()).halt(settings);
    builder.connect().await.unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// The trail's entries of `kind`, each with its decision and metadata.
async fn entries(test: &TestDatabase, kind: &'static str) -> Vec<String> {
    let mut other = connect(&test.options()).await;
    sqlx::query_scalar(
        "SELECT coalesce(decision, '-') || ' ' || metadata FROM portcullis.entries
          WHERE kind = $1 ORDER BY chain_no, seq",
    )
    .bind(kind)
    .fetch_all(&mut other)
    .await
    .unwrap()
}

async fn rows(test: &TestDatabase, table: &'static str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM portcullis.{table}"));
    let mut other = connect(&test.options()).await;
    sqlx::query_scalar(sql).fetch_one(&mut other).await.unwrap()
}

#[tokio::test]
async fn f33_every_target_is_halted_and_resumed_and_both_are_on_record() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let halt = gov.halt();
    let me = principal("billing-agent");
    let same_agent = principal("billing-agent");
    let other = principal("other-agent");
    let targets = [
        (Target::session_of(&me), [true, false, false]),
        (Target::agent_of(&me), [true, true, false]),
        (Target::Tenant, [true, true, true]),
        (Target::Everything, [true, true, true]),
    ];
    for (target, expected) in targets {
        let before = halt.epoch();
        let change = halt.halt(&target, &anna(), "a test").await.unwrap();
        assert!(change.changed && change.epoch.is_some());
        assert!(halt.epoch() > before);
        let refused = [&me, &same_agent, &other].map(|who| halt.check(who).is_err());
        assert_eq!(refused, expected, "{target:?}");
        let halted = halt.check(&me).unwrap_err();
        assert_eq!(halted.target(), Some(&target));
        assert_eq!(halted.by(), Some(&anna()));
        assert_eq!(halted.why(), Some("a test"));
        assert_eq!(halted.epoch(), change.epoch);
        assert!(halted.since().is_some() && !halted.is_inherited());
        // The gates ask it.
        let scope = gov.scope().check(&me, "anything").await.unwrap_err();
        assert_eq!(scope.reason(), "the agent is halted");
        assert_eq!(halt.status().halted.len(), 1);

        // Again, and nothing changes.
        let again = halt.halt(&target, &anna(), "twice").await.unwrap();
        assert_eq!((again.changed, again.epoch), (false, change.epoch));
        assert!(halt.resume(&target, &anna(), "over").await.unwrap().changed);
        assert!(halt.check(&me).is_ok() && halt.check(&other).is_ok());
        assert!(!halt.resume(&target, &anna(), "over").await.unwrap().changed);
        assert!(halt.status().halted.is_empty());
    }
    // Resuming one target lets nobody go on whom another holds.
    halt.halt(&Target::agent_of(&me), &anna(), "a")
        .await
        .unwrap();
    halt.halt(&Target::session_of(&me), &anna(), "b")
        .await
        .unwrap();
    halt.resume(&Target::session_of(&me), &anna(), "c")
        .await
        .unwrap();
    assert!(halt.check(&me).is_err());
    gov.shutdown().await;
    assert!(halt.check(&me).is_err(), "ending lifts nothing");

    let halted = entries(&test, "agent.halted").await;
    assert_eq!(halted.len(), 6, "{halted:#?}");
    assert!(halted[1].starts_with("halted "), "{}", halted[1]);
    for part in [
        r#""operator_id":"user:anna""#,
        r#""why":"a test""#,
        r#""agent":"billing-agent""#,
    ] {
        assert!(halted[1].contains(part), "{}", halted[1]);
    }
    assert_eq!(entries(&test, "agent.resumed").await.len(), 5);
    // The history is kept.
    assert_eq!(rows(&test, "halts").await, 6);
    assert_eq!(rows(&test, "halt_resumptions").await, 5);
    let audit = governance(&test.database()).await.unwrap();
    assert!(audit.audit().verify_all().await.unwrap().is_clean());
    assert!(
        audit.halt().check(&me).is_err(),
        "the next process loads it"
    );
    audit.shutdown().await;
}

#[tokio::test]
async fn f35_an_agent_that_was_never_seen_is_halted_like_any_other() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let unseen = principal("nobody-knows-me");
    let target = Target::agent_of(&unseen);
    assert!(
        gov.halt()
            .halt(&target, &anna(), "in advance")
            .await
            .unwrap()
            .changed
    );
    assert!(gov.halt().check(&unseen).is_err());
    let nothing = gov
        .halt()
        .resume(&Target::Agent(AgentId::parse("x").unwrap()), &anna(), "y")
        .await;
    assert!(!nothing.unwrap().changed);
    let bad = gov.halt().halt(&target, &anna(), " ").await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Misuse);
    gov.shutdown().await;
}

#[tokio::test]
async fn of_many_who_halt_or_resume_at_once_one_changes_something() {
    let test = TestDatabase::fresh().await.unwrap();
    let first = governance(&test.database()).await.unwrap();
    let second = governance(&test.database()).await.unwrap();
    let target = Target::agent_of(&principal("racer"));
    for round in 1..=5 {
        for halts in [true, false] {
            let turns: Vec<_> = (0..20)
                .map(|n| {
                    let halt = if n % 2 == 0 {
                        first.halt()
                    } else {
                        second.halt()
                    };
                    let (halt, target) = (halt.clone(), target.clone());
                    tokio::spawn(async move {
                        if halts {
                            halt.halt(&target, &anna(), "race").await
                        } else {
                            halt.resume(&target, &anna(), "race").await
                        }
                    })
                })
                .collect();
            let mut changed = 0;
            for turn in turns {
                changed += usize::from(turn.await.unwrap().unwrap().changed);
            }
            assert_eq!(changed, 1, "round {round}, {halts}");
        }
    }
    assert_eq!(
        (
            rows(&test, "halts").await,
            rows(&test, "halt_resumptions").await
        ),
        (5, 5)
    );
    for gov in [first, second] {
        let halt = gov.halt().clone();
        eventually("both know the end", || {
            halt.check(&principal("racer")).is_ok()
        })
        .await;
        gov.shutdown().await;
    }
}

#[tokio::test]
async fn f37_what_was_started_by_what_is_halted_is_halted_and_work_under_way_is_told() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let lead = principal("lead");
    let worker = principal("worker").child_of(&lead);
    let helper = principal("helper").child_of(&worker);
    let stranger = principal("worker");
    let waiting: Vec<_> = [&lead, &worker, &helper]
        .into_iter()
        .cloned()
        .map(|who| {
            let halt = gov.halt().clone();
            tokio::spawn(async move { halt.until_halted(&who).await })
        })
        .collect();
    let unhurt = tokio::spawn({
        let (halt, stranger) = (gov.halt().clone(), stranger.clone());
        async move { halt.until_halted(&stranger).await }
    });
    gov.halt()
        .halt(&Target::session_of(&lead), &anna(), "drill")
        .await
        .unwrap();
    for (n, told) in waiting.into_iter().enumerate() {
        let halted = told.await.unwrap();
        assert_eq!(halted.target(), Some(&Target::session_of(&lead)));
        assert_eq!(halted.is_inherited(), n > 0);
    }
    for who in [&worker, &helper] {
        let halted = gov.halt().check(who).unwrap_err();
        assert_eq!(halted.reason(), "an agent that started this one is halted");
    }
    assert!(gov.halt().check(&stranger).is_ok());
    assert!(!unhurt.is_finished());
    unhurt.abort();
    gov.shutdown().await;
}

#[tokio::test]
async fn a_tenant_is_halted_by_itself_and_everything_together() {
    let test = TestDatabase::fresh().await.unwrap();
    let one = with(test.database(), by_ear()).await;
    let two = one
        .for_tenant(TenantId::parse("two").unwrap())
        .await
        .unwrap();
    let me = principal("agent");
    eventually("changes are heard", || two.halt().status().heard).await;
    one.halt()
        .halt(&Target::Tenant, &anna(), "one")
        .await
        .unwrap();
    two.halt()
        .halt(&Target::Agent(AgentId::parse("x").unwrap()), &anna(), "x")
        .await
        .unwrap();
    assert!(one.halt().check(&me).is_err());
    assert!(two.halt().check(&me).is_ok());
    one.halt()
        .resume(&Target::Tenant, &anna(), "one")
        .await
        .unwrap();

    two.halt()
        .halt(&Target::Everything, &anna(), "all")
        .await
        .unwrap();
    let (halt, who) = (one.halt().clone(), me.clone());
    eventually("the other tenant hears", || halt.check(&who).is_err()).await;
    one.halt()
        .resume(&Target::Everything, &anna(), "all")
        .await
        .unwrap();
    assert!(one.halt().check(&me).is_ok());
    let (halt, who) = (two.halt().clone(), me.clone());
    eventually("and hears the end", || halt.check(&who).is_ok()).await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_a_hung_database_blocks_no_check_and_makes_nothing_look_fresher_than_it_is() {
    let test = TestDatabase::fresh().await.unwrap();
    for when in [WhenStale::HoldLastKnown, WhenStale::CountAsHalted] {
        let proxy = Proxy::before(&test.options()).await;
        let database = Database::options(proxy.options());
        let gov = with(database, quick().when_stale(when)).await;
        let halt = gov.halt().clone();
        let (stopped, free) = (principal("stopped"), principal("free"));
        halt.halt(&Target::agent_of(&stopped), &anna(), "before")
            .await
            .unwrap();
        assert!(halt.check(&free).is_ok());

        let frozen_at = Instant::now();
        proxy.freeze(true);
        let told = tokio::spawn({
            let (halt, free) = (halt.clone(), free.clone());
            async move { halt.until_halted(&free).await }
        });
        let mut longest = Duration::ZERO;
        let mut was_stale = false;
        while frozen_at.elapsed() < Duration::from_millis(900) {
            let before = Instant::now();
            let refused = halt.check(&stopped).is_err();
            let passes = halt.check(&free).is_ok();
            longest = longest.max(before.elapsed());
            assert!(refused, "what was halted stays so");
            let status = halt.status();
            // What was asked before it hung is the newest that can be known.
            assert!(
                status.age + Duration::from_millis(250) >= frozen_at.elapsed(),
                "{status:?}"
            );
            if before.duration_since(frozen_at) > Duration::from_millis(310) {
                was_stale = true;
                assert!(status.stale && !status.is_ok());
                assert_eq!(passes, when == WhenStale::HoldLastKnown);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(was_stale);
        assert!(
            longest < Duration::from_millis(100),
            "a check took {longest:?}"
        );
        match when {
            WhenStale::HoldLastKnown => told.abort(),
            WhenStale::CountAsHalted => {
                let halted = told.await.unwrap();
                assert_eq!(
                    (halted.kind(), halted.target()),
                    (ErrorKind::Unavailable, None)
                );
                let refused = halt.check(&free).unwrap_err();
                assert_eq!(
                    refused.reason(),
                    "it is not known whether the agent is halted"
                );
            }
        }
        assert!(!gov.health().await.is_ok());

        proxy.freeze(false);
        let fresh = halt.clone();
        eventually("it is known again", || !fresh.status().stale).await;
        assert!(halt.check(&free).is_ok() && halt.check(&stopped).is_err());
        gov.shutdown().await;
    }
    let stale = entries(&test, "halt.state_stale").await;
    assert_eq!(
        stale.len(),
        4,
        "each once, and once that it is over: {stale:#?}"
    );
    assert!(
        stale
            .iter()
            .any(|entry| entry.starts_with("stale ") && entry.contains("count_as_halted"))
    );
}

#[tokio::test]
async fn a_halt_is_in_force_here_without_the_database_and_stored_when_it_is_back() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let database = Database::options(proxy.options()).acquire_timeout(Duration::from_millis(300));
    let here = with(database, quick()).await;
    let there = governance(&test.database()).await.unwrap();
    let (held, me) = (principal("held"), principal("me"));
    here.halt()
        .halt(&Target::agent_of(&held), &anna(), "before")
        .await
        .unwrap();

    proxy.down();
    for why in ["now", "now again"] {
        let error = here
            .halt()
            .halt(&Target::agent_of(&me), &anna(), why)
            .await
            .unwrap_err();
        assert!(matches!(error, HaltError::Store(_)));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert!(here.halt().check(&me).is_err(), "in force in this process");
    assert!(there.halt().check(&me).is_ok());
    let status = here.halt().status();
    assert_eq!(
        (status.not_stored, status.is_ok()),
        (1, false),
        "{status:?}"
    );
    // Lifting takes the database.
    let error = here
        .halt()
        .resume(&Target::agent_of(&held), &anna(), "no")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(here.halt().check(&held).is_err());

    proxy.up();
    let (halt, who) = (there.halt().clone(), me.clone());
    eventually("the other process hears", || halt.check(&who).is_err()).await;
    let halt = here.halt().clone();
    eventually("it is stored", || halt.status().not_stored == 0).await;
    here.halt()
        .resume(&Target::agent_of(&me), &anna(), "over")
        .await
        .unwrap();
    assert!(here.halt().check(&me).is_ok());
    here.shutdown().await;
    there.shutdown().await;
    let halted = entries(&test, "agent.halted").await;
    let of_me = |decision: &str| {
        let ours = halted
            .iter()
            .filter(|entry| entry.contains(r#""agent":"me""#));
        ours.filter(|entry| entry.starts_with(decision)).count()
    };
    assert_eq!(of_me("halted "), 1, "{halted:#?}");
    assert!(of_me("halted_here ") >= 1, "{halted:#?}");
}

#[tokio::test]
async fn a_database_that_went_back_lifts_no_halt() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = with(test.database(), quick()).await;
    let me = principal("me");
    gov.halt()
        .halt(&Target::agent_of(&principal("old")), &anna(), "old")
        .await
        .unwrap();
    gov.halt()
        .halt(&Target::agent_of(&me), &anna(), "lost")
        .await
        .unwrap();
    // A failover to a server that had not heard of the last commit.
    connect(&test.options())
        .await
        .execute(
            "BEGIN;
             ALTER TABLE portcullis.halts DISABLE TRIGGER USER;
             ALTER TABLE portcullis.halt_epochs DISABLE TRIGGER USER;
             DELETE FROM portcullis.halts WHERE agent_id = 'me';
             UPDATE portcullis.halt_epochs SET epoch = 1;
             ALTER TABLE portcullis.halts ENABLE TRIGGER USER;
             ALTER TABLE portcullis.halt_epochs ENABLE TRIGGER USER;
             COMMIT",
        )
        .await
        .unwrap();
    for _ in 0..200 {
        assert!(gov.halt().check(&me).is_err());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let other = with(test.database(), quick()).await;
    let (halt, who) = (other.halt().clone(), me.clone());
    eventually("it is stored again", || halt.check(&who).is_err()).await;
    gov.halt()
        .resume(&Target::agent_of(&me), &anna(), "over")
        .await
        .unwrap();
    assert!(gov.halt().check(&me).is_ok());
    gov.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn refused_calls_are_on_record_counted_and_not_one_by_one() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let (me, other) = (principal("me"), principal("other"));
    gov.halt()
        .halt(&Target::Tenant, &anna(), "flood")
        .await
        .unwrap();
    for _ in 0..5_000 {
        assert!(gov.halt().check(&me).is_err());
    }
    assert!(gov.halt().check(&other).is_err());
    assert_eq!(gov.halt().status().refused, 5_001);
    gov.shutdown().await;
    let blocked = entries(&test, "agent.halt_blocked_call").await;
    assert!(blocked.len() < 100, "{}", blocked.len());
    let counted: u64 = blocked
        .iter()
        .map(|entry| {
            let json: serde_json::Value = serde_json::from_str(&entry["deny ".len()..]).unwrap();
            json["count"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(counted, 5_001, "every refusal is counted: {blocked:#?}");
}

#[tokio::test]
async fn a_check_that_lets_go_on_allocates_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    for when in [WhenStale::HoldLastKnown, WhenStale::CountAsHalted] {
        let settings = HaltSettings::default().when_stale(when);
        let gov = with(test.database(), settings).await;
        let me = principal("helper").child_of(&principal("lead"));
        for halts in 0..3 {
            let all = || {
                assert!(gov.halt().check(&me).is_ok());
            };
            // A thread's first look at what is shared registers the thread.
            all();
            let counted = allocation_counter::measure(all);
            assert_eq!(counted.count_total, 0, "{counted:?} with {halts} halts");
            let other = Target::agent_of(&principal(&format!("other-{halts}-{when:?}")));
            gov.halt().halt(&other, &anna(), "a test").await.unwrap();
        }
        gov.shutdown().await;
    }
}

#[tokio::test]
async fn settings_that_cannot_be_kept_are_refused() {
    let test = TestDatabase::fresh().await.unwrap();
    let settings = HaltSettings::default().stale_after(Duration::from_millis(1));
    let refused = Governance::builder(test.database(), keys())
        .halt(settings)
        .connect()
        .await;
    assert!(matches!(
        refused,
        Err(ConnectError::Halt(HaltError::Invalid { .. }))
    ));
}

// --- agents attack the switch

async fn role(test: &TestDatabase, name: &str) {
    let made = format!(
        "DO $$ BEGIN CREATE ROLE {name};
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    let mut admin = connect(&test.options()).await;
    admin.execute(sqlx::AssertSqlSafe(made)).await.unwrap();
}

#[tokio::test]
async fn f53_the_applications_role_halts_and_never_resumes() {
    let test = TestDatabase::fresh().await.unwrap();
    for name in [APP, OPERATOR] {
        role(&test, name).await;
    }
    let database = test.database();
    let migration = || Migration::new(&database).app_role(APP);
    migration().operator_role(OPERATOR).run().await.unwrap();
    let app = governance(&as_role(&test, APP)).await.unwrap();
    let operator = governance(&as_role(&test, OPERATOR)).await.unwrap();
    let me = principal("billing-agent");
    let target = Target::agent_of(&me);
    assert!(
        app.halt()
            .halt(&target, &anna(), "by the app")
            .await
            .unwrap()
            .changed
    );
    let refused = app
        .halt()
        .resume(&target, &anna(), "by the app")
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Misuse, "{refused}");
    assert!(refused.to_string().contains("42501"), "{refused}");
    assert!(app.halt().check(&me).is_err());

    // What a program with the application's role can try past this crate.
    for attack in [
        "INSERT INTO portcullis.halt_resumptions (tenant_id, halt_epoch, epoch, operator_id, reason, resumed_at, event_id)
         VALUES ('default', 1, 2, 'user:anna', 'x', now(), gen_random_uuid())",
        "DELETE FROM portcullis.halts",
        "UPDATE portcullis.halts SET agent_id = 'nobody'",
        "TRUNCATE portcullis.halts",
        "UPDATE portcullis.halt_epochs SET epoch = 0",
        "DELETE FROM portcullis.halt_epochs",
        "INSERT INTO portcullis.halt_epochs (tenant_id, epoch) VALUES ('other', 9)",
        "DELETE FROM portcullis.presence",
        "ALTER TABLE portcullis.halts DISABLE TRIGGER USER",
        "DROP TABLE portcullis.halts",
    ] {
        let as_app = test.options().options([("role", APP)]);
        let mut session = as_app.connect().await.unwrap();
        let error = session.execute(attack).await.unwrap_err();
        let code = error.as_database_error().and_then(|e| e.code().map(|c| c.to_string()));
        assert_eq!(code.as_deref(), Some("42501"), "{attack}: {error}");
    }
    assert!(
        operator
            .halt()
            .resume(&target, &anna(), "looked into")
            .await
            .unwrap()
            .changed
    );
    let (halt, who) = (app.halt().clone(), me.clone());
    eventually("the application hears", || halt.check(&who).is_ok()).await;
    app.shutdown().await;
    operator.shutdown().await;

    // The application must not become an operator: not as the same role, nor as a member.
    let same = migration().operator_role(APP).run().await;
    assert!(matches!(same, Err(MigrateError::SharedRole)), "{same:?}");
    let mut admin = connect(&test.options()).await;
    for (member, ok) in [(true, false), (false, true)] {
        let verb = if member {
            ("GRANT", "TO")
        } else {
            ("REVOKE", "FROM")
        };
        let sql = format!("{} {OPERATOR} {} {APP}", verb.0, verb.1);
        admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        let done = migration().operator_role(OPERATOR).run().await;
        assert_eq!(done.is_ok(), ok, "{done:?}");
    }
}

#[tokio::test]
async fn f53_nobody_with_the_name_of_an_agent_resumes_anything() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let me = principal("billing-agent");
    let target = Target::agent_of(&me);
    gov.halt().halt(&target, &anna(), "a").await.unwrap();
    // Known to presence, to scope, to the halts.
    gov.presence().heartbeat(&principal("present-agent"));
    gov.presence().flush().await.unwrap();
    let policy = portcullis::scope::ScopePolicy::new(AgentId::parse("scoped-agent").unwrap());
    gov.scope().register(policy).await.unwrap();
    gov.halt()
        .halt(&Target::agent_of(&principal("other-halted")), &anna(), "a")
        .await
        .unwrap();
    for name in [
        "billing-agent",
        "Billing-Agent",
        "user:BILLING-agent",
        "agent:billing-agent",
        "Present-Agent",
        "user:present-agent",
        "SCOPED-agent",
        "user:other-Halted",
    ] {
        let by = OperatorId::parse(name).unwrap();
        let refused = gov.halt().resume(&target, &by, "let me").await.unwrap_err();
        assert_eq!(refused, HaltError::NotAnOperator, "{name}");
        assert_eq!(refused.kind(), ErrorKind::Denied);
        assert!(gov.halt().check(&me).is_err(), "{name}");
    }
    assert_eq!(entries(&test, "agent.resumed").await.len(), 0);
    assert!(
        gov.halt()
            .resume(&target, &anna(), "fine")
            .await
            .unwrap()
            .changed
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn f53_not_even_the_owner_of_the_tables_takes_a_step_that_is_none() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let me = principal("me");
    gov.halt()
        .halt(&Target::agent_of(&me), &anna(), "a")
        .await
        .unwrap();
    gov.halt()
        .halt(&Target::session_of(&me), &anna(), "a")
        .await
        .unwrap();
    gov.halt()
        .resume(&Target::session_of(&me), &anna(), "b")
        .await
        .unwrap();
    let mut admin = connect(&test.options()).await;
    for attack in [
        "DELETE FROM portcullis.halts",
        "UPDATE portcullis.halts SET reason = 'another'",
        "TRUNCATE portcullis.halts",
        "DELETE FROM portcullis.halt_resumptions",
        "UPDATE portcullis.halt_resumptions SET halt_epoch = 1",
        "TRUNCATE portcullis.halt_resumptions",
        "UPDATE portcullis.halt_epochs SET epoch = epoch - 1",
        "UPDATE portcullis.halt_epochs SET tenant_id = 'another'",
        "DELETE FROM portcullis.halt_epochs",
        "TRUNCATE portcullis.halt_epochs",
        // In advance of the halt, and of something that is none.
        "INSERT INTO portcullis.halt_resumptions (tenant_id, halt_epoch, epoch, operator_id, reason, resumed_at, event_id)
         VALUES ('default', 9, 10, 'x', 'x', now(), gen_random_uuid())",
        // A session of every agent; one agent of every tenant; a name that is none.
        "INSERT INTO portcullis.halts (tenant_id, epoch, agent_id, session_id, operator_id, reason, halted_at, event_id)
         VALUES ('default', 1, '', 's', 'x', 'x', now(), gen_random_uuid())",
        "INSERT INTO portcullis.halts (tenant_id, epoch, agent_id, session_id, operator_id, reason, halted_at, event_id)
         VALUES ('*', 1, 'a', '', 'x', 'x', now(), gen_random_uuid())",
        "INSERT INTO portcullis.halts (tenant_id, epoch, agent_id, session_id, operator_id, reason, halted_at, event_id)
         VALUES ('default', 1, 'a b', '', 'x', 'x', now(), gen_random_uuid())",
    ] {
        let error = admin.execute(attack).await.unwrap_err();
        let code = error.as_database_error().and_then(|e| e.code().map(|c| c.to_string()));
        let code = code.unwrap_or_default();
        assert!(["42501", "23514"].contains(&&*code), "{attack}: {error}");
    }
    // Twice is once, whatever epoch it claims.
    let again = admin
        .execute(
            "INSERT INTO portcullis.halt_resumptions (tenant_id, halt_epoch, epoch, operator_id, reason, resumed_at, event_id)
             VALUES ('default', 2, 99, 'x', 'x', now(), gen_random_uuid())",
        )
        .await
        .unwrap();
    assert_eq!(again.rows_affected(), 0);
    assert!(gov.halt().check(&me).is_err());
    gov.shutdown().await;
}

// --- other processes

/// Not a test of its own: a process whose agents work until they are halted. Says `ready`, then, for
/// each line that it reads, when the last call passed; ends when its input does.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Ok(url), Ok(how)) = (std::env::var(URL), std::env::var(HOW)) else {
        return;
    };
    let database = Database::url(url);
    let gov = match how.as_str() {
        "hear" => with(database, by_ear()).await,
        // Through a pooler nothing is heard.
        "poll" => with(database.pooled(), strict()).await,
        _ => with(database, strict()).await,
    };
    let last = Arc::new(AtomicI64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let session = SessionId::parse("shared").unwrap();
    let workers: Vec<_> = (0..64)
        .map(|n| {
            let (halt, last, stop) = (gov.halt().clone(), Arc::clone(&last), Arc::clone(&stop));
            let lead = Principal::agent(AgentId::parse("worker").unwrap()).session(session.clone());
            let me = if n % 2 == 0 {
                lead
            } else {
                principal("sub").child_of(&lead)
            };
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // The time is taken before it is asked: an effect is not earlier than that.
                    let now = SystemClock::default().now().as_micros();
                    if halt.check(&me).is_ok() {
                        last.fetch_max(now, Ordering::Relaxed);
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let halt = gov.halt().clone();
    if how != "poll" {
        eventually("changes are heard", || halt.status().heard).await;
    }
    println!("\nready {}", halt.status().heard);
    let asked = tokio::task::spawn_blocking(move || {
        for _ in std::io::stdin().lock().lines() {
            println!("\nlast {}", last.load(Ordering::Relaxed));
        }
    });
    asked.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    gov.shutdown().await;
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(test: &TestDatabase, how: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "halt::child",
                "--test-threads",
                "1",
                "--nocapture",
            ])
            .env(URL, url(&test.options()))
            .env(HOW, how)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let input = child.stdin.take().unwrap();
        let mut process = Self {
            child,
            input,
            output,
        };
        process.says("ready ");
        process
    }

    fn says(&mut self, what: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(rest) = line.strip_prefix(what) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the child ended before it said {what}");
    }

    /// When the last call passed that has passed so far, in microseconds.
    fn last_effect(&mut self) -> i64 {
        writeln!(self.input, "?").unwrap();
        self.says("last ").parse().unwrap()
    }

    fn end(self) {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        assert!(child.wait().unwrap().success());
    }
}

/// Halts under load: a process of 64 agents works, this one halts, and after the bound nothing passes.
async fn halted_under_load(how: &'static str, bound: Duration) {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let other = test.options();
    let mut process = Process::start(&test, how);
    let target = Target::Session(
        AgentId::parse("worker").unwrap(),
        SessionId::parse("shared").unwrap(),
    );
    for _ in 0..3 {
        let before = SystemClock::default().now().as_micros();
        let working = Instant::now();
        while process.last_effect() < before {
            assert!(
                working.elapsed() < Duration::from_secs(20),
                "the agents work"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if how == "cut" {
            // Whoever listens is cut off; what happens meanwhile is not heard.
            connect(&other)
                .await
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND query LIKE 'LISTEN%'",
                )
                .await
                .unwrap();
        }
        gov.halt().halt(&target, &anna(), "load").await.unwrap();
        let halted = SystemClock::default().now().plus(bound).as_micros();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut last = process.last_effect();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let later = process.last_effect();
            assert!(
                later <= halted,
                "{how}: an effect {} us after the bound",
                later - halted
            );
            if later == last {
                break;
            }
            last = later;
        }
        assert!(last >= before);
        gov.halt().resume(&target, &anna(), "again").await.unwrap();
    }
    process.end();
    gov.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halts_under_load_are_heard_by_another_process_and_nothing_passes_after() {
    // Heard, or not at all: it polls once a minute. What is published is the bound by default.
    halted_under_load("hear", Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halts_under_load_are_found_by_polling_where_nothing_is_heard() {
    halted_under_load("poll", Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halts_under_load_are_found_when_the_listener_is_cut_off() {
    halted_under_load("cut", Duration::from_millis(300)).await;
}
