//! The host's rows and the audit event, committed together or not at all.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use portcullis::audit::{AuditEvent, AuditKeys, Query};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Database, Governance, Principal, Secret};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?;
    let pool = test.database().connect_pool().await?;
    sqlx::query("CREATE TABLE invoices (id text PRIMARY KEY)")
        .execute(&pool)
        .await?;
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(Database::pool(pool.clone()), keys)
        .connect()
        .await?;
    let me = Principal::agent(AgentId::parse("billing-agent")?);

    // An ORM's raw connection does as well, if it is a PgConnection.
    for (id, commit) in [("inv_381", true), ("inv_382", false)] {
        let mut tx = pool.begin().await?;
        sqlx::query("INSERT INTO invoices VALUES ($1)")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        let made = AuditEvent::new(&me, "app.invoice.made").with("invoice", id);
        gov.audit().append_in_tx(&mut tx, made).await?;
        if commit {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
    }

    // It happens by itself, moments after the commit; this waits for it.
    println!("{:?}", gov.audit().move_outbox().await?);
    for entry in gov.audit().events(&Query::all()).await?.entries {
        println!("{} {}", entry.kind, entry.metadata.as_str());
    }
    gov.shutdown().await;
    pool.close().await;
    Ok(())
}
