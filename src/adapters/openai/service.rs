//! The HTTP service that takes the place of the client's own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Request, Response, Url};
use sha2::{Digest as _, Sha256};
use tower_service::Service;

use super::Settings;
use super::body::Metered;
use super::error::{Ungoverned, boxed};
use super::halted::Switch;
use super::meter::{End, Meter};
use super::reader::Reader;
use super::request::{Endpoint, ModelRequest, endpoint};
use super::retry::{Held, peek, send, with_body};
use crate::coverage::{Registered, Wrapped};
use crate::{Call, Governance, Permit};

/// What this adapter wraps, as the coverage registry names it.
const KIND: &str = "openai";
/// The longest unary response that is read; the usage of a longer one is missing.
const LONGEST_BODY: usize = 32 << 20;

/// The tower service of a governed client: made by [`Governed::service`](super::Governed::service)
/// for hosts that put layers of their own above the gate.
///
/// Layers above it see one call for each governed call; a retry layer above it asks the gate for
/// every attempt.
#[derive(Clone)]
pub struct GovernedService {
    settings: Arc<Settings>,
    http: Option<reqwest::Client>,
}

impl GovernedService {
    pub(super) fn new(settings: Settings, http: Option<reqwest::Client>) -> Self {
        Self {
            settings: Arc::new(settings),
            http,
        }
    }

    async fn execute(self, factory: HttpRequestFactory) -> Result<Response, OpenAIError> {
        let http = self
            .http
            .as_ref()
            .ok_or_else(|| boxed(Ungoverned::NoHttpClient))?;
        // Built once: what is admitted is what is sent, on every attempt.
        let mut request = factory.build().await?;
        match endpoint(request.method(), request.url().path()) {
            Endpoint::Unmetered(family) => Err(boxed(Ungoverned::Endpoint { family })),
            Endpoint::Free => {
                self.check(request.url()).await?;
                let (switch, mut held) = (self.switch(), None);
                let sent = send(http, request, self.settings.retries, &switch, &mut held);
                switch.guard(sent).await
            }
            model @ (Endpoint::Chat | Endpoint::Responses) => {
                let asked = self.amend(model, &mut request).map_err(boxed)?;
                let call = self.call(&asked, request.url());
                let permit = self.settings.gov.authorize(&call).await.map_err(boxed)?;
                let switch = self.switch();
                let governed = self.govern(http, request, &asked, permit, &switch);
                switch.guard(Box::pin(governed)).await
            }
        }
    }

    /// Reads the request, and makes its response readable.
    fn amend(&self, model: Endpoint, request: &mut Request) -> Result<ModelRequest, Ungoverned> {
        let body = request.body().and_then(reqwest::Body::as_bytes);
        let body = body.ok_or(Ungoverned::Body {
            reason: "it is not JSON",
        })?;
        let asked = ModelRequest::read(model, body, &self.settings.rules)?;
        // An encoding that the HTTP client does not undo would hide the usage.
        request.headers_mut().remove(ACCEPT_ENCODING);
        if asked.withhold {
            request.headers_mut().remove(CONTENT_LENGTH);
            *request.body_mut() = Some(asked.body.clone().into());
        }
        Ok(asked)
    }

    /// Asks the scope gate alone: what costs nothing and calls no model needs no permit.
    async fn check(&self, url: &Url) -> Result<(), OpenAIError> {
        let (who, scope) = (&self.settings.principal, self.settings.gov.scope());
        match scope
            .check_api(who, without_secrets(url.clone()).as_str())
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(boxed(crate::Refusal::from(&error))),
        }
    }

    fn switch(&self) -> Switch {
        Switch::new(&self.settings.gov, &self.settings.principal)
    }

    fn call(&self, asked: &ModelRequest, url: &Url) -> Call {
        let settings = &self.settings;
        let mut call = Call::model(&settings.principal, asked.model.as_str())
            .tier(asked.tier)
            .provider(&settings.provider)
            .api(without_secrets(url.clone()).as_str())
            .args(&asked.body);
        if let Some(tokens) = asked.input {
            call = call.max_input_tokens(tokens);
        }
        if let Some(tokens) = asked.output {
            call = call.max_output_tokens(tokens);
        }
        call
    }

    async fn govern(
        &self,
        http: &reqwest::Client,
        request: Request,
        asked: &ModelRequest,
        permit: Permit,
        switch: &Switch,
    ) -> Result<Response, OpenAIError> {
        let client = covered(&self.settings.gov, request.url());
        let mut held = Some(Held::new(permit, client));
        let result = send(http, request, self.settings.retries, switch, &mut held).await;
        let Some(held) = held else { return result };
        if held.is_free() {
            if let Some(permit) = held.take() {
                permit.release().await;
            }
            return result;
        }
        // From here on the provider may bill: a permit that is dropped is charged as unknown.
        let response = result?;
        let Some(permit) = held.take() else {
            return Ok(response);
        };
        if !response.status().is_success() {
            return Ok(response);
        }
        if is_events(&response, asked.stream) {
            return Ok(metered(response, permit, asked, switch));
        }
        settled(response, permit, asked, switch).await
    }
}

/// Enters the client that calls `url` among those that are wrapped.
pub(super) fn covered(gov: &Governance, url: &Url) -> Option<Registered> {
    let host = url.host_str()?;
    let wrapped = match url.port() {
        Some(port) => Wrapped::new(KIND, format!("{host}:{port}")),
        None => Wrapped::new(KIND, host),
    };
    Some(gov.coverage().register(&wrapped.ok()?))
}

/// A streaming response, metered while it is read.
fn metered(response: Response, permit: Permit, asked: &ModelRequest, switch: &Switch) -> Response {
    let legible = !response.headers().contains_key(CONTENT_ENCODING);
    let mut response = with_body(response, |body| {
        let reader = Reader::new(asked.input, asked.withhold);
        let switch = switch.clone();
        reqwest::Body::wrap(Metered::stream(body, permit, reader, legible, switch))
    });
    if asked.withhold {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

/// A unary response, read and settled before the application has it: its next call meets a budget
/// that knows what this one cost.
async fn settled(
    response: Response,
    permit: Permit,
    asked: &ModelRequest,
    switch: &Switch,
) -> Result<Response, OpenAIError> {
    let (response, body) = peek(response, LONGEST_BODY, switch)
        .await
        .map_err(OpenAIError::Reqwest)?;
    let mut meter = Meter::new(asked.input, false);
    meter.whole(&body);
    match meter.end(Sha256::digest(&body).into()) {
        End::Reported(report) => drop(permit.settle(report.into()).await),
        End::Unknown(seen) => {
            if let Some(seen) = seen {
                permit.observe(&seen); // and dropped: unknown
            }
        }
    }
    Ok(response)
}

fn is_events(response: &Response, asked_for_stream: bool) -> bool {
    if response.headers().contains_key(CONTENT_ENCODING) {
        tracing::warn!("a model's response has an encoding that the HTTP client does not undo");
    }
    match response.headers().get(CONTENT_TYPE) {
        Some(kind) => kind
            .as_bytes()
            .get(..b"text/event-stream".len())
            .is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream")),
        None => asked_for_stream,
    }
}

/// The URL as far as a scope can depend on it; the rest can hold keys.
fn without_secrets(mut url: Url) -> Url {
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot have a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

impl Service<HttpRequestFactory> for GovernedService {
    type Response = Response;
    type Error = OpenAIError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, OpenAIError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OpenAIError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, factory: HttpRequestFactory) -> Self::Future {
        Box::pin(self.clone().execute(factory))
    }
}

impl fmt::Debug for GovernedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernedService").finish_non_exhaustive()
    }
}
