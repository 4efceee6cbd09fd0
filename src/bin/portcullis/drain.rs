//! `portcullis drain`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use portcullis::audit::JournalSettings;
use serde_json::json;

use crate::Answer;
use crate::fault::Fault;
use crate::output::{Output, table};
use crate::settings::Settings;

/// Bring what waits in journals and in the outbox into the trail.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis drain
  portcullis drain --journal /var/lib/agent/journal --json

Journals of processes that are gone are drained; what live processes hold is left to them. What a
module has to apply itself (spend that was journalled) waits for a start of the application.

Exit codes: 0 drained, 1 something in them is not as it was written, 2 could not drain.")]
pub(crate) struct Drain {
    /// Where the journals are, if not in `$XDG_STATE_HOME/portcullis`.
    #[arg(long, value_name = "DIRECTORY")]
    journal: Option<PathBuf>,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Drain,
    output: Output,
) -> Result<Answer, Fault> {
    let journal = match &what.journal {
        Some(directory) => JournalSettings::in_directory(directory),
        None => JournalSettings::default(),
    };
    let audit = settings.audit_with(journal.on_request()).await?;
    let outbox = audit
        .move_outbox()
        .await
        .map_err(Fault::during("move the outbox"));
    let drained = audit
        .drain()
        .await
        .map_err(Fault::during("drain the journals"));
    audit.shutdown().await;
    let (outbox, drained) = (outbox?, drained?);
    let counts = [
        ("drained", drained.drained),
        ("already present", drained.already_present),
        ("quarantined", drained.quarantined),
        ("missing", drained.missing),
        ("files of others", drained.foreign),
        ("files in use", drained.in_use),
        ("moved from the outbox", outbox.moved),
        ("refused in the outbox", outbox.refused),
    ];
    let rows: Vec<Vec<String>> = counts
        .iter()
        .map(|(name, count)| vec![(*name).to_owned(), count.to_string()])
        .collect();
    let mut text = table(&["what", "count"], &rows);
    for finding in drained.findings() {
        let _ = writeln!(text, "{finding}");
    }
    let document = json!({
        "drained": drained.drained,
        "already_present": drained.already_present,
        "quarantined": drained.quarantined,
        "missing": drained.missing,
        "foreign": drained.foreign,
        "in_use": drained.in_use,
        "findings": drained.findings().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "outbox": { "moved": outbox.moved, "refused": outbox.refused },
    });
    output.answer(&document, &text)?;
    Ok(if drained.is_clean() && outbox.refused == 0 {
        Answer::Clean
    } else {
        Answer::Findings
    })
}
