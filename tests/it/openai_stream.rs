//! Governed chat streams: the withheld chunk, cuts, and who pays for them.

use futures_util::StreamExt as _;
use portcullis::adapters::openai::{Governed, governed, refusal};
use serde_json::json;

use crate::common::openai_gate::{Charge, End, Gate, Gates};
use crate::common::openai_server::{Behaviour, Server, chat_usage};
use crate::openai::{chunks, request, said};

/// F55: streaming skipped the gate and logged success.
#[tokio::test]
async fn f55_a_stream_asks_the_gate_and_is_metered() {
    let (gates, server) = (
        Gates::start().await,
        Server::start(Behaviour::default()).await,
    );
    let gate = gates.open(&server).await;

    let chunks = chunks(&gate, &server, request()).await;

    assert_eq!(said(&chunks), "Hello thére");
    assert!(
        chunks.iter().flatten().all(|chunk| chunk.usage.is_none()),
        "the chunk is withheld"
    );
    assert_eq!(gate.charge().await, Charge::Used(11, 7));
    let sent = server.seen()[0].json();
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    assert_eq!(gate.calls().await, 1);
    assert!(gate.ended().await.output_hash.is_some());
    assert!(!server.seen()[0].headers.contains_key("accept-encoding"));

    let closed = gates.closed().await;
    let client = governed(&closed.gov, &closed.me, server.client());
    let error = client
        .chat()
        .create_stream(request())
        .await
        .err()
        .expect("refused");
    assert!(refusal(&error).is_some(), "{error:?}");
    assert_eq!(server.seen().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn an_application_that_asks_for_usage_gets_it() {
    let server = Server::start(Behaviour::default()).await;
    let gate = Gate::open(&server).await;
    let mut request = request();
    request.stream_options = Some(async_openai::types::chat::ChatCompletionStreamOptions {
        include_usage: Some(true),
        include_obfuscation: None,
    });

    let chunks = chunks(&gate, &server, request).await;

    let last = chunks.last().expect("chunks").as_ref().expect("a chunk");
    assert_eq!(
        last.usage.as_ref().map(|usage| usage.prompt_tokens),
        Some(11)
    );
    assert!(last.choices.is_empty());
    assert_eq!(gate.charge().await, Charge::Used(11, 7));
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let gates = Gates::start().await;
    for crlf in [false, true] {
        for tool_call in [false, true] {
            let behaviour = Behaviour {
                bytewise: true,
                crlf,
                tool_call,
                ..Behaviour::default()
            };
            let server = Server::start(behaviour).await;
            let gate = gates.open(&server).await;
            let chunks = chunks(&gate, &server, request()).await;
            if tool_call {
                let arguments: String = chunks
                    .iter()
                    .flatten()
                    .flat_map(|chunk| {
                        chunk.choices[0]
                            .delta
                            .tool_calls
                            .clone()
                            .unwrap_or_default()
                    })
                    .filter_map(|call| call.function?.arguments)
                    .collect();
                assert_eq!(arguments, r#"{"at":"it"}"#);
            } else {
                assert_eq!(said(&chunks), "Hello thére");
            }
            assert_eq!(gate.charge().await, Charge::Used(11, 7));
        }
    }
}

/// F28: a stream cut in the middle was charged nothing.
#[tokio::test]
async fn f28_a_cut_stream_is_charged_the_larger_of_seen_and_reserved() {
    let gates = Gates::start().await;
    for bytes in [0, 1, 300, 700] {
        let server = Server::start(Behaviour {
            cut: Some(bytes),
            ..Behaviour::default()
        })
        .await;
        let gate = gates.open(&server).await;
        let seen = chunks(&gate, &server, request()).await;
        assert!(
            seen.last().is_some_and(Result::is_err),
            "the cut is not hidden: {seen:?}"
        );
        assert_eq!(gate.charge().await, Charge::Reserved, "cut after {bytes}");
    }

    let server = Server::start(Behaviour {
        cut: Some(1100),
        ..Behaviour::default()
    })
    .await;
    let gate = gates.open(&server).await;
    let mut small = request();
    small.max_completion_tokens = Some(1);
    chunks(&gate, &server, small).await;
    assert!(matches!(gate.charge().await, Charge::Seen(_)));
}

#[tokio::test]
async fn f28_a_stream_that_the_application_drops_is_charged_what_was_reserved() {
    let server = Server::start(Behaviour {
        stall: Some(700),
        ..Behaviour::default()
    })
    .await;
    let gate = Gate::open(&server).await;
    let client = governed(&gate.gov, &gate.me, server.client());
    let stream = client.chat().create_stream(request()).await;
    let mut stream = stream.expect("a stream");
    stream.next().await.expect("a chunk").expect("a good one");
    assert_eq!(gate.booked().await.state, "held", "still running");
    drop(stream);
    assert_eq!(gate.charge().await, Charge::Reserved);
}

/// The hash of a stream is that of what the application saw, however the network cut it.
#[tokio::test]
async fn the_hash_of_a_stream_does_not_depend_on_its_frames() {
    let gates = Gates::start().await;
    let mut hashes = Vec::new();
    for (bytewise, usage) in [(false, 7), (true, 7), (false, 9)] {
        let server = Server::start(Behaviour {
            bytewise,
            usage: chat_usage(11, usage),
            ..Behaviour::default()
        })
        .await;
        let gate = gates.open(&server).await;
        chunks(&gate, &server, request()).await;
        hashes.push(gate.ended().await.output_hash.expect("a hash"));
    }
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[0], hashes[2], "the withheld chunk is not part of it");
}

#[tokio::test]
async fn a_host_may_opt_out_of_stream_options() {
    let server = Server::start(Behaviour::default()).await;
    let gate = Gate::open(&server).await;
    let client = Governed::new(&gate.gov, &gate.me)
        .stream_usage(false)
        .wrap(server.client());
    let stream = client
        .chat()
        .create_stream(request())
        .await
        .expect("a stream");
    stream.for_each(|_| async {}).await;
    assert!(server.seen()[0].json().get("stream_options").is_none());
    assert_eq!(gate.charge().await, Charge::Reserved, "unknown, not zero");
    assert_eq!(gate.end().await, End::Unknown);
}
