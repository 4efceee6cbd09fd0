//! A call that a person has to agree to: asked here, decided in another process, made once.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use portcullis::audit::{AuditKeys, Query};
use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision};
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Call, Database, Governance, OperatorId, Permit, Principal, Secret};
use serde_json::json;

type Fault = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Fault> {
    if let (Ok(url), Ok(secret)) = (std::env::var("APPROVER_URL"), std::env::var("APPROVER_KEY")) {
        return approver(
            Database::url(url),
            AuditKeys::single(Secret::parse(&secret)?),
        )
        .await;
    }
    let test = TestDatabase::fresh().await?; // your application: Database::from_env()
    let secret = Secret::generate()?;
    let key = secret.to_hex().to_string();
    let gov = Governance::builder(test.database(), AuditKeys::single(secret))
        .connect()
        .await?;

    let agent = AgentId::parse("billing-agent")?;
    gov.scope()
        .register(ScopePolicy::new(agent.clone()).allow_tools(["refund"])?)
        .await?;
    gov.gates()
        .register(
            ApprovalPolicy::new(agent.clone())
                .require_for_tools(["refund"])?
                .approvers(["user:erin"])?,
        )
        .await?;

    // A restarted agent that keeps its session finds what it asked for.
    let me = Principal::agent(agent).operated_by(OperatorId::parse("dana")?);
    let call = Call::tool(&me, "refund").args(&json!({"invoice": "inv_381", "amount": 900}));
    let refund = async |_: &Permit| Ok::<_, std::io::Error>("refunded");

    if let Err(refused) = gov.run(&call, refund).await {
        println!("agent     {refused}");
    }
    println!(
        "agent     what a person is shown:\n{}",
        gov.gates().canonical(&call)?
    );

    let socket = test.options();
    let url = format!(
        "postgres://{}@localhost:{}/{}?host={}",
        socket.get_username(),
        socket.get_port(),
        test.name(),
        socket.get_socket().map_or_else(
            || socket.get_host().into(),
            |path| path.display().to_string()
        ),
    );
    let mut person = std::process::Command::new(std::env::current_exe()?)
        .env("APPROVER_URL", url)
        .env("APPROVER_KEY", key)
        .spawn()?;
    let request = gov.gates().request(&call, Ask::policy()).await?.id();
    let decided = gov.gates().wait(request, Duration::from_secs(30)).await?;
    println!("agent     the request is {}", decided.state.as_str());
    println!("agent     {}", gov.run(&call, refund).await?);
    if let Err(refused) = gov.run(&call, refund).await {
        println!("agent     once more: {refused}");
    }
    person.wait()?;

    gov.audit().move_outbox().await?;
    for entry in &gov.audit().events(&Query::all()).await?.entries {
        println!(
            "trail     {} {}",
            entry.kind,
            entry.decision.as_deref().unwrap_or("")
        );
    }
    gov.shutdown().await;
    Ok(())
}

/// Another program, with a person before it.
async fn approver(database: Database, keys: AuditKeys) -> Result<(), Fault> {
    let gov = Governance::builder(database, keys).connect().await?;
    for request in gov.gates().pending(None).await? {
        println!("approver  {} asks for {}", request.agent, request.label);
        for who in ["user:dana", "user:erin"] {
            let who = ApproverRef::parse(who)?;
            let decision = Decision::grant().because("the invoice was paid twice");
            match gov.gates().decide(request.id, &who, decision).await {
                Ok(decided) => println!("approver  {who}: {}", decided.state.as_str()),
                Err(error) => println!("approver  {who}: {error}"),
            }
        }
    }
    gov.shutdown().await;
    Ok(())
}
