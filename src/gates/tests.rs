//! Properties of the pure parts.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::json;

use super::approver::{barred, fold, operator_is_known};
use super::engine::{Blocked, Facts, may_decide};
use super::pattern::Pattern;
use super::*;
use crate::call::Action;
use crate::ids::{OperatorId, ToolName, UserId};

fn agent(name: &str) -> Principal {
    Principal::agent(AgentId::parse(name).unwrap())
}

fn person(name: &str) -> ApproverRef {
    ApproverRef::parse(format!("user:{name}")).unwrap()
}

fn facts<'f>(approvers: &'f [String], barred: &'f [String]) -> Facts<'f> {
    Facts {
        approvers,
        in_team: false,
        barred,
        operator_known: true,
        is_agent: false,
        voters: &[],
    }
}

/// The same person, as he might write himself to pass for another one.
fn alias() -> impl Strategy<Value = (String, String)> {
    let name = "[a-z][a-z0-9]{1,8}";
    let separators = proptest::collection::vec("[._=-]{0,2}", 12);
    let cases = proptest::collection::vec(any::<bool>(), 12);
    let before = prop::sample::select(vec![
        "",
        "user:",
        "USER:",
        "user:user:",
        "operator:",
        "agent:",
        "mailto:",
        "user/",
    ]);
    let after = prop::sample::select(vec!["", "+x", "+x@corp.test", "@corp.test", "@CORP.test"]);
    (name, separators, cases, before, after).prop_map(|(name, separators, cases, before, after)| {
        let mut written = before.to_owned();
        for (i, c) in name.chars().enumerate() {
            written.push_str(&separators[i]);
            written.push(if cases[i] { c.to_ascii_uppercase() } else { c });
        }
        written.push_str(after);
        (name, written)
    })
}

proptest! {
    #[test]
    fn f39_no_alias_makes_another_person_of_an_operator((name, written) in alias()) {
        prop_assert_eq!(fold(&written), name.clone());
        for who in [
            agent("a").operated_by(OperatorId::parse(&written).unwrap()),
            agent("a").on_behalf_of(UserId::parse(&written).unwrap()),
            agent(&written),
            agent("b").child_of(&agent("a").operated_by(OperatorId::parse(&written).unwrap())),
        ] {
            let never = barred(&who);
            let asked = [format!("user:{name}"), format!("user:{written}")];
            for approver in [person(&name), person(&written)] {
                let answer = may_decide(&facts(&asked, &never), &approver);
                prop_assert_eq!(answer, Err(Blocked::Oneself));
            }
        }
    }

    #[test]
    fn a_pattern_covers_a_name_in_any_case(name in "[a-z]{1,6}", rest in "[a-z]{0,4}") {
        let exact = Pattern::tool(&name).unwrap();
        let under = Pattern::tool(&format!("{name}.*")).unwrap();
        prop_assert!(exact.covers(&name.to_ascii_uppercase()));
        prop_assert_eq!(exact.covers(&format!("{name}{rest}")), rest.is_empty());
        let (inside, beside) = (format!("{}.{rest}", name.to_ascii_uppercase()), format!("{name}{rest}"));
        prop_assert!(under.covers(&inside));
        prop_assert!(!under.covers(&beside));
    }

    #[test]
    fn nothing_that_is_narrower_is_more(old in -1_000_i64..1_000, new in -1_000_i64..1_000) {
        let narrowed = Narrower::than(&json!({"n": old, "to": "x"})).unwrap().set("n", &new);
        let less = new.abs() <= old.abs() && (new == 0 || new.signum() == old.signum());
        prop_assert_eq!(narrowed.is_ok(), less);
    }
}

#[tokio::test]
async fn f43_a_call_whose_kept_request_has_ended_is_asked_for_anew() {
    use crate::store::{Store, TestDatabase};

    let test = TestDatabase::fresh().await.unwrap();
    let clock = Arc::new(crate::time::SystemClock);
    let store = Store::open(&test.database(), crate::ids::TenantId::single(), clock)
        .await
        .unwrap();
    let keys = crate::audit::AuditKeys::single(crate::secret::Secret::generate().unwrap());
    let audit = Audit::start(store.clone(), keys, &crate::audit::AuditOptions::default());
    let halt = Halt::new(
        store.clone(),
        audit.clone(),
        &crate::halt::HaltSettings::default(),
    );
    halt.load().await.unwrap();
    let gates = Gates::new(store, audit, halt);
    gates.load().await.unwrap();
    let who = agent("a").operated_by(OperatorId::parse("dana").unwrap());
    let call = crate::call::Call::tool(&who, "wipe");
    let ask = || Ask::of(["user:erin"]).unwrap();
    let first = gates.request(&call, ask()).await.unwrap().id();
    let by = Withdrawer::Requester(&who);
    gates.withdraw(first, by).await.unwrap();
    // As where another process stored it from the journal.
    let digest = gates.core.audit.call_digest(&call.parts().unwrap());
    let kept = core::Kept {
        id: first,
        written: true,
    };
    gates.core.kept.lock().unwrap().insert(digest, kept);
    let next = gates.request(&call, ask()).await.unwrap();
    assert_eq!(next.state(), Some(RequestState::Pending));
    assert_ne!(next.id(), first);
}

#[tokio::test]
async fn f39_the_database_compares_names_as_this_crate_does() {
    let test = crate::store::TestDatabase::fresh().await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    let mut names: Vec<String> = [
        "user:",
        "user:user:",
        "::",
        "...",
        ":",
        "/",
        "a/user:b",
        "user/operator:Agent/x",
        "@corp",
        "@",
        "+a@b",
        "a+b@c",
        "user:@x",
        "mailto:A.B+c@D",
        ":a",
        "session:team:human:z_9",
        "users:a",
        "user:=",
    ]
    .map(str::to_owned)
    .into();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for strategy in [
        "[a-cU:/@+._=-]{1,12}",
        "((user|AGENT|team)?[:/]){0,3}[a-bA9:/@+.]{0,6}x?",
    ] {
        let strategy = proptest::string::string_regex(strategy).unwrap();
        for _ in 0..1_000 {
            names.push(strategy.new_tree(&mut runner).unwrap().current());
        }
    }
    names.extend((0..50).map(|_| alias().new_tree(&mut runner).unwrap().current().1));
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT portcullis.folded(n.name) FROM unnest($1::text[]) WITH ORDINALITY AS n (name, place) ORDER BY place",
    )
    .bind(&names)
    .fetch_all(&pool)
    .await
    .unwrap();
    for (name, folded) in names.iter().zip(rows) {
        assert_eq!(folded, fold(name), "{name}");
    }
}

#[test]
fn f39_look_alike_letters_never_get_through_the_door() {
    // A Cyrillic a, a fullwidth a, a combining mark, a zero-width joiner, a right-to-left override.
    for odd in [
        "d\u{430}na",
        "d\u{ff41}na",
        "da\u{301}na",
        "da\u{200d}na",
        "\u{202e}anad",
    ] {
        assert!(ApproverRef::parse(format!("user:{odd}")).is_err());
        assert!(OperatorId::parse(odd).is_err());
        assert!(UserId::parse(odd).is_err());
        assert!(AgentId::parse(odd).is_err());
    }
    for none in [
        "",
        "dana",
        "user:",
        "agent:dana",
        "User:dana",
        "user:...",
        "user: dana",
        "team:",
    ] {
        assert!(ApproverRef::parse(none).is_err(), "{none}");
    }
}

#[test]
fn f39_an_unknown_operator_is_a_no_and_so_is_a_team_or_somebody_who_was_not_asked() {
    let asked = ["user:erin".to_owned(), "team:finance".to_owned()];
    let erin = person("erin");
    assert_eq!(may_decide(&facts(&asked, &[]), &erin), Ok(()));
    let unknown = Facts {
        operator_known: false,
        ..facts(&asked, &[])
    };
    assert_eq!(may_decide(&unknown, &erin), Err(Blocked::UnknownOperator));
    let is_agent = Facts {
        is_agent: true,
        ..facts(&asked, &[])
    };
    assert_eq!(may_decide(&is_agent, &erin), Err(Blocked::Agent));
    assert_eq!(
        may_decide(&facts(&asked, &[]), &person("Erin")),
        Err(Blocked::NotAsked)
    );
    assert_eq!(
        may_decide(&facts(&asked, &[]), &person("frank")),
        Err(Blocked::NotAsked)
    );
    let member = Facts {
        in_team: true,
        ..facts(&asked, &[])
    };
    assert_eq!(may_decide(&member, &person("frank")), Ok(()));
    let team = ApproverRef::parse("team:finance").unwrap();
    assert_eq!(may_decide(&member, &team), Err(Blocked::Team));
    let voted = ["erin".to_owned()];
    let again = Facts {
        voters: &voted,
        ..facts(&asked, &[])
    };
    assert_eq!(may_decide(&again, &erin), Err(Blocked::Again));

    // Who operates the first of a line operates those that it started.
    let known = agent("a").operated_by(OperatorId::parse("dana").unwrap());
    assert!(operator_is_known(&known));
    assert!(operator_is_known(&agent("b").child_of(&known)));
    let child = agent("b").operated_by(OperatorId::parse("dana").unwrap());
    assert!(!operator_is_known(&child.child_of(&agent("a"))));
    assert!(!operator_is_known(&agent("a")));
}

#[test]
fn only_the_listed_ways_lead_from_state_to_state() {
    let mut ways = Vec::new();
    for from in RequestState::ALL {
        assert_eq!(RequestState::parse(from.as_str()), Some(from));
        for to in RequestState::ALL {
            if from.may_become(to) {
                assert!(!from.is_final());
                ways.push(format!("{}>{}", from.as_str(), to.as_str()));
            }
        }
    }
    assert_eq!(
        ways,
        [
            "pending>granted",
            "pending>denied",
            "pending>expired",
            "pending>withdrawn",
            "granted>expired",
            "granted>consumed",
            "granted>revoked"
        ]
    );
}

#[test]
fn f03_a_stored_policy_with_anything_unknown_is_refused() {
    let a = AgentId::parse("a").unwrap();
    let policy = ApprovalPolicy::new(a.clone())
        .require_for_tools(["refund", "payments.*", "*"])
        .unwrap()
        .require_for_models(["gpt-4o-*"])
        .unwrap()
        .approvers(["user:erin", "team:finance"])
        .unwrap()
        .allow_standing(5, std::time::Duration::from_mins(1))
        .allow_unknown_operator();
    let text = policy.document().unwrap();
    let (read, hash) = ApprovalPolicy::from_document(&a, &text.text).unwrap();
    assert_eq!((&read, &hash), (&policy, &text.hash));
    assert!(read.requires(&Action::Tool(ToolName::parse("anything").unwrap())));
    let other = AgentId::parse("b").unwrap();
    assert!(ApprovalPolicy::from_document(&other, &text.text).is_err());
    for (from, to) in [
        ("\"quorum\":1", "\"quorum\":0"),
        ("\"quorum\":1", "\"quorum\":2"),
        ("\"quorum\":1", "\"quorum\":1,\"more\":1"),
        ("\"quorum\":1,", ""),
        ("user:erin", "agent:erin"),
        ("payments.*", "payments*"),
        ("\"life_seconds\":900", "\"life_seconds\":0"),
    ] {
        let broken = text.text.replace(from, to);
        assert_ne!(broken, text.text);
        assert!(
            ApprovalPolicy::from_document(&a, &broken).is_err(),
            "{broken}"
        );
    }
    let nobody = ApprovalPolicy::new(a).require_for_tools(["x"]).unwrap();
    assert!(nobody.document().is_err(), "nobody could ever agree");
}

#[test]
fn only_values_that_were_asked_for_can_be_narrowed_and_only_to_their_own_sort() {
    let asked = json!({"amount": 900, "to": ["a", "b", "c"], "at": {"day": 3, "hour": 5}, "note": "x", "f": 1.5, "now": true});
    let of = || Narrower::than(&asked).unwrap();
    assert_eq!(of().asked, of().arguments());
    assert!(of().set("amount", &0).is_ok() && of().set("f", &1).is_ok());
    assert!(of().set("to", &["a", "c"]).is_ok() && of().set("to", &json!([])).is_ok());
    assert!(of().set("at", &json!({"day": 2, "hour": 5})).is_ok());
    assert!(of().set("note", &"other").is_ok() && of().set("now", &false).is_ok());
    for (key, value) in [
        ("amount", json!(901)),
        ("amount", json!(-1)),
        ("amount", json!("1")),
        ("amount", json!(null)),
        ("f", json!(1.6)),
        ("f", json!(-0.5)),
        ("to", json!(["c", "a"])),
        ("to", json!(["a", "a"])),
        ("to", json!(["d"])),
        ("at", json!({"day": 3})),
        ("at", json!({"day": 3, "hour": 5, "x": 1})),
        ("at", json!({"day": 4, "hour": 5})),
    ] {
        assert_eq!(
            of().set(key, &value).unwrap_err(),
            NotNarrower::Wider,
            "{key} {value}"
        );
    }
    assert_eq!(of().set("missing", &1).unwrap_err(), NotNarrower::Key);
    assert!(Narrower::than(&json!([1])).is_err());
}

#[test]
fn no_error_says_what_was_asked_for_or_who_may_agree() {
    let id = crate::ids::RequestId::new();
    for error in [
        GateError::Pending { request: id },
        GateError::Journalled { request: id },
        GateError::Denied { request: id },
        GateError::Narrowed { request: id },
        GateError::NotHeld,
        GateError::SelfApproval,
        GateError::OtherTerms,
        GateError::Token(TokenFault::Used),
    ] {
        let text = error.to_string();
        assert!(
            text.is_ascii() && !text.contains("user:") && !text.ends_with('.'),
            "{text}"
        );
        assert!(!error.remedy().is_empty() && !error.reason().is_empty());
    }
    assert!(GateError::Pending { request: id }.retry_after().is_some());
}
