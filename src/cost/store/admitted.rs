//! What admission answers, and from which numbers.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::snapshot::Raise;
use super::{count, limit, malformed, parsed, seconds, window};
use crate::cost::budget::OnLimit;
use crate::cost::window::{Ring, Window};
use crate::ids::BudgetName;
use crate::money::Usd;
use crate::time::Timestamp;

/// What one statement decided.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Answers {
    /// For each call, in their order.
    pub(in crate::cost) calls: Vec<Admission>,
    /// Thresholds that were passed.
    pub(in crate::cost) crossed: Vec<Crossed>,
}

/// The answer to one call, with what it was decided from.
#[derive(Clone, Debug, Default)]
pub(in crate::cost) struct Admission {
    pub(in crate::cost) admitted: bool,
    /// The limits that apply, unless it was admitted.
    pub(in crate::cost) windows: Vec<WindowState>,
}

impl Admission {
    /// Whether every window that applies is open, so that it could be decided.
    pub(in crate::cost) fn is_open(&self) -> bool {
        self.windows.iter().all(|window| window.open)
    }

    pub(super) const fn granted() -> Self {
        Self {
            admitted: true,
            windows: Vec::new(),
        }
    }
}

/// One limit that applies, as it stood under the lock, what was admitted before included.
#[derive(Clone, Debug)]
pub(in crate::cost) struct WindowState {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) window: Window,
    /// Whether the window has been opened.
    pub(in crate::cost) open: bool,
    /// Whether it lets calls be made, or only restricts them.
    pub(in crate::cost) allows: bool,
    pub(in crate::cost) on_limit: OnLimit,
    /// What the ceiling costs here; `None` if there is no price and one is needed.
    pub(in crate::cost) asked_usd: Option<Usd>,
    pub(in crate::cost) usd_limit: Option<Usd>,
    pub(in crate::cost) token_limit: Option<u64>,
    pub(in crate::cost) call_limit: Option<u64>,
    /// How much of these limits is only this window's.
    pub(in crate::cost) raised: Raise,
    pub(in crate::cost) seconds_limit: Option<u32>,
    /// Settled and held.
    pub(in crate::cost) taken_usd: Usd,
    pub(in crate::cost) taken_tokens: u64,
    pub(in crate::cost) taken_calls: u64,
    pub(in crate::cost) first_at: Option<Timestamp>,
    /// Of a rolling window: dollars, tokens, calls.
    pub(in crate::cost) rings: Option<[Ring; 3]>,
    /// The database's time.
    pub(in crate::cost) at: Timestamp,
}

/// A window in which somebody is to be warned.
#[derive(Clone, Debug)]
pub(in crate::cost) struct Crossed {
    pub(in crate::cost) budget: BudgetName,
    pub(in crate::cost) window: Window,
    /// The thresholds that were passed, ascending.
    pub(in crate::cost) percents: Vec<u8>,
    pub(in crate::cost) usd_limit: Option<Usd>,
    pub(in crate::cost) token_limit: Option<u64>,
    pub(in crate::cost) call_limit: Option<u64>,
    pub(in crate::cost) taken_usd: Usd,
    pub(in crate::cost) taken_tokens: u64,
    pub(in crate::cost) taken_calls: u64,
}

pub(super) fn answers(calls: usize, rows: &[PgRow]) -> Result<Answers, sqlx::Error> {
    let mut answers = Answers {
        calls: vec![Admission::default(); calls],
        crossed: Vec::new(),
    };
    for row in rows {
        let at: Option<Timestamp> = row.try_get("at")?;
        match (row.try_get::<Option<i64>, _>("ord")?, at) {
            (Some(ord), _) => answers.call(ord)?.windows.push(state(row)?),
            (None, Some(_)) => {
                let admitted: Option<Vec<i64>> = row.try_get("admitted")?;
                for ord in admitted.unwrap_or_default() {
                    answers.call(ord)?.admitted = true;
                }
            }
            (None, None) => answers.crossed.push(crossed(row)?),
        }
    }
    Ok(answers)
}

impl Answers {
    fn call(&mut self, ord: i64) -> Result<&mut Admission, sqlx::Error> {
        let at = usize::try_from(ord - 1).unwrap_or(usize::MAX);
        self.calls
            .get_mut(at)
            .ok_or_else(|| malformed("an answer to no question"))
    }
}

fn state(row: &PgRow) -> Result<WindowState, sqlx::Error> {
    Ok(WindowState {
        budget: parsed(row, "name")?,
        window: window(row)?,
        open: row.try_get("open")?,
        allows: row.try_get("allows")?,
        on_limit: on_limit(row)?,
        asked_usd: row.try_get("asked_usd")?,
        usd_limit: row.try_get("usd_limit")?,
        token_limit: limit(row.try_get("token_limit")?)?,
        call_limit: limit(row.try_get("call_limit")?)?,
        raised: Raise {
            usd: row
                .try_get::<Option<Usd>, _>("raised_usd")?
                .unwrap_or_default(),
            tokens: limit(row.try_get("raised_tokens")?)?.unwrap_or_default(),
            calls: limit(row.try_get("raised_calls")?)?.unwrap_or_default(),
        },
        seconds_limit: seconds(row.try_get("seconds_limit")?)?,
        taken_usd: row.try_get("taken_usd")?,
        taken_tokens: count(row, "taken_tokens")?,
        taken_calls: count(row, "taken_calls")?,
        first_at: row.try_get("first_at")?,
        rings: rings(row)?,
        at: row.try_get("at")?,
    })
}

pub(super) fn on_limit(row: &PgRow) -> Result<OnLimit, sqlx::Error> {
    OnLimit::parse(&row.try_get::<String, _>("on_limit")?)
        .ok_or_else(|| malformed("what happens at a limit"))
}

fn rings(row: &PgRow) -> Result<Option<[Ring; 3]>, sqlx::Error> {
    let (Some(stretch_micros), Some(at)) = (
        row.try_get::<Option<i64>, _>("bucket_micros")?,
        row.try_get::<Option<i64>, _>("head")?,
    ) else {
        return Ok(None);
    };
    let ring = |column| {
        Ok::<_, sqlx::Error>(Ring {
            at,
            stretch_micros,
            slots: row
                .try_get::<Option<Vec<i64>>, _>(column)?
                .unwrap_or_default(),
        })
    };
    Ok(Some([
        ring("ring_usd")?,
        ring("ring_tokens")?,
        ring("ring_calls")?,
    ]))
}

/// Reads which thresholds a statement says were passed.
pub(in crate::cost) fn crossed(row: &PgRow) -> Result<Crossed, sqlx::Error> {
    let (before, now): (i32, i32) = (row.try_get("warned_before")?, row.try_get("warned")?);
    let percents: Vec<i32> = row.try_get("warn_at")?;
    let passed = percents.into_iter().filter(|at| before < *at && *at <= now);
    Ok(Crossed {
        budget: parsed(row, "name")?,
        window: window(row)?,
        percents: passed.filter_map(|at| u8::try_from(at).ok()).collect(),
        usd_limit: row.try_get("usd_limit")?,
        token_limit: limit(row.try_get("token_limit")?)?,
        call_limit: limit(row.try_get("call_limit")?)?,
        taken_usd: row.try_get("taken_usd")?,
        taken_tokens: count(row, "taken_tokens")?,
        taken_calls: count(row, "taken_calls")?,
    })
}
