use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::engine::{Found, Pattern, Place, judge, poll, victim};
use super::fingerprint::Fingerprint;
use super::model::{LoopAction, LoopPolicy, Poller, Rule, WhenAway};
use super::ring::{REMEMBERED, Ring, Seen};
use super::windows::{Verdict, Windows};
use crate::call::Principal;
use crate::ids::{AgentId, SessionId};

const SECOND: i64 = 1_000_000;

fn agent(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn policy() -> LoopPolicy {
    LoopPolicy::for_any_agent()
}

fn rule(policy: &LoopPolicy) -> Rule {
    policy.compile().unwrap()
}

fn seen(call: u64, result: u64, at: i64) -> Seen {
    Seen {
        call,
        result,
        at,
        ..Seen::default()
    }
}

/// Calls a second apart, each judged as it comes; the first loop that was found.
fn first_found(rule: &Rule, calls: &[(u64, u64)]) -> Option<(usize, Pattern)> {
    let mut ring = Ring::new();
    for (nth, (call, result)) in calls.iter().enumerate() {
        let at = i64::try_from(nth).unwrap();
        ring.push(seen(*call, *result, at));
        if let Some(found) = judge(rule, 1, None, &ring, at) {
            return Some((nth, found.pattern));
        }
    }
    None
}

fn unknown(calls: &[u64]) -> Vec<(u64, u64)> {
    calls.iter().map(|call| (*call, 0)).collect()
}

#[test]
fn the_fifth_of_a_kind_is_a_repetition_and_the_fourth_is_none() {
    let found = first_found(&rule(&policy()), &unknown(&[7, 7, 7, 7, 7]));
    assert_eq!(found, Some((4, Pattern::Repetition { times: 5 })));
    assert_eq!(first_found(&rule(&policy()), &unknown(&[7, 7, 7, 7])), None);
}

#[test]
fn results_that_differ_are_progress_until_it_is_too_often() {
    let changing: Vec<_> = (1..=30).map(|result| (7, result)).collect();
    let found = first_found(&rule(&policy()), &changing);
    assert_eq!(found, Some((19, Pattern::Changing { times: 20 })));
    let stuck = [(7, 1), (7, 2), (7, 3), (7, 3), (7, 3), (7, 3), (7, 3)];
    let found = first_found(&rule(&policy()), &stuck);
    assert_eq!(found, Some((6, Pattern::Repetition { times: 5 })));
    // A round is one while what comes of its steps is the same.
    let round = [
        (1, 1),
        (2, 1),
        (1, 2),
        (2, 1),
        (1, 3),
        (2, 1),
        (1, 4),
        (2, 1),
    ];
    assert_eq!(first_found(&rule(&policy()), &round), None);
}

#[test]
fn a_ping_pong_is_found_the_third_time_around_wherever_it_is_entered() {
    let found = first_found(&rule(&policy()), &unknown(&[9, 1, 2, 1, 2, 1, 2]));
    let cycle = Pattern::Cycle {
        length: 2,
        rounds: 3,
    };
    assert_eq!(found, Some((6, cycle)));
    // With another call in it, it is none.
    let broken = unknown(&[1, 2, 1, 2, 9, 1, 2]);
    assert_eq!(first_found(&rule(&policy()), &broken), None);
}

#[test]
fn one_call_again_and_again_is_no_round() {
    let rule = rule(&policy().repeats(10).changing_repeats(20));
    assert_eq!(first_found(&rule, &unknown(&[7; 9])), None);
}

#[test]
fn calls_longer_ago_than_the_window_do_not_count() {
    let rule = rule(&policy().window(Duration::from_mins(1)));
    let mut ring = Ring::new();
    for nth in 0..20 {
        let at = nth * 16 * SECOND;
        ring.push(seen(7, 0, at));
        assert_eq!(judge(&rule, 1, None, &ring, at), None, "four a minute");
    }
}

#[test]
fn it_says_when_the_same_call_is_possible_again() {
    let rule = rule(&policy().repeats(3));
    let mut ring = Ring::new();
    for at in [0, 10, 20] {
        ring.push(seen(7, 0, at * SECOND));
    }
    let found = judge(&rule, 1, None, &ring, 20 * SECOND).unwrap();
    assert_eq!(found.clears_at, 70 * SECOND, "when that of 10 s is gone");
    let at = found.clears_at;
    ring.push(seen(7, 0, at));
    assert_eq!(judge(&rule, 1, None, &ring, at), None);
}

#[test]
fn a_poller_may_ask_while_what_it_hears_changes_and_is_no_part_of_a_round() {
    let rule = rule(&policy().poller("Get_Status", Poller::WhileChanging));
    let mut ring = Ring::new();
    let mut ask = |result| {
        ring.push(Seen {
            polls: 1,
            ..seen(7, result, 0)
        });
        let found = judge(&rule, 1, Some(Poller::WhileChanging), &ring, 0);
        ring.push(seen(8, result, 0));
        (found, judge(&rule, 1, None, &ring, 0))
    };
    for result in 1..60 {
        let (asked, worked) = ask(result);
        assert_eq!(asked, None);
        if result < 20 {
            assert_eq!(worked, None, "no round with a poller in it");
        }
    }
    let asked: Vec<_> = (0..5).map(|_| ask(99).0.is_some()).collect();
    assert_eq!(asked, [false, false, false, false, true]);
    assert_eq!(rule.poller("get_status").map(|(at, _)| at), Some(0));
}

#[test]
fn a_bucket_gives_what_it_holds_and_then_fills_evenly() {
    let mut full_at = 0;
    let (most, per) = (5, 10 * SECOND);
    for _ in 0..5 {
        assert_eq!(poll(&mut full_at, most, per, 0), Ok(()));
    }
    assert_eq!(poll(&mut full_at, most, per, 0), Err(2 * SECOND));
    assert_eq!(poll(&mut full_at, most, per, 2 * SECOND), Ok(()));
    assert_eq!(poll(&mut full_at, most, per, 2 * SECOND), Err(4 * SECOND));
    // The clock is put back by a year: nobody waits for longer than a bucket takes.
    let past = -31_536_000 * SECOND;
    assert_eq!(poll(&mut full_at, most, per, past), Err(past + 2 * SECOND));
}

#[test]
fn a_policy_that_cannot_be_is_refused_by_the_name_of_the_setting() {
    for (policy, field) in [
        (policy().window(Duration::ZERO), "window"),
        (policy().window(Duration::from_secs(86_401)), "window"),
        (policy().repeats(1), "repeats"),
        (policy().repeats(129), "repeats"),
        (policy().changing_repeats(4), "changing_repeats"),
        (policy().cycle_len(0), "cycle_len"),
        (policy().cycle_len(17), "cycle_len"),
        (policy().cycle_repeats(1), "cycle_repeats"),
        (policy().cycle_repeats(17), "cycle_repeats"),
        (policy().poller("no name", Poller::WhileChanging), "poller"),
        (
            policy().poller("x", Poller::at_most(0, Duration::from_secs(1))),
            "poller",
        ),
        (
            policy().poller("x", Poller::at_most(1, Duration::ZERO)),
            "poller",
        ),
    ] {
        assert_eq!(policy.compile().unwrap_err().field, field);
    }
}

#[test]
fn a_policy_is_read_back_as_it_was_stored() {
    for policy in [
        policy(),
        LoopPolicy::new(agent("a"))
            .window(Duration::from_millis(1_500))
            .repeats(3)
            .cycle_len(4)
            .action(LoopAction::Halt)
            .poller("a", Poller::WhileChanging)
            .poller("b", Poller::at_most(3, Duration::from_secs(9)))
            .shared(WhenAway::Refuse),
    ] {
        let text = policy.document();
        assert_eq!(LoopPolicy::from_document(&text), Ok(policy));
    }
    assert!(LoopPolicy::from_document("{}").is_err());
}

// --- windows

struct Room {
    windows: Windows,
    rule: Rule,
}

impl Room {
    fn new(capacity: usize, policy: &LoopPolicy) -> Self {
        Self {
            windows: Windows::new(capacity),
            rule: rule(policy),
        }
    }

    fn call(&self, who: &Principal, call: u64, at: i64) -> Verdict {
        let call = Fingerprint { tool: "x", call };
        self.windows
            .record(who, call, 0, [Some(&self.rule), None], at)
    }
}

fn session(nth: usize) -> Principal {
    let session = SessionId::parse(format!("s{nth}")).unwrap();
    Principal::agent(agent("a")).session(session)
}

#[test]
fn memory_is_bounded_and_what_is_out_of_time_goes_first() {
    let room = Room::new(256, &policy());
    let capacity = room.windows.capacity();
    for nth in 0..10_000 {
        room.call(&session(nth), 1, i64::try_from(nth).unwrap() * SECOND);
        assert!(room.windows.len() <= capacity);
    }
    assert_eq!(room.windows.crowded(), 0);
    assert!(room.windows.len() > capacity / 2);
}

#[test]
fn a_looper_is_seen_however_many_sessions_take_turns_with_it() {
    // Three times as many sessions as there are windows, each calling between any two calls of the
    // looper, all in time: the one used longest ago would always be the looper's.
    let room = Room::new(512, &policy().window(Duration::from_hours(1)));
    let looper = session(0);
    let mut found = None;
    let mut at = 0;
    for round in 0..2_000 {
        at += 1;
        if room.call(&looper, 7, at).found.is_some() {
            found = Some(round);
            break;
        }
        for nth in 1..=1_536 {
            at += 1;
            // Each session calls once: none of them comes back.
            room.call(&session(round * 10_000 + nth), 1, at);
        }
    }
    assert!(found.is_some(), "the looper was never seen");
}

#[test]
fn a_window_in_which_a_call_came_back_goes_last_and_that_is_counted() {
    let place = |last_at, expires, repeats| Place {
        last_at,
        expires,
        repeats,
    };
    let active = [place(1, 99, true), place(2, 99, false), place(3, 99, true)];
    for lot in 0..5 {
        assert_eq!(victim(&active, 50, lot), Some((1, false)));
    }
    let expired = [place(9, 60, true), place(8, 40, true), place(7, 45, false)];
    assert_eq!(victim(&expired, 50, 0), Some((2, false)));
    let all = [place(9, 99, true), place(3, 99, true)];
    assert_eq!(victim(&all, 50, 0), Some((1, true)));
    assert_eq!(victim(&[], 50, 0), None);
}

#[test]
fn a_clock_that_is_put_back_hides_nothing_and_holds_nothing_for_ever() {
    let room = Room::new(64, &policy());
    let me = session(0);
    for at in 0..4 {
        assert!(room.call(&me, 7, 3_600 * SECOND + at).found.is_none());
    }
    // An hour back: the four are still known, as calls of now.
    assert!(room.call(&me, 7, 0).found.is_some());
    // And they are gone when a window has passed.
    assert!(room.call(&me, 7, 61 * SECOND).found.is_none());
}

#[test]
fn a_loop_is_new_once_for_all_its_calls_and_again_after_a_pause() {
    let room = Room::new(64, &policy().repeats(2));
    let me = session(0);
    let mut news = 0;
    for at in 0..50 {
        news += usize::from(room.call(&me, 7, at * SECOND).is_new);
        // Between them, others that are none.
        room.call(&me, 1_000 + u64::try_from(at).unwrap(), at * SECOND);
    }
    assert_eq!(news, 1);
    assert!(!room.call(&me, 7, 200 * SECOND).is_new, "cleared: no loop");
    assert!(room.call(&me, 7, 201 * SECOND).is_new, "a new one");
}

#[test]
fn of_two_rules_what_either_finds_counts_and_the_stricter_action_is_taken() {
    let windows = Windows::new(64);
    let strict = rule(&policy().repeats(2).action(LoopAction::Warn));
    let hard = rule(&policy().repeats(4).action(LoopAction::Halt));
    let me = session(0);
    let call = Fingerprint { tool: "x", call: 7 };
    let record = |both| {
        let found = windows.record(&me, call, 0, both, 1).found;
        found.map(|(action, _)| action)
    };
    assert_eq!(record([Some(&strict), Some(&hard)]), None);
    assert_eq!(record([Some(&hard), Some(&strict)]), Some(LoopAction::Warn));
    assert_eq!(record([Some(&strict), Some(&hard)]), Some(LoopAction::Warn));
    assert_eq!(record([Some(&strict), Some(&hard)]), Some(LoopAction::Halt));
    assert_eq!(record([Some(&hard), Some(&strict)]), Some(LoopAction::Halt));
}

#[test]
fn a_poller_of_one_policy_is_none_of_the_other() {
    let windows = Windows::new(64);
    let polls = rule(&policy().poller("x", Poller::at_most(100, Duration::from_secs(1))));
    let strict = rule(&policy());
    let me = session(0);
    let call = Fingerprint { tool: "X", call: 7 };
    for _ in 0..20 {
        assert!(
            windows
                .record(&me, call, 0, [Some(&polls), None], 1)
                .found
                .is_none()
        );
    }
    assert!(
        windows
            .record(&me, call, 0, [Some(&polls), Some(&strict)], 1)
            .found
            .is_some()
    );
}

#[test]
fn once_a_session_is_known_a_check_allocates_nothing() {
    let room = Room::new(64, &policy());
    let me = session(0);
    for nth in 0..200 {
        room.call(&me, nth, 1);
    }
    let info = allocation_counter::measure(|| {
        for nth in 0..100 {
            assert!(room.call(&me, nth, 2).found.is_none());
        }
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn results_come_to_the_first_call_of_which_nobody_has_said_it() {
    let mut ring = Ring::new();
    for at in 0..3 {
        ring.push(seen(7, 0, at));
    }
    assert!(ring.resolve(7, 11) && ring.resolve(7, 12) && !ring.resolve(8, 1));
    let results: Vec<_> = ring.newest_first().map(|seen| seen.result).collect();
    assert_eq!(results, [0, 12, 11]);
}

#[test]
fn what_others_saw_is_replaced_as_a_whole_and_put_in_the_order_of_time() {
    let mut ring = Ring::new();
    ring.push(seen(1, 0, 10));
    ring.push(seen(2, 0, 30));
    let foreign = |call, at| Seen {
        foreign: true,
        ..seen(call, 0, at)
    };
    ring.merge(vec![foreign(8, 20)]);
    ring.merge(vec![foreign(8, 20), foreign(9, 40)]);
    let calls: Vec<_> = ring.newest_first().map(|seen| seen.call).collect();
    assert_eq!(calls, [9, 2, 8, 1]);
    assert!(
        !ring.resolve(8, 1),
        "its result is for its own process to say"
    );
}

// --- properties

/// The decision again, as slowly and plainly as it can be written, over all calls ever made.
fn plain(rule: &Rule, calls: &[(u64, u64)]) -> bool {
    let like = |a: &(u64, u64), b: &(u64, u64)| a.0 == b.0 && (a.1 == b.1 || a.1 == 0 || b.1 == 0);
    let recent: Vec<_> = calls.iter().rev().take(REMEMBERED).copied().collect();
    let newest = recent[0];
    let of_kind: Vec<_> = recent.iter().filter(|call| call.0 == newest.0).collect();
    let result = of_kind
        .iter()
        .map(|call| call.1)
        .find(|result| *result != 0);
    let same = of_kind
        .iter()
        .filter(|call| call.1 == 0 || Some(call.1) == result);
    if same.count() >= rule.repeats || of_kind.len() >= rule.changing_repeats {
        return true;
    }
    (2..=rule.cycle_len).any(|length| {
        let needed = length * rule.cycle_repeats;
        recent.len() >= needed
            && (length..needed).all(|at| like(&recent[at], &recent[at - length]))
            && recent[..length].iter().any(|call| call.0 != newest.0)
    })
}

fn calls(kinds: u64, most: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((1..=kinds, 0..3_u64), 1..most)
}

proptest! {
    #[test]
    fn what_is_found_is_what_the_plain_definition_finds(
        calls in calls(6, 300),
        repeats in 2..12_usize,
        more in 0..20_usize,
        cycle_len in 1..=8_usize,
        rounds in 2..6_usize,
    ) {
        let policy = policy().repeats(repeats).changing_repeats(repeats + more);
        let rule = rule(&policy.cycle_len(cycle_len).cycle_repeats(rounds));
        let mut ring = Ring::new();
        for end in 1..=calls.len() {
            let (call, result) = calls[end - 1];
            ring.push(seen(call, result, 0));
            let found = judge(&rule, 1, None, &ring, 0).is_some();
            prop_assert_eq!(found, plain(&rule, &calls[..end]), "after {} calls", end);
        }
    }

    #[test]
    fn f45_nothing_is_raised_where_no_call_comes_back_often_enough(calls in calls(40, 120)) {
        let rule = rule(&policy());
        let mut times: HashMap<u64, usize> = HashMap::new();
        let calls: Vec<_> = calls
            .into_iter()
            .filter(|(call, _)| {
                let count = times.entry(*call).or_default();
                *count += 1;
                *count < rule.repeats.min(rule.cycle_repeats)
            })
            .collect();
        prop_assert_eq!(first_found(&rule, &calls), None);
    }

    #[test]
    fn every_planted_round_is_found(
        before in proptest::collection::vec(100..200_u64, 0..100),
        round in proptest::collection::vec(1..5_u64, 2..=8),
    ) {
        let rule = rule(&policy().repeats(64).changing_repeats(128));
        let mut calls = before.clone();
        for _ in 0..rule.cycle_repeats {
            calls.extend(&round);
        }
        // A round of one call is a repetition; everything else must be found, at the end at the latest.
        prop_assume!(round.iter().any(|call| *call != round[0]));
        let found = first_found(&rule, &unknown(&calls));
        prop_assert!(found.is_some_and(|(nth, _)| nth >= before.len() || before.len() > 1));
    }

    #[test]
    fn f45_the_order_of_calls_at_once_does_not_matter(
        order in Just((1..=20_u64).collect::<Vec<_>>()).prop_shuffle(),
        again in Just((1..=20_u64).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let rule = rule(&policy());
        prop_assert_eq!(first_found(&rule, &unknown(&order)), None);
        let both: Vec<u64> = order.into_iter().chain(again).collect();
        prop_assert_eq!(first_found(&rule, &unknown(&both)), None);
        // And how often each was made is the same in every order.
        let mut ring = Ring::new();
        for call in &both {
            ring.push(seen(*call, 0, 0));
        }
        for call in 1..=20 {
            prop_assert_eq!(ring.count(call), 2);
        }
    }

    #[test]
    fn a_loop_clears_when_it_says_so(
        gaps in proptest::collection::vec(1..20_i64, 6..20),
        repeats in 2..6_usize,
    ) {
        let rule = rule(&policy().repeats(repeats));
        let mut ring = Ring::new();
        let mut at = 0;
        let mut last: Option<Found> = None;
        for gap in gaps {
            at += gap * SECOND;
            ring.push(seen(7, 0, at));
            last = judge(&rule, 1, None, &ring, at);
        }
        if let Some(found) = last {
            let mut early = ring.clone();
            early.push(seen(7, 0, found.clears_at - 1));
            prop_assert!(judge(&rule, 1, None, &early, found.clears_at - 1).is_some());
            ring.push(seen(7, 0, found.clears_at));
            prop_assert!(judge(&rule, 1, None, &ring, found.clears_at).is_none());
        }
    }
}
