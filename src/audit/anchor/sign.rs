//! What is done about anchors: look before signing, tell in the trail, bring up who is behind.

use std::time::Duration;

use super::judge::{Signed, Stand};
use super::watch::{AnchorHealth, Watch};
use super::{Anchor, AnchorError, Inquiry, sql};
use crate::audit::kind::Kind;
use crate::audit::{Audit, AuditError, AuditEvent};
use crate::tlog::{Checkpoint, LogKey, LogVerifier, TreeHash};

/// How long other processes leave a new checkpoint to the one that made it.
const A_MOMENT: Duration = Duration::from_secs(5);

/// A checkpoint with its note.
pub(super) type Noted<'n> = (&'n Checkpoint, &'n str);

impl Audit {
    /// Makes sure that a tree that goes on from `signed` may be signed: no anchor holds more, or
    /// another one, and at least one said so. `note` is that of the tree, if there is one.
    pub(in crate::audit) async fn look_at_anchors(
        &self,
        key: &LogKey,
        signed: Signed,
        note: Option<&str>,
    ) -> Result<(), AuditError> {
        let tellers = self.anchors.tellers();
        if tellers == 0 {
            return Ok(());
        }
        let signed_note = match note {
            Some(note) => Some((Checkpoint::open(note, key.verifier())?, note)),
            None => None,
        };
        // Of an empty tree every tree is a continuation: to sign it commits to nothing.
        let note = if let Some(note) = note {
            note.to_owned()
        } else {
            let empty = Checkpoint::new(key.origin(), 0, TreeHash::of_nothing())?;
            key.sign(&empty)?.to_string()
        };
        let inquiry = Inquiry::new(key.verifier().clone(), Some(note));
        let stands = self.stands(inquiry, signed, |_| true).await?;
        let mut answered = 0;
        for (place, mut stand) in stands {
            if let (Stand::Told(_), Some(signed_note)) = (&stand, &signed_note) {
                stand = self
                    .have_it_compared(key.verifier(), signed_note, place)
                    .await;
            }
            answered += usize::from(matches!(stand, Stand::Follows(_)));
            self.take_down(place, &stand, signed).await?;
        }
        if answered == 0 {
            return Err(AuditError::AnchorsSilent { anchors: tellers });
        }
        Ok(())
    }

    /// An anchor that tells a size alone is given what was signed last: it compares the trees.
    async fn have_it_compared(
        &self,
        log: &LogVerifier,
        (checkpoint, note): &(Checkpoint, &str),
        place: usize,
    ) -> Stand {
        match self.give(log, (checkpoint, note), place).await {
            Ok(receipt) => {
                self.remember(place, checkpoint, &receipt).await;
                Stand::Follows(checkpoint.size())
            }
            Err(AnchorError::Mismatch { held }) => Stand::Fork(held),
            Err(AnchorError::Ahead { held }) => Stand::Ahead(held),
            Err(error) => Stand::Silent(error),
        }
    }

    /// What was published since the last checkpoint, as entries that stand before the next one.
    pub(in crate::audit) fn untold_publications(&self) -> Vec<AuditEvent> {
        let told = self.anchors.take_untold().into_iter();
        told.map(|published| {
            AuditEvent::system(None, Kind::ChainAnchored)
                .with("anchor", published.anchor)
                .with("kind", published.kind)
                .with("size", published.size.to_string())
                .with("root", published.root)
                .with("receipt_sha256", published.receipt)
        })
        .collect()
    }

    /// Gives a checkpoint that was just signed to each anchor that was in order a moment ago.
    pub(in crate::audit) async fn publish_new(&self, log: &LogVerifier, made: Noted<'_>) {
        if self.anchors.is_empty() {
            return;
        }
        let in_order = |place| self.anchors.watch(place, |watch| watch.is_in_order());
        let places = (0..self.anchors.list().len()).filter(|place| in_order(*place) == Some(true));
        self.publish(log, made, places.collect()).await;
    }

    /// Brings the anchors that miss the newest checkpoint up to it, those that failed less and less
    /// often.
    pub(in crate::audit) async fn catch_up(&self, log: &LogVerifier) -> Result<(), AuditError> {
        if self.anchors.is_empty() {
            return Ok(());
        }
        match self.newest_of(log).await {
            Ok((checkpoint, note)) => self.bring_up(log, (&checkpoint, &note), false).await,
            Err(AuditError::NoCheckpoint) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the newest checkpoint to every anchor that does not have it, now, and says how each of
    /// them stands.
    ///
    /// It happens by itself where checkpoints are made; this is for a job of its own, which needs
    /// no key but the log's public one.
    ///
    /// # Errors
    ///
    /// * [`AuditError::NoCheckpoint`] if there is none.
    /// * [`AuditError::Log`] if the newest one is not signed by `log`.
    /// * [`AuditError::AnchorAhead`] or [`AuditError::AnchorFork`] if an anchor contradicts the
    ///   database. The others are published to all the same.
    /// * [`AuditError::Store`] if the database did not answer.
    ///
    /// That an anchor could not be published to is no error: it is in its [`AnchorHealth`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was published is published, and may be again.
    pub async fn publish_checkpoint(
        &self,
        log: &LogVerifier,
    ) -> Result<Vec<AnchorHealth>, AuditError> {
        let (checkpoint, note) = self.newest_of(log).await?;
        self.bring_up(log, (&checkpoint, &note), true).await?;
        Ok(self.anchor_health())
    }

    /// How each anchor stands, as this process saw it last: at the last checkpoint that it made or
    /// published. Nothing is asked.
    #[must_use]
    pub fn anchor_health(&self) -> Vec<AnchorHealth> {
        self.anchors.health(self.store().now())
    }

    pub(in crate::audit) fn anchor_patience(&self) -> Duration {
        self.anchors.stale_after()
    }

    async fn bring_up(
        &self,
        log: &LogVerifier,
        newest: Noted<'_>,
        all: bool,
    ) -> Result<(), AuditError> {
        let (checkpoint, note) = newest;
        let size = checkpoint.size();
        let mut lagging = Vec::new();
        for (place, anchor) in self.anchors.list().iter().enumerate() {
            if !anchor.remembers() {
                self.recall(place, &**anchor).await?;
            }
            // Whoever has just made it is about to publish it.
            let behind = |watch: &mut Watch| watch.is_in_order() && watch.size < Some(size);
            let behind = self.anchors.watch(place, behind) == Some(true);
            if behind && !all && self.is_fresh(size).await? {
                continue;
            }
            let due = self.anchors.watch(place, |watch| {
                let known = watch.is_in_order() && watch.size >= Some(size);
                (!known || (all && anchor.remembers())) && (watch.is_due() || all)
            });
            if due == Some(true) {
                lagging.push(place);
            }
        }
        let signed = Signed {
            size,
            root: checkpoint.root(),
        };
        let inquiry = Inquiry::new(log.clone(), Some(note.to_owned()));
        let asked = |place: usize| lagging.contains(&place);
        let mut conflict = Ok(());
        for (place, stand) in self.stands(inquiry, signed, asked).await? {
            let noted = self.take_down(place, &stand, signed).await;
            if !matches!(stand, Stand::Follows(held) | Stand::Told(held) if held < size) {
                lagging.retain(|other| *other != place);
            }
            conflict = conflict.and(noted);
        }
        self.publish(log, newest, lagging).await;
        conflict
    }

    /// Whether the checkpoint of this size was made a moment ago.
    async fn is_fresh(&self, size: u64) -> Result<bool, AuditError> {
        let made = sql::fetch_first_missed(self.store(), size.saturating_sub(1)).await?;
        Ok(made.is_some_and(|made| self.store().now().since(made) < A_MOMENT))
    }

    /// How each of the anchors at `places` stands to the newest signed tree.
    pub(super) async fn stands(
        &self,
        inquiry: Inquiry,
        signed: Signed,
        places: impl Fn(usize) -> bool,
    ) -> Result<Vec<(usize, Stand)>, AuditError> {
        let log = inquiry.log().clone();
        // What is remembered is read first: an anchor only gains meanwhile.
        let mut remembered = Vec::new();
        for anchor in self.anchors.list() {
            remembered.push(sql::fetch_last_published(self.store(), anchor.name()).await?);
        }
        let mut stands = Vec::new();
        for (place, kept) in self.anchors.ask(inquiry, places).await {
            let published = remembered.get(place).copied().flatten();
            stands.push((place, self.judge(&log, &kept, published, signed).await?));
        }
        Ok(stands)
    }

    /// Takes down how an anchor stands, and raises the alarm if it contradicts the database.
    pub(super) async fn take_down(
        &self,
        place: usize,
        stand: &Stand,
        signed: Signed,
    ) -> Result<(), AuditError> {
        let now = self.store().now();
        let anchor = self.anchors.list().get(place).map(|anchor| anchor.name());
        let anchor = anchor.unwrap_or_default().to_owned();
        let signed = signed.size;
        let (held, problem, error) = match stand {
            Stand::Follows(size) => {
                self.anchors.watch(place, |watch| watch.saw(*size, now));
                return Ok(());
            }
            Stand::Told(size) => {
                self.anchors.watch(place, |watch| watch.told(*size, now));
                return Ok(());
            }
            Stand::Silent(error) => {
                self.failed(place, error).await;
                return Ok(());
            }
            Stand::Ahead(held) => {
                let held = *held;
                let problem = "it holds more than the database";
                let anchor = anchor.clone();
                (
                    held,
                    problem,
                    AuditError::AnchorAhead {
                        anchor,
                        held,
                        signed,
                    },
                )
            }
            Stand::Fork(held) => {
                let held = *held;
                let problem = "it holds another tree than the database";
                let anchor = anchor.clone();
                (
                    held,
                    problem,
                    AuditError::AnchorFork {
                        anchor,
                        held,
                        signed,
                    },
                )
            }
        };
        let is_new = self
            .anchors
            .watch(place, |watch| watch.contradicts(held, signed));
        if is_new == Some(true) {
            tracing::error!(%anchor, held, signed, problem, "an anchor contradicts the database");
            let event = AuditEvent::system(None, Kind::ChainForkDetected)
                .with("anchor", anchor)
                .with("problem", problem)
                .with("held_size", held.to_string())
                .with("signed_size", signed.to_string());
            // If it is lost, the log has said so.
            let _ = self.log(event).await;
        }
        Err(error)
    }

    /// Takes down that an anchor failed; the first time, in the trail too.
    pub(super) async fn failed(&self, place: usize, error: &AnchorError) {
        let Some(anchor) = self.anchors.list().get(place) else {
            return;
        };
        let now = self.store().now();
        let is_new = self
            .anchors
            .watch(place, |watch| watch.failed(error.clone(), now));
        if is_new == Some(true) {
            tracing::warn!(anchor = anchor.name(), %error, "an anchor cannot be used");
            let event = AuditEvent::system(None, Kind::ChainAnchorFailed)
                .with("anchor", anchor.name())
                .with("kind", anchor.kind())
                .with("error", error.to_string());
            // If it is lost, the log has said so.
            let _ = self.log(event).await;
        }
    }

    /// What an anchor that cannot tell took last is what the receipts say.
    async fn recall(&self, place: usize, anchor: &dyn Anchor) -> Result<(), AuditError> {
        let published = sql::fetch_last_published(self.store(), anchor.name()).await?;
        self.anchors
            .watch(place, |watch| watch.size = watch.size.max(published));
        Ok(())
    }

    /// The newest checkpoint, if `log` signed it.
    pub(super) async fn newest_of(
        &self,
        log: &LogVerifier,
    ) -> Result<(Checkpoint, String), AuditError> {
        let note = self.last_checkpoint().await?;
        let note = note.ok_or(AuditError::NoCheckpoint)?;
        Ok((Checkpoint::open(&note, log)?, note))
    }
}
