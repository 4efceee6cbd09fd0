//! What one call has of slices, and how that ends.

use std::sync::Arc;

use super::Asked;
use super::hold::Hold;
use super::plan::{MOST_SHARES, Plan, Share, of_split};
use super::slice::{Amounts, MOST, NOTHING};
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::Usage;

/// What one call has taken from slices. Dropped, it gives it back.
#[derive(Debug)]
pub(in crate::cost) struct Part {
    plan: Arc<Plan>,
    /// Of each share of the plan, from the first on; `None` where the share is charged by statement.
    taken: [Option<Amounts>; MOST_SHARES],
    /// When, by which the call is priced.
    pub(in crate::cost) at: Timestamp,
    /// When it was looked at, after it was taken.
    pub(in crate::cost) seen_at: Timestamp,
}

/// How a call ends here.
#[derive(Clone, Copy, Debug)]
pub(in crate::cost) struct Cost {
    /// The price, if there is one; else the budget's fallback price applies to the usage; else it
    /// stays charged as it was.
    pub(in crate::cost) usd: Option<Usd>,
    pub(in crate::cost) usage: Option<Usage>,
}

/// What a call was charged at.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cost) struct Charge {
    pub(in crate::cost) usd: Usd,
    pub(in crate::cost) tokens: u64,
    pub(in crate::cost) over_usd: Usd,
    pub(in crate::cost) over_tokens: u64,
    pub(in crate::cost) estimated: bool,
}

impl Part {
    pub(super) const fn empty(plan: Arc<Plan>, at: Timestamp) -> Self {
        Self {
            plan,
            taken: [None; MOST_SHARES],
            at,
            seen_at: at,
        }
    }

    /// Takes what `asked` comes to of one share.
    pub(super) fn take(&mut self, at: usize, asked: &Asked<'_>) -> bool {
        let Some((share, slot)) = self.plan.shares.get(at).zip(self.taken.get_mut(at)) else {
            return false;
        };
        let Some(amounts) = share.amounts(asked) else {
            return false;
        };
        let taken = share.hold.slice.take(&amounts);
        if taken {
            *slot = Some(amounts);
        }
        taken
    }

    /// Gives back one share.
    pub(super) fn untake(&mut self, at: usize) {
        if let Some((share, slot)) = self.plan.shares.get(at).zip(self.taken.get_mut(at))
            && let Some(amounts) = slot.take()
        {
            share.hold.slice.give(&amounts);
        }
    }

    /// The slice of one share.
    pub(super) fn hold(&self, at: usize) -> Option<&Arc<Hold>> {
        self.plan.shares.get(at).map(|share| &share.hold)
    }

    pub(super) fn has(&self, at: usize) -> bool {
        self.taken.get(at).is_some_and(Option::is_some)
    }

    /// What `asked` comes to for one share; `None` where the statement must say why not.
    pub(super) fn amounts(&self, at: usize, asked: &Asked<'_>) -> Option<Amounts> {
        self.plan.shares.get(at)?.amounts(asked)
    }

    /// Whether nothing is left to be charged by statement.
    pub(in crate::cost) fn is_whole(&self) -> bool {
        !self.plan.others && self.served().count() == self.plan.shares.len()
    }

    /// Whether it has anything.
    pub(super) fn is_empty(&self) -> bool {
        self.served().next().is_none()
    }

    /// The budgets and periods that are charged here, and not by statement, as it names them.
    pub(in crate::cost) fn limits(&self) -> String {
        let allows = self.served().any(|(share, _)| share.allows);
        let mut names: Vec<_> = self
            .served()
            .map(|(share, _)| {
                format!(
                    "{} {}",
                    share.hold.of.budget,
                    share.hold.of.period.to_text()
                )
            })
            .collect();
        names.extend(allows.then(|| "+".to_owned()));
        names.join(",")
    }

    pub(in crate::cost) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }

    pub(in crate::cost) fn who(&self) -> &crate::call::Principal {
        &self.plan.who
    }

    pub(super) fn served(&self) -> impl Iterator<Item = (&Share, Amounts)> {
        let shares = self.plan.shares.iter().zip(&self.taken);
        shares.filter_map(|(share, taken)| Some((share, (*taken)?)))
    }

    /// Charges what the call really took.
    pub(in crate::cost) fn settle(mut self, cost: &Cost) -> Charge {
        let mut charge = Charge::default();
        for (share, asked) in self.served() {
            let costs = share.costs(cost, asked, &mut charge);
            share.hold.slice.settle(&asked, &costs);
            let [usd, tokens, _] = costs;
            let [asked_usd, asked_tokens, _] = asked;
            charge.usd = charge.usd.max(Usd::nanos(usd));
            charge.tokens = charge.tokens.max(tokens.unsigned_abs());
            charge.over_usd = charge.over_usd.max(Usd::nanos((usd - asked_usd).max(0)));
            charge.over_tokens =
                (charge.over_tokens).max((tokens - asked_tokens).max(0).unsigned_abs());
        }
        self.forget();
        charge
    }

    /// What it has stays reserved: it is somebody else's now.
    pub(super) fn forget(&mut self) {
        self.taken = [None; MOST_SHARES];
    }
}

impl Share {
    /// As [`costs`](Self::costs), and at least what was asked for.
    pub(super) fn at_least(&self, seen: &Cost, asked: Amounts) -> Amounts {
        let mut costs = self.costs(seen, asked, &mut Charge::default());
        for (cost, asked) in costs.iter_mut().zip(asked) {
            *cost = asked.max(*cost);
        }
        costs
    }

    fn costs(&self, cost: &Cost, asked: Amounts, charge: &mut Charge) -> Amounts {
        let [asked_usd, asked_tokens, calls] = asked;
        let by_fallback = || {
            let usage = cost.usage.as_ref()?;
            let price = self.fallback?;
            of_split(&price, usage.input_tokens, usage.output_tokens, 0)
        };
        let usd = cost.usd.or_else(by_fallback);
        charge.estimated |= usd.is_none();
        let tokens = cost.usage.map(|usage| usage.total_tokens());
        let usd = usd.map_or(asked_usd, Usd::as_nanos);
        let tokens = tokens.map_or(asked_tokens, |tokens| i64::try_from(tokens).unwrap_or(MOST));
        // A thousand of it can be added up; nothing real comes near.
        [usd.min(MOST), tokens.min(MOST), calls]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        for (share, amounts) in self.served() {
            if amounts != NOTHING {
                share.hold.slice.give(&amounts);
            }
        }
    }
}
