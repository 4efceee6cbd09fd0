//! The background: writing heartbeats, and saying who is not heard of.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Core;

/// Until told to stop; what is being written then is written.
pub(super) async fn follow(core: Arc<Core>, stopped: watch::Receiver<bool>) {
    tokio::join!(write(&core, stopped.clone()), watch_silence(&core, stopped));
}

async fn write(core: &Core, mut stopped: watch::Receiver<bool>) {
    let mut ticks = interval(core.settings.flush_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = core.flush().await {
            tracing::debug!(%error, "heartbeats could not be written; the newest are kept");
        }
    }
}

async fn watch_silence(core: &Core, mut stopped: watch::Receiver<bool>) {
    let every = core.settings.unresponsive_after / 2;
    let every = every.clamp(Duration::from_millis(10), Duration::from_secs(30));
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = sleep(every) => {}
        }
        if let Err(error) = core.check_stale(core.settings.unresponsive_after).await {
            tracing::debug!(%error, "could not look who is not heard of");
        }
    }
}
