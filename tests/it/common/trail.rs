//! An audit trail of its own for one test, and what can be said of any trail.

use std::time::Duration;

use portcullis::audit::{Audit, AuditEvent, AuditKeys, Committed, JournalSettings, Recorded};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Database, Principal, Secret, TenantId};
use sqlx::PgPool;

use super::proxy::Proxy;

const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";

pub(crate) struct Trail {
    pub(crate) test: TestDatabase,
    pub(crate) pool: PgPool,
    pub(crate) audit: Audit,
}

pub(crate) fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

pub(crate) async fn writer(database: &Database) -> Audit {
    Audit::open(database, keys(), TenantId::single())
        .await
        .unwrap()
}

pub(crate) async fn trail() -> Trail {
    let test = TestDatabase::fresh().await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    let audit = writer(&test.database()).await;
    Trail { test, pool, audit }
}

/// A trail whose writer's connections go through a proxy, with a deadline of its own and no journal.
pub(crate) async fn wired(deadline: Duration) -> (Trail, Proxy) {
    wired_with(deadline, JournalSettings::off()).await
}

pub(crate) async fn wired_with(deadline: Duration, journal: JournalSettings) -> (Trail, Proxy) {
    let mut trail = trail().await;
    let proxy = Proxy::before(&trail.test.options()).await;
    let through = Database::options(proxy.options()).statement_timeout(deadline);
    trail.audit = Audit::open_with(&through, keys(), TenantId::single(), journal)
        .await
        .unwrap();
    (trail, proxy)
}

/// Where an event stands that must be committed by now.
pub(crate) trait Place {
    fn place(&self) -> Committed;
}

impl Place for Recorded {
    fn place(&self) -> Committed {
        *self.committed().expect("committed")
    }
}

pub(crate) fn me() -> Principal {
    Principal::agent(AgentId::parse("billing-agent").unwrap())
}

pub(crate) fn event(kind: &str) -> AuditEvent {
    AuditEvent::new(&me(), kind)
}

impl Trail {
    pub(crate) async fn entries_of(&self, event: &AuditEvent) -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM portcullis.entries WHERE event_id = $1::text::uuid",
        )
        .bind(event.id().to_string())
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    pub(crate) async fn count(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM portcullis.entries WHERE kind LIKE 'app.%'")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) async fn chains(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM portcullis.chains")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) async fn run(&self, sql: &'static str) -> u64 {
        let done = sqlx::query(sql).execute(&self.pool).await.unwrap();
        done.rows_affected()
    }

    /// Every chain begins with its genesis, has no gap, and ends where its head says.
    pub(crate) async fn assert_whole(&self) {
        let broken: Vec<(i32, i64, Option<i64>, i64)> = sqlx::query_as(
            "SELECT c.chain_no, c.next_seq, max(e.seq), count(e.seq)
               FROM portcullis.chains c
               LEFT JOIN portcullis.entries e USING (tenant_id, chain_no)
              GROUP BY c.tenant_id, c.chain_no
             HAVING NOT coalesce(
                        max(e.seq) = c.next_seq - 1
                    AND count(e.seq) = c.next_seq - 1
                    AND min(e.seq) = 1
                    AND min(e.kind) FILTER (WHERE e.seq = 1) = 'chain.genesis'
                    AND (SELECT mac FROM portcullis.entries l
                          WHERE (l.tenant_id, l.chain_no, l.seq) = (c.tenant_id, c.chain_no, c.next_seq - 1)) = c.head_mac
                    AND max(e.recorded_at) = c.recorded_at, false)",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(
            broken.is_empty(),
            "chain, next_seq, last, count: {broken:?}"
        );
    }

    /// Ends the lease of every chain, as if its writer had been paused for long.
    pub(crate) async fn expire_leases(&self) {
        self.run("UPDATE portcullis.chains SET lease_until = now() - interval '1 hour'")
            .await;
    }
}

pub(crate) async fn append_many(audit: &Audit, tasks: usize, each: usize) -> Vec<Committed> {
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let audit = audit.clone();
            tokio::spawn(async move {
                let mut done = Vec::with_capacity(each);
                for n in 0..each {
                    let event = event("app.many").with("task", task).with("n", n);
                    done.push(audit.append(event).await.unwrap().place());
                }
                done
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}
