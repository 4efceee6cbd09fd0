//! A slice against its books: never more is taken than was granted, whatever happens in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::slice::{Amounts, NOTHING, STRIPES, Slice};

/// What callers and the keeper do.
#[derive(Clone, Debug)]
enum Step {
    Grant(Amounts),
    Take(Amounts),
    /// Ends the n-th of the calls that are going on, at this cost.
    Settle(usize, Amounts),
    Undo(usize),
    Drain,
}

fn amounts() -> impl Strategy<Value = Amounts> {
    [0_i64..50, 0_i64..50, 0_i64..2]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        amounts().prop_map(Step::Grant),
        amounts().prop_map(Step::Take),
        (0_usize..8, amounts()).prop_map(|(at, cost)| Step::Settle(at, cost)),
        (0_usize..8).prop_map(Step::Undo),
        Just(Step::Drain),
    ]
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}

proptest! {
    /// `granted = free + reserved + settled - over`, after every step; what is admitted fits.
    #[test]
    fn a_slice_never_admits_more_than_it_was_granted(
        steps in prop::collection::vec((0..STRIPES, step()), 0..200),
    ) {
        let slice = Slice::default();
        let (mut granted, mut going_on) = (NOTHING, Vec::<Amounts>::new());
        for (on, step) in steps {
            match step {
                Step::Grant(more) => {
                    slice.give_at(on, &more);
                    add(&mut granted, &more);
                }
                Step::Take(asked) => {
                    let before = slice.free();
                    let fits = before.iter().zip(&asked).all(|(free, asked)| asked <= free);
                    prop_assert_eq!(slice.take_at(on, &asked), fits, "all of it, or nothing");
                    if fits {
                        going_on.push(asked);
                    } else {
                        prop_assert_eq!(slice.free(), before, "undone to the last unit");
                    }
                }
                Step::Settle(at, cost) if at < going_on.len() => {
                    slice.settle_at(on, &going_on.swap_remove(at), &cost);
                }
                Step::Undo(at) if at < going_on.len() => slice.give_at(on, &going_on.swap_remove(at)),
                Step::Drain => {
                    let drained = slice.drain();
                    add(&mut granted, &drained.map(|amount| -amount));
                }
                Step::Settle(..) | Step::Undo(_) => {}
            }
            let (free, spent) = (slice.free(), slice.spent());
            let mut books = free;
            for asked in &going_on {
                add(&mut books, asked);
            }
            add(&mut books, &spent.settled);
            add(&mut books, &spent.over.map(|over| -over));
            prop_assert_eq!(books, granted);
            prop_assert!(free.iter().all(|free| *free >= 0));
        }
    }
}

#[test]
fn callers_on_many_threads_never_take_more_than_is_granted() {
    const THREADS: usize = 8;
    const GRANTED: i64 = 100_000;
    let slice = Arc::new(Slice::default());
    slice.give(&[GRANTED, GRANTED / 2, GRANTED]);
    let reserved: Arc<[AtomicI64; 3]> = Arc::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (slice, reserved) = (Arc::clone(&slice), Arc::clone(&reserved));
            scope.spawn(move || {
                let mut roll = 0x9E37_79B9_7F4A_7C15_u64 + thread as u64;
                for _ in 0..200_000 {
                    roll = roll.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let asked = [
                        1 + (roll >> 40).cast_signed() % 9_000,
                        (roll >> 20).cast_signed() % 5_000,
                        1,
                    ];
                    if !slice.take(&asked) {
                        continue;
                    }
                    for ((reserved, asked), granted) in
                        reserved
                            .iter()
                            .zip(asked)
                            .zip([GRANTED, GRANTED / 2, GRANTED])
                    {
                        let now = reserved.fetch_add(asked, Ordering::SeqCst) + asked;
                        assert!(now <= granted, "{now} of {granted} are reserved");
                    }
                    for (reserved, asked) in reserved.iter().zip(asked) {
                        reserved.fetch_sub(asked, Ordering::SeqCst);
                    }
                    if roll.is_multiple_of(64) {
                        slice.settle(&asked, &[1, 0, 1]);
                    } else {
                        slice.give(&asked);
                    }
                }
            });
        }
    });
    let (free, spent) = (slice.free(), slice.spent());
    assert_eq!(free[0] + spent.settled[0], GRANTED);
    assert_eq!(free[1] + spent.settled[1], GRANTED / 2);
    assert_eq!(spent.over, NOTHING);
    assert_eq!(free[2] + spent.settled[2], GRANTED);
    assert!(spent.settled[2] > 0);
}
