//! Finding entries by their events' ids: what is on record already is not written again.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::time::Timestamp;

/// An entry that was found by its event's id.
#[derive(Clone, Debug)]
pub(in crate::audit) struct StoredEvent {
    pub(in crate::audit) event_id: Uuid,
    pub(in crate::audit) chain_no: u32,
    pub(in crate::audit) seq: u64,
    pub(in crate::audit) kind: String,
    pub(in crate::audit) occurred_at: Timestamp,
    pub(in crate::audit) session_id: Option<String>,
    pub(in crate::audit) agent_id: Option<String>,
    pub(in crate::audit) user_id: Option<String>,
    pub(in crate::audit) parent_id: Option<Uuid>,
    pub(in crate::audit) model: Option<String>,
    pub(in crate::audit) input_hash: Option<Vec<u8>>,
    pub(in crate::audit) output_hash: Option<Vec<u8>>,
    pub(in crate::audit) decision: Option<String>,
    pub(in crate::audit) metadata: String,
}

type EventRow = (
    Uuid,
    i32,
    i64,
    String,
    Timestamp,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Uuid>,
    Option<String>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
    String,
);

/// The entries of these events, where there are any.
pub(in crate::audit) async fn list_events(
    connection: &mut PgConnection,
    tenant: &str,
    ids: &[Uuid],
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    let rows = sqlx::query_as::<_, EventRow>(
        "SELECT event_id, chain_no, seq, kind, occurred_at, session_id, agent_id, user_id,
                parent_id, model, input_hash, output_hash, decision, metadata
           FROM portcullis.entries
          WHERE tenant_id = $1
            AND event_id = ANY ($2)",
    )
    .bind(tenant)
    .bind(ids)
    .persistent(false)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(StoredEvent::read).collect()
}

impl StoredEvent {
    fn read(row: EventRow) -> Result<Self, sqlx::Error> {
        let malformed = || sqlx::Error::Decode("an entry's place is malformed".into());
        Ok(Self {
            event_id: row.0,
            chain_no: u32::try_from(row.1).map_err(|_| malformed())?,
            seq: u64::try_from(row.2).map_err(|_| malformed())?,
            kind: row.3,
            occurred_at: row.4,
            session_id: row.5,
            agent_id: row.6,
            user_id: row.7,
            parent_id: row.8,
            model: row.9,
            input_hash: row.10,
            output_hash: row.11,
            decision: row.12,
            metadata: row.13,
        })
    }
}
