//! Every SQL statement of the registry, and nothing else.

use uuid::Uuid;

use super::counts::{Batch, Seen};
use super::model::{Client, HostDigest, Window};
use crate::random::uuid_v7;
use crate::store::{ExecuteIn as _, InStore as _, Store, StoreError};
use crate::time::Timestamp;

/// How many clients are read by one statement.
const PAGE: usize = 1_000;

type Row = (String, Vec<u8>, Timestamp, Timestamp, i64);

#[derive(Debug)]
pub(super) struct CoverageStore {
    store: Store,
    /// Under which this process writes.
    writer: Uuid,
}

impl CoverageStore {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            writer: uuid_v7(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.store.now()
    }

    /// Adds the counts of `batch`, unless they were added before.
    //
    // One statement, and safe to send again: the mark of this process is advanced first, and only
    // whoever advances it adds anything. A second sending waits for the first one's lock on the mark,
    // and then finds it advanced. Processes take the rows of clients and quarters in one order, so
    // that they wait for each other instead of deadlocking.
    pub(super) async fn add(&self, batch: &Batch) -> Result<(), StoreError> {
        let clients = Clients::of(batch);
        let calls = Calls::of(batch);
        let work = async || {
            sqlx::query(
                "WITH mark AS (
                     INSERT INTO portcullis.coverage_writers AS w
                            (tenant_id, writer_id, batch, written_at)
                     VALUES ($1, $2, $3, coalesce($4, now()))
                     ON CONFLICT (tenant_id, writer_id) DO UPDATE
                        SET batch = excluded.batch, written_at = excluded.written_at
                      WHERE w.batch < excluded.batch
                     RETURNING w.batch),
                 clients AS (
                     INSERT INTO portcullis.coverage_clients AS c
                            (tenant_id, kind, host, first_seen, last_seen, calls)
                     SELECT $1, g.kind, g.host, g.first_seen, g.last_seen, g.calls
                       FROM unnest($5::text[], $6::bytea[], $7::timestamptz[], $8::timestamptz[],
                                   $9::bigint[]) AS g (kind, host, first_seen, last_seen, calls)
                      CROSS JOIN mark
                      ORDER BY g.kind COLLATE \"C\", g.host
                     ON CONFLICT (tenant_id, kind, host) DO UPDATE
                        SET first_seen = least(c.first_seen, excluded.first_seen),
                            last_seen = greatest(c.last_seen, excluded.last_seen),
                            calls = c.calls + excluded.calls)
                 INSERT INTO portcullis.coverage_calls AS c (tenant_id, kind, host, quarter, calls)
                 SELECT $1, g.kind, g.host, g.quarter, g.calls
                   FROM unnest($10::text[], $11::bytea[], $12::timestamptz[], $13::bigint[])
                        AS g (kind, host, quarter, calls)
                  CROSS JOIN mark
                  ORDER BY g.kind COLLATE \"C\", g.host, g.quarter
                 ON CONFLICT (tenant_id, kind, host, quarter) DO UPDATE
                    SET calls = c.calls + excluded.calls",
            )
            .bind(self.store.tenant().as_str())
            .bind(self.writer)
            .bind(batch.number)
            .bind(self.store.database_now())
            .bind(&clients.kinds)
            .bind(&clients.hosts)
            .bind(&clients.first)
            .bind(&clients.last)
            .bind(&clients.calls)
            .bind(&calls.kinds)
            .bind(&calls.hosts)
            .bind(&calls.quarters)
            .bind(&calls.counts)
            .execute_in(&self.store)
            .await
        };
        let done = self.store.run_idempotent("count governed calls", work);
        done.await.map(drop)
    }

    /// Removes the marks of processes that have not written for a day. None of them sends a batch
    /// again: it gives it up after half of that.
    pub(super) async fn forget_writers(&self) -> Result<(), StoreError> {
        let work = async || {
            sqlx::query(
                "DELETE FROM portcullis.coverage_writers
                  WHERE tenant_id = $1
                    AND writer_id <> $2
                    AND written_at < coalesce($3, now()) - interval '1 day'",
            )
            .bind(self.store.tenant().as_str())
            .bind(self.writer)
            .bind(self.store.database_now())
            .execute_in(&self.store)
            .await
        };
        let done = self.store.run_idempotent("forget who counted", work);
        done.await.map(drop)
    }

    /// Every client of the tenant, by kind and host.
    pub(super) async fn list_clients(&self) -> Result<Vec<Client>, StoreError> {
        let mut clients: Vec<Client> = Vec::new();
        loop {
            let after = clients.last();
            let kind = after.map_or("", |client| client.kind.as_str());
            let host = after.map_or(&[][..], |client| client.host.as_bytes());
            let page = self.list_after(kind, host).await?;
            let is_last = page.len() < PAGE;
            clients.extend(page.into_iter().filter_map(client));
            if is_last {
                return Ok(clients);
            }
        }
    }

    async fn list_after(&self, kind: &str, host: &[u8]) -> Result<Vec<Row>, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT kind, host, first_seen, last_seen, calls
                   FROM portcullis.coverage_clients
                  WHERE tenant_id = $1 AND (kind, host) > ($2, $3)
                  ORDER BY kind, host
                  LIMIT $4",
            )
            .bind(self.store.tenant().as_str())
            .bind(kind)
            .bind(host)
            .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
            .fetch_all_in(&self.store)
            .await
        };
        let rows = self
            .store
            .run_idempotent("read which clients are wrapped", work);
        rows.await
    }

    /// How many calls a client of `kind` made in `window`, to any of `hosts`: the digests of one
    /// host under all keys.
    pub(super) async fn count(
        &self,
        kind: &str,
        hosts: &[HostDigest],
        window: Window,
    ) -> Result<u64, StoreError> {
        let hosts: Vec<&[u8]> = hosts.iter().map(|host| &host.as_bytes()[..]).collect();
        let work = async || {
            sqlx::query_as(
                "SELECT coalesce(sum(calls), 0)::bigint
                   FROM portcullis.coverage_calls
                  WHERE tenant_id = $1 AND kind = $2 AND host = ANY($3)
                    AND quarter >= $4 AND quarter < $5",
            )
            .bind(self.store.tenant().as_str())
            .bind(kind)
            .bind(&hosts)
            .bind(window.from())
            .bind(window.to())
            .fetch_optional_in(&self.store)
            .await
        };
        let sum = self
            .store
            .run_idempotent("read how many calls were governed", work);
        let sum: Option<(i64,)> = sum.await?;
        Ok(sum.map_or(0, |(calls,)| u64::try_from(calls).unwrap_or(0)))
    }
}

/// A row as it is shown; the constraints of the table leave no row that cannot be.
fn client((kind, host, first_seen, last_seen, calls): Row) -> Option<Client> {
    Some(Client {
        kind,
        host: HostDigest::new(host.try_into().ok()?),
        first_seen,
        last_seen,
        calls: u64::try_from(calls).ok()?,
    })
}

/// The columns of the clients of a batch.
#[derive(Default)]
struct Clients<'b> {
    kinds: Vec<&'b str>,
    hosts: Vec<&'b [u8]>,
    first: Vec<Timestamp>,
    last: Vec<Timestamp>,
    calls: Vec<i64>,
}

impl<'b> Clients<'b> {
    fn of(batch: &'b Batch) -> Self {
        let mut columns = Self::default();
        for (name, seen) in &batch.seen {
            columns.kinds.push(&name.kind);
            columns.hosts.push(name.host.as_bytes());
            columns.first.push(seen.first);
            columns.last.push(seen.last);
            columns.calls.push(stored(Seen::total(seen)));
        }
        columns
    }
}

/// The columns of the calls of a batch.
#[derive(Default)]
struct Calls<'b> {
    kinds: Vec<&'b str>,
    hosts: Vec<&'b [u8]>,
    quarters: Vec<Timestamp>,
    counts: Vec<i64>,
}

impl<'b> Calls<'b> {
    fn of(batch: &'b Batch) -> Self {
        let mut columns = Self::default();
        for (name, seen) in &batch.seen {
            for (quarter, calls) in &seen.calls {
                columns.kinds.push(&name.kind);
                columns.hosts.push(name.host.as_bytes());
                columns.quarters.push(*quarter);
                columns.counts.push(stored(*calls));
            }
        }
        columns
    }
}

fn stored(calls: u64) -> i64 {
    i64::try_from(calls).unwrap_or(i64::MAX)
}
