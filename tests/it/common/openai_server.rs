//! A stand-in for the provider: chat completions and responses, unary and streaming, on the wire.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

type Body = BoxBody<Bytes, std::io::Error>;

/// What the server does. The default answers well.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent switches"
)]
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// Statuses of the first requests, each with a header and a body; then it answers.
    pub(crate) failures: Vec<Failure>,
    /// The usage object; `null` leaves it out.
    pub(crate) usage: Value,
    pub(crate) model: &'static str,
    pub(crate) tier: Option<&'static str>,
    /// Breaks the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Stops sending there, and keeps the connection.
    pub(crate) stall: Option<usize>,
    /// Goes on after that when told to.
    pub(crate) resume: Option<Arc<Notify>>,
    /// Sends every byte in a frame of its own.
    pub(crate) bytewise: bool,
    /// Ends lines as the older half of the world does.
    pub(crate) crlf: bool,
    /// Answers with a tool call instead of words.
    pub(crate) tool_call: bool,
    /// The last event of a responses stream.
    pub(crate) last: &'static str,
    /// Closes the connection instead of answering.
    pub(crate) hang_up: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure(
    pub u16,
    pub &'static str,
    pub &'static str,
    pub &'static str,
);

impl Failure {
    /// A failure that may be repeated at once.
    pub(crate) const fn now(status: u16) -> Self {
        Self(status, "retry-after", "0", ERROR)
    }
}

pub(crate) const ERROR: &str =
    r#"{"error":{"message":"no","type":"server_error","param":null,"code":null}}"#;

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            usage: chat_usage(11, 7),
            model: "gpt-4o-2024-08-06",
            tier: None,
            cut: None,
            stall: None,
            resume: None,
            bytewise: false,
            crlf: false,
            tool_call: false,
            last: "response.completed",
            hang_up: false,
        }
    }
}

/// The usage object of chat completions.
pub(crate) fn chat_usage(input: u64, output: u64) -> Value {
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0}
    })
}

/// The usage object of responses.
pub(crate) fn responses_usage(input: u64, output: u64) -> Value {
    json!({
        "input_tokens": input, "output_tokens": output, "total_tokens": input + output,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 3}
    })
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) text: String,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("a JSON body")
    }
}

/// A running server; it ends with the test's runtime.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How many connections are open.
    open: watch::Sender<usize>,
}

impl Server {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        // As an application would that chooses a TLS provider itself.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let open = watch::Sender::new(0);
        let count = open.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (behaviour, log) = (behaviour.clone(), Arc::clone(&log));
                let count = count.clone();
                count.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        answer(request, behaviour.clone(), Arc::clone(&log))
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Self {
            address,
            seen,
            open,
        }
    }

    /// The URL under which everything is.
    pub(crate) fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn client(&self) -> Client<OpenAIConfig> {
        let config = OpenAIConfig::new()
            .with_api_base(self.base())
            .with_api_key("not-a-key");
        Client::with_config(config)
    }

    /// Waits until the client has closed every connection.
    pub(crate) async fn closed(&self) {
        let mut open = self.open.subscribe();
        let closed = open.wait_for(|open| *open == 0);
        let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
        closed.expect("it is closed").expect("the server lives");
    }

    /// Waits until `number` requests have arrived.
    pub(crate) async fn arrived(&self, number: usize) {
        while self.seen().len() < number {
            tokio::task::yield_now().await;
        }
    }

    /// The requests that arrived.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    behaviour: Behaviour,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let bytes = body
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let path = parts.uri.path().to_owned();
    let number = {
        let mut log = log.lock().unwrap();
        log.push(Seen {
            path: path.clone(),
            headers: parts.headers,
            text: text.clone(),
        });
        log.len() - 1
    };
    if behaviour.hang_up {
        return Err(std::io::Error::other("hung up"));
    }
    if let Some(Failure(status, name, value, body)) = behaviour.failures.get(number).copied() {
        let response = Response::builder()
            .status(StatusCode::from_u16(status).expect("a status"))
            .header(name, value)
            .body(full(body.to_owned()))
            .expect("a response");
        return Ok(response);
    }
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let stream = body["stream"] == true;
    let text = match (path.as_str(), stream) {
        ("/v1/chat/completions", false) => chat(&behaviour).to_string(),
        ("/v1/chat/completions", true) => {
            chat_stream(&behaviour, body["stream_options"]["include_usage"] == true)
        }
        ("/v1/responses", false) => response(&behaviour, "completed").to_string(),
        ("/v1/responses", true) => responses_stream(&behaviour),
        _ => json!({"object": "list", "data": []}).to_string(),
    };
    Ok(deliver(&behaviour, stream, text))
}

fn deliver(behaviour: &Behaviour, stream: bool, text: String) -> Response<Body> {
    let text = if behaviour.crlf {
        text.replace('\n', "\r\n")
    } else {
        text
    };
    let length = text.len();
    let size = if behaviour.bytewise { 1 } else { length.max(1) };
    let end = behaviour
        .cut
        .or(behaviour.stall)
        .unwrap_or(length)
        .min(length);
    let frames: Vec<_> = text.as_bytes()[..end]
        .chunks(size)
        .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
        .collect();
    let (cut, stall) = (behaviour.cut.is_some(), behaviour.stall.is_some());
    let (rest, resume) = (
        Bytes::copy_from_slice(&text.as_bytes()[end..]),
        behaviour.resume.clone(),
    );
    let tail = futures_util::stream::once(async move {
        match resume {
            Some(resume) => {
                resume.notified().await;
                return Ok(Frame::data(rest));
            }
            None if stall => std::future::pending::<()>().await,
            None => {}
        }
        // Lets what was sent before arrive, and be seen, first.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::other("cut"))
    });
    let frames = futures_util::stream::iter(frames);
    let body = if cut || stall {
        StreamBody::new(frames.chain(tail).boxed()).boxed_unsync()
    } else {
        StreamBody::new(frames.boxed()).boxed_unsync()
    };
    let kind = if stream {
        "text/event-stream; charset=utf-8"
    } else {
        "application/json"
    };
    let mut response = Response::builder().header(CONTENT_TYPE, kind);
    if !stream {
        response = response.header(CONTENT_LENGTH, length);
    }
    response.body(sync(body)).expect("a response")
}

fn sync(body: http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>) -> Body {
    // Only hyper polls it, from one task; a channel makes it `Sync` as well.
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            if sender.send(frame).is_err() {
                break;
            }
        }
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    BoxBody::new(StreamBody::new(frames))
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn chat(behaviour: &Behaviour) -> Value {
    let message = if behaviour.tool_call {
        json!({"role": "assistant", "content": null, "tool_calls": [{
            "id": "call_1", "type": "function",
            "function": {"name": "look", "arguments": "{\"at\":\"it\"}"}}]})
    } else {
        json!({"role": "assistant", "content": "Hello there"})
    };
    let mut answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": behaviour.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": null}],
    });
    with(&mut answer, behaviour);
    answer
}

fn chat_stream(behaviour: &Behaviour, include_usage: bool) -> String {
    let chunk = |choices: Value, usage: Option<&Value>| {
        let mut chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": behaviour.model, "choices": choices,
        });
        if let Some(tier) = behaviour.tier {
            chunk["service_tier"] = tier.into();
        }
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        format!("data: {chunk}\n\n")
    };
    let null = include_usage.then_some(&Value::Null);
    let delta = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": null}]);
    let mut events = vec![chunk(
        delta(json!({"role": "assistant"}), Value::Null),
        null,
    )];
    if behaviour.tool_call {
        for arguments in ["{\"at\":", "\"it\"}"] {
            let call = json!({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                "function": {"name": "look", "arguments": arguments}}]});
            events.push(chunk(delta(call, Value::Null), null));
        }
    } else {
        events.push(": a comment\n\n".to_owned());
        for word in ["Hello", " ", "thére"] {
            events.push(chunk(delta(json!({"content": word}), Value::Null), null));
        }
    }
    events.push(chunk(delta(json!({}), "stop".into()), null));
    if include_usage && !behaviour.usage.is_null() {
        events.push(chunk(json!([]), Some(&behaviour.usage)));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events.concat()
}

fn response(behaviour: &Behaviour, status: &str) -> Value {
    let mut answer = json!({
        "id": "resp_1", "object": "response", "created_at": 1, "status": status,
        "model": behaviour.model, "parallel_tool_calls": true, "tools": [], "tool_choice": "auto",
        "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello there", "annotations": []}]}],
    });
    with(&mut answer, behaviour);
    answer
}

fn responses_stream(behaviour: &Behaviour) -> String {
    let status = behaviour.last.trim_start_matches("response.");
    let mut begun = response(behaviour, "in_progress");
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let mut events = vec![json!({"type": "response.created", "response": begun})];
    for word in ["Hello", " ", "there"] {
        events.push(
            json!({"type": "response.output_text.delta", "item_id": "msg_1",
            "output_index": 0, "content_index": 0, "delta": word, "logprobs": []}),
        );
    }
    events.push(json!({"type": behaviour.last, "response": response(behaviour, status)}));
    let mut text = String::new();
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = number.into();
        let kind = event["type"].as_str().expect("a type").to_owned();
        let event = event.to_string();
        text += &["event: ", &kind, "\ndata: ", &event, "\n\n"].concat();
    }
    text
}

fn with(answer: &mut Value, behaviour: &Behaviour) {
    if !behaviour.usage.is_null() {
        answer["usage"] = behaviour.usage.clone();
    }
    if let Some(tier) = behaviour.tier {
        answer["service_tier"] = tier.into();
    }
}
