//! Provenance: what led to an event, and what it led to, each in one statement.

use super::columns::columns;
use super::read::{Fetched, previous};
use crate::ids::EventId;
use crate::store::{InStore as _, Store, StoreError};

/// How far a lineage is walked.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Bounds {
    pub(in crate::audit) depth: i32,
    pub(in crate::audit) rows: i64,
}

/// Whoever joins the walk so far: `$join` says how. Each path is kept, so that a cycle, which
/// callers can make, ends where it closes; and the walk itself stops at the limit, since rows of a
/// recursive query are made as they are taken.
macro_rules! walk {
    ($join:literal) => {
        concat!(
            "WITH RECURSIVE walk (event_id, parent_id, depth, path) AS (
                 SELECT e.event_id, e.parent_id, 0, ARRAY[e.event_id]
                   FROM portcullis.entries e
                  WHERE e.tenant_id = $1 AND e.event_id = $2
                 UNION ALL
                 SELECT e.event_id, e.parent_id, w.depth + 1, w.path || e.event_id
                   FROM walk w
                   JOIN portcullis.entries e
                     ON e.tenant_id = $1 AND ",
            $join,
            "
                  WHERE w.depth < $3 AND e.event_id <> ALL (w.path)
             ), found AS MATERIALIZED (
                 SELECT w.event_id, w.depth FROM walk w LIMIT $4
             )
             SELECT f.depth, ",
            columns!("e"),
            ", ",
            previous!("$5"),
            "
               FROM found f
               JOIN portcullis.entries e ON e.tenant_id = $1 AND e.event_id = f.event_id
              WHERE f.depth > 0
              ORDER BY f.depth, e.recorded_at, e.chain_no, e.seq"
        )
    };
}

const ANCESTORS: &str = walk!("e.event_id = w.parent_id");
const DESCENDANTS: &str = walk!("e.parent_id = w.event_id");

/// Every statement that is made of parts, for the test that prepares them.
#[cfg(test)]
pub(super) const COMPOSED: [&str; 2] = [ANCESTORS, DESCENDANTS];

/// The parent, its parent, and so on.
pub(in crate::audit) async fn list_ancestors(
    store: &Store,
    id: EventId,
    bounds: Bounds,
    with_previous: bool,
) -> Result<Vec<Fetched>, StoreError> {
    list(store, ANCESTORS, id, bounds, with_previous).await
}

/// The children, their children, and so on.
pub(in crate::audit) async fn list_descendants(
    store: &Store,
    id: EventId,
    bounds: Bounds,
    with_previous: bool,
) -> Result<Vec<Fetched>, StoreError> {
    list(store, DESCENDANTS, id, bounds, with_previous).await
}

async fn list(
    store: &Store,
    sql: &'static str,
    id: EventId,
    bounds: Bounds,
    with_previous: bool,
) -> Result<Vec<Fetched>, StoreError> {
    let work = || async {
        sqlx::query(sql)
            .bind(store.tenant().as_str())
            .bind(id.as_uuid())
            .bind(bounds.depth)
            .bind(bounds.rows)
            .bind(with_previous)
            .fetch_all_in(store)
            .await
    };
    let rows = store
        .run_idempotent("walk the lineage of an event", work)
        .await?;
    Ok(rows.into_iter().map(|row| Fetched::new(row, 1)).collect())
}
