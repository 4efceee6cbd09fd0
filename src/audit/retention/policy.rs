//! How long entries stay.

use super::RetentionError;
use crate::time::Timestamp;

/// What the law asks for at least, in calendar months.
pub(super) const AT_LEAST: u32 = 6;
const AT_MOST: u32 = 1_200;

/// How long entries stay at least and, if there is such a bound, at most. In calendar months: an
/// entry of 31 August may go at the end of the last day of February, not after 180 days.
///
/// ```
/// use portcullis::audit::retention::RetentionPolicy;
///
/// assert!(RetentionPolicy::months(6).is_ok());
/// assert!(RetentionPolicy::months(5).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    pub(super) min_months: u32,
    pub(super) max_months: Option<u32>,
}

impl RetentionPolicy {
    /// Entries stay for at least so many months.
    ///
    /// # Errors
    ///
    /// [`RetentionError::TooShort`] below six months, [`RetentionError::Field`] above a hundred
    /// years.
    pub const fn months(min_months: u32) -> Result<Self, RetentionError> {
        if min_months < AT_LEAST {
            return Err(RetentionError::TooShort { months: min_months });
        }
        if min_months > AT_MOST {
            return Err(RetentionError::Field {
                field: "min_months",
                problem: "must be at most 1200",
            });
        }
        Ok(Self {
            min_months,
            max_months: None,
        })
    }

    /// Entries should be archived after so many months, as data protection law may ask for. Nothing
    /// happens by itself: run an archival now and then.
    ///
    /// # Errors
    ///
    /// [`RetentionError::Field`] if it is less than the minimum, or above a hundred years.
    pub const fn at_most(mut self, max_months: u32) -> Result<Self, RetentionError> {
        if max_months < self.min_months || max_months > AT_MOST {
            return Err(RetentionError::Field {
                field: "max_months",
                problem: "must not be less than min_months, and at most 1200",
            });
        }
        self.max_months = Some(max_months);
        Ok(self)
    }

    /// How long entries stay at least.
    #[must_use]
    pub const fn min_months(self) -> u32 {
        self.min_months
    }

    /// After how long they should be archived.
    #[must_use]
    pub const fn max_months(self) -> Option<u32> {
        self.max_months
    }
}

/// A policy, and since when it is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyInForce {
    pub(super) policy: RetentionPolicy,
    pub(super) since: Timestamp,
}

impl PolicyInForce {
    /// What it says.
    #[must_use]
    pub const fn policy(self) -> RetentionPolicy {
        self.policy
    }

    /// When it was set.
    #[must_use]
    pub const fn since(self) -> Timestamp {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_than_the_law_asks_for_is_refused_with_its_reason() {
        let error = RetentionPolicy::months(5).unwrap_err();
        assert_eq!(error, RetentionError::TooShort { months: 5 });
        assert!(error.to_string().contains("Article 19(1)"), "{error}");
        for bad in [0, 1_201, u32::MAX] {
            assert!(RetentionPolicy::months(bad).is_err(), "{bad}");
        }
        let year = RetentionPolicy::months(12).unwrap();
        assert!(year.at_most(11).is_err());
        assert!(year.at_most(1_201).is_err());
        assert_eq!(year.at_most(12).unwrap().max_months(), Some(12));
    }
}
