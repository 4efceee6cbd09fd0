//! The pure parts: prices, ceilings, windows, reasons.

mod abandoned;
mod raised;

use std::time::Duration;

use proptest::prelude::*;

use super::amount::{Amount, Calls, Tokens};
use super::budget::{Budget, OnLimit};
use super::engine::{refusal, split};
use super::error::CostError;
use super::price::{NoPrice, Price, Prices};
use super::store::{Admission, Raise, WindowState};
use super::window::{Ring, Rolling, UtcMonth, Window};
use crate::error::ErrorKind;
use crate::ids::{AgentId, BudgetName, ModelName, SessionId};
use crate::money::Usd;
use crate::time::Timestamp;
use crate::usage::{Ceiling, Tier, Usage};

fn now() -> Timestamp {
    Timestamp::parse("2026-11-21T12:00:00Z").unwrap()
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).unwrap()
}

fn list(name: &str, usage: &Usage) -> Result<i64, NoPrice> {
    Prices::bundled()
        .of_usage(&model(name), None, now(), usage)
        .map(Usd::as_nanos)
}

#[test]
fn list_prices_are_the_providers() {
    for (name, usage, nanos) in [
        ("gpt-4o-mini", Usage::tokens(1_000, 100), 150_000 + 60_000),
        (
            "gpt-5",
            Usage::tokens(1_000, 100).cached(1_000),
            125_000 + 1_000_000,
        ),
        (
            "gpt-5",
            Usage::tokens(1_000, 100).tier(Tier::Batch),
            1_125_000,
        ),
        (
            "gpt-5",
            Usage::tokens(1_000, 100).tier(Tier::Flex),
            1_125_000,
        ),
        (
            "gpt-5",
            Usage::tokens(1_000, 100).tier(Tier::Priority),
            4_500_000,
        ),
        ("claude-sonnet-4-5", Usage::tokens(1_000, 100), 4_500_000),
        // Above 200,000 tokens of input, the whole request is dearer.
        (
            "claude-sonnet-4-5",
            Usage::tokens(200_001, 100),
            200_001 * 6_000 + 100 * 22_500,
        ),
    ] {
        // Floating point may be one over before ten are added.
        let price = list(name, &usage).unwrap();
        assert!((nanos + 10..=nanos + 11).contains(&price), "{name} {price}");
    }
    let written = Usage {
        cache_write_tokens: 1_000,
        ..Usage::tokens(1_000, 0)
    };
    assert_eq!(list("claude-sonnet-4-5", &written), Ok(3_750_010));
    // Reasoning is a part of the output, and billed as such.
    let reasoned = Usage {
        reasoning_tokens: 90,
        ..Usage::tokens(0, 100)
    };
    assert_eq!(
        list("gpt-5", &reasoned),
        list("gpt-5", &Usage::tokens(0, 100))
    );
}

#[test]
fn what_the_list_does_not_price_is_unknown_and_never_free() {
    let usage = Usage::tokens(1_000, 100);
    for name in ["no-such-model", "gpt-99-turbo"] {
        assert_eq!(list(name, &usage), Err(NoPrice::Unknown), "{name}");
    }
    // Known, and part of a subscription: the list has no price for its tokens.
    let at =
        |provider| Prices::bundled().of_usage(&model("gpt-4o-mini"), Some(provider), now(), &usage);
    assert_eq!(at("github-copilot"), Err(NoPrice::Unknown));
    assert_eq!(at("nobody"), Err(NoPrice::Unknown));
    // A tier that the list does not know must not be billed as the cheaper standard one.
    let priority = usage.tier(Tier::Priority);
    assert_eq!(list("claude-sonnet-4-5", &priority), Err(NoPrice::Unknown));
    let huge = Usage::tokens(u64::MAX, 0);
    assert_eq!(list("gpt-5", &huge), Err(NoPrice::TooLarge));
    assert_eq!(list("gpt-5", &Usage::default()), Ok(0));
}

#[test]
fn overrides_come_first_and_are_exact() {
    let ours = model("gpt-5");
    let price = Price::per_million(Usd::nanos(1), Usd::dollars(8)).cached(Usd::ZERO);
    let prices = Prices::bundled().with(&ours, price);
    let of = |usage: Usage| prices.of_usage(&ours, None, now(), &usage);
    assert_eq!(of(Usage::tokens(1, 0)), Ok(Usd::nanos(1)), "rounded up");
    assert_eq!(of(Usage::tokens(9, 1).cached(9)), Ok(Usd::nanos(8_000)));
    let negative = Prices::bundled().with(&ours, Price::per_million(Usd::nanos(-1), Usd::ZERO));
    let refused = negative.of_usage(&ours, None, now(), &Usage::tokens(1, 1));
    assert_eq!(refused, Err(NoPrice::Invalid));
}

#[test]
fn a_ceiling_reserves_for_the_cache_to_be_written() {
    let sonnet = model("claude-sonnet-4-5");
    let ceiling = Ceiling::in_out(1_000, 100).of_model(&sonnet);
    let price = Prices::bundled()
        .of_ceiling(&sonnet, &ceiling, now())
        .unwrap();
    assert!(price >= Usd::nanos(3_750_000 + 1_500_000), "{price}");
    assert!(price < Usd::nanos(3_750_000 + 1_500_000 + 100), "{price}");
    let either = Ceiling::tokens(1_000).of_model(&sonnet);
    let price = Prices::bundled()
        .of_ceiling(&sonnet, &either, now())
        .unwrap();
    assert!(price >= Usd::nanos(15_000_000) && price < Usd::nanos(15_000_100));
}

#[test]
fn a_ceiling_reserves_for_everything_to_be_audio() {
    let audio = model("gpt-audio");
    let ceiling = Ceiling::in_out(1_000, 1_000).of_model(&audio);
    let price = Prices::bundled()
        .of_ceiling(&audio, &ceiling, now())
        .unwrap();
    let dearest = Usd::nanos(1_000 * (32_000 + 64_000));
    assert!(
        price >= dearest && price < dearest.saturating_add(Usd::nanos(100)),
        "{price}"
    );
    // A model without a price for audio is reserved for as before.
    let mini = model("gpt-4o-mini");
    let ceiling = Ceiling::in_out(1_000, 1_000).of_model(&mini);
    let price = Prices::bundled().of_ceiling(&mini, &ceiling, now());
    assert!(price.unwrap() < Usd::nanos(750_100));
}

#[test]
fn the_dearer_tier_is_the_larger_one() {
    let of = |tier| Usage::tokens(1, 1).tier(tier);
    let tiers = [Tier::Batch, Tier::Flex, Tier::Standard, Tier::Priority];
    for (at, one) in tiers.into_iter().enumerate() {
        for (to, other) in tiers.into_iter().enumerate() {
            let dearer = tiers[at.max(to)];
            assert_eq!(of(one).max(of(other)).tier, dearer, "{one:?} {other:?}");
        }
    }
}

fn state() -> WindowState {
    WindowState {
        budget: BudgetName::parse("b").unwrap(),
        window: Window::Day(now().utc_day()),
        open: true,
        allows: true,
        on_limit: OnLimit::Refuse,
        asked_usd: Some(Usd::cents(10)),
        usd_limit: Some(Usd::dollars(1)),
        token_limit: Some(100),
        call_limit: None,
        raised: Raise::default(),
        seconds_limit: None,
        taken_usd: Usd::cents(85),
        taken_tokens: 90,
        taken_calls: 7,
        first_at: None,
        rings: None,
        at: now(),
    }
}

fn why(windows: &[WindowState], tokens: u64) -> Option<CostError> {
    let admission = Admission {
        admitted: false,
        windows: windows.to_vec(),
    };
    refusal(&admission, true, tokens)
}

#[test]
fn refusals_say_which_limit_and_when_to_try_again() {
    let base = state();
    let Some(CostError::Exceeded {
        left, retry_after, ..
    }) = why(std::slice::from_ref(&base), 20)
    else {
        panic!("the tokens do not fit");
    };
    assert_eq!(left, Amount::Tokens(Tokens(10)));
    assert_eq!(retry_after, Some(Duration::from_hours(12)));
    assert_eq!(why(std::slice::from_ref(&base), 10), None, "it fits");
    // Never: the ceiling is above the limit.
    assert_eq!(
        why(std::slice::from_ref(&base), 101).unwrap().retry_after(),
        None
    );
    let dear = WindowState {
        asked_usd: Some(Usd::cents(16)),
        ..base.clone()
    };
    assert!(matches!(
        why(&[dear], 1),
        Some(CostError::Exceeded { left: Amount::Usd(left), .. }) if left == Usd::cents(15)
    ));
    let unpriced = WindowState {
        asked_usd: None,
        ..base.clone()
    };
    assert_eq!(why(&[unpriced], 1), Some(CostError::UnknownModel));
    let late = WindowState {
        seconds_limit: Some(60),
        first_at: Some(now().minus(Duration::from_mins(1))),
        ..base.clone()
    };
    assert!(matches!(
        why(&[late], 1),
        Some(CostError::SessionTooLong { .. })
    ));
    let only_restricts = WindowState {
        allows: false,
        ..base
    };
    for none in [&[][..], &[only_restricts]] {
        let error = why(none, 1).unwrap();
        assert_eq!(
            (&error, error.kind()),
            (&CostError::NoBudget, ErrorKind::Denied)
        );
    }
}

#[test]
fn of_several_limits_the_one_that_lasts_longest_is_named() {
    let day = state();
    let month = WindowState {
        budget: BudgetName::parse("m").unwrap(),
        window: Window::Month(UtcMonth::from(now())),
        ..state()
    };
    let error = why(&[day.clone(), month.clone()], 20).unwrap();
    assert!(matches!(
        &error,
        CostError::Exceeded { budget, window: Window::Month(_), .. } if budget.as_str() == "m"
    ));
    let next = Timestamp::parse("2026-12-01T00:00:00Z").unwrap();
    assert_eq!(error.retry_after(), Some(next.since(now())));
    // What was raised for this day only does not help tomorrow.
    let raised = WindowState {
        raised: Raise {
            tokens: 90,
            ..Raise::default()
        },
        ..day.clone()
    };
    assert_eq!(why(&[raised], 20).unwrap().retry_after(), None);
    // A person is asked only where every limit that is in the way asks.
    let asks = WindowState {
        on_limit: OnLimit::Ask,
        ..month
    };
    assert!(matches!(
        why(&[day, asks.clone()], 20),
        Some(CostError::Exceeded { budget, .. }) if budget.as_str() == "b"
    ));
    let both = WindowState {
        asked_usd: Some(Usd::cents(20)),
        ..asks.clone()
    };
    let Some(CostError::NeedsApproval { raise, .. }) = why(&[both], 20) else {
        panic!("a person is to be asked");
    };
    let missing: Vec<Amount> = raise.missing().map(|(_, _, amount)| amount).collect();
    assert_eq!(
        missing,
        [Amount::Usd(Usd::cents(5)), Amount::Tokens(Tokens(10))]
    );
    // Nothing is in the way where passing the limit is only told.
    let warns = WindowState {
        on_limit: OnLimit::Warn,
        ..asks
    };
    assert_eq!(why(&[warns], 1_000), None);
}

#[test]
fn a_rolling_window_is_free_again_when_enough_has_left_it() {
    let minute = Rolling::MINUTE;
    let at = now().as_micros() / 1_000_000;
    let mut slots = vec![0; 61];
    let slot = |second: i64| usize::try_from(second.rem_euclid(61)).unwrap();
    slots[slot(at - 50)] = 3;
    slots[slot(at - 20)] = 5;
    let ring = Ring {
        at,
        stretch_micros: minute.stretch_micros(),
        slots,
    };
    assert_eq!(ring.frees(3, now()), Some(Duration::from_secs(11)));
    assert_eq!(ring.frees(4, now()), Some(Duration::from_secs(41)));
    assert_eq!(ring.frees(9, now()), None);
    let full = WindowState {
        window: Window::Rolling(minute),
        call_limit: Some(8),
        taken_calls: 8,
        rings: Some([Ring::default(), Ring::default(), ring]),
        ..state()
    };
    let error = why(&[full], 1).unwrap();
    assert!(matches!(
        error,
        CostError::Exceeded {
            limit: Amount::Calls(Calls(8)),
            ..
        }
    ));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(11)));
    assert!(error.to_string().contains("last 1 minute"), "{error}");
}

#[test]
fn a_default_name_that_would_be_too_long_is_refused() {
    let agent = AgentId::parse("a".repeat(256)).unwrap();
    let error = Budget::for_agent(agent).per_day(Tokens(1)).validate();
    assert!(matches!(
        error,
        Err(CostError::InvalidBudget { field: "name", .. })
    ));
}

prop_compose! {
    fn any_usage()(
        input in 0..400_000_u64, output in 0..100_000_u64,
        cached in 0..500_000_u64, written in 0..500_000_u64, reasoning in 0..150_000_u64,
    ) -> Usage {
        Usage {
            cached_input_tokens: cached,
            cache_write_tokens: written,
            reasoning_tokens: reasoning,
            ..Usage::tokens(input, output)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn usage_becomes_consistent_and_never_less(usage in any_usage()) {
        let clean = usage.consistent();
        prop_assert!(clean.cached_input_tokens + clean.cache_write_tokens <= clean.input_tokens);
        prop_assert!(clean.reasoning_tokens <= clean.output_tokens);
        prop_assert!(clean.input_tokens >= usage.input_tokens);
        prop_assert!(clean.output_tokens >= usage.output_tokens);
        prop_assert_eq!(clean.consistent(), clean);
    }

    #[test]
    fn any_usage_of_a_known_model_has_a_price_and_more_of_it_costs_more(
        usage in any_usage(), more in 0..100_000_u64,
    ) {
        for name in ["gpt-5", "claude-sonnet-4-5", "gemini-2.5-flash"] {
            // Where the parts are within the whole, more tokens never cost less.
            let usage = usage.consistent();
            let larger = Usage {
                input_tokens: usage.input_tokens + more,
                output_tokens: usage.output_tokens + more,
                ..usage
            };
            let (less, greater) = (list(name, &usage), list(name, &larger));
            prop_assert!(less.is_ok(), "{name} {usage:?} {less:?}");
            prop_assert!(less.unwrap() <= greater.unwrap(), "{name} {usage:?} {less:?} {greater:?}");
        }
    }

    #[test]
    fn no_text_call_costs_more_than_its_ceiling(usage in any_usage(), slack in 0..1_000_u64) {
        for name in ["gpt-5", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash"] {
            let usage = usage.consistent();
            let name = model(name);
            let prices = Prices::bundled();
            let paid = prices.of_usage(&name, None, now(), &usage).unwrap();
            for ceiling in [
                Ceiling::in_out(usage.input_tokens + slack, usage.output_tokens + slack),
                Ceiling::tokens(usage.total_tokens() + slack),
            ] {
                let reserved = prices.of_ceiling(&name, &ceiling, now()).unwrap();
                prop_assert!(paid <= reserved, "{name} {usage:?} {ceiling:?} {paid} {reserved}");
            }
        }
    }

    #[test]
    fn no_call_with_audio_costs_more_than_its_ceiling(
        usage in any_usage(), heard in 0..400_000_u64, spoken in 0..100_000_u64,
    ) {
        for name in ["gpt-audio", "gpt-realtime", "gpt-4o-transcribe", "gemini-2.5-flash"] {
            let usage = (Usage {
                input_audio_tokens: heard,
                output_audio_tokens: spoken,
                cache_write_tokens: 0,
                ..usage
            })
            .consistent();
            let name = model(name);
            let prices = Prices::bundled();
            // What cannot be priced stays charged at its ceiling.
            let Ok(paid) = prices.of_usage(&name, None, now(), &usage) else { continue };
            for ceiling in [
                Ceiling::in_out(usage.input_tokens, usage.output_tokens),
                Ceiling::tokens(usage.total_tokens()),
            ] {
                let reserved = prices.of_ceiling(&name, &ceiling, now()).unwrap();
                prop_assert!(paid <= reserved, "{name} {usage:?} {ceiling:?} {paid} {reserved}");
            }
        }
    }

    #[test]
    fn a_day_ends_at_the_next_midnight(micros in 0..4_000_000_000_000_000_i64) {
        let at = Timestamp::from_micros(micros);
        let day = at.utc_day();
        let wait = Window::Day(day).ends_in(at).unwrap();
        prop_assert!(wait > Duration::ZERO && wait <= Duration::from_hours(24));
        prop_assert_eq!(at.plus(wait), day.next().start());
        prop_assert_eq!(at.plus(wait).utc_day(), day.next());
        prop_assert_eq!(Window::Session(SessionId::new()).ends_in(at), None);
        let month = UtcMonth::from(at);
        let wait = Window::Month(month).ends_in(at).unwrap();
        prop_assert!(month.start() <= at && at < month.next().start());
        prop_assert_eq!(UtcMonth::from(at.plus(wait)), month.next());
        prop_assert!(at.to_string().starts_with(&month.to_string()));
    }

    #[test]
    fn a_ceiling_is_taken_apart_without_losing_a_token(input in any::<u64>(), output in any::<u64>()) {
        match split(&Ceiling::in_out(input, output)) {
            Ok(split) => {
                prop_assert_eq!((split.input, split.output, split.either), (input, output, 0));
                prop_assert!(i64::try_from(input + output).is_ok());
            }
            Err(error) => {
                let total = u128::from(input) + u128::from(output);
                prop_assert!(total == 0 || total > u128::from(i64::MAX.unsigned_abs()));
                prop_assert_eq!(error.kind(), ErrorKind::Misuse);
            }
        }
    }
}
