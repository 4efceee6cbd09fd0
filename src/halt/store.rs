//! Every SQL statement of the halt switch, and nothing else.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::model::{Order, Target, folded};
use crate::ids::{AgentId, OperatorId, SessionId};
use crate::store::{EVERY_TENANT, InStore as _, Store, StoreError, Topic};
use crate::time::Timestamp;

/// How many changes there were: of everything, of the tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    pub(super) everything: u64,
    pub(super) tenant: u64,
}

/// What is in force, and as of which changes: one snapshot.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) epochs: Epochs,
    pub(super) orders: Vec<Order>,
}

/// How a target is stored.
#[derive(Debug)]
struct Stored<'t> {
    tenant: &'t str,
    agent: &'t str,
    session: &'t str,
    /// Who is to hear of a change.
    payload: String,
}

fn stored<'t>(store: &'t Store, target: &'t Target) -> Stored<'t> {
    let ours = store.tenant();
    let (tenant, payload) = if *target == Target::Everything {
        (EVERY_TENANT, Topic::Halts.payload_for_all("-"))
    } else {
        (ours.as_str(), Topic::Halts.payload(ours, "-"))
    };
    Stored {
        tenant,
        agent: target.agent().map_or("", AsRef::as_ref),
        session: target.session().map_or("", AsRef::as_ref),
        payload,
    }
}

/// Stores a halt; `None` if the target is halted already, or this order was stored before.
//
// The trigger `halts_in_order` locks the tenant's epoch, looks whether the target is halted, and gives
// the epoch: of two who halt at once, the second waits for the first and changes nothing. The notice
// goes out at the commit, if there is a row to hear of.
pub(super) async fn insert_halt_in_tx(
    tx: &mut PgConnection,
    store: &Store,
    order: &Order,
    event: Uuid,
) -> Result<Option<u64>, sqlx::Error> {
    let at = stored(store, &order.target);
    let made: Option<(i64, Option<String>)> = sqlx::query_as(
        "WITH made AS (
             INSERT INTO portcullis.halts
                    (tenant_id, epoch, agent_id, session_id, operator_id, reason, halted_at, event_id)
             VALUES ($1, 1, $2, $3, $4, $5, coalesce($6, now()), $7)
             RETURNING epoch)
         SELECT made.epoch, pg_notify('portcullis', $8)::text FROM made",
    )
    .bind(at.tenant)
    .bind(at.agent)
    .bind(at.session)
    .bind(order.by.as_str())
    .bind(&*order.why)
    .bind(store.database_now())
    .bind(event)
    .bind(&at.payload)
    .persistent(false)
    .fetch_optional(tx)
    .await?;
    made.map(|(made, _)| epoch(made)).transpose()
}

/// The epoch of the halt of `target` that is in force, if there is one.
pub(super) async fn fetch_epoch_in_tx(
    tx: &mut PgConnection,
    store: &Store,
    target: &Target,
) -> Result<Option<u64>, sqlx::Error> {
    let at = stored(store, target);
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT h.epoch
           FROM portcullis.halts h
          WHERE h.tenant_id = $1 AND h.agent_id = $2 AND h.session_id = $3
            AND NOT EXISTS (SELECT FROM portcullis.halt_resumptions r
                             WHERE r.tenant_id = h.tenant_id AND r.halt_epoch = h.epoch)
          ORDER BY h.epoch DESC
          LIMIT 1",
    )
    .bind(at.tenant)
    .bind(at.agent)
    .bind(at.session)
    .persistent(false)
    .fetch_optional(tx)
    .await?;
    found.map(epoch).transpose()
}

/// What came of a resumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumed {
    /// It is the change with this epoch.
    At(u64),
    /// Nothing was halted.
    NotHalted,
    /// The operator's name is that of an agent.
    ByAnAgent,
}

/// Lifts the halt of `target` that is in force, unless `by` is the name of an agent that anything here
/// knows of.
//
// One statement; the trigger `halt_resumptions_in_order` locks the tenant's epoch and lets one of two
// resumptions of the same halt through. Inserting takes a grant that the application's role lacks.
pub(super) async fn insert_resumption_in_tx(
    tx: &mut PgConnection,
    store: &Store,
    target: &Target,
    by: &OperatorId,
    why: &str,
    event: Uuid,
) -> Result<Resumed, sqlx::Error> {
    let at = stored(store, target);
    let (an_agent, made, _): (bool, Option<i64>, Option<String>) = sqlx::query_as(
        "WITH named AS (
             SELECT EXISTS (SELECT FROM portcullis.presence p
                             WHERE (p.tenant_id = $9 OR $1 = '*') AND lower(p.agent_id) IN ($10, lower($4)))
                 OR EXISTS (SELECT FROM portcullis.policies s
                             WHERE (s.tenant_id = $9 OR $1 = '*') AND s.module IN ('scope', 'gates')
                               AND lower(s.name) IN ($10, lower($4)))
                 OR EXISTS (SELECT FROM portcullis.halts a
                             WHERE (a.tenant_id = $9 OR $1 = '*') AND lower(a.agent_id) IN ($10, lower($4)))
                    AS an_agent
         ), made AS (
             INSERT INTO portcullis.halt_resumptions
                    (tenant_id, halt_epoch, epoch, operator_id, reason, resumed_at, event_id)
             SELECT h.tenant_id, h.epoch, h.epoch + 1, $4, $5, coalesce($6, now()), $7
               FROM portcullis.halts h
              CROSS JOIN named
              WHERE NOT named.an_agent
                AND h.tenant_id = $1 AND h.agent_id = $2 AND h.session_id = $3
                AND NOT EXISTS (SELECT FROM portcullis.halt_resumptions r
                                 WHERE r.tenant_id = h.tenant_id AND r.halt_epoch = h.epoch)
             RETURNING epoch
         )
         SELECT named.an_agent, made.epoch,
                CASE WHEN made.epoch IS NOT NULL THEN pg_notify('portcullis', $8)::text END
           FROM named
           LEFT JOIN made ON true",
    )
    .bind(at.tenant)
    .bind(at.agent)
    .bind(at.session)
    .bind(by.as_str())
    .bind(why)
    .bind(store.database_now())
    .bind(event)
    .bind(&at.payload)
    .bind(store.tenant().as_str())
    .bind(folded(by))
    .persistent(false)
    .fetch_one(tx)
    .await?;
    match made {
        Some(made) => epoch(made).map(Resumed::At),
        None if an_agent => Ok(Resumed::ByAnAgent),
        None => Ok(Resumed::NotHalted),
    }
}

/// How many changes there were: what a poll asks, two rows by their key.
pub(super) async fn fetch_epochs(store: &Store) -> Result<Epochs, StoreError> {
    let operation = "ask whether anything was halted";
    let work = async || {
        sqlx::query_as::<_, (String, i64)>(
            "SELECT e.tenant_id, e.epoch
               FROM portcullis.halt_epochs e
              WHERE e.tenant_id IN ($1, '*')",
        )
        .bind(store.tenant().as_str())
        .fetch_all_in(store)
        .await
    };
    let rows = store.run_idempotent(operation, work).await?;
    let mut epochs = Epochs::default();
    for (tenant, changes) in rows {
        let changes = epoch(changes).map_err(|_| StoreError::malformed(operation))?;
        count(&mut epochs, &tenant, changes);
    }
    Ok(epochs)
}

/// The tenant, its epoch, and of a halt: agent, session, operator, reason, time, epoch.
type Row = (
    String,
    i64,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Timestamp>,
    Option<i64>,
);

/// Everything that is in force for the tenant.
//
// One statement and so one snapshot: the epochs are those of the halts that come with them.
pub(super) async fn list_in_force(store: &Store) -> Result<Read, StoreError> {
    let operation = "read what is halted";
    let work = async || {
        sqlx::query_as::<_, Row>(
            "SELECT e.tenant_id, e.epoch,
                    h.agent_id, h.session_id, h.operator_id, h.reason, h.halted_at, h.epoch
               FROM portcullis.halt_epochs e
               LEFT JOIN portcullis.halts h
                 ON h.tenant_id = e.tenant_id
                AND NOT EXISTS (SELECT FROM portcullis.halt_resumptions r
                                 WHERE r.tenant_id = h.tenant_id AND r.halt_epoch = h.epoch)
              WHERE e.tenant_id IN ($1, '*')",
        )
        .bind(store.tenant().as_str())
        .fetch_all_in(store)
        .await
    };
    let rows = store.run_idempotent(operation, work).await?;
    let mut read = Read::default();
    for row in rows {
        let changes = epoch(row.1).map_err(|_| StoreError::malformed(operation))?;
        count(&mut read.epochs, &row.0, changes);
        if row.7.is_some() {
            // No principal can have a name that is none, so nothing has to be denied; and nobody who may
            // insert a row shall keep the others from being read.
            if let Some(order) = order(row) {
                read.orders.push(order);
            } else {
                tracing::error!("a stored halt is on a name that is none; it halts nobody");
            }
        }
    }
    Ok(read)
}

fn count(epochs: &mut Epochs, tenant: &str, changes: u64) {
    if tenant == EVERY_TENANT {
        epochs.everything = changes;
    } else {
        epochs.tenant = changes;
    }
}

/// A stored halt; `None` if it is on a name that is none.
fn order(row: Row) -> Option<Order> {
    let (tenant, _, agent, session, by, why, since, at) = row;
    let target = match (&*agent?, &*session?) {
        ("", _) if tenant == EVERY_TENANT => Target::Everything,
        ("", _) => Target::Tenant,
        (agent, "") => Target::Agent(AgentId::parse(agent).ok()?),
        (agent, session) => {
            Target::Session(AgentId::parse(agent).ok()?, SessionId::parse(session).ok()?)
        }
    };
    Some(Order {
        target,
        by: OperatorId::parse(by?)
            .or_else(|_| OperatorId::parse("unknown"))
            .ok()?,
        why: why?.into(),
        since: since?,
        epoch: Some(epoch(at?).ok()?),
    })
}

fn epoch(stored: i64) -> Result<u64, sqlx::Error> {
    u64::try_from(stored).map_err(|error| sqlx::Error::Decode(error.into()))
}
