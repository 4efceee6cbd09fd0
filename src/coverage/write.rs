//! Writing behind: counts reach the database in batches, each once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::Shared;
use crate::store::StoreError;

/// How long counts are collected before they are written.
const COLLECT: Duration = Duration::from_secs(5);
/// The longest wait between two tries while the database is away.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How old a batch may become that does not arrive: half of the time for which the database remembers
/// which batches did.
const GIVE_UP_AFTER: Duration = Duration::from_hours(12);
/// After how many batches the marks of processes that are gone are looked for.
const FORGET_EVERY: u64 = 720;

/// Writes what is counted, until the registry is dropped. Sleeps while nothing is.
pub(super) async fn behind(shared: Weak<Shared>, wake: Arc<Notify>) {
    let mut pause = COLLECT;
    let mut batches = 0_u64;
    loop {
        wake.notified().await;
        if shared.strong_count() == 0 {
            return;
        }
        sleep(pause).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match shared.write().await {
            Ok(()) => pause = COLLECT,
            Err(error) => {
                tracing::debug!(%error, "counts of governed calls are kept and written later");
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                wake.notify_one();
                continue;
            }
        }
        // The first time too: where processes are short, each tidies up after others.
        if batches.is_multiple_of(FORGET_EVERY) {
            // If not now, then at another time, or by another process.
            drop(shared.store.forget_writers().await);
        }
        batches += 1;
    }
}

impl Shared {
    /// Writes what waits, a batch that may not have arrived first.
    ///
    /// Cancel safe: a batch stays sealed until it is known to have arrived.
    pub(super) async fn write(&self) -> Result<(), StoreError> {
        let _in_order = self.writing.lock().await;
        // A batch that was left over, and the one of now.
        for _ in 0..2 {
            let now = self.store.now();
            let Some(batch) = self.counts().seal(now) else {
                return Ok(());
            };
            if now.since(batch.sealed_at) > GIVE_UP_AFTER {
                self.counts().give_up(&batch);
                continue;
            }
            self.store.add(&batch).await?;
            self.counts().written(&batch);
        }
        Ok(())
    }
}
