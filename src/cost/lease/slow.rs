//! Where memory does not decide alone: the first call of a caller, a slice that is short, a limit that
//! is near.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::hold::{Hold, Of, nanos};
use super::part::Part;
use super::plan::{MOST_SHARES, Plan, Share};
use super::slice::{Amounts, NOTHING};
use super::store::Applicable;
use super::{Asked, DRY};
use crate::call::Principal;
use crate::cost::price::Price;
use crate::cost::settle::Core;
use crate::cost::store::Demand;
use crate::error::ErrorKind;
use crate::ids::BudgetName;
use crate::store::StoreError;
use crate::time::Timestamp;

/// How long the answer of other holders is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long after nobody had anything they are not asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub(in crate::cost) struct Slow<'c> {
    pub(in crate::cost) who: &'c Principal,
    pub(in crate::cost) asked: &'c Asked<'c>,
    pub(in crate::cost) demand: &'c Demand,
    pub(in crate::cost) at: Timestamp,
}

impl Core {
    /// Takes what can be had from slices; what it has not, the statement charges. `None`: nothing.
    ///
    /// Cancel safe: what it has taken is given back.
    pub(in crate::cost) async fn take_slices(
        &self,
        call: Slow<'_>,
    ) -> Result<Option<Part>, StoreError> {
        let came = self.leases.mono();
        let plan = self.plan(call).await?;
        if plan.shares.is_empty() {
            return Ok(None);
        }
        let now = || self.store.now();
        let mut part = self.leases.take_from(plan, call.asked, call.at, &now);
        for share in 0..MOST_SHARES {
            let Some(hold) = part.hold(share).cloned() else {
                break;
            };
            if part.has(share) {
                continue;
            }
            let Some(amounts) = part.amounts(share, call.asked) else {
                continue;
            };
            if hold.is_dry(self.leases.mono()) {
                continue;
            }
            hold.refill(self, &amounts, came).await?;
            // By the clock of now: the store may have taken its time.
            if part.take(share, call.asked)
                && !hold.is_current(self.leases.mono(), self.store.now().as_micros())
            {
                part.untake(share);
            }
            if !part.has(share) && !hold.is_dead() {
                self.leave_to_statement(&hold, &amounts).await?;
            }
        }
        Ok(Some(part).filter(|part| !part.is_empty()))
    }

    /// A slice is short of what a call asks for, and could not be filled. Where the limit is near, it
    /// is given back, so that the statement finds all that is left.
    async fn leave_to_statement(&self, hold: &Hold, asked: &Amounts) -> Result<(), StoreError> {
        if hold.exceeds_slice(asked) {
            return Ok(());
        }
        hold.dry(self.leases.mono().saturating_add(nanos(DRY)));
        self.give_back(hold).await
    }

    pub(super) async fn give_back(&self, hold: &Hold) -> Result<(), StoreError> {
        let came = self.leases.mono();
        hold.give_back(self, came).await.map(drop)
    }

    /// Asks other processes for their slices of `budget`, where there are any; says whether it is
    /// worth to try again.
    pub(in crate::cost) async fn ask_back(&self, budget: &BudgetName) -> bool {
        // What this process has of it and does not use goes first.
        if self.give_back_own(budget).await {
            return true;
        }
        let came = self.leases.mono();
        let asking = self.leases.asking(budget);
        let mut asking = asking.lock().await;
        let (ended, helped) = *asking;
        // One asks for all that wait.
        if ended >= came {
            return helped;
        }
        if !helped && ended > 0 && came.saturating_sub(ended) < nanos(ASK_EVERY) {
            return false;
        }
        let helped = self.ask_others(budget).await;
        *asking = (self.leases.mono(), helped);
        helped
    }

    async fn ask_others(&self, budget: &BudgetName) -> bool {
        let ask = |tell| self.store.ask_for_slices(budget, self.leases.holder, tell);
        let Ok(out) = ask(true).await else {
            return false;
        };
        if out.iter().all(|amount| *amount <= 0) {
            return false;
        }
        let mut waited = Duration::ZERO;
        while waited < PATIENCE {
            tokio::time::sleep(LOOK_EVERY).await;
            waited += LOOK_EVERY;
            // Told again: who has just begun to listen has not heard the first time.
            match ask(waited.as_millis().is_multiple_of(100)).await {
                Ok(now) if now.iter().zip(&out).any(|(now, before)| now < before) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }

    async fn give_back_own(&self, budget: &BudgetName) -> bool {
        let own: Vec<_> = {
            let current = self.leases.current();
            let own = current.values().filter(|hold| hold.of.budget == *budget);
            own.cloned().collect()
        };
        let mut given = false;
        for hold in own {
            if hold.slice.free() != NOTHING && !hold.is_dead() {
                hold.dry(self.leases.mono().saturating_add(nanos(DRY)));
                given |= self.give_back(&hold).await.is_ok();
            }
        }
        given
    }

    /// The plan of a caller, made anew where there is none. While the store is away, one caller finds
    /// out for all that wait; those who have a plan from before go on by it, as long as its slices last.
    async fn plan(&self, call: Slow<'_>) -> Result<Arc<Plan>, StoreError> {
        let leases = &self.leases;
        let came = leases.mono();
        if let Some(plan) = self.fresh_plan(call) {
            return Ok(plan);
        }
        let mut failed = match leases.planning.try_lock() {
            Ok(failed) => failed,
            Err(_) => match self.old_plan(call) {
                Some(plan) if leases.away.load(Ordering::Acquire) => return Ok(plan),
                _ => leases.planning.lock().await,
            },
        };
        if let Some(plan) = self.fresh_plan(call) {
            return Ok(plan);
        }
        if let Some((at, error)) = &*failed {
            let old = self.old_plan(call);
            let lately = old.is_some() && leases.mono().saturating_sub(*at) < nanos(DRY);
            if *at >= came || lately {
                return old.ok_or_else(|| error.clone());
            }
        }
        let made = self.make_plan(call).await;
        let away = matches!(&made, Err((error, _)) if error.kind() == ErrorKind::Unavailable);
        leases.away.store(away, Ordering::Release);
        *failed = match &made {
            Err((error, _)) if away => Some((leases.mono(), error.clone())),
            _ => None,
        };
        match made {
            Ok(plan) => Ok(plan),
            Err((error, known)) => match self.old_plan(call) {
                Some(plan) if away && !known => Ok(plan),
                _ => Err(error),
            },
        }
    }

    fn fresh_plan(&self, call: Slow<'_>) -> Option<Arc<Plan>> {
        let fresh = |plan: &Arc<Plan>| plan.shares.iter().all(|share| !share.hold.is_dead());
        let generation = self.leases.generation();
        let plan = self
            .leases
            .plans
            .find(call.who, call.asked.model, generation);
        plan.filter(fresh)
            .filter(|plan| !Self::is_past(plan, call.at))
    }

    fn old_plan(&self, call: Slow<'_>) -> Option<Arc<Plan>> {
        let plan = self.leases.plans.find_any(call.who, call.asked.model);
        plan.filter(|plan| plan.is_alive() && !Self::is_past(plan, call.at))
    }

    /// With an error comes whether the limits are known nevertheless.
    async fn make_plan(&self, call: Slow<'_>) -> Result<Arc<Plan>, (StoreError, bool)> {
        // Before it is read: what changes while it is read makes it old at once.
        let generation = self.leases.generation();
        let limits = self
            .store
            .list_applicable(call.who, call.asked.model)
            .await
            .map_err(|error| (error, false))?;
        if limits.iter().any(|limit| limit.leased) {
            let opened = self.store.open_windows(&[call.demand]).await;
            opened.map_err(|error| (error, true))?;
        }
        // What allows nothing is left to the statement, which says so.
        let allowed = limits.iter().any(|limit| limit.allows);
        let (leased, others): (Vec<_>, Vec<_>) = limits
            .into_iter()
            .partition(|limit| allowed && limit.leased);
        let plan = Arc::new(Plan {
            who: call.who.clone(),
            model: call.asked.model.cloned(),
            generation,
            others: !others.is_empty() || leased.len() > MOST_SHARES,
            shares: leased
                .into_iter()
                .take(MOST_SHARES)
                .map(|limit| self.share(call.who, limit))
                .collect(),
        });
        self.leases.plans.keep(&plan);
        Ok(plan)
    }

    /// Whether a window of the plan is over: on another day, another one counts.
    fn is_past(plan: &Plan, at: Timestamp) -> bool {
        let today = at.utc_day().to_string();
        let other = |share: &Share| share.hold.of.is_other_day(&today);
        plan.shares.iter().any(other)
    }

    fn share(&self, who: &Principal, limit: Applicable) -> Share {
        let of = Of {
            budget: limit.budget,
            period: limit.period,
            key: limit.key,
        };
        let mut current = self.leases.current();
        let hold = match current.get(&of) {
            Some(hold) if !hold.is_dead() => Arc::clone(hold),
            _ => {
                let hold = Arc::new(Hold::new(of.clone(), who.clone(), self.leases.mono()));
                if let Some(old) = current.insert(of, Arc::clone(&hold)) {
                    // What is left of the limit is somebody else's for a moment.
                    hold.dry_as(&old);
                    self.leases.old().push(old);
                }
                hold
            }
        };
        Share {
            hold,
            allows: limit.allows,
            usd_limited: limit.usd_limited,
            fallback: limit
                .fallback
                .map(|(input, output)| Price::per_million(input, output)),
        }
    }
}
