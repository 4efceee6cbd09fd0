//! One request, with bounds on everything that the other side decides.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;

use crate::audit::anchor::AnchorError;

const DEADLINE: Duration = Duration::from_secs(8);

/// A server that is posted to.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    url: Url,
    deadline: Duration,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Server {
    pub(super) fn at(url: &str) -> Result<Self, AnchorError> {
        let url = Url::parse(url).map_err(|_| AnchorError::Settings("its URL is none"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AnchorError::Settings("its URL is not one of http or https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AnchorError::Settings("its URL has a user or a password"));
        }
        Ok(Self {
            client: client()?,
            url,
            deadline: DEADLINE,
        })
    }

    /// The same server, for a call below its URL.
    pub(super) fn below(mut self, call: &str) -> Result<Self, AnchorError> {
        let mut path = self
            .url
            .path_segments_mut()
            .map_err(|()| AnchorError::Settings("its URL has no path"))?;
        path.pop_if_empty().push(call);
        drop(path);
        Ok(self)
    }

    pub(super) fn set_client(&mut self, client: Client) {
        self.client = client;
    }

    pub(super) fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Posts `body`; of the answer no more than `limit` bytes are read.
    pub(super) async fn post(
        &self,
        content_type: &'static str,
        body: Vec<u8>,
        limit: usize,
    ) -> Result<Answer, AnchorError> {
        let exchange = async {
            let request = self
                .client
                .post(self.url.clone())
                .header("content-type", content_type)
                .body(body);
            let mut response = request.send().await.map_err(|error| away(&error))?;
            let status = response.status().as_u16();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| away(&error))? {
                if body.len() + chunk.len() > limit {
                    return Err(AnchorError::Invalid("it is longer than it may be"));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Answer { status, body })
        };
        let done = tokio::time::timeout(self.deadline, exchange).await;
        done.unwrap_or(Err(AnchorError::TimedOut))
    }
}

/// The URL may hold what lets one in.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A client that trusts what the machine trusts, and goes where it was told, nowhere else.
fn client() -> Result<Client, AnchorError> {
    let unusable = AnchorError::Settings("TLS cannot be set up on this machine");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|_| unusable.clone())?
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|_| unusable)
}

// The driver's text holds the URL.
fn away(error: &reqwest::Error) -> AnchorError {
    if error.is_timeout() {
        AnchorError::TimedOut
    } else if error.is_connect() {
        AnchorError::Away("the server cannot be connected to")
    } else {
        AnchorError::Away("the connection to the server broke")
    }
}
