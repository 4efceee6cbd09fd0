//! Draining in the background: at the start, when the database is back, behind spooled events, and
//! from time to time for what other processes left.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::drain::Thoroughness;
use super::report::DrainReport;
use crate::audit::error::AuditError;
use crate::audit::journal::Journal;
use crate::task;

/// How often to look for what other processes left.
const LOOK: Duration = Duration::from_secs(30);
/// How long to wait after the first failure; doubled for each one after, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a file stays when nothing is added to it.
const AT_REST: Duration = Duration::from_secs(1);

/// Starts to drain, where there is a journal and a runtime.
pub(super) fn start(shared: &Arc<Shared>) {
    let by_itself = |journal: &Journal| !journal.is_on_request();
    if !shared.journal.as_ref().is_some_and(by_itself) {
        return;
    }
    if let Some(runtime) = shared
        .runtime
        .clone()
        .or_else(|| Handle::try_current().ok())
    {
        let shared = Arc::clone(shared);
        task::spawn_on(&runtime, async move {
            let stop = shared.stop.notified();
            tokio::pin!(stop);
            tokio::select! {
                () = &mut stop => {}
                () = keep_draining(&shared) => {}
            }
        });
    }
}

async fn keep_draining(shared: &Arc<Shared>) {
    let Some(journal) = &shared.journal else {
        return;
    };
    let mut look_at = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut close = false;
    loop {
        let others = Instant::now() >= look_at;
        let how = Thoroughness { others, close };
        let mut report = DrainReport::default();
        let done = shared
            .drainer
            .lock()
            .await
            .pass(shared, how, &mut report)
            .await;
        close = false;
        if report != DrainReport::default() {
            tracing::info!(%report, "drained audit journals");
        }
        match done {
            Ok(()) => {
                pause = FIRST_PAUSE;
                if others {
                    look_at = Instant::now() + LOOK;
                }
                let waits = journal.ledger().front().is_some();
                let rest = look_at.saturating_duration_since(Instant::now());
                let rest = if waits { rest.min(AT_REST) } else { rest };
                tokio::select! {
                    () = journal.ledger().written.notified() => {}
                    () = sleep(rest) => close = true,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the audit journal cannot be drained yet");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Drains everything there is, now.
pub(super) async fn drain(shared: &Arc<Shared>) -> Result<DrainReport, AuditError> {
    let mut report = DrainReport::default();
    let how = Thoroughness {
        others: true,
        close: true,
    };
    shared
        .drainer
        .lock()
        .await
        .pass(shared, how, &mut report)
        .await?;
    Ok(report)
}

/// Drains this writer's own journal for the last time, as far as the deadline allows.
pub(super) async fn finish(shared: &Arc<Shared>) {
    shared.stop.notify_one();
    let Some(journal) = &shared.journal else {
        return;
    };
    if journal.ledger().front().is_none() {
        return;
    }
    let how = Thoroughness {
        others: false,
        close: true,
    };
    let mut report = DrainReport::default();
    let last = async {
        let mut drainer = shared.drainer.lock().await;
        drainer.pass(shared, how, &mut report).await
    };
    match timeout(shared.store.deadline(), last).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the audit journal could not be drained"),
        Err(_) => tracing::debug!("the audit journal could not be drained in time"),
    }
}
