//! Contracts: what must hold before a call, and after it.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::convert::Infallible;
use std::time::Duration;

use portcullis::contracts::{Condition, Contract, Ending, Promise};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Call, Governance, Principal, Secret, audit::AuditKeys};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;

    let office_hours = Condition::custom("office_hours", Duration::from_secs(1), async |about| {
        Ok::<_, Infallible>(about.resource() != Some("night"))
    });
    gov.contracts()
        .register(
            Contract::new("refunds")
                .for_tools(["refund_payment"])
                .requires(Condition::NotHalted)
                .requires(office_hours)
                .requires(Condition::Audited)
                .ensures(Promise::result("has_id", |id: &String| {
                    id.starts_with("re_")
                })),
        )
        .await?;

    let me = Principal::agent(AgentId::parse("support-agent")?);
    for (when, refund) in [("day", "re_7"), ("day", "error"), ("night", "re_8")] {
        let call = Call::tool(&me, "refund_payment")
            .resource(when)
            .args(&json!({"cents": 500}));
        let guard = match gov.contracts().guard(&call).await {
            Ok(guard) => guard,
            Err(error) => {
                println!("{when:<6} not called: {error}");
                continue;
            }
        };
        let refund = refund.to_owned(); // your code, which cannot be wrapped
        match guard.finish(Ending::completed(&refund)).await {
            Ok(()) => println!("{when:<6} {refund}"),
            Err(error) => println!("{when:<6} {error}"),
        }
    }

    gov.shutdown().await;
    Ok(())
}
