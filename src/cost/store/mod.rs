//! Every SQL statement of the cost module, and nothing else.
//!
//! Locks are always taken in one order, so that nothing can deadlock: a budget's rows, then a
//! reservation's row, then windows in the order of their keys, then how often budgets changed.

mod admitted;
mod budgets;
mod finish;
mod open;
mod raise;
mod reservations;
mod reserve;
mod snapshot;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

pub(super) use admitted::{Admission, Answers, Crossed, WindowState, crossed};
pub(super) use budgets::Registered;
pub(super) use finish::{Charged, Finish, Finished};
pub(super) use raise::{Raised, Shortfall};
pub(super) use reservations::{Stored, Swept, stored};
pub(super) use reserve::{AT_ONCE, Demand, Terms, Whose};
#[cfg(test)]
pub(super) use snapshot::Raise;
pub(super) use snapshot::{CurrentWindow, SpentByModel};

use super::window::{Period, Window};
use crate::ids::Id;
use crate::ids::IdKind;
use crate::money::Usd;
use crate::store::{Store, Subscription, Topic};
use crate::time::Timestamp;

/// The tables of this module, of one tenant.
#[derive(Clone, Debug)]
pub(super) struct CostStore {
    store: Store,
}

impl CostStore {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.store.now()
    }

    pub(super) fn deadline(&self) -> Duration {
        self.store.deadline()
    }

    /// For the statements of leased budgets, which stand with them.
    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    /// Hears what others change of slices. Must be called within a runtime.
    pub(super) fn subscribe(&self, topic: Topic) -> Subscription {
        self.store.subscribe(topic)
    }

    /// Gives back what only statements that are run all the time use.
    pub(super) async fn close_sessions(&self) {
        self.store.close_sessions().await;
    }

    pub(super) fn tenant(&self) -> &str {
        self.store.tenant().as_str()
    }
}

/// Reads a column that holds one of our names.
pub(super) fn parsed<T>(row: &PgRow, column: &str) -> Result<T, sqlx::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    parse(&row.try_get::<String, _>(column)?)
}

/// Reads a column that holds one of our names, or nothing.
fn maybe<T>(row: &PgRow, column: &str) -> Result<Option<T>, sqlx::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    row.try_get::<Option<String>, _>(column)?
        .map(|text| parse(&text))
        .transpose()
}

fn parse<T>(text: &str) -> Result<T, sqlx::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| malformed(&error.to_string()))
}

pub(super) fn period(row: &PgRow) -> Result<Period, sqlx::Error> {
    Period::parse(&row.try_get::<String, _>("period")?).ok_or_else(|| malformed("a period"))
}

fn window(row: &PgRow) -> Result<Window, sqlx::Error> {
    period(row)?
        .window(&row.try_get::<String, _>("window_key")?)
        .ok_or_else(|| malformed("a window"))
}

/// A name, or the empty text that stands for every one.
pub(super) fn or_any<K: IdKind>(name: Option<&Id<K>>) -> &str {
    name.map_or("", Id::as_str)
}

/// A count that is never negative.
fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    natural(row.try_get(column)?)
}

fn natural(stored: i64) -> Result<u64, sqlx::Error> {
    u64::try_from(stored).map_err(|_| malformed("a negative count"))
}

fn limit(stored: Option<i64>) -> Result<Option<u64>, sqlx::Error> {
    stored.map(natural).transpose()
}

fn seconds(stored: Option<i32>) -> Result<Option<u32>, sqlx::Error> {
    stored
        .map(|seconds| u32::try_from(seconds).map_err(|_| malformed("negative seconds")))
        .transpose()
}

fn malformed(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// How a number that was checked at the door is bound.
fn bound(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn largest(amounts: impl IntoIterator<Item = Usd>) -> Usd {
    amounts.into_iter().max().unwrap_or(Usd::ZERO)
}
