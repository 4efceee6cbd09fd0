//! A governed agent, from nothing: `cargo run --example quickstart`.
//!
//! Starts a Postgres of its own in `.portcullis/quickstart`, and an agent whose model calls and tool
//! calls pass the gates. With `OPENAI_API_KEY` (and, if you like, `OPENAI_BASE_URL` and
//! `OPENAI_MODEL`) it talks to the real endpoint, for a fraction of a cent; without, to a stand-in
//! that speaks the same wire format.

#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "an example shows what it does; a JSON value that is not there is null"
)]

mod agent;
mod setting;
mod stand_in;
mod tamper;
mod trail;

use std::error::Error;
use std::path::Path;

use portcullis::store::embedded::{Cluster, DatabaseName};
use portcullis::{Call, Database, Governance, Permit, Principal};

/// Where the Postgres lives. It can be run on again: the trail grows, and still verifies.
const DIRECTORY: &str = ".portcullis/quickstart";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start(DIRECTORY).await?;
    let name: DatabaseName = "quickstart".parse()?;
    cluster.ensure_database(&name).await?;
    let keys = setting::keys(&cluster.directory().join("audit.secret"))?;
    let database = Database::options(cluster.options(name.as_str()));
    database.migrate().await?;
    let gov = Governance::builder(database.clone(), keys.clone())
        .default_max_output_tokens(120)
        .connect()
        .await?;
    say_where(cluster.directory());

    let provider = setting::provider().await?;
    let agent = setting::policies(&gov, &provider).await?;
    let me = Principal::agent(agent);

    heading("The agent at work");
    agent::work(&gov, &me, &provider).await?;

    heading("A tool that it may not use");
    refused_tool(&gov, &me).await;

    heading("A budget that runs out");
    agent::spend_until_refused(&gov, &me, &provider).await?;
    setting::print_budgets(&gov.cost().snapshot(&me).await?);

    heading("The trail of this session");
    trail::print(&gov, &me).await?;

    heading("Verification of everything ever written here");
    print!("{}", gov.audit().verify_all().await?);

    gov.shutdown().await;
    database.connect_pool().await?.close().await;

    heading("One row edited, in a copy of the database");
    tamper::edit_a_copy(&cluster, &name, keys, &me).await?;

    cluster.stop().await;
    Ok(())
}

/// The agent tries by hand what its scope does not list.
async fn refused_tool(gov: &Governance, me: &Principal) {
    let call = Call::tool(me, "refund_payment").args(&serde_json::json!({"invoice": "inv_381"}));
    let result = gov
        .run(&call, async |_: &Permit| {
            Ok::<_, std::io::Error>("refunded")
        })
        .await;
    match result {
        Ok(_) => println!("refund_payment was allowed, which is a defect"),
        Err(error) => match error.refusal() {
            Some(refusal) => {
                println!("gate    {}", refusal.gate());
                println!("reason  {}", refusal.reason());
                println!("remedy  {}", refusal.remedy());
            }
            None => println!("{error}"),
        },
    }
}

fn say_where(directory: &Path) {
    println!("Postgres runs in {}", directory.display());
}

fn heading(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}
