//! Telling approvers that somebody waits for them.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::request::ApprovalRequest;
use crate::ids::{AgentId, RequestId};
use crate::task;
use crate::time::Timestamp;

/// How often a notice is tried, and how long to wait before the second time; doubled after each.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long one try may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many notices may be under way at once; one more is dropped, and said so.
const MOST: usize = 1_024;

/// What approvers are told: which request, of which tool, for whom, until when. No arguments, and
/// nothing else that the call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApprovalNotice {
    /// The request.
    pub request: RequestId,
    /// Who asks.
    pub agent: AgentId,
    /// The tool or model, or `budget:<name>`.
    pub label: String,
    /// Who may decide: `user:<id>`, `team:<id>`.
    pub approvers: Vec<String>,
    /// How many of them must agree.
    pub quorum: u32,
    /// Until when, by the database's clock.
    pub expires_at: Timestamp,
    /// When this was said.
    pub at: Timestamp,
}

impl ApprovalNotice {
    pub(super) fn of(request: &ApprovalRequest, at: Timestamp) -> Self {
        Self {
            request: request.id,
            agent: request.agent.clone(),
            label: request.label.clone(),
            approvers: request.approvers.clone(),
            quorum: request.quorum,
            expires_at: request.expires_at,
            at,
        }
    }
}

/// The answer of a notifier, boxed so that notifiers of several sorts stand in one place.
pub type NotifyFuture<'a> = Pin<Box<dyn Future<Output = Result<(), NotifyError>> + Send + 'a>>;

/// Tells approvers of requests: by mail, in a chat, in a console of one's own.
///
/// It is called in the background, again after a failure, five times at most; each try is given up
/// after ten seconds, by dropping the future. A request never waits for it, nor fails with it. The
/// same request may be told of more than once.
pub trait ApprovalNotifier: Send + Sync + fmt::Debug + 'static {
    /// Tells of one request.
    ///
    /// # Errors
    ///
    /// [`NotifyError`] says whether trying again may help.
    fn notify<'a>(&'a self, notice: &'a ApprovalNotice) -> NotifyFuture<'a>;
}

/// Why nobody was told. Without the other side's words: they may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// It may work the next time.
    #[error("the notice was not taken: {0}")]
    Again(&'static str),
    /// It never will.
    #[error("the notice was refused: {0}")]
    Never(&'static str),
}

/// Writes requests to the log (`tracing`), for a console that reads it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LogNotifier;

impl LogNotifier {
    /// The notifier.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl ApprovalNotifier for LogNotifier {
    fn notify<'a>(&'a self, notice: &'a ApprovalNotice) -> NotifyFuture<'a> {
        Box::pin(async move {
            tracing::info!(
                request = %notice.request,
                agent = %notice.agent,
                label = %notice.label,
                expires_at = %notice.expires_at,
                "a person's approval is asked for"
            );
            Ok(())
        })
    }
}

/// Hands notices on, in the background.
pub(super) struct Desk {
    notifiers: Mutex<Vec<Arc<dyn ApprovalNotifier>>>,
    room: Arc<Semaphore>,
    runtime: Handle,
}

impl Desk {
    /// Must be called within a runtime.
    pub(super) fn new() -> Self {
        Self {
            notifiers: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST)),
            runtime: Handle::current(),
        }
    }

    pub(super) fn add(&self, notifier: Arc<dyn ApprovalNotifier>) {
        let mut all = self
            .notifiers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(notifier);
    }

    /// Never waits.
    pub(super) fn notify(&self, notice: &ApprovalNotice) {
        let all = self
            .notifiers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for notifier in all {
            let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
                tracing::error!(request = %notice.request, "too many notices are under way: one was dropped");
                continue;
            };
            let notice = notice.clone();
            task::spawn_on(&self.runtime, async move {
                deliver(&*notifier, &notice).await;
                drop(room);
            });
        }
    }

    /// Waits until what is under way is delivered or given up, or for `at_most`.
    pub(super) async fn settle(&self, at_most: Duration) {
        let all = u32::try_from(MOST).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(at_most, self.room.acquire_many(all)).await;
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

async fn deliver(notifier: &dyn ApprovalNotifier, notice: &ApprovalNotice) {
    let mut pause = FIRST_PAUSE;
    for left in (0..TRIES).rev() {
        let tried = tokio::time::timeout(DEADLINE, notifier.notify(notice)).await;
        let error = match tried.unwrap_or(Err(NotifyError::Again("no answer in time"))) {
            Ok(()) => return,
            Err(error) => error,
        };
        if left == 0 || matches!(error, NotifyError::Never(_)) {
            tracing::error!(request = %notice.request, %error, "approvers were not told of a request");
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
