//! Attempts, failures and cancellation of governed calls.

use std::time::Duration;

use async_openai::error::OpenAIError;
use portcullis::adapters::openai::{Governed, governed};

use crate::common::openai_gate::{Charge, Gate, Gates};
use crate::common::openai_server::{Behaviour, ERROR, Failure, Server};
use crate::openai::request;

const NO_MONEY: &str = r#"{"error":{"message":"no","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;

fn failing(failures: &[Failure]) -> Behaviour {
    Behaviour {
        failures: failures.to_vec(),
        ..Behaviour::default()
    }
}

async fn start(behaviour: Behaviour) -> (Gate, Server) {
    let server = Server::start(behaviour).await;
    (Gate::open(&server).await, server)
}

#[tokio::test]
async fn attempts_are_repeated_under_one_admission() {
    let (gate, server) = start(failing(&[
        Failure::now(429),
        Failure::now(500),
        Failure::now(503),
    ]))
    .await;
    let client = governed(&gate.gov, &gate.me, server.client());
    client
        .chat()
        .create(request())
        .await
        .expect("the fourth attempt");
    assert_eq!((server.seen().len(), gate.calls().await), (4, 1));
    assert_eq!(gate.charge().await, Charge::Used(11, 7));
    let bodies: Vec<_> = server.seen().iter().map(|seen| seen.text.clone()).collect();
    assert!(
        bodies.iter().all(|body| *body == bodies[0]),
        "what was admitted is what is sent"
    );
}

#[tokio::test]
async fn what_the_provider_refuses_costs_nothing() {
    let gates = Gates::start().await;
    for (failure, attempts) in [
        (Failure::now(429), 3),
        (Failure::now(500), 3),
        (Failure::now(503), 3),
        (Failure::now(400), 1),
        (Failure::now(401), 1),
        // Where a redirect leads was not checked, so it is not followed.
        (Failure(307, "location", "/v1/chat/completions", ERROR), 1),
        (Failure(429, "retry-after", "0", NO_MONEY), 1),
        (Failure(500, "x-should-retry", "false", ERROR), 1),
        (Failure(429, "retry-after", "86400", ERROR), 1),
    ] {
        let server = Server::start(failing(&[failure; 3])).await;
        let gate = gates.open(&server).await;
        let client = Governed::new(&gate.gov, &gate.me)
            .retries(2)
            .wrap(server.client());
        let error = client
            .chat()
            .create(request())
            .await
            .expect_err("it failed");
        let OpenAIError::ApiError(error) = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            error.status_code.as_u16(),
            failure.0,
            "the body is still there to be read"
        );
        assert_eq!(server.seen().len(), attempts, "{failure:?}");
        assert_eq!(gate.charge().await, Charge::Nothing, "{failure:?}");
    }
}

#[tokio::test]
async fn f28_what_may_have_been_billed_is_neither_repeated_nor_free() {
    let gates = Gates::start().await;
    for status in [408, 502, 504, 524] {
        let server = Server::start(failing(&[Failure::now(status); 3])).await;
        let gate = gates.open(&server).await;
        let client = governed(&gate.gov, &gate.me, server.client());
        client
            .chat()
            .create(request())
            .await
            .expect_err("it failed");
        assert_eq!(server.seen().len(), 1, "{status}");
        assert_eq!(gate.charge().await, Charge::Reserved, "{status}");
    }
}

#[tokio::test]
async fn f28_a_connection_that_breaks_after_sending_is_unknown() {
    let gates = Gates::start().await;
    for behaviour in [
        Behaviour {
            hang_up: true,
            ..Behaviour::default()
        },
        Behaviour {
            cut: Some(20),
            ..Behaviour::default()
        },
    ] {
        let server = Server::start(behaviour).await;
        let gate = gates.open(&server).await;
        let client = governed(&gate.gov, &gate.me, server.client());
        client.chat().create(request()).await.expect_err("it broke");
        assert_eq!(server.seen().len(), 1);
        assert_eq!(gate.charge().await, Charge::Reserved);
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_costs_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let base = format!("http://{}/v1", listener.local_addr().expect("an address"));
    drop(listener);
    let gate = Gates::start().await.at(&base).await;
    let config = async_openai::config::OpenAIConfig::new().with_api_base(base);
    let client = async_openai::Client::with_config(config);
    let client = Governed::new(&gate.gov, &gate.me).retries(1).wrap(client);
    client
        .chat()
        .create(request())
        .await
        .expect_err("nobody listens");
    assert_eq!(gate.charge().await, Charge::Nothing);
}

#[tokio::test]
async fn a_caller_that_leaves_while_the_call_is_out_pays_what_was_reserved() {
    let (gate, server) = start(Behaviour {
        stall: Some(0),
        ..Behaviour::default()
    })
    .await;
    let client = governed(&gate.gov, &gate.me, server.client());
    let chat = client.chat();
    let call = chat.create(request());
    tokio::time::timeout(Duration::from_millis(300), call)
        .await
        .expect_err("it stalls");
    assert_eq!(server.seen().len(), 1);
    assert_eq!(gate.charge().await, Charge::Reserved);
}

#[tokio::test]
async fn a_caller_that_leaves_between_two_attempts_pays_nothing() {
    let (gate, server) = start(failing(&[Failure(429, "retry-after", "30", ERROR)])).await;
    let client = governed(&gate.gov, &gate.me, server.client());
    let chat = client.chat();
    let call = chat.create(request());
    tokio::time::timeout(Duration::from_millis(300), call)
        .await
        .expect_err("it waits");
    assert_eq!(server.seen().len(), 1);
    assert_eq!(gate.charge().await, Charge::Nothing);
}
