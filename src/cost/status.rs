//! How the gate stands: whether what nobody waits for is done.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::CostError;
use super::settle::Core;
use super::{Cost, CostSettings};
use crate::error::ErrorKind;
use crate::store::StoreError;
use crate::time::Timestamp;

/// How many sweeps may fail to come before they are late.
const LATE: u32 = 3;
/// The longest that one takes which is not late.
const SWEEPS_FOR: Duration = Duration::from_secs(30);

/// How the cost gate stands.
//
// Budgets are no part of what is loaded: the statement that charges one reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct CostStatus {
    /// The host switched the gate off.
    pub switched_off: bool,
    /// How many budgets are stored, when [`health`](crate::Governance::health) last looked; `None` if
    /// nobody has. They are not loaded: each call is decided by what is stored then.
    pub budgets: Option<u64>,
    /// When that was.
    pub counted_at: Option<Timestamp>,
    /// Whether the task runs that finds reservations whose lease ran out.
    pub sweeping: bool,
    /// When it last found all of them.
    pub swept_at: Option<Timestamp>,
    /// It should have done so again by now.
    pub sweep_late: bool,
    /// The last time it could not.
    pub sweep_failing: bool,
    /// Slices of leased budgets that this process holds.
    pub slices: usize,
    /// Slices of which something is spent that is not reported yet: for a second or so that is as it
    /// must be.
    pub unreported: usize,
    /// Slices that could not be reported or renewed the last time.
    pub slices_failing: usize,
    /// Calls of unknown outcome that are on their way from a slice to the store.
    pub leaving: usize,
    /// Reservations that are ended in the background.
    pub ending: usize,
    /// The last of them could not be.
    pub endings_failing: bool,
    /// What went wrong last in the background, whether it goes on or not.
    pub last_error: Option<CostFault>,
}

/// What went wrong in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CostFault {
    /// What was being done.
    pub doing: &'static str,
    /// Which answer the error asks for.
    pub kind: ErrorKind,
    /// What it says. Holds no amounts, names or arguments.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

impl CostStatus {
    /// Whether what nobody waits for is done: leases that ran out are found, and what is spent is
    /// reported.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        let sweeps = self.sweeping && !self.sweep_late && !self.sweep_failing;
        let reports = self.slices_failing == 0 && !self.endings_failing;
        self.switched_off || (sweeps && reports)
    }
}

impl Cost {
    /// How the gate stands, from memory.
    #[must_use]
    pub fn status(&self) -> CostStatus {
        let core = self.core();
        let (pulse, leases) = (&core.pulse, core.leases.count());
        let noted = pulse.noted();
        CostStatus {
            switched_off: !self.is_on(),
            budgets: noted.budgets.map(|(count, _)| count),
            counted_at: noted.budgets.map(|(_, at)| at),
            sweeping: pulse.sweeping.load(Ordering::Acquire),
            swept_at: noted.swept_at,
            sweep_late: pulse.is_late(&core.settings),
            sweep_failing: pulse.sweep_failing.load(Ordering::Acquire),
            slices: leases.held,
            unreported: leases.unreported,
            slices_failing: leases.failing,
            leaving: leases.leaving,
            ending: pulse.ending.load(Ordering::Acquire),
            endings_failing: pulse.endings_failing.load(Ordering::Acquire),
            last_error: noted.last_error.clone(),
        }
    }

    /// Counts what is stored, for [`status`](Self::status).
    pub(crate) async fn look(&self) {
        if !self.is_on() {
            return;
        }
        let core = self.core();
        match core.store.count_budgets().await {
            Ok(count) => core.pulse.noted().budgets = Some((count, core.store.now())),
            Err(error) => core.fault("count the budgets", &error.into()),
        }
    }
}

/// What the slices of this process come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slices {
    pub(super) held: usize,
    pub(super) unreported: usize,
    pub(super) failing: usize,
    pub(super) leaving: usize,
}

/// What the background tasks tell of themselves.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    sweeping: AtomicBool,
    /// When the last sweep succeeded, in milliseconds since `origin`; the start counts as one.
    swept: AtomicU64,
    sweep_failing: AtomicBool,
    ending: AtomicUsize,
    endings_failing: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    budgets: Option<(u64, Timestamp)>,
    swept_at: Option<Timestamp>,
    last_error: Option<CostFault>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            sweeping: AtomicBool::new(false),
            swept: AtomicU64::new(0),
            sweep_failing: AtomicBool::new(false),
            ending: AtomicUsize::new(0),
            endings_failing: AtomicBool::new(false),
            noted: Mutex::default(),
        }
    }
}

impl Pulse {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_late(&self, settings: &CostSettings) -> bool {
        let swept = Duration::from_millis(self.swept.load(Ordering::Acquire));
        let since = self.origin.elapsed().saturating_sub(swept);
        since > settings.sweep_every.saturating_mul(LATE) + SWEEPS_FOR
    }

    /// How many endings the background has still to do.
    pub(super) fn endings(&self) -> usize {
        self.ending.load(Ordering::Acquire)
    }

    /// The background has one more reservation to end.
    pub(super) fn begin_ending(&self) {
        self.ending.fetch_add(1, Ordering::AcqRel);
    }

    /// It has one less.
    pub(super) fn end_ending(&self) {
        self.ending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// While it lives, the sweeper runs; dropped, it does not any more, however it ended.
pub(super) struct Sweeping(pub(super) Arc<Core>);

impl Sweeping {
    pub(super) fn begin(core: &Arc<Core>) -> Self {
        core.pulse.sweeping.store(true, Ordering::Release);
        Self(Arc::clone(core))
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.pulse.sweeping.store(false, Ordering::Release);
    }
}

impl Core {
    /// Notes how a sweep ended.
    pub(super) fn swept(&self, done: &Result<u64, StoreError>) {
        let pulse = &self.pulse;
        pulse.sweep_failing.store(done.is_err(), Ordering::Release);
        match done {
            Ok(_) => {
                let since = u64::try_from(pulse.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
                pulse.swept.store(since, Ordering::Release);
                pulse.noted().swept_at = Some(self.store.now());
            }
            Err(error) => self.fault("sweep reservations", &error.clone().into()),
        }
    }

    /// Notes how one try to end a reservation in the background went.
    pub(super) fn tried_to_end(&self, away: Option<&CostError>) {
        let failing = &self.pulse.endings_failing;
        failing.store(away.is_some(), Ordering::Release);
        if let Some(error) = away {
            self.fault("end a reservation", error);
        }
    }

    /// Notes what went wrong.
    pub(super) fn fault(&self, doing: &'static str, error: &CostError) {
        self.pulse.noted().last_error = Some(CostFault {
            doing,
            kind: error.kind(),
            error: error.to_string(),
            at: self.store.now(),
        });
    }
}
