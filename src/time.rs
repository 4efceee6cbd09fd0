//! Time in whole microseconds, and where it comes from.
//!
//! Nothing in this crate reads a clock by itself: it asks a [`Clock`]. Production uses
//! [`SystemClock`]; your tests can use [`ManualClock`], which moves only when told to.
//!
//! ```
//! use std::time::Duration;
//! use portcullis::{Clock, ManualClock, Timestamp};
//!
//! let clock = ManualClock::at(Timestamp::from_micros(1_767_225_600_000_000));
//! clock.advance(Duration::from_secs(86_400));
//! assert_eq!(clock.now().to_string(), "2026-01-02T00:00:00.000000Z");
//! ```

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// A moment: microseconds since 1970-01-01T00:00:00Z.
///
/// Microseconds, because that is what Postgres keeps: a finer time would come back changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest moment that can be stored (0001-01-01).
    pub const MIN: Self = Self(-62_135_596_800 * MICROS_PER_SECOND);
    /// The latest moment that can be stored (the end of 9999).
    pub const MAX: Self = Self(253_402_300_800 * MICROS_PER_SECOND - 1);

    /// The moment `micros` microseconds after 1970, held within [`MIN`](Self::MIN) and
    /// [`MAX`](Self::MAX).
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The moment `by` later, never past [`MAX`](Self::MAX).
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(by))
    }

    /// The moment `by` earlier, never before [`MIN`](Self::MIN).
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(by))
    }

    /// `months` calendar months later, at the same time of the day (UTC); where the month has no such
    /// day, on its last one. Never past [`MAX`](Self::MAX).
    ///
    /// ```
    /// use portcullis::Timestamp;
    ///
    /// let written = Timestamp::parse("2026-08-31T09:00:00Z")?;
    /// assert_eq!(written.plus_months(6), Timestamp::parse("2027-02-28T09:00:00Z")?);
    /// # Ok::<(), portcullis::InvalidTimestamp>(())
    /// ```
    #[must_use]
    pub fn plus_months(self, months: u32) -> Self {
        let (year, month, day) = self.utc_day().civil();
        let month = year * 12 + (month - 1) + i64::from(months);
        let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
        // Two tries at most after the 31st of a month of 28 days.
        let day = (1..=day)
            .rev()
            .find_map(|day| UtcDay::from_civil(year, month, day));
        let Some(day) = day.filter(|_| year <= 9_999) else {
            return Self::MAX;
        };
        let in_day = self.0.rem_euclid(MICROS_PER_DAY);
        Self::from_micros(day.start().0.saturating_add(in_day))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The UTC day, as `2026-11-21`.
    #[must_use]
    pub fn utc_day(self) -> UtcDay {
        UtcDay(self.0.div_euclid(MICROS_PER_DAY))
    }

    /// Parses the RFC 3339 form that [`Display`](fmt::Display) writes: UTC, with `Z`, and at most
    /// six digits of fraction.
    ///
    /// # Errors
    ///
    /// [`InvalidTimestamp`] if it is anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        parse_rfc3339(text).ok_or(InvalidTimestamp)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(0).plus(after),
            Err(before) => Self(0).minus(before.duration()),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_micros(time.0.unsigned_abs());
        if time.0 < 0 {
            UNIX_EPOCH - distance
        } else {
            UNIX_EPOCH + distance
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_day = self.0.rem_euclid(MICROS_PER_DAY);
        let seconds = in_day / MICROS_PER_SECOND;
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let micros = in_day % MICROS_PER_SECOND;
        write!(f, "{}T{h:02}:{m:02}:{s:02}.{micros:06}Z", self.utc_day())
    }
}

/// Text that is not an RFC 3339 moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid time; write it in UTC, as 2026-11-21T08:30:00Z")]
#[non_exhaustive]
pub struct InvalidTimestamp;

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once('T')?;
    let (clock, fraction) = match rest.strip_suffix('Z')?.split_once('.') {
        Some((clock, fraction)) => (clock, fraction),
        None => (rest.strip_suffix('Z')?, ""),
    };
    let [year, month, day] = numbers::<3>(date, '-', [4, 2, 2])?;
    let [h, m, s] = numbers::<3>(clock, ':', [2, 2, 2])?;
    let micros: i64 = match fraction.len() {
        0 if !rest.contains('.') => 0,
        1..=6 if fraction.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{fraction:0<6}").parse().ok()?
        }
        _ => return None,
    };
    if year < 1 || !(1..=12).contains(&month) || h > 23 || m > 59 || s > 59 {
        return None;
    }
    let day = UtcDay::from_civil(year, month, day)?;
    Some(Timestamp(
        day.0 * MICROS_PER_DAY + ((h * 60 + m) * 60 + s) * MICROS_PER_SECOND + micros,
    ))
}

fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut parts = text.split(separator);
    for (slot, width) in found.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// A calendar day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcDay(i64);

impl UtcDay {
    /// When the day begins.
    #[must_use]
    pub fn start(self) -> Timestamp {
        Timestamp::from_micros(self.0.saturating_mul(MICROS_PER_DAY))
    }

    /// The day after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Days since 1970 to year, month, day (Howard Hinnant, "chrono-compatible low-level date
    /// algorithms", `civil_from_days`).
    fn civil(self) -> (i64, i64, i64) {
        let z = self.0 + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        (yoe + era * 400 + i64::from(month <= 2), month, day)
    }

    fn from_civil(year: i64, month: i64, day: i64) -> Option<Self> {
        let y = year - i64::from(month <= 2);
        let era = y.div_euclid(400);
        let yoe = y.rem_euclid(400);
        let mp = if month > 2 { month - 3 } else { month + 9 };
        let doy = (153 * mp + 2) / 5 + day - 1;
        let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
        let found = Self(era * 146_097 + doe - 719_468);
        (found.civil() == (year, month, day)).then_some(found)
    }
}

impl fmt::Display for UtcDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// Where the time comes from.
///
/// Implement it to take the time from elsewhere; [`SystemClock`] and [`ManualClock`] are supplied.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time, now.
    fn now(&self) -> Timestamp;

    /// The time that the database should use instead of its own, if any.
    ///
    /// What several hosts must agree on (leases, expiries) is decided by the database's clock.
    /// `None`, the default, leaves it to that; [`ManualClock`] answers its own time.
    fn database_override(&self) -> Option<Timestamp> {
        None
    }
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that reads the clock"
        )]
        SystemTime::now().into()
    }
}

/// A clock that moves only when told to, for tests: ours and yours.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.as_micros()))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Moves the clock to `to`, backwards too.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_micros(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn database_override(&self) -> Option<Timestamp> {
        Some(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_767_225_600_000_001, "2026-01-01T00:00:00.000001Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), text);
            assert_eq!(Timestamp::parse(text).unwrap().as_micros(), micros);
        }
        assert_eq!(Timestamp::MIN.to_string(), "0001-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for bad in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21T08:30:00",
            "2026-11-21T08:30:00+01:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T08:30:00.Z",
            "2026-11-21T08:30:00.1234567Z",
            "+026-11-21T08:30:00Z",
        ] {
            assert_eq!(Timestamp::parse(bad), Err(InvalidTimestamp), "{bad}");
        }
    }

    #[test]
    fn months_are_those_of_the_calendar_and_its_last_day_is_the_last() {
        for (from, months, to) in [
            ("2026-08-29T10:00:00Z", 6, "2027-02-28T10:00:00Z"),
            ("2026-08-30T10:00:00Z", 6, "2027-02-28T10:00:00Z"),
            ("2026-08-31T10:00:00Z", 6, "2027-02-28T10:00:00Z"),
            ("2027-08-31T10:00:00Z", 6, "2028-02-29T10:00:00Z"),
            (
                "2026-02-28T00:00:00.000001Z",
                6,
                "2026-08-28T00:00:00.000001Z",
            ),
            ("2026-12-31T23:59:59Z", 2, "2027-02-28T23:59:59Z"),
            ("2026-05-17T00:00:00Z", 0, "2026-05-17T00:00:00Z"),
            ("2026-05-17T00:00:00Z", 24, "2028-05-17T00:00:00Z"),
            ("1969-11-30T01:00:00Z", 3, "1970-02-28T01:00:00Z"),
        ] {
            let from = Timestamp::parse(from).unwrap();
            assert_eq!(from.plus_months(months), Timestamp::parse(to).unwrap());
        }
        assert_eq!(Timestamp::MAX.plus_months(1), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.plus_months(u32::MAX), Timestamp::MAX);
    }

    proptest! {
        #[test]
        fn text_and_back(micros in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let time = Timestamp::from_micros(micros);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
            prop_assert_eq!(Timestamp::from(SystemTime::from(time)), time);
            let day = time.utc_day();
            prop_assert!(day.start() <= time);
            prop_assert!(time < day.next().start() || day.next().start() == Timestamp::MAX);
        }
    }
}
