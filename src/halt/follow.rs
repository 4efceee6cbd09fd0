//! The background: hearing of changes, polling behind that, and watching the age of what is known.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::change;
use super::core::Core;
use crate::store::{Subscription, Wake};

/// How many notices are answered by one read.
const AT_ONCE: usize = 1_024;

/// Follows what is halted until told to stop.
pub(super) async fn follow(
    core: Arc<Core>,
    heard: Subscription,
    mut stopped: watch::Receiver<bool>,
) {
    // The watch must not wait for a read that hangs.
    tokio::select! {
        _ = stopped.changed() => {}
        () = read(&core, heard) => {}
        () = watch_age(&core) => {}
        () = store_the_rest(&core) => {}
    }
    core.refusals.flush(&core.audit, None);
}

async fn read(core: &Core, mut heard: Subscription) {
    loop {
        let wake = heard.next(core.settings.poll_every).await;
        let mut more = 0;
        while wake != Wake::Poll && more < AT_ONCE {
            // A burst of changes is one read; what comes while it is made is another.
            if heard.next(Duration::ZERO).await == Wake::Poll {
                break;
            }
            more += 1;
        }
        if let Err(error) = core.refresh(wake != Wake::Poll).await {
            tracing::debug!(%error, "what is halted could not be read");
        }
        core.refusals.flush(&core.audit, Some(Instant::now()));
    }
}

/// Says when what is known is too old, and when it no longer is.
async fn watch_age(core: &Core) {
    loop {
        if core.is_too_old() {
            core.turn_stale();
            core.refreshed.notified().await;
        } else {
            core.turn_fresh();
            // A moment past it: then it is older than the bound.
            sleep_until(core.stale_from() + Duration::from_millis(1)).await;
        }
    }
}

/// Stores what was ordered here while the database was away.
async fn store_the_rest(core: &Core) {
    loop {
        sleep(core.settings.poll_every).await;
        for pending in core.adrift(None) {
            match change::store(core, &pending).await {
                Ok(_) => tracing::info!("a halt that was in force in this process alone is stored"),
                Err(error) => tracing::warn!(%error, "a halt is in force in this process alone"),
            }
        }
    }
}
