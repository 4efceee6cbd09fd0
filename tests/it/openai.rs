//! The async-openai adapter, through the real client, against a server on the wire.

use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessage, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
    CreateChatCompletionStreamResponse,
};
use async_openai::types::embeddings::CreateEmbeddingRequestArgs;
use async_openai::types::responses::{CreateResponse, CreateResponseArgs, ResponseStreamEvent};
use futures_util::StreamExt as _;
use portcullis::adapters::openai::{Governed, Ungoverned, governed, refusal, ungoverned};
use portcullis::{ErrorKind, Gate as Of, Usd};
use serde_json::{Value, json};

use crate::common::openai_gate::{Charge, End, Gate, Gates};
use crate::common::openai_server::{Behaviour, Server, chat_usage, responses_usage};

/// The output limit of every request.
pub(crate) const MOST: u32 = 500;

pub(crate) fn request() -> CreateChatCompletionRequest {
    CreateChatCompletionRequestArgs::default()
        .model("gpt-4o")
        .messages([ChatCompletionRequestUserMessage::from("Say hello").into()])
        .max_completion_tokens(MOST)
        .build()
        .expect("a request")
}

pub(crate) fn response_request() -> CreateResponse {
    CreateResponseArgs::default()
        .model("gpt-4o")
        .input("Say hello")
        .max_output_tokens(MOST)
        .build()
        .expect("a request")
}

/// What the application sees of a stream.
pub(crate) async fn chunks(
    gate: &Gate,
    server: &Server,
    request: CreateChatCompletionRequest,
) -> Vec<Result<CreateChatCompletionStreamResponse, OpenAIError>> {
    let client = governed(&gate.gov, &gate.me, server.client());
    let stream = client
        .chat()
        .create_stream(request)
        .await
        .expect("a stream");
    stream.collect().await
}

pub(crate) fn said(chunks: &[Result<CreateChatCompletionStreamResponse, OpenAIError>]) -> String {
    let chunks = chunks.iter().map(|chunk| chunk.as_ref().expect("a chunk"));
    // Indexing on purpose: a chunk without choices would panic, as it does in applications.
    chunks
        .filter_map(|chunk| chunk.choices[0].delta.content.clone())
        .collect()
}

#[tokio::test]
async fn a_unary_chat_is_charged_what_the_wire_says() {
    let server = Server::start(Behaviour::default()).await;
    let gate = Gate::open(&server).await;

    let client = governed(&gate.gov, &gate.me, server.client());
    let answer = client.chat().create(request()).await.expect("an answer");

    assert_eq!(
        answer.choices[0].message.content.as_deref(),
        Some("Hello there")
    );
    // Settled before the application has the answer: nothing is waited for.
    let call = gate.booked().await;
    assert_eq!(call.state, "settled");
    assert_eq!(call.provider.as_deref(), Some("openai"));
    assert!((u64::from(MOST) + 11..u64::from(MOST) + 300).contains(&call.reserved));
    assert!(call.charged_usd < call.reserved_usd);
    assert_eq!(gate.charge().await, Charge::Used(11, 7));
    let usage = gate.usage().await;
    assert_eq!((usage.cached_input_tokens, usage.reasoning_tokens), (4, 3));
    let ended = gate.ended().await;
    assert_eq!(ended.end, End::Completed);
    assert_eq!(
        ended.model.as_deref(),
        Some("gpt-4o-2024-08-06"),
        "it answered"
    );
    assert!(ended.output_hash.is_some());
}

/// The tier of the request is reserved, the tier of the response is charged.
#[tokio::test]
async fn each_tier_has_its_price() {
    let gates = Gates::start().await;
    let mut charged = Vec::new();
    for name in ["flex", "default", "priority"] {
        let server = Server::start(Behaviour {
            model: "gpt-5.1",
            tier: Some(name),
            ..Behaviour::default()
        })
        .await;
        let (unary, streamed) = (gates.open(&server).await, gates.open(&server).await);
        let request = || {
            let mut request = request();
            request.model = "gpt-5.1".to_owned();
            request.service_tier = serde_json::from_value(json!(name)).expect("a tier");
            request
        };
        let client = governed(&unary.gov, &unary.me, server.client());
        client.chat().create(request()).await.expect("an answer");
        chunks(&streamed, &server, request()).await;
        assert_eq!(unary.charge().await, Charge::Used(11, 7));
        assert_eq!(streamed.charge().await, Charge::Used(11, 7));
        let (unary, streamed) = (unary.booked().await, streamed.booked().await);
        assert_eq!(unary.charged_usd, streamed.charged_usd);
        assert!(unary.charged_usd < unary.reserved_usd);
        charged.push((unary.reserved_usd.as_nanos(), unary.charged_usd));
    }
    let [flex, ordinary, priority] = charged.try_into().expect("three tiers");
    assert!(flex.1 < ordinary.1 && ordinary.1 < priority.1);
    // The requests differ by a token or two, because the tier's name is part of them.
    assert!(flex.0.abs_diff(ordinary.0) < ordinary.0.unsigned_abs() / 100);
    assert!(priority.0 > ordinary.0 / 2 * 3);
}

/// F29: cached tokens counted twice or subtracted below zero.
#[tokio::test]
async fn f29_cached_tokens_are_part_of_the_input() {
    let gates = Gates::start().await;
    let mut charged = Vec::new();
    // Where more is cached than there is, the cache is counted apart.
    for (prompt, cached, input) in [(100, 0, 100), (100, 60, 100), (100, 100, 100), (10, 64, 74)] {
        let mut usage = chat_usage(prompt, 5);
        usage["prompt_tokens_details"]["cached_tokens"] = cached.into();
        let server = Server::start(Behaviour {
            usage,
            ..Behaviour::default()
        })
        .await;
        let (unary, streamed) = (gates.open(&server).await, gates.open(&server).await);
        let client = governed(&unary.gov, &unary.me, server.client());
        client.chat().create(request()).await.expect("an answer");
        chunks(&streamed, &server, request()).await;
        for gate in [unary, streamed] {
            assert_eq!(gate.charge().await, Charge::Used(input, 5));
            assert_eq!(gate.usage().await.cached_input_tokens, cached);
            charged.push(gate.booked().await.charged_usd);
        }
    }
    assert!(
        charged[0] > charged[2] && charged[2] > charged[4],
        "cached is cheaper"
    );
    assert!(charged.iter().all(|usd| *usd > Usd::ZERO), "and never free");
}

/// F31: reported usage missing: the budget evaluates against zero.
#[tokio::test]
async fn f31_missing_usage_is_never_zero() {
    let bad = |key: &str, value: Value| {
        let mut usage = chat_usage(11, 7);
        usage[key] = value;
        usage
    };
    let gates = Gates::start().await;
    for usage in [
        Value::Null,
        json!({}),
        json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        bad("prompt_tokens", json!(-11)),
        bad("prompt_tokens", json!("11")),
        bad("completion_tokens", json!(7.5)),
        bad("completion_tokens", json!(u64::MAX)),
        bad("prompt_tokens_details", json!({"cached_tokens": -1})),
    ] {
        let server = Server::start(Behaviour {
            usage: usage.clone(),
            ..Behaviour::default()
        })
        .await;
        let (unary, streamed) = (gates.open(&server).await, gates.open(&server).await);
        let client = governed(&unary.gov, &unary.me, server.client());
        // The client may refuse to parse such an answer; it is charged all the same.
        let _ = client.chat().create(request()).await;
        let all = chunks(&streamed, &server, request()).await;
        assert_eq!(
            said(&all),
            "Hello thére",
            "withheld though it cannot be read"
        );
        for gate in [unary, streamed] {
            assert_eq!(gate.charge().await, Charge::Reserved, "{usage}");
        }
    }
}

#[tokio::test]
async fn responses_are_metered_unary_and_streaming() {
    let behaviour = Behaviour {
        usage: responses_usage(11, 7),
        ..Behaviour::default()
    };
    let (gates, server) = (Gates::start().await, Server::start(behaviour).await);
    let (unary, streamed) = (gates.open(&server).await, gates.open(&server).await);

    let client = governed(&unary.gov, &unary.me, server.client());
    let answer = client.responses().create(response_request()).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.output_text().as_deref(), Some("Hello there"));

    let client = governed(&streamed.gov, &streamed.me, server.client());
    let stream = client.responses().create_stream(response_request()).await;
    let stream = stream.expect("a stream");
    let events: Vec<_> = stream.map(|event| event.expect("an event")).collect().await;
    assert!(matches!(
        events.last(),
        Some(ResponseStreamEvent::ResponseCompleted(_))
    ));
    assert_eq!(events.len(), 5);

    for gate in [unary, streamed] {
        assert_eq!(gate.charge().await, Charge::Used(11, 7));
        let usage = gate.usage().await;
        assert_eq!((usage.cached_input_tokens, usage.reasoning_tokens), (4, 3));
        assert!(gate.booked().await.reserved > u64::from(MOST));
        assert!(gate.ended().await.output_hash.is_some());
    }
    assert!(
        server.seen()[1].json().get("stream_options").is_none(),
        "they report unasked"
    );
}

#[tokio::test]
async fn an_incomplete_or_failed_response_is_charged_its_usage() {
    let gates = Gates::start().await;
    let run = async |behaviour: Behaviour| {
        let server = Server::start(behaviour).await;
        let gate = gates.open(&server).await;
        let client = governed(&gate.gov, &gate.me, server.client());
        let stream = client.responses().create_stream(response_request()).await;
        stream.expect("a stream").for_each(|_| async {}).await;
        gate
    };
    let usage = responses_usage(11, 7);
    for (last, end) in [
        ("response.incomplete", End::Completed),
        ("response.failed", End::Failed("response.failed".to_owned())),
    ] {
        let gate = run(Behaviour {
            usage: usage.clone(),
            last,
            ..Behaviour::default()
        })
        .await;
        assert_eq!(gate.end().await, end);
        assert_eq!(gate.charge().await, Charge::Used(11, 7));
    }
    for (usage, cut) in [(Value::Null, None), (usage, Some(900))] {
        let gate = run(Behaviour {
            usage,
            cut,
            ..Behaviour::default()
        })
        .await;
        assert_eq!(gate.charge().await, Charge::Reserved);
    }
}

#[tokio::test]
async fn a_refusal_comes_back_typed_and_nothing_is_sent() {
    let (gates, server) = (
        Gates::start().await,
        Server::start(Behaviour::default()).await,
    );
    for (gate, by) in [
        (gates.closed().await, Of::Scope),
        (gates.poor(&server).await, Of::Cost),
    ] {
        let client = governed(&gate.gov, &gate.me, server.client());
        let error = client.chat().create(request()).await.expect_err("refused");
        let found = refusal(&error).expect("a refusal");
        assert_eq!((found.gate(), found.kind()), (by, ErrorKind::Denied));
        assert!(ungoverned(&error).is_none());
        assert!(error.to_string().contains(found.remedy()), "{error}");

        let error = client.responses().create(response_request()).await;
        let error = error.expect_err("refused");
        assert!(matches!(error, OpenAIError::Boxed(_)));
        let wrapped = std::io::Error::other(error);
        let found = refusal(&wrapped).map(portcullis::Refusal::gate);
        assert_eq!(found, Some(by), "found through the application's own error");

        assert!(server.seen().is_empty());
        assert_eq!(gate.calls().await, 0);
        assert!(
            gate.refused_by()
                .await
                .iter()
                .all(|gate| gate == by.as_str())
        );
    }
}

#[tokio::test]
async fn what_is_not_metered_is_not_sent() {
    let server = Server::start(Behaviour {
        usage: responses_usage(11, 7),
        ..Behaviour::default()
    })
    .await;
    let gate = Gate::open(&server).await;
    let client = governed(&gate.gov, &gate.me, server.client());

    let embed = CreateEmbeddingRequestArgs::default()
        .model("text-embedding-3-small")
        .input("text")
        .build()
        .expect("a request");
    let error = client.embeddings().create(embed).await;
    let error = error.expect_err("not sent");
    let family = "embeddings";
    assert_eq!(ungoverned(&error), Some(&Ungoverned::Endpoint { family }));
    let kind = ungoverned(&error).map(Ungoverned::kind);
    assert_eq!(kind, Some(ErrorKind::Misuse));

    let mut background = response_request();
    background.background = Some(true);
    let error = client.responses().create(background).await;
    let error = error.expect_err("not sent");
    assert_eq!(ungoverned(&error), Some(&Ungoverned::Background));

    let error = client.responses().create(search()).await;
    let error = error.expect_err("not sent");
    assert_eq!(ungoverned(&error), Some(&Ungoverned::HostedTools));
    assert!(server.seen().is_empty());
    assert_eq!(gate.calls().await, 0);
}

fn search() -> CreateResponse {
    let search = json!({"model": "gpt-4o", "input": "x", "max_output_tokens": MOST,
        "tools": [{"type": "web_search"}]});
    serde_json::from_value(search).expect("a request")
}

#[tokio::test]
async fn what_only_the_provider_sees_is_bounded_by_the_host_or_refused() {
    let server = Server::start(Behaviour {
        usage: responses_usage(11, 7),
        ..Behaviour::default()
    })
    .await;
    let gate = Gate::open(&server).await;
    let wrapped = Governed::new(&gate.gov, &gate.me).allow_hosted_tools();
    let client = wrapped.clone().wrap(server.client());
    let error = client.responses().create(search()).await;
    let error = error.expect_err("nobody here knows what the search finds");
    let found = refusal(&error).expect("a refusal");
    assert_eq!((found.gate(), found.kind()), (Of::Call, ErrorKind::Misuse));
    assert!(server.seen().is_empty());

    let client = wrapped.unseen_input_tokens(50_000).wrap(server.client());
    client
        .responses()
        .create(search())
        .await
        .expect("an answer");
    assert!(gate.booked().await.reserved > 50_000 + u64::from(MOST));
    assert_eq!(gate.charge().await, Charge::Used(11, 7));
}

#[tokio::test]
async fn reading_is_free_but_in_scope() {
    let (gates, server) = (
        Gates::start().await,
        Server::start(Behaviour::default()).await,
    );
    let narrow = gates.narrow(&server).await;
    let client = governed(&narrow.gov, &narrow.me, server.client());
    client.chat().create(request()).await.expect("in scope");
    let error = client.models().list().await.expect_err("out of scope");
    let found = refusal(&error).expect("a refusal");
    assert_eq!((found.gate(), found.kind()), (Of::Scope, ErrorKind::Denied));
    assert_eq!(server.seen().len(), 1, "the chat");
    let error = client.responses().create(response_request()).await;
    let error = error.expect_err("out of scope");
    assert_eq!(
        refusal(&error).map(portcullis::Refusal::gate),
        Some(Of::Scope)
    );
    assert_eq!(narrow.calls().await, 1);

    let poor = gates.poor(&server).await;
    let client = governed(&poor.gov, &poor.me, server.client());
    client.models().list().await.expect("no budget is asked");
    assert_eq!(server.seen()[1].path, "/v1/models");
    assert_eq!(poor.calls().await, 0);
}

#[tokio::test]
async fn the_hosts_http_client_is_the_one_that_is_used() {
    let server = Server::start(Behaviour::default()).await;
    let gate = Gate::open(&server).await;
    let http = reqwest::Client::builder()
        .user_agent("the host's")
        .build()
        .expect("a client");
    let client = Governed::new(&gate.gov, &gate.me)
        .http_client(http)
        .wrap(server.client());
    client.chat().create(request()).await.expect("an answer");
    let seen = server.seen();
    assert_eq!(seen[0].headers["user-agent"], "the host's");
    assert_eq!(seen[0].headers["authorization"], "Bearer not-a-key");
}
