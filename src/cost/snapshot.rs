//! What is spent, held and left.

use std::fmt;

use super::state::State;
use super::store::{CurrentWindow, SpentByModel};
use super::window::Window;
use crate::ids::{BudgetName, ModelName};
use crate::money::Usd;
use crate::time::Timestamp;

/// The budgets of a principal, as they stood a moment ago.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The windows that a call would be charged to now, by budget.
    pub windows: Vec<WindowSnapshot>,
}

impl Snapshot {
    /// The windows of one budget.
    pub fn of<'s>(&'s self, budget: &'s BudgetName) -> impl Iterator<Item = &'s WindowSnapshot> {
        self.windows
            .iter()
            .filter(move |window| window.budget == *budget)
    }

    /// The first window over a session.
    #[must_use]
    pub fn session(&self) -> Option<&WindowSnapshot> {
        self.windows
            .iter()
            .find(|window| matches!(window.window, Window::Session(_)))
    }

    /// The first window over a month.
    #[must_use]
    pub fn month(&self) -> Option<&WindowSnapshot> {
        self.windows
            .iter()
            .find(|window| matches!(window.window, Window::Month(_)))
    }

    /// The first window over a day.
    #[must_use]
    pub fn day(&self) -> Option<&WindowSnapshot> {
        self.windows
            .iter()
            .find(|window| matches!(window.window, Window::Day(_)))
    }
}

impl fmt::Display for Snapshot {
    /// An aligned table: a line for each window and unit, and below it what each model took.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24} {:<14} {:>12} {:>12} {:>12} {:>12} {:>12}",
            "budget", "window", "limit", "settled", "held", "unknown", "left"
        )?;
        for window in &self.windows {
            window.tally(f, &window.usd, "")?;
            window.tally(f, &window.tokens, " tokens")?;
            window.tally(f, &window.calls, " calls")?;
            for spend in &window.by_model {
                let model = spend.model.as_ref().map_or("no model", AsRef::as_ref);
                write!(
                    f,
                    "\n  {model}: {} calls, {} in ({} cached), {} out, {}",
                    spend.calls,
                    spend.input_tokens,
                    spend.cached_tokens,
                    spend.output_tokens,
                    spend.usd
                )?;
            }
        }
        Ok(())
    }
}

impl WindowSnapshot {
    fn tally<T: fmt::Display>(
        &self,
        f: &mut fmt::Formatter<'_>,
        tally: &Tally<T>,
        unit: &str,
    ) -> fmt::Result {
        let bound = |amount: &Option<T>| amount.as_ref().map_or("-".to_owned(), T::to_string);
        write!(
            f,
            "\n{:<24} {:<14} {:>12} {:>12} {:>12} {:>12} {:>12}{unit}",
            self.budget,
            self.window.to_string(),
            bound(&tally.limit),
            tally.settled,
            tally.held,
            tally.unknown,
            bound(&tally.left),
        )
    }
}

/// One budget over one session, day, and so on.
///
/// In a rolling window, a call counts while the time at which it was admitted is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowSnapshot {
    /// The budget.
    pub budget: BudgetName,
    /// The session, the day, and so on.
    pub window: Window,
    /// Dollars.
    pub usd: Tally<Usd>,
    /// Tokens, in and out together.
    pub tokens: Tally<u64>,
    /// Calls.
    pub calls: Tally<u64>,
    /// The most seconds that the session may last.
    pub seconds_limit: Option<u32>,
    /// The first admission, from which session seconds count.
    pub first_admission: Option<Timestamp>,
    /// What was settled, by model. Costs without a model stand under `None`.
    pub by_model: Vec<ModelSpend>,
}

/// How an amount is spent. Settled, held and unknown together are at most the limit and the overrun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally<T> {
    /// The limit, as it was raised for this window; `None` if it is only counted.
    pub limit: Option<T>,
    /// What finished calls cost.
    pub settled: T,
    /// The ceilings of calls that are going on.
    pub held: T,
    /// What calls of unknown outcome stay charged at.
    pub unknown: T,
    /// What is left of the limit; `None` if there is none.
    pub left: Option<T>,
    /// By how much the limit may be exceeded, because calls cost more than their ceilings, or because
    /// it was lowered when more was spent already.
    pub overrun: T,
}

/// What one model took of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelSpend {
    /// The model.
    pub model: Option<ModelName>,
    /// Settled calls.
    pub calls: u64,
    /// All input, cached included.
    pub input_tokens: u64,
    /// The input that came from the provider's cache.
    pub cached_tokens: u64,
    /// All output, reasoning included.
    pub output_tokens: u64,
    /// The output that was reasoning.
    pub reasoning_tokens: u64,
    /// What it cost.
    pub usd: Usd,
}

impl Snapshot {
    pub(super) fn assemble(windows: Vec<CurrentWindow>, spent: &[SpentByModel]) -> Self {
        let windows = windows
            .into_iter()
            .map(|window| {
                let rows: Vec<_> = spent
                    .iter()
                    .filter(|row| row.budget == window.budget && row.period == window.period)
                    .collect();
                assemble(window, &rows)
            })
            .collect();
        Self { windows }
    }
}

fn assemble(window: CurrentWindow, spent: &[&SpentByModel]) -> WindowSnapshot {
    let by_model = spent
        .iter()
        .filter(|row| row.state == State::Settled)
        .map(|row| ModelSpend {
            model: row.model.clone(),
            calls: row.calls,
            input_tokens: row.input_tokens,
            cached_tokens: row.cached_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            usd: row.usd,
        })
        .collect();
    let sum = |state: State, of: fn(&SpentByModel) -> u64| -> u64 {
        let rows = spent.iter().filter(|row| row.state == state);
        rows.fold(0_u64, |sum, row| sum.saturating_add(of(row)))
    };
    // A rolling window knows what it is charged at, and not how much of that is settled.
    let rolls = matches!(window.window, Window::Rolling(_));
    let parts = |settled: u64, held: u64, of: fn(&SpentByModel) -> u64| {
        let (open, unknown) = (sum(State::Held, of), sum(State::Unknown, of));
        if rolls {
            let settled = settled.saturating_sub(open).saturating_sub(unknown);
            (settled, open, unknown)
        } else {
            (settled, held.saturating_sub(unknown), unknown)
        }
    };
    let nanos = |usd: Usd| usd.as_nanos().max(0).unsigned_abs();
    let usd = |nanos: u64| Usd::nanos(i64::try_from(nanos).unwrap_or(i64::MAX));
    let raised = window.raised;
    let dollars = tally(
        window
            .limits
            .usd
            .map(|limit| nanos(limit.saturating_add(raised.usd))),
        parts(nanos(window.settled_usd), nanos(window.held_usd), |row| {
            row.usd.as_nanos().max(0).unsigned_abs()
        }),
        nanos(window.overrun_usd),
    );
    WindowSnapshot {
        usd: Tally {
            limit: dollars.limit.map(usd),
            settled: usd(dollars.settled),
            held: usd(dollars.held),
            unknown: usd(dollars.unknown),
            left: dollars.left.map(usd),
            overrun: usd(dollars.overrun),
        },
        tokens: tally(
            window
                .limits
                .tokens
                .map(|limit| limit.saturating_add(raised.tokens)),
            parts(window.settled_tokens, window.held_tokens, |row| row.tokens),
            window.overrun_tokens,
        ),
        calls: tally(
            window
                .limits
                .calls
                .map(|limit| limit.saturating_add(raised.calls)),
            parts(window.settled_calls, window.held_calls, |row| row.calls),
            window.overrun_calls,
        ),
        budget: window.budget,
        window: window.window,
        seconds_limit: window.limits.seconds,
        first_admission: window.first_at,
        by_model,
    }
}

fn tally(limit: Option<u64>, parts: (u64, u64, u64), overrun: u64) -> Tally<u64> {
    let (settled, held, unknown) = parts;
    let taken = settled.saturating_add(held).saturating_add(unknown);
    Tally {
        limit,
        settled,
        held,
        unknown,
        left: limit.map(|limit| limit.saturating_sub(taken)),
        overrun,
    }
}
