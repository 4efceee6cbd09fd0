//! Telling approvers over HTTP: a signed webhook.
//!
//! Each notice is one `POST` of JSON, with the header `x-portcullis-signature: t=<seconds>,v1=<hex>`:
//! HMAC-SHA256 under a secret of its own over `<seconds>.<body>`. The receiver checks it, in constant
//! time, and that the time is not long past. The body names the request, the agent, the tool, who may
//! decide and until when; no arguments. Redirects are not followed, and nothing of the answer but its
//! status is looked at.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, Url};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Secret;
use crate::gates::{ApprovalNotice, ApprovalNotifier, NotifyError, NotifyFuture};

const SIGNATURE: &str = "x-portcullis-signature";
const DEADLINE: Duration = Duration::from_secs(8);

/// Posts each request for approval to one URL.
///
/// ```no_run
/// # fn example(gov: portcullis::Governance) -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::Secret;
/// use portcullis::adapters::approvals::Webhook;
///
/// let secret = Secret::parse(&std::env::var("APPROVALS_WEBHOOK_SECRET")?)?;
/// gov.gates().notify_with(Webhook::new("https://approvals.example.com/hook", &secret)?);
/// # Ok(())
/// # }
/// ```
pub struct Webhook {
    client: Client,
    url: Url,
    key: Hmac<Sha256>,
}

impl Webhook {
    /// A webhook at `url`, signed under `secret`, which serves nothing else.
    ///
    /// # Errors
    ///
    /// [`InvalidWebhook`] if the URL is none that is posted to, or TLS cannot be set up.
    pub fn new(url: &str, secret: &Secret) -> Result<Self, InvalidWebhook> {
        let url = Url::parse(url).map_err(|_| InvalidWebhook::Url)?;
        let plain = matches!(url.scheme(), "http" | "https");
        if !plain || !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidWebhook::Url);
        }
        let bytes = Zeroizing::new(hex::decode(&*secret.to_hex()).unwrap_or_default());
        let key = Hmac::<Sha256>::new_from_slice(&bytes).map_err(|_| InvalidWebhook::Tls)?;
        Ok(Self {
            client: client()?,
            url,
            key,
        })
    }

    async fn post(&self, notice: &ApprovalNotice) -> Result<(), NotifyError> {
        let body = body(notice);
        let seconds = notice.at.as_micros().div_euclid(1_000_000);
        let mut mac = self.key.clone();
        mac.update(format!("{seconds}.{body}").as_bytes());
        let signature = format!(
            "t={seconds},v1={}",
            hex::encode(mac.finalize().into_bytes())
        );
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(SIGNATURE, signature)
            .timeout(DEADLINE)
            .body(body);
        // The driver's text holds the URL.
        let response = request
            .send()
            .await
            .map_err(|_| NotifyError::Again("the server could not be reached"))?;
        match response.status().as_u16() {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(NotifyError::Again("the server did not take it")),
            300..=399 => Err(NotifyError::Never(
                "the server redirects, and nobody follows",
            )),
            _ => Err(NotifyError::Never("the server refuses it")),
        }
    }
}

/// What is posted. The fields are in this order, so that the bytes can be predicted.
fn body(notice: &ApprovalNotice) -> String {
    serde_json::json!({
        "type": "approval.requested",
        "request_id": notice.request.to_string(),
        "agent_id": notice.agent.as_str(),
        "label": notice.label,
        "approvers": notice.approvers,
        "quorum": notice.quorum,
        "expires_at": notice.expires_at.to_string(),
        "sent_at": notice.at.to_string(),
    })
    .to_string()
}

impl ApprovalNotifier for Webhook {
    fn notify<'a>(&'a self, notice: &'a ApprovalNotice) -> NotifyFuture<'a> {
        Box::pin(self.post(notice))
    }
}

/// The URL may hold what lets one in.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

/// A client that trusts what the machine trusts, and goes where it was told, nowhere else.
fn client() -> Result<Client, InvalidWebhook> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|_| InvalidWebhook::Tls)?
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|_| InvalidWebhook::Tls)
}

/// Why there is no webhook. Never repeats the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWebhook {
    /// No URL of http or https without a user and a password.
    #[error("a webhook is a URL of http or https, without a user or a password in it")]
    Url,
    /// TLS cannot be set up on this machine.
    #[error("TLS cannot be set up on this machine")]
    Tls,
}
