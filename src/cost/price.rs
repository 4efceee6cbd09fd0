//! What tokens cost: the bundled price list, overrides, and fallbacks.
//!
//! The list is that of `genai-prices` (feature `prices`). Without the feature it is empty: a model
//! costs what you say, or is refused.

#[cfg(feature = "prices")]
mod bundled;

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "prices")]
use self::bundled::bundled;
use crate::ids::ModelName;
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::{Ceiling, CeilingAmount, Usage};

/// The price of a model, in dollars for a million tokens. Exact: whole nano-dollars, rounded up.
///
/// ```
/// use portcullis::{Usd, cost::Price};
///
/// let price = Price::per_million(Usd::dollars(3), Usd::dollars(15)).cached(Usd::cents(30));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub(super) input: Usd,
    pub(super) output: Usd,
    cached: Option<Usd>,
    cache_write: Option<Usd>,
}

impl Price {
    /// So much for a million tokens in, and for a million tokens out.
    #[must_use]
    pub const fn per_million(input: Usd, output: Usd) -> Self {
        Self {
            input,
            output,
            cached: None,
            cache_write: None,
        }
    }

    /// So much for a million tokens that came from the provider's cache; else they cost what input
    /// does.
    #[must_use]
    pub const fn cached(mut self, price: Usd) -> Self {
        self.cached = Some(price);
        self
    }

    /// So much for a million tokens that were written to the provider's cache; else they cost what
    /// input does.
    #[must_use]
    pub const fn cache_write(mut self, price: Usd) -> Self {
        self.cache_write = Some(price);
        self
    }

    /// Whether no part of it is less than nothing.
    pub(super) fn is_valid(&self) -> bool {
        [
            Some(self.input),
            Some(self.output),
            self.cached,
            self.cache_write,
        ]
        .into_iter()
        .flatten()
        .all(|price| !price.is_negative())
    }

    /// What `usage` costs. It is consistent: no part is more than its whole.
    fn of(&self, usage: &Usage) -> Option<Usd> {
        let special = usage.cached_input_tokens + usage.cache_write_tokens;
        let plain = usage.input_tokens.saturating_sub(special);
        [
            (self.input, plain),
            (self.cached.unwrap_or(self.input), usage.cached_input_tokens),
            (
                self.cache_write.unwrap_or(self.input),
                usage.cache_write_tokens,
            ),
            (self.output, usage.output_tokens),
        ]
        .into_iter()
        .try_fold(Usd::ZERO, |sum, (price, tokens)| {
            sum.checked_add(price.per_million(tokens)?)
        })
    }

    /// The dearest that input can be: no cache read, all of it written to the cache.
    pub(super) fn dearest_input(&self) -> Usd {
        self.input
            .max(self.cache_write.unwrap_or(self.input))
            .max(self.cached.unwrap_or(self.input))
    }
}

/// Where prices come from: your overrides first, then the list bundled in `genai-prices`, which the
/// feature `prices` brings (and `openai` with it); without the feature the list is empty.
///
/// A model that neither knows has no price, and is refused unless a budget names a fallback: an
/// unknown model never costs nothing. A model that the list knows without a price for tokens (part of
/// a subscription, say) is unknown too; give it a price of zero here if it is free.
///
/// ```
/// use portcullis::{ModelName, Usd};
/// use portcullis::cost::{Price, Prices};
///
/// let ours = ModelName::parse("our-own-llama")?;
/// let prices = Prices::bundled().with(&ours, Price::per_million(Usd::ZERO, Usd::ZERO));
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Prices {
    overrides: Arc<BTreeMap<ModelName, Price>>,
}

impl Prices {
    /// The bundled list.
    #[must_use]
    pub fn bundled() -> Self {
        Self::default()
    }

    /// The price of `model`, whatever the list says; also of a call that was reserved for `model` and
    /// answered under another name (`gpt-4o-2024-08-06`) that has no override of its own.
    #[must_use]
    pub fn with(mut self, model: &ModelName, price: Price) -> Self {
        Arc::make_mut(&mut self.overrides).insert(model.clone(), price);
        self
    }

    /// Decodes the bundled list, which takes tens of milliseconds the first time.
    pub(super) fn warm() {
        #[cfg(feature = "prices")]
        bundled::warm();
    }

    /// The first of the models `names` that has a price: what you said of any of them comes before what the
    /// list says, whichever of them it knows.
    pub(super) fn of_usage_of_any(
        &self,
        names: [Option<&ModelName>; 2],
        provider: Option<&str>,
        at: Timestamp,
        usage: &Usage,
    ) -> Option<Usd> {
        let names = || names.into_iter().flatten();
        let ours = names().filter(|name| self.overrides.contains_key(*name));
        ours.chain(names())
            .find_map(|name| self.of_usage(name, provider, at, usage).ok())
    }

    /// What `usage` of `model` costs.
    pub(super) fn of_usage(
        &self,
        model: &ModelName,
        provider: Option<&str>,
        at: Timestamp,
        usage: &Usage,
    ) -> Result<Usd, NoPrice> {
        let usage = usage.consistent();
        if let Some(price) = self.overrides.get(model) {
            return price.checked()?.of(&usage).ok_or(NoPrice::TooLarge);
        }
        if usage.total_tokens() == 0 {
            return Ok(Usd::ZERO);
        }
        let ask = |usage: &Usage| bundled(model, provider, at, usage).map(|price| price.total);
        // The parts can overlap in ways that the provider does not report (tokens both cached and
        // audio). Then the discount is left out: too much, never too little.
        ask(&usage).or_else(|error| match error {
            NoPrice::Inconsistent => ask(&Usage {
                cached_input_tokens: 0,
                reasoning_tokens: 0,
                ..usage
            }),
            other => Err(other),
        })
    }

    /// The most that a call within `ceiling` can cost: nothing from the cache, all of the input
    /// written to it or audio where that costs more, all of the output, audio where that costs more.
    ///
    /// Of the ceiling's tier: a call that is billed at a dearer one overruns its ceiling. A list
    /// price that rises with the size of the input is taken at the size of the whole ceiling.
    pub(super) fn of_ceiling(
        &self,
        model: &ModelName,
        ceiling: &Ceiling,
        at: Timestamp,
    ) -> Result<Usd, NoPrice> {
        let (input, output) = match tokens_of(ceiling) {
            Ok(tokens) => tokens,
            Err(amount) => return Ok(amount),
        };
        let sides = match self.overrides.get(model) {
            Some(price) => price.checked()?.sides(input, output)?,
            None => dearest_bundled(model, ceiling, at, input, output)?,
        };
        sides.total(ceiling)
    }
}

impl Price {
    /// What `ceiling` costs at most.
    pub(super) fn of_ceiling(&self, ceiling: &Ceiling) -> Option<Usd> {
        match tokens_of(ceiling) {
            Ok((input, output)) => self.sides(input, output).ok()?.total(ceiling).ok(),
            Err(amount) => Some(amount),
        }
    }

    fn sides(&self, input: u64, output: u64) -> Result<Sides, NoPrice> {
        let side = |price: Usd, tokens| price.per_million(tokens).ok_or(NoPrice::TooLarge);
        Ok(Sides {
            input: side(self.dearest_input(), input)?,
            output: side(self.output, output)?,
            fee: Usd::ZERO,
        })
    }
}

impl Sides {
    /// The dearer of each.
    fn or_dearer(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            fee: self.fee.max(other.fee),
        }
    }

    fn total(self, ceiling: &Ceiling) -> Result<Usd, NoPrice> {
        let tokens = if matches!(ceiling.amount, CeilingAmount::Tokens(_)) {
            Some(self.input.max(self.output))
        } else {
            self.input.checked_add(self.output)
        };
        tokens
            .and_then(|tokens| tokens.checked_add(self.fee))
            .ok_or(NoPrice::TooLarge)
    }
}

/// The tokens of a ceiling, in and out, or its dollars.
const fn tokens_of(ceiling: &Ceiling) -> Result<(u64, u64), Usd> {
    match ceiling.amount {
        CeilingAmount::Usd(amount) => Err(amount),
        CeilingAmount::InOut { input, output } => Ok((input, output)),
        // Each token may be either; priced at the dearer of both.
        CeilingAmount::Tokens(tokens) => Ok((tokens, tokens)),
    }
}

/// Without a list, nobody knows a price that you did not give.
#[cfg(not(feature = "prices"))]
const fn bundled(
    _: &ModelName,
    _: Option<&str>,
    _: Timestamp,
    _: &Usage,
) -> Result<Bundled, NoPrice> {
    Err(NoPrice::Unknown)
}

/// Both sides of a ceiling at their dearest, by the bundled list.
fn dearest_bundled(
    model: &ModelName,
    ceiling: &Ceiling,
    at: Timestamp,
    input: u64,
    output: u64,
) -> Result<Sides, NoPrice> {
    let either = matches!(ceiling.amount, CeilingAmount::Tokens(_));
    let provider = ceiling.provider.as_deref();
    let plain = Usage::tokens(input, output).tier(ceiling.tier);
    let written = Usage {
        cache_write_tokens: input,
        ..plain
    };
    let ask = |usage: &Usage| bundled(model, provider, at, usage).map(|price| price.sides);
    let first = match ask(&plain) {
        // A model without output, such as an embedding, has a price for input only.
        Err(NoPrice::NoOutputPrice) if either => {
            let text = Usage::tokens(input, 0).tier(ceiling.tier);
            let audio = Usage {
                input_audio_tokens: input,
                ..text
            };
            return Ok(match ask(&audio) {
                Ok(dear) => ask(&text)?.or_dearer(dear),
                Err(_) => ask(&text)?,
            });
        }
        other => other?,
    };
    let mut sides = first.or_dearer(ask(&written)?);
    // Whether a call hears or speaks is not known before. One side at a time: of most models neither
    // has a price of its own, of some only one has.
    for audio in [
        Usage {
            input_audio_tokens: input,
            ..plain
        },
        Usage {
            output_audio_tokens: output,
            ..plain
        },
    ] {
        match ask(&audio) {
            Ok(dear) => sides = sides.or_dearer(dear),
            Err(NoPrice::TooLarge) => return Err(NoPrice::TooLarge),
            // Not at this model: then neither is it charged.
            Err(_) => {}
        }
    }
    Ok(sides)
}

impl Price {
    fn checked(&self) -> Result<&Self, NoPrice> {
        if self.is_valid() {
            Ok(self)
        } else {
            Err(NoPrice::Invalid)
        }
    }
}

/// Why there is no price.
#[cfg_attr(
    not(feature = "prices"),
    expect(dead_code, reason = "only the list answers so")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPrice {
    /// Nobody knows the model, or what a part of it costs.
    Unknown,
    /// The list has a price for input only.
    NoOutputPrice,
    /// The parts of the usage overlap in a way that cannot be priced.
    Inconsistent,
    /// An override is less than nothing.
    Invalid,
    /// The amount cannot be written.
    TooLarge,
}

/// An answer of the list.
#[derive(Clone, Copy, Debug)]
struct Bundled {
    total: Usd,
    sides: Sides,
}

/// What the input costs, the output, and the call itself.
#[derive(Clone, Copy, Debug)]
struct Sides {
    input: Usd,
    output: Usd,
    fee: Usd,
}
