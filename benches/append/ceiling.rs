//! What is possible: the same rows, in the same columns and indexes, without a chain.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{Events, Run};

/// As many rows as one batch of ours has.
const BATCH: usize = 1_000;
const COLUMNS: i16 = 16;
/// Microseconds from 1970 to 2000.
const EPOCH: i64 = 946_684_800_000_000;

pub(crate) type Queue = mpsc::Sender<(Row, oneshot::Sender<()>)>;

/// One row, ready to be sent.
pub(crate) struct Row {
    event_id: Uuid,
    session: String,
    metadata: String,
    hash: [u8; 32],
}

impl Row {
    fn new(caller: usize, session: &str) -> Self {
        Self {
            event_id: Uuid::now_v7(),
            session: session.to_owned(),
            metadata: format!(
                r#"{{"caller":{caller},"resource":"customer/c_381","tool":"send_email"}}"#
            ),
            hash: [7; 32],
        }
    }

    fn encode(&self, chain_no: i32, seq: i64, now: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(&COLUMNS.to_be_bytes());
        for field in [
            b"default".as_slice(),
            &chain_no.to_be_bytes(),
            &seq.to_be_bytes(),
            &1_i64.to_be_bytes(),
            b"app.tool.call.completed",
            &now.to_be_bytes(),
            &now.to_be_bytes(),
            self.event_id.as_bytes(),
            self.session.as_bytes(),
            b"billing-agent",
            &self.hash,
            &self.hash,
            b"allow",
            self.metadata.as_bytes(),
            b"live",
            &self.hash,
        ] {
            out.extend_from_slice(&(field.len() as i32).to_be_bytes());
            out.extend_from_slice(field);
        }
    }
}

/// Makes the tables: as ours, the chain's triggers apart, which do not fire on inserts.
pub(crate) async fn prepare(connection: &mut PgConnection) {
    for sql in [
        "CREATE SCHEMA bench",
        "CREATE TABLE bench.entries (LIKE portcullis.entries INCLUDING ALL)",
        "CREATE TABLE bench.chain (next_seq bigint NOT NULL, head_mac bytea NOT NULL) WITH (fillfactor = 50)",
        "INSERT INTO bench.chain (next_seq, head_mac) VALUES (1, decode(repeat('00', 32), 'hex'))",
    ] {
        sqlx::query(sql).execute(&mut *connection).await.unwrap();
    }
}

/// Durable INSERTs of one row, one after the other.
pub(crate) async fn bare_inserts(connection: &mut PgConnection, length: Duration) -> Run {
    let session = Uuid::now_v7().to_string();
    let began = Instant::now();
    let mut took = Vec::new();
    let chain_no = chain_number();
    let mut seq = 0_i64;
    while began.elapsed() < length {
        let start = Instant::now();
        let row = Row::new(0, &session);
        seq += 1;
        sqlx::query(
            "INSERT INTO bench.entries
                 (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id,
                  session_id, agent_id, input_hash, output_hash, decision, metadata, ingest, mac)
             VALUES ($1, $2, $3, $4, $5, now(), now(), $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind("default")
        .bind(chain_no)
        .bind(seq)
        .bind(1_i64)
        .bind("app.tool.call.completed")
        .bind(row.event_id)
        .bind(&row.session)
        .bind("billing-agent")
        .bind(row.hash.as_slice())
        .bind(row.hash.as_slice())
        .bind("allow")
        .bind(&row.metadata)
        .bind("live")
        .bind(row.hash.as_slice())
        .execute(&mut *connection)
        .await
        .unwrap();
        took.push(start.elapsed().as_micros() as u32);
    }
    Run::new(began.elapsed(), took)
}

/// A number that no other writer to `bench.entries` has.
fn chain_number() -> i32 {
    let bytes = *Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)).as_bytes();
    i32::from_be_bytes([bytes[12] & 0x7f, bytes[13], bytes[14], bytes[15]]).max(1)
}

/// The task that copies in what is queued, one batch after the other.
pub(crate) fn start(connection: PgConnection) -> Queue {
    let (queue, rows) = mpsc::channel(8_192);
    tokio::spawn(copy_task(connection, rows, false));
    queue
}

/// The same, chained: all processes share one chain, whose head is locked, read and advanced.
pub(crate) fn start_shared(connection: PgConnection) -> Queue {
    let (queue, rows) = mpsc::channel(8_192);
    tokio::spawn(copy_task(connection, rows, true));
    queue
}

async fn copy_task(
    mut connection: PgConnection,
    mut queue: mpsc::Receiver<(Row, oneshot::Sender<()>)>,
    shared: bool,
) {
    let chain_no = chain_number();
    let mut seq = 0;
    let mut batch = Vec::new();
    let mut bytes = Vec::new();
    loop {
        batch.clear();
        if queue.recv_many(&mut batch, 1).await == 0 {
            return;
        }
        // As ours does, so that the first caller to run does not make a batch of its own.
        tokio::task::yield_now().await;
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        if shared {
            sqlx::raw_sql("BEGIN; SELECT next_seq, head_mac FROM bench.chain FOR UPDATE")
                .execute(&mut connection)
                .await
                .unwrap();
        }
        bytes.clear();
        bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        let now = uuid::Timestamp::now(uuid::NoContext).to_unix();
        let now = now.0 as i64 * 1_000_000 + i64::from(now.1 / 1_000) - EPOCH;
        for (row, _) in &batch {
            seq += 1;
            row.encode(chain_no, seq, now, &mut bytes);
        }
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut copy = connection
            .copy_in_raw(
                "COPY bench.entries
                     (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id,
                      session_id, agent_id, input_hash, output_hash, decision, metadata, ingest, mac)
                 FROM STDIN (FORMAT binary)",
            )
            .await
            .unwrap();
        copy.send(bytes.as_slice()).await.unwrap();
        copy.finish().await.unwrap();
        if shared {
            sqlx::raw_sql("UPDATE bench.chain SET next_seq = next_seq + 1; COMMIT")
                .execute(&mut connection)
                .await
                .unwrap();
        }
        for (_, done) in batch.drain(..) {
            let _ = done.send(());
        }
    }
}

/// One caller of the group COPY.
pub(crate) async fn copy(queue: Queue, events: Events) -> Vec<u32> {
    let session = Uuid::now_v7().to_string();
    let mut took = Vec::new();
    while events.more() {
        let began = Instant::now();
        let (done, answer) = oneshot::channel();
        let row = Row::new(events.caller, &session);
        queue.send((row, done)).await.unwrap_or_else(|_| panic!());
        answer.await.unwrap();
        took.push(began.elapsed().as_micros() as u32);
    }
    took
}
