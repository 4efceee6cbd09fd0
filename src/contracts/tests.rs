use serde_json::{Value, json};

use super::about::About;
use super::{ApprovedBy, Asked, Condition, Contract, Is, Promise, ask};
use crate::call::{Call, Principal};
use crate::error::ErrorKind;
use crate::ids::AgentId;

#[tokio::test]
async fn approved_means_by_somebody_who_was_asked_about_this_very_digest() {
    let me = Principal::agent(AgentId::parse("a").unwrap());
    let call = Call::tool(&me, "refund_payment").args(&[500]);
    let about = About::of(&call.parts().unwrap(), &[7; 32]);
    let nobody = ask::approved(None, &about, &[7; 32]).await;
    assert_eq!(nobody, Err("not_approved"));

    let known = ApprovedBy(Box::new(|who, digest| -> Asked {
        assert_eq!(who.agent_id().as_str(), "a");
        Box::pin(async move {
            match digest {
                [7, ..] => Ok(true),
                [8, ..] => Ok(false),
                _ => Err(ErrorKind::Unavailable),
            }
        })
    }));
    for (first, found) in [
        (7, Ok(())),
        (8, Err("not_approved")),
        (9, Err("unavailable")),
    ] {
        let answer = ask::approved(Some(&known), &about, &[first; 32]).await;
        assert_eq!(answer, found);
    }
}

#[test]
fn what_is_asked_about_shows_nothing_of_the_arguments() {
    let me = Principal::agent(AgentId::parse("a").unwrap());
    let call = Call::tool(&me, "refund_payment").args(&["pay_381"]);
    let about = About::of(&call.parts().unwrap(), &[7; 32]);
    assert!(about.args().is_some_and(|args| args.contains("pay_381")));
    assert!(!format!("{about:?}").contains("pay_381"));
}

#[test]
fn a_contract_is_read_as_it_was_written_and_written_in_the_same_words() {
    let whole = json!({
        "name": "refunds", "tools": ["REFUND_payment", "b"], "on_broken": "report", "record_passed": true,
        "requires": ["not_halted", "scope_allowed", "approved", "audited",
            {"check": "hours", "deadline_ms": 200}, {"check": "other"},
            {"budget_available": {"input": 1, "output": 2, "model": "m", "provider": "p", "tier": "flex"}}],
        "ensures": ["completed", "audited", {"check": "done"},
            {"result": "a", "pointer": "/x~1y/0", "equals": null},
            {"result": "b", "pointer": "", "one_of": ["x", 7, true]},
            {"result": "c", "pointer": "/n", "at_least": -5},
            {"result": "d", "pointer": "/n", "at_most": 9_007_199_254_740_991_i64},
            {"result": "e", "pointer": "/n", "present": true}],
    });
    let mut some = vec![whole];
    for ceiling in [json!({"usd_nanos": 250_000_000}), json!({"tokens": 4_000})] {
        some.push(json!({"name": "x", "any": true, "requires": [{"budget_available": ceiling}]}));
    }
    for document in some {
        let contract = Contract::from_json(&document.to_string()).unwrap();
        let text = contract.to_json().unwrap();
        let again = Contract::from_json(&text).unwrap();
        assert_eq!(again.to_json().unwrap(), text);
        let (mut read, mut wrote): (Value, Value) =
            (document, serde_json::from_str(&text).unwrap());
        // Names of tools are in lower case; what says nothing may be left out.
        for value in [&mut read, &mut wrote] {
            let members = value.as_object_mut().unwrap();
            members.remove("tools");
            for (key, or) in [("ensures", json!([])), ("record_passed", json!(false))] {
                members.entry(key).or_insert(or);
            }
        }
        assert_eq!(read, wrote);
    }
}

/// Which member the error names; nothing of what was given is in it.
fn field(document: &Value) -> &'static str {
    let error = Contract::from_json(&document.to_string()).unwrap_err();
    assert!(!error.to_string().contains("sEcReT"), "{error}");
    error.field
}

#[test]
fn a_contract_that_is_not_understood_is_none_and_the_error_names_the_member() {
    for (document, named) in [
        (json!([]), "document"),
        (
            json!({"sEcReT": 1, "name": "x", "any": true, "requires": ["audited"]}),
            "document",
        ),
        (json!({"any": true, "requires": ["audited"]}), "name"),
        (json!({"name": 7}), "name"),
        (json!({"name": "x", "requires": ["audited"]}), "for_tools"),
        (
            json!({"name": "x", "tools": "a", "requires": ["audited"]}),
            "tools",
        ),
        (
            json!({"name": "x", "tools": [7], "requires": ["audited"]}),
            "for_tools",
        ),
        (
            json!({"name": "x", "tools": ["a"], "any": true, "requires": ["audited"]}),
            "for_any",
        ),
        (
            json!({"name": "x", "any": false, "requires": ["audited"]}),
            "any",
        ),
        (json!({"name": "x", "any": true}), "requires"),
        (
            json!({"name": "x", "any": true, "requires": "audited"}),
            "requires",
        ),
        (
            json!({"name": "x", "any": true, "ensures": ["audited"], "on_broken": "sEcReT"}),
            "on_broken",
        ),
        (
            json!({"name": "x", "any": true, "ensures": ["audited"], "record_passed": 1}),
            "record_passed",
        ),
    ] {
        assert_eq!(field(&document), named, "{document}");
    }
    // A member twice, a fraction, or text that is no JSON.
    for text in [
        r#"{"name":"x","name":"x","any":true,"requires":["audited"]}"#,
        r#"{"name":"x","any":true,"requires":[{"budget_available":{"tokens":1.5}}]}"#,
        "{",
    ] {
        assert_eq!(Contract::from_json(text).unwrap_err().field, "document");
    }
}

#[test]
fn a_condition_that_is_not_understood_is_none_and_the_error_names_the_member() {
    for (one, named) in [
        (json!("sEcReT"), "requires"),
        (json!("completed"), "requires"),
        (json!(7), "requires"),
        (json!({"sEcReT": 7}), "requires"),
        (json!({"check": "a", "sEcReT": 7}), "requires"),
        (json!({"check": 7}), "check"),
        (json!({"check": "no name"}), "check"),
        (json!({"check": "a", "deadline_ms": 0}), "check"),
        (json!({"check": "a", "deadline_ms": 60_001}), "check"),
        (json!({"check": "a", "deadline_ms": -1}), "deadline_ms"),
        (json!({"budget_available": {}}), "budget_available"),
        (
            json!({"budget_available": {"tokens": 1, "sEcReT": 1}}),
            "budget_available",
        ),
        (
            json!({"budget_available": {"tokens": 1, "input": 1}}),
            "budget_available",
        ),
        (json!({"budget_available": {"tokens": "1"}}), "tokens"),
        (
            json!({"budget_available": {"tokens": 1, "tier": "sEcReT"}}),
            "tier",
        ),
        (
            json!({"budget_available": {"tokens": 1, "model": ""}}),
            "model",
        ),
    ] {
        let document = json!({"name": "x", "any": true, "requires": [one]});
        assert_eq!(field(&document), named, "{document}");
    }
}

#[test]
fn a_promise_that_is_not_understood_is_none_and_the_error_names_the_member() {
    for (one, named) in [
        (json!("approved"), "ensures"),
        (json!({"result": "a", "equals": 1}), "pointer"),
        (
            json!({"result": "a", "pointer": "sEcReT", "equals": 1}),
            "result",
        ),
        (
            json!({"result": "a", "pointer": "/a~2", "equals": 1}),
            "result",
        ),
        (json!({"result": "a", "pointer": "/a"}), "result"),
        (
            json!({"result": "a", "pointer": "/a", "at_least": 1, "at_most": 2}),
            "result",
        ),
        (
            json!({"result": "a", "pointer": "/a", "equals": {}}),
            "result",
        ),
        (
            json!({"result": "a", "pointer": "/a", "one_of": []}),
            "result",
        ),
        (
            json!({"result": "a", "pointer": "/a", "present": false}),
            "present",
        ),
        (
            json!({"result": "a", "pointer": "/a", "at_least": "1"}),
            "at_least",
        ),
        (
            json!({"result": "a", "pointer": "/a", "at_least": 1, "sEcReT": 2}),
            "ensures",
        ),
    ] {
        let document = json!({"name": "x", "any": true, "ensures": [one]});
        assert_eq!(field(&document), named, "{document}");
    }
}

#[test]
fn code_is_not_stored() {
    let of = |contract: Contract| contract.for_any().to_json().unwrap_err().field;
    let yes = async |_| Ok::<_, ()>(true);
    let check = Condition::custom("c", std::time::Duration::from_secs(1), yes);
    assert_eq!(of(Contract::new("x").requires(check)), "requires");
    let promise = Promise::custom("c", std::time::Duration::from_secs(1), yes);
    assert_eq!(of(Contract::new("x").ensures(promise)), "ensures");
    let promise = Promise::result("c", |_: &String| true);
    assert_eq!(of(Contract::new("x").ensures(promise)), "ensures");
}

#[test]
fn a_part_of_a_result_is_as_it_must_be_or_the_promise_is_broken() {
    let result = json!({"status": "paid", "cents": 500, "half": 0.5, "none": null, "a/b": [7]});
    let found = |pointer: &str, is: Is, result: &dyn std::any::Any| {
        let Promise::Field(field) = Promise::field("f", pointer, is) else {
            unreachable!()
        };
        field.validate().unwrap();
        field.of(Some(result))
    };
    for (pointer, is, expected) in [
        ("/status", Is::Equals(json!("paid")), Ok(())),
        ("/status", Is::Equals(json!("Paid")), Err("false")),
        (
            "/status",
            Is::OneOf(vec![json!("x"), json!("paid")]),
            Ok(()),
        ),
        ("/status", Is::OneOf(vec![json!("x")]), Err("false")),
        ("/cents", Is::AtLeast(500), Ok(())),
        ("/cents", Is::AtLeast(501), Err("false")),
        ("/cents", Is::AtMost(500), Ok(())),
        ("/cents", Is::AtMost(499), Err("false")),
        ("/cents", Is::Equals(json!("500")), Err("false")),
        // F51: what is missing or of another type keeps no promise.
        ("/half", Is::AtMost(1), Err("false")),
        ("/status", Is::AtLeast(0), Err("false")),
        ("/gone", Is::AtMost(1), Err("missing")),
        ("/gone", Is::Present, Err("missing")),
        ("/none", Is::Present, Err("false")),
        ("/none", Is::Equals(Value::Null), Ok(())),
        ("/a~1b/0", Is::Equals(json!(7)), Ok(())),
        ("", Is::Present, Ok(())),
    ] {
        assert_eq!(
            found(pointer, is.clone(), &result),
            expected,
            "{pointer} {is:?}"
        );
        let (text, bytes) = (result.to_string(), result.to_string().into_bytes());
        assert_eq!(found(pointer, is.clone(), &text), expected);
        assert_eq!(found(pointer, is, &bytes), expected);
    }
    assert_eq!(found("", Is::AtLeast(0), &json!(u64::MAX)), Ok(()));
    assert_eq!(
        found("", Is::AtMost(i64::MAX), &json!(u64::MAX)),
        Err("false")
    );
    for other in [&"no json".to_owned() as &dyn std::any::Any, &7_u64] {
        assert_eq!(found("", Is::Present, other), Err("result_type"));
    }
}
