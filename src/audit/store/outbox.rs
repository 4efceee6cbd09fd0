//! The statements on the outbox: queued in the host's transaction, read and cleared by whoever moves.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::audit::outbox::Queued;
use crate::store::{Store, StoreError};
use crate::time::Timestamp;

/// How many rows are read and moved at once.
pub(in crate::audit) const PAGE: i32 = 256;

/// A row of the outbox as it was found.
#[derive(Debug)]
pub(in crate::audit) struct Found {
    pub(in crate::audit) place: Uuid,
    /// An entry of this event's id stands in the trail.
    pub(in crate::audit) on_record: bool,
    /// `None` if a column cannot be read.
    pub(in crate::audit) queued: Option<Queued>,
}

/// Queues an event in the transaction that `connection` is in.
//
// One insert: it takes no lock that any other writer waits for, reads nothing that another
// transaction could change, and so adds no conflict at any isolation level. Unnamed, because the
// host's connection may come from a pooler that shares sessions.
pub(in crate::audit) async fn insert_in_tx(
    connection: &mut PgConnection,
    tenant: &str,
    queued: &Queued,
    now: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portcullis.outbox
             (tenant_id, place, event_id, key_id, kind, occurred_at, occurred_given, session_id,
              agent_id, user_id, agent_key, parent_id, model, input_hash, output_hash, decision,
              metadata, signature, mac, queued_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                 $19, coalesce($20, now()))",
    )
    .bind(tenant)
    .bind(queued.place)
    .bind(queued.event_id)
    .bind(queued.key_id)
    .bind(&queued.kind)
    .bind(queued.occurred_at)
    .bind(queued.occurred_given)
    .bind(&queued.session_id)
    .bind(&queued.agent_id)
    .bind(&queued.user_id)
    .bind(&queued.agent_key)
    .bind(queued.parent_id)
    .bind(&queued.model)
    .bind(&queued.input_hash)
    .bind(&queued.output_hash)
    .bind(&queued.decision)
    .bind(&queued.metadata)
    .bind(&queued.signature)
    .bind(&queued.mac)
    .bind(now)
    .persistent(false)
    .execute(connection)
    .await
    .map(drop)
}

/// The rows after a place, in order; at the end fewer than a page, or none.
//
// In a transaction for the sake of its isolation level: where serializable is the default, looking
// could fail the transactions of hosts. Only what is committed is seen. A transaction that commits later may stand before what was read:
// every round begins at the first row again.
pub(in crate::audit) async fn list_after(
    store: &Store,
    after: Uuid,
) -> Result<Vec<Found>, StoreError> {
    let work = || async {
        let mut tx = store.begin().await?;
        let rows = sqlx::query(
            "SELECT o.place, o.event_id, o.key_id, o.kind, o.occurred_at, o.occurred_given,
                    o.session_id, o.agent_id, o.user_id, o.agent_key, o.parent_id, o.model,
                    o.input_hash, o.output_hash, o.decision, o.metadata, o.signature, o.mac,
                    EXISTS (SELECT 1
                              FROM portcullis.entries e
                             WHERE e.tenant_id = $1 AND e.event_id = o.event_id)
               FROM portcullis.outbox o
              WHERE o.tenant_id = $1 AND o.place > $2
              ORDER BY o.place
              LIMIT $3",
        )
        .bind(store.tenant().as_str())
        .bind(after)
        .bind(PAGE)
        .persistent(false)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    };
    let rows = store.run_idempotent("read the outbox", work).await?;
    let found = rows.iter().map(|row| {
        Ok(Found {
            place: row.try_get(0)?,
            on_record: row.try_get(18)?,
            queued: queued(row).ok(),
        })
    });
    found
        .collect::<Result<_, _>>()
        .map_err(StoreError::during("read the outbox"))
}

fn queued(row: &PgRow) -> Result<Queued, sqlx::Error> {
    Ok(Queued {
        place: row.try_get(0)?,
        event_id: row.try_get(1)?,
        key_id: row.try_get(2)?,
        kind: row.try_get(3)?,
        occurred_at: row.try_get(4)?,
        occurred_given: row.try_get(5)?,
        session_id: row.try_get(6)?,
        agent_id: row.try_get(7)?,
        user_id: row.try_get(8)?,
        agent_key: row.try_get(9)?,
        parent_id: row.try_get(10)?,
        model: row.try_get(11)?,
        input_hash: row.try_get(12)?,
        output_hash: row.try_get(13)?,
        decision: row.try_get(14)?,
        metadata: row.try_get(15)?,
        signature: row.try_get(16)?,
        mac: row.try_get(17)?,
    })
}

/// Removes those of `places` whose event is on record: found there with the same content, they were
/// not appended again.
pub(in crate::audit) async fn delete_recorded(
    store: &Store,
    places: &[Uuid],
) -> Result<(), StoreError> {
    let work = || async {
        let mut tx = store.begin().await?;
        sqlx::query(
            "DELETE FROM portcullis.outbox AS o
              WHERE o.tenant_id = $1
                AND o.place = ANY ($2)
                AND EXISTS (SELECT 1
                              FROM portcullis.entries e
                             WHERE e.tenant_id = $1 AND e.event_id = o.event_id)",
        )
        .bind(store.tenant().as_str())
        .bind(places)
        .persistent(false)
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    };
    store.run_idempotent("clear the outbox", work).await
}
