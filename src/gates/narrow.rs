//! Agreeing to less than was asked for.

use serde::Serialize;
use serde_json::Value;

use crate::canon::{canonical_arguments, write_text};

/// Arguments that somebody agrees to instead of those that were asked for: the same, but for the
/// values that are named.
///
/// Only values of the arguments' own object can be set, each by one of the same sort: a number by
/// one that is no further from zero and on the same side of it, a list by some of its own entries in
/// their order, an object by one with the same keys, a text or a flag by any. Nothing can be added or
/// left out. Neither the one nor the other is stored: they are hashed, and the call that is made
/// must be the one that was agreed to.
///
/// ```
/// use portcullis::gates::Narrower;
/// use serde_json::json;
///
/// let asked = json!({"invoice": "inv_381", "amount": 900});
/// assert!(Narrower::than(&asked)?.set("amount", &500).is_ok());
/// assert!(Narrower::than(&asked)?.set("amount", &901).is_err());
/// assert!(Narrower::than(&asked)?.set("urgent", &true).is_err());
/// # Ok::<(), portcullis::gates::NotNarrower>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is agreed to before decide"]
pub struct Narrower {
    pub(super) asked: String,
    value: Value,
}

impl Narrower {
    /// The arguments that were asked for, as the host shows them.
    ///
    /// # Errors
    ///
    /// [`NotNarrower`] if they are no object, or have no canonical form.
    pub fn than(asked: &impl Serialize) -> Result<Self, NotNarrower> {
        let asked = canonical_arguments(asked).map_err(|_| NotNarrower::Form)?;
        let value: Value = serde_json::from_str(&asked).map_err(|_| NotNarrower::Form)?;
        // `serde_json` reads an object with a certain key as something else.
        if !value.is_object() || write_text(&value) != asked {
            return Err(NotNarrower::Form);
        }
        Ok(Self { asked, value })
    }

    /// Agrees to `value` for `key`.
    ///
    /// # Errors
    ///
    /// [`NotNarrower`] if there is no such key, or if the value is not narrower.
    pub fn set(mut self, key: &str, value: &impl Serialize) -> Result<Self, NotNarrower> {
        let text = canonical_arguments(value).map_err(|_| NotNarrower::Form)?;
        let value: Value = serde_json::from_str(&text).map_err(|_| NotNarrower::Form)?;
        let slot = self.value.get_mut(key).ok_or(NotNarrower::Key)?;
        if !is_narrower(slot, &value) {
            return Err(NotNarrower::Wider);
        }
        *slot = value;
        Ok(self)
    }

    /// The arguments that are agreed to, in canonical form: what the agent must be told.
    #[must_use]
    pub fn arguments(&self) -> String {
        write_text(&self.value)
    }
}

impl std::fmt::Debug for Narrower {
    /// Without the arguments, which are the caller's content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Narrower").finish_non_exhaustive()
    }
}

/// Whether `new` is no more than `old`.
fn is_narrower(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Null, Value::Null)
        | (Value::Bool(_), Value::Bool(_))
        | (Value::String(_), Value::String(_)) => true,
        (Value::Number(old), Value::Number(new)) => number_is_narrower(old, new),
        (Value::Array(old), Value::Array(new)) => {
            let mut left = old.iter();
            new.iter().all(|item| left.any(|other| other == item))
        }
        (Value::Object(old), Value::Object(new)) => {
            old.len() == new.len()
                && new.iter().all(|(key, value)| {
                    old.get(key)
                        .is_some_and(|before| is_narrower(before, value))
                })
        }
        _ => false,
    }
}

fn number_is_narrower(old: &serde_json::Number, new: &serde_json::Number) -> bool {
    if let (Some(old), Some(new)) = (old.as_i128(), new.as_i128()) {
        return if old >= 0 {
            (0..=old).contains(&new)
        } else {
            (old..=0).contains(&new)
        };
    }
    // Of two sorts (10 for 10.5), only finite numbers are compared; both have canonical forms.
    let (Some(old), Some(new)) = (old.as_f64(), new.as_f64()) else {
        return false;
    };
    if old >= 0.0 {
        new >= 0.0 && new <= old
    } else {
        new <= 0.0 && new >= old
    }
}

/// Arguments that are not narrower than what was asked for. Never repeats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotNarrower {
    /// No object, or nothing that can be hashed.
    #[error("arguments that are narrowed are a JSON object with a canonical form")]
    Form,
    /// A key that the arguments do not have.
    #[error("only values that were asked for can be narrowed; the arguments have no such key")]
    Key,
    /// Another sort of value, or more than was asked for.
    #[error(
        "the value is not narrower: write the same sort, a number no further from zero, or some of a list's own entries"
    )]
    Wider,
}
