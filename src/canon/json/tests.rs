use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn refused(value: &impl Serialize) -> JsonRule {
    Metadata::new(value).unwrap_err().rule().clone()
}

#[test]
fn f09_what_does_not_come_back_is_refused_by_name() {
    assert_eq!(refused(&json!({"a": 1.5})), JsonRule::Float);
    assert_eq!(
        refused(&BTreeMap::from([("a", f64::NAN)])),
        JsonRule::NotFinite
    );
    assert_eq!(refused(&BTreeMap::from([("a", -0.0)])), JsonRule::Float);
    assert_eq!(
        refused(&BTreeMap::from([("a", 1_u64 << 53)])),
        JsonRule::Integer
    );
    assert_eq!(
        refused(&BTreeMap::from([("a", u128::MAX)])),
        JsonRule::Integer
    );
    assert_eq!(refused(&json!({"a": "x\u{0}"})), JsonRule::Nul);
    assert_eq!(refused(&json!({"a\u{0}": 1})), JsonRule::Nul);
    assert_eq!(refused(&json!([1])), JsonRule::NotAnObject);
    assert_eq!(
        refused(&json!({"a": "x".repeat(70_000)})),
        JsonRule::TooLarge { bytes: 70_008 }
    );
    let many: BTreeMap<String, u8> = (0..65).map(|n| (n.to_string(), 0)).collect();
    assert_eq!(refused(&many), JsonRule::TooManyKeys);
    let deep = (0..20).fold(json!(1), |inner, _| json!({ "k": inner }));
    assert_eq!(refused(&deep), JsonRule::TooDeep);
    assert!(Metadata::new(&json!({"a": (1_i64 << 53) - 1, "b": -((1_i64 << 53) - 1)})).is_ok());
}

#[test]
fn an_error_names_the_path_and_the_remedy() {
    let error = Metadata::new(&json!({"order": {"lines": [{"price": 1.5}]}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "metadata `order.lines.[].price` is a float; send it as a string"
    );
}

#[test]
fn duplicate_keys_are_refused_in_text_and_in_types() {
    #[derive(Serialize)]
    struct Twice {
        a: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }

    let error = Metadata::parse(r#"{"a":1,"a":2}"#).unwrap_err();
    assert_eq!(*error.rule(), JsonRule::DuplicateKey);
    let twice = Twice {
        a: 1,
        rest: BTreeMap::from([("a".to_owned(), 2)]),
    };
    assert_eq!(refused(&twice), JsonRule::DuplicateKey);
}

#[test]
fn text_that_is_no_json_is_refused_with_its_place() {
    for bad in [
        "",
        "{",
        "{\"a\":NaN}",
        "{\"a\":1}x",
        "{\"a\":\"\\ud800\"}",
        "nul",
    ] {
        assert!(
            matches!(
                Metadata::parse(bad).unwrap_err().rule(),
                JsonRule::Syntax { .. }
            ),
            "{bad}"
        );
    }
}

#[test]
fn keys_are_sorted_and_separators_escaped() {
    let metadata = Metadata::new(&json!({"b": "\u{2028}\u{1}", "a": [null, true, "é"]})).unwrap();
    assert_eq!(
        metadata.as_str(),
        "{\"a\":[null,true,\"é\"],\"b\":\"\\u2028\\u0001\"}"
    );
}

/// Found by fuzzing: `serde_json` takes an object with this key for JSON in a string.
#[test]
fn no_key_makes_metadata_show_what_it_does_not_say() {
    let text = r#"{"$serde_json::private::RawValue":"{\"forged\":1}"}"#;
    let metadata = Metadata::parse(text).unwrap();
    assert_eq!(metadata.as_str(), text);
    assert_eq!(metadata.to_value().to_string(), text);
    assert_eq!(Metadata::new(&metadata.to_value()).unwrap(), metadata);
}

#[test]
fn raw_json_is_what_it_spells_under_the_same_rules() {
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
    let metadata = Metadata::new(&raw(r#"{"b": 1, "a": [2]}"#)).unwrap();
    assert_eq!(metadata.as_str(), r#"{"a":[2],"b":1}"#);
    let arguments = canonical_arguments(&[raw("0.50")]).unwrap();
    assert_eq!(arguments, "[0.5]");
    let rule = |text| Metadata::new(&raw(text)).unwrap_err().rule().clone();
    assert_eq!(rule(r#"{"a":1,"a":2}"#), JsonRule::DuplicateKey);
    assert_eq!(rule(r#"{"a":0.5}"#), JsonRule::Float);
}

#[test]
fn arguments_may_hold_floats_but_not_nan() {
    assert_eq!(
        canonical_arguments(&json!({"t": 0.5, "n": 1})).unwrap(),
        r#"{"n":1,"t":0.5}"#
    );
    assert!(canonical_arguments(&[f32::INFINITY]).is_err());
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1000_i64..1000).prop_map(Value::from),
        "[^\u{0}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[^\u{0}]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_text_means_the_same_and_is_a_fixed_point(inner in value()) {
        let whole = json!({ "v": inner });
        let metadata = Metadata::new(&whole).unwrap();
        prop_assert_eq!(&metadata.to_value(), &whole);
        prop_assert_eq!(&Metadata::parse(metadata.as_str()).unwrap(), &metadata);
        let line = !metadata.as_str().contains(['\n', '\u{2028}', '\u{2029}', '\0']);
        prop_assert!(line, "a line separator in the text");
    }

    #[test]
    fn different_values_have_different_text(a in value(), b in value()) {
        prop_assert_eq!(a == b, write_text(&a) == write_text(&b));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = Metadata::parse(&text);
    }
}
