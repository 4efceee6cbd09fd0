use proptest::prelude::*;
use serde_json::{Value, json};

use super::engine::{Compiled, Known, Policy, Stored, Target, decide};
use super::error::{InvalidPolicy, ScopeError};
use super::evidence;
use super::follow::{Found, Read};
use super::index::{Fault, Index};
use super::model::{ScopePolicy, hash_of};
use super::tools::NamedTool;
use super::url::{ApiUrl, UrlProblem};
use crate::call::Principal;
use crate::error::ErrorKind;
use crate::ids::AgentId;
use crate::store::PolicyChanges;

fn agent() -> AgentId {
    AgentId::parse("a").unwrap()
}

fn policy() -> ScopePolicy {
    ScopePolicy::new(agent())
}

fn ready(policy: &ScopePolicy) -> Policy {
    Policy {
        compiled: Compiled::new(policy),
        hash: policy.document().unwrap().hash,
    }
}

/// What is decided where only `policy` is stored.
fn decided(policy: &ScopePolicy, target: Target<'_>) -> Result<(), ScopeError> {
    let stored = Stored::Policy(ready(policy));
    decide(by_store(&stored), target)
}

fn by_store(stored: &Stored) -> Known<'_> {
    Known {
        stored: Some(stored),
        pinned: None,
    }
}

fn tool(policy: &ScopePolicy, name: &str) -> Result<(), ScopeError> {
    decided(policy, Target::Tool(name))
}

fn api(patterns: &[&str], url: &str) -> Result<(), ScopeError> {
    let policy = policy().allow_apis(patterns).unwrap();
    decided(&policy, Target::Api(url))
}

#[test]
fn what_is_unknown_is_denied() {
    assert_eq!(
        decide(Known::default(), Target::Tool("x")),
        Err(ScopeError::UnknownAgent)
    );
    for (target, error) in [
        (Target::Tool("x"), ScopeError::ToolDenied),
        (Target::Model("x"), ScopeError::ModelDenied),
        (Target::Api("https://x.test/"), ScopeError::ApiDenied),
    ] {
        assert_eq!(decided(&policy(), target), Err(error.clone()));
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(
            decide(by_store(&Stored::Broken), target),
            Err(ScopeError::BrokenPolicy)
        );
    }
}

#[test]
fn f49_a_name_is_denied_unless_it_is_listed_whatever_its_first_word() {
    let policy = policy().allow_tools(["read_invoice", "fs.read"]).unwrap();
    for allowed in ["read_invoice", "fs.read"] {
        assert_eq!(tool(&policy, allowed), Ok(()));
    }
    for denied in [
        "shell",
        "delete_everything",
        "read",
        "read_invoices",
        "read_invoic",
        "READ_INVOICE",
        "Read_invoice",
        " read_invoice",
        "read_invoice ",
        "read_invoice\0",
        "read_invoice\n",
        "fs",
        "fs.",
        "fs.read.all",
        "fs.write",
        "fs.*",
        "*",
        "",
        "read_inv\u{43e}ice",
    ] {
        assert_eq!(
            tool(&policy, denied),
            Err(ScopeError::ToolDenied),
            "{denied:?}"
        );
    }
}

#[test]
fn a_prefix_ends_at_a_separator_and_allows_names_under_it() {
    let policy = policy()
        .allow_tools(["fs.*", "db/*", "mcp__files__*", "k8s:*"])
        .unwrap();
    for allowed in ["fs.read", "fs.a.b", "db/x", "mcp__files__get", "k8s:pods"] {
        assert_eq!(tool(&policy, allowed), Ok(()), "{allowed}");
    }
    for denied in [
        "fs.",
        "fs",
        "fsx.read",
        "xfs.read",
        "FS.read",
        "mcp__files_get",
        "mcp__file__get",
        "k8s:",
        "fs.re ad",
        "fs.\u{202e}daer",
        "fs.read\n",
        "fs.\0",
    ] {
        assert_eq!(
            tool(&policy, denied),
            Err(ScopeError::ToolDenied),
            "{denied:?}"
        );
    }
    let long = format!("fs.{}", "x".repeat(254));
    assert_eq!(tool(&policy, &long), Err(ScopeError::ToolDenied));
}

#[test]
fn a_wildcard_anywhere_else_is_refused_and_the_message_says_how_to_write_it() {
    for bad in [
        "*", "read*", "*.read", "fs.*.x", "fs.**", "a_*", ".*", "__*", "/*", "a b.*", "",
    ] {
        let error = policy().allow_tools(["ok", bad]).unwrap_err().to_string();
        assert!(error.starts_with("allow_tools: entry 1 "), "{error}");
        assert!(bad.is_empty() || error.contains("such as fs.*"), "{error}");
        assert!(policy().hide_tools([bad]).is_err());
    }
    for bad in ["*", "gpt*", "*-mini", "gpt-*-mini", "-*"] {
        let error = policy().allow_models([bad]).unwrap_err().to_string();
        assert!(error.contains("allow_any_model"), "{error}");
    }
    assert!(
        policy()
            .allow_models(["gpt-4o-*", "openai/*", "claude-3.5", "m@*"])
            .is_ok()
    );
}

#[test]
fn a_hidden_tool_is_denied_as_one_that_does_not_exist() {
    let policy = policy().allow_tools(["fs.*", "shell"]).unwrap();
    let policy = policy
        .hide_tools(["fs.delete", "shell", "fs.admin.*"])
        .unwrap();
    assert_eq!(tool(&policy, "fs.read"), Ok(()));
    // A host that ignores case must not run what was hidden, so the case of the letters is no way
    // around.
    for hidden in [
        "fs.delete",
        "fs.Delete",
        "fs.DELETE",
        "shell",
        "fs.admin.x",
        "fs.Admin.X",
    ] {
        assert_eq!(
            tool(&policy, hidden),
            tool(&policy, "no_such_tool"),
            "{hidden}"
        );
        assert_eq!(
            tool(&policy, hidden),
            Err(ScopeError::ToolDenied),
            "{hidden}"
        );
    }
}

#[test]
fn models_are_denied_unless_listed_or_all_are_allowed() {
    let asked = |policy: &ScopePolicy, name| decided(policy, Target::Model(name));
    let some = policy().allow_models(["gpt-4o-mini", "claude-*"]).unwrap();
    assert_eq!(asked(&some, "gpt-4o-mini"), Ok(()));
    assert_eq!(asked(&some, "claude-opus"), Ok(()));
    assert_eq!(asked(&some, "gpt-4o"), Err(ScopeError::ModelDenied));
    assert_eq!(asked(&some, "claude-"), Err(ScopeError::ModelDenied));
    assert_eq!(asked(&policy(), "gpt-4o"), Err(ScopeError::ModelDenied));
    let any = policy().allow_any_model();
    assert_eq!(asked(&any, "gpt-4o"), Ok(()));
    assert_eq!(asked(&any, "no model"), Err(ScopeError::ModelDenied));
}

#[test]
fn f52_an_api_prefix_never_matches_another_host() {
    let patterns = ["https://api.example.com/*"];
    for allowed in [
        "https://api.example.com",
        "https://api.example.com/",
        "https://api.example.com/v1?q=1",
        "HTTPS://API.Example.COM:443/v1/x#y",
        "https://api.example.com?q=/../x",
        "https://api.example.com/users/@me/a%20b",
    ] {
        assert_eq!(api(&patterns, allowed), Ok(()), "{allowed}");
    }
    for denied in [
        "https://api.example.com.evil.test/",
        "https://api.example.com.evil.test",
        "https://api.example.com@evil.test/",
        "https://api.example.com:443@evil.test/",
        "https://api.example.com%2eevil.test/",
        "https://api.example.com%40evil.test/",
        "https://evil.test/https://api.example.com/",
        "https://evil.test#https://api.example.com/",
        "https://evil.test?https://api.example.com/",
        "https://evil.test\\api.example.com/",
        "https://api.example.com\\@evil.test/",
        "https://api.example.com./",
        "https:api.example.com/",
        "https:///api.example.com/",
        "https://api.example.com:/",
        "https://api.example.com:0443/",
        "https://api.example.com:8443/",
        "http://api.example.com/",
        "ftp://api.example.com/",
        "//api.example.com/",
        "api.example.com/",
        "https://xapi.example.com/",
        "https://example.com/",
        "https://api.example.com:+443/",
        "https://api.example.com:65536/",
        "https://api\texample.com/",
        "https://api.example.com\n/",
        " https://api.example.com/",
        "https://\u{430}pi.example.com/",
        "https://api.example.com\u{3002}evil.test/",
        "https://",
        "",
    ] {
        assert!(api(&patterns, denied).is_err(), "{denied:?}");
    }
    let user = ApiUrl::parse("https://user:password@api.example.com/");
    assert_eq!(user.map(drop), Err(UrlProblem::UserInfo));
}

#[test]
fn f52_a_path_prefix_cannot_be_escaped() {
    let patterns = [
        "https://api.example.com/v1/*",
        "https://api.example.com/v2/me",
    ];
    for allowed in [
        "/v1/",
        "/v1/x",
        "/v1//x",
        "/v1/..x",
        "/v1/x;a=1",
        "/v2/me",
        "/v2/me?x",
    ] {
        let url = format!("https://api.example.com{allowed}");
        assert_eq!(api(&patterns, &url), Ok(()), "{allowed}");
    }
    for denied in [
        "",
        "/",
        "/v1",
        "/v11/x",
        "/V1/x",
        "/v1/../admin",
        "/v1/..",
        "/v1/./x",
        "/v1/%2e%2e/admin",
        "/v1/.%2e/admin",
        "/v1/%2E%2E%2Fadmin",
        "/v1/..%2fadmin",
        "/v1/%252e%252e/admin",
        "/v1/..;/admin",
        "/v1/..;x=1/admin",
        "/v1/..%5cadmin",
        "/v1/..\\admin",
        "/v1/%00",
        "/v1/%zz",
        "/v1/%2",
        "/v1/%",
        "/v1/a b",
        "/v1/\u{e4}",
        "/v1/%0d%0a",
        "/v2/me/",
        "/v2/mex",
        "/v2/m",
    ] {
        let url = format!("https://api.example.com{denied}");
        assert!(api(&patterns, &url).is_err(), "{denied:?}");
    }
}

#[test]
fn an_address_has_one_spelling() {
    assert_eq!(
        api(&["http://127.0.0.1:8080/*"], "http://127.0.0.1:8080/x"),
        Ok(())
    );
    assert_eq!(api(&["http://[::1]/*"], "http://[0:0::1]:80/x"), Ok(()));
    for denied in [
        "http://0x7f.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1/",
        "http://127.0.0.01/",
        "http://[::1%25eth0]/",
        "http://[::1]x/",
        "http://1.2.3.0x/",
    ] {
        assert!(matches!(
            api(&[], denied),
            Err(ScopeError::ApiDenied | ScopeError::InvalidUrl(_))
        ));
        assert!(ApiUrl::parse(denied).is_err(), "{denied}");
    }
}

#[test]
fn an_api_pattern_that_could_mean_more_is_refused() {
    for bad in [
        "https://api.example.com*",
        "https://*.example.com/",
        "https://api.example.com/v1*",
        "*",
        "https://*",
        "https://api.example.com/*/x",
        "https://api.example.com/**",
        "https://api.example.com:*",
        "https://api.example.com/x?*",
        "https://api.example.com/x?y",
        "https://u:p@api.example.com/*",
        "https://api.example.com/../*",
        "api.example.com/*",
        "https://api.example.com/#/*",
    ] {
        let error = policy().allow_apis([bad]).unwrap_err().to_string();
        assert!(error.starts_with("allow_apis: entry 0 "), "{error}");
        assert!(!error.contains(bad) || bad == "*", "{error}");
    }
    let error = policy()
        .allow_apis(["https://api.example.com*"])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("such as https://api.example.com/*"),
        "{error}"
    );
}

#[test]
fn lists_are_bounded_and_duplicates_count_once() {
    let names = |n: usize| (0..n).map(|i| format!("tool_{}", i % 16_385));
    assert!(policy().allow_tools(names(1_024)).is_ok());
    let full = policy().allow_tools(names(16_384)).unwrap();
    assert_eq!(full.tools().count(), 16_384);
    assert_eq!(tool(&full, "tool_16383"), Ok(()));
    let error = policy().allow_tools(names(16_385)).unwrap_err();
    assert_eq!(
        error,
        InvalidPolicy::TooMany {
            list: "allow_tools"
        }
    );
    let twice = full.clone().allow_tools(names(16_384)).unwrap();
    assert_eq!(twice, full);
}

#[test]
fn f03_a_stored_policy_with_anything_unknown_is_refused() {
    let whole = policy()
        .allow_tools(["fs.*", "b", "a"])
        .unwrap()
        .hide_tools(["fs.rm"])
        .unwrap()
        .allow_apis(["HTTPS://Api.Example.com:443/v1/*", "http://x.test"])
        .unwrap()
        .allow_models(["gpt-4o"])
        .unwrap();
    let text = whole.document().unwrap().text;
    assert_eq!(
        text,
        r#"{"agent":"a","any_model":false,"apis":["https://api.example.com/v1/*","http://x.test/"],"hidden":["fs.rm"],"models":["gpt-4o"],"tools":["a","b","fs.*"]}"#
    );
    assert_eq!(ScopePolicy::from_document(&agent(), &text), Ok(whole));

    let other = AgentId::parse("b").unwrap();
    assert_eq!(
        ScopePolicy::from_document(&other, &text),
        Err(InvalidPolicy::OtherAgent)
    );
    for bad in [
        text.replace("hidden", "hiden"),
        text.replace("{\"agent", "{\"extra\":1,\"agent"),
        text.replace("\"any_model\":false,", ""),
        text.replace("\"any_model\":false", "\"any_model\":\"no\""),
        text.replace(
            "\"any_model\":false",
            "\"any_model\":false,\"any_model\":true",
        ),
        text.replace("fs.*", "f*"),
        text.replace("v1/*", "v1*"),
        text.replace("\"agent\":\"a\"", "\"agent\":\"\""),
        format!("{text} x"),
        "{}".to_owned(),
        "null".to_owned(),
        String::new(),
    ] {
        assert!(ScopePolicy::from_document(&agent(), &bad).is_err(), "{bad}");
    }
}

#[test]
fn tool_descriptions_without_one_clear_name_have_none() {
    for (name, value) in [
        (
            "x",
            json!({"type": "function", "function": {"name": "x", "parameters": {}}}),
        ),
        (
            "x",
            json!({"type": "function", "name": "x", "parameters": {}}),
        ),
        ("x", json!({"name": "x", "input_schema": {}})),
        ("x", json!({"name": "x", "inputSchema": {}})),
        ("x", json!({"name": "x", "function": {"name": "x"}})),
        ("", json!({"name": "x", "function": {"name": "y"}})),
        ("", json!({"name": "x", "function": {}})),
        ("", json!({"name": 1, "function": {"name": "x"}})),
        ("", json!({"type": "web_search"})),
        ("", json!({"name": ["x"]})),
        ("", json!({"functionDeclarations": [{"name": "x"}]})),
        ("", json!("x")),
        ("", Value::Null),
    ] {
        assert_eq!(value.tool_name(), name, "{value}");
    }
}

#[test]
fn a_refusal_on_record_holds_no_path_and_nothing_that_was_made_up() {
    let me = Principal::agent(agent());
    let show =
        |target, error, hidden| format!("{:?}", evidence::violation(&me, target, &error, hidden));
    let url = "https://API.example.com:8443/v1/hunter2?key=hunter2";
    let text = show(Target::Api(url), ScopeError::ApiDenied, false);
    assert!(
        text.contains(r#"String("https://api.example.com:8443")"#),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    let url = "https://user:hunter2@api.example.com/";
    let error = ApiUrl::parse(url).map(drop).unwrap_err();
    let text = show(Target::Api(url), ScopeError::InvalidUrl(error), false);
    assert!(
        text.contains("invalid") && !text.contains("hunter2"),
        "{text}"
    );
    let text = show(Target::Tool("hunter2 \n"), ScopeError::ToolDenied, false);
    assert!(
        text.contains("ScopeViolation") && !text.contains("hunter2"),
        "{text}"
    );
    let text = show(Target::Tool("shell"), ScopeError::ToolDenied, true);
    assert!(
        text.contains("\"hidden\"") && text.contains("\"shell\""),
        "{text}"
    );
}

#[test]
fn no_error_repeats_what_was_asked_for_or_reveals_what_is_allowed() {
    let policy = policy().allow_tools(["marker_allowed"]).unwrap();
    let policy = policy
        .allow_apis(["https://marker-allowed.test/*"])
        .unwrap();
    let mut errors = vec![tool(&policy, "marker_asked").unwrap_err()];
    for url in [
        "https://marker.test/",
        "https://a:marker@marker-allowed.test/",
        "marker",
    ] {
        errors.push(decided(&policy, Target::Api(url)).unwrap_err());
    }
    for bad in ["marker*", "mark er", "marker\u{e4}"] {
        errors.push(policy.clone().allow_tools([bad]).unwrap_err().into());
        errors.push(policy.clone().allow_apis([bad]).unwrap_err().into());
        errors.push(policy.clone().allow_models([bad]).unwrap_err().into());
    }
    for error in errors {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("marker"), "{text}");
    }
}

#[test]
fn what_either_policy_denies_is_denied() {
    let asked = |pinned: &ScopePolicy, stored: &ScopePolicy, target| {
        let (compiled, stored) = (Compiled::new(pinned), Stored::Policy(ready(stored)));
        let both = Known {
            pinned: Some(&compiled),
            stored: Some(&stored),
        };
        decide(both, target)
    };
    let wide = policy()
        .allow_tools(["x", "y"])
        .unwrap()
        .allow_any_model()
        .allow_apis(["https://a.test/*"])
        .unwrap();
    let narrow = policy().allow_tools(["x"]).unwrap();
    let hiding = wide.clone().hide_tools(["X"]).unwrap();
    let denied = Err(ScopeError::ToolDenied);
    for (a, b) in [(&wide, &narrow), (&narrow, &wide)] {
        assert_eq!(asked(a, b, Target::Tool("x")), Ok(()));
        assert_eq!(asked(a, b, Target::Tool("y")), denied);
        assert_eq!(
            asked(a, b, Target::Model("m")),
            Err(ScopeError::ModelDenied)
        );
        let api = Target::Api("https://a.test/");
        assert_eq!(asked(a, b, api), Err(ScopeError::ApiDenied));
    }
    for (a, b) in [(&wide, &hiding), (&hiding, &wide)] {
        assert_eq!(asked(a, b, Target::Tool("x")), denied);
        assert_eq!(asked(a, b, Target::Tool("y")), Ok(()));
    }
    // A stored policy that cannot be read is one that denies.
    let compiled = Compiled::new(&wide);
    let known = Known {
        pinned: Some(&compiled),
        stored: Some(&Stored::Broken),
    };
    assert_eq!(
        decide(known, Target::Tool("x")),
        Err(ScopeError::BrokenPolicy)
    );
}

fn changes(
    whole: bool,
    rows: impl IntoIterator<Item = (AgentId, Found)>,
) -> PolicyChanges<Option<Read>> {
    let rows = rows.into_iter();
    PolicyChanges {
        revision: 1,
        rows: rows
            .map(|(agent, found)| Some(Read { agent, found }))
            .collect(),
        whole,
    }
}

const BROKEN: Found = Found::Broken(InvalidPolicy::OtherAgent);

#[test]
fn the_index_changes_only_what_it_is_told_to() {
    let index = Index::new();
    let id = |i: usize| AgentId::parse(format!("agent-{i}")).unwrap();
    let entry = |i| (id(i), Found::Policy(ready(&policy())));
    index.apply(changes(true, (0..2_000).map(entry)));
    index.pin(ScopePolicy::new(id(1)), hash_of("x"));
    index.pin(ScopePolicy::new(id(3_000)), hash_of("x"));
    let several = [(id(1), Found::Gone), (id(2), BROKEN), (id(2_000), BROKEN)];
    index.apply(changes(false, several));
    assert_eq!(index.stored(), 2_000);
    assert_eq!(index.broken(Fault::Denied), [id(2_000)]);
    assert_eq!(index.broken(Fault::Kept), [id(2)]);
    for i in 0..2_001 {
        let known = index.with(&id(i), |known| {
            (known.stored.is_some(), known.pinned.is_some())
        });
        assert_eq!(known, (i != 1, i == 1), "{i}");
    }
    // Everything again: what is not in it is gone, what was pinned is not.
    index.apply(changes(true, [entry(7), (id(8), BROKEN), (id(2), BROKEN)]));
    assert_eq!(index.stored(), 3);
    assert_eq!(index.broken(Fault::Denied), []);
    assert_eq!(index.broken(Fault::Kept), [id(2), id(8)]);
    assert_eq!(index.pinned().len(), 2);
    index.apply(changes(false, [entry(8), (id(2), Found::Gone)]));
    assert_eq!(index.broken(Fault::Kept), []);
    // Twice in one look: the later counts.
    index.apply(changes(
        false,
        [
            entry(9),
            (id(9), BROKEN),
            (id(7), BROKEN),
            (id(7), Found::Gone),
        ],
    ));
    assert_eq!(index.broken(Fault::Kept), [id(9)]);
    assert_eq!(index.stored(), 2);
}

#[test]
fn what_is_in_force_has_one_name_in_every_process() {
    let id = |i: usize| AgentId::parse(format!("agent-{i}")).unwrap();
    let entry = |i| (id(i), Found::Policy(ready(&ScopePolicy::new(id(i)))));
    let (a, b) = (Index::new(), Index::new());
    assert_eq!(a.hash(), b.hash());
    a.apply(changes(true, (0..50).map(entry)));
    for i in (0..50).rev() {
        assert_ne!(a.hash(), b.hash());
        b.apply(changes(false, [entry(i)]));
    }
    assert_eq!(a.hash(), b.hash());
    a.apply(changes(false, [(id(3), BROKEN)]));
    assert_ne!(a.hash(), b.hash());
    b.apply(changes(false, [(id(3), BROKEN)]));
    assert_eq!(a.hash(), b.hash());
    let pin = ScopePolicy::new(id(3));
    a.pin(pin.clone(), pin.document().unwrap().hash);
    assert_ne!(a.hash(), b.hash());
}

/// Text that comes near to what means something in a URL.
fn url_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("https://".to_owned()),
        Just("http://".to_owned()),
        Just("api.example.com".to_owned()),
        Just("evil.test".to_owned()),
        Just("xn--p1ai".to_owned()),
        "[/@:?#.\\\\;%\\[\\]*]",
        "%[0-9a-fA-F]{2}",
        "[0-9]{1,4}",
        "0x[0-9a-f]{0,3}",
        Just("..".to_owned()),
        Just("[::ffff:1.2.3.4]".to_owned()),
        "[a-zA-Z_-]{1,3}",
        Just("\u{ff0e}".to_owned()),
        Just("\t".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    (
        prop_oneof![
            Just(""),
            Just("https://"),
            Just("https://api.example.com"),
            Just("http://1.2.3.")
        ],
        proptest::collection::vec(piece, 0..8),
    )
        .prop_map(|(head, rest)| format!("{head}{}", rest.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What we accept, the parser that Rust's HTTP clients use reads as the very same thing.
    #[test]
    fn f52_two_parsers_never_disagree_on_an_accepted_url(text in url_like()) {
        if let (Ok(ours), Ok(theirs)) = (ApiUrl::parse(&text), ::url::Url::parse(&text)) {
            prop_assert_eq!(theirs.scheme() == "https", ours.https);
            prop_assert_eq!(theirs.port_or_known_default(), Some(ours.port));
            prop_assert_eq!(theirs.path(), ours.path());
            prop_assert_eq!(theirs.username(), "");
            let host = match theirs.host().unwrap() {
                // The same address; std writes `::ffff:1.2.3.4` where `url` writes `::ffff:102:304`.
                ::url::Host::Ipv6(address) => format!("[{address}]"),
                other => other.to_string(),
            };
            prop_assert_eq!(host, ours.host.as_str());
        }
    }

    #[test]
    fn f52_only_the_listed_host_is_ever_allowed(text in url_like()) {
        if api(&["https://api.example.com/*"], &text).is_ok() {
            let theirs = ::url::Url::parse(&text).unwrap();
            prop_assert_eq!(theirs.host_str(), Some("api.example.com"));
            prop_assert_eq!(theirs.scheme(), "https");
            prop_assert_eq!(theirs.port(), None);
        }
    }

    #[test]
    fn f49_exactly_the_listed_names_are_allowed(
        listed in proptest::collection::btree_set("[a-c_.]{1,4}", 0..20),
        asked in "[a-cA-C_. ]{0,4}",
    ) {
        let policy = policy().allow_tools(&listed).unwrap();
        prop_assert_eq!(tool(&policy, &asked).is_ok(), listed.contains(&asked));
    }

    #[test]
    fn f49_exactly_the_names_under_a_listed_prefix_are_allowed(
        listed in proptest::collection::btree_set("[ab]{1,2}[./:]", 0..6),
        asked in "[ab./:*]{0,6}",
    ) {
        let policy = policy().allow_tools(listed.iter().map(|p| format!("{p}*"))).unwrap();
        let under = listed.iter().any(|p| asked.len() > p.len() && asked.starts_with(p.as_str()));
        prop_assert_eq!(tool(&policy, &asked).is_ok(), under && !asked.contains('*'));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), url in url_like()) {
        let policy = policy().allow_tools(["fs.*"]).unwrap().hide_tools(["fs.x"]).unwrap();
        prop_assert!(tool(&policy, &text).is_err() || text.starts_with("fs."));
        for text in [text, url] {
            let _ = api(&["https://a.test/*"], &text);
            let _ = policy.clone().allow_tools([&text]);
            let _ = policy.clone().allow_apis([&text]);
            let _ = policy.clone().allow_models([&text]);
            let _ = ScopePolicy::from_document(&agent(), &text);
        }
    }
}
