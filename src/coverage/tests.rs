use std::time::Duration;

use proptest::prelude::*;

use super::counts::{Counts, Name, Seen};
use super::model::{HostDigest, InvalidWrapped, QUARTER_MICROS, Window, Wrapped};
use crate::time::Timestamp;

fn name(host: u8) -> Name {
    let client = Wrapped::new("openai", "api.example.com").unwrap();
    Name::new(&client, HostDigest::new([host; 32]))
}

fn at(quarter: i64) -> Timestamp {
    Timestamp::from_micros(quarter * QUARTER_MICROS + 7)
}

#[test]
fn one_host_has_one_name_and_what_is_none_is_refused_without_being_repeated() {
    let plain = Wrapped::new("openai", "api.example.com").unwrap();
    for same in ["API.Example.COM", "api.example.com."] {
        assert_eq!(Wrapped::new("openai", same).unwrap(), plain);
    }
    for other in ["api.example.com:8443", "example.com", "[::1]:80"] {
        assert_ne!(Wrapped::new("openai", other).unwrap(), plain);
    }
    let long = "h".repeat(260);
    for bad in [
        "",
        ".",
        "https://api.example.com",
        "me:secret@api.example.com",
        "api.example.com/v1",
        "a b",
        "bücher.example",
        &long,
    ] {
        let error = Wrapped::new("openai", bad).unwrap_err();
        assert_eq!(error, InvalidWrapped::Host, "{bad}");
        assert!(bad.len() < 3 || !error.to_string().contains(bad));
    }
    for bad in ["", "OpenAI", "open ai", &"k".repeat(65)] {
        assert_eq!(Wrapped::new(bad, "x"), Err(InvalidWrapped::Kind), "{bad}");
    }
    assert!(!format!("{plain:?}").contains("example"));
}

#[test]
fn a_window_is_whole_quarters_of_an_hour() {
    let quarter = |n: i64| Timestamp::from_micros(n * QUARTER_MICROS);
    let window = Window::between(quarter(3), quarter(5)).unwrap();
    assert_eq!((window.from(), window.to()), (quarter(3), quarter(5)));
    for (from, to) in [
        (quarter(3), quarter(3)),
        (quarter(5), quarter(3)),
        (at(3), quarter(5)),
        (quarter(3), at(5)),
    ] {
        assert!(Window::between(from, to).is_err());
    }
    let day = Window::day(at(0).utc_day());
    assert_eq!(day.to().since(day.from()), Duration::from_hours(24));
}

#[test]
fn a_sealed_batch_is_sent_again_as_it_was_and_later_counts_wait_for_the_next() {
    let mut counts = Counts::default();
    assert!(counts.seal(at(0)).is_none());
    counts.wrapped(&name(1), at(0));
    counts.called(&name(1), at(0));
    let first = counts.seal(at(0)).unwrap();
    counts.called(&name(1), at(0));
    let again = counts.seal(at(9)).unwrap();
    assert_eq!(first, again);
    assert_eq!((again.number, again.sealed_at), (1, at(0)));
    assert_eq!(again.seen.values().map(Seen::total).sum::<u64>(), 1);

    counts.written(&first);
    let second = counts.seal(at(9)).unwrap();
    assert_eq!(second.number, 2);
    assert_eq!(second.seen.values().map(Seen::total).sum::<u64>(), 1);
    counts.written(&first);
    assert!(!counts.is_empty(), "an old answer ends no new batch");
    counts.written(&second);
    assert!(counts.is_empty());
    assert_eq!((counts.known(), counts.uncounted()), (1, 0));
}

#[test]
fn a_batch_that_is_given_up_is_counted_as_missing() {
    let mut counts = Counts::default();
    counts.called(&name(1), at(0));
    counts.called(&name(1), at(1));
    let batch = counts.seal(at(0)).unwrap();
    counts.give_up(&batch);
    assert!(counts.is_empty());
    assert_eq!(counts.uncounted(), 2);
}

#[test]
fn memory_is_bounded_and_what_finds_no_room_is_counted_as_missing() {
    let mut counts = Counts::default();
    let quarters = 10_100;
    for quarter in 0..quarters {
        counts.called(&name(1), at(quarter));
    }
    assert_eq!(counts.waiting(), 10_000);
    counts.called(&name(2), at(0));
    // What has a row goes on being counted.
    counts.called(&name(1), at(0));
    let total: u64 = counts
        .seal(at(0))
        .unwrap()
        .seen
        .values()
        .map(Seen::total)
        .sum();
    assert_eq!(total + counts.uncounted(), quarters.unsigned_abs() + 2);
    assert_eq!(counts.uncounted(), 102);
}

#[derive(Clone, Debug)]
enum Step {
    Call(u8, i64),
    Seal,
    Arrived,
}

proptest! {
    /// Whatever order calls, batches and answers come in, each call is in one batch, in its quarter.
    #[test]
    fn every_call_is_in_one_batch(steps in proptest::collection::vec(prop_oneof![
        4 => (0_u8..3, 0_i64..4).prop_map(|(host, quarter)| Step::Call(host, quarter)),
        1 => Just(Step::Seal),
        1 => Just(Step::Arrived),
    ], 0..60)) {
        let mut counts = Counts::default();
        let mut calls = Vec::new();
        let mut batches = std::collections::BTreeMap::new();
        for step in steps.into_iter().chain([Step::Arrived, Step::Arrived]) {
            match step {
                Step::Call(host, quarter) => {
                    counts.called(&name(host), at(quarter));
                    calls.push((host, quarter));
                }
                Step::Seal => drop(counts.seal(at(0))),
                Step::Arrived => if let Some(batch) = counts.seal(at(0)) {
                    counts.written(&batch);
                    batches.insert(batch.number, batch);
                },
            }
        }
        let mut arrived = Vec::new();
        for batch in batches.values() {
            for (name, seen) in &batch.seen {
                for (quarter, n) in &seen.calls {
                    let call = (name.host.as_bytes()[0], quarter.as_micros() / QUARTER_MICROS);
                    arrived.extend(std::iter::repeat_n(call, usize::try_from(*n).unwrap()));
                }
            }
        }
        calls.sort_unstable();
        arrived.sort_unstable();
        prop_assert_eq!(calls, arrived);
    }
}
