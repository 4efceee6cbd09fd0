//! Checkpoints in the background: every so many entries, or so much time.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::make;
use crate::audit::{Audit, AuditError, WeakAudit};
use crate::tlog::LogKey;

/// How often to look whether a checkpoint is due, at most and at least.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// When a checkpoint is due: whichever comes first. Where there is nothing new, none is.
///
/// ```
/// use portcullis::audit::CheckpointEvery;
/// use std::time::Duration;
///
/// let often = CheckpointEvery::default().entries(1_000).interval(Duration::from_secs(10));
/// # let _ = often;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEvery {
    entries: u64,
    interval: Duration,
}

impl Default for CheckpointEvery {
    /// Every 10,000 entries, or every minute.
    fn default() -> Self {
        Self {
            entries: 10_000,
            interval: Duration::from_mins(1),
        }
    }
}

impl CheckpointEvery {
    /// After so many entries (10,000); at least one.
    #[must_use]
    pub fn entries(mut self, entries: u64) -> Self {
        self.entries = entries.max(1);
        self
    }

    /// After so much time, if there is a new entry (one minute). It is how long a deletion may go
    /// unnoticed.
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Whether a checkpoint is due with so many new entries, `age` milliseconds after the last.
    pub(super) fn is_due(&self, entries: u64, age: Option<u64>) -> bool {
        let old = age.is_none_or(|age| u128::from(age) >= self.interval.as_millis());
        entries >= self.entries || (entries > 0 && old)
    }
}

/// What makes checkpoints in the background.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) key: LogKey,
    pub(crate) every: CheckpointEvery,
}

impl Maker {
    /// Makes checkpoints until the last handle is gone or the writer was shut down.
    pub(in crate::audit) async fn run(self, audit: WeakAudit) {
        let mut looks = tokio::time::interval((self.every.interval / 10).clamp(LOOK.0, LOOK.1));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Some(audit) = audit.upgrade() else {
                return;
            };
            let looked = self.look(&audit).await;
            // Whatever became of that: anchors that were away may be back.
            let caught_up = audit.catch_up(self.key.verifier()).await;
            match looked.and(caught_up) {
                Ok(()) => {}
                Err(AuditError::Closed) => return,
                Err(error) => tracing::warn!(%error, "no checkpoint could be made"),
            }
        }
    }

    async fn look(&self, audit: &Audit) -> Result<(), AuditError> {
        let (entries, age) = audit.backlog().await?;
        if self.every.is_due(entries, age)
            && let Some(made) = make::next(audit, &self.key, Some(&self.every)).await?
        {
            tracing::debug!(size = made.size(), "made a checkpoint");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_is_never_due_and_much_or_old_is() {
        let every = CheckpointEvery::default()
            .entries(10)
            .interval(Duration::from_secs(1));
        for (entries, age, due) in [
            (0, None, false),
            (0, Some(100_000), false),
            (1, None, true),
            (1, Some(999), false),
            (1, Some(1_000), true),
            (9, Some(0), false),
            (10, Some(0), true),
        ] {
            assert_eq!(every.is_due(entries, age), due, "{entries} {age:?}");
        }
    }
}
