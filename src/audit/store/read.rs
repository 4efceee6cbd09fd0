//! Reading entries: by filter and page, one by one, and along a chain.
//!
//! A page has one statement for each index that can lead it, in both directions; the other filters
//! are conditions on what the index finds. Every bound is always there (the end of time stands for
//! none), so that each text has one plan, whatever is asked for.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Postgres, Row as _};

use super::columns::columns;
use crate::audit::keys::Tag;
use crate::audit::read::Lead;
use crate::audit::stored::{self, COLUMNS, Stored, Torn};
use crate::ids::{EventId, TenantId};
use crate::store::{InStore as _, Store, StoreError};
use crate::time::Timestamp;

/// An entry and, where it was asked for, the MAC that is stored before it.
#[derive(Debug)]
pub(in crate::audit) struct Fetched {
    row: PgRow,
    first: usize,
}

impl Fetched {
    pub(in crate::audit) fn new(row: PgRow, first: usize) -> Self {
        Self { row, first }
    }

    pub(in crate::audit) fn stored<'b>(
        &'b self,
        tenant: &'b TenantId,
    ) -> Result<Result<Stored<'b>, Torn<'b>>, sqlx::Error> {
        let raw = stored::raw(&self.row, self.first)?;
        Ok(Stored::decode(tenant.as_str(), &raw))
    }

    pub(in crate::audit) fn previous(&self) -> Result<Option<Tag>, sqlx::Error> {
        let mac: Option<&[u8]> = self.row.try_get(self.first + COLUMNS)?;
        Ok(mac.and_then(|bytes| bytes.try_into().ok()))
    }

    pub(in crate::audit) fn depth(&self) -> Result<i32, sqlx::Error> {
        self.row.try_get(0)
    }
}

/// What a page is asked for, as it is bound.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct PageOf<'q> {
    pub(in crate::audit) tenant: &'q TenantId,
    pub(in crate::audit) lead: Lead,
    pub(in crate::audit) newest_first: bool,
    pub(in crate::audit) session: Option<&'q str>,
    pub(in crate::audit) agent: Option<&'q str>,
    pub(in crate::audit) parent: Option<EventId>,
    pub(in crate::audit) kind: Option<&'q str>,
    pub(in crate::audit) kind_prefix: Option<&'q str>,
    pub(in crate::audit) from: Timestamp,
    pub(in crate::audit) to: Timestamp,
    pub(in crate::audit) after: (Timestamp, i32, i64),
    pub(in crate::audit) limit: i64,
    pub(in crate::audit) with_previous: bool,
}

/// The MAC that is stored before an entry, where `$of` asks for it; also where that is archived.
macro_rules! previous {
    ($of:literal) => {
        concat!(
            "CASE WHEN ",
            $of,
            " THEN coalesce(
                 (SELECT p.mac
                    FROM portcullis.entries p
                   WHERE p.tenant_id = e.tenant_id
                     AND p.chain_no = e.chain_no
                     AND p.seq = e.seq - 1),
                 (SELECT l.previous_mac
                    FROM portcullis.archive_links l
                   WHERE l.tenant_id = e.tenant_id
                     AND l.chain_no = e.chain_no
                     AND l.seq = e.seq))
             END"
        )
    };
}
pub(super) use previous;

/// One page: `$lead` is the condition of the index that leads, `$than` and `$order` the direction.
macro_rules! page {
    ($lead:literal, $than:literal, $order:literal) => {
        concat!(
            "SELECT ",
            columns!("e"),
            ", ",
            previous!("$13"),
            "
               FROM portcullis.entries e
              WHERE e.tenant_id = $1
                AND ",
            $lead,
            "
                AND e.recorded_at >= $7
                AND e.recorded_at < $8
                AND (e.recorded_at, e.chain_no, e.seq) ",
            $than,
            " ($9, $10, $11)
                AND ($5::text IS NULL OR e.kind = $5)
                AND ($6::text IS NULL OR starts_with(e.kind, $6))
              ORDER BY e.recorded_at ",
            $order,
            ", e.chain_no ",
            $order,
            ", e.seq ",
            $order,
            "
              LIMIT $12"
        )
    };
}

/// A lead and the filters that it leaves.
macro_rules! pages {
    ($than:literal, $order:literal) => {
        [
            page!(
                "e.session_id = $2
                 AND ($3::text IS NULL OR e.agent_id = $3)
                 AND ($4::uuid IS NULL OR e.parent_id = $4)",
                $than,
                $order
            ),
            page!(
                "e.agent_id = $3
                 AND ($2::text IS NULL OR e.session_id = $2)
                 AND ($4::uuid IS NULL OR e.parent_id = $4)",
                $than,
                $order
            ),
            page!(
                "e.parent_id = $4
                 AND ($2::text IS NULL OR e.session_id = $2)
                 AND ($3::text IS NULL OR e.agent_id = $3)",
                $than,
                $order
            ),
            page!(
                "$2::text IS NULL AND $3::text IS NULL AND $4::uuid IS NULL",
                $than,
                $order
            ),
        ]
    };
}

const OLDEST_FIRST: [&str; 4] = pages!(">", "ASC");
const NEWEST_FIRST: [&str; 4] = pages!("<", "DESC");

/// Every statement that is made of parts, for the test that prepares them.
#[cfg(test)]
pub(super) const COMPOSED: [[&str; 4]; 2] = [OLDEST_FIRST, NEWEST_FIRST];

impl PageOf<'_> {
    /// The statement of the index that leads.
    pub(in crate::audit) const fn sql(&self) -> &'static str {
        let [session, agent, parent, time] = if self.newest_first {
            NEWEST_FIRST
        } else {
            OLDEST_FIRST
        };
        match self.lead {
            Lead::Session => session,
            Lead::Agent => agent,
            Lead::Parent => parent,
            Lead::Time => time,
        }
    }

    pub(in crate::audit) fn bound<'q>(
        &self,
        sql: impl sqlx::SqlSafeStr,
    ) -> sqlx::query::Query<'q, Postgres, PgArguments> {
        sqlx::query(sql)
            .bind(self.tenant.as_str().to_owned())
            .bind(self.session.map(str::to_owned))
            .bind(self.agent.map(str::to_owned))
            .bind(self.parent.map(EventId::as_uuid))
            .bind(self.kind.map(str::to_owned))
            .bind(self.kind_prefix.map(str::to_owned))
            .bind(self.from)
            .bind(self.to)
            .bind(self.after.0)
            .bind(self.after.1)
            .bind(self.after.2)
            .bind(self.limit)
            .bind(self.with_previous)
    }
}

/// One page of entries.
//
// Not persistent: planned for what is bound, where `$n IS NULL` folds away and the bounds are seen.
pub(in crate::audit) async fn list_entries(
    store: &Store,
    page: &PageOf<'_>,
) -> Result<Vec<Fetched>, StoreError> {
    let work = || async {
        let query = page.bound(page.sql()).persistent(false);
        query.fetch_all_in(store).await
    };
    let rows = store
        .run_idempotent("read a page of the audit trail", work)
        .await?;
    Ok(rows.into_iter().map(|row| Fetched::new(row, 0)).collect())
}

/// One entry by its event.
pub(in crate::audit) async fn fetch_entry(
    store: &Store,
    id: EventId,
    with_previous: bool,
) -> Result<Option<Fetched>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!("e"),
        ", ",
        previous!("$3"),
        "
           FROM portcullis.entries e
          WHERE e.tenant_id = $1 AND e.event_id = $2"
    );
    let work = || async {
        sqlx::query(SQL)
            .bind(store.tenant().as_str())
            .bind(id.as_uuid())
            .bind(with_previous)
            .fetch_optional_in(store)
            .await
    };
    let row = store
        .run_idempotent("read an entry of the audit trail", work)
        .await?;
    Ok(row.map(|row| Fetched::new(row, 0)))
}

/// Where each chain of the tenant ends.
pub(in crate::audit) async fn list_heads(store: &Store) -> Result<Vec<(i32, i64)>, StoreError> {
    let work = || async {
        sqlx::query_as(
            "SELECT c.chain_no, c.next_seq - 1
               FROM portcullis.chains c
              WHERE c.tenant_id = $1
              ORDER BY c.chain_no",
        )
        .bind(store.tenant().as_str())
        .fetch_all_in(store)
        .await
    };
    store
        .run_idempotent("read the heads of the audit trail", work)
        .await
}

/// The entries of a chain after a place, up to another, in order.
pub(in crate::audit) async fn list_chain(
    store: &Store,
    chain_no: i32,
    after: i64,
    to: i64,
    with_previous: bool,
) -> Result<Vec<Fetched>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!("e"),
        ", ",
        previous!("$5"),
        "
           FROM portcullis.entries e
          WHERE e.tenant_id = $1
            AND e.chain_no = $2
            AND e.seq > $3
            AND e.seq <= $4
          ORDER BY e.seq"
    );
    let work = || async {
        sqlx::query(SQL)
            .bind(store.tenant().as_str())
            .bind(chain_no)
            .bind(after)
            .bind(to)
            .bind(with_previous)
            .fetch_all_in(store)
            .await
    };
    let rows = store.run_idempotent("follow the audit trail", work).await?;
    Ok(rows.into_iter().map(|row| Fetched::new(row, 0)).collect())
}
