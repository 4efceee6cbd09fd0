//! Many callers, few statements: one task takes what is waiting and has it decided together.
//!
//! Nobody waits for company. A call that finds nobody at work is decided alone and at once; those that
//! come while a statement is under way are the next one. A statement that takes long, because somebody
//! else holds a window, does not hold up the others for longer than a moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::store::AT_ONCE;
use crate::store::{StoreError, StoreFault};

/// How long a statement may be under way before the next one is begun beside it.
const STALLED: Duration = Duration::from_millis(25);
/// The most statements at a time.
const LANES: usize = 8;
/// How many rounds over the runnable tasks those get who are about to ask.
const ROUNDS: usize = 8;

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) struct Waiting<A, R> {
    pub(super) ask: A,
    answer: oneshot::Sender<Result<R, StoreError>>,
}

impl<A, R> Waiting<A, R> {
    /// Somebody who waits, and where the answer comes.
    #[cfg(test)]
    pub(super) fn new(ask: A) -> (Self, oneshot::Receiver<Result<R, StoreError>>) {
        let (answer, answered) = oneshot::channel();
        (Self { ask, answer }, answered)
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn answer(self, answer: Result<R, StoreError>) {
        // Who does not wait any more has left word with the background.
        let _ = self.answer.send(answer);
    }
}

/// Where to wait.
#[derive(Debug)]
pub(super) struct Queue<A, R> {
    operation: &'static str,
    waiting: mpsc::UnboundedSender<Waiting<A, R>>,
}

pub(super) type Waiters<A, R> = mpsc::UnboundedReceiver<Waiting<A, R>>;

impl<A, R> Queue<A, R> {
    pub(super) fn new(operation: &'static str) -> (Self, Waiters<A, R>) {
        let (waiting, waiters) = mpsc::unbounded_channel();
        (Self { operation, waiting }, waiters)
    }

    /// Waits for the answer to `ask`, and no longer than `limit`.
    pub(super) async fn ask(&self, ask: A, limit: Duration) -> Result<R, StoreError> {
        let (answer, answered) = oneshot::channel();
        // Without anybody to ask, or dropped by it: the runtime is shutting down.
        let gone = || StoreError::new(self.operation, StoreFault::Aborted);
        self.waiting
            .send(Waiting { ask, answer })
            .map_err(|_| gone())?;
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(StoreError::timed_out(self.operation)),
        }
    }
}

/// Whose statement is under way, of those that reserve and those that end.
//
// On one hot window, they would wait for each other's lock of its row, in the server, with half of the
// callers in each. Taking turns here, who waits for one is company for the next.
pub(super) type Turns = Arc<Mutex<()>>;

pub(super) fn turns() -> Turns {
    Arc::default()
}

/// Has `decide` answer what is waiting, until nobody can ask any more.
pub(super) async fn work<A, R, F, Fut>(mut waiters: Waiters<A, R>, turns: Turns, decide: F)
where
    F: Fn(Vec<Waiting<A, R>>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut at_work = JoinSet::new();
    let mut batch = Vec::new();
    while waiters.recv_many(&mut batch, AT_ONCE).await > 0 {
        while at_work.try_join_next().is_some() {}
        let room = at_work.len() < LANES;
        let turn = tokio::select! {
            biased;
            turn = Arc::clone(&turns).lock_owned() => Some(turn),
            () = tokio::time::sleep(STALLED), if room => None,
            _ = at_work.join_next(), if !room => None,
        };
        // Those who have just been answered ask again in a moment, all of them.
        for _ in 0..ROUNDS {
            let before = batch.len();
            tokio::task::yield_now().await;
            while batch.len() < AT_ONCE
                && let Ok(next) = waiters.try_recv()
            {
                batch.push(next);
            }
            if batch.len() == before {
                break;
            }
        }
        // Nothing is taken for those who have gone.
        batch.retain(|waiting| !waiting.is_gone());
        if !batch.is_empty() {
            let decided = decide(std::mem::take(&mut batch));
            at_work.spawn(async move {
                decided.await;
                drop(turn);
            });
        }
    }
    while at_work.join_next().await.is_some() {}
}
