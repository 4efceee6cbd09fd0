//! Who is there, on a real database.

use std::sync::Arc;
use std::time::Duration;

use portcullis::audit::Metadata;
use portcullis::halt::Target;
use portcullis::presence::{Filter, PresenceError, PresenceSettings, State};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Clock, ConnectError, Database, ErrorKind, Governance, ManualClock, OperatorId,
    Principal, SystemClock,
};
use serde_json::json;
use sqlx::Executor as _;

use crate::common::proxy::Proxy;
use crate::common::{connect, governance, keys, principal};
use crate::halt::anna;

const MINUTE: Duration = Duration::from_mins(1);

/// A handle whose background writes and looks so seldom that a test does it itself.
async fn quiet(database: Database, clock: Option<Arc<ManualClock>>) -> Governance {
    let settings = PresenceSettings::default()
        .flush_every(MINUTE)
        .unresponsive_after(MINUTE * 5);
    let mut builder = Governance::builder(database, keys()).presence(settings);
    if let Some(clock) = clock {
        builder = builder.shared_clock(clock);
    }
    builder.connect().await.unwrap()
}

async fn states(gov: &Governance) -> Vec<(String, State)> {
    let page = gov.presence().list(&Filter::all()).await.unwrap();
    let all = page.sessions.into_iter();
    all.map(|seen| (seen.agent.to_string(), seen.state))
        .collect()
}

async fn state_of(gov: &Governance, who: &Principal) -> State {
    let filter = Filter::all().agent(who.agent_id().clone());
    let page = gov.presence().list(&filter).await.unwrap();
    let ours = page
        .sessions
        .iter()
        .find(|seen| seen.session == *who.session_id());
    ours.unwrap().state
}

#[tokio::test]
async fn a_session_is_live_idle_unresponsive_and_closed_as_it_was_last_heard_of() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let gov = quiet(test.database(), Some(clock.clone())).await;
    let presence = gov.presence();
    let me = principal("agent").operated_by(anna());
    // Many heartbeats are one row, the newest.
    for n in 0..1_000 {
        let metadata = Metadata::new(&json!({"step": n})).unwrap();
        presence.heartbeat_with(&me, &metadata);
    }
    assert_eq!(presence.stats().waiting, 1);
    presence.flush().await.unwrap();
    assert_eq!(presence.stats().waiting, 0);
    let page = presence.list(&Filter::all()).await.unwrap();
    let [seen] = page.sessions.as_slice() else {
        panic!("{page:?}")
    };
    assert_eq!(
        (seen.state, seen.operator.clone()),
        (State::Live, Some(anna()))
    );
    assert_eq!(seen.metadata.as_str(), r#"{"step":999}"#);
    let first = seen.first_seen;

    presence.mark_idle(&me);
    presence.flush().await.unwrap();
    assert_eq!(state_of(&gov, &me).await, State::Idle);
    clock.advance(MINUTE * 6);
    assert_eq!(state_of(&gov, &me).await, State::Unresponsive);
    presence.heartbeat(&me);
    presence.flush().await.unwrap();
    assert_eq!(state_of(&gov, &me).await, State::Live);
    let seen = presence
        .list(&Filter::all())
        .await
        .unwrap()
        .sessions
        .remove(0);
    assert_eq!(
        (seen.first_seen, seen.metadata.as_str()),
        (first, r#"{"step":999}"#)
    );
    assert!(seen.last_seen > first);

    // The end is the end, in the same process and in another one.
    presence.close(&me);
    presence.heartbeat(&me);
    presence.flush().await.unwrap();
    presence.heartbeat(&me);
    presence.flush().await.unwrap();
    let other = quiet(test.database(), None).await;
    other.presence().mark_idle(&me);
    other.presence().flush().await.unwrap();
    assert_eq!(state_of(&other, &me).await, State::Closed);
    clock.advance(MINUTE * 60);
    assert_eq!(presence.check_stale(MINUTE).await.unwrap(), []);
    // Longer than may be shown: the heartbeat counts, its metadata does not.
    let long = Metadata::new(&json!({"text": "x".repeat(5_000)})).unwrap();
    presence.heartbeat_with(&principal("talker"), &long);
    presence.flush().await.unwrap();
    assert_eq!(presence.stats().without_metadata, 1);
    assert_eq!(states(&gov).await.len(), 2);
    gov.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn f34_neither_a_heartbeat_nor_its_own_end_lifts_a_halt() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = quiet(test.database(), None).await;
    let other = quiet(test.database(), None).await;
    let me = principal("agent").operated_by(anna());
    for (gov, n) in [(&gov, 0), (&other, 1)] {
        gov.presence().heartbeat(&me);
        gov.presence().flush().await.unwrap();
        if n == 0 {
            gov.halt()
                .halt(&Target::agent_of(&me), &anna(), "a test")
                .await
                .unwrap();
        }
    }
    let (halt, who) = (other.halt().clone(), me.clone());
    for _ in 0..1_000 {
        if halt.check(&who).is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for gov in [&gov, &other] {
        type Say = fn(&portcullis::presence::Presence, &Principal);
        let all: [Say; 4] = [
            |presence, who| presence.heartbeat(who),
            |presence, who| presence.mark_idle(who),
            |presence, who| presence.heartbeat(who),
            |presence, who| presence.close(who),
        ];
        for (n, say) in all.into_iter().enumerate() {
            say(gov.presence(), &me);
            gov.presence().flush().await.unwrap();
            assert!(gov.halt().check(&me).is_err(), "step {n}");
            let state = state_of(gov, &me).await;
            let over = state == State::Closed;
            assert!(over || state == State::Halted, "{state:?}");
        }
        // A new session of a halted agent is halted.
        let again = principal("agent");
        gov.presence().heartbeat(&again);
        gov.presence().flush().await.unwrap();
        assert!(gov.halt().check(&again).is_err());
        assert_eq!(state_of(gov, &again).await, State::Halted);
    }
    gov.shutdown().await;
    let after = quiet(test.database(), None).await;
    assert!(after.halt().check(&me).is_err());
    after.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn f56_no_identity_comes_from_metadata_and_the_first_operator_stays() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = quiet(test.database(), None).await;
    let presence = gov.presence();
    let me = principal("agent");
    let lie = json!({
        "operator": "user:mallory", "operator_id": "user:mallory", "agent": "boss", "agent_id": "boss",
        "session": "s", "tenant": "other", "tenant_id": "other", "status": "closed", "state": "closed",
    });
    presence.heartbeat_with(&me, &Metadata::new(&lie).unwrap());
    presence.flush().await.unwrap();
    let page = presence.list(&Filter::all()).await.unwrap();
    assert_eq!(page.sessions.len(), 1);
    let seen = &page.sessions[0];
    assert_eq!(
        (seen.agent.as_str(), seen.operator.as_ref()),
        ("agent", None)
    );
    assert_eq!((&seen.session, seen.state), (me.session_id(), State::Live));
    let operators = presence.operators_of(me.agent_id()).await.unwrap();
    assert!(operators.unknown && operators.known.is_empty());
    assert!(
        presence
            .operators_of(&AgentId::parse("boss").unwrap())
            .await
            .unwrap()
            .unknown
    );

    // Once it is known who operates it, it stays known.
    let bert = OperatorId::parse("user:bert").unwrap();
    for who in [
        me.clone().operated_by(anna()),
        me.clone().operated_by(bert.clone()),
        me.clone(),
    ] {
        presence.heartbeat(&who);
        presence.flush().await.unwrap();
        let operators = presence.operators_of(me.agent_id()).await.unwrap();
        assert_eq!(operators.known.iter().collect::<Vec<_>>(), [&anna()]);
        assert!(!operators.unknown);
    }
    // Over all sessions of the agent.
    presence.heartbeat(&principal("agent").operated_by(bert.clone()));
    presence.flush().await.unwrap();
    let operators = presence.operators_of(me.agent_id()).await.unwrap();
    assert_eq!(
        operators.known.into_iter().collect::<Vec<_>>(),
        [anna(), bert]
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn who_is_not_heard_of_is_found_once_whoever_looks() {
    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let first = quiet(test.database(), Some(clock.clone())).await;
    let second = quiet(test.database(), Some(clock.clone())).await;
    let agents: Vec<_> = (0..50)
        .map(|n| principal(&format!("agent-{n:02}")))
        .collect();
    for round in 1..=3 {
        for me in &agents {
            first.presence().heartbeat(me);
        }
        first.presence().flush().await.unwrap();
        assert_eq!(first.presence().check_stale(MINUTE).await.unwrap(), []);
        clock.advance(MINUTE * 2);
        let looks: Vec<_> = (0..8)
            .map(|n| {
                let gov = if n % 2 == 0 { &first } else { &second };
                let presence = gov.presence().clone();
                tokio::spawn(async move { presence.check_stale(MINUTE).await.unwrap() })
            })
            .collect();
        let mut found = Vec::new();
        for look in looks {
            found.extend(look.await.unwrap());
        }
        found.extend(second.presence().check_stale(MINUTE).await.unwrap());
        found.sort_by(|a, b| a.agent.cmp(&b.agent));
        let names: Vec<_> = found.iter().map(|seen| seen.agent.clone()).collect();
        let all: Vec<_> = agents.iter().map(|me| me.agent_id().clone()).collect();
        assert_eq!(names, all, "each once, in round {round}");
    }
    first.shutdown().await;
    second.shutdown().await;
    let recorded: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM portcullis.entries WHERE kind = 'presence.unresponsive'",
    )
    .fetch_one(&mut connect(&test.options()).await)
    .await
    .unwrap();
    assert_eq!(recorded, 150);
}

#[tokio::test]
async fn it_is_found_without_anybody_asking() {
    let test = TestDatabase::fresh().await.unwrap();
    let settings = PresenceSettings::default()
        .flush_every(Duration::from_millis(10))
        .unresponsive_after(Duration::from_millis(100));
    let gov = Governance::builder(test.database(), keys()).presence(settings);
    let gov = gov.connect().await.unwrap();
    gov.presence().heartbeat(&principal("silent"));
    let mut admin = connect(&test.options()).await;
    loop {
        let recorded: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM portcullis.entries WHERE kind = 'presence.unresponsive'",
        )
        .fetch_one(&mut admin)
        .await
        .unwrap();
        if recorded == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        states(&gov).await,
        [("silent".to_owned(), State::Unresponsive)]
    );
    gov.shutdown().await;
}

#[tokio::test]
async fn pages_hold_every_session_once_whatever_is_asked_for() {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = quiet(test.database(), None).await;
    let presence = gov.presence();
    let bert = OperatorId::parse("user:bert").unwrap();
    for n in 0..60 {
        let me = principal(&format!("agent-{:02}", n / 3));
        let me = if n % 2 == 0 {
            me.operated_by(anna())
        } else {
            me.operated_by(bert.clone())
        };
        if n % 5 == 0 {
            presence.mark_idle(&me);
        } else {
            presence.heartbeat(&me);
        }
    }
    presence.flush().await.unwrap();
    for (filter, expected) in [
        (Filter::all(), 60),
        (Filter::all().operator(anna()), 30),
        (Filter::all().agent(AgentId::parse("agent-07").unwrap()), 3),
        (Filter::all().state(State::Idle), 12),
        (Filter::all().state(State::Live), 48),
        (Filter::all().state(State::Idle).operator(bert.clone()), 6),
        (Filter::all().state(State::Closed), 0),
    ] {
        for most in [1, 7, 60, 1_000] {
            let mut filter = filter.clone().at_most(most);
            let mut found = Vec::new();
            loop {
                let page = presence.list(&filter).await.unwrap();
                assert!(page.sessions.len() <= most);
                found.extend(
                    page.sessions
                        .into_iter()
                        .map(|seen| (seen.agent, seen.session)),
                );
                let Some(next) = page.next else { break };
                filter = filter.after(next);
            }
            assert_eq!(found.len(), expected, "{filter:?}");
            assert!(found.is_sorted());
            found.dedup();
            assert_eq!(found.len(), expected, "{filter:?}");
        }
    }
    gov.shutdown().await;
}

#[tokio::test]
async fn a_heartbeat_never_fails_and_the_newest_is_kept_while_the_store_is_away_or_hangs() {
    let test = TestDatabase::fresh().await.unwrap();
    let proxy = Proxy::before(&test.options()).await;
    let database = Database::options(proxy.options())
        .acquire_timeout(Duration::from_millis(200))
        .statement_timeout(Duration::from_millis(400));
    let settings = PresenceSettings::default()
        .flush_every(Duration::from_millis(20))
        .most_waiting(10);
    let gov = Governance::builder(database, keys()).presence(settings);
    let gov = gov.connect().await.unwrap();
    let presence = gov.presence();
    for hangs in [false, true] {
        if hangs {
            proxy.freeze(true);
        } else {
            proxy.down();
        }
        for step in 0..30 {
            for n in 0..20 {
                let me = Principal::agent(AgentId::parse(format!("agent-{n:02}")).unwrap())
                    .session(portcullis::SessionId::parse(format!("s-{hangs}")).unwrap());
                let metadata = Metadata::new(&json!({"step": step})).unwrap();
                presence.heartbeat_with(&me, &metadata);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(presence.flush().await.is_err());
        assert!(presence.list(&Filter::all()).await.is_err());
        assert!(presence.check_stale(MINUTE).await.is_err());
        let error = presence
            .operators_of(&AgentId::parse("x").unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(presence.stats().waiting <= 10 && presence.stats().dropped > 0);
        if hangs {
            proxy.freeze(false);
        } else {
            proxy.up();
        }
        while presence.flush().await.is_err() || presence.stats().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seen = presence
            .list(&Filter::all().at_most(1_000))
            .await
            .unwrap()
            .sessions;
        let ours = |s: &&portcullis::presence::Seen| s.session.as_str() == format!("s-{hangs}");
        let newest = seen
            .iter()
            .filter(ours)
            .filter(|s| s.metadata.as_str() == r#"{"step":29}"#);
        assert_eq!(newest.count(), 10, "{seen:#?}");
    }
    gov.shutdown().await;
}

/// Every step from every state, as SQL: those that are not listed are impossible, for the owner too.
#[tokio::test]
async fn no_session_takes_a_step_that_is_none() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    for from in ["live", "idle", "closed"] {
        for to in ["live", "idle", "closed", "halted"] {
            let insert = format!(
                "INSERT INTO portcullis.presence
                        (tenant_id, agent_id, session_id, operator_id, status, metadata, first_seen, last_seen)
                 VALUES ('t', 'a', '{from}-{to}', 'anna', '{from}', '{{}}', now(), now())"
            );
            admin.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
            let update = format!(
                "UPDATE portcullis.presence SET status = '{to}' WHERE session_id = '{from}-{to}'"
            );
            let done = admin.execute(sqlx::AssertSqlSafe(update)).await;
            assert_eq!(
                done.is_ok(),
                from != "closed" && to != "halted",
                "{from} {to}"
            );
        }
    }
    for attack in [
        "UPDATE portcullis.presence SET operator_id = 'bert'",
        "UPDATE portcullis.presence SET operator_id = NULL",
        "UPDATE portcullis.presence SET agent_id = 'other'",
        "UPDATE portcullis.presence SET last_seen = last_seen - interval '1 s', first_seen = first_seen - interval '1 s'",
        "UPDATE portcullis.presence SET first_seen = first_seen - interval '1 s'",
        "DELETE FROM portcullis.presence",
        "TRUNCATE portcullis.presence",
    ] {
        let error = admin.execute(attack).await.unwrap_err();
        let code = error
            .as_database_error()
            .and_then(|e| e.code().map(|c| c.to_string()));
        assert_eq!(code.as_deref(), Some("42501"), "{attack}: {error}");
    }
}

#[tokio::test]
async fn settings_that_mean_nothing_are_refused() {
    let test = TestDatabase::fresh().await.unwrap();
    for bad in [
        PresenceSettings::default().flush_every(Duration::ZERO),
        PresenceSettings::default().unresponsive_after(Duration::from_secs(1)),
        PresenceSettings::default().most_waiting(0),
    ] {
        let refused = Governance::builder(test.database(), keys()).presence(bad);
        let refused = refused.connect().await;
        assert!(matches!(
            refused,
            Err(ConnectError::Presence(PresenceError::Invalid { .. }))
        ));
    }
    let gov = governance(&test.database()).await.unwrap();
    gov.presence().heartbeat(&principal("last"));
    gov.shutdown().await;
    let gov = governance(&test.database()).await.unwrap();
    assert_eq!(states(&gov).await.len(), 1, "the end writes what waits");
    gov.shutdown().await;
}
