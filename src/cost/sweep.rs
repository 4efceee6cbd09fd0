//! Leases that ran out: their reservations' outcome is unknown from then on. And raises of rolling windows,
//! which last as long as the window does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::record;
use super::settle::Core;
use super::status::Sweeping;
use crate::money::Usd;
use crate::store::StoreError;

/// Sweeps once: all that is due, a batch at a time.
pub(super) async fn once(core: &Core) -> Result<u64, StoreError> {
    let by = Uuid::now_v7();
    if !core.leases.is_seen() && core.store.any_leased().await? {
        core.leases.see();
    }
    core.store.expire_raises().await?;
    let mut total = slices(core, by).await?;
    loop {
        let swept = core.store.try_sweep(by).await?;
        if swept.is_empty() {
            return Ok(total);
        }
        for reservation in &swept {
            core.audit.log_detached(record::swept(reservation));
            total += 1;
        }
    }
}

/// Slices whose holders let them run out.
async fn slices(core: &Core, by: Uuid) -> Result<u64, StoreError> {
    let mut total = 0;
    loop {
        let swept = core.store.try_sweep_leases(by).await?;
        if swept.is_empty() {
            return Ok(total);
        }
        for slice in swept
            .iter()
            .filter(|slice| slice.usd > Usd::ZERO || slice.tokens > 0)
        {
            core.audit.log_detached(record::swept(slice));
            total += 1;
        }
    }
}

/// Sweeps until told to stop, or until the last handle is gone.
pub(super) async fn watch(sweeping: Sweeping, mut stopped: watch::Receiver<bool>) {
    let core = &sweeping.0;
    let every = core.settings.sweep_every.max(Duration::from_millis(100));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = ticks.tick() => {}
        }
        let done = once(core).await;
        core.swept(&done);
        match done {
            Ok(0) => {}
            Ok(swept) => tracing::warn!(swept, "reservations of unknown outcome; resolve them"),
            Err(error) => tracing::warn!(%error, "could not sweep expired reservations"),
        }
    }
}
