//! Reading the trail: filters, pages, what led to what, and following it live.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use portcullis::audit::{AuditEvent, AuditKeys, Query};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Governance, Principal, Secret};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;
    let me = Principal::agent(AgentId::parse("billing-agent")?);

    let mut live = gov.audit().follow(&Query::all().agent(me.agent_id()));
    live.begin().await?;

    let read = AuditEvent::new(&me, "app.invoice.read").with("invoice", "inv_381");
    let mailed = AuditEvent::new(&me, "app.invoice.mailed").caused_by(read.id());
    let (read_id, mailed_id) = (read.id(), mailed.id());
    for event in [read, mailed] {
        println!("logged {:?}", gov.audit().log(event).await.committed());
    }

    // Ten at a time, in the order in which they were recorded.
    let page = gov
        .audit()
        .events(&Query::all().session(me.session_id()).limit(10))
        .await?;
    for entry in &page.entries {
        println!("{} {} {}", entry.recorded_at, entry.kind, entry.metadata);
    }
    for relative in gov.audit().ancestors(mailed_id).await?.relatives {
        println!("led to by {} {}", relative.entry.kind, relative.entry.id);
    }
    println!(
        "{} event(s) came of {read_id}",
        gov.audit().descendants(read_id).await?.relatives.len()
    );
    println!("live: {}", live.next().await?.kind);

    gov.shutdown().await;
    Ok(())
}
