//! Endings that the store did not take, kept by the audit journal: what was spent in an outage is
//! charged after it, whichever process does it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use uuid::Uuid;

use super::error::CostError;
use super::record;
use super::reservation::{Held, Spent};
use super::settle::{Core, Ending, Job};
use crate::audit::{Metadata, Note, Redeem, Redeemed};
use crate::error::ErrorKind;
use crate::ids::{CallId, EventId, ModelName, ReservationId};
use crate::money::Usd;
use crate::usage::{Tier, Usage};

/// Whose notes they are.
pub(super) const MODULE: &str = "cost";

impl Core {
    /// Has the journal keep `job`; says whether it does, so that nobody else need do it.
    //
    // What was let through without a reservation is not on record: it stays with this process.
    pub(super) async fn keep(&self, job: &Job) -> bool {
        if !job.held.on_record {
            return false;
        }
        let Ok(payload) = Metadata::new(&write(job)) else {
            return false;
        };
        let note = Note {
            id: EventId::new(),
            module: MODULE.to_owned(),
            payload,
        };
        let kept = self.audit.note(note).await.is_ok();
        self.kept.fetch_or(kept, Ordering::Relaxed);
        kept
    }

    /// Ends the reservation that a note is about. The same note twice ends it once: the store knows
    /// the operation by its id.
    async fn redeem(&self, note: &Note) -> Redeemed {
        let Some(kept) = Kept::read(&note.payload.to_value()) else {
            return Redeemed::Never;
        };
        let stored = match self.store.fetch_reservation(kept.id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Redeemed::Never,
            Err(_) => return Redeemed::Later,
        };
        let held = Held {
            call: kept.call,
            id: kept.id,
            who: record::principal(&stored),
            model: stored.model,
            provider: stored.provider,
            at: stored.reserved_at,
            usd: None,
            tokens: 0,
            on_record: true,
        };
        match self.perform(&Job::again(held, kept.ending, kept.by)).await {
            Ok(_) => Redeemed::Done,
            Err(CostError::NotHeld { state }) => {
                tracing::debug!(id = %kept.id, %state, "a reservation had ended before");
                Redeemed::Done
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => Redeemed::Later,
            Err(error) => {
                tracing::error!(id = %kept.id, %error, "a reservation could not be ended from the journal; it stays charged until it is resolved");
                Redeemed::Never
            }
        }
    }
}

/// What takes the notes of this module.
pub(super) fn taker(core: &Arc<Core>) -> Redeem {
    // Weak: the gate has the trail, and the trail has this.
    let core = Arc::downgrade(core);
    Arc::new(move |note| {
        let core = core.clone();
        Box::pin(async move {
            match core.upgrade() {
                Some(core) => core.redeem(&note).await,
                None => Redeemed::Later,
            }
        })
    })
}

/// A note, read back.
#[derive(Debug)]
struct Kept {
    id: ReservationId,
    by: Uuid,
    call: Option<CallId>,
    ending: Ending,
}

fn write(job: &Job) -> Value {
    let (ending, spent) = match &job.ending {
        Ending::Settle(spent) => ("settle", Some(spent.clone())),
        Ending::Charge(spent) => ("charge", Some(spent.clone())),
        Ending::Release => ("release", None),
        Ending::Absolve => ("absolve", None),
        Ending::Refund => ("refund", None),
        Ending::Unknown(seen) => ("unknown", seen.clone()),
        Ending::Forget => ("forget", None),
    };
    let spent = spent.as_ref();
    // Numbers as strings: JSON's do not hold all of them.
    json!({
        "reservation": job.held.id.to_string(),
        "by": job.by.to_string(),
        "call": job.held.call.map(|call| call.to_string()),
        "ending": ending,
        "usd": spent.and_then(|spent| spent.usd).map(|usd| usd.as_nanos().to_string()),
        "model": spent.and_then(|spent| spent.model.as_ref()).map(ModelName::as_str),
        "provider": spent.and_then(|spent| spent.provider.as_deref()),
        "usage": spent.and_then(|spent| spent.usage).map(|usage| counts(&usage).map(|n| n.to_string())),
        "tier": spent.and_then(|spent| spent.usage).map(|usage| tier(usage.tier)),
    })
}

impl Kept {
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let usage = match value.get("usage")? {
            Value::Array(counts) => {
                let counts: Option<Vec<u64>> = counts
                    .iter()
                    .map(|count| count.as_str()?.parse().ok())
                    .collect();
                Some(usage(&counts?, text("tier")?)?)
            }
            _ => None,
        };
        let usd = match text("usd") {
            Some(nanos) => Some(Usd::nanos(nanos.parse().ok()?)),
            None => None,
        };
        let spent = Spent {
            usage,
            usd,
            model: text("model").and_then(|model| ModelName::parse(model).ok()),
            provider: text("provider").map(str::to_owned),
        };
        Some(Self {
            id: ReservationId::parse(text("reservation")?).ok()?,
            by: Uuid::try_parse(text("by")?).ok()?,
            call: text("call").and_then(|call| CallId::parse(call).ok()),
            ending: match text("ending")? {
                "settle" => Ending::Settle(spent),
                "charge" => Ending::Charge(spent),
                "release" => Ending::Release,
                "absolve" => Ending::Absolve,
                "refund" => Ending::Refund,
                "unknown" => {
                    let seen = spent.usage.is_some() || spent.usd.is_some();
                    Ending::Unknown(seen.then_some(spent))
                }
                "forget" => Ending::Forget,
                _ => return None,
            },
        })
    }
}

const fn counts(usage: &Usage) -> [u64; 7] {
    [
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.input_audio_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.output_audio_tokens,
    ]
}

fn usage(counts: &[u64], tier: &str) -> Option<Usage> {
    let &[
        input,
        cached,
        cache_write,
        input_audio,
        output,
        reasoning,
        output_audio,
    ] = counts
    else {
        return None;
    };
    let tiers = [Tier::Standard, Tier::Batch, Tier::Flex, Tier::Priority];
    Some(Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        cache_write_tokens: cache_write,
        input_audio_tokens: input_audio,
        output_tokens: output,
        reasoning_tokens: reasoning,
        output_audio_tokens: output_audio,
        tier: tiers.into_iter().find(|known| self::tier(*known) == tier)?,
    })
}

const fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Standard => "standard",
        Tier::Batch => "batch",
        Tier::Flex => "flex",
        Tier::Priority => "priority",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Principal;
    use crate::ids::AgentId;
    use crate::time::Timestamp;

    #[test]
    fn f26_every_ending_is_read_back_as_it_was_written() {
        let usage = Usage {
            tier: Tier::Flex,
            ..Usage::tokens(u64::MAX, 7).cached(3)
        };
        let spent = Spent::tokens(usage)
            .billed(Usd::nanos(i64::MAX))
            .model(&ModelName::parse("gpt-4o-mini").unwrap())
            .provider("openai");
        for ending in [
            Ending::Settle(spent.clone()),
            Ending::Settle(Spent::usd(Usd::cents(4))),
            Ending::Charge(spent),
            Ending::Release,
            Ending::Absolve,
            Ending::Refund,
            Ending::Unknown(Some(Spent::tokens(usage))),
            Ending::Unknown(Some(Spent::usd(Usd::cents(4)))),
            Ending::Unknown(None),
            Ending::Forget,
        ] {
            let held = Held {
                id: ReservationId::new(),
                who: Principal::agent(AgentId::parse("a").unwrap()),
                model: None,
                provider: None,
                at: Timestamp::from_micros(0),
                usd: None,
                tokens: 0,
                call: Some(CallId::new()),
                on_record: true,
            };
            let job = Job::of(held, ending);
            let payload = Metadata::new(&write(&job)).unwrap();
            let kept = Kept::read(&payload.to_value()).unwrap();
            assert_eq!(
                (kept.id, kept.by, kept.call),
                (job.held.id, job.by, job.held.call)
            );
            assert_eq!(format!("{:?}", kept.ending), format!("{:?}", job.ending));
        }
        assert!(Kept::read(&json!({})).is_none());
    }
}
