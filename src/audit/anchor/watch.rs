//! What is known of each anchor, for health and for trying again.

use std::time::Duration;

use super::AnchorError;
use crate::time::Timestamp;

/// The most rounds that are left out between two attempts at an anchor that fails.
const LONGEST_PAUSE: u32 = 63;

/// One anchor, as this process saw it last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnchorHealth {
    /// Its name.
    pub anchor: String,
    /// What sort it is.
    pub kind: &'static str,
    /// The size of the newest tree that it is known to hold, or took.
    pub size: Option<u64>,
    /// When that was last seen, by this process.
    pub seen_at: Option<Timestamp>,
    /// The first checkpoint that it misses was made then; `None` if it misses none that is known.
    pub missing_since: Option<Timestamp>,
    /// Why it did not answer or take the last checkpoint.
    pub error: Option<AnchorError>,
    /// Whether it misses a checkpoint, or fails, for longer than it may.
    pub stale: bool,
    /// Whether it holds more than the database, or another tree. Nothing is signed then.
    pub conflict: bool,
}

impl AnchorHealth {
    /// Whether it is in step, or behind for a short while.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        !self.stale && !self.conflict
    }
}

/// What is remembered of one anchor.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    pub(super) size: Option<u64>,
    seen_at: Option<Timestamp>,
    pub(super) missing_since: Option<Timestamp>,
    error: Option<AnchorError>,
    failing_since: Option<Timestamp>,
    conflict: Option<(u64, u64)>,
    /// Rounds to leave out before the next attempt, and how many were left out before this one.
    pause: (u32, u32),
}

impl Watch {
    /// It answered, or took a checkpoint, and is in order.
    pub(super) fn saw(&mut self, size: u64, now: Timestamp) {
        self.size = Some(size);
        self.seen_at = Some(now);
        self.error = None;
        self.failing_since = None;
        self.conflict = None;
        self.pause = (0, 0);
    }

    /// It answered with a size. That settles no contradiction.
    pub(super) fn told(&mut self, size: u64, now: Timestamp) {
        let conflict = self.conflict;
        self.saw(size, now);
        self.conflict = conflict;
    }

    /// It did not; says whether that is new.
    pub(super) fn failed(&mut self, error: AnchorError, now: Timestamp) -> bool {
        let is_new = self.error.is_none();
        self.error = Some(error);
        self.failing_since.get_or_insert(now);
        let (_, last) = self.pause;
        let next = (last * 2 + 1).min(LONGEST_PAUSE);
        self.pause = (next, next);
        is_new
    }

    /// It contradicts the database; says whether that is new.
    pub(super) fn contradicts(&mut self, held: u64, signed: u64) -> bool {
        let is_new = self.conflict.is_none_or(|(known, _)| known != held);
        self.conflict = Some((held, signed));
        self.size = Some(held);
        is_new
    }

    /// Whether nothing is wrong with it, as far as is known.
    pub(super) const fn is_in_order(&self) -> bool {
        self.error.is_none() && self.conflict.is_none()
    }

    /// Whether it is to be tried in this round.
    pub(super) fn is_due(&mut self) -> bool {
        let (left, _) = &mut self.pause;
        let due = *left == 0;
        *left = left.saturating_sub(1);
        due
    }

    pub(super) fn health(
        &self,
        anchor: &str,
        kind: &'static str,
        now: Timestamp,
        patience: Duration,
    ) -> AnchorHealth {
        let late = |since: Timestamp| now.since(since) > patience;
        AnchorHealth {
            anchor: anchor.to_owned(),
            kind,
            size: self.size,
            seen_at: self.seen_at,
            missing_since: self.missing_since,
            error: self.error.clone(),
            stale: self.missing_since.is_some_and(late) || self.failing_since.is_some_and(late),
            conflict: self.conflict.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_that_fails_is_tried_less_and_less_often_and_never_given_up() {
        let mut watch = Watch::default();
        let mut attempts = Vec::new();
        for round in 0..300 {
            if watch.is_due() {
                attempts.push(round);
                watch.failed(AnchorError::TimedOut, Timestamp::from_micros(0));
            }
        }
        assert_eq!(attempts, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
        watch.saw(1, Timestamp::from_micros(0));
        assert!(watch.is_due() && watch.is_due());
    }

    #[test]
    fn what_is_missing_for_too_long_is_stale_and_an_error_is_new_once() {
        let mut watch = Watch::default();
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let failed = |watch: &mut Watch, now| watch.failed(AnchorError::TimedOut, at(now));
        let health =
            |watch: &Watch, now| watch.health("a", "file", at(now), Duration::from_mins(1));
        assert!(failed(&mut watch, 10) && !failed(&mut watch, 50));
        assert!(health(&watch, 70).is_ok() && !health(&watch, 71).is_ok());
        assert_eq!(health(&watch, 71).error, Some(AnchorError::TimedOut));
        watch.saw(1, at(72));
        assert!(health(&watch, 1_000).is_ok());
        watch.missing_since = Some(at(0));
        assert!(health(&watch, 60).is_ok() && !health(&watch, 61).is_ok());
    }
}
