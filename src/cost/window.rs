//! Over what limits count.

use std::fmt;
use std::time::Duration;

use crate::ids::SessionId;
use crate::time::{Timestamp, UtcDay};

/// Into how many stretches a rolling window is divided.
pub(super) const STRETCHES: i64 = 60;
/// How many are kept: those of the window, and the one that is under way.
pub(super) const SLOTS: i64 = STRETCHES + 1;

/// The longest rolling window, in seconds: 366 days.
pub(super) const LONGEST: u32 = 366 * 86_400;

/// A window that moves with the time: the last so many seconds.
///
/// It is counted in sixty stretches. What a call took counts until the whole stretch in which it was
/// admitted has left the window, so that the limit is never exceeded in any window of that length, and
/// what was taken comes back a sixtieth of the window late at most.
///
/// ```
/// use portcullis::cost::Rolling;
///
/// assert_eq!(Rolling::minutes(5), Rolling::seconds(300));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rolling(u32);

impl Rolling {
    /// The last second.
    pub const SECOND: Self = Self(1);
    /// The last minute.
    pub const MINUTE: Self = Self(60);
    /// The last hour.
    pub const HOUR: Self = Self(3_600);
    /// The last 24 hours.
    pub const DAY: Self = Self(86_400);

    /// The last so many seconds; at most 366 days, which [`register`](super::Cost::register) checks.
    #[must_use]
    pub const fn seconds(seconds: u32) -> Self {
        Self(seconds)
    }

    /// The last so many minutes.
    #[must_use]
    pub const fn minutes(minutes: u32) -> Self {
        Self(minutes.saturating_mul(60))
    }

    /// The last so many hours.
    #[must_use]
    pub const fn hours(hours: u32) -> Self {
        Self(hours.saturating_mul(3_600))
    }

    /// The last so many times 24 hours.
    #[must_use]
    pub const fn days(days: u32) -> Self {
        Self(days.saturating_mul(86_400))
    }

    /// How long it is.
    #[must_use]
    pub const fn length(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }

    pub(super) const fn is_valid(self) -> bool {
        1 <= self.0 && self.0 <= LONGEST
    }

    /// The length of one stretch; rounded up, so that sixty are never shorter than the window.
    pub(super) const fn stretch_micros(self) -> i64 {
        (self.0 as i64 * 1_000_000 + STRETCHES - 1) / STRETCHES
    }
}

impl fmt::Display for Rolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            seconds if seconds % 86_400 == 0 => (seconds / 86_400, "day"),
            seconds if seconds % 3_600 == 0 => (seconds / 3_600, "hour"),
            seconds if seconds % 60 == 0 => (seconds / 60, "minute"),
            seconds => (seconds, "second"),
        };
        match number {
            1 => write!(f, "1 {unit}"),
            number => write!(f, "{number} {unit}s"),
        }
    }
}

/// Over what a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Period {
    /// One run of the agent.
    Session,
    /// A calendar day in UTC, by the database's clock.
    Day,
    /// A calendar month in UTC, by the database's clock.
    Month,
    /// The last so many seconds, by the database's clock.
    Rolling(Rolling),
    /// All the time that the budget exists.
    Forever,
}

impl Period {
    pub(super) fn to_text(self) -> String {
        match self {
            Self::Session => "session".to_owned(),
            Self::Day => "day".to_owned(),
            Self::Month => "month".to_owned(),
            Self::Rolling(Rolling(seconds)) => format!("rolling:{seconds}"),
            Self::Forever => "forever".to_owned(),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "session" => Some(Self::Session),
            "day" => Some(Self::Day),
            "month" => Some(Self::Month),
            "forever" => Some(Self::Forever),
            other => {
                let seconds = other.strip_prefix("rolling:")?.parse().ok()?;
                Some(Self::Rolling(Rolling(seconds)))
            }
        }
    }

    pub(super) const fn stretch_micros(self) -> Option<i64> {
        match self {
            Self::Rolling(rolling) => Some(rolling.stretch_micros()),
            _ => None,
        }
    }

    /// The window of this period that `key` names.
    pub(super) fn window(self, key: &str) -> Option<Window> {
        let start = |text: String| Timestamp::parse(&text).ok();
        Some(match self {
            Self::Session => Window::Session(SessionId::parse(key).ok()?),
            Self::Day => Window::Day(start(format!("{key}T00:00:00Z"))?.utc_day()),
            Self::Month => Window::Month(start(format!("{key}-01T00:00:00Z"))?.into()),
            Self::Rolling(rolling) => Window::Rolling(rolling),
            Self::Forever => Window::Forever,
        })
    }
}

/// A calendar month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcMonth(Timestamp);

impl UtcMonth {
    /// When the month begins.
    #[must_use]
    pub const fn start(self) -> Timestamp {
        self.0
    }

    /// The month after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.plus_months(1))
    }
}

impl From<Timestamp> for UtcMonth {
    fn from(at: Timestamp) -> Self {
        let day = at.utc_day().to_string();
        let (month, _) = day.rsplit_once('-').unwrap_or((&day, ""));
        let start = Timestamp::parse(&format!("{month}-01T00:00:00Z"));
        Self(start.unwrap_or(at))
    }
}

impl fmt::Display for UtcMonth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = self.0.utc_day().to_string();
        f.write_str(day.rsplit_once('-').map_or("", |(month, _)| month))
    }
}

/// One stretch of time over which a limit counts: this session, this day.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Window {
    /// This session.
    Session(SessionId),
    /// This day in UTC.
    Day(UtcDay),
    /// This month in UTC.
    Month(UtcMonth),
    /// The last so many seconds.
    Rolling(Rolling),
    /// All the time.
    Forever,
}

impl Window {
    /// Over what its limit counts.
    #[must_use]
    pub const fn period(&self) -> Period {
        match self {
            Self::Session(_) => Period::Session,
            Self::Day(_) => Period::Day,
            Self::Month(_) => Period::Month,
            Self::Rolling(rolling) => Period::Rolling(*rolling),
            Self::Forever => Period::Forever,
        }
    }

    /// As the store names it, among the windows of its period.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Session(session) => session.as_str().to_owned(),
            Self::Day(day) => day.to_string(),
            Self::Month(month) => month.to_string(),
            Self::Rolling(_) | Self::Forever => "-".to_owned(),
        }
    }

    /// How long it lasts from `at` on; `None` if nobody can say.
    pub(super) fn ends_in(&self, at: Timestamp) -> Option<Duration> {
        match self {
            Self::Session(_) | Self::Rolling(_) | Self::Forever => None,
            Self::Day(day) => Some(day.next().start().since(at)),
            Self::Month(month) => Some(month.next().start().since(at)),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(_) => f.write_str("session"),
            Self::Day(day) => write!(f, "day {day}"),
            Self::Month(month) => write!(f, "month {month}"),
            Self::Rolling(rolling) => write!(f, "last {rolling}"),
            Self::Forever => f.write_str("lifetime"),
        }
    }
}

/// What one unit of a rolling window is charged at, stretch by stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ring {
    /// The latest stretch, counted from 1970.
    pub(super) at: i64,
    pub(super) stretch_micros: i64,
    /// Stretch `i` is in slot `i mod 61`.
    pub(super) slots: Vec<i64>,
}

impl Ring {
    /// How long it takes from `now` on until `needed` has left the window.
    pub(super) fn frees(&self, needed: i64, now: Timestamp) -> Option<Duration> {
        let mut left = 0_i64;
        for stretch in self.at - STRETCHES..=self.at {
            let slot = usize::try_from(stretch.rem_euclid(SLOTS)).ok()?;
            left = left.saturating_add(self.slots.get(slot).copied().unwrap_or(0));
            if left >= needed {
                // It counts while it is one of the sixty before the one that is under way.
                let gone = (stretch + SLOTS).saturating_mul(self.stretch_micros);
                return Some(Timestamp::from_micros(gone).since(now));
            }
        }
        None
    }
}
