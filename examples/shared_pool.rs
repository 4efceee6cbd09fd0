//! Over the host's own pool: one Postgres, one set of connections, the host's tables beside ours.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use portcullis::audit::{AuditEvent, AuditKeys};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Database, Governance, Principal, Secret};
use sqlx::postgres::PgPoolOptions;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?;

    // The application has a pool already, and tables of its own.
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect_with(test.options())
        .await?;
    sqlx::query("CREATE TABLE invoices (id text PRIMARY KEY)")
        .execute(&pool)
        .await?;

    // The same pool serves the gates. The audit writer opens connections of its own with the
    // pool's options, so that a busy pool starves no evidence.
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(Database::pool(pool.clone()), keys)
        .connect()
        .await?;

    let me = Principal::agent(AgentId::parse("billing-agent")?);
    sqlx::query("INSERT INTO invoices VALUES ('inv_381')")
        .execute(&pool)
        .await?;
    let receipt = gov
        .audit()
        .log(AuditEvent::new(&me, "app.invoice.made").with("invoice", "inv_381"))
        .await;
    println!("{receipt:?}");

    let health = gov.health().await;
    for check in &health.store?.checks {
        println!(
            "{:<10} {:<5} {}",
            check.name,
            if check.ok { "ok" } else { "look" },
            check.detail
        );
    }

    gov.shutdown().await;
    pool.close().await;
    Ok(())
}
