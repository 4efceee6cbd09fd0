//! `async-openai` behind the gate.
//!
//! [`governed`] gives back a client of the same type that asks the gates before every model call,
//! and settles what the provider says it cost. Nothing else in the application changes.
//!
//! ```no_run
//! # async fn example(gov: portcullis::Governance, me: portcullis::Principal,
//! #     request: async_openai::types::chat::CreateChatCompletionRequest)
//! #     -> Result<(), async_openai::error::OpenAIError> {
//! use portcullis::adapters::openai::governed;
//!
//! let client = governed(&gov, &me, async_openai::Client::new());
//! let answer = client.chat().create(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **The client's own HTTP client is replaced**, because its requests can only be intercepted as a
//! whole. A proxy, certificates, timeouts and default headers come in through
//! [`Governed::http_client`]; without it, a client without timeouts is made, which follows no
//! redirects (a redirect would leave the URL that was checked). Pass one shared client when there
//! is a governed client for each session, so that they share their connections. TLS is whatever
//! the application enables on `async-openai` or `reqwest`.
//!
//! # What is governed
//!
//! | Request | What happens |
//! |---|---|
//! | `POST .../chat/completions`, `POST .../responses` | gated and metered, unary and streaming |
//! | `GET`, `HEAD`; deleting or cancelling a response or a stored completion | scope is asked about the URL, no budget: it costs nothing |
//! | everything else (embeddings, images, audio, batches, assistants, `/responses/compact`, ...) | not sent: [`Ungoverned::Endpoint`] |
//! | a tool that the provider runs, a stored prompt (which can hold some) | not sent: [`Ungoverned::HostedTools`], unless [allowed](Governed::allow_hosted_tools) |
//! | `background: true` | not sent: [`Ungoverned::Background`] |
//!
//! An endpoint that is not metered is called with a client of its own inside `Governance::run`,
//! under an explicit ceiling. **Realtime sessions are not seen**: `async-openai` opens that socket
//! without its HTTP service. Leave its feature `realtime` off, or deny the address by egress.
//!
//! # What is charged
//!
//! The reservation is an upper bound of the prompt (see the table below) and the output limit of
//! the request, times its choices, at the price of the priority tier if the request names it (a
//! project of the provider that is set to that tier unasked overruns). The charge is what the response reports, priced by the model and
//! service tier that the response names. Cached tokens are part of the input, never taken off it or
//! added to it.
//!
//! | The call ends with | Charged |
//! |---|---|
//! | its usage | the usage |
//! | 4xx (not 408), 429, 500, 501, 503, no connection | nothing |
//! | 408, 502, 504, any other 5xx, a connection that breaks after sending | unknown: the larger of seen and reserved |
//! | a stream that is cut, or that the application drops | unknown |
//! | its agent [halted](crate::halt) after sending | unknown; nothing more reaches the application |
//! | no usage, or numbers that cannot be true | unknown, never zero |
//! | the caller gone, or the agent halted, before sending or between two attempts | nothing |
//!
//! | Prompt | Tokens reserved |
//! |---|---|
//! | lowercase ASCII letters, spaces | two for three, one for two |
//! | every other byte of text | one |
//! | an image | 10 000 (50 000 for `gpt-4o-mini`; 3 000 with `detail: low`), or [`Governed::image_tokens`] |
//! | inline audio, inline files | one for 32, one for 1 characters of base64 |
//! | a previous response, a conversation, an uploaded file, results of hosted tools | [`Governed::unseen_input_tokens`] more; without it the call is refused |
//!
//! # What is counted
//!
//! Wrapping a client enters it, as kind `openai` with the host of its base URL, in the
//! [coverage registry](crate::coverage), and each model call that the provider may bill is counted
//! there once, to be held against the provider's own count.
//!
//! # What the application sees
//!
//! The response, byte for byte, a stream by whole events. A chat stream reports its usage only if asked, so the adapter asks
//! (`stream_options.include_usage`), and withholds that chunk if the application did not ask for it
//! too: a chunk without choices is a trap for `choices[0]`. Some compatible servers refuse the
//! option: see [`Governed::stream_usage`].
//!
//! When the agent is halted, or its session, its tenant, everything or an agent that started it, what is
//! under way stops: the connection is closed, whether the application reads or not, and a call without
//! an answer ends with the refusal. A stream ends with it, too: its last event has data that the client
//! cannot read, and [`refusal`] finds it in the error that the client makes of that; then the body fails.
//!
//! A denied call is an [`OpenAIError::Boxed`](async_openai::error::OpenAIError); [`refusal`] finds
//! the [`Refusal`](crate::Refusal) in it. Attempts are repeated below the gate, under one
//! admission, and only if the one before cost nothing: see [`Governed::retries`].
//!
//! # When the store is down
//!
//! | The store is | a call | its settlement |
//! |---|---|---|
//! | reachable | is admitted or refused | is recorded |
//! | unreachable | is refused (the core decides) | is the core's to deliver; the reservation stays charged |
//!
//! # Cancel safety
//!
//! A call that is dropped before its request is sent gives the reservation back. Dropped later, or
//! with its stream unread, it is unknown: the provider may bill it.

mod body;
mod error;
mod estimate;
mod halted;
mod meter;
mod reader;
mod request;
mod retry;
mod service;
mod splice;
mod sse;
mod usage;

#[cfg(test)]
mod tests;

pub use error::{Ungoverned, refusal, ungoverned};
pub use service::GovernedService;

use async_openai::Client;
use async_openai::config::Config;

use self::request::Rules;
use crate::{Governance, Principal};

/// How often an attempt is repeated when nothing else is said; as `async-openai` itself does.
const RETRIES: u32 = 3;

/// Puts `client` behind the gates of `gov`; every call is made in the name of `principal`.
///
/// The HTTP client inside `client` is replaced: see the [module](self), and [`Governed`] to pass
/// another one.
#[must_use = "the client that was passed in is the one that is not governed"]
pub fn governed<C: Config>(
    gov: &Governance,
    principal: &Principal,
    client: Client<C>,
) -> Client<C> {
    Governed::new(gov, principal).wrap(client)
}

/// [`governed`] with options.
///
/// ```no_run
/// # fn example(gov: portcullis::Governance, me: portcullis::Principal, http: reqwest::Client) {
/// use portcullis::adapters::openai::Governed;
///
/// let client = Governed::new(&gov, &me)
///     .http_client(http) // with the host's proxy, certificates and timeouts
///     .retries(1)
///     .wrap(async_openai::Client::new());
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it wraps a client"]
pub struct Governed {
    settings: Settings,
    http: Option<reqwest::Client>,
}

/// What every call of a client has in common.
#[derive(Clone, Debug)]
struct Settings {
    gov: Governance,
    principal: Principal,
    provider: String,
    retries: u32,
    rules: Rules,
}

impl Governed {
    /// Calls in the name of `principal`, behind the gates of `gov`.
    pub fn new(gov: &Governance, principal: &Principal) -> Self {
        Self {
            settings: Settings {
                gov: gov.clone(),
                principal: principal.clone(),
                provider: "openai".to_owned(),
                retries: RETRIES,
                rules: Rules::default(),
            },
            http: None,
        }
    }

    /// Sends requests with `http`: its proxy, certificates, timeouts and default headers.
    ///
    /// Scope is checked on the URL that is asked for. If `http` follows redirects, what it follows
    /// is not checked again: build it with `redirect(Policy::none())`.
    pub fn http_client(mut self, http: reqwest::Client) -> Self {
        self.http = Some(http);
        self
    }

    /// The provider by whose prices the model is charged: `openai` unless set.
    pub fn provider(mut self, provider: impl Into<String>) -> Self {
        self.settings.provider = provider.into();
        self
    }

    /// How often a failed attempt is repeated, at most: 3 unless set.
    ///
    /// Repeated are 429 (not an exhausted quota), 500, 503 and connections that could not be made.
    /// `Retry-After` in seconds and `x-should-retry: false` are honoured. What may have been billed
    /// (502, 504, a connection that broke) is not repeated under the same admission.
    pub fn retries(mut self, retries: u32) -> Self {
        self.settings.retries = retries;
        self
    }

    /// Whether to ask for the usage of chat streams: true unless set.
    ///
    /// For servers that refuse `stream_options`. A stream that then reports no usage is unknown,
    /// and charged the larger of seen and reserved.
    pub fn stream_usage(mut self, ask: bool) -> Self {
        self.settings.rules.stream_usage = ask;
        self
    }

    /// Lets requests name tools that the provider runs by itself, and stored prompts.
    ///
    /// Their tokens are metered. Fees by the call (a web search) are not, and no gate sees what
    /// such a tool does.
    pub fn allow_hosted_tools(mut self) -> Self {
        self.settings.rules.hosted_tools = true;
        self
    }

    /// Reserves `tokens` for each image, instead of the defaults in the [module](self).
    pub fn image_tokens(mut self, tokens: u64) -> Self {
        self.settings.rules.image_tokens = Some(tokens);
        self
    }

    /// Reserves `tokens` more for a prompt of which a part is known to the provider only: a previous
    /// response, a conversation, an uploaded file, results of hosted tools. Without it such a call
    /// is refused, because nothing bounds what it costs.
    pub fn unseen_input_tokens(mut self, tokens: u64) -> Self {
        self.settings.rules.unseen_input_tokens = Some(tokens);
        self
    }

    /// `client`, governed.
    #[must_use = "the client that was passed in is the one that is not governed"]
    pub fn wrap<C: Config>(self, client: Client<C>) -> Client<C> {
        // A base that is no URL fails at the first call, which says so.
        if let Ok(base) = reqwest::Url::parse(client.config().api_base()) {
            service::covered(&self.settings.gov, &base);
        }
        client.with_http_service(self.service())
    }

    /// The service alone, for hosts that put tower layers of their own above the gate.
    #[must_use]
    pub fn service(self) -> GovernedService {
        let http = self.http.or_else(|| {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .ok()
        });
        GovernedService::new(self.settings, http)
    }
}
