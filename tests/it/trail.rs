//! A trail to be read, verified and tampered with.

use portcullis::audit::{Audit, AuditEvent, AuditKeys, FindingClass, Scope, Verification};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, EventId, ModelName, Principal, Secret, SessionId, TenantId, UserId};
use sqlx::PgPool;

pub(crate) const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";

pub(crate) fn keys() -> AuditKeys {
    AuditKeys::single(Secret::parse(SECRET).unwrap())
}

/// A finding, as the tests spell it.
pub(crate) type Found = (FindingClass, u32, u64);

pub(crate) fn found(verification: &Verification) -> Vec<Found> {
    let findings = verification.findings().iter();
    let mut found: Vec<_> = findings.map(|f| (f.class, f.chain_no, f.seq)).collect();
    found.sort();
    found
}

/// A migrated database, and a superuser's way into it.
pub(crate) struct Trail {
    pub(crate) test: TestDatabase,
    pub(crate) pool: PgPool,
}

impl Trail {
    pub(crate) async fn empty() -> Self {
        let test = TestDatabase::fresh().await.unwrap();
        let pool = test.database().connect_pool().await.unwrap();
        Self { test, pool }
    }

    /// Three chains of twelve entries each, in sessions `s-1` to `s-3`, by three writers.
    pub(crate) async fn written() -> Self {
        let trail = Self::empty().await;
        // Each writer keeps its chain while the others write.
        let mut writers = Vec::new();
        for chain in 1..=3 {
            let audit = trail.audit().await;
            writers.push(audit.clone());
            let who = who("a-1", &format!("s-{chain}"));
            let mut parent = None;
            for n in 2..=12 {
                let event = if n % 2 == 0 {
                    rich(&who, n, parent)
                } else {
                    AuditEvent::new(&who, "app.plain")
                };
                parent = Some(event.id());
                audit.append(event).await.unwrap();
            }
        }
        for writer in writers {
            writer.shutdown().await;
        }
        trail
    }

    pub(crate) async fn audit(&self) -> Audit {
        self.audit_of(keys(), TenantId::single()).await
    }

    pub(crate) async fn audit_of(&self, keys: AuditKeys, tenant: TenantId) -> Audit {
        Audit::open(&self.test.database(), keys, tenant)
            .await
            .unwrap()
    }

    /// Does what a superuser can: the triggers are off and the constraints are gone.
    pub(crate) async fn disarm(&self) {
        for table in ["entries", "chains", "keyring"] {
            self.sql(&format!(
                "ALTER TABLE portcullis.{table} DISABLE TRIGGER ALL"
            ))
            .await;
        }
        self.sql(
            "DO $$ DECLARE c record; BEGIN
               FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
                         WHERE conrelid IN ('portcullis.entries'::regclass, 'portcullis.chains'::regclass)
                           AND contype IN ('c', 'u')
               LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); END LOOP;
               FOR c IN SELECT attrelid::regclass AS t, attname FROM pg_attribute
                         WHERE attrelid IN ('portcullis.entries'::regclass, 'portcullis.chains'::regclass)
                           AND attnum > 0 AND attnotnull
                           AND attname NOT IN ('tenant_id', 'chain_no', 'seq')
               LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', c.t, c.attname); END LOOP;
             END $$",
        )
        .await;
        self.sql("CREATE TABLE public.entries AS SELECT * FROM portcullis.entries")
            .await;
        self.sql("CREATE TABLE public.chains AS SELECT * FROM portcullis.chains")
            .await;
    }

    /// Undoes everything since [`disarm`](Self::disarm).
    pub(crate) async fn restore(&self) {
        for table in ["entries", "chains"] {
            self.sql(&format!("DELETE FROM portcullis.{table}")).await;
            self.sql(&format!(
                "INSERT INTO portcullis.{table} SELECT * FROM public.{table}"
            ))
            .await;
        }
    }

    /// Runs statements, and says how many rows they changed.
    pub(crate) async fn sql(&self, text: &str) -> u64 {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        let done = sqlx::raw_sql(text).execute(&self.pool).await;
        done.unwrap().rows_affected()
    }

    pub(crate) async fn verify(&self, scope: Scope) -> Verification {
        self.audit().await.verify(scope).await.unwrap()
    }

    pub(crate) async fn found(&self) -> Vec<Found> {
        found(&self.verify(Scope::All).await)
    }
}

pub(crate) fn who(agent: &str, session: &str) -> Principal {
    Principal::agent(AgentId::parse(agent).unwrap())
        .session(SessionId::parse(session).unwrap())
        .on_behalf_of(UserId::parse("u-1").unwrap())
}

/// An event that has everything.
pub(crate) fn rich(who: &Principal, n: u64, parent: Option<EventId>) -> AuditEvent {
    let event = AuditEvent::new(who, "app.invoice.read")
        .model(&ModelName::parse("gpt-4o-mini").unwrap())
        .input(&n.to_be_bytes())
        .output(b"answer")
        .decision("allow")
        .with("n", n)
        .with("text", "ä \"quoted\"\n");
    match parent {
        Some(parent) => event.caused_by(parent),
        None => event,
    }
}
