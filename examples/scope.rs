//! What an agent may use: allow-lists, prefixes, hidden tools, default deny.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Governance, Principal, Secret, audit::AuditKeys};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;

    let agent = AgentId::parse("support-agent")?;
    gov.scope()
        .register(
            ScopePolicy::new(agent.clone())
                .allow_tools(["read_ticket", "kb.*"])?
                .allow_apis(["https://api.example.com/tickets/*"])?
                .hide_tools(["delete_ticket"])?,
        )
        .await?;

    let me = Principal::agent(agent);
    for tool in [
        "read_ticket",
        "kb.search",
        "kbsearch",
        "delete_ticket",
        "refund",
    ] {
        match gov.scope().check(&me, tool).await {
            Ok(_) => println!("{tool:<14} allowed"),
            Err(error) => println!("{tool:<14} {error}"),
        }
    }
    for url in [
        "https://api.example.com/tickets/7",
        "https://api.example.com.evil.test/tickets/7",
    ] {
        println!(
            "{url:<45} {}",
            if gov.scope().check_api(&me, url).await.is_ok() {
                "allowed"
            } else {
                "refused"
            }
        );
    }
    let shown = gov
        .scope()
        .filter_tools(&me, vec!["read_ticket", "delete_ticket", "kb.search"]);
    println!("the model is shown {}", shown.join(", "));

    gov.shutdown().await;
    Ok(())
}
