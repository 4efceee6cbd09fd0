//! Keeps a process in step with the stored policies of one module.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Policies, PolicyRow};
use crate::store::{StoreError, StoreFault, Subscription, Topic, Wake};
use crate::task;
use crate::time::Timestamp;

/// How often to look, whatever is heard.
const POLL: Duration = Duration::from_secs(1);

/// What changed, to be taken into force together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyChanges<T> {
    /// What is in force once these are.
    pub(crate) revision: i64,
    /// What was read of each, in the order of the changes. If one occurs twice, the later counts.
    pub(crate) rows: Vec<T>,
    /// This is everything: what is not in it is gone. So at the start, and when what is stored is
    /// older than what was seen, as after a restore.
    pub(crate) whole: bool,
}

/// What a watch knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PolicyWatchStatus {
    /// The newest revision that is in force here.
    pub(crate) revision: i64,
    /// When what is in force was last known to be what is stored; `None` before the start.
    pub(crate) looked_at: Option<Timestamp>,
    /// Whether changes are heard at once; otherwise a poll finds them.
    pub(crate) heard: bool,
    /// The last look failed: what is in force may be older than what is stored.
    pub(crate) failing: bool,
}

/// Follows the policies of one module. Dropped, it stops; what is in force stays.
pub(crate) struct PolicyWatch<T> {
    shared: Arc<Shared<T>>,
    task: OnceLock<JoinHandle<()>>,
}

struct Shared<T> {
    policies: Policies,
    read: Box<dyn Fn(PolicyRow) -> T + Send + Sync>,
    apply: Box<dyn Fn(PolicyChanges<T>) + Send + Sync>,
    /// One look at a time, so that what is taken into force only ever gets newer.
    looking: Mutex<()>,
    seen: AtomicI64,
    looked_at: ArcSwapOption<Timestamp>,
    failing: AtomicBool,
}

impl Policies {
    /// Follows these policies, once it is [started](PolicyWatch::start): `read` is given each policy
    /// as it is read (so that a million need not be held as text), `apply` all of one look together.
    ///
    /// Neither may hold the watch, which would then never be dropped.
    pub(crate) fn watch<T: Send + 'static>(
        self,
        read: impl Fn(PolicyRow) -> T + Send + Sync + 'static,
        apply: impl Fn(PolicyChanges<T>) + Send + Sync + 'static,
    ) -> PolicyWatch<T> {
        PolicyWatch {
            shared: Arc::new(Shared {
                policies: self,
                read: Box::new(read),
                apply: Box::new(apply),
                looking: Mutex::default(),
                seen: AtomicI64::new(0),
                looked_at: ArcSwapOption::empty(),
                failing: AtomicBool::new(false),
            }),
            task: OnceLock::new(),
        }
    }
}

impl<T: Send + 'static> PolicyWatch<T> {
    /// Reads all policies, takes them into force, and follows them from there. Must be called
    /// within a runtime.
    pub(crate) async fn start(&self) -> Result<(), StoreError> {
        // Heard from before the first look on, so that nothing falls in between.
        let heard = self.shared.policies.store.subscribe(Topic::Policies);
        self.reread().await?;
        let shared = Arc::clone(&self.shared);
        let _ = self.task.get_or_init(|| task::spawn(follow(shared, heard)));
        Ok(())
    }

    /// Takes into force what changed, now.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for whoever cannot wait a second")
    )]
    pub(crate) async fn look(&self) -> Result<(), StoreError> {
        self.shared.look(false).await
    }

    /// Reads all policies again and takes them into force.
    pub(crate) async fn reread(&self) -> Result<(), StoreError> {
        self.shared.look(true).await
    }

    /// As [`Policies::upsert_all`]; then they are in force here, too.
    ///
    /// Cancel safe: once begun it is finished in the background. An error says that they may not be
    /// stored; if they are, they come into force with the next look.
    pub(crate) async fn upsert_all(
        &self,
        documents: Vec<(String, String)>,
    ) -> Result<i64, StoreError> {
        let shared = Arc::clone(&self.shared);
        detached("store policies", async move {
            let revision = shared.policies.upsert_all(&documents).await?;
            drop(documents);
            shared.look(false).await?;
            Ok(revision)
        })
        .await
    }

    /// As [`Policies::delete`]; then it is not in force here any more, either.
    ///
    /// Cancel safe as [`upsert_all`](Self::upsert_all).
    pub(crate) async fn delete(&self, name: String) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        detached("remove a policy", async move {
            let found = shared.policies.delete(&name).await?;
            shared.look(false).await?;
            Ok(found)
        })
        .await
    }

    /// Stops following; what is in force stays.
    pub(crate) fn stop(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.shared.policies
    }

    pub(crate) fn status(&self) -> PolicyWatchStatus {
        let shared = &self.shared;
        PolicyWatchStatus {
            revision: shared.seen.load(Ordering::Acquire),
            looked_at: shared.looked_at.load().as_deref().copied(),
            heard: shared.policies.store.hears_changes(),
            failing: shared.failing.load(Ordering::Relaxed),
        }
    }
}

impl<T> Shared<T> {
    /// Reads what changed, or everything, and takes it into force.
    async fn look(&self, whole: bool) -> Result<(), StoreError> {
        let _one = self.looking.lock().await;
        let now = self.policies.store.now();
        let looked = self.changes(whole).await;
        self.failing.store(looked.is_err(), Ordering::Relaxed);
        if let Some(changes) = looked? {
            let revision = changes.revision;
            (self.apply)(changes);
            self.seen.store(revision, Ordering::Release);
        }
        self.looked_at.store(Some(Arc::new(now)));
        Ok(())
    }

    async fn changes(&self, whole: bool) -> Result<Option<PolicyChanges<T>>, StoreError> {
        let seen = self.seen.load(Ordering::Acquire);
        let stored = self.policies.fetch_revision().await?;
        if stored == seen && !whole {
            return Ok(None);
        }
        let restored = stored < seen;
        if restored {
            let module = self.policies.module;
            tracing::error!(
                module,
                stored,
                seen,
                "the stored policies are older than those in force, as after a restore: they are in force now"
            );
        }
        let whole = whole || restored;
        // No name is empty: this is all of the first revision that was not seen.
        let (mut from, mut after) = (if whole { 0 } else { seen + 1 }, String::new());
        // Every revision up to `stored` is visible to what is read now.
        let mut revision = stored;
        let mut rows = Vec::new();
        loop {
            let page = self.policies.fetch_page(from, &after).await?;
            if let Some(last) = page.rows.last() {
                from = last.revision;
                after.clone_from(&last.name);
                revision = revision.max(last.revision);
            }
            rows.extend(page.rows.into_iter().map(&self.read));
            if page.is_last {
                break;
            }
        }
        Ok(Some(PolicyChanges {
            revision,
            rows,
            whole,
        }))
    }
}

async fn follow<T: Send + 'static>(shared: Arc<Shared<T>>, mut heard: Subscription) {
    let module = shared.policies.module;
    let mut away = false;
    loop {
        woken(&mut heard, module).await;
        match shared.look(false).await {
            Ok(()) if away => tracing::info!(module, "policies are followed again"),
            Ok(()) => {}
            Err(error) if away => tracing::debug!(module, %error, "policies still cannot be read"),
            Err(error) => {
                tracing::error!(module, %error, "policies cannot be followed: what was loaded stays in force");
            }
        }
        away = shared.failing.load(Ordering::Relaxed);
    }
}

/// Waits until the module's policies changed, or for the time between two looks.
async fn woken(heard: &mut Subscription, module: &str) {
    let until = Instant::now() + POLL;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Were others' notices to keep coming, it would still be time to look.
        match heard.next(left).await {
            Wake::Key(of) if *of != *module && !left.is_zero() => {}
            _ => return,
        }
    }
}

/// Does `work` to its end even if the caller stops waiting for it.
async fn detached<A: Send + 'static>(
    operation: &'static str,
    work: impl Future<Output = Result<A, StoreError>> + Send + 'static,
) -> Result<A, StoreError> {
    match task::spawn(work).await {
        Ok(answer) => answer,
        // The runtime is shutting down.
        Err(_) => Err(StoreError::new(operation, StoreFault::Unreachable)),
    }
}

impl<T> Drop for PolicyWatch<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl<T> fmt::Debug for PolicyWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyWatch")
            .field("module", &self.shared.policies.module)
            .field("revision", &self.shared.seen)
            .finish_non_exhaustive()
    }
}
