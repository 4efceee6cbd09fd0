//! `portcullis checkpoint` and `portcullis log-key`

use clap::Args;
use portcullis::audit::KeySource;
use portcullis::tlog::LogKey;
use serde_json::json;

use crate::Answer;
use crate::anchor::{Anchored, complaints, documents};
use crate::fault::Fault;
use crate::output::Output;
use crate::settings::Settings;

/// Which log signs, and where its key is.
#[derive(Args, Debug)]
pub(crate) struct Log {
    /// The log's name, as in audit.example/acme.
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_LOG_ORIGIN")]
    origin: String,
    /// Where its key is: `file:/path` or `env:NAME`. Make one with `openssl rand -hex 32`.
    #[arg(
        long,
        value_name = "SOURCE",
        env = "PORTCULLIS_LOG_KEY",
        hide_env_values = true
    )]
    log_key: String,
}

impl Log {
    pub(crate) fn key(&self) -> Result<LogKey, Fault> {
        let source = KeySource::parse(&self.log_key).map_err(Fault::during("read --log-key"))?;
        let seed = source.load().map_err(Fault::during("read the log's key"))?;
        LogKey::new(&self.origin, &seed).map_err(Fault::during("read the log's key"))
    }
}

/// Sign the trail as it is now, and print the note. Keep it outside of the database.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis checkpoint --origin audit.example/acme --log-key file:/etc/portcullis/log.key > acme.checkpoint
  portcullis checkpoint --origin audit.example/acme --log-key env:LOG_KEY --anchor file:/mnt/worm/portcullis

Nothing is signed that does not go on from what each anchor holds, and nothing if none of them answers.")]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    anchored: Anchored,
}

/// Print the public text of a log's key, which is all that a verifier needs.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis log-key --origin audit.example/acme --log-key file:/etc/portcullis/log.key")]
pub(crate) struct LogKeyText {
    #[command(flatten)]
    log: Log,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Checkpoint,
    output: Output,
) -> Result<Answer, Fault> {
    let key = what.log.key()?;
    let audit = what.anchored.to(settings.audit().await?, settings)?;
    let made = audit
        .checkpoint(&key)
        .await
        .map_err(Fault::during("make a checkpoint"));
    let anchors = audit.anchor_health();
    audit.shutdown().await;
    output.warn(&complaints(&anchors));
    let made = made?;
    let document = json!({
        "origin": key.origin(),
        "size": made.size(),
        "root": made.root().to_string(),
        "note": made.note(),
        "anchors": documents(&anchors),
    });
    output.answer(&document, made.note())?;
    Ok(Answer::Clean)
}

pub(crate) fn show_key(what: &LogKeyText, output: Output) -> Result<Answer, Fault> {
    let key = what.log.key()?;
    let text = key.verifier().to_string();
    output.answer(&json!({ "log": text }), &format!("{text}\n"))?;
    Ok(Answer::Clean)
}
