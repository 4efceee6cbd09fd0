//! Why a request was not sent, and how to find it inside the client's own error.

use std::error::Error;
use std::io;

use async_openai::error::OpenAIError;

use crate::{ErrorKind, Refusal};

/// A request that the adapter cannot govern, and therefore did not send.
///
/// It is not a decision of a gate (that is a [`Refusal`]): no budget or rule was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ungoverned {
    /// The endpoint can spend money in units that this adapter does not meter.
    #[error(
        "the {family} endpoint is not metered and was not called; call it with a client of its \
         own inside `Governance::run`, under an explicit ceiling"
    )]
    Endpoint {
        /// The family of the endpoint, such as `embeddings`.
        family: &'static str,
    },
    /// The request names a tool that the provider runs by itself: it acts where no gate sees it,
    /// and may be charged by the call instead of the token.
    #[error(
        "the request lets the provider run tools by itself, where no gate sees them; allow it \
         with `allow_hosted_tools`"
    )]
    HostedTools,
    /// The response would be produced after the answer, so that its usage is never seen.
    #[error("a background response cannot be metered; send the request without `background`")]
    Background,
    /// The request body could not be understood.
    #[error("the request body cannot be governed: {reason}")]
    Body {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No HTTP client could be made.
    #[error("no HTTP client could be made; pass one with `http_client`")]
    NoHttpClient,
}

impl Ungoverned {
    /// Who can do something about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoHttpClient => ErrorKind::Unavailable,
            _ => ErrorKind::Misuse,
        }
    }
}

/// The [`Refusal`] inside an error of the client, however deep it is wrapped; also in the one that ends
/// a stream whose agent was halted.
///
/// ```no_run
/// # async fn ask(client: async_openai::Client<async_openai::config::OpenAIConfig>,
/// #     request: async_openai::types::chat::CreateChatCompletionRequest) {
/// use portcullis::adapters::openai::refusal;
///
/// if let Err(error) = client.chat().create(request).await
///     && let Some(refusal) = refusal(&error)
/// {
///     println!("not called: {refusal}");
/// }
/// # }
/// ```
#[must_use]
pub fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refusal> {
    find(error).or_else(|| match find::<OpenAIError>(error) {
        Some(OpenAIError::JSONDeserialize(_, data)) => super::halted::in_event(data),
        _ => None,
    })
}

/// The [`Ungoverned`] inside an error of the client, however deep it is wrapped.
#[must_use]
pub fn ungoverned<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Ungoverned> {
    find(error)
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // These two answer `source()` with the source of what they box, and skip the box itself.
        next = if let Some(OpenAIError::Boxed(inner)) = error.downcast_ref() {
            Some(&**inner)
        } else if let Some(inner) = error.downcast_ref().and_then(io::Error::get_ref) {
            Some(inner)
        } else {
            error.source()
        };
    }
    None
}

/// The client's own error around one of ours.
pub(super) fn boxed(error: impl Error + Send + Sync + 'static) -> OpenAIError {
    OpenAIError::Boxed(Box::new(error))
}
