//! Policies of one module, in versions: written in one transaction, followed by every process.
//!
//! [`Policies`] is the SQL, [`PolicyWatch`] keeps a process in step with it. A module keeps its
//! policies as documents under names of its own; what a document means is the module's business.
//!
//! | The store is | a write | what is in force |
//! |---|---|---|
//! | reachable | stored, in force here, and within a second everywhere | follows what is stored |
//! | unreachable | fails | stays, and its age is known |

#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::postgres::PgConnection;
use tokio::sync::Mutex;
pub(crate) use watch::{PolicyChanges, PolicyWatch};

use super::{InStore as _, Store, StoreError, Topic};

/// How many policies are read or written by one statement.
const PAGE: usize = 1_000;
/// How many bytes of documents are read or written by one statement; one alone may be longer.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// The stored policies of one module and tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    store: Store,
    module: &'static str,
    /// Writers of one process wait for each other here, and not each on a connection.
    writing: Arc<Mutex<()>>,
}

/// One policy, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyRow {
    pub(crate) name: String,
    /// Counts the changes of this policy.
    pub(crate) version: i64,
    /// The change of the module's policies that it came with.
    pub(crate) revision: i64,
    /// `None`: it was removed.
    pub(crate) document: Option<String>,
}

struct Page {
    rows: Vec<PolicyRow>,
    /// It holds everything that there was after its beginning when it was read.
    is_last: bool,
}

impl Policies {
    pub(crate) fn new(store: Store, module: &'static str) -> Self {
        Self {
            store,
            module,
            writing: Arc::default(),
        }
    }

    /// Stores all of `documents`, by name, or none; the revision with which they stand. Of two under
    /// one name the later counts. What is stored already in the same words is left, so that a fleet
    /// which registers its policies at every start changes nothing.
    ///
    /// Not cancel safe by itself: a caller who goes away may leave it done or undone.
    //
    // Safe under concurrency: `next_revision` locks the module's row until the commit, so writers
    // come one after the other, and the one that commits last is the one that stands.
    pub(crate) async fn upsert_all(
        &self,
        documents: &[(String, String)],
    ) -> Result<i64, StoreError> {
        let operation = "store policies";
        // In the order of their names, whatever the caller's.
        let sorted: BTreeMap<&str, &str> = documents
            .iter()
            .map(|(name, document)| (name.as_str(), document.as_str()))
            .collect();
        let _one = self.writing.lock().await;
        let mut tx = self.within(operation, self.store.begin()).await?;
        let revision = self.next_revision(&mut tx, operation).await?;
        let mut changed = 0;
        let mut rest = sorted.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut names, mut texts, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((name, text)) = rest.next_if(|(_, text)| {
                names.is_empty() || (names.len() < PAGE && bytes + text.len() <= PAGE_BYTES)
            }) {
                bytes += text.len();
                names.push(name);
                texts.push(text);
            }
            let upsert = self.upsert(&mut tx, revision, names, texts);
            changed += self.within(operation, upsert).await?;
        }
        if changed == 0 {
            // Nothing to tell: the revision is given back.
            self.within(operation, tx.rollback()).await?;
            return Ok(revision - 1);
        }
        self.within(operation, self.tell(&mut tx)).await?;
        self.within(operation, tx.commit()).await?;
        Ok(revision)
    }

    /// Removes the policy `name`; says whether there was one. Its row stays, so that others hear.
    //
    // Safe under concurrency as `upsert_all` is.
    pub(crate) async fn delete(&self, name: &str) -> Result<bool, StoreError> {
        let operation = "remove a policy";
        let _one = self.writing.lock().await;
        let mut tx = self.within(operation, self.store.begin()).await?;
        let revision = self.next_revision(&mut tx, operation).await?;
        let delete = sqlx::query(
            "UPDATE portcullis.policies
                SET document = NULL,
                    version = version + 1,
                    revision = $4,
                    updated_at = coalesce($5, now())
              WHERE tenant_id = $1 AND module = $2 AND name = $3 AND document IS NOT NULL",
        )
        .bind(self.store.tenant().as_str())
        .bind(self.module)
        .bind(name)
        .bind(revision)
        .bind(self.store.database_now())
        .persistent(false);
        let done = self.within(operation, delete.execute(&mut *tx)).await?;
        if done.rows_affected() == 0 {
            self.within(operation, tx.rollback()).await?;
            return Ok(false);
        }
        self.within(operation, self.tell(&mut tx)).await?;
        self.within(operation, tx.commit()).await?;
        Ok(true)
    }

    /// A page of what changed with `revision`, as far as it has a name greater than `after`, and with
    /// later ones: in the order of revisions and names, removed ones included; empty at the end.
    ///
    /// Read to the end it is the state of one moment, that of the last page, however much is
    /// written meanwhile; a name that changed while it was read occurs twice, and the later counts.
    //
    // Why nothing is missed: revisions commit in order, so a page that holds revision n was read
    // when every smaller one was visible. A row that is at revision r when the last page is read was
    // already there when the page that covers r was, or else that page is the last one. A row that
    // moved on meanwhile has a greater revision, and is found further on.
    pub(crate) async fn list_since(
        &self,
        revision: i64,
        after: &str,
    ) -> Result<Vec<PolicyRow>, StoreError> {
        Ok(self.fetch_page(revision, after).await?.rows)
    }

    /// As [`list_since`](Self::list_since); says whether it is the last page, so that one who reads
    /// while others never stop writing comes to an end.
    async fn fetch_page(&self, revision: i64, after: &str) -> Result<Page, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT s.name, s.version, s.revision, s.document, s.held
                   FROM (SELECT p.name, p.version, p.revision, p.document,
                                count(*) OVER () AS held,
                                row_number() OVER place AS nth,
                                sum(coalesce(octet_length(p.document), 0)) OVER place AS bytes
                           FROM (SELECT c.name, c.version, c.revision, c.document
                                   FROM portcullis.policies c
                                  WHERE c.tenant_id = $1
                                    AND c.module = $2
                                    AND (c.revision, c.name) > ($3, $4::text COLLATE \"C\")
                                  ORDER BY c.revision, c.name
                                  LIMIT $5) p
                         WINDOW place AS (ORDER BY p.revision, p.name)) s
                  WHERE s.nth = 1 OR s.bytes <= $6
                  ORDER BY s.revision, s.name",
            )
            .bind(self.store.tenant().as_str())
            .bind(self.module)
            .bind(revision)
            .bind(after)
            .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
            .bind(i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX))
            .fetch_all_in(&self.store)
            .await
        };
        let rows: Vec<(String, i64, i64, Option<String>, i64)> =
            self.store.run_idempotent("read policies", work).await?;
        // How many there were, before those beyond the most bytes were left out.
        let held = rows.first().map_or(0, |row| row.4);
        let held = usize::try_from(held).unwrap_or(usize::MAX);
        let row = |(name, version, revision, document, _)| PolicyRow {
            name,
            version,
            revision,
            document,
        };
        Ok(Page {
            is_last: held < PAGE && rows.len() == held,
            rows: rows.into_iter().map(row).collect(),
        })
    }

    /// The newest revision; 0 before the first.
    pub(crate) async fn fetch_revision(&self) -> Result<i64, StoreError> {
        let work = async || {
            sqlx::query_as(
                "SELECT revision
                   FROM portcullis.policy_revisions
                  WHERE tenant_id = $1 AND module = $2",
            )
            .bind(self.store.tenant().as_str())
            .bind(self.module)
            .fetch_optional_in(&self.store)
            .await
        };
        let found: Option<(i64,)> = self.store.run_idempotent("look for policies", work).await?;
        Ok(found.map_or(0, |(revision,)| revision))
    }

    /// Takes the next revision, and locks it until the transaction ends.
    async fn next_revision(
        &self,
        tx: &mut PgConnection,
        operation: &'static str,
    ) -> Result<i64, StoreError> {
        let next = sqlx::query_scalar(
            "INSERT INTO portcullis.policy_revisions AS r (tenant_id, module, revision, changed_at)
             VALUES ($1, $2, 1, coalesce($3, now()))
             ON CONFLICT (tenant_id, module) DO UPDATE
                SET revision = r.revision + 1,
                    changed_at = excluded.changed_at
             RETURNING revision",
        )
        .bind(self.store.tenant().as_str())
        .bind(self.module)
        .bind(self.store.database_now())
        .persistent(false);
        self.within(operation, next.fetch_one(tx)).await
    }

    /// How many of the documents are other than what is stored; they are then.
    async fn upsert(
        &self,
        tx: &mut PgConnection,
        revision: i64,
        names: Vec<&str>,
        documents: Vec<&str>,
    ) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(
            "INSERT INTO portcullis.policies AS p
                    (tenant_id, module, name, version, revision, document, updated_at)
             SELECT $1, $2, given.name, 1, $3, given.document, coalesce($6, now())
               FROM unnest($4::text[], $5::text[]) AS given (name, document)
             ON CONFLICT (tenant_id, module, name) DO UPDATE
                SET document = excluded.document,
                    version = p.version + 1,
                    revision = excluded.revision,
                    updated_at = excluded.updated_at
              WHERE p.document IS DISTINCT FROM excluded.document",
        )
        .bind(self.store.tenant().as_str())
        .bind(self.module)
        .bind(revision)
        .bind(names)
        .bind(documents)
        .bind(self.store.database_now())
        .persistent(false)
        .execute(tx)
        .await?;
        Ok(done.rows_affected())
    }

    /// Tells the others, at the commit.
    async fn tell(&self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_notify('portcullis', $1)")
            .bind(Topic::Policies.payload(self.store.tenant(), self.module))
            .persistent(false)
            .execute(tx)
            .await
            .map(drop)
    }

    /// Waits for one statement, not longer than the deadline: it holds for each, since there may be
    /// a million policies.
    async fn within<T>(
        &self,
        operation: &'static str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.store.deadline(), statement).await {
            Ok(answer) => answer.map_err(StoreError::during(operation)),
            Err(_) => Err(StoreError::timed_out(operation)),
        }
    }
}
