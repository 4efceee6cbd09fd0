//! The anchors of one trail, and what is known of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::model::Held;
use super::watch::{AnchorHealth, Watch};
use super::{Anchor, AnchorError, Inquiry, KeptAt};
use crate::audit::AuditError;
use crate::task;
use crate::time::Timestamp;

/// How long an anchor may take to say what it holds. The signer holds a lock meanwhile, for which
/// others wait no longer than a statement may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may miss a checkpoint, or not answer, unless the host says otherwise.
const STALE_AFTER: Duration = Duration::from_mins(15);

/// The anchors of one trail, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anchors {
    list: Arc<[Arc<dyn Anchor>]>,
    watches: Arc<Mutex<Vec<Watch>>>,
    /// What was published and is not told of in the trail yet.
    untold: Arc<Mutex<Vec<Published>>>,
    stale_after: Option<Duration>,
}

/// A checkpoint that an anchor took.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) anchor: String,
    pub(super) kind: &'static str,
    pub(super) size: u64,
    pub(super) root: String,
    /// The SHA-256 of the receipt.
    pub(super) receipt: String,
}

impl Anchors {
    pub(crate) fn new(list: Vec<Arc<dyn Anchor>>, stale_after: Option<Duration>) -> Self {
        Self {
            watches: Arc::new(Mutex::new(vec![Watch::default(); list.len()])),
            list: list.into(),
            untold: Arc::default(),
            stale_after,
        }
    }

    /// Refuses names that are none, or that two anchors have.
    pub(crate) fn check(list: &[Arc<dyn Anchor>]) -> Result<(), AuditError> {
        let mut names = BTreeSet::new();
        for anchor in list {
            let name = anchor.name();
            let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
            if name.is_empty() || name.len() > 256 || !plain {
                return Err(AuditError::AnchorName {
                    problem: "is not 1 to 256 bytes of printable ASCII without blanks",
                });
            }
            if !names.insert(name) {
                return Err(AuditError::AnchorName {
                    problem: "is given to two anchors; give each a name of its own",
                });
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn list(&self) -> &[Arc<dyn Anchor>] {
        &self.list
    }

    /// How many of them can tell what they hold.
    pub(super) fn tellers(&self) -> usize {
        self.list.iter().filter(|anchor| anchor.remembers()).count()
    }

    pub(super) fn stale_after(&self) -> Duration {
        self.stale_after.unwrap_or(STALE_AFTER)
    }

    /// Changes what is known of the anchor at `place`.
    pub(super) fn watch<T>(&self, place: usize, change: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        lock(&self.watches).get_mut(place).map(change)
    }

    pub(super) fn health(&self, now: Timestamp) -> Vec<AnchorHealth> {
        let watches = lock(&self.watches);
        let each = self.list.iter().zip(&*watches);
        each.map(|(anchor, watch)| {
            watch.health(anchor.name(), anchor.kind(), now, self.stale_after())
        })
        .collect()
    }

    pub(super) fn will_tell(&self, published: Published) {
        lock(&self.untold).push(published);
    }

    pub(super) fn take_untold(&self) -> Vec<Published> {
        std::mem::take(&mut *lock(&self.untold))
    }

    /// What those of the anchors at `places` that can tell say that they hold.
    pub(super) async fn ask(
        &self,
        inquiry: Inquiry,
        places: impl Fn(usize) -> bool,
    ) -> Vec<(usize, KeptAt)> {
        let inquiry = Arc::new(inquiry);
        let mut asked = JoinSet::new();
        for (place, anchor) in self.list.iter().enumerate() {
            if !anchor.remembers() || !places(place) {
                continue;
            }
            let (anchor, inquiry) = (Arc::clone(anchor), Arc::clone(&inquiry));
            asked.spawn(task::boxed(async move {
                let found = ask(&*anchor, &inquiry).await;
                let kept = KeptAt {
                    anchor: anchor.name().to_owned(),
                    kind: anchor.kind(),
                    found,
                };
                (place, kept)
            }));
        }
        let mut answers = Vec::new();
        // An anchor that panics has not answered; the others have.
        while let Some(answer) = asked.join_next().await {
            answers.extend(answer);
        }
        answers.sort_by_key(|(place, _)| *place);
        answers
    }
}

async fn ask(anchor: &dyn Anchor, inquiry: &Inquiry) -> Result<Option<Held>, AnchorError> {
    let answered = tokio::time::timeout(PATIENCE, anchor.latest(inquiry)).await;
    let Some(kept) = answered.map_err(|_| AnchorError::TimedOut)?? else {
        return Ok(None);
    };
    Ok(Some(kept.check(inquiry.log())?))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
