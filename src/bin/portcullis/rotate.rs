//! `portcullis rotate-key`

use clap::Args;
use portcullis::Timestamp;
use portcullis::audit::Rotation;
use serde_json::json;

use crate::Answer;
use crate::fault::Fault;
use crate::output::Output;
use crate::settings::Settings;

/// Make another audit key the current one. Give it to every process first.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis rotate-key --audit-keys 1=file:/etc/audit-1.key,2=file:/etc/audit-2.key --to 2
  portcullis rotate-key --to 3 --compromised --since 2026-11-01T00:00:00Z

Old and new key must both be given. Keep the old one: entries under it are verified with it.")]
pub(crate) struct RotateKey {
    /// The number of the key that is to be current.
    #[arg(long, value_name = "NUMBER")]
    to: u32,
    /// Somebody else has the old key, or may have.
    #[arg(long)]
    compromised: bool,
    /// Since when, as far as is known.
    #[arg(long, value_name = "TIME", requires = "compromised")]
    since: Option<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &RotateKey,
    output: Output,
) -> Result<Answer, Fault> {
    let since = what.since.as_deref().map(Timestamp::parse).transpose();
    let since = since.map_err(Fault::during("read --since"))?;
    let reason = if what.compromised {
        Rotation::Compromise { since }
    } else {
        Rotation::Planned
    };
    let audit = settings.audit().await?;
    let done = audit
        .rotate(what.to, reason)
        .await
        .map_err(Fault::during("rotate"));
    audit.shutdown().await;
    let done = done?;
    let document = json!({ "current": done.to, "chains": done.chains });
    let text = format!("current  {}\nchains   {}\n", done.to, done.chains);
    output.answer(&document, &text)?;
    Ok(Answer::Clean)
}
