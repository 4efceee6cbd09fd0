//! Verifying the trail, and what an edited row looks like.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use portcullis::audit::{AuditEvent, AuditKeys, Scope};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Governance, Principal, Secret};
use sqlx::{ConnectOptions as _, Executor as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;
    let me = Principal::agent(AgentId::parse("billing-agent")?);
    for n in 0..100 {
        gov.audit()
            .append(AuditEvent::new(&me, "app.payment.made").with("cents", 100 + n))
            .await?;
    }
    print!("{}", gov.audit().verify_all().await?);

    // As an administrator of the database could, past grants and triggers.
    let mut administrator = test.options().connect().await?;
    administrator
        .execute(
            "ALTER TABLE portcullis.entries DISABLE TRIGGER ALL;
             UPDATE portcullis.entries SET metadata = '{\"cents\":9}' WHERE seq = 50;
             DELETE FROM portcullis.entries WHERE seq = 70",
        )
        .await?;

    let report = gov.audit().verify_all().await?;
    print!("{report}");
    for finding in report.findings() {
        println!("{finding}");
    }
    // One session, or a range of one chain, is verified by itself.
    let session = gov
        .audit()
        .verify(Scope::Session(me.session_id().clone()))
        .await?;
    println!("of the session: {} findings", session.findings().len());

    gov.shutdown().await;
    Ok(())
}
