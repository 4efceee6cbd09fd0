//! How the part of a call ends that was taken from slices.

use std::pin::Pin;
use std::sync::Arc;

use super::part::{Cost, Part};
use super::plan::Plan;
use super::record;
use super::return_all;
use crate::cost::error::CostError;
use crate::cost::reservation::Settled;
use crate::cost::settle::{Core, Ending};
use crate::ids::{CallId, ReservationId};
use crate::money::Usd;
use crate::store::StoreError;
use crate::usage::{Ceiling, Usage};

const OPERATION: &str = "tell the end of a call of a leased budget";

/// What is left to be done after an ending in memory.
pub(in crate::cost) type Rest<'r> =
    Pin<Box<dyn Future<Output = Result<(), CostError>> + Send + 'r>>;

/// What is known of a call besides.
#[derive(Clone, Copy, Debug)]
pub(in crate::cost) struct About<'r> {
    pub(in crate::cost) id: ReservationId,
    pub(in crate::cost) call: Option<CallId>,
    pub(in crate::cost) ceiling: &'r Ceiling,
}

/// What an ending in memory came to.
#[derive(Debug)]
pub(in crate::cost) struct Ended {
    pub(in crate::cost) settled: Settled,
    /// The slices of which it took more than it had of them.
    pub(in crate::cost) overran: Option<Arc<Plan>>,
    /// Whether it is of unknown outcome, and on its way to the store.
    pub(in crate::cost) is_leaving: bool,
}

impl Core {
    /// Ends it, in memory. A governed call is on record by itself, and so is what went wrong; the
    /// others in sums, when the slice is reported.
    pub(in crate::cost) fn end_part(&self, part: Part, call: &About<'_>, ending: &Ending) -> Ended {
        let ceiling = call.ceiling;
        let spent = ending.spent();
        let cost = match &spent {
            None if matches!(ending, Ending::Refund) => Cost {
                usd: Some(Usd::ZERO),
                usage: Some(Usage::default()),
            },
            Some(spent) => {
                let reserved = (ceiling.model.as_ref(), ceiling.provider.as_deref(), part.at);
                let (usd, usage) = self.price_of(spent, reserved);
                Cost { usd, usage }
            }
            None => Cost {
                usd: None,
                usage: None,
            },
        };
        let who = call.call.is_some().then(|| part.who().clone());
        let mut settled = Settled {
            id: call.id,
            usd: Usd::ZERO,
            tokens: 0,
            overrun: Usd::ZERO,
            overrun_tokens: 0,
            estimated: false,
        };
        let word = match ending {
            Ending::Settle(_) | Ending::Charge(_) | Ending::Refund => {
                let word = match ending {
                    Ending::Refund => "refunded",
                    _ => "settled",
                };
                let plan = part.plan();
                let charge = part.settle(&cost);
                settled.usd = charge.usd;
                settled.tokens = charge.tokens;
                settled.overrun = charge.over_usd;
                settled.overrun_tokens = charge.over_tokens;
                settled.estimated = charge.estimated;
                let overran = settled.overrun > Usd::ZERO || settled.overrun_tokens > 0;
                if !overran && who.is_none() {
                    return settled.into();
                }
                let model = spent.as_ref().and_then(|spent| spent.model.as_ref());
                let model = model.or(ceiling.model.as_ref());
                let events = record::ended(plan.who(), call.call, model, &settled, word);
                for event in events {
                    self.audit.log_detached(event);
                }
                return Ended {
                    settled,
                    overran: overran.then_some(plan),
                    is_leaving: false,
                };
            }
            Ending::Release | Ending::Absolve | Ending::Forget => "released",
            Ending::Unknown(_) => {
                let model = (ceiling.model.clone(), ceiling.provider.clone());
                let left = part.leave(call.id, call.call, model, &cost);
                let [usd, tokens, _] = left.charged;
                settled.usd = Usd::nanos(usd);
                settled.tokens = tokens.unsigned_abs();
                settled.estimated = cost.usd.is_none();
                self.leases.leave(left);
                return Ended {
                    settled,
                    overran: None,
                    is_leaving: true,
                };
            }
        };
        drop(part);
        if let Some(who) = who {
            let model = ceiling.model.as_ref();
            for event in record::ended(&who, call.call, model, &settled, word) {
                self.audit.log_detached(event);
            }
        }
        settled.into()
    }

    /// What a call waits for at its end: what it took beyond a slice is reported before anybody is told
    /// that it is settled; if it is of unknown outcome, it is put on record, while the others that are
    /// on their way are the keeper's; and once the process is ending, what it had is reported by itself.
    /// `None`: nothing has to be waited for.
    pub(in crate::cost) fn after_slices(
        &self,
        overran: Option<Arc<Plan>>,
        is_leaving: bool,
    ) -> Option<Rest<'_>> {
        let unknown = is_leaving && self.leases.has_unknown();
        let returns = self.returns_slices();
        if !unknown && !returns && overran.is_none() {
            return None;
        }
        let came = self.leases.mono();
        Some(Box::pin(async move {
            let told = async {
                if let Some(plan) = overran {
                    for share in &plan.shares {
                        share.hold.report_overrun(self, came).await?;
                    }
                }
                if unknown {
                    self.put_unknown_on_record().await?;
                }
                Ok::<_, StoreError>(())
            };
            // All that it waits for, those before it included, is one deadline.
            match tokio::time::timeout(self.store.deadline(), told).await {
                Ok(told) => told?,
                Err(_) => return Err(StoreError::timed_out(OPERATION).into()),
            }
            if returns {
                return_all(self).await;
            }
            Ok(())
        }))
    }
}

impl From<Settled> for Ended {
    fn from(settled: Settled) -> Self {
        Self {
            settled,
            overran: None,
            is_leaving: false,
        }
    }
}
