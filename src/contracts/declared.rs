//! What a contract can say without code, so that it can be stored: checks by their names, and what a
//! result must hold.

use std::any::Any;
use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use super::ask::Found;
use super::error::InvalidContract;
use super::model::{Condition, LONGEST, Promise};
use crate::ids::is_well_formed;

/// The longest pointer into a result.
const LONGEST_POINTER: usize = 256;

/// A check that each process [defines](super::Contracts::define) under a name. Where it is not, the
/// calls of the contract are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub(super) name: String,
    pub(super) deadline: Option<Duration>,
}

/// A predicate of a part of a result that is JSON: a `serde_json::Value`, or a `String` or `Vec<u8>`
/// that holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub(super) name: String,
    pub(super) pointer: String,
    pub(super) is: Is,
}

/// What is found under the pointer must be this. What is missing, or of another type, is a no.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Is {
    /// There, and not `null`.
    Present,
    /// This: a string, a whole number, `true`, `false` or `null`.
    Equals(Value),
    /// One of these.
    OneOf(Vec<Value>),
    /// A whole number of at least this.
    AtLeast(i64),
    /// A whole number of at most this.
    AtMost(i64),
}

impl Condition {
    /// A check that this process [defines](super::Contracts::define) under `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named(Named::new(name))
    }

    /// The same, which must answer within `deadline`, if that is shorter than its own.
    pub fn named_within(name: impl Into<String>, deadline: Duration) -> Self {
        Self::Named(Named::new(name).within(deadline))
    }
}

impl Promise {
    /// As [`Condition::named`], asked after the call.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named(Named::new(name))
    }

    /// As [`Condition::named_within`], asked after the call.
    pub fn named_within(name: impl Into<String>, deadline: Duration) -> Self {
        Self::Named(Named::new(name).within(deadline))
    }

    /// What `pointer` (RFC 6901: `/refund/status`) finds in the result is as it must be. A result that
    /// is no JSON breaks the promise.
    pub fn field(name: impl Into<String>, pointer: impl Into<String>, is: Is) -> Self {
        Self::Field(Field {
            name: name.into(),
            pointer: pointer.into(),
            is,
        })
    }
}

impl Named {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            deadline: None,
        }
    }

    fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(super) fn validate(&self) -> Result<(), InvalidContract> {
        let wrong = |problem| {
            Err(InvalidContract {
                field: "check",
                problem,
            })
        };
        if !is_well_formed(&self.name) {
            return wrong("must have a name that is an id");
        }
        match self.deadline {
            Some(deadline) if deadline.is_zero() || deadline > LONGEST => {
                wrong("must have a deadline of more than nothing and at most 60 s")
            }
            _ => Ok(()),
        }
    }
}

impl Field {
    pub(super) fn validate(&self) -> Result<(), InvalidContract> {
        let wrong = |problem| {
            Err(InvalidContract {
                field: "result",
                problem,
            })
        };
        if !is_well_formed(&self.name) {
            return wrong("must have a name that is an id");
        }
        let rooted = self.pointer.is_empty() || self.pointer.starts_with('/');
        if !rooted || self.pointer.len() > LONGEST_POINTER || escapes_badly(&self.pointer) {
            return wrong("must have a JSON pointer, such as /refund/status");
        }
        let all = match &self.is {
            Is::Equals(value) => std::slice::from_ref(value),
            Is::OneOf(values) if values.is_empty() => return wrong("is one of nothing"),
            Is::OneOf(values) => values,
            Is::Present | Is::AtLeast(_) | Is::AtMost(_) => &[],
        };
        if !all.iter().all(is_comparable) {
            return wrong("is compared to strings, whole numbers, true, false and null alone");
        }
        Ok(())
    }

    /// Whether the result holds what it must.
    pub(super) fn of(&self, result: Option<&dyn Any>) -> Found {
        let Some(result) = result else {
            return Err("result_unseen");
        };
        let Some(json) = json(result) else {
            return Err("result_type");
        };
        match json.pointer(&self.pointer) {
            None => Err("missing"),
            Some(found) if self.is.holds(found) => Ok(()),
            Some(_) => Err("false"),
        }
    }
}

impl Is {
    fn holds(&self, found: &Value) -> bool {
        match self {
            Self::Present => !found.is_null(),
            Self::Equals(value) => found == value,
            Self::OneOf(values) => values.contains(found),
            // A number with a fraction is none that can be compared here, and larger ones are larger.
            Self::AtLeast(least) => {
                found.as_i64().is_some_and(|found| found >= *least)
                    || found
                        .as_u64()
                        .is_some_and(|found| i64::try_from(found).is_err())
            }
            Self::AtMost(most) => found.as_i64().is_some_and(|found| found <= *most),
        }
    }
}

fn json(result: &dyn Any) -> Option<Cow<'_, Value>> {
    if let Some(value) = result.downcast_ref::<Value>() {
        return Some(Cow::Borrowed(value));
    }
    let bytes = match result.downcast_ref::<String>() {
        Some(text) => text.as_bytes(),
        None => result.downcast_ref::<Vec<u8>>()?.as_slice(),
    };
    serde_json::from_slice(bytes).ok().map(Cow::Owned)
}

fn is_comparable(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// A `~` stands before `0` or `1`.
fn escapes_badly(pointer: &str) -> bool {
    let mut after = pointer.split('~').skip(1);
    after.any(|rest| !rest.starts_with(['0', '1']))
}
