//! The pure part: what a ceiling asks for, and why an admission was refused.

use std::time::Duration;

use super::amount::{Amount, Calls, Tokens};
use super::budget::OnLimit;
use super::error::{CostError, Raise};
use super::store::{Admission, Shortfall, WindowState};
use super::window::{Ring, Window};
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::{Ceiling, CeilingAmount};

/// The tokens of a ceiling, by how a fallback price applies to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) either: u64,
}

/// Takes a ceiling apart, or says what is wrong with it.
pub(super) fn split(ceiling: &Ceiling) -> Result<Split, CostError> {
    let wrong = |problem| Err(CostError::InvalidCeiling { problem });
    let none = "is nothing; declare the most that the call can take";
    let split = match ceiling.amount {
        CeilingAmount::Usd(amount) if amount.is_negative() => {
            return wrong("is less than nothing; declare the most that the call can take");
        }
        CeilingAmount::Usd(Usd::ZERO) => return wrong(none),
        CeilingAmount::Usd(_) => return Ok(Split::default()),
        CeilingAmount::Tokens(either) => Split {
            either,
            ..Split::default()
        },
        CeilingAmount::InOut { input, output } => Split {
            input,
            output,
            either: 0,
        },
    };
    match ceiling.total_tokens() {
        0 => wrong(none),
        // A sum that does not fit is u64::MAX.
        total if i64::try_from(total).is_err() => {
            wrong("is too large; declare at most 9223372036854775807 tokens")
        }
        _ => Ok(split),
    }
}

/// Why `admission` does not let a call of `tokens` pass; `None` if it would fit as things stood.
///
/// Of several limits, the one is named whose wait is the longest; it is as long as all of them need.
pub(super) fn refusal(admission: &Admission, names_model: bool, tokens: u64) -> Option<CostError> {
    if !admission.windows.iter().any(|state| state.allows) {
        return Some(CostError::NoBudget);
    }
    let never = |state| impossible(state, names_model);
    if let Some(error) = admission.windows.iter().find_map(never) {
        return Some(error);
    }
    let short: Vec<Short> = admission
        .windows
        .iter()
        .flat_map(|state| shorts(state, tokens))
        .collect();
    let wait = |short: &&Short| short.wait.unwrap_or(Duration::MAX);
    // The first of those that wait equally long.
    let worst = |of: &dyn Fn(&Short) -> bool| short.iter().rev().filter(|s| of(s)).max_by_key(wait);
    let retry_after = worst(&|_| true)?.wait;
    if let Some(refused) = worst(&|short| short.on_limit != OnLimit::Ask) {
        return Some(CostError::Exceeded {
            budget: refused.state.budget.clone(),
            window: refused.state.window.clone(),
            limit: refused.limit,
            left: refused.left,
            asked: refused.asked,
            retry_after,
        });
    }
    let asked = worst(&|_| true)?;
    Some(CostError::NeedsApproval {
        budget: asked.state.budget.clone(),
        window: asked.state.window.clone(),
        missing: asked.missing,
        retry_after,
        raise: Raise::of(short.iter().map(Short::shortfall).collect()),
    })
}

/// What no room would help with.
fn impossible(state: &WindowState, names_model: bool) -> Option<CostError> {
    let budget = || state.budget.clone();
    if state.asked_usd.is_none() {
        return Some(if names_model {
            CostError::UnknownModel
        } else {
            CostError::Unpriced { budget: budget() }
        });
    }
    let (limit, first) = state.seconds_limit.zip(state.first_at)?;
    let over = state.at.since(first) >= Duration::from_secs(u64::from(limit));
    (over && state.on_limit != OnLimit::Warn).then(|| CostError::SessionTooLong {
        budget: budget(),
        limit,
    })
}

/// One limit that has too little left.
struct Short<'w> {
    state: &'w WindowState,
    on_limit: OnLimit,
    limit: Amount,
    left: Amount,
    asked: Amount,
    missing: Amount,
    at_most: Amount,
    /// `None`: for ever.
    wait: Option<Duration>,
}

impl Short<'_> {
    fn shortfall(&self) -> Shortfall {
        Shortfall {
            budget: self.state.budget.clone(),
            window: self.state.window.clone(),
            amount: self.missing,
            at_most: self.at_most,
        }
    }
}

/// Of one unit: the limit, what it was raised by, what is taken, what is asked, and how it is said.
type Unit = (Option<u64>, u64, u64, u64, fn(u64) -> Amount);

/// The units of which `state` has less left than is asked.
fn shorts(state: &WindowState, tokens: u64) -> Vec<Short<'_>> {
    const MAX: u64 = i64::MAX.unsigned_abs();
    // A limit that is passed on purpose is none; what cannot be written is refused all the same.
    let bound = |limit: Option<u64>| match state.on_limit {
        OnLimit::Warn => None,
        OnLimit::Refuse | OnLimit::Ask => limit,
    };
    let nanos = |usd: Usd| usd.as_nanos().max(0).unsigned_abs();
    let usd = |nanos: u64| Usd::nanos(i64::try_from(nanos).unwrap_or(i64::MAX)).into();
    let units: [Unit; 3] = [
        (
            state.usd_limit.map(nanos),
            nanos(state.raised.usd),
            nanos(state.taken_usd),
            state.asked_usd.map_or(0, nanos),
            usd,
        ),
        (
            state.token_limit,
            state.raised.tokens,
            state.taken_tokens,
            tokens,
            |tokens| Tokens(tokens).into(),
        ),
        (
            state.call_limit,
            state.raised.calls,
            state.taken_calls,
            1,
            |calls| Calls(calls).into(),
        ),
    ];
    let mut short = Vec::new();
    for (at, (limit, raised, taken, asked, amount)) in units.into_iter().enumerate() {
        let on_limit = match bound(limit) {
            Some(_) => state.on_limit,
            None => OnLimit::Refuse,
        };
        let limit = bound(limit).unwrap_or(MAX);
        if taken.saturating_add(asked) <= limit {
            continue;
        }
        let missing = taken.saturating_add(asked) - limit;
        let ring = state.rings.as_ref().and_then(|rings| rings.get(at));
        short.push(Short {
            state,
            on_limit,
            limit: amount(limit),
            left: amount(limit.saturating_sub(taken)),
            asked: amount(asked),
            missing: amount(missing),
            at_most: amount(missing.max(asked)),
            wait: wait(&state.window, state.at, ring, missing, |base| {
                asked
                    <= if base {
                        limit.saturating_sub(raised)
                    } else {
                        limit
                    }
            }),
        });
    }
    short
}

/// When there is room again; `fits` says whether the call fits into a window in which nothing is
/// taken, with the limit that the next one has, or with that of this one.
fn wait(
    window: &Window,
    at: Timestamp,
    ring: Option<&Ring>,
    missing: u64,
    fits: impl Fn(bool) -> bool,
) -> Option<Duration> {
    match window {
        Window::Rolling(rolling) => {
            let missing = i64::try_from(missing).unwrap_or(i64::MAX);
            // What was admitted by the same statement is in no bucket yet.
            let frees = ring.and_then(|ring| ring.frees(missing, at));
            fits(false).then(|| frees.unwrap_or(rolling.length()))
        }
        window => window.ends_in(at).filter(|_| fits(true)),
    }
}
