//! Appending while wires break, databases hang, and heads are not where they were left.

use std::collections::HashSet;
use std::time::Duration;

use portcullis::ErrorKind;
use portcullis::audit::{AuditError, Receipt};
use portcullis::store::StoreFault;

use crate::common::proxy::Fault;
use crate::common::trail::{Place as _, append_many, event, trail, wired, writer};

#[tokio::test]
async fn f19_a_lost_acknowledgement_writes_once() {
    let (trail, proxy) = wired(Duration::from_secs(20)).await;
    trail.audit.append(event("app.before")).await.unwrap();
    proxy.inject(Fault::CutAfterCommit);
    let cut = event("app.cut");
    let place = trail.audit.append(cut.clone()).await.unwrap().place();
    assert!(proxy.spent());
    assert_eq!(trail.entries_of(&cut).await, 1);
    let next = trail
        .audit
        .append(event("app.after"))
        .await
        .unwrap()
        .place();
    assert_eq!((next.chain_no, next.seq), (place.chain_no, place.seq + 1));
    assert_eq!(proxy.appends(), 3, "nothing was sent twice");
    assert_eq!(trail.audit.stats().events, 3);
    trail.assert_whole().await;
}

#[tokio::test]
async fn f14_a_statement_that_never_arrived_is_sent_again() {
    let (trail, proxy) = wired(Duration::from_secs(20)).await;
    let first = trail
        .audit
        .append(event("app.before"))
        .await
        .unwrap()
        .place();
    proxy.inject(Fault::CutBeforeCommit);
    let cut = event("app.cut");
    let place = trail.audit.append(cut.clone()).await.unwrap().place();
    assert!(proxy.spent());
    assert_eq!(
        (place.chain_no, place.seq),
        (first.chain_no, first.seq + 1),
        "the history goes on where it was"
    );
    assert_eq!(trail.entries_of(&cut).await, 1);
    trail.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_many_cuts_under_load_write_everything_once() {
    let (trail, proxy) = wired(Duration::from_secs(20)).await;
    for round in 0..12 {
        proxy.inject(if round % 2 == 0 {
            Fault::CutAfterCommit
        } else {
            Fault::CutBeforeCommit
        });
    }
    let done = append_many(&trail.audit, 32, 20).await;
    assert!(proxy.spent());
    let places: HashSet<_> = done.iter().map(|c| (c.chain_no, c.seq)).collect();
    assert_eq!(places.len(), 640);
    assert_eq!(trail.count().await, 640);
    trail.assert_whole().await;
}

#[tokio::test]
async fn f19_a_hung_database_is_answered_within_the_deadline_and_the_event_can_be_repeated() {
    let (trail, proxy) = wired(Duration::from_millis(400)).await;
    trail.audit.append(event("app.before")).await.unwrap();
    proxy.inject(Fault::Hang);
    let hung = event("app.hung");
    let error = trail.audit.append(hung.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // The same event, again: once on record, whether or not the first was committed meanwhile.
    let mut again = trail.audit.append(hung.clone()).await;
    while again.is_err() {
        again = trail.audit.append(hung.clone()).await;
    }
    assert_eq!(trail.entries_of(&hung).await, 1);
    trail.assert_whole().await;
}

#[tokio::test]
async fn an_unreachable_database_is_said_and_recovered_from() {
    let (trail, proxy) = wired(Duration::from_secs(3)).await;
    trail.audit.append(event("app.before")).await.unwrap();
    proxy.down();
    let lost = event("app.lost");
    let receipt = trail.audit.log(lost.clone()).await;
    let Receipt::Lost { id, error } = receipt else {
        panic!("{receipt:?}");
    };
    assert_eq!(id, lost.id());
    let AuditError::Store(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.fault(), StoreFault::Unreachable);
    assert_eq!(trail.audit.stats().lost, 1);
    proxy.up();
    trail.audit.append(lost.clone()).await.unwrap();
    assert_eq!(trail.entries_of(&lost).await, 1);
    assert_eq!(trail.chains().await, 1, "the same chain goes on");
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_paused_writer_is_fenced_and_claims_another_chain() {
    let trail = trail().await;
    let mine = trail.audit.append(event("app.mine")).await.unwrap().place();
    trail.expire_leases().await;
    let other = writer(&trail.test.database()).await;
    let theirs = other.append(event("app.theirs")).await.unwrap().place();
    assert_eq!(theirs.chain_no, mine.chain_no, "the lease had run out");
    // The paused writer wakes up.
    let fenced = event("app.fenced");
    let place = trail.audit.append(fenced.clone()).await.unwrap().place();
    assert_ne!(place.chain_no, mine.chain_no);
    assert_eq!(trail.entries_of(&fenced).await, 1);
    let next = other.append(event("app.theirs")).await.unwrap().place();
    assert_eq!((next.chain_no, next.seq), (theirs.chain_no, theirs.seq + 1));
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_higher_epoch_fences_even_the_same_holder() {
    let trail = trail().await;
    let mine = trail.audit.append(event("app.mine")).await.unwrap().place();
    trail
        .run("UPDATE portcullis.chains SET epoch = epoch + 1")
        .await;
    let next = trail.audit.append(event("app.next")).await.unwrap().place();
    assert_ne!(next.chain_no, mine.chain_no);
    trail.assert_whole().await;
}

#[tokio::test]
async fn a_chain_that_was_set_back_is_stopped_and_nothing_is_written_twice() {
    let trail = trail().await;
    let first = trail
        .audit
        .append(event("app.first"))
        .await
        .unwrap()
        .place();
    // A restore that lost commits: the head is older than what was acknowledged.
    trail
        .run("UPDATE portcullis.chains SET head_mac = decode(repeat('ab', 32), 'hex'), next_seq = next_seq - 1")
        .await;
    let next = event("app.next");
    let place = trail.audit.append(next.clone()).await.unwrap().place();
    assert_ne!(place.chain_no, first.chain_no);
    assert_eq!(place.seq, 2, "after the genesis of a fresh chain");
    assert_eq!(trail.entries_of(&next).await, 1);
    let stopped: Vec<i32> =
        sqlx::query_scalar("SELECT chain_no FROM portcullis.chains WHERE stopped")
            .fetch_all(&trail.pool)
            .await
            .unwrap();
    assert_eq!(stopped, [i32::try_from(first.chain_no).unwrap()]);
    // Nobody ever claims it again.
    trail.expire_leases().await;
    let other = writer(&trail.test.database()).await;
    let theirs = other.append(event("app.theirs")).await.unwrap().place();
    assert_eq!(theirs.chain_no, place.chain_no);
}

#[tokio::test]
async fn a_chain_whose_head_alone_was_set_back_is_stopped() {
    let trail = trail().await;
    let first = trail
        .audit
        .append(event("app.first"))
        .await
        .unwrap()
        .place();
    trail.audit.append(event("app.second")).await.unwrap();
    trail.audit.shutdown().await;
    // The entries past it are still there: the next writer to claim it finds them.
    trail
        .run(
            "UPDATE portcullis.chains
                SET next_seq = 2,
                    head_mac = (SELECT mac FROM portcullis.entries WHERE seq = 1)",
        )
        .await;
    let other = writer(&trail.test.database()).await;
    let place = other.append(event("app.third")).await.unwrap().place();
    assert_ne!(place.chain_no, first.chain_no);
    let stopped: bool =
        sqlx::query_scalar("SELECT stopped FROM portcullis.chains WHERE chain_no = 1")
            .fetch_one(&trail.pool)
            .await
            .unwrap();
    assert!(stopped);
    assert_eq!(trail.count().await, 3);
}
