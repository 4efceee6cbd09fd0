//! A halt drill: an operator halts an agent that is working, and resumes it. What was measured is printed.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(clippy::disallowed_methods, reason = "a drill reads the clock")]

use std::time::Instant;

use portcullis::audit::{AuditKeys, Query};
use portcullis::halt::Target;
use portcullis::presence::Filter;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Governance, OperatorId, Principal, Secret};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    // Two handles, as the agents' process and the operator's would have.
    let agents = Governance::builder(test.database(), keys.clone())
        .connect()
        .await?;
    let console = Governance::builder(test.database(), keys).connect().await?;
    while !agents.halt().status().heard {
        tokio::task::yield_now().await;
    }

    let anna = OperatorId::parse("user:anna")?;
    let lead = Principal::agent(AgentId::parse("billing-agent")?).operated_by(anna.clone());
    let sub = Principal::agent(AgentId::parse("mail-agent")?).child_of(&lead);
    agents.presence().heartbeat(&lead);

    // Work in flight: the sub-agent's long call, which is told when it must stop.
    let in_flight = tokio::spawn({
        let (halt, sub) = (agents.halt().clone(), sub.clone());
        async move { (halt.until_halted(&sub).await, Instant::now()) }
    });
    // And an agent that asks before each step.
    let working = tokio::spawn({
        let (halt, lead) = (agents.halt().clone(), lead.clone());
        async move {
            let mut steps = 0_u64;
            while halt.check(&lead).is_ok() {
                steps += 1;
                tokio::task::yield_now().await;
            }
            (steps, Instant::now())
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;

    let target = Target::agent_of(&lead);
    let begun = Instant::now();
    console
        .halt()
        .halt(&target, &anna, "drill of the quarter")
        .await?;
    let (steps, refused) = working.await?;
    let (halted, told) = in_flight.await?;
    println!(
        "the agent took {steps} steps, then its gate refused, {:.1?} after the halt",
        refused - begun
    );
    println!(
        "work in flight was told after {:.1?}: {halted}",
        told - begun
    );
    let seen = agents.presence();
    seen.flush().await?;
    for seen in seen.list(&Filter::all()).await?.sessions {
        println!("{} is {:?}", seen.agent, seen.state);
    }

    // Nothing that the agent does lifts it: not even under its own name.
    let itself = OperatorId::parse("Billing-Agent")?;
    if let Err(refused) = agents.halt().resume(&target, &itself, "let me").await {
        println!("the agent tries to resume itself: {refused}");
    }
    console.halt().resume(&target, &anna, "drill over").await?;
    agents.shutdown().await; // what was counted is on record now

    for entry in console.audit().events(&Query::all()).await?.entries {
        if entry.kind.as_str().starts_with("agent.") {
            println!("{} {} {}", entry.recorded_at, entry.kind, entry.metadata);
        }
    }
    console.shutdown().await;
    Ok(())
}
