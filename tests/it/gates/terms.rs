//! On whose terms a request is decided, and who decides nothing of it: also where somebody wrote the row, or said of a
//! neighbour what is not known of this one.

use portcullis::ErrorKind;
use portcullis::gates::Escalation;
use portcullis::halt::Target;
use portcullis::loops::LoopPolicy;
use portcullis::scope::ScopePolicy;
use portcullis::store::Migration;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use super::*;
use crate::common::connect;

/// Puts what `as_it_was` became into the place of a request, as far as the role of agents' programs may.
async fn rewritten(
    session: &mut PgConnection,
    id: RequestId,
    changes: &Value,
) -> Result<RequestId, sqlx::Error> {
    let withdrawn = "UPDATE portcullis.approval_requests SET state = 'withdrawn', ended_at = now() WHERE request_id = $1::text::uuid";
    sqlx::query(withdrawn)
        .bind(id.to_string())
        .execute(&mut *session)
        .await?;
    let next = RequestId::new();
    let mut changes = changes.clone();
    for (key, value) in [
        ("request_id", json!(next.to_string())),
        ("state", json!("pending")),
        ("ended_at", Value::Null),
    ] {
        changes[key] = value;
    }
    sqlx::query(
        "INSERT INTO portcullis.approval_requests
         SELECT (jsonb_populate_record(r, $2::text::jsonb)).*
           FROM portcullis.approval_requests r
          WHERE r.request_id = $1::text::uuid",
    )
    .bind(id.to_string())
    .bind(changes.to_string())
    .execute(session)
    .await?;
    Ok(next)
}

async fn as_agents_program(gate: &Gate) -> PgConnection {
    let mut session = connect(&gate.test.options()).await;
    for role in ["portcullis_test_agents", "portcullis_test_people"] {
        let sql = sqlx::AssertSqlSafe(format!("CREATE ROLE {role}"));
        // Another test may have made it.
        let _ = session.execute(sql).await;
    }
    Migration::new(&gate.test.database())
        .app_role("portcullis_test_agents")
        .operator_role("portcullis_test_people")
        .run()
        .await
        .unwrap();
    session
        .execute("SET ROLE portcullis_test_agents")
        .await
        .unwrap();
    session
}

#[tokio::test]
async fn f39_a_request_that_is_written_by_hand_sets_no_terms_of_its_own() {
    let gate = Gate::new().await;
    gate.gates().register(policy().quorum(2)).await.unwrap();
    let mut agents = as_agents_program(&gate).await;
    let all = json!({"barred": [], "approvers": ["user:dana", "user:u_17", "user:billing-agent"], "quorum": 1});
    // What the row says, and whose agreement it would then take.
    for (n, (changes, who)) in [
        (json!({"barred": []}), "user:dana"),
        (all.clone(), "user:dana"),
        (all.clone(), "user:u_17"),
        (all, "user:billing-agent"),
        (json!({"barred": [], "operator_id": "olga"}), "user:dana"),
        (
            json!({"barred": [], "operator_id": null, "operator_known": true}),
            "user:dana",
        ),
        (json!({"barred": [], "user_id": null}), "user:u_17"),
        (json!({"approvers": ["user:zoe"]}), "user:zoe"),
        (json!({"quorum": 1}), "user:erin"),
        (json!({"label": "payments.small"}), "user:erin"),
        (json!({"life_micros": 31_622_400_000_000_i64}), "user:erin"),
        (json!({"policy_hash": "", "quorum": 1}), "user:erin"),
        (json!({"session_id": "s-2"}), "user:erin"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = gate.ask(&refund(i64::try_from(n).unwrap())).await.id;
        let forged = rewritten(&mut agents, id, &changes).await.unwrap();
        let decided = gate.decide(forged, who, Decision::grant()).await;
        // Its own ids say so, or what others say of its session, whatever its list does.
        let expected = if n < 6 {
            GateError::SelfApproval
        } else {
            GateError::OtherTerms
        };
        assert_eq!(decided.unwrap_err(), expected, "{changes}");
        assert_eq!(gate.state(forged).await, RequestState::Pending, "{changes}");
    }
    // Nor does it live for longer than it says, or begin later.
    for times in [
        json!({"expires_at": "infinity"}),
        json!({"expires_at": "2027-01-01T00:00:00Z"}),
        json!({"requested_at": "infinity", "expires_at": "infinity"}),
    ] {
        let id = gate.ask(&refund(1_000)).await.id;
        let forged = rewritten(&mut agents, id, &times).await;
        assert!(forged.is_err(), "{times}");
    }
    let later =
        json!({"requested_at": "2027-01-01T00:00:00Z", "expires_at": "2027-01-01T00:10:00Z"});
    let id = gate.ask(&refund(1_001)).await.id;
    let forged = rewritten(&mut agents, id, &later).await.unwrap();
    assert!(
        gate.decide(forged, "user:erin", Decision::grant())
            .await
            .is_err()
    );
    // Nor is it in the way of the call that it is about.
    let id = gate.ask(&refund(4)).await.id;
    gate.grant(id).await;
    // As it was asked for, it is decided; and what others are asked after that, too.
    let id = gate.ask(&refund(2_000)).await.id;
    gate.grant(id).await;
    let gina = OperatorId::parse("gina").unwrap();
    let up = Escalation::to(["user:boss"]).unwrap();
    gate.gates().escalate(id, &gina, up).await.unwrap();
    let boss = gate.decide(id, "user:boss", Decision::grant()).await;
    assert_eq!(boss.unwrap().state, RequestState::Granted);
}

#[tokio::test]
async fn f39_a_request_under_another_policy_than_the_one_in_force_is_decided_by_nobody() {
    let gate = Gate::with_policy().await;
    let id = gate.ask(&refund(1)).await.id;
    let elsewhere = gate.another().await;
    let stricter = policy().quorum(2);
    elsewhere.gates().register(stricter).await.unwrap();
    let decided = gate.decide(id, "user:erin", Decision::grant()).await;
    assert_eq!(decided.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(gate.state(id).await, RequestState::Pending);
}

/// The agent of the tests, of which nobody has said who operates it.
fn nameless(session: &str) -> Principal {
    Principal::agent(agent()).session(SessionId::parse(session).unwrap())
}

fn named(agent: &str, session: &str) -> Principal {
    Principal::agent(AgentId::parse(agent).unwrap()).session(SessionId::parse(session).unwrap())
}

fn by(who: Principal, operator: &str) -> Principal {
    who.operated_by(OperatorId::parse(operator).unwrap())
}

impl Gate {
    async fn seen(&self, who: &Principal) {
        self.gov.presence().heartbeat(who);
        self.gov.presence().flush().await.unwrap();
    }

    /// Asks erin, carl and olga about a call that no policy names.
    async fn ask_three(&self, who: &Principal, tool: &str) -> RequestId {
        let three = Ask::of(["user:erin", "user:carl", "user:olga"]).unwrap();
        let call = Call::tool(who, tool);
        self.gates().request(&call, three).await.unwrap().id()
    }

    async fn answer(&self, id: RequestId, who: &str) -> GateError {
        self.decide(id, who, Decision::grant()).await.unwrap_err()
    }
}

#[tokio::test]
async fn f39_who_operates_a_neighbour_says_nothing_of_who_operates_this_session() {
    let gate = Gate::new().await;
    let id = gate.ask_three(&nameless("s-9"), "wipe").await;
    // Another session of the agent, and an agent that this one started.
    gate.seen(&by(nameless("s-10"), "carl")).await;
    let child = by(named("helper", "h-1"), "olga").child_of(&nameless("s-9"));
    gate.ask_three(&child, "wipe").await;
    for barred in ["user:carl", "user:olga"] {
        assert_eq!(gate.answer(id, barred).await, GateError::SelfApproval);
    }
    assert_eq!(
        gate.answer(id, "user:erin").await,
        GateError::UnknownOperator
    );
    // Of its own session it is.
    gate.seen(&by(nameless("s-9"), "dana")).await;
    assert_eq!(gate.grant(id).await.state, RequestState::Granted);

    // Of a line, it is who operates the first one.
    let (root, middle) = (named("root", "r-1"), named("middle", "m-1"));
    let line = named("last", "l-1").child_of(&middle.clone().child_of(&root));
    let id = gate.ask_three(&line, "wipe").await;
    gate.seen(&by(middle, "carl")).await;
    gate.seen(&by(named("last", "l-1"), "olga")).await;
    gate.seen(&by(named("root", "r-2"), "zoe")).await;
    assert_eq!(gate.answer(id, "user:carl").await, GateError::SelfApproval);
    assert_eq!(gate.answer(id, "user:olga").await, GateError::SelfApproval);
    assert_eq!(
        gate.answer(id, "user:erin").await,
        GateError::UnknownOperator
    );
    gate.seen(&by(root, "dana")).await;
    assert_eq!(gate.grant(id).await.state, RequestState::Granted);
}

#[tokio::test]
async fn f39_who_operates_the_session_in_another_request_decides_neither() {
    let gate = Gate::new().await;
    let ask = || {
        Ask::of(["user:erin", "user:carl", "user:olga"])
            .unwrap()
            .allow_unknown_operator()
    };
    let mine = Call::tool(&nameless("s-9").child_of(&named("root", "r-1")), "wipe");
    let id = gate.gates().request(&mine, ask()).await.unwrap().id();
    gate.ask_three(&by(nameless("s-9"), "carl"), "read").await;
    gate.ask_three(&by(named("root", "r-1"), "olga"), "read")
        .await;
    for barred in ["user:carl", "user:olga"] {
        assert_eq!(
            gate.answer(id, barred).await,
            GateError::SelfApproval,
            "{barred}"
        );
    }
    assert_eq!(gate.grant(id).await.state, RequestState::Granted);
}

#[tokio::test]
async fn f39_nobody_with_the_name_of_an_agent_decides_wherever_it_is_known_from() {
    let gate = Gate::with_policy().await;
    let agents = [
        "user:helpdesk",
        "user:Night.Shift",
        "user:looper",
        "user:clerk7",
        "user:bot",
        "user:pinned@corp.test",
    ];
    gate.seen(&named("Help-Desk", "s-1")).await;
    let gina = OperatorId::parse("gina").unwrap();
    let night = Target::agent_of(&named("agent:night_shift", "s-1"));
    gate.gov.halt().halt(&night, &gina, "drill").await.unwrap();
    let looper = LoopPolicy::new(AgentId::parse("looper").unwrap());
    gate.gov.loops().register(looper).await.unwrap();
    gate.ask_three(&by(named("clerk_7", "s-1"), "dana"), "wipe")
        .await;
    let bot = ScopePolicy::new(AgentId::parse("user/bot@corp").unwrap());
    gate.gov.scope().register(bot).await.unwrap();
    let pinned = ScopePolicy::new(AgentId::parse("Pinned").unwrap());
    gate.gov.scope().pin(pinned).await.unwrap();
    let all = Ask::of(agents.into_iter().chain(["user:erin"])).unwrap();
    let id = gate
        .gates()
        .request(&Call::tool(&me(), "wipe"), all)
        .await
        .unwrap()
        .id();
    for who in agents {
        assert_eq!(gate.answer(id, who).await, GateError::SelfApproval, "{who}");
    }
    assert_eq!(gate.grant(id).await.state, RequestState::Granted);
}

#[tokio::test]
async fn f39_nobody_has_others_asked_about_what_he_or_his_agents_ask_for() {
    let gate = Gate::with_policy().await;
    gate.seen(&by(nameless("s-8"), "carl")).await;
    let id = gate.ask(&refund(1)).await.id;
    for who in ["dana", "operator:Dana", "u-17", "billing.agent", "carl"] {
        let who = OperatorId::parse(who).unwrap();
        for change in [
            Escalation::to(["user:zoe"]).unwrap(),
            Escalation::longer(Duration::from_hours(1)),
        ] {
            let changed = gate.gates().escalate(id, &who, change).await;
            assert_eq!(changed, Err(GateError::SelfApproval), "{who}");
        }
    }
    assert_eq!(gate.entries("gate.escalated").await.len(), 0);
    assert_eq!(gate.entries("gate.self_approval_blocked").await.len(), 10);
}

#[tokio::test]
async fn one_row_that_cannot_be_read_hides_no_other_request() {
    let gate = Gate::with_policy().await;
    let mut admin = connect(&gate.test.options()).await;
    let torn = [
        json!({"agent_id": "a b"}),
        json!({"session_id": "\u{202e}"}),
        json!({"label": "refund\u{1b}[2J"}),
        json!({"label": "r\u{435}fund"}),
        json!({"approvers": ["user:erin", "erin"]}),
    ];
    for (n, changes) in torn.iter().enumerate() {
        let id = gate.ask(&refund(i64::try_from(n).unwrap())).await.id;
        rewritten(&mut admin, id, changes).await.unwrap();
    }
    let whole = gate.ask(&refund(100)).await;
    assert_eq!(
        gate.gates().pending(None).await.unwrap(),
        std::slice::from_ref(&whole)
    );
    gate.grant(whole.id).await;
    // A page of nothing else is not the end.
    let many = "INSERT INTO portcullis.approval_requests
        SELECT (jsonb_populate_record(r, jsonb_build_object(
                   'request_id', '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'state', 'pending',
                   'voters', '{}'::text[], 'approved_digest', NULL, 'agent_id', 'a b',
                   'expires_at', r.requested_at, 'call_digest', '\\x' || encode(sha256(n::text::bytea), 'hex')))).*
          FROM portcullis.approval_requests r, generate_series(1, 600) AS n
         WHERE r.state = 'granted'";
    admin.execute(many).await.unwrap();
    let live = "UPDATE portcullis.approval_requests SET expires_at = requested_at + interval '1 hour' WHERE state = 'pending'";
    admin.execute(live).await.unwrap();
    let next = gate.ask(&refund(101)).await;
    let pending = gate.gates().pending(None).await.unwrap();
    assert_eq!(pending, std::slice::from_ref(&next));
}
