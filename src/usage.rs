//! What a model call takes: the ceiling declared before, the usage reported after.

use crate::ids::ModelName;
use crate::money::Usd;

/// Tokens of a model call, as its provider bills them.
///
/// `input_tokens` counts all input, cached included; `output_tokens` counts all output, reasoning
/// included. The other counts are parts of these two and are never added to them again.
///
/// ```
/// use portcullis::Usage;
///
/// let usage = Usage::tokens(1_000, 200).cached(800);
/// assert_eq!(usage.total_tokens(), 1_200);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Usage {
    /// All input, cached and cache writes included.
    pub input_tokens: u64,
    /// The part of the input that was read from the provider's cache.
    pub cached_input_tokens: u64,
    /// The part of the input that was written to the provider's cache.
    pub cache_write_tokens: u64,
    /// The part of the input that was audio.
    pub input_audio_tokens: u64,
    /// All output, reasoning included.
    pub output_tokens: u64,
    /// The part of the output that was reasoning.
    pub reasoning_tokens: u64,
    /// The part of the output that was audio.
    pub output_audio_tokens: u64,
    /// The service tier that the provider billed.
    pub tier: Tier,
}

impl Usage {
    /// The same with no part larger than its whole.
    ///
    /// A part that is larger shows a provider that does not count it in: then it is added. Too much,
    /// never too little, and never below zero.
    pub(crate) fn consistent(&self) -> Self {
        let within = |whole: u64, parts: u64| {
            if parts > whole {
                whole.saturating_add(parts)
            } else {
                whole
            }
        };
        let cache = self
            .cached_input_tokens
            .saturating_add(self.cache_write_tokens);
        let output_parts = self.reasoning_tokens.max(self.output_audio_tokens);
        let input = within(self.input_tokens, cache).max(self.input_audio_tokens);
        Self {
            input_tokens: input,
            output_tokens: within(self.output_tokens, output_parts),
            ..*self
        }
    }

    /// So many tokens in and out.
    #[must_use]
    pub const fn tokens(input: u64, output: u64) -> Self {
        Self {
            input_tokens: input,
            cached_input_tokens: 0,
            cache_write_tokens: 0,
            input_audio_tokens: 0,
            output_tokens: output,
            reasoning_tokens: 0,
            output_audio_tokens: 0,
            tier: Tier::Standard,
        }
    }

    /// How many of the input tokens came from the provider's cache.
    #[must_use]
    pub const fn cached(mut self, tokens: u64) -> Self {
        self.cached_input_tokens = tokens;
        self
    }

    /// The service tier.
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    /// Input and output together, or `u64::MAX` where that is less.
    #[must_use]
    pub const fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// The larger of both in every count, at the dearer tier: what a broken stream is known to have used.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.max(other.input_tokens),
            cached_input_tokens: self.cached_input_tokens.max(other.cached_input_tokens),
            cache_write_tokens: self.cache_write_tokens.max(other.cache_write_tokens),
            input_audio_tokens: self.input_audio_tokens.max(other.input_audio_tokens),
            output_tokens: self.output_tokens.max(other.output_tokens),
            reasoning_tokens: self.reasoning_tokens.max(other.reasoning_tokens),
            output_audio_tokens: self.output_audio_tokens.max(other.output_audio_tokens),
            tier: self.tier.or_dearer(other.tier),
        }
    }
}

/// The service tier of a model call, which changes its price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The ordinary one.
    #[default]
    Standard,
    /// Answered within a day.
    Batch,
    /// Cheaper, slower.
    Flex,
    /// Dearer, faster.
    Priority,
}

impl Tier {
    fn or_dearer(self, other: Self) -> Self {
        let price = |tier| match tier {
            Self::Batch => 0,
            Self::Flex => 1,
            Self::Standard => 2,
            Self::Priority => 3,
        };
        if price(other) > price(self) {
            other
        } else {
            self
        }
    }
}

/// The most that a call can take, declared before it is made.
///
/// Priced at the dearest the call can become: nothing from the cache, all of the output, all of it audio
/// where the model's price for that is higher. A ceiling in tokens
/// alone counts against token budgets; a budget in dollars needs the model
/// ([`of_model`](Self::of_model)), dollars ([`Ceiling::usd`]), or a fallback price.
///
/// ```
/// use portcullis::{Ceiling, ModelName, Usd};
///
/// let model = ModelName::parse("gpt-4o-mini")?;
/// let call = Ceiling::tokens(4_000).of_model(&model);
/// let exact = Ceiling::in_out(3_000, 1_000).of_model(&model);
/// let fee = Ceiling::usd(Usd::cents(25));
/// # Ok::<(), portcullis::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    pub(crate) amount: CeilingAmount,
    pub(crate) model: Option<ModelName>,
    pub(crate) provider: Option<String>,
    pub(crate) tier: Tier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CeilingAmount {
    /// Tokens of either direction: each is priced at the dearer one.
    Tokens(u64),
    InOut {
        input: u64,
        output: u64,
    },
    Usd(Usd),
}

impl Ceiling {
    /// At most so many tokens, in and out together.
    #[must_use]
    pub const fn tokens(tokens: u64) -> Self {
        Self::of(CeilingAmount::Tokens(tokens))
    }

    /// At most so many tokens in, and so many out.
    #[must_use]
    pub const fn in_out(input: u64, output: u64) -> Self {
        Self::of(CeilingAmount::InOut { input, output })
    }

    /// At most so many dollars, and no tokens: a tool that costs money.
    #[must_use]
    pub const fn usd(amount: Usd) -> Self {
        Self::of(CeilingAmount::Usd(amount))
    }

    /// The model that is called, by whose price the tokens are reserved.
    #[must_use]
    pub fn of_model(mut self, model: &ModelName) -> Self {
        self.model = Some(model.clone());
        self
    }

    /// The provider, as `genai-prices` names it, where the model's name alone is ambiguous.
    #[must_use]
    pub fn at_provider(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// The dearest service tier that the provider may bill, by whose price the tokens are reserved.
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    const fn of(amount: CeilingAmount) -> Self {
        Self {
            amount,
            model: None,
            provider: None,
            tier: Tier::Standard,
        }
    }

    /// All tokens together; none for a ceiling in dollars.
    #[must_use]
    pub const fn total_tokens(&self) -> u64 {
        match self.amount {
            CeilingAmount::Tokens(tokens) => tokens,
            CeilingAmount::InOut { input, output } => input.saturating_add(output),
            CeilingAmount::Usd(_) => 0,
        }
    }
}
