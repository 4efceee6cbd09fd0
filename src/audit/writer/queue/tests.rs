//! The queue by itself: no database, and the clock stands still until a test moves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    BATCH, CAPACITY, EXTRA_IDLE, FOUR_LANES, FOUR_LANES_ON_TWO_CORES, Group, LAST_IDLE, Pushed,
    Queue, TWO_LANES,
};
use crate::audit::AuditError;
use crate::audit::model::Sealed;

/// One event of one caller, who does not wait.
async fn push(queue: &Queue) -> Pushed {
    queue.wait_for_room().await.unwrap();
    let sealed = Arc::new(Sealed::new(vec![draft()]));
    queue
        .push(Group::new(sealed, Instant::now(), None))
        .unwrap()
}

fn draft() -> crate::audit::model::Draft {
    use crate::audit::keys::{AuditKeys, Purpose};
    use crate::audit::{AuditEvent, Kind};
    let keys = AuditKeys::single(crate::secret::Secret::generate().unwrap());
    let key = keys.derive(&crate::ids::TenantId::single(), Purpose::Content);
    AuditEvent::system(None, Kind::ChainGenesis)
        .seal(crate::time::Timestamp::MIN, &key)
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_finds_the_queue_full_waits_and_is_told_so() {
    let queue = Queue::new(8);
    for _ in 0..CAPACITY {
        let _ = push(&queue).await;
    }
    assert!(matches!(queue.try_room(), Err(AuditError::Overloaded)));
    let waiting = tokio::time::timeout(Duration::from_secs(1), queue.wait_for_room()).await;
    assert!(waiting.is_err(), "there is no room");
    // A lane takes its share, and there is room again.
    let share = queue.next(false).await.unwrap();
    assert!(!share.groups.is_empty());
    queue.try_room().unwrap();
}

#[tokio::test(start_paused = true)]
async fn lanes_are_started_as_the_load_grows_and_no_more_than_four() {
    let queue = Queue::new(8);
    let mut started = Vec::new();
    for n in 1..=FOUR_LANES * 4 {
        if push(&queue).await == Pushed::StartLane {
            started.push(n);
        }
        // Each lane that was started is at work.
        while let Ok(Some(share)) = tokio::time::timeout(Duration::ZERO, queue.next(false)).await {
            if share.start_lane {
                started.push(n);
            }
        }
    }
    assert_eq!(started, [1, TWO_LANES, FOUR_LANES, FOUR_LANES]);
}

#[tokio::test(start_paused = true)]
async fn where_two_lanes_have_all_cores_there_are_four_for_large_batches_only() {
    let queue = Queue::new(2);
    let mut lanes = 0;
    for _ in 1..FOUR_LANES_ON_TWO_CORES {
        lanes += usize::from(push(&queue).await == Pushed::StartLane);
        while let Ok(Some(share)) = tokio::time::timeout(Duration::ZERO, queue.next(false)).await {
            lanes += usize::from(share.start_lane);
        }
    }
    assert_eq!(lanes, 2);
    assert_eq!(push(&queue).await, Pushed::StartLane);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_never_larger_than_a_thousand_events() {
    let queue = Queue::new(8);
    for _ in 0..BATCH * 5 {
        let _ = push(&queue).await;
    }
    let share = queue.next(false).await.unwrap();
    assert!(share.events <= BATCH, "{}", share.events);
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_ends_after_its_time_and_the_last_one_later() {
    let queue = Queue::new(8);
    assert_eq!(push(&queue).await, Pushed::StartLane);
    let share = queue.next(false).await.unwrap();
    queue.answered(share.events);
    queue.done(0);
    let began = Instant::now();
    assert!(queue.next(false).await.is_none(), "nothing more comes");
    assert_eq!(began.elapsed(), LAST_IDLE);

    // Two lanes: the one that is not needed goes first.
    let queue = Queue::new(8);
    for _ in 0..TWO_LANES {
        let _ = push(&queue).await;
    }
    let shares = [
        queue.next(false).await.unwrap(),
        queue.next(false).await.unwrap(),
    ];
    assert_eq!(shares[0].events + shares[1].events, TWO_LANES);
    for share in shares {
        queue.done(share.events);
    }
    let began = Instant::now();
    assert!(queue.next(false).await.is_none());
    assert_eq!(began.elapsed(), EXTRA_IDLE);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_to_an_idle_lane_is_taken_at_once() {
    let queue = Queue::new(8);
    assert_eq!(push(&queue).await, Pushed::StartLane);
    let share = queue.next(false).await.unwrap();
    queue.answered(share.events);
    queue.done(0);
    let began = Instant::now();
    let (share, pushed) = tokio::join!(queue.next(false), async {
        tokio::time::sleep(LAST_IDLE / 2).await;
        push(&queue).await
    });
    assert_eq!((share.unwrap().events, pushed), (1, Pushed::Taken));
    assert_eq!(began.elapsed(), LAST_IDLE / 2);
}
