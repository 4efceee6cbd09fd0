//! A halt stops governed model calls that are under way.

use std::sync::Arc;
use std::time::Duration;

use async_openai::error::OpenAIError;
use async_openai::types::chat::CreateChatCompletionStreamResponse;
use futures_util::{Stream, StreamExt as _};
use portcullis::adapters::openai::{Governed, governed, refusal};
use portcullis::halt::Target;
use portcullis::{ErrorKind, Gate as Of, OperatorId, Principal};
use tokio::sync::Notify;

use crate::common::openai_gate::{Charge, End, Gate, Gates};
use crate::common::openai_server::{Behaviour, ERROR, Failure, Server};
use crate::common::principal;
use crate::openai::{request, response_request};

fn anna() -> OperatorId {
    OperatorId::parse("user:anna").unwrap()
}

async fn halt(gate: &Gate, target: &Target) {
    let (halt, by) = (gate.gov.halt(), anna());
    halt.halt(target, &by, "a drill").await.expect("halted");
}

async fn resume(gate: &Gate, target: &Target) {
    let (halt, by) = (gate.gov.halt(), anna());
    halt.resume(target, &by, "over").await.expect("resumed");
}

fn agent(who: &Principal) -> Target {
    Target::Agent(who.agent_id().clone())
}

/// Everything that an agent can be halted by.
fn targets(me: &Principal, parent: &Principal) -> [Target; 5] {
    [
        agent(me),
        Target::Session(me.agent_id().clone(), me.session_id().clone()),
        Target::Tenant,
        Target::Everything,
        agent(parent),
    ]
}

/// A server that answers half, and the rest when it is told to.
async fn halfway(bytes: usize) -> (Server, Arc<Notify>) {
    let rest = Arc::new(Notify::new());
    let behaviour = Behaviour {
        stall: Some(bytes),
        resume: Some(Arc::clone(&rest)),
        ..Behaviour::default()
    };
    (Server::start(behaviour).await, rest)
}

async fn first(
    stream: &mut (impl Stream<Item = Result<CreateChatCompletionStreamResponse, OpenAIError>> + Unpin),
    number: usize,
) {
    for _ in 0..number {
        stream.next().await.expect("a chunk").expect("a good one");
    }
}

/// That the errors are all that is left, and the first is the refusal.
fn ends_refused<T: std::fmt::Debug>(rest: &[Result<T, OpenAIError>], kind: ErrorKind) {
    assert!(rest.iter().all(Result::is_err), "nothing more: {rest:?}");
    let error = rest.first().and_then(|first| first.as_ref().err());
    let refused = refusal(error.expect("an end that is none of the stream's"));
    let refused = refused.expect("the refusal");
    assert_eq!((refused.gate(), refused.kind()), (Of::Halt, kind));
}

/// A stream whose agent is halted midway ends with the refusal; what follows stays outside, and what
/// was seen or reserved is charged.
#[tokio::test]
async fn f37_a_stream_is_stopped_by_a_halt_midway() {
    let gates = Gates::start().await;
    for number in 0..5 {
        let (server, rest) = halfway(700).await;
        let mut gate = gates.open(&server).await;
        let parent = principal("a-parent");
        let me = gate.me.clone().child_of(&parent);
        gate.me = me;
        let target = targets(&gate.me, &parent)[number].clone();
        let client = governed(&gate.gov, &gate.me, server.client());
        let stream = client.chat().create_stream(request()).await;
        let mut stream = stream.expect("a stream");
        first(&mut stream, 3).await;

        halt(&gate, &target).await;
        rest.notify_one();
        let rest: Vec<_> = stream.collect().await;

        ends_refused(&rest, ErrorKind::Denied);
        server.closed().await;
        assert_eq!(gate.charge().await, Charge::Reserved, "{target:?}");
        assert_eq!(gate.end().await, End::Unknown);
        assert_eq!(server.seen().len(), 1, "it is not sent again");
        resume(&gate, &target).await;
    }
}

/// The same where the provider says nothing any more.
#[tokio::test]
async fn f37_a_stream_that_is_silent_is_stopped_and_its_connection_closed() {
    let (server, _rest) = halfway(700).await;
    let gate = Gate::open(&server).await;
    let client = governed(&gate.gov, &gate.me, server.client());
    let stream = client.chat().create_stream(request()).await;
    let mut stream = stream.expect("a stream");
    first(&mut stream, 3).await;

    halt(&gate, &agent(&gate.me)).await;

    // Nobody reads the stream until the connection is gone and the call settled.
    server.closed().await;
    assert_eq!(gate.charge().await, Charge::Reserved);
    let rest: Vec<_> = stream.collect().await;
    ends_refused(&rest, ErrorKind::Denied);
}

/// What was seen counts if it is more than was reserved, in a stream that a halt stops, too.
#[tokio::test]
async fn f28_a_halted_stream_is_charged_what_was_seen_if_that_is_more() {
    let (server, rest) = halfway(1100).await;
    let gate = Gate::open(&server).await;
    let client = governed(&gate.gov, &gate.me, server.client());
    let mut small = request();
    small.max_completion_tokens = Some(1);
    let stream = client.chat().create_stream(small).await;
    let mut stream = stream.expect("a stream");
    first(&mut stream, 5).await;
    halt(&gate, &agent(&gate.me)).await;
    rest.notify_one();
    ends_refused(&stream.collect::<Vec<_>>().await, ErrorKind::Denied);
    assert!(matches!(gate.charge().await, Charge::Seen(_)));
}

/// However the events were cut, no half of one is taken for a whole one, in either protocol; and one that
/// has all of it is not touched.
#[tokio::test]
async fn f37_a_halt_in_the_middle_of_an_event_ends_the_stream_with_the_refusal() {
    let gates = Gates::start().await;
    for bytes in [0, 1, 250, 333, 420] {
        let (server, rest) = halfway(bytes).await;
        let gate = gates.open(&server).await;
        let client = governed(&gate.gov, &gate.me, server.client());
        let stream = client.responses().create_stream(response_request()).await;
        let stream = stream.expect("a stream");
        halt(&gate, &agent(&gate.me)).await;
        rest.notify_one();
        let got: Vec<_> = stream.collect().await;
        let refused = got.iter().position(Result::is_err).expect("refused");
        ends_refused(&got[refused..], ErrorKind::Denied);
        assert_eq!(gate.charge().await, Charge::Reserved, "{bytes}");
    }
    // Halted when all has been said, it has all of it, and pays for that.
    let server = Server::start(Behaviour::default()).await;
    let gate = gates.open(&server).await;
    let client = governed(&gate.gov, &gate.me, server.client());
    let stream = client.chat().create_stream(request()).await;
    let mut stream = stream.expect("a stream");
    first(&mut stream, 5).await;
    assert_eq!(gate.charge().await, Charge::Used(11, 7));
    halt(&gate, &agent(&gate.me)).await;
    assert!(stream.collect::<Vec<_>>().await.iter().all(Result::is_ok));
}

/// A call without a stream is stopped before it is answered, and in the middle of its answer.
#[tokio::test]
async fn f37_a_call_under_way_is_stopped_by_a_halt() {
    let gates = Gates::start().await;
    for bytes in [0, 40] {
        let (server, _rest) = halfway(bytes).await;
        let gate = gates.open(&server).await;
        let client = governed(&gate.gov, &gate.me, server.client());
        let call = tokio::spawn(async move { client.chat().create(request()).await });
        server.arrived(1).await;
        halt(&gate, &agent(&gate.me)).await;

        let error = call.await.expect("no panic").expect_err("stopped");
        let refused = refusal(&error).expect("the refusal");
        assert_eq!(
            (refused.gate(), refused.kind()),
            (Of::Halt, ErrorKind::Denied)
        );
        server.closed().await;
        assert_eq!(gate.charge().await, Charge::Reserved);
    }
}

/// Between two attempts nothing is under way: it is not sent again, and costs nothing.
#[tokio::test]
async fn f37_a_halt_between_two_attempts_costs_nothing() {
    let server = Server::start(Behaviour {
        failures: vec![Failure(429, "retry-after", "30", ERROR)],
        ..Behaviour::default()
    })
    .await;
    let gate = Gate::open(&server).await;
    let client = Governed::new(&gate.gov, &gate.me).wrap(server.client());
    let call = tokio::spawn(async move { client.chat().create(request()).await });
    server.arrived(1).await;
    // What was answered is there; it waits now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    halt(&gate, &agent(&gate.me)).await;
    let error = call.await.expect("no panic").expect_err("stopped");
    assert!(refusal(&error).is_some());
    assert_eq!(server.seen().len(), 1);
    assert_eq!(gate.charge().await, Charge::Nothing);
}
