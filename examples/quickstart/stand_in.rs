//! A stand-in for the provider: chat completions as they look on the wire, streaming included.

use std::convert::Infallible;

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;

/// Listens on a port of this machine and returns the base URL.
pub(crate) async fn start() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/v1", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(answer);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service)
                    .await;
            });
        }
    });
    Ok(base)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let bytes = request.into_body().collect().await?.to_bytes();
    let asked: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let response = if asked["stream"] == true {
        streamed(&asked)
    } else {
        unary(&asked)
    };
    Ok(response)
}

/// What the model says next: it reads the invoice, mails the customer, and then has words.
fn next_move(asked: &Value) -> Value {
    let messages = asked["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let results = messages
        .iter()
        .filter(|message| message["role"] == "tool")
        .count();
    let call = |name: &str, arguments: Value| {
        json!({"role": "assistant", "content": null, "tool_calls": [{
            "id": format!("call_{results}"), "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}}]})
    };
    match (asked["tools"].is_array(), results) {
        (true, 0) => call("read_invoice", json!({"invoice": "inv_381"})),
        (true, 1) => call("send_email", json!({"to": "c_381"})),
        _ => json!({"role": "assistant", "content": "Double entry was described in 1494."}),
    }
}

fn usage(asked: &Value) -> Value {
    let input = asked["messages"].to_string().len() / 4 + 8;
    json!({"prompt_tokens": input, "completion_tokens": 40, "total_tokens": input + 40})
}

fn unary(asked: &Value) -> Response<Body> {
    let message = next_move(asked);
    let reason = if message["tool_calls"].is_array() {
        "tool_calls"
    } else {
        "stop"
    };
    let body = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": null}],
        "usage": usage(asked),
    });
    respond("application/json", Full::from(body.to_string()).boxed())
}

fn streamed(asked: &Value) -> Response<Body> {
    let chunk = |choices: Value, usage: Value| {
        let body = json!({
            "id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1,
            "model": asked["model"], "choices": choices, "usage": usage,
        });
        format!("data: {body}\n\n")
    };
    let words = "I read invoice inv_381 and mailed its total to customer c_381.";
    let mut events: Vec<String> = words
        .split_inclusive(' ')
        .map(|word| json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}]))
        .map(|choices| chunk(choices, Value::Null))
        .collect();
    events.push(chunk(
        json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        Value::Null,
    ));
    // The usage comes last, and only if it was asked for.
    if asked["stream_options"]["include_usage"] == true {
        events.push(chunk(json!([]), usage(asked)));
    }
    events.push("data: [DONE]\n\n".to_owned());
    let frames = events
        .into_iter()
        .map(|event| Ok(Frame::data(Bytes::from(event))));
    respond(
        "text/event-stream",
        StreamBody::new(stream::iter(frames)).boxed(),
    )
}

fn respond(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let value = hyper::header::HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, value);
    response
}
