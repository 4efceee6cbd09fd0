//! Storing a halt, and lifting one.

use std::sync::Arc;

use tokio::time::timeout;

use super::core::{Core, Pending};
use super::error::HaltError;
use super::evidence;
use super::model::{Change, Target, Why};
use super::store::{self as sql, Resumed};
use crate::audit::{AuditEvent, Receipt};
use crate::ids::{EventId, OperatorId};
use crate::store::{StoreError, StoreFault};

const HALT: &str = "halt";
const RESUME: &str = "resume";

/// Stores an order that is in force here. Until it is stored, it stays in force, and ours to store.
pub(super) async fn store(core: &Core, pending: &Pending) -> Result<Change, StoreError> {
    let written = match write(core, pending, true).await {
        // The trail did not take its part: a halt does not wait for that.
        Err(Unwritten::Audit) => write(core, pending, false).await,
        other => other,
    };
    match written {
        Ok(Written { made, epoch }) => {
            core.note(pending.event, Some(epoch));
            if let Err(error) = core.refresh(true).await {
                // It stays in force here until a read has it.
                tracing::debug!(%error, "a halt is stored; what is halted is read again later");
            }
            match made {
                Made::OnRecord => settle(core).await,
                Made::OffRecord => put_on_record(core, entry(pending, epoch)).await,
                Made::Not => {}
            }
            Ok(Change {
                changed: made != Made::Not,
                epoch: Some(epoch).filter(|epoch| *epoch > 0),
            })
        }
        Err(Unwritten::Store(error)) => {
            core.note(pending.event, None);
            Err(error)
        }
        Err(Unwritten::Audit) => {
            core.note(pending.event, None);
            Err(StoreError::new(HALT, StoreFault::Unreachable))
        }
    }
}

/// What came of writing an order.
struct Written {
    made: Made,
    /// From which on a read has it, or has it no more.
    epoch: u64,
}

/// Whether there was something to write, and whether the trail has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    OnRecord,
    OffRecord,
    Not,
}

enum Unwritten {
    Store(StoreError),
    Audit,
}

impl From<StoreError> for Unwritten {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Writes an order in one transaction, with its entry of the trail if `on_record`.
async fn write(core: &Core, pending: &Pending, on_record: bool) -> Result<Written, Unwritten> {
    let during = StoreError::during;
    let work = async {
        let store = &core.store;
        let mut tx = store.begin().await.map_err(during(HALT))?;
        let event = pending.event.as_uuid();
        let made = sql::insert_halt_in_tx(&mut tx, store, &pending.order, event).await;
        let made = made.map_err(during(HALT))?;
        let (made, epoch) = match made {
            Some(epoch) if on_record => {
                let entry = entry(pending, epoch);
                let queued = core.audit.append_in_tx(&mut tx, entry).await;
                queued.map_err(|_| Unwritten::Audit)?;
                (Made::OnRecord, epoch)
            }
            Some(epoch) => (Made::OffRecord, epoch),
            None => {
                let there = sql::fetch_epoch_in_tx(&mut tx, store, &pending.order.target).await;
                (Made::Not, there.map_err(during(HALT))?.unwrap_or(0))
            }
        };
        tx.commit().await.map_err(during(HALT))?;
        Ok(Written { made, epoch })
    };
    match timeout(core.store.deadline(), work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::timed_out(HALT).into()),
    }
}

/// The entry of a halt that is stored.
fn entry(pending: &Pending, epoch: u64) -> AuditEvent {
    evidence::halted(&pending.order, "halted")
        .with_id(pending.event)
        .with("epoch", epoch)
}

/// Puts on record that a halt is in force in this process alone.
pub(super) async fn record_here(core: &Core, pending: &Pending) {
    put_on_record(core, evidence::halted(&pending.order, "halted_here")).await;
}

/// Lifts the halt of `target`, for good and for everybody.
pub(super) async fn resume(
    core: Arc<Core>,
    target: Target,
    by: OperatorId,
    why: Why,
) -> Result<Change, HaltError> {
    // What was ordered here comes first, or it would be stored after its own end.
    for pending in core.adrift(Some(&target)) {
        store(&core, &pending).await?;
    }
    let during = StoreError::during;
    let work = async {
        let store = &core.store;
        let event = EventId::new();
        let mut tx = store.begin().await.map_err(during(RESUME))?;
        let resumed = sql::insert_resumption_in_tx(
            &mut tx,
            store,
            &target,
            &by,
            why.as_str(),
            event.as_uuid(),
        );
        let resumed = resumed.await.map_err(during(RESUME))?;
        if let Resumed::At(epoch) = resumed {
            // Letting somebody go on is on record, or it does not happen.
            let entry = evidence::resumed(&target, &by, why.as_str()).with_id(event);
            let queued = core
                .audit
                .append_in_tx(&mut tx, entry.with("epoch", epoch))
                .await;
            queued.map_err(|_| StoreError::new(RESUME, StoreFault::Unreachable))?;
        }
        tx.commit().await.map_err(during(RESUME))?;
        Ok(resumed)
    };
    let resumed = match timeout(core.store.deadline(), work).await {
        Ok(done) => done.map_err(HaltError::Store)?,
        Err(_) => return Err(StoreError::timed_out(RESUME).into()),
    };
    let change = match resumed {
        Resumed::At(epoch) => Change::made(epoch),
        Resumed::NotHalted => Change::NONE,
        Resumed::ByAnAgent => return Err(HaltError::NotAnOperator),
    };
    if let Err(error) = core.refresh(true).await {
        tracing::warn!(%error, "resumed; this process learns of it with the next look");
    }
    if change.changed {
        settle(&core).await;
    }
    Ok(change)
}

/// Brings the entry that was committed with a change into its chain; it would get there by itself.
async fn settle(core: &Core) {
    if let Err(error) = core.audit.move_outbox().await {
        tracing::debug!(%error, "the entry of a halt is moved into its chain later");
    }
}

async fn put_on_record(core: &Core, event: AuditEvent) {
    if let Receipt::Lost { id, error } = core.audit.log(event).await {
        tracing::error!(%id, %error, "a halt is not on record");
    }
}
