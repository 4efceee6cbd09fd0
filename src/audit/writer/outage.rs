//! Knowing that the database is away, so that nobody waits to find out again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

use super::Keys;
use crate::audit::error::AuditError;
use crate::audit::journal::{Answer, Content, Journal, Mode, Order};
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::model::{AuditEvent, Draft, Sealed};
use crate::audit::store::chain::Head;
use crate::store::{Store, StoreError};

/// Whether the database is away, and since which line of the journal.
#[derive(Debug)]
pub(super) struct Outage {
    away: AtomicBool,
    /// The same, for those who wait.
    known: watch::Sender<bool>,
    /// The outage whose end is not on record yet.
    open: Mutex<Option<Uuid>>,
    /// Where the trail was when it was last written to.
    last: Mutex<Option<(u32, u64, Tag)>>,
}

impl Outage {
    pub(super) fn none() -> Self {
        Self {
            away: AtomicBool::new(false),
            known: watch::Sender::new(false),
            open: Mutex::new(None),
            last: Mutex::new(None),
        }
    }

    /// Whether calls go to the journal at once.
    pub(super) fn is_known(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Waits until it is known that the database is away.
    pub(super) async fn known(&self) {
        let mut known = self.known.subscribe();
        // The sender lives as long as `self`.
        let _ = known.wait_for(|known| *known).await;
    }

    /// The outage whose end is not on record.
    pub(super) fn open(&self) -> Option<Uuid> {
        *lock(&self.open)
    }

    /// Remembers the last entry that was committed.
    pub(super) fn note(&self, chain_no: u32, head: &Head) {
        *lock(&self.last) = Some((chain_no, head.next_seq.saturating_sub(1), head.mac));
    }

    /// The database is away: says so in the journal, before what cannot be committed.
    pub(super) fn begin(&self, store: &Store, keys: &Keys, journal: &Journal, error: &StoreError) {
        // Held while the order is sent: who finds the outage begun writes behind its start.
        let mut open = lock(&self.open);
        if open.is_none() {
            let id = Uuid::now_v7();
            tracing::error!(%error, outage = %id, "the audit trail cannot be committed; events go to the journal until it can");
            if let Ok(marker) = self.start(id, store, keys, error) {
                journal.write(Order {
                    content: Content::Events(Arc::new(Sealed::new(vec![marker]))),
                    mode: Mode::Marker,
                    answer: Answer::Nobody,
                });
            }
            *open = Some(id);
        }
        self.away.store(true, Ordering::Release);
        self.known.send_replace(true);
        // Who drains finds out when it is back, though nothing may have been written.
        journal.ledger().written.notify_one();
    }

    /// The database takes entries again.
    pub(super) fn back(&self) {
        let _open = lock(&self.open);
        self.away.store(false, Ordering::Release);
        self.known.send_replace(false);
    }

    /// Its end is on record, unless the database has gone away again meanwhile: then it goes on.
    pub(super) fn end(&self) {
        let mut open = lock(&self.open);
        if !self.is_known() {
            *open = None;
        }
    }

    fn start(
        &self,
        id: Uuid,
        store: &Store,
        keys: &Keys,
        error: &StoreError,
    ) -> Result<Draft, AuditError> {
        let mut event = AuditEvent::system(None, Kind::ChainDegradedStart)
            .with("outage_id", id.to_string())
            .with("process_id", std::process::id())
            .with("reason", format!("{:?}", error.fault()));
        if let Some((chain_no, seq, mac)) = *lock(&self.last) {
            event = event
                .with("last_chain", chain_no)
                .with("last_seq", seq)
                .with("last_mac", hex::encode(mac));
        }
        event.seal(store.now(), &keys.content)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
