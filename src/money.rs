//! Money as a whole number of nano-dollars.
//!
//! No floating point: ten cents eleven times is one dollar ten, never 1.0999999. Every operation is
//! checked, and whatever has to be rounded is rounded up, so that an error is always on the side of
//! spending less.
//!
//! ```
//! use portcullis::Usd;
//!
//! let price: Usd = "$1.25".parse()?;
//! assert_eq!(price, Usd::cents(125));
//! assert_eq!(price.checked_add(Usd::dollars(2)).unwrap().to_string(), "$3.25");
//! # Ok::<(), portcullis::InvalidUsd>(())
//! ```

use std::fmt;
use std::str::FromStr;

const NANOS: i64 = 1_000_000_000;

/// An amount of US dollars, in nano-dollars; from about -9.2 to +9.2 billion dollars.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);

    /// Whole dollars; amounts past [`MAX`](Self::MAX) become it.
    #[must_use]
    pub const fn dollars(dollars: i64) -> Self {
        Self(dollars.saturating_mul(NANOS))
    }

    /// Whole cents; amounts past [`MAX`](Self::MAX) become it.
    #[must_use]
    pub const fn cents(cents: i64) -> Self {
        Self(cents.saturating_mul(NANOS / 100))
    }

    /// Nano-dollars: a billionth of a dollar each.
    #[must_use]
    pub const fn nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in nano-dollars.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whether it is less than nothing.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The sum, unless it is too large to be written.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, unless it is too large to be written.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The sum, or [`MAX`](Self::MAX) where that is less.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing where `other` is more.
    #[must_use]
    pub fn minus_or_zero(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }

    /// What `units` cost at `self` for a million, rounded up to the next nano-dollar, unless it is
    /// too large to be written.
    #[must_use]
    pub fn per_million(self, units: u64) -> Option<Self> {
        let exact = i128::from(self.0).checked_mul(i128::from(units))?;
        let up = exact.div_euclid(1_000_000) + i128::from(exact.rem_euclid(1_000_000) != 0);
        i64::try_from(up).ok().map(Self)
    }
}

impl fmt::Display for Usd {
    /// `$1.25`; at least two digits of cents, and as many more as it takes to be exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let fraction = format!("{:09}", nanos % NANOS.unsigned_abs());
        let shown = fraction.trim_end_matches('0').len().max(2);
        let fraction = fraction.get(..shown).unwrap_or(&fraction);
        f.pad(&format!(
            "{sign}${}.{fraction}",
            nanos / NANOS.unsigned_abs()
        ))
    }
}

impl fmt::Debug for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Usd {
    type Err = InvalidUsd;

    /// Parses `1.25`, `$1.25` or `-$1.25`: digits, at most one point, at most nine digits after it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let rest = rest.strip_prefix('$').unwrap_or(rest);
        let (whole, fraction) = match rest.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(InvalidUsd::Form),
            None => (rest, ""),
        };
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(InvalidUsd::Form);
        }
        if fraction.len() > 9 {
            return Err(InvalidUsd::TooFine);
        }
        let written = format!("{}{whole}{fraction:0<9}", if negative { "-" } else { "" });
        written.parse().map(Self).map_err(|_| InvalidUsd::TooLarge)
    }
}

/// Text that is no amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUsd {
    /// Not digits with at most one point.
    #[error("invalid amount; write dollars as 1.25 or $1.25")]
    Form,
    /// More than nine digits after the point.
    #[error("invalid amount; at most nine digits after the point")]
    TooFine,
    /// Past what can be written.
    #[error("invalid amount; at most nine billion dollars")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn f32_eleven_times_ten_cents_is_one_dollar_ten() {
        let sum = (0..11).fold(Usd::ZERO, |sum, _| sum.checked_add(Usd::cents(10)).unwrap());
        assert_eq!(sum.to_string(), "$1.10");
        assert!(sum > Usd::dollars(1));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for bad in [
            "",
            "$",
            "-",
            "1.",
            ".5",
            "NaN",
            "inf",
            "1e3",
            "1,5",
            "--1",
            "$-1",
            " 1",
            "1 ",
            "+1",
            "0x1",
            "1.0000000001",
            "9300000000",
            "99999999999999999999999",
        ] {
            assert!(bad.parse::<Usd>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prices_round_up() {
        assert_eq!(Usd::nanos(1).per_million(1), Some(Usd::nanos(1)));
        assert_eq!(Usd::dollars(2).per_million(3), Some(Usd::nanos(6_000)));
        assert_eq!(Usd::MAX.per_million(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn text_and_back(nanos in any::<i64>()) {
            let amount = Usd::nanos(nanos);
            prop_assert_eq!(amount.to_string().parse::<Usd>(), Ok(amount));
        }

        #[test]
        fn a_price_is_never_less_than_exact(price in 0..i64::MAX, units in 0..1_000_000_000_u64) {
            if let Some(paid) = Usd::nanos(price).per_million(units) {
                let exact = i128::from(price) * i128::from(units);
                let paid = i128::from(paid.as_nanos()) * 1_000_000;
                prop_assert!(paid >= exact && paid < exact + 1_000_000);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = text.parse::<Usd>();
        }
    }
}
