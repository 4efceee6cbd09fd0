//! The audit trail: keyed, hash-chained, append-only.
//!
//! Every entry carries a MAC over all of its fields and the MAC before it, under a key that the
//! database does not have.
//!
//! What [`append`](Audit::append) acknowledges is committed, or, while the database is away, on the
//! local disk and committed later: once, at one place of one chain, under a MAC that covers everything
//! before it. Each writer holds chains of its own, so that processes do
//! not wait for each other; a writer that lost its chain is fenced and goes on with another. An
//! event that is recorded again under its id is acknowledged where it stands.
//!
//! [`append_in_tx`](Audit::append_in_tx) records an event in a transaction of the host's: its rows
//! and the event are committed together, or neither is.
//!
//! | The store is | [`append`](Audit::append) | [`log`](Audit::log) | [`log_detached`](Audit::log_detached) |
//! |---|---|---|---|
//! | reachable | the place of the entry | `Committed` | recorded |
//! | unreachable | in the [journal](JournalSettings), after a second of trying; at once while that is known | `Journalled` | in the journal |
//! | hung, or the outcome unknown | in the journal at the deadline; in the trail once in the end | `Journalled` | in the journal |
//! | away, and the journal cannot be written | an error | `Lost`, with the error | counted and logged |
//! | not where it was left (a restore) | the chain is stopped, the entry goes to a fresh one | likewise | likewise |
//!
//! ```no_run
//! # async fn example(audit: portcullis::audit::Audit, me: portcullis::Principal) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::audit::{AuditEvent, Query};
//!
//! let receipt = audit.log(AuditEvent::new(&me, "app.invoice.read").with("invoice", "inv_381")).await;
//! assert!(receipt.committed().is_some());
//!
//! let page = audit.events(&Query::all().session(me.session_id())).await?;
//! let report = audit.verify_all().await?;
//! assert!(report.is_clean(), "{report}");
//! # Ok(())
//! # }
//! ```

pub mod anchor;
mod bind;
#[cfg(feature = "evidence")]
pub mod bundle;
mod checkpoint;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzed;
mod identity;
mod journal;
mod keys;
mod kind;
mod model;
mod outbox;
mod read;
pub mod retention;
mod rotate;
mod row;
mod several;
mod store;
mod stored;
mod verify;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;

pub(crate) use anchor::Anchors;
pub(crate) use checkpoint::Maker;
pub use checkpoint::{CheckpointEvery, ConsistencyProof, EventProof, SignedCheckpoint};
pub use error::AuditError;
pub use identity::{AgentKey, AgentKeyId, HeadPolicy, ProcessKey, SignPolicy, Signing};
pub(crate) use journal::Note;
pub use journal::{JournalError, JournalSettings};
use keys::MacKey;
pub use keys::{AuditKeys, AuditKeysBuilder, FileFault, KeyError, KeySource};
pub(crate) use keys::{Purpose, sha256};
pub use kind::{AppKind, InvalidKind, Kind};
pub use model::{AuditEvent, Committed, Entry, Evidence, Journalled, Receipt, Recorded};
pub use read::{Cursor, Follow, Lineage, Page, Position, Query, Relative};
pub use rotate::{Rotated, Rotation};
pub use verify::{
    Assurance, AssuredRange, ChainReport, CompromisedKey, Exposure, Finding, FindingClass, Pace,
    Progress, Scope, Verdict, Verification, Verify,
};
pub use writer::{AuditStats, DrainReport, JournalFinding, Moved};
pub(crate) use writer::{Redeem, Redeemed};

use self::anchor::Anchor;
use self::several::Several;
use self::writer::{WeakWriter, Writer};
pub use crate::canon::{JsonError as MetadataError, JsonRule as MetadataRule, Metadata};
use crate::ids::{EventId, TenantId};
use crate::store::{Database, DatabaseError, Store};
use crate::task;
use crate::time::SystemClock;
use crate::tlog::LogError;

/// The audit trail of one tenant. Cheap to clone; every clone is the same writer.
///
/// Dropping the last clone ends the writer without waiting: call [`shutdown`](Self::shutdown) first.
#[derive(Clone, Debug)]
pub struct Audit {
    shared: Arc<(Store, AuditKeys)>,
    check_reads: bool,
    writer: Writer,
    anchors: Anchors,
}

/// What the builder decides for the trail.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditOptions {
    /// Whether every entry that is read is checked against its MAC.
    pub(crate) verify_on_read: bool,
    pub(crate) evidence: Evidence,
    pub(crate) journal: JournalSettings,
    /// What makes checkpoints in the background.
    pub(crate) checkpoints: Option<Maker>,
    /// The places outside of the database that keep them.
    pub(crate) anchors: Vec<Arc<dyn Anchor>>,
    /// For how long an anchor may miss a checkpoint.
    pub(crate) anchors_stale_after: Option<Duration>,
}

impl AuditOptions {
    /// The same for another tenant, whose tree has a name of its own.
    pub(crate) fn for_tenant(&self, tenant: &TenantId) -> Result<Self, LogError> {
        let mut options = self.clone();
        if let Some(maker) = &mut options.checkpoints {
            maker.key = maker.key.for_tenant(tenant)?;
        }
        Ok(options)
    }
}

/// A handle that does not keep the writer.
#[derive(Debug)]
struct WeakAudit {
    shared: Arc<(Store, AuditKeys)>,
    check_reads: bool,
    writer: WeakWriter,
    anchors: Anchors,
}

impl WeakAudit {
    fn upgrade(&self) -> Option<Audit> {
        Some(Audit {
            shared: Arc::clone(&self.shared),
            check_reads: self.check_reads,
            writer: self.writer.upgrade()?,
            anchors: self.anchors.clone(),
        })
    }
}

impl Audit {
    /// A writer without the gates, for the tenant's trail in `database`.
    ///
    /// Hosts that enforce anything build a [`Governance`](crate::Governance) instead, which also
    /// checks the schema. Nothing is claimed before the first event; the outbox of
    /// [`append_in_tx`](Self::append_in_tx) is looked into from the start.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the URL is none, or the embedded cluster cannot be started.
    pub async fn open(
        database: &Database,
        keys: AuditKeys,
        tenant: TenantId,
    ) -> Result<Self, DatabaseError> {
        Self::open_with(database, keys, tenant, JournalSettings::default()).await
    }

    /// As [`open`](Self::open), with a journal of its own settings.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_with(
        database: &Database,
        keys: AuditKeys,
        tenant: TenantId,
        journal: JournalSettings,
    ) -> Result<Self, DatabaseError> {
        let store = Store::open(database, tenant, Arc::new(SystemClock)).await?;
        let options = AuditOptions {
            journal,
            ..AuditOptions::default()
        };
        Ok(Self::start(store, keys, &options))
    }

    pub(crate) fn start(store: Store, keys: AuditKeys, options: &AuditOptions) -> Self {
        let audit = Self {
            writer: Writer::start(store.clone(), &keys, options),
            shared: Arc::new((store, keys)),
            check_reads: options.verify_on_read,
            anchors: Anchors::new(options.anchors.clone(), options.anchors_stale_after),
        };
        if let Some(maker) = options.checkpoints.clone() {
            task::spawn(maker.run(audit.downgrade()));
        }
        audit
    }

    fn downgrade(&self) -> WeakAudit {
        WeakAudit {
            shared: Arc::clone(&self.shared),
            check_reads: self.check_reads,
            writer: self.writer.downgrade(),
            anchors: self.anchors.clone(),
        }
    }

    /// Has the journal keep something that a module could not store, on the disk and synced. It is
    /// handed back to [`redeem`](Self::redeem) when the journal is drained, at least once.
    pub(crate) async fn note(&self, note: Note) -> Result<(), AuditError> {
        self.writer.note(note).await
    }

    /// Takes the notes of `module`, of this process and of those that are gone.
    pub(crate) fn redeem(&self, module: &'static str, redeem: Redeem) {
        self.writer.redeem(module, redeem);
    }

    /// Makes sure, in spooled mode, that there can be a journal.
    pub(crate) async fn prepare(&self) -> Result<(), JournalError> {
        self.writer.prepare().await
    }

    /// Makes sure that there can be a journal, whatever the mode.
    pub(crate) async fn prepare_journal(&self) -> Result<(), JournalError> {
        self.writer.prepare_journal().await
    }

    /// Records `event`; never fails the host. The receipt says what became of it.
    ///
    /// Answers within the deadline of the [`Database`], even if the database hangs.
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn log(&self, event: AuditEvent) -> Receipt {
        let id = event.id();
        match self.append(event).await {
            Ok(recorded) => recorded.into(),
            Err(error) => {
                tracing::warn!(%id, %error, "an audit event was not recorded");
                Receipt::Lost { id, error }
            }
        }
    }

    /// Records `event`, or says why it could not. `Ok` means durable, and says where: committed; while
    /// the database is away, in the journal on the local disk, from where it is committed later.
    ///
    /// # Errors
    ///
    /// * [`AuditError::Kind`], [`AuditError::Metadata`], [`AuditError::Field`]: the event cannot be
    ///   stored. Nothing was sent.
    /// * [`AuditError::IdReused`] if another event has this id. It stands unchanged.
    /// * [`AuditError::Closed`] after [`shutdown`](Self::shutdown).
    /// * [`AuditError::Journal`] if neither the database nor the journal took it in time.
    /// * [`AuditError::Store`] if the database does not take it for what is in it. Without a journal,
    ///   also if it was away, and [`AuditError::Overloaded`] if the queue was full until the deadline.
    ///
    /// After the last two it **may still be committed** later. Recording the same event (the same id)
    /// again is safe: it is acknowledged with the place that it has.
    ///
    /// # Cancel safety
    ///
    /// Once the event is queued, which takes no waiting unless the queue is full, it is recorded
    /// whether or not the future is dropped. Recording the same event again is safe.
    pub async fn append(&self, event: AuditEvent) -> Result<Recorded, AuditError> {
        let sealed = self.writer.seal(Several::one(event))?;
        let recorded = self.writer.append(&sealed).await?;
        recorded.last().ok_or(AuditError::Closed)
    }

    /// Records all of `events` in one batch, next to each other in one chain, or none of them.
    ///
    /// Those that are on record already are acknowledged where they stand.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); one bad event refuses all.
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn append_all(&self, events: Vec<AuditEvent>) -> Result<Vec<Recorded>, AuditError> {
        let sealed = self.writer.seal(events.into())?;
        let recorded = self.writer.append(&sealed).await?;
        Ok(recorded.into_vec())
    }

    /// Records `event` behind the caller's back: nothing waits for it, and nothing blocks.
    ///
    /// For places that cannot wait, such as `Drop`. An event that cannot be queued or committed is
    /// counted in [`AuditStats::lost`] and warned of.
    pub fn log_detached(&self, event: AuditEvent) {
        self.writer.append_detached(event);
    }

    /// Records `event` in the host's own transaction: its rows and the event are committed together,
    /// or neither is, at any isolation level. Answers with the event's id.
    ///
    /// `connection` must be in a transaction, on the database of this trail, as a role that may
    /// write to it. The event waits, under a MAC, in `portcullis.outbox`, and is moved into a chain
    /// within moments of the commit: by this process, or by another one if this one dies. The
    /// events of one transaction keep their order. Nobody waits for the transaction, however long
    /// it takes.
    ///
    /// ```no_run
    /// # async fn example(audit: portcullis::audit::Audit, me: portcullis::Principal, pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use portcullis::audit::AuditEvent;
    ///
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("UPDATE invoices SET paid = true WHERE id = 'inv_381'").execute(&mut *tx).await?;
    /// audit.append_in_tx(&mut tx, AuditEvent::new(&me, "app.invoice.paid").with("invoice", "inv_381")).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`AuditError::Kind`], [`AuditError::Metadata`], [`AuditError::Field`]: the event cannot be
    ///   stored. Nothing was sent, and the transaction goes on.
    /// * [`AuditError::Closed`] after [`shutdown`](Self::shutdown), likewise.
    /// * [`AuditError::Store`] if the database did not take it: roll back. Postgres takes nothing
    ///   more in a transaction in which a statement failed.
    ///
    /// That the id belongs to another event shows only when it is moved: the row stays in the
    /// outbox, and is counted in [`AuditStats::outbox_refused`].
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: roll the transaction back if the future was dropped.
    pub async fn append_in_tx(
        &self,
        connection: &mut PgConnection,
        event: AuditEvent,
    ) -> Result<EventId, AuditError> {
        self.writer.append_in_tx(connection, event).await
    }

    /// Moves what [`append_in_tx`](Self::append_in_tx) left in the outbox into the trail now,
    /// whichever process queued it. It happens by itself, too; this waits for it.
    ///
    /// A row that is not as we write it (edited, forged, torn) is not moved. It stays where it is,
    /// is warned of once and counted, and holds nothing up.
    ///
    /// # Errors
    ///
    /// [`AuditError::Store`] if the database cannot be asked, [`AuditError::Closed`] after
    /// [`shutdown`](Self::shutdown). What was moved before is moved.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was handed over is committed, the rest is moved later.
    pub async fn move_outbox(&self) -> Result<Moved, AuditError> {
        self.writer.move_outbox().await
    }

    /// The tenant's current key for `purpose`, as far as this process knows.
    pub(crate) fn derive(&self, purpose: Purpose) -> MacKey {
        let (store, keys) = &*self.shared;
        keys.derive_under(self.writer.key_id(), store.tenant(), purpose)
            .unwrap_or_else(|| keys.derive(store.tenant(), purpose))
    }

    /// The tenant's keys for `purpose`, under every secret that is here: for what was stored under an
    /// earlier one.
    pub(crate) fn derive_each(&self, purpose: Purpose) -> Vec<MacKey> {
        let (store, keys) = &*self.shared;
        let under = |key_id| keys.derive_under(key_id, store.tenant(), purpose);
        keys.key_ids().filter_map(under).collect()
    }

    /// Verifies every entry of the tenant: [`verify`](Self::verify) of [`Scope::All`].
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub async fn verify_all(&self) -> Result<Verification, AuditError> {
        self.verify(Scope::All).await
    }

    /// Brings everything that is in journals into the trail, now: what this writer put there, and
    /// what writers left that are gone. It happens by itself too: at the start, when the database is
    /// back, and every half minute.
    ///
    /// # Errors
    ///
    /// [`AuditError::Store`] if the database is (still) away, [`AuditError::Journal`] if a file could
    /// not be read or removed. What was not drained is drained later.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was drained is found in the trail the next time, and counted.
    pub async fn drain(&self) -> Result<DrainReport, AuditError> {
        self.writer.drain().await
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn stats(&self) -> AuditStats {
        self.writer.stats()
    }

    /// Takes no more events, waits until those that were handed over are recorded or given up, and
    /// gives the chains back. What this handle's transactions left in the outbox is moved first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the draining goes on, and it may be waited for again.
    pub async fn shutdown(&self) {
        self.writer.shutdown().await;
    }
}
