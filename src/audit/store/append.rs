//! The statements that append: one round trip each, all of a batch or nothing.
//!
//! They advance the head and insert what follows it in one statement, so that the head cannot move
//! between being checked and being advanced: the update locks the row and checks it as it is once
//! the lock is held, and without a head nothing is inserted. A statement that failed or was cut off
//! leaves neither.
//!
//! The rows of a batch are one array. Measured on one chain, 486 events a batch: 11.1 us of the server's
//! CPU for each event, where a COPY of the same rows without a chain takes 10.9; what two chains cost
//! above that, they cost because two sessions write to the same indexes.
//!
//! Measured, and not taken: BEGIN, COPY, the head and COMMIT for large batches. A process that stops in
//! the middle of a COPY would hold places of its chain for as long as it stands, and there is nothing
//! left to be gained.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgQueryResult};
use sqlx::query::Query;

use super::chain::{Head, Hold};
use super::rows::Rows;
use crate::audit::model::Signed;
use crate::store::begin_on;

/// Advances the head if the chain is still ours and ends where we believe.
macro_rules! advance {
    () => {
        "WITH head AS (
             UPDATE portcullis.chains
                SET next_seq = $9,
                    head_mac = $10,
                    recorded_at = $11,
                    lease_until = coalesce($5, now()) + interval '90 seconds'
              WHERE tenant_id = $1
                AND chain_no = $2
                AND epoch = $3
                AND holder = $4
                AND key_id = $6
                AND next_seq = $7
                AND head_mac = $8
                AND NOT stopped
             RETURNING chain_no)
         "
    };
}

/// What is in the statement besides, where the head is signed.
macro_rules! signed {
    ($key:literal, $signature:literal) => {
        concat!(
            ", signed AS (
             INSERT INTO portcullis.head_signatures (tenant_id, chain_no, seq, key, signature)
             SELECT $1, head.chain_no, $9 - 1, ",
            $key,
            ", ",
            $signature,
            "
               FROM head)
         "
        )
    };
}

/// The usual batch: what happened just now, unsigned.
macro_rules! batch {
    () => {
        "INSERT INTO portcullis.entries
             (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id,
              session_id, agent_id, user_id, parent_id, model, input_hash, output_hash, decision,
              metadata, ingest, mac)
         SELECT $1, head.chain_no, $7 + e.place - 1, $6, e.kind, e.occurred_at, $11, e.event_id,
                e.session_id, e.agent_id, e.user_id, e.parent_id, e.model, e.input_hash, e.output_hash, e.decision,
                e.metadata, 'live', e.mac
           FROM head,
                unnest($12::portcullis.new_entry[]) WITH ORDINALITY
                    AS e(kind, occurred_at, event_id, session_id, agent_id,
                         user_id, parent_id, model, input_hash, output_hash,
                         decision, metadata, mac, ingest, agent_key, signature,
                         origin_journal, origin_seq, origin_mac, place)"
    };
}
const BATCH: &str = concat!(advance!(), batch!());
const BATCH_SIGNED: &str = concat!(advance!(), signed!("$13", "$14"), batch!());

/// A batch in which entries are signed, or come from elsewhere. What comes from the outbox leaves it
/// here: no crash can come between.
macro_rules! rich {
    () => {
        ", moved AS (
             DELETE FROM portcullis.outbox AS o
              USING head
              WHERE o.tenant_id = $1
                AND o.place = ANY ($13::uuid[]))
         INSERT INTO portcullis.entries
             (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id,
              session_id, agent_id, user_id, parent_id, model, input_hash, output_hash, decision,
              metadata, mac,
              agent_key, signature, ingest, origin_journal, origin_seq, origin_mac)
         SELECT $1, head.chain_no, $7 + e.place - 1, $6, e.kind, e.occurred_at, $11, e.event_id,
                e.session_id, e.agent_id, e.user_id, e.parent_id, e.model, e.input_hash, e.output_hash, e.decision,
                e.metadata, e.mac,
                e.agent_key, e.signature, e.ingest, e.origin_journal, e.origin_seq, e.origin_mac
           FROM head,
                unnest($12::portcullis.new_entry[]) WITH ORDINALITY
                    AS e(kind, occurred_at, event_id, session_id, agent_id,
                         user_id, parent_id, model, input_hash, output_hash,
                         decision, metadata, mac, ingest, agent_key, signature,
                         origin_journal, origin_seq, origin_mac, place)"
    };
}
const RICH: &str = concat!(advance!(), rich!());
const RICH_SIGNED: &str = concat!(advance!(), signed!("$14", "$15"), rich!());

/// One usual entry: the arrays would cost a lone caller a tenth of a millisecond.
macro_rules! one {
    () => {
        "INSERT INTO portcullis.entries
             (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at, event_id,
              session_id, agent_id, user_id, parent_id, model, input_hash, output_hash, decision,
              metadata, ingest, mac)
         SELECT $1, head.chain_no, $7, $6, $12, $13, $11, $14,
                $15, $16, $17, $18, $19, $20, $21, $22,
                $23, 'live', $10
           FROM head"
    };
}
const ONE: &str = concat!(advance!(), one!());
const ONE_SIGNED: &str = concat!(advance!(), signed!("$24", "$25"), one!());

#[cfg(test)]
pub(super) const COMPOSED: [&str; 6] = [BATCH, RICH, ONE, BATCH_SIGNED, RICH_SIGNED, ONE_SIGNED];

/// Appends a batch if the chain is still ours and ends where we believe; says how many entries
/// were written: all or none. `signed` is the signature of `to`, if it is signed, and goes with
/// them. `named` keeps the statement prepared in the session.
pub(in crate::audit) async fn try_append(
    connection: &mut PgConnection,
    hold: Hold<'_>,
    from: &Head,
    to: &Head,
    rows: &Rows,
    signed: Option<&Signed>,
    named: bool,
) -> Result<u64, sqlx::Error> {
    let one = to.next_seq == from.next_seq.saturating_add(1);
    let start = |sql| advancing(sql, hold, from, to);
    // A statement apart for each: what is not signed, the usual, carries nothing for it.
    let statement = match (rows.rich, one, signed.is_some()) {
        (false, true, false) => one_of(start(ONE), rows),
        (false, true, true) => one_of(start(ONE_SIGNED), rows),
        (false, false, false) => start(BATCH).bind(rows),
        (false, false, true) => start(BATCH_SIGNED).bind(rows),
        (true, _, false) => start(RICH).bind(rows).bind(&rows.outbox),
        (true, _, true) => start(RICH_SIGNED).bind(rows).bind(&rows.outbox),
    };
    let statement = match signed {
        None => statement,
        Some(signed) => statement
            .bind(signed.key.as_slice())
            .bind(signed.signature.as_slice()),
    };
    let done = statement.persistent(named).execute(connection).await;
    done.map(|done: PgQueryResult| done.rows_affected())
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// `$1` to `$11`.
fn advancing<'q>(sql: &'static str, hold: Hold<'q>, from: &'q Head, to: &'q Head) -> Statement<'q> {
    sqlx::query(sql)
        .bind(hold.tenant)
        .bind(hold.number())
        .bind(hold.epoch)
        .bind(hold.holder)
        .bind(hold.now)
        .bind(i64::from(hold.key_id))
        .bind(from.seq())
        .bind(from.mac.as_slice())
        .bind(to.seq())
        .bind(to.mac.as_slice())
        .bind(to.recorded)
}

/// `$12` to `$23`.
fn one_of<'q>(statement: Statement<'q>, rows: &'q Rows) -> Statement<'q> {
    // The MAC is the head's.
    rows.first().take(12).fold(statement, Statement::bind)
}

/// Has the driver of a connection through a pooler learn the type that batches are sent as.
//
// It asks for a type that it does not know in the middle of the statement that needs it, and by an unnamed
// statement, which then stands in the place of that one. So it is asked for once, by a statement of no
// importance, which may fail for it.
pub(in crate::audit) async fn learn_rows(
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    let none = Rows::default();
    let mut tx = begin_on(connection, limit).await?;
    let asked = sqlx::query("SELECT $1::portcullis.new_entry[] IS NULL")
        .bind(&none)
        .persistent(false)
        .execute(&mut *tx)
        .await;
    if let Err(error) = asked {
        tracing::debug!(%error, "the type of a batch was learned by a statement that failed for it");
    }
    tx.rollback().await
}
