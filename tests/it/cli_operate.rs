//! What operators do from a terminal: the program itself, its output, its exit code.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use portcullis::cost::Budget;
use portcullis::gates::{ApprovalPolicy, Ask, RequestState};
use portcullis::halt::Target;
use portcullis::scope::ScopePolicy;
use portcullis::store::{Migration, TestDatabase};
use portcullis::{
    AgentId, Call, Ceiling, Gate, Governance, OperatorId, Outcome, Principal, RequestId, SessionId,
    Usd, UserId,
};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Executor as _};

use crate::common::{connect, governance};
use crate::halt::role;
use crate::trail::SECRET;

const APP: &str = "portcullis_test_cli_app";
const OPERATOR: &str = "portcullis_test_cli_operator";

/// The program, in an empty environment but for the database and the secret.
fn command(test: &TestDatabase, arguments: &[&str]) -> Command {
    let mut command = bare(arguments);
    command.env(
        "PORTCULLIS_DATABASE_URL",
        test.options().to_url_lossy().to_string(),
    );
    command
}

fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).env_clear().current_dir("/");
    command.env("PORTCULLIS_AUDIT_SECRET", SECRET);
    command
}

fn run(test: &TestDatabase, arguments: &[&str]) -> Output {
    command(test, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The answer, after an exit with `code`.
fn answer(output: &Output, code: i32) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    out
}

fn document(output: &Output, code: i32) -> Value {
    serde_json::from_str(&answer(output, code)).unwrap()
}

/// Why it could not be done.
fn fault(output: &Output) -> String {
    answer(output, 2);
    text(&output.stderr)
}

fn me() -> Principal {
    Principal::agent(AgentId::parse("billing-agent").unwrap())
        .session(SessionId::parse("s-1").unwrap())
        .operated_by(OperatorId::parse("user:dana").unwrap())
        .on_behalf_of(UserId::parse("u-17").unwrap())
}

/// An application whose agent may refund, for ten dollars a session.
async fn application() -> (TestDatabase, Governance) {
    let test = TestDatabase::fresh().await.unwrap();
    let gov = governance(&test.database()).await.unwrap();
    let policy = ScopePolicy::new(me().agent_id().clone())
        .allow_tools(["refund", "look_up"])
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    let budget = Budget::for_agent(me().agent_id().clone())
        .per_session(Usd::dollars(10))
        .per_day(Usd::dollars(100));
    gov.cost().register(budget).await.unwrap();
    (test, gov)
}

/// Until the switch of the application is as it should be: it hears of it, or polls.
async fn until_halted(gov: &Governance, halted: bool) {
    for _ in 0..1_000 {
        if gov.halt().check(&me()).is_err() == halted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never halted = {halted}");
}

/// An order of Anna's.
fn of<'t>(command: &'t str, whom: &[&'t str], why: &'t str) -> Vec<&'t str> {
    [&[command], whom, &["--by", "user:anna", "--why", why]].concat()
}

#[tokio::test]
async fn what_a_command_halts_is_refused_in_the_application_until_a_command_resumes_it() {
    let (test, gov) = application().await;
    let agent = ["--agent", "billing-agent"];
    assert_eq!(
        document(&run(&test, &["halts", "--json"]), 0)["halted"],
        json!([])
    );

    let halt = of("halt", &agent, "refunds without an order");
    assert_eq!(
        answer(&run(&test, &halt), 0),
        "halted agent billing-agent\n"
    );
    until_halted(&gov, true).await;
    let refused = gov.authorize(&Call::tool(&me(), "refund")).await;
    assert_eq!(refused.unwrap_err().gate(), Gate::Halt);
    assert_eq!(
        answer(&run(&test, &halt), 0),
        "agent billing-agent was halted already\n"
    );
    let session = [&agent[..], &["--session", "s-1"]].concat();
    answer(&run(&test, &of("halt", &session, "this one")), 0);
    answer(
        &run(&test, &of("halt", &["--this-tenant"], "incident 381")),
        0,
    );
    answer(
        &run(&test, &of("halt", &["--everything"], "incident 382")),
        0,
    );

    let shown = answer(&run(&test, &["halts"]), 1);
    let heading = "halted      agent          session  by         since";
    assert!(shown.starts_with(heading), "{shown}");
    assert!(shown.contains("refunds without an order\n"), "{shown}");
    assert!(shown.contains("known as of "), "{shown}");
    let listed = document(&run(&test, &["halts", "--json"]), 1);
    let mut targets: Vec<_> = listed["halted"].as_array().unwrap().iter().collect();
    targets.sort_by_key(|order| order["target"].as_str().unwrap().to_owned());
    let words: Vec<_> = targets.iter().map(|order| &order["target"]).collect();
    assert_eq!(words, ["agent", "everything", "session", "tenant"]);
    assert_eq!(targets[0]["by"], "user:anna");
    assert_eq!(targets[2]["session"], "s-1");
    assert_eq!(listed["stale"], false);

    // What still stands is said, and nobody goes on.
    let resumed = run(
        &test,
        &[&of("resume", &agent, "fixed")[..], &["--json"]].concat(),
    );
    let resumed = document(&resumed, 1);
    assert_eq!(resumed["changed"], true);
    assert_eq!(resumed["still_halted_by"].as_array().unwrap().len(), 2);
    answer(&run(&test, &of("resume", &["--everything"], "over")), 0);
    answer(&run(&test, &of("resume", &["--this-tenant"], "over")), 0);
    let last = answer(&run(&test, &of("resume", &session, "over")), 0);
    assert_eq!(last, "resumed session s-1 of agent billing-agent\n");
    until_halted(&gov, false).await;
    assert_eq!(
        answer(&run(&test, &of("resume", &agent, "again")), 0),
        "agent billing-agent was not halted\n"
    );
    answer(&run(&test, &["halts"]), 0);
    gov.shutdown().await;
}

#[tokio::test]
async fn an_order_that_is_none_changes_nothing() {
    let (test, gov) = application().await;
    let by = ["--by", "user:anna", "--why", "x"];
    for (whom, word) in [
        (&[][..], "--agent"),
        (&["--session", "s-1"], "--agent"),
        (&["--agent", "a", "--everything"], "cannot be used with"),
        (&["--this-tenant", "--everything"], "cannot be used with"),
        (&["--agent", "no agent"], "read --agent"),
    ] {
        let refused = run(&test, &[&["halt"], whom, &by[..]].concat());
        assert!(fault(&refused).contains(word), "{refused:?}");
    }
    for (given, word) in [
        (&["--why", "x"][..], "--by"),
        (&["--by", "user:anna"], "--why"),
        (&["--by", "user:anna", "--why", ""], "why must have"),
        (&["--by", "two words", "--why", "x"], "read --by"),
    ] {
        let refused = run(&test, &[&["halt", "--this-tenant"], given].concat());
        assert!(fault(&refused).contains(word), "{refused:?}");
    }
    assert!(gov.halt().check(&me()).is_ok());

    // An agent resumes nothing, and neither does anybody where the database is away.
    let target = Target::agent_of(&me());
    let anna = OperatorId::parse("user:anna").unwrap();
    gov.halt().halt(&target, &anna, "x").await.unwrap();
    let resume = ["resume", "--agent", "billing-agent", "--why", "x", "--by"];
    let refused = run(&test, &[&resume[..], &["user:billing-agent"]].concat());
    assert!(fault(&refused).contains("an agent may not"), "{refused:?}");
    for away in [
        &["halts"][..],
        &["agents"],
        &["approvals"],
        &["budgets"],
        &["halt", "--everything", "--by", "user:anna", "--why", "x"],
    ] {
        let nowhere = ["--database", "postgres://nobody@127.0.0.1:1/none"];
        let refused = bare(&[away, &nowhere[..]].concat()).output().unwrap();
        assert!(fault(&refused).contains("open the database"), "{refused:?}");
    }
    answer(&run(&test, &["halts"]), 1);
    gov.shutdown().await;
}

/// The name in `--by` is believed; what its database role may not do, no name can.
#[tokio::test]
async fn f53_a_command_is_as_trusted_as_the_role_that_runs_it() {
    let (test, gov) = application().await;
    for name in [APP, OPERATOR] {
        role(&test, name).await;
    }
    let database = test.database();
    let migration = Migration::new(&database).app_role(APP);
    migration.operator_role(OPERATOR).run().await.unwrap();
    let id = ask(&gov, 1).await;
    let text_id = id.to_string();
    let run_as = |role: &str, arguments: &[&str]| {
        let mut command = command(&test, arguments);
        command.env("PGOPTIONS", format!("-c role={role}"));
        command.output().unwrap()
    };
    let agent = [
        "--agent",
        "billing-agent",
        "--by",
        "user:anna",
        "--why",
        "x",
    ];
    let halt = [&["halt"], &agent[..]].concat();
    let resume = [&["resume"], &agent[..]].concat();
    let approve = ["approve", &text_id, "--by", "user:erin", "--why", "x"];

    answer(&run_as(APP, &halt), 0);
    assert!(fault(&run_as(APP, &resume)).contains("42501"));
    answer(&run_as(APP, &["halts"]), 1);
    answer(&run_as(OPERATOR, &resume), 0);
    fault(&run_as(APP, &approve));
    assert_eq!(
        gov.gates().find(id).await.unwrap().state,
        RequestState::Pending
    );
    answer(&run_as(OPERATOR, &approve), 0);
    assert_eq!(
        gov.gates().find(id).await.unwrap().state,
        RequestState::Granted
    );
    gov.shutdown().await;
}

fn refund(number: u32) -> Call {
    Call::tool(&me(), "refund")
        .args(&json!({"invoice": "inv_381", "number": number}))
        .ceiling(Ceiling::usd(Usd::dollars(4)))
}

/// A request for approval; Erin and Frank may decide.
async fn ask(gov: &Governance, number: u32) -> RequestId {
    let ask = Ask::of(["user:erin", "user:frank", "user:dana"]).unwrap();
    gov.gates()
        .request(&refund(number), ask)
        .await
        .unwrap()
        .id()
}

#[tokio::test]
async fn what_waits_for_somebody_is_listed_and_decided_from_the_terminal() {
    let (test, gov) = application().await;
    let policy = ApprovalPolicy::new(me().agent_id().clone())
        .require_for_tools(["refund"])
        .unwrap()
        .approvers(["user:erin", "user:frank", "user:dana"])
        .unwrap();
    gov.gates().register(policy).await.unwrap();
    assert_eq!(
        answer(&run(&test, &["approvals"]), 0),
        "nobody is waited for\n"
    );
    let refused = gov.authorize(&refund(1)).await.unwrap_err();
    assert_eq!(refused.gate(), Gate::Approval);
    let (second, third) = (ask(&gov, 2).await, ask(&gov, 3).await);
    let first = gov.gates().pending(None).await.unwrap()[0].id;

    let shown = answer(&run(&test, &["approvals"]), 1);
    assert!(shown.starts_with("request "), "{shown}");
    assert!(
        shown.contains(&format!("{first}  billing-agent  s-1      refund  0/1")),
        "{shown}"
    );
    let page = document(&run(&test, &["approvals", "--at-most", "2", "--json"]), 1);
    assert_eq!(page["requests"].as_array().unwrap().len(), 2);
    assert_eq!(page["requests"][0]["tool"], "refund");
    assert_eq!(page["next"], second.to_string());
    let rest = ["approvals", "--after", &second.to_string(), "--json"];
    let rest = document(&run(&test, &rest), 1);
    assert_eq!(rest["requests"][0]["request"], third.to_string());
    assert_eq!(rest["next"], Value::Null);

    // The very call, by somebody who was asked, who is not who operates the agent, with what was seen.
    let (first, second, third) = (first.to_string(), second.to_string(), third.to_string());
    let decide = |what, id, by| [what, id, "--by", by, "--why", "seen it"];
    for (by, word) in [
        ("user:dana", "nobody decides what he"),
        ("user:zoe", "was not asked"),
        ("erin", "read --by"),
    ] {
        let refused = run(&test, &decide("approve", &first, by));
        assert!(fault(&refused).contains(word), "{refused:?}");
    }
    let about = std::env::temp_dir().join(format!("portcullis-cli-{}.json", uuid::Uuid::now_v7()));
    fs::write(&about, r#"{"invoice": "inv_381", "number": 2}"#).unwrap();
    let seen = ["--about", about.to_str().unwrap(), "--json"];
    let approve = |id| [&decide("approve", id, "user:erin")[..], &seen].concat();
    let other = run(&test, &approve(&first));
    assert!(fault(&other).contains("are not those"), "{other:?}");
    fs::write(&about, r#"{"number": 1, "invoice": "inv_381"}"#).unwrap();
    let granted = document(&run(&test, &approve(&first)), 0);
    assert_eq!(
        (&granted["state"], &granted["votes"]),
        (&"granted".into(), &1.into())
    );
    fs::remove_file(about).unwrap();
    gov.authorize(&refund(1)).await.unwrap().release().await;
    let again = run(&test, &decide("approve", &first, "user:frank"));
    assert!(
        fault(&again).contains("the request is consumed"),
        "{again:?}"
    );

    let denied = answer(&run(&test, &decide("deny", &second, "user:frank")), 0);
    assert!(denied.starts_with(&format!("denied {second}: refund of agent billing-agent")));
    // From standard input, where nothing is left behind.
    let mut piped = command(
        &test,
        &[
            &decide("approve", &third, "user:erin")[..],
            &["--about", "-"],
        ]
        .concat(),
    );
    let mut piped = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = piped.stdin.take().unwrap();
    stdin
        .write_all(br#"{"invoice": "inv_381", "number": 3}"#)
        .unwrap();
    drop(stdin);
    let granted = answer(&piped.wait_with_output().unwrap(), 0);
    assert!(granted.contains("once, until "), "{granted}");
    answer(&run(&test, &["approvals"]), 0);
    let none = RequestId::new().to_string();
    assert!(fault(&run(&test, &decide("deny", &none, "user:erin"))).contains("no such request"));
    gov.shutdown().await;
}

#[tokio::test]
async fn where_several_must_agree_one_is_not_enough() {
    let (test, gov) = application().await;
    let two = Ask::of(["user:erin", "user:frank"]).unwrap().quorum(2);
    let id = gov
        .gates()
        .request(&refund(1), two)
        .await
        .unwrap()
        .id()
        .to_string();
    let approve = |by| run(&test, &["approve", &id, "--by", by, "--why", "seen it"]);
    let first = answer(&approve("user:erin"), 1);
    assert!(first.contains("1 of 2 have agreed"), "{first}");
    assert!(fault(&approve("user:erin")).contains("has decided already"));
    answer(&approve("user:frank"), 0);
    gov.shutdown().await;
}

#[tokio::test]
async fn agents_are_listed_as_they_stand_page_by_page() {
    let (test, gov) = application().await;
    let other = |name: &str, session: &str| {
        Principal::agent(AgentId::parse(name).unwrap()).session(SessionId::parse(session).unwrap())
    };
    gov.presence().heartbeat(&me());
    gov.presence().mark_idle(&other("a", "s-1"));
    gov.presence().close(&other("a", "s-2"));
    gov.presence().flush().await.unwrap();
    let mut admin = connect(&test.options()).await;
    admin
        .execute(
            "INSERT INTO portcullis.presence
                    (tenant_id, agent_id, session_id, status, metadata, first_seen, last_seen)
             VALUES ('default', 'z', 's-1', 'live', '{}', now() - interval '1 hour', now() - interval '10 minutes')",
        )
        .await
        .unwrap();
    let anna = OperatorId::parse("user:anna").unwrap();
    let target = Target::agent_of(&me());
    gov.halt().halt(&target, &anna, "x").await.unwrap();

    let states = |arguments: &[&str]| {
        let all = [&["agents", "--json"], arguments].concat();
        let page = document(&run(&test, &all), 0);
        let of = |seen: &Value| {
            let word = |name: &str| seen[name].as_str().unwrap().to_owned();
            format!("{} {} {}", word("agent"), word("session"), word("state"))
        };
        let shown: Vec<_> = page["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(of)
            .collect();
        (shown, page["next"].clone())
    };
    let all = [
        "a s-1 idle",
        "a s-2 closed",
        "billing-agent s-1 halted",
        "z s-1 unresponsive",
    ];
    assert_eq!(states(&[]), (all.map(String::from).to_vec(), Value::Null));
    let (page, next) = states(&["--at-most", "2"]);
    assert_eq!(
        (page, &next["session"]),
        (
            all[..2].iter().map(|&s| s.to_owned()).collect(),
            &"s-2".into()
        )
    );
    let (page, _) = states(&["--after", "a", "s-2"]);
    assert_eq!(page, all[2..]);
    assert_eq!(states(&["--state", "closed"]).0, all[1..2]);
    assert_eq!(states(&["--operator", "user:dana"]).0, all[2..3]);
    assert_eq!(
        states(&["--agent", "z", "--silence", "3600"]).0,
        ["z s-1 live"]
    );
    let shown = answer(&run(&test, &["agents", "--at-most", "3"]), 0);
    assert!(
        shown.starts_with("agent          session  state   operator "),
        "{shown}"
    );
    assert!(
        shown.ends_with("there are more: --after billing-agent s-1\n"),
        "{shown}"
    );
    assert!(fault(&run(&test, &["agents", "--state", "dead"])).contains("unresponsive"));
    gov.shutdown().await;
}

#[tokio::test]
async fn budgets_show_what_is_spent_held_unknown_and_left() {
    let (test, gov) = application().await;
    let listed = answer(&run(&test, &["budgets"]), 0);
    assert!(
        listed.contains("billing-agent     -      -  session  usd    $10.00  refuse\n"),
        "{listed}"
    );
    let all = document(&run(&test, &["budgets", "--json"]), 0);
    assert_eq!(all["budgets"][0]["limits"][0]["usd"], "10.00");

    let spent = gov.authorize(&refund(1)).await.unwrap();
    spent
        .settle(Outcome::completed().cost(Usd::cents(150)))
        .await;
    let held = gov.authorize(&refund(2)).await.unwrap();
    let of = [
        "budgets",
        "--agent",
        "billing-agent",
        "--session",
        "s-1",
        "--user",
        "u-17",
    ];
    let shown = document(&run(&test, &[&of[..], &["--json"]].concat()), 0);
    let windows = shown["windows"].as_array().unwrap();
    let session = windows
        .iter()
        .find(|window| window["window"] == "session")
        .unwrap();
    assert_eq!(
        session["usd"],
        json!({"limit": "10.00", "settled": "1.50", "held": "4.00", "unknown": "0.00", "left": "4.50", "overrun": "0.00"})
    );
    let table = answer(&run(&test, &of), 0);
    let row = "session         usd    $10.00    $1.50  $4.00    $0.00   $4.50\n";
    assert!(table.contains(row), "{table}");
    // A session that nobody named is none.
    let day = answer(&run(&test, &of[..3]), 0);
    assert!(!day.contains("session ") && day.contains("day "), "{day}");

    held.settle(Outcome::completed().cost(Usd::dollars(4)))
        .await;
    let full = gov
        .authorize(&refund(3).ceiling(Ceiling::usd(Usd::cents(450))))
        .await
        .unwrap();
    full.settle(Outcome::completed().cost(Usd::cents(450)))
        .await;
    answer(&run(&test, &of), 1);
    answer(&run(&test, &of[..3]), 0);
    assert!(fault(&run(&test, &["budgets", "--session", "s-1"])).contains("--agent"));
    gov.shutdown().await;
}
