//! How a verification keeps out of the way of those who write.
//!
//! It reads a stretch of entries, looks at where the heads are, and rests if they have moved by more
//! than a trickle: nine times as long as it worked, so that it takes a tenth of the time. While
//! nobody writes, the stretches are long and there are no rests. How much there is to read was
//! fixed before: what is written meanwhile makes it slower, and never longer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::reader::Reader;
use crate::audit::store::verify::RANGE;
use crate::store::StoreError;

/// How a verification shares the machine with the appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pace {
    /// While entries are appended, by whichever process, it works for about a tenth of the time;
    /// while none are, at full speed.
    #[default]
    Yielding,
    /// At full speed whatever else is going on.
    Full,
}

/// The most entries of a stretch while somebody writes, some hundredths of a second's work; a
/// multiple of a tile's width.
const SHORT: u64 = if cfg!(test) { 256 } else { 4_096 };
/// More than so many entries a second are more than a trickle, and more than so many at a time: a
/// short stretch is over in no time.
const TRICKLE: u64 = 100;
const FEW: u64 = 10;
/// It rests so many times as long as it worked, but not for longer than this.
const RESTS: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(2);

/// The rests of one verification.
#[derive(Debug)]
pub(super) struct Breath {
    pacer: Pacer,
    /// When the heads were last looked at, and when the last rest was over.
    looked: Instant,
    rested: Instant,
}

impl Breath {
    /// `heads` is how many entries the heads of all chains come to now.
    pub(super) fn new(pace: Pace, heads: u64) -> Self {
        let now = Instant::now();
        Self {
            pacer: Pacer::new(pace, heads),
            looked: now,
            rested: now,
        }
    }

    /// The most entries to read before the next look.
    pub(super) fn stretch(&self) -> u64 {
        self.pacer.stretch()
    }

    /// How often it rested.
    pub(super) const fn rests(&self) -> u64 {
        self.pacer.rests
    }

    /// After so many more entries were read, and outside of any transaction: looks whether others
    /// write, and rests if they do.
    pub(super) async fn after(
        &mut self,
        entries: u64,
        reader: &mut Reader,
    ) -> Result<(), StoreError> {
        if !self.pacer.is_due(entries) {
            return Ok(());
        }
        let heads = reader.heads().await?;
        let now = Instant::now();
        let (since, worked) = (now - self.looked, now - self.rested);
        let rest = self.pacer.look(heads, since, worked);
        if !rest.is_zero() {
            sleep(rest).await;
        }
        (self.looked, self.rested) = (now, Instant::now());
        Ok(())
    }
}

/// The pace of one verification: a pure function of what it is told.
#[derive(Debug)]
struct Pacer {
    pace: Pace,
    /// How many entries there were in all chains when the heads were looked at last.
    heads: u64,
    /// They moved between the last two looks.
    written: bool,
    /// Entries that were read since then.
    read: u64,
    rests: u64,
}

impl Pacer {
    const fn new(pace: Pace, heads: u64) -> Self {
        Self {
            pace,
            heads,
            // Until it is known better.
            written: true,
            read: 0,
            rests: 0,
        }
    }

    /// The most entries to read before the next look.
    fn stretch(&self) -> u64 {
        match self.pace {
            Pace::Yielding if self.written => SHORT,
            Pace::Yielding | Pace::Full => RANGE,
        }
    }

    /// Takes note of what was read; says whether to look at the heads now.
    fn is_due(&mut self, entries: u64) -> bool {
        self.read = self.read.saturating_add(entries);
        self.pace == Pace::Yielding && self.read >= self.stretch()
    }

    /// Takes a look: how many entries there are in all chains now, after so much time, rests
    /// included, and so much work. Answers with how long to rest.
    fn look(&mut self, heads: u64, since: Duration, worked: Duration) -> Duration {
        let moved = heads.saturating_sub(self.heads);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let trickle = (TRICKLE.saturating_mul(millis) / 1_000).max(FEW);
        self.heads = heads;
        self.read = 0;
        self.written = self.pace == Pace::Yielding && moved > trickle;
        if !self.written {
            return Duration::ZERO;
        }
        self.rests = self.rests.saturating_add(1);
        worked.saturating_mul(RESTS).min(LONGEST_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Duration = Duration::from_millis(20);

    #[test]
    fn it_rests_while_the_heads_move_and_not_when_they_stand() {
        let mut pacer = Pacer::new(Pace::Yielding, 1_000);
        // Careful until it knows.
        assert_eq!(pacer.stretch(), SHORT);
        assert!(!pacer.is_due(SHORT - 1));
        assert!(pacer.is_due(1));
        // It takes a tenth of the time.
        assert_eq!(pacer.look(1_500, WORK, WORK), WORK * 9);
        assert_eq!((pacer.stretch(), pacer.rests), (SHORT, 1));
        // What was written while it rested counts.
        assert_eq!(pacer.look(1_530, WORK * 10, WORK), WORK * 9);
        assert_eq!(pacer.rests, 2);
        // Nothing, or a trickle.
        for heads in [1_530, 1_550] {
            assert_eq!(pacer.look(heads, WORK * 10, WORK), Duration::ZERO);
            assert_eq!((pacer.stretch(), pacer.rests), (RANGE, 2));
        }
        assert!(!pacer.is_due(RANGE - 1));
        assert!(pacer.is_due(1));
        // And again.
        assert_eq!(pacer.look(9_000, WORK, WORK), WORK * 9);
        assert_eq!((pacer.stretch(), pacer.rests), (SHORT, 3));
    }

    #[test]
    fn a_steady_trickle_is_a_trickle_however_long_a_stretch_takes() {
        let mut pacer = Pacer::new(Pace::Yielding, 0);
        let second = Duration::from_secs(1);
        assert_eq!(pacer.look(TRICKLE, second, second), Duration::ZERO);
        assert_eq!(
            pacer.look(TRICKLE * 61, second * 60, second),
            Duration::ZERO
        );
        let rest = pacer.look(TRICKLE * 62 + 1, second, second);
        assert_eq!(rest, LONGEST_REST);
    }

    #[test]
    fn at_full_speed_it_never_looks() {
        let mut pacer = Pacer::new(Pace::Full, 0);
        assert_eq!(pacer.stretch(), RANGE);
        assert!(!pacer.is_due(u64::MAX));
        assert_eq!((pacer.stretch(), pacer.rests), (RANGE, 0));
    }
}
