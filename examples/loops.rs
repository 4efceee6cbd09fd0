//! An agent that goes round in circles: a warning for its model, then a no that says what to do.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use portcullis::loops::{LoopAction, LoopPolicy, Poller};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Governance, Principal, Secret, audit::AuditKeys};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;

    let agent = AgentId::parse("support-agent")?;
    let policy = LoopPolicy::new(agent.clone()).window(Duration::from_mins(1));
    let policy = policy.poller("get_status", Poller::WhileChanging);
    gov.loops().register(policy.clone().repeats(5)).await?; // stored: in force in every process
    gov.loops()
        .pin(policy.repeats(3).action(LoopAction::Warn))
        .await?; // this process only; both apply

    let me = Principal::agent(agent);
    let ticket = json!({"ticket": 7});
    for _ in 0..5 {
        match gov.loops().check(&me, "read_ticket", &ticket).await {
            Ok(clear) => match clear.warning() {
                None => println!("read_ticket    clear"),
                Some(warning) => println!("read_ticket    clear, but: {warning}"),
            },
            Err(error) => println!("read_ticket    {error}"),
        }
        gov.loops()
            .observe(&me, "read_ticket", &ticket, b"the customer waits");
    }

    // Many calls at once with different arguments are no loop, and neither is asking for news.
    for n in 0..20 {
        gov.loops()
            .check(&me, "read_ticket", &json!({"ticket": 100 + n}))
            .await?;
        gov.loops().check(&me, "get_status", &json!({})).await?;
        gov.loops().observe(
            &me,
            "get_status",
            &json!({}),
            format!("{n} of 20").as_bytes(),
        );
    }
    println!("twenty tickets and twenty looks at the status: clear");

    gov.shutdown().await;
    Ok(())
}
