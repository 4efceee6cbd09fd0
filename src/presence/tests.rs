//! Heartbeats in memory, and the states, without a database.

use std::sync::Arc;

use proptest::prelude::*;

use super::beats::Beats;
use super::model::{State, Status};
use crate::call::Principal;
use crate::ids::{AgentId, OperatorId, SessionId};

fn principal(n: usize) -> Principal {
    let agent = AgentId::parse(format!("agent-{n}")).unwrap();
    Principal::agent(agent).session(SessionId::parse("s").unwrap())
}

fn only(beats: &Beats) -> super::beats::Beat {
    let taken = beats.drain();
    let batch = taken.batch(10);
    assert_eq!(batch.len(), 1);
    batch[0].1.clone()
}

#[test]
fn what_others_say_of_a_session_comes_before_what_it_says_of_itself() {
    for late in [false, true] {
        for halted in [false, true] {
            assert_eq!(State::of(Status::Closed, late, halted), State::Closed);
        }
        assert_eq!(State::of(Status::Live, late, true), State::Halted);
        assert_eq!(State::of(Status::Idle, late, true), State::Halted);
    }
    assert_eq!(State::of(Status::Live, true, false), State::Unresponsive);
    assert_eq!(State::of(Status::Idle, true, false), State::Unresponsive);
    assert_eq!(State::of(Status::Live, false, false), State::Live);
    assert_eq!(State::of(Status::Idle, false, false), State::Idle);
}

#[test]
fn memory_is_bounded_and_what_is_dropped_is_counted() {
    let beats = Beats::new(2);
    for n in 0..5 {
        beats.take(&principal(n), Status::Live, None);
    }
    // Those that wait are still renewed.
    beats.take(&principal(0), Status::Idle, None);
    let stats = beats.stats();
    assert_eq!((stats.waiting, stats.dropped), (2, 3));
}

#[test]
fn what_could_not_be_written_waits_on_behind_what_is_newer() {
    let beats = Beats::new(10);
    let anna = OperatorId::parse("user:anna").unwrap();
    let me = principal(1).operated_by(anna.clone());
    beats.take(&me, Status::Idle, Some(Arc::from(r#"{"v":1}"#)));
    let taken = beats.drain();
    beats.take(&principal(1), Status::Live, None);
    drop(taken);
    let beat = only(&beats);
    assert_eq!(beat.status, Status::Live);
    assert_eq!(beat.metadata.as_deref(), Some(r#"{"v":1}"#));
    assert_eq!(beat.operator, Some(anna));
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![Just(Status::Live), Just(Status::Idle), Just(Status::Closed)]
}

proptest! {
    /// Whatever a session says, and whenever it is written: the end is the end, and until then the last counts.
    #[test]
    fn the_newest_is_kept_and_the_end_is_the_end(
        said in prop::collection::vec((status(), any::<bool>()), 1..20),
    ) {
        let beats = Beats::new(1);
        let mut expected = Status::Live;
        for (n, (status, fails)) in said.into_iter().enumerate() {
            expected = if n == 0 { status } else { expected.then(status) };
            if fails {
                // Being written while the next comes, and failing.
                let taken = beats.drain();
                beats.take(&principal(0), status, None);
                drop(taken);
            } else {
                beats.take(&principal(0), status, None);
            }
        }
        prop_assert_eq!(only(&beats).status, expected);
        prop_assert_eq!(beats.stats().dropped, 0);
    }
}
