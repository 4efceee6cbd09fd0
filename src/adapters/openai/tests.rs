//! The parts that need no network.

use sha2::Digest as _;
use std::error::Error;

use bytes::Bytes;
use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::error::{Ungoverned, boxed, refusal};
use super::estimate::text_tokens;
use super::meter::{End, Meter, Report};
use super::reader::Reader;
use super::request::{Endpoint, ModelRequest, Rules, endpoint};
use super::splice::with_member;
use super::sse::{self, Piece, Splitter};
use super::usage;
use crate::{ErrorKind, Gate, Refusal, Tier, Usage};

fn read(endpoint: Endpoint, body: &str) -> Result<ModelRequest, Ungoverned> {
    ModelRequest::read(endpoint, body.as_bytes(), &Rules::default())
}

/// `bytes` in frames that begin at `cuts`.
fn frames(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<Bytes> {
    for cut in &mut cuts {
        *cut %= bytes.len() + 1;
    }
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]))
        .collect()
}

/// What comes out of a stream, and how its call ends.
fn through(bytes: &[u8], cuts: Vec<usize>, withhold: bool) -> (String, End) {
    let mut reader = Reader::new(Some(100), withhold);
    let (mut out, mut end) = (Vec::new(), None);
    for frame in frames(bytes, cuts) {
        out.extend(reader.read(&frame));
        if reader.is_closed() {
            end.get_or_insert_with(|| reader.end());
        }
    }
    out.extend(reader.finish().unwrap_or_default());
    let end = end.unwrap_or_else(|| reader.end());
    (String::from_utf8(out).expect("the text that went in"), end)
}

fn report(end: End) -> Report {
    match end {
        End::Reported(report) => report,
        End::Unknown(_) => panic!("{end:?}"),
    }
}

const HEAD: &str = "\u{feff}: hello\n\ndata: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"content\":\"é\"}}],\"usage\":null}\n\nevent: x\rdata: {\"choices\":[],\r\ndata:\"usage\":null}\r\n\r\n";
const USAGE: &str = "data: {\"model\":\"m-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":2}}}\r\n\r\n";
const DONE: &str = "\n\ndata: [DONE]\n\nand a rest";

proptest! {
    /// The same bytes, cut anywhere, give the same bytes, the same usage and the same hash.
    #[test]
    fn cuts_change_nothing(cuts in prop::collection::vec(any::<usize>(), 0..40), crlf: bool) {
        let ends = |text: &str| if crlf { text.to_owned() } else { text.replace('\r', "") };
        let (head, usage, done) = (ends(HEAD), ends(USAGE), ends(DONE));
        let whole = [head.as_str(), &usage, &done].concat();
        let used = Usage::tokens(9, 3).cached(2);
        let rest = "and a rest".len();

        let (out, end) = through(whole.as_bytes(), cuts.clone(), true);
        prop_assert_eq!(&out, &[head, done].concat());
        let report_withheld = report(end);
        prop_assert_eq!(report_withheld.usage, used);
        prop_assert_eq!(report_withheld.model.as_deref(), Some("m-1"));
        prop_assert_eq!(report_withheld.output, <[u8; 32]>::from(sha2::Sha256::digest(&out.as_bytes()[..out.len() - rest])));

        let (out, end) = through(whole.as_bytes(), cuts, false);
        prop_assert_eq!(&out, &whole);
        let report = report(end);
        prop_assert_eq!(report.usage, used);
        prop_assert_eq!(report.output, <[u8; 32]>::from(sha2::Sha256::digest(&out.as_bytes()[..out.len() - rest])));
    }

    /// Whatever the bytes are, none is lost, and the events do not depend on the cuts.
    #[test]
    fn pieces_are_the_stream(
        bytes in "[\r\n:da t\\[\\]{}\u{feff}é]{0,60}",
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        limit in 0_usize..30,
    ) {
        let split = |cuts| {
            let mut splitter = Splitter::new(limit);
            let (mut all, mut events) = (Vec::new(), Vec::new());
            let mut take = |piece| match piece {
                Piece::Event(event) => { all.extend(&event); events.push(event); }
                Piece::Fragment(bytes) => all.extend(bytes),
                Piece::Tail => all.push(b'\n'),
            };
            for frame in frames(bytes.as_bytes(), cuts) {
                splitter.push(&frame, &mut take);
            }
            splitter.finish().into_iter().for_each(&mut take);
            (all, events)
        };
        let (all, events) = split(cuts);
        prop_assert_eq!(&all, bytes.as_bytes());
        prop_assert_eq!(events, split(Vec::new()).1);
    }

    /// No numbers make a part larger than its total, or anything negative.
    #[test]
    fn f29_parts_stay_inside_their_totals(
        input in 0_u32..50, output in 0_u32..50, cached in -3_i64..100, written in 0_u32..100,
        reasoned in 0_u32..100,
    ) {
        let object = json!({
            "input_tokens": input, "output_tokens": output,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
            "output_tokens_details": {"reasoning_tokens": reasoned},
        });
        if let Some(usage) = usage::read(&object.to_string(), Tier::Standard) {
            prop_assert!(usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens);
            prop_assert!(usage.reasoning_tokens <= usage.output_tokens);
            prop_assert!(usage.input_tokens >= u64::from(input));
            prop_assert!(usage.input_tokens > 0);
        }
    }

    /// The body stays what it was, but for the one member.
    #[test]
    fn a_splice_changes_one_member(keys in prop::collection::btree_set("[a-zé\"\\\\]{0,4}", 0..5), at: u8) {
        let mut object: serde_json::Map<_, _> =
            keys.iter().map(|key| (key.clone(), json!([1, {"x": null}]))).collect();
        let key = keys.iter().nth(usize::from(at) % 6).map_or("new", String::as_str);
        let text = Value::Object(object.clone()).to_string();
        // The key is spliced in as it is, so only plain ones are asked for.
        prop_assume!(!key.contains(['"', '\\']));
        let spliced = with_member(&text, key, "7").unwrap();
        object.insert(key.to_owned(), json!(7));
        prop_assert_eq!(serde_json::from_str::<Value>(&spliced).unwrap(), Value::Object(object));
    }
}

#[test]
fn data_is_joined_as_the_standard_says() {
    for (event, expected) in [
        ("data: a\n\n", Some("a")),
        ("data:a\r\n\r\n", Some("a")),
        ("data:  a\rid: 3\rdata: b\r\r", Some(" a\nb")),
        ("data\n\n", Some("")),
        ("\u{feff}data: a\n\n", Some("a")),
        ("database: a\n\n", None),
        (": data: a\n\n", None),
        ("\n", None),
    ] {
        let data = sse::data(event.as_bytes()).map(|data| String::from_utf8(data).unwrap());
        // A line feed between CR and LF splits into an empty line, which is no field.
        assert_eq!(data.as_deref(), expected, "{event:?}");
    }
}

#[test]
fn a_body_is_amended_in_its_text() {
    let body = r#"{"model":"m", "seed":12345678901234567890123, "temperature":1.10,"stream":true}"#;
    let asked = read(Endpoint::Chat, body).expect("a request");
    assert!(asked.withhold);
    assert_eq!(
        asked.body,
        body.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1)
    );
    for (options, amended, withhold) in [
        ("null", r#"{"include_usage":true}"#, true),
        ("{}", r#"{"include_usage":true}"#, true),
        (
            r#"{ "a" : 1.0 }"#,
            r#"{"include_usage":true, "a" : 1.0 }"#,
            true,
        ),
        (
            r#"{"include_usage":false,"a":[]}"#,
            r#"{"include_usage":true,"a":[]}"#,
            true,
        ),
        (
            r#"{"include_usage":true}"#,
            r#"{"include_usage":true}"#,
            false,
        ),
    ] {
        let body = |options| format!(r#"{{"model":"m","stream_options":{options},"stream":true}}"#);
        let asked = read(Endpoint::Chat, &body(options)).expect("a request");
        assert_eq!((asked.body, asked.withhold), (body(amended), withhold));
    }
    assert!(!read(Endpoint::Responses, body).expect("a request").withhold);
}

#[test]
fn a_body_that_can_be_read_in_two_ways_is_not_sent() {
    for body in [
        r#"{"model":"cheap","model":"dear"}"#,
        r#"{"model":"cheap","mod\u0065l":"dear"}"#,
        r#"{"model":7}"#,
        r#"{"stream":true}"#,
        r#"["model"]"#,
        "model=m",
        r#"{"model":"m","n":-1,"max_tokens":5}"#,
        r#"{"model":"m","n":5}"#,
        r#"{"model":"m","max_tokens":1.5}"#,
        r#"{"model":"m","stream":true,"stream_options":{"a":1,"a":2}}"#,
        r#"{"model":"m","stream":"yes"}"#,
    ] {
        let error = read(Endpoint::Chat, body).expect_err(body);
        assert!(
            matches!(error, Ungoverned::Body { .. }),
            "{body}: {error:?}"
        );
        assert!(
            !error.to_string().contains("dear"),
            "no content in the message"
        );
    }
}

#[test]
fn the_output_is_bounded_by_the_limit_times_the_choices() {
    for (endpoint, body, output) in [
        (Endpoint::Chat, r#"{"model":"m"}"#, None),
        (Endpoint::Chat, r#"{"model":"m","n":1}"#, None),
        (Endpoint::Chat, r#"{"model":"m","max_tokens":9}"#, Some(9)),
        (
            Endpoint::Chat,
            r#"{"model":"m","max_tokens":9,"max_completion_tokens":20,"n":3}"#,
            Some(60),
        ),
        (
            Endpoint::Chat,
            r#"{"model":"m","max_tokens":18446744073709551615,"n":3}"#,
            Some(u64::MAX),
        ),
        (
            Endpoint::Responses,
            r#"{"model":"m","max_output_tokens":9}"#,
            Some(9),
        ),
        (
            Endpoint::Responses,
            r#"{"model":"m","max_output_tokens":null}"#,
            None,
        ),
    ] {
        assert_eq!(read(endpoint, body).expect(body).output, output, "{body}");
    }
}

#[test]
fn the_input_is_estimated_by_what_it_is() {
    let input = |content: Value| {
        let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]});
        read(Endpoint::Chat, &body.to_string())
            .expect("a request")
            .input
    };
    let base = input(json!("")).expect("a bound");
    assert!(base < 100);
    assert_eq!(input(json!("治".repeat(100))), Some(base + 300));
    assert!(input(json!("word ".repeat(1000))).is_some_and(|n| (2500..4000).contains(&n)));

    let data = format!("data:image/png;base64,{}", "A".repeat(1_000_000));
    let image =
        |detail| json!([{"type": "image_url", "image_url": {"url": data, "detail": detail}}]);
    assert!(input(image("high")).is_some_and(|n| (10_000..10_200).contains(&n)));
    assert!(input(image("low")).is_some_and(|n| (3_000..3_200).contains(&n)));
    let audio = json!([{"type": "input_audio", "input_audio": {"data": "A".repeat(32_000), "format": "wav"}}]);
    assert!(input(audio).is_some_and(|n| (1_000..1_200).contains(&n)));
    let file = |file| json!([{"type": "file", "file": file}]);
    assert!(input(file(json!({"file_data": "A".repeat(5_000)}))).is_some_and(|n| n > 5_000));
    assert_eq!(
        input(file(json!({"file_id": "file-1"}))),
        None,
        "only the provider knows"
    );

    for body in [
        r#"{"model":"m","input":"x","previous_response_id":"resp_1"}"#,
        r#"{"model":"m","input":"x","conversation":"conv_1"}"#,
        r#"{"model":"m","input":[{"type":"item_reference","id":"x"}]}"#,
    ] {
        assert_eq!(
            read(Endpoint::Responses, body).expect(body).input,
            None,
            "{body}"
        );
    }
    let rules = Rules {
        unseen_input_tokens: Some(7_000),
        ..Rules::default()
    };
    let body = br#"{"model":"m","input":"x","previous_response_id":"resp_1"}"#;
    let asked = ModelRequest::read(Endpoint::Responses, body, &rules).expect("a request");
    assert!(asked.input.is_some_and(|n| (7_000..7_200).contains(&n)));
    let body = r#"{"model":"m","input":"x","prompt":{"id":"p"}}"#;
    assert_eq!(
        read(Endpoint::Responses, body).err(),
        Some(Ungoverned::HostedTools)
    );
    // A picture is only one where pictures go: elsewhere it is text.
    let schema = json!({"type": "input_image", "image_url": "A".repeat(50_000)});
    let body =
        json!({"model": "m", "messages": [], "tools": [{"type": "function", "function": schema}]});
    let asked = read(Endpoint::Chat, &body.to_string()).expect("a request");
    assert!(asked.input.is_some_and(|n| n > 50_000));
    assert_eq!(text_tokens(""), 0);
}

#[test]
fn what_is_not_known_to_be_harmless_is_not_metered() {
    use Endpoint::{Chat, Free, Responses, Unmetered};
    for (method, path, expected) in [
        (Method::POST, "/v1/chat/completions", Chat),
        (Method::POST, "/openai/deployments/d/chat/completions", Chat),
        (Method::POST, "/v1/responses", Responses),
        (Method::GET, "/v1/models", Free),
        (Method::POST, "/v1/responses/resp_1/cancel", Free),
        (Method::DELETE, "/v1/responses/resp_1", Free),
        (
            Method::POST,
            "/v1/responses/compact",
            Unmetered("responses"),
        ),
        (
            Method::POST,
            "/v1/chat/completions/",
            Unmetered("completions"),
        ),
        (
            Method::POST,
            "/v1/chat/complet%69ons",
            Unmetered("requested"),
        ),
        (
            Method::POST,
            "/v1/batches/batch_1/cancel",
            Unmetered("batches"),
        ),
        (Method::POST, "/v1/images/generations", Unmetered("images")),
        (Method::PUT, "/v1/responses", Unmetered("responses")),
        (Method::DELETE, "/v1/files/file-1", Unmetered("files")),
        (Method::POST, "/v1/new", Unmetered("requested")),
    ] {
        assert_eq!(endpoint(&method, path), expected, "{method} {path}");
    }
}

/// xAI and some gateways count reasoning beside the output, and only the total says so.
#[test]
fn f29_what_is_counted_apart_is_charged_too() {
    let counts = |json: &str| {
        let usage = usage::read(json, Tier::Standard).unwrap();
        (usage.input_tokens, usage.output_tokens)
    };
    for (json, wanted) in [
        (
            r#"{"prompt_tokens":10120,"completion_tokens":1499,"total_tokens":14428,
                "completion_tokens_details":{"reasoning_tokens":2809}}"#,
            (10_120, 4_308),
        ),
        (
            r#"{"prompt_tokens":20,"completion_tokens":198,"total_tokens":623}"#,
            (20, 603),
        ),
        // Without a total, parts that are more than the whole are counted apart.
        (
            r#"{"prompt_tokens":10,"completion_tokens":7,
                "prompt_tokens_details":{"cached_tokens":30},
                "completion_tokens_details":{"reasoning_tokens":50}}"#,
            (40, 57),
        ),
        // A total that is less than its parts says nothing, and neither does one that fits.
        (
            r#"{"prompt_tokens":10,"completion_tokens":7,"total_tokens":3}"#,
            (10, 7),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,
                "completion_tokens_details":{"reasoning_tokens":5}}"#,
            (10, 7),
        ),
    ] {
        assert_eq!(counts(json), wanted, "{json}");
    }
    let huge = r#"{"prompt_tokens":1,"completion_tokens":1,"total_tokens":1000000001}"#;
    assert_eq!(usage::read(huge, Tier::Standard), None);
}

#[test]
fn f31_usage_that_cannot_be_true_is_missing() {
    let read = |json: &str| usage::read(json, Tier::Standard);
    for json in [
        "null",
        "[]",
        "{}",
        r#"{"prompt_tokens":5}"#,
        r#"{"prompt_tokens":5,"completion_tokens":-1}"#,
        r#"{"prompt_tokens":5.0,"completion_tokens":1}"#,
        r#"{"prompt_tokens":"5","completion_tokens":1}"#,
        r#"{"prompt_tokens":1e3,"completion_tokens":1}"#,
        r#"{"prompt_tokens":5,"completion_tokens":99999999999999999999}"#,
        r#"{"prompt_tokens":5,"completion_tokens":1000000001}"#,
        r#"{"prompt_tokens":5,"prompt_tokens":6,"completion_tokens":1}"#,
        r#"{"prompt_tokens":0,"completion_tokens":0}"#,
        r#"{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":7}"#,
    ] {
        assert_eq!(read(json), None, "{json}");
    }
    let both = r#"{"prompt_tokens":5,"input_tokens":6,"output_tokens":1,"completion_tokens":1,"prompt_tokens_details":null}"#;
    assert_eq!(read(both).map(|usage| usage.input_tokens), Some(6));
}

/// What was seen of a call whose end is unknown, in input and output tokens.
fn unknown(end: &End) -> Option<(u64, u64)> {
    match end {
        End::Unknown(seen) => seen.map(|seen| (seen.input_tokens, seen.output_tokens)),
        End::Reported(_) => panic!("{end:?}"),
    }
}

const DELTA: &str = "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n";
const END: &str = "data: [DONE]\n\n";

fn last(tokens: &str) -> String {
    format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{tokens}}}}}\n\n"
    )
}

#[test]
fn f28_a_stream_without_the_last_word_is_unknown() {
    let whole = |parts: &[&str]| through(parts.concat().as_bytes(), Vec::new(), true);
    // Running totals of a server that sends them: not the last word before the stream is done.
    assert_eq!(unknown(&whole(&[DELTA]).1), Some((100, 3)));
    assert_eq!(report(whole(&[DELTA, END]).1).usage.output_tokens, 3);
    // The last word counts, not the first; and one that cannot be read is none.
    let text = [&last("1"), DELTA, &last("5")].concat();
    let (out, end) = through(text.as_bytes(), (0..text.len()).collect(), true);
    assert_eq!(out, DELTA);
    assert_eq!(report(end).usage.output_tokens, 5);
    assert!(unknown(&whole(&[&last("1"), DELTA]).1).is_some());

    let cut = format!("{HEAD}{}", USAGE.trim_end());
    let (out, end) = through(cut.as_bytes(), Vec::new(), true);
    assert_eq!(out, cut, "half an event is not withheld");
    assert!(unknown(&end).is_some());
    // However short: nothing of it is free.
    for length in 0..cut.len() {
        let mut reader = Reader::new(Some(100), true);
        reader.read(&cut.as_bytes()[..length]);
        assert!(matches!(reader.end(), End::Unknown(_)), "{length}");
    }
}

#[test]
fn f31_usage_that_is_missing_or_unreadable_is_unknown() {
    let end = |text: &str| through(text.as_bytes(), Vec::new(), true).1;
    assert_eq!(unknown(&end(END)), None);
    assert!(unknown(&end(&[DELTA, &last("-5"), END].concat())).is_some());

    let whole = |body: Value| {
        let mut meter = Meter::new(Some(100), false);
        meter.whole(body.to_string().as_bytes());
        meter.end([7; 32])
    };
    for body in [
        json!({"choices": [{}]}),
        json!({"choices": [{}], "usage": null}),
        json!({"choices": [{}], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
        json!("no object"),
    ] {
        assert_eq!(unknown(&whole(body)), None);
    }
    let body = json!({"model": "m-1", "service_tier": "priority",
        "usage": {"prompt_tokens": 9, "completion_tokens": 3}});
    assert_eq!(
        report(whole(body)),
        Report {
            usage: Usage::tokens(9, 3).tier(Tier::Priority),
            model: Some("m-1".to_owned()),
            failure: None,
            output: [7; 32],
        }
    );
}

#[test]
fn the_dearest_tier_that_may_be_billed_is_reserved() {
    for (tier, reserved) in [
        ("null", Tier::Standard),
        (r#""auto""#, Tier::Standard),
        (r#""flex""#, Tier::Standard),
        (r#""priority""#, Tier::Priority),
        (r#""new""#, Tier::Priority),
    ] {
        let body = format!(r#"{{"model":"m","service_tier":{tier}}}"#);
        assert_eq!(
            read(Endpoint::Chat, &body).expect("a request").tier,
            reserved
        );
    }
}

#[test]
fn a_refusal_is_found_however_deep() {
    #[derive(Debug, thiserror::Error)]
    #[error("the agent failed")]
    struct Wrapped(#[source] Box<dyn Error + Send + Sync>);

    let inner = Refusal::new(Gate::Cost, ErrorKind::Denied, "spent", "raise the budget");
    let client = || boxed(inner.clone());
    assert_eq!(refusal(&inner), Some(&inner));
    assert_eq!(refusal(&client()), Some(&inner));
    assert_eq!(refusal(&Wrapped(client().into())), Some(&inner));
    assert_eq!(
        refusal(&Wrapped(std::io::Error::other(client()).into())),
        Some(&inner)
    );
    assert_eq!(refusal(&std::io::Error::other("no")), None);
}
