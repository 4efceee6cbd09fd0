//! A verification makes way for those who write, reads no further for it, and says how often.

use portcullis::Secret;
use portcullis::audit::{Audit, Pace, Verification, Verify};
use portcullis::tlog::LogKey;
use tokio::runtime::Handle;

use crate::trail::{Trail, rich, who};

const SEED: &str = "5f60718293a4b5c6d7e8f901a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
/// Two stretches and a part of one.
const ENTRIES: u64 = 9_000;

async fn write(audit: &Audit, from: u64, entries: u64) {
    let me = who("a-1", "s-1");
    for batch in (from..from + entries).collect::<Vec<_>>().chunks(1_000) {
        let events = batch.iter().map(|n| rich(&me, *n, None)).collect();
        audit.append_all(events).await.unwrap();
    }
}

/// What a verification found, and how often it had rested when it came to its last stretch; if
/// `writing`, a thousand entries are written in each.
async fn verify(reader: &Audit, writer: Option<&Audit>, what: Verify) -> (Verification, u64) {
    let mut rests = 0;
    let verified = reader
        .verify_with(what, |progress| {
            rests = progress.rests;
            if let Some(writer) = writer {
                tokio::task::block_in_place(|| {
                    Handle::current().block_on(write(writer, progress.entries, 1_000));
                });
            }
        })
        .await
        .unwrap();
    assert!(verified.is_clean(), "{verified}");
    (verified, rests)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_rests_while_the_heads_move_and_not_while_they_stand() {
    let trail = Trail::empty().await;
    let (writer, reader) = (trail.audit().await, trail.audit().await);
    write(&writer, 0, ENTRIES).await;
    let key = LogKey::new("audit.example/it", &Secret::parse(SEED).unwrap()).unwrap();
    // As links of the chains alone, and as leaves of the tree too.
    for with_log in [false, true] {
        if with_log {
            let _ = writer.checkpoint(&key).await.unwrap();
        }
        let what = || {
            let everything = Verify::everything();
            if with_log {
                everything.log(key.verifier())
            } else {
                everything
            }
        };
        let (quiet, rests) = verify(&reader, None, what()).await;
        assert_eq!(rests, 0);

        let (beside, rests) = verify(&reader, Some(&writer), what()).await;
        assert!(rests >= 2, "{rests}");
        // No further than the heads were when it began.
        assert_eq!(beside.entries(), quiet.entries());

        let there = beside.entries();
        let (full, rests) = verify(&reader, Some(&writer), what().pace(Pace::Full)).await;
        assert_eq!(rests, 0);
        assert!(full.entries() > there);
        // Nor for a setting that is its own default.
        let (_, rests) = verify(&reader, None, what().pace(Pace::Yielding)).await;
        assert_eq!(rests, 0);
    }
}
