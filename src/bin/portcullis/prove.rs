//! `portcullis prove` and `portcullis check-proof`

use std::fs;
use std::path::PathBuf;

use clap::Args;
use portcullis::EventId;
use portcullis::tlog::{LogProof, LogVerifier, TreeHash};
use serde_json::json;

use crate::Answer;
use crate::fault::Fault;
use crate::output::Output;
use crate::settings::Settings;

/// Print the proof that an event is in the trail, for somebody who has only the log's public key.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis prove 01987654-3210-7abc-8def-000000000001 > event.tlog-proof

With --json the answer also has the leaf, which the proof is about, and its content: the entry's
fields as its MAC covers them. The proof alone discloses nothing of the entry.")]
pub(crate) struct Prove {
    /// The event's id.
    event: String,
}

/// Check a proof, with no database and no secret.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis check-proof event.tlog-proof --log \"$(cat acme.vkey)\" --leaf bjQLnP+z...=

Exit codes: 0 the leaf is in the log, 1 it is not, 2 could not check.")]
pub(crate) struct CheckProof {
    /// The proof.
    file: PathBuf,
    /// The log's public key, as `portcullis log-key` prints it.
    #[arg(long, value_name = "KEY")]
    log: String,
    /// The leaf, as `portcullis prove --json` prints it.
    #[arg(long, value_name = "HASH")]
    leaf: String,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Prove,
    output: Output,
) -> Result<Answer, Fault> {
    let id = EventId::parse(&what.event).map_err(Fault::during("read the event's id"))?;
    let audit = settings.audit().await?;
    let proof = audit.prove(id).await.map_err(Fault::during("prove"));
    audit.shutdown().await;
    let proof = proof?;
    let file = proof.proof().to_string();
    let document = json!({
        "event": id.to_string(),
        "leaf": proof.leaf().to_string(),
        "content": hex::encode(proof.content()),
        "proof": file,
    });
    output.answer(&document, &file)?;
    Ok(Answer::Clean)
}

pub(crate) fn check(what: &CheckProof, output: Output) -> Result<Answer, Fault> {
    let log = LogVerifier::parse(&what.log).map_err(Fault::during("read --log"))?;
    let leaf = TreeHash::parse(&what.leaf)
        .ok_or_else(|| Fault::new("--leaf must be the 44 letters that `prove --json` gives"))?;
    let file = fs::read_to_string(&what.file).map_err(Fault::during("read the proof"))?;
    let proof = LogProof::parse(&file).map_err(Fault::during("read the proof"))?;
    let verified = proof.verify(&leaf, &log);
    let (answer, text, document) = match verified {
        Ok(checkpoint) => {
            let text = format!(
                "in the log  {}\nsize        {}\nroot        {}\n",
                checkpoint.origin(),
                checkpoint.size(),
                checkpoint.root()
            );
            let document = json!({
                "in_the_log": true,
                "origin": checkpoint.origin(),
                "size": checkpoint.size(),
                "root": checkpoint.root().to_string(),
            });
            (Answer::Clean, text, document)
        }
        Err(error) => (
            Answer::Findings,
            format!("not proved: {error}\n"),
            json!({ "in_the_log": false, "why": error.to_string() }),
        ),
    };
    output.answer(&document, &text)?;
    Ok(answer)
}
