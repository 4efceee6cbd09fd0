//! Money by agent, by user and by month: reserve before the call, settle after it; racing callers
//! cannot overspend.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use portcullis::cost::{Budget, Calls, Rolling, Spent};
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Ceiling, Governance, ModelName, Principal, Secret, Usage, Usd, UserId,
    audit::AuditKeys,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;

    let agent = AgentId::parse("research-agent")?;
    let budget = Budget::for_agent(agent.clone())
        .per_session(Usd::dollars(1))
        .per_day(Usd::dollars(20));
    gov.cost().register(budget).await?;
    // A customer has so much a month, whichever agent works for them; and nobody calls too often.
    let customer = UserId::parse("u_381")?;
    let monthly = Budget::for_user(customer.clone())
        .per_month(Usd::dollars(30))
        .warn_at(80);
    gov.cost().register(monthly).await?;
    let rate = Budget::for_tenant().rate(Calls(1_000), Rolling::MINUTE);
    gov.cost().register(rate).await?;
    let me = Principal::agent(agent).on_behalf_of(customer);

    // One model call: at most 4,000 tokens, really 1,200.
    let model = ModelName::parse("gpt-4o-mini")?;
    let held = gov
        .cost()
        .check_or_raise(&me, Ceiling::in_out(3_000, 1_000).of_model(&model))
        .await?;
    held.settle(Spent::tokens(Usage::tokens(1_000, 200)).model(&model))
        .await?;

    // Fifty callers want ten cents each at once; what is left of the dollar pays for nine.
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (cost, me) = (gov.cost().clone(), me.clone());
            tokio::spawn(async move {
                match cost.check_or_raise(&me, Ceiling::usd(Usd::cents(10))).await {
                    Ok(held) => held.settle(Spent::usd(Usd::cents(10))).await.is_ok(),
                    Err(_) => false,
                }
            })
        })
        .collect();
    let mut allowed = 0;
    for call in calls {
        allowed += usize::from(call.await?);
    }
    println!("{allowed} of 50 racing calls were allowed");
    println!("{}", gov.cost().snapshot(&me).await?);

    gov.shutdown().await;
    Ok(())
}
