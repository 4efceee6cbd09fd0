//! The gates in a program without an async runtime: four threads, one handle, plain closures.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io;
use std::thread;

use portcullis::blocking::{Governance, block_on};
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, AuditKeys, Call, Principal, Secret};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let test = block_on(TestDatabase::fresh())?; // your application: Database::from_env()
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect_blocking()?;

    let agent = AgentId::parse("billing-agent")?;
    let policy = ScopePolicy::new(agent.clone()).allow_tools(["read_invoice"])?;
    gov.scope().register(policy)?;

    thread::scope(|scope| {
        for invoice in ["inv_381", "inv_382", "inv_383", "inv_384"] {
            let (gov, me) = (&gov, Principal::agent(agent.clone()));
            scope.spawn(move || {
                let call = Call::tool(&me, "read_invoice").args(&invoice);
                match gov.run(&call, |_permit| read(invoice)) {
                    Ok(lines) => println!("{invoice}  {lines} lines"),
                    Err(error) => println!("{invoice}  {error}"),
                }
            });
        }
    });

    let me = Principal::agent(agent);
    let refused = gov.run(&Call::tool(&me, "delete_invoice"), |_permit| {
        read("inv_381")
    });
    if let Some(refusal) = refused.err().as_ref().and_then(|error| error.refusal()) {
        println!("delete_invoice: {refusal}");
    }
    print!("{}", gov.audit().verify_all()?);

    gov.shutdown(); // dropping the last handle would wait for five seconds at most
    Ok(())
}

/// A tool of the application, which blocks, and can fail.
fn read(invoice: &str) -> io::Result<usize> {
    let number = invoice.strip_prefix("inv_");
    number.map(str::len).ok_or(io::ErrorKind::NotFound.into())
}
