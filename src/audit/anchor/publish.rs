//! Publishing: a checkpoint goes to each anchor, and what comes back is remembered.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::judge::{Signed, Stand};
use super::set::Published;
use super::sign::Noted;
use super::{AnchorError, Inquiry, Publication, Receipt, sql};
use crate::audit::{Audit, AuditError, sha256};
use crate::task;
use crate::tlog::{Checkpoint, LogVerifier};

/// How long an anchor may take to keep a checkpoint.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest receipt that is remembered.
const LONGEST: usize = 1 << 20;

impl Audit {
    /// Gives a checkpoint to the anchors at `places`, all at once.
    pub(super) async fn publish(&self, log: &LogVerifier, made: Noted<'_>, places: Vec<usize>) {
        let mut publishing = JoinSet::new();
        for place in places {
            let (audit, log) = (self.clone(), log.clone());
            let (checkpoint, note) = (made.0.clone(), made.1.to_owned());
            publishing.spawn(task::boxed(async move {
                let kept = audit.give(&log, (&checkpoint, &note), place).await;
                (place, kept)
            }));
        }
        while let Some(done) = publishing.join_next().await {
            // One that panicked is asked again in the next round.
            let Ok((place, kept)) = done else { continue };
            match kept {
                Ok(receipt) => self.remember(place, made.0, &receipt).await,
                Err(error) => self.look_again(log, place, &error).await,
            }
        }
        self.look_for_missed().await;
    }

    /// Gives a checkpoint to the anchor at `place`.
    pub(super) async fn give(
        &self,
        log: &LogVerifier,
        (checkpoint, note): Noted<'_>,
        place: usize,
    ) -> Result<Receipt, AnchorError> {
        let anchor = self.anchors.list().get(place).map(Arc::clone);
        let anchor = anchor.ok_or(AnchorError::Settings("there is no such anchor"))?;
        let publication = Publication {
            audit: self.clone(),
            log: log.clone(),
            checkpoint: checkpoint.clone(),
            note: note.to_owned(),
            previous: self.anchors.watch(place, |watch| watch.size).flatten(),
        };
        let kept = tokio::time::timeout(PATIENCE, anchor.publish(&publication)).await;
        kept.unwrap_or(Err(AnchorError::TimedOut))
    }

    pub(super) async fn remember(&self, place: usize, checkpoint: &Checkpoint, receipt: &Receipt) {
        let Some(anchor) = self.anchors.list().get(place) else {
            return;
        };
        if receipt.bytes().len() > LONGEST {
            let error = AnchorError::Invalid("its receipt is longer than 1 MiB");
            self.failed(place, &error).await;
            return;
        }
        let (size, root) = (checkpoint.size(), checkpoint.root());
        let row = sql::ReceiptRow {
            anchor: anchor.name(),
            size,
            root,
            kind: receipt.kind(),
            receipt: receipt.bytes(),
        };
        if let Err(error) = sql::insert_receipt(self.store(), &row).await {
            // It is kept where it matters; the next round finds it there.
            tracing::warn!(anchor = anchor.name(), %error, "a receipt could not be stored");
        }
        self.anchors
            .watch(place, |watch| watch.saw(size, self.store().now()));
        self.anchors.will_tell(Published {
            anchor: anchor.name().to_owned(),
            kind: receipt.kind(),
            size,
            root: root.to_string(),
            receipt: hex::encode(sha256(receipt.bytes())),
        });
    }

    /// An anchor did not take a checkpoint. If it holds a newer one, which another process was
    /// quicker with, all is well.
    async fn look_again(&self, log: &LogVerifier, place: usize, error: &AnchorError) {
        let (AnchorError::Ahead { .. } | AnchorError::Mismatch { .. }) = error else {
            return self.failed(place, error).await;
        };
        let looked = async {
            let (newest, note) = self.newest_of(log).await?;
            let signed = Signed {
                size: newest.size(),
                root: newest.root(),
            };
            let inquiry = Inquiry::new(log.clone(), Some(note));
            let mut stands = self.stands(inquiry, signed, |other| other == place).await?;
            // A witness that says so has compared the trees itself.
            if let AnchorError::Mismatch { held } = error
                && let Some((_, stand @ (Stand::Follows(_) | Stand::Told(_)))) = stands.first_mut()
                && *held <= newest.size()
            {
                *stand = Stand::Fork(*held);
            }
            for (place, stand) in stands {
                self.take_down(place, &stand, signed).await?;
            }
            Ok::<_, AuditError>(())
        };
        match looked.await {
            // Said where it was found.
            Ok(()) | Err(AuditError::AnchorAhead { .. } | AuditError::AnchorFork { .. }) => {}
            Err(other) => {
                tracing::warn!(error = %other, "an anchor could not be compared");
                self.failed(place, error).await;
            }
        }
    }

    /// Since when each anchor misses a checkpoint.
    async fn look_for_missed(&self) {
        for place in 0..self.anchors.list().len() {
            let size = self.anchors.watch(place, |watch| watch.size).flatten();
            match sql::fetch_first_missed(self.store(), size.unwrap_or(0)).await {
                Ok(since) => {
                    self.anchors
                        .watch(place, |watch| watch.missing_since = since);
                }
                Err(error) => tracing::warn!(%error, "the age of an anchor is not known"),
            }
        }
    }
}
