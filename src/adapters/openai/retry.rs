//! Attempts below the gate: one admission, however often the request has to be sent.
//!
//! Only an attempt that has provably cost nothing is repeated.

use std::time::Duration;

use async_openai::error::OpenAIError;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use reqwest::{Request, Response};

use super::body::Metered;
use super::halted::Switch;
use crate::Permit;
use crate::coverage::Registered;

/// A longer wait than this is the application's to decide: the reservation is held meanwhile.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// The first wait when the provider does not name one; it doubles each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(8);
/// The most of an error's body that is read to find out what it is.
const LONGEST_ERROR: usize = 64 << 10;

/// A permit whose call may or may not be on its way.
///
/// Dropped (the caller went away), it is released if nothing billable can have happened, and
/// otherwise left unknown.
#[derive(Debug)]
pub(super) struct Held {
    permit: Option<Permit>,
    client: Option<Registered>,
    sent: bool,
}

impl Held {
    pub(super) fn new(permit: Permit, client: Option<Registered>) -> Self {
        Self {
            permit: Some(permit),
            client,
            sent: false,
        }
    }

    /// The permit, to end it.
    pub(super) fn take(mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// No attempt has cost anything.
    pub(super) fn is_free(&self) -> bool {
        !self.sent
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What the provider may bill, it may count.
        if self.sent
            && let Some(client) = &self.client
        {
            client.count();
        }
        if let Some(permit) = self.permit.take()
            && !self.sent
        {
            permit.release_detached();
        }
    }
}

/// Sends `request`, at most `retries` times more if it is safe.
///
/// `held` knows afterwards whether something may have been billed.
pub(super) async fn send(
    http: &reqwest::Client,
    request: Request,
    retries: u32,
    switch: &Switch,
    held: &mut Option<Held>,
) -> Result<Response, OpenAIError> {
    let mut request = request;
    let mut attempt = 0_u32;
    loop {
        let again = if attempt < retries {
            request.try_clone()
        } else {
            None
        };
        mark(held, true);
        let result = http.execute(request).await;
        if is_free(&result) {
            mark(held, false);
        }
        let (result, wait) = match result {
            Ok(response) if is_transient(response.status()) => {
                examine(response, attempt, switch).await?
            }
            Err(error) if error.is_connect() => (Err(error), Some(backoff(attempt))),
            result => (result, None),
        };
        let (Some(next), Some(wait)) = (again, wait) else {
            return result.map_err(OpenAIError::Reqwest);
        };
        tracing::debug!(attempt, ?wait, "a model call is sent again");
        tokio::time::sleep(wait).await;
        request = next;
        attempt = attempt.saturating_add(1);
    }
}

fn mark(held: &mut Option<Held>, sent: bool) {
    if let Some(held) = held {
        held.sent = sent;
    }
}

/// Whether an attempt has certainly cost nothing.
//
// The provider does not bill what it answers with an error. A gateway's error (502, 504, and the
// 52x of one of them) is no answer of the provider, which may be at work on the call.
fn is_free(result: &Result<Response, reqwest::Error>) -> bool {
    match result {
        Ok(response) => {
            let status = response.status();
            status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT
                || status.is_redirection()
                || status == StatusCode::NOT_IMPLEMENTED
                || is_transient(status)
        }
        Err(error) => error.is_connect() || error.is_builder(),
    }
}

/// Errors of the provider that may not happen the next time.
fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Finds out whether, and after what wait, a transient error is worth another attempt.
async fn examine(
    response: Response,
    attempt: u32,
    switch: &Switch,
) -> Result<(Result<Response, reqwest::Error>, Option<Duration>), OpenAIError> {
    let told_not_to = header(response.headers(), "x-should-retry") == Some("false");
    let wait = named_wait(response.headers()).unwrap_or_else(|| backoff(attempt));
    let worth = !told_not_to && wait <= LONGEST_WAIT;
    if !worth || response.status() != StatusCode::TOO_MANY_REQUESTS {
        return Ok((Ok(response), worth.then_some(wait)));
    }
    // A 429 is also what an account without money gets, and that does not pass by waiting.
    let (response, body) = peek(response, LONGEST_ERROR, switch)
        .await
        .map_err(OpenAIError::Reqwest)?;
    let broke = body
        .windows(b"\"insufficient_quota\"".len())
        .any(|window| window == b"\"insufficient_quota\"");
    Ok((Ok(response), (!broke).then_some(wait)))
}

/// Reads the body of a response up to `limit`, and gives back a response that still has all of it.
pub(super) async fn peek(
    mut response: Response,
    limit: usize,
    switch: &Switch,
) -> Result<(Response, Bytes), reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= limit {
        let Some(chunk) = response.chunk().await? else {
            let body = Bytes::from(body);
            return Ok((with_body(response, |_| body.clone().into()), body));
        };
        body.extend_from_slice(&chunk);
    }
    let beginning = Bytes::from(body.clone());
    let response = with_body(response, |rest| {
        reqwest::Body::wrap(Metered::rest(body, rest, switch.clone()))
    });
    Ok((response, beginning))
}

/// The response with another body, and its URL kept.
pub(super) fn with_body(
    response: Response,
    change: impl FnOnce(reqwest::Body) -> reqwest::Body,
) -> Response {
    use reqwest::ResponseBuilderExt;

    let url = response.url().clone();
    let (mut parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
    if let Ok(carrier) = http::Response::builder().url(url).body(()) {
        parts.extensions.extend(carrier.into_parts().0.extensions);
    }
    http::Response::from_parts(parts, change(body)).into()
}

fn named_wait(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| header(headers, name)?.parse().ok();
    number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn backoff(attempt: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(2_u32.saturating_pow(attempt))
        .min(LONGEST_BACKOFF)
}
