//! `portcullis archive` and `portcullis check-archive`

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use portcullis::audit::retention::{ArchiveReport, Archiving, KeptNote};
use portcullis::tlog::LogVerifier;
use serde_json::json;

use crate::Answer;
use crate::fault::Fault;
use crate::output::{Output, table};
use crate::progress::ProgressLine;
use crate::settings::Settings;

/// Move entries that are older than the retention policy from the database into files.
///
/// Only what is under a checkpoint that is kept outside of the database goes, and nothing under a
/// legal hold; and only after its file was written, synced, read back and verified entry by entry.
/// Run it with the archivist's role (see `migrate --archivist-role`); run it again after an
/// interruption, and it goes on.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis archive /srv/archive/acme --log \"$(cat acme.vkey)\" --kept /mnt/worm/acme.checkpoint

Exit codes: 0 done (also if nothing was old enough), 1 a legal hold keeps entries that are old enough,
2 could not do it; nothing is gone that is not in a verified file.")]
pub(crate) struct Archive {
    /// Where the files go; only its owner may enter it.
    directory: PathBuf,
    /// The log's public key, as `portcullis log-key` prints it.
    #[arg(long, value_name = "KEY")]
    log: String,
    /// A checkpoint that is kept outside of the database; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    kept: Vec<PathBuf>,
    /// Only what is older than this; not less than the policy's.
    #[arg(long, value_name = "MONTHS")]
    older_than: Option<u32>,
}

/// Verify an archive's file against the tree, its checkpoint, and what is on record of it.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis check-archive /srv/archive/acme/portcullis-archive-01987654-....jsonl --log \"$(cat acme.vkey)\"

Exit codes: 0 every entry is the one that was signed, 1 findings, 2 could not check.")]
pub(crate) struct CheckArchive {
    /// The file.
    file: PathBuf,
    /// The log's public key, as `portcullis log-key` prints it.
    #[arg(long, value_name = "KEY")]
    log: String,
}

/// The notes in `files`, each named after its file.
pub(crate) fn notes(files: &[PathBuf]) -> Result<Vec<KeptNote>, Fault> {
    let note = |path: &PathBuf| {
        let note = fs::read_to_string(path).map_err(Fault::during("read --kept"))?;
        Ok(KeptNote::new(path.display().to_string(), note))
    };
    files.iter().map(note).collect()
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Archive,
    output: Output,
) -> Result<Answer, Fault> {
    let log = LogVerifier::parse(&what.log).map_err(Fault::during("read --log"))?;
    let mut archiving = Archiving::into_directory(&what.directory, log);
    for note in notes(&what.kept)? {
        archiving = archiving.kept(note);
    }
    if let Some(months) = what.older_than {
        archiving = archiving.older_than_months(months);
    }
    let audit = settings.audit().await?;
    let line = ProgressLine::new(output.is_json());
    line.show("looking for entries that are old enough");
    let done = audit
        .retention()
        .archive_with(&archiving, |progress| {
            line.show(&format!(
                "{} entries in verified files, {} removed",
                progress.archived, progress.removed
            ));
        })
        .await;
    drop(line);
    audit.shutdown().await;
    let report = done.map_err(Fault::during("archive"))?;
    output.answer(&document(&report), &text(&report))?;
    Ok(if report.held > 0 {
        Answer::Findings
    } else {
        Answer::Clean
    })
}

fn text(report: &ArchiveReport) -> String {
    let mut text = String::new();
    if report.archives.is_empty() {
        let _ = writeln!(text, "nothing to archive");
    } else {
        let rows: Vec<Vec<String>> = report
            .archives
            .iter()
            .map(|archive| {
                vec![
                    archive.entries.to_string(),
                    archive.ranges.to_string(),
                    hex::encode(archive.sha256),
                    archive.file.display().to_string(),
                ]
            })
            .collect();
        text.push_str(&table(&["entries", "ranges", "sha256", "file"], &rows));
    }
    if report.resumed > 0 {
        let _ = writeln!(text, "resumed  {} archives of before", report.resumed);
    }
    let _ = writeln!(text, "removed  {} entries", report.removed);
    if report.held > 0 {
        let _ = writeln!(text, "held     {} ranges, by legal holds", report.held);
    }
    text
}

fn document(report: &ArchiveReport) -> serde_json::Value {
    let archives = report.archives.iter().map(|archive| {
        json!({
            "archive": archive.id.to_string(),
            "file": archive.file.display().to_string(),
            "sha256": hex::encode(archive.sha256),
            "entries": archive.entries,
            "ranges": archive.ranges,
        })
    });
    json!({
        "archives": archives.collect::<Vec<_>>(),
        "resumed": report.resumed,
        "removed": report.removed,
        "held_ranges": report.held,
    })
}

pub(crate) async fn check(
    settings: &Settings,
    what: &CheckArchive,
    output: Output,
) -> Result<Answer, Fault> {
    let log = LogVerifier::parse(&what.log).map_err(Fault::during("read --log"))?;
    let audit = settings.audit().await?;
    let checked = audit.retention().verify_archive(&what.file, &log).await;
    audit.shutdown().await;
    let check = checked.map_err(Fault::during("verify the archive"))?;
    let findings: Vec<Vec<String>> = check
        .findings()
        .iter()
        .map(|finding| vec![finding.line.to_string(), finding.problem.to_owned()])
        .collect();
    let mut text = format!(
        "{}: {} entries, {} proved\n",
        if check.is_clean() {
            "clean"
        } else {
            "findings"
        },
        check.entries(),
        check.proved()
    );
    if !findings.is_empty() {
        text.push_str(&table(&["line", "what"], &findings));
    }
    let listed = check.findings().iter();
    let document = json!({
        "archive": check.archive().to_string(),
        "clean": check.is_clean(),
        "sha256": hex::encode(check.sha256()),
        "entries": check.entries(),
        "proved": check.proved(),
        "finding_count": check.finding_count(),
        "findings": listed.map(|f| json!({ "line": f.line, "what": f.problem })).collect::<Vec<_>>(),
    });
    output.answer(&document, &text)?;
    Ok(if check.is_clean() {
        Answer::Clean
    } else {
        Answer::Findings
    })
}
