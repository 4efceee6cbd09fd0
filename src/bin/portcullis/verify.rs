//! `portcullis verify`

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use portcullis::SessionId;
use portcullis::audit::{Scope, Verdict, Verification};
use portcullis::tlog::LogVerifier;
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::output::{Output, Tone, table};
use crate::progress::ProgressLine;
use crate::settings::Settings;

/// Check that every entry is as it was written, and that none is missing.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis verify
  portcullis verify --session s-381 --json
  portcullis verify --chain 2 --from 1000 --to 2000
  portcullis verify --log \"$(cat acme.vkey)\" --kept acme.checkpoint

Exit codes: 0 clean, 1 findings, 2 could not check (no entries count as that).")]
pub(crate) struct Verify {
    /// Only what lies between the first and the last entry of a session.
    #[arg(long, value_name = "ID", conflicts_with = "chain")]
    session: Option<String>,
    /// Only one chain.
    #[arg(long, value_name = "NUMBER")]
    chain: Option<u32>,
    /// The first entry, of one chain.
    #[arg(long, value_name = "SEQ", requires = "chain")]
    from: Option<u64>,
    /// The last entry, of one chain.
    #[arg(long, value_name = "SEQ", requires = "chain")]
    to: Option<u64>,
    /// Also verify the checkpoints of the log with this public key (see `log-key`).
    #[arg(long, value_name = "KEY", conflicts_with_all = ["session", "chain"])]
    log: Option<String>,
    /// A checkpoint that was kept outside of the database.
    #[arg(long, value_name = "FILE", requires = "log")]
    kept: Option<PathBuf>,
}

impl Verify {
    fn scope(&self) -> Result<Scope, Fault> {
        if let Some(session) = &self.session {
            let session = SessionId::parse(session).map_err(Fault::during("read --session"))?;
            return Ok(Scope::Session(session));
        }
        let Some(chain_no) = self.chain else {
            return Ok(Scope::All);
        };
        if self.from.is_none() && self.to.is_none() {
            return Ok(Scope::Chain { chain_no });
        }
        let (from, to) = (self.from.unwrap_or(1), self.to.unwrap_or(u64::MAX));
        if from == 0 || from > to {
            return Err(Fault::new("--from must be at least 1 and not above --to"));
        }
        Ok(Scope::Range { chain_no, from, to })
    }
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Verify,
    output: Output,
) -> Result<Answer, Fault> {
    let scope = what.scope()?;
    let audit = settings.audit().await?;
    let line = ProgressLine::new(output.is_json());
    line.show("reading the heads");
    let verified = audit
        .verify_with(scope, |progress| {
            line.show(&format!(
                "chain {}: {} entries read, {} findings",
                progress.chain_no, progress.entries, progress.findings
            ));
        })
        .await
        .map_err(Fault::during("verify"));
    line.show("reading the checkpoints");
    let log = what.log.as_deref().map(LogVerifier::parse).transpose();
    let log = log.map_err(Fault::during("read --log"))?;
    let kept = what.kept.as_deref().map(fs::read_to_string).transpose();
    let kept = kept.map_err(Fault::during("read --kept"))?;
    let checkpoints = match &log {
        Some(log) => Some(audit.verify_checkpoints(log, kept.as_deref()).await),
        None => None,
    };
    drop(line);
    audit.shutdown().await;
    let report = verified?;
    let checkpoints = checkpoints
        .transpose()
        .map_err(Fault::during("verify the checkpoints"))?;
    let mut shown = text(output, &report);
    let mut json = document(settings, &report);
    if let Some(checkpoints) = &checkpoints {
        shown.push_str("\ncheckpoints: ");
        shown.push_str(&text(output, checkpoints));
        if let Value::Object(json) = &mut json {
            json.insert("checkpoints".to_owned(), document(settings, checkpoints));
        }
    }
    output.answer(&json, &shown)?;
    let all = std::iter::once(&report).chain(&checkpoints);
    Ok(all.map(answer).max().unwrap_or(Answer::Nothing))
}

fn answer(report: &Verification) -> Answer {
    match report.verdict() {
        Verdict::Clean => Answer::Clean,
        Verdict::Findings => Answer::Findings,
        Verdict::Nothing => Answer::Nothing,
    }
}

fn verdict(report: &Verification) -> &'static str {
    match report.verdict() {
        Verdict::Clean => "clean",
        Verdict::Findings => "findings",
        Verdict::Nothing => "nothing",
    }
}

fn text(output: Output, report: &Verification) -> String {
    let mut text = String::new();
    let summary = match report.verdict() {
        Verdict::Clean => output.tone(Tone::Good, "clean"),
        Verdict::Findings => {
            output.tone(Tone::Bad, &format!("{} findings", report.finding_count()))
        }
        Verdict::Nothing => "nothing verified".to_owned(),
    };
    let _ = writeln!(
        text,
        "{summary}: {} entries in {} chains, {} proved by key\n",
        report.entries(),
        report.chains().len(),
        report.proved()
    );
    let chains: Vec<Vec<String>> = report
        .chains()
        .iter()
        .map(|chain| {
            vec![
                chain.chain_no.to_string(),
                chain.from.to_string(),
                chain.to.to_string(),
                chain
                    .head
                    .map_or_else(|| "-".to_owned(), |seq| seq.to_string()),
                chain.entries.to_string(),
                chain.proved.to_string(),
            ]
        })
        .collect();
    let heading = ["chain", "from", "to", "head", "entries", "proved"];
    text.push_str(&table(&heading, &chains));
    if !report.findings().is_empty() {
        let findings: Vec<Vec<String>> = report
            .findings()
            .iter()
            .map(|finding| {
                vec![
                    finding.class.to_string(),
                    finding.chain_no.to_string(),
                    finding.seq.to_string(),
                    finding.through.to_string(),
                    finding.detail.to_owned(),
                ]
            })
            .collect();
        text.push('\n');
        let heading = ["finding", "chain", "seq", "through", "what"];
        text.push_str(&table(&heading, &findings));
        let kept = u64::try_from(report.findings().len()).unwrap_or(u64::MAX);
        if report.finding_count() > kept {
            let _ = writeln!(text, "and {} more", report.finding_count() - kept);
        }
    }
    text.push('\n');
    for limit in report.limits() {
        let line = format!("not proved: {limit}");
        let _ = writeln!(text, "{}", output.tone(Tone::Faint, &line));
    }
    text
}

fn document(settings: &Settings, report: &Verification) -> Value {
    let chains: Vec<Value> = report
        .chains()
        .iter()
        .map(|chain| {
            json!({
                "chain": chain.chain_no,
                "from": chain.from,
                "to": chain.to,
                "head": chain.head,
                "entries": chain.entries,
                "proved": chain.proved,
                "unproved": chain.unproved,
                "keys": chain.keys.iter().map(|(id, n)| json!({ "key": id, "entries": n })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let findings: Vec<Value> = report
        .findings()
        .iter()
        .map(|finding| {
            json!({
                "class": finding.class.as_str(),
                "chain": finding.chain_no,
                "seq": finding.seq,
                "through": finding.through,
                "what": finding.detail,
            })
        })
        .collect();
    json!({
        "verdict": verdict(report),
        "tenant": settings.tenant().as_str(),
        "entries": report.entries(),
        "proved": report.proved(),
        "unproved": report.unproved(),
        "chains": chains,
        "finding_count": report.finding_count(),
        "findings": findings,
        "not_proved": report.limits(),
    })
}
