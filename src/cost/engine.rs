//! The pure part: what a ceiling asks for, and why an admission was refused.

use std::time::Duration;

use super::budget::{Amount, Tokens, Window};
use super::error::CostError;
use super::store::{Admission, WindowState};
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

/// Why `admission` was refused: the first limit that does not let `tokens` of it pass.
///
/// The statement has decided already, from these very numbers; this finds its reason.
pub(super) fn refusal(admission: &Admission, names_model: bool, tokens: u64) -> CostError {
    let found = admission
        .windows
        .iter()
        .find_map(|state| refused_by(state, names_model, tokens));
    found.unwrap_or(CostError::NoBudget)
}

fn refused_by(state: &WindowState, names_model: bool, tokens: u64) -> Option<CostError> {
    let budget = || state.budget.clone();
    let Some(asked) = state.asked_usd else {
        return Some(if names_model {
            CostError::UnknownModel
        } else {
            CostError::Unpriced { budget: budget() }
        });
    };
    if let Some((limit, first)) = state.seconds_limit.zip(state.first_at)
        && state.at.since(first) >= Duration::from_secs(u64::from(limit))
    {
        return Some(CostError::SessionTooLong {
            budget: budget(),
            limit,
        });
    }
    let exceeded = |limit: Amount, left: Amount, asked: Amount, fits_alone: bool| {
        Some(CostError::Exceeded {
            budget: budget(),
            window: state.window.clone(),
            limit,
            left,
            asked,
            retry_after: fits_alone
                .then(|| ends_in(&state.window, state.at))
                .flatten(),
        })
    };
    let usd_limit = state.usd_limit.unwrap_or(Usd::MAX);
    let usd_left = usd_limit.minus_or_zero(state.taken_usd);
    if asked > usd_left {
        return exceeded(
            usd_limit.into(),
            usd_left.into(),
            asked.into(),
            asked <= usd_limit,
        );
    }
    let token_limit = state.token_limit.unwrap_or(i64::MAX.unsigned_abs());
    let tokens_left = token_limit.saturating_sub(state.taken_tokens);
    if tokens > tokens_left {
        return exceeded(
            Tokens(token_limit).into(),
            Tokens(tokens_left).into(),
            Tokens(tokens).into(),
            tokens <= token_limit,
        );
    }
    None
}

/// Whether a call could be admitted at all, were nothing else spent.
pub(super) fn fits(limit: Amount, asked: Amount) -> bool {
    match (limit, asked) {
        (Amount::Usd(limit), Amount::Usd(asked)) => asked <= limit,
        (Amount::Tokens(limit), Amount::Tokens(asked)) => asked <= limit,
        _ => false,
    }
}

/// How long the window lasts from `at` on; `None` if nobody can say.
pub(super) fn ends_in(window: &Window, at: Timestamp) -> Option<Duration> {
    match window {
        Window::Session(_) => None,
        Window::Day(day) => Some(day.next().start().since(at)),
    }
}
