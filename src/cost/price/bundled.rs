//! The list of `genai-prices`, which computes in floating point. It enters in one function, and leaves
//! it as whole nano-dollars: rounded up, plus ten.

use std::time::SystemTime;

use genai_prices::{Calculator, ErrorKind as Found, PriceCalculation, PriceRequest, UsageKey};

use super::{Bundled, NoPrice, Sides};
use crate::ids::ModelName;
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::{Tier, Usage};

/// The most tokens that floating point counts exactly.
const MAX_EXACT_TOKENS: u64 = 1 << 53;

pub(super) fn warm() {
    let _ = Calculator::bundled();
}

/// What the bundled list says.
#[expect(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the one function where the price list's floating point becomes whole nano-dollars"
)]
pub(super) fn bundled(
    model: &ModelName,
    provider: Option<&str>,
    at: Timestamp,
    usage: &Usage,
) -> Result<Bundled, NoPrice> {
    let up = |dollars: f64| {
        // Ten nano-dollars are more than the rounding of a sum of a dozen products.
        let nanos = (dollars * 1e9).ceil() + 10.0;
        // NaN fails both comparisons. 9e18 is below i64::MAX, so the conversion is exact.
        if dollars >= 0.0 && nanos < 9e18 {
            Ok(Usd::nanos(nanos as i64))
        } else {
            Err(NoPrice::TooLarge)
        }
    };
    let mut counts = genai_prices::Usage::new();
    for (key, tokens) in [
        (UsageKey::INPUT_TOKENS, usage.input_tokens),
        (UsageKey::OUTPUT_TOKENS, usage.output_tokens),
        (UsageKey::CACHE_READ_TOKENS, usage.cached_input_tokens),
        (UsageKey::CACHE_WRITE_TOKENS, usage.cache_write_tokens),
        (UsageKey::INPUT_AUDIO_TOKENS, usage.input_audio_tokens),
        (UsageKey::OUTPUT_AUDIO_TOKENS, usage.output_audio_tokens),
        (UsageKey::OUTPUT_REASONING_TOKENS, usage.reasoning_tokens),
    ] {
        if tokens > MAX_EXACT_TOKENS {
            return Err(NoPrice::TooLarge);
        }
        if tokens > 0 {
            counts.insert(key, tokens as f64);
        }
    }
    let request = |tier: Option<(&'static str, &'static str)>| {
        let mut request =
            PriceRequest::new(model.as_str(), &counts).with_timestamp(SystemTime::from(at));
        if let Some(provider) = provider {
            request = request.with_provider_id(provider);
        }
        if let Some((key, value)) = tier {
            request = request.with_price_context(key, value);
        }
        genai_prices::calculate(&request).map_err(|error| match error.kind() {
            Found::InvalidUsage => NoPrice::Inconsistent,
            _ => NoPrice::Unknown,
        })
    };
    let found = request(context(usage.tier))?;
    // The list answers the standard price where it knows no dearer one.
    if usage.tier == Tier::Priority && found.total_price <= request(None)?.total_price {
        return Err(NoPrice::Unknown);
    }
    known(&found, usage)?;
    let fee = found.total_price - found.input_price - found.output_price;
    Ok(Bundled {
        total: up(found.total_price)?,
        sides: Sides {
            input: up(found.input_price)?,
            output: up(found.output_price)?,
            fee: up(fee.max(0.0))?,
        },
    })
}

/// The keys by which the list tells tiers apart. Batch is a way of submitting, not a tier.
const fn context(tier: Tier) -> Option<(&'static str, &'static str)> {
    match tier {
        Tier::Standard => None,
        Tier::Batch => Some(("processing", "batch")),
        Tier::Flex => Some(("service_tier", "flex")),
        Tier::Priority => Some(("service_tier", "priority")),
    }
}

/// Refuses an answer that leaves something out: tokens that cost nothing are tokens without a price.
fn known(found: &PriceCalculation, usage: &Usage) -> Result<(), NoPrice> {
    if !found.warnings.is_empty() || (usage.input_tokens > 0 && found.input_price <= 0.0) {
        return Err(NoPrice::Unknown);
    }
    if usage.output_tokens > 0 && found.output_price <= 0.0 {
        return Err(NoPrice::NoOutputPrice);
    }
    Ok(())
}
