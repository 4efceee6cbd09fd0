//! `portcullis verify-bundle`

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use portcullis::audit::Verdict;
use portcullis::audit::bundle::{Bundle, Report, TimestampToken, TokenOutcome, Trust};
use portcullis::tlog::{LogVerifier, WitnessVerifier};
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::output::{Output, Tone, table};

/// Check a bundle, with no database and no secret.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis verify-bundle acme.bundle --log \"$(cat acme.vkey)\"
  portcullis verify-bundle acme.bundle --log \"$(cat acme.vkey)\" --kept acme.checkpoint
  portcullis verify-bundle acme.bundle --log \"$(cat acme.vkey)\" --timestamp-roots tsa-roots.pem
  portcullis verify-bundle acme.bundle --log \"$(cat acme.vkey)\" --sealer \"$(cat privacy.vkey)\" --json

Get the keys by another way than the bundle: its own copy of them proves nothing.

Exit codes: 0 clean, 1 findings, 2 could not check (without --log, or without an entry).")]
pub(crate) struct VerifyBundle {
    /// The bundle.
    file: PathBuf,
    /// The log's public key, as `portcullis log-key` prints it.
    #[arg(long, value_name = "KEY", env = "PORTCULLIS_LOG")]
    log: Option<String>,
    /// The public key of somebody else who may seal bundles.
    #[arg(long, value_name = "KEY")]
    sealer: Vec<String>,
    /// The public key of a witness.
    #[arg(long, value_name = "KEY")]
    witness: Vec<String>,
    /// The root certificates of timestamp authorities, in PEM: every timestamp in the bundle has to lead
    /// to one of them. Without them, timestamps are counted and not checked.
    #[arg(long, value_name = "FILE")]
    timestamp_roots: Option<PathBuf>,
    /// A checkpoint that was kept: the bundle has to go on from it.
    #[arg(long, value_name = "FILE", requires = "log")]
    kept: Option<PathBuf>,
}

impl VerifyBundle {
    fn trust(&self) -> Result<Trust, Fault> {
        let mut trust = match &self.log {
            Some(log) => {
                Trust::in_log(LogVerifier::parse(log).map_err(Fault::during("read --log"))?)
            }
            None => Trust::in_nobody(),
        };
        for key in &self.sealer {
            let key = LogVerifier::parse(key).map_err(Fault::during("read --sealer"))?;
            trust = trust.sealer(key);
        }
        for key in &self.witness {
            let key = WitnessVerifier::parse(key).map_err(Fault::during("read --witness"))?;
            trust = trust.witness(key);
        }
        if let Some(roots) = &self.timestamp_roots {
            let roots = fs::read(roots).map_err(Fault::during("read --timestamp-roots"))?;
            trust = stamped_under(trust, &roots)?;
        }
        if let Some(kept) = &self.kept {
            let note = fs::read_to_string(kept).map_err(Fault::during("read --kept"))?;
            trust = trust.kept(&note).map_err(Fault::during("read --kept"))?;
        }
        Ok(trust)
    }
}

#[cfg(feature = "anchors-http")]
fn stamped_under(trust: Trust, roots: &[u8]) -> Result<Trust, Fault> {
    let roots = portcullis::adapters::anchors::TimestampRoots::from_pem(roots)
        .map_err(Fault::during("read --timestamp-roots"))?;
    Ok(trust.timestamps(move |note, token| roots.verify(note, token)))
}

#[cfg(not(feature = "anchors-http"))]
fn stamped_under(_: Trust, _: &[u8]) -> Result<Trust, Fault> {
    Err(Fault::new(
        "read --timestamp-roots: this program was built without what checks timestamps; build it with --features cli,anchors-http",
    ))
}

pub(crate) fn verify(what: &VerifyBundle, output: Output) -> Result<Answer, Fault> {
    let trust = what.trust()?;
    let bundle = Bundle::open(&what.file).map_err(Fault::during("open the bundle"))?;
    let report = bundle
        .verify(&trust)
        .map_err(Fault::during("read the bundle"))?;
    output.answer(&document(&report), &text(output, &report))?;
    Ok(match report.verdict() {
        Verdict::Clean => Answer::Clean,
        Verdict::Findings => Answer::Findings,
        Verdict::Nothing => Answer::Nothing,
    })
}

fn verdict(report: &Report) -> &'static str {
    match report.verdict() {
        Verdict::Clean => "clean",
        Verdict::Findings => "findings",
        Verdict::Nothing => "nothing",
    }
}

fn text(output: Output, report: &Report) -> String {
    let summary = match report.verdict() {
        Verdict::Clean => output.tone(Tone::Good, "clean"),
        Verdict::Findings => {
            output.tone(Tone::Bad, &format!("{} findings", report.finding_count()))
        }
        Verdict::Nothing => "nothing proved".to_owned(),
    };
    let mut text = format!(
        "{summary}: {} entries shown, {} of them in the signed tree, {} withheld\n\n",
        report.entries(),
        report.proved(),
        report.withheld()
    );
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    row("tenant", report.tenant().unwrap_or("-"));
    row("log", report.origin().unwrap_or("-"));
    row("size", &report.size().to_string());
    row(
        "root",
        &report
            .root()
            .map_or_else(|| "-".to_owned(), |root| root.to_string()),
    );
    row("checkpoints", &report.checkpoints().to_string());
    row(
        "signed",
        &format!("{} by {} agents' keys", report.signed(), report.keys()),
    );
    if let Some((size, at)) = report.cosigned() {
        row("cosigned", &format!("{at} at size {size}"));
    }
    if let Some((size, stamp)) = report.stamped() {
        let (at, authority) = (stamp.at, &stamp.authority);
        row("stamped", &format!("{at} at size {size}, by {authority}"));
    }
    if let Some(goes_on) = report.goes_on_from_kept() {
        row(
            "kept",
            if goes_on {
                "the tree goes on from it"
            } else {
                "not proved"
            },
        );
    }
    for redacted in report.redacted() {
        let by = if redacted.believed {
            "a named key"
        } else {
            "a key that was not named"
        };
        row(
            "taken out",
            &format!("{} entries, of a bundle sealed with {by}", redacted.entries),
        );
    }
    if let Some((key, believed)) = report.sealed_by() {
        row(
            "sealed by",
            &format!("{key}{}", if believed { "" } else { " (not named)" }),
        );
    }
    text.push_str(&tables(report));
    text.push('\n');
    for limit in report.limits() {
        let line = format!("not proved: {limit}");
        let _ = writeln!(text, "{}", output.tone(Tone::Faint, &line));
    }
    text
}

/// What the anchors gave, and the findings.
fn tables(report: &Report) -> String {
    let mut text = String::new();
    if !report.anchors().is_empty() {
        let rows: Vec<Vec<String>> = report
            .anchors()
            .iter()
            .map(|anchor| {
                let witnessed = anchor.witnessed;
                vec![
                    anchor.anchor.clone(),
                    anchor.kind.clone(),
                    anchor.receipts.to_string(),
                    anchor.size.to_string(),
                    witnessed
                        .map_or_else(|| "-".to_owned(), |(size, at)| format!("{at} at {size}")),
                ]
            })
            .collect();
        let heading = ["anchor", "kind", "receipts", "size", "witnessed"];
        let _ = write!(text, "\n{}", table(&heading, &rows));
    }
    if !report.tokens().is_empty() {
        let rows: Vec<Vec<String>> = report
            .tokens()
            .iter()
            .map(|token| {
                let (outcome, told) = told(&token.outcome);
                let size = token.size.to_string();
                vec![token.anchor.clone(), size, outcome.to_owned(), told]
            })
            .collect();
        let heading = ["timestamp", "size", "token", "what"];
        let _ = write!(text, "\n{}", table(&heading, &rows));
        let kept = u64::try_from(report.tokens().len()).unwrap_or(u64::MAX);
        if report.token_counts().0 > kept {
            let _ = writeln!(text, "and {} more", report.token_counts().0 - kept);
        }
    }
    if !report.findings().is_empty() {
        let rows: Vec<Vec<String>> = report
            .findings()
            .iter()
            .map(|finding| {
                vec![
                    finding.class.to_string(),
                    finding.line.to_string(),
                    finding
                        .leaf
                        .map_or_else(|| "-".to_owned(), |leaf| leaf.to_string()),
                    finding.detail.to_owned(),
                ]
            })
            .collect();
        let heading = ["finding", "line", "leaf", "what"];
        let _ = write!(text, "\n{}", table(&heading, &rows));
        let kept = u64::try_from(report.findings().len()).unwrap_or(u64::MAX);
        if report.finding_count() > kept {
            let _ = writeln!(text, "and {} more", report.finding_count() - kept);
        }
    }
    text
}

/// What became of a timestamp token, in a word and in some.
fn told(outcome: &TokenOutcome) -> (&'static str, String) {
    match outcome {
        TokenOutcome::Valid(stamp) => ("valid", format!("{} by {}", stamp.at, stamp.authority)),
        TokenOutcome::Invalid(problem) => ("invalid", (*problem).to_owned()),
        _ => ("not checked", "no authority's roots were named".to_owned()),
    }
}

/// The timestamp tokens, for programs.
fn tokens(report: &Report) -> Vec<Value> {
    let token = |token: &TimestampToken| {
        let (stamp, problem) = match &token.outcome {
            TokenOutcome::Valid(stamp) => (Some(stamp), None),
            TokenOutcome::Invalid(problem) => (None, Some(*problem)),
            _ => (None, None),
        };
        json!({
            "anchor": token.anchor,
            "line": token.line,
            "size": token.size,
            "outcome": told(&token.outcome).0.replace(' ', "_"),
            "at": stamp.map(|stamp| stamp.at.to_string()),
            "authority": stamp.map(|stamp| &stamp.authority),
            "problem": problem,
        })
    };
    report.tokens().iter().map(token).collect()
}

fn document(report: &Report) -> Value {
    let findings: Vec<Value> = report
        .findings()
        .iter()
        .map(|finding| {
            json!({
                "class": finding.class.as_str(),
                "line": finding.line,
                "leaf": finding.leaf,
                "what": finding.detail,
            })
        })
        .collect();
    let moment = |seen: Option<(u64, portcullis::Timestamp)>| {
        seen.map(|(size, at)| json!({ "size": size, "at": at.to_string() }))
    };
    let anchors: Vec<Value> = report
        .anchors()
        .iter()
        .map(|anchor| {
            json!({
                "anchor": anchor.anchor,
                "kind": anchor.kind,
                "receipts": anchor.receipts,
                "size": anchor.size,
                "witnessed": moment(anchor.witnessed),
            })
        })
        .collect();
    let redacted: Vec<Value> = report
        .redacted()
        .iter()
        .map(|redacted| json!({ "entries": redacted.entries, "sealer_named": redacted.believed }))
        .collect();
    json!({
        "verdict": verdict(report),
        "tenant": report.tenant(),
        "log": report.origin(),
        "size": report.size(),
        "root": report.root().map(|root| root.to_string()),
        "entries": report.entries(),
        "proved": report.proved(),
        "withheld": report.withheld(),
        "signed": report.signed(),
        "keys": report.keys(),
        "checkpoints": report.checkpoints(),
        "cosigned": moment(report.cosigned()),
        "stamped": moment(report.stamped().map(|(size, stamp)| (size, stamp.at))),
        "anchors": anchors,
        "timestamps": tokens(report),
        "timestamp_count": report.token_counts().0,
        "timestamps_not_checked": report.token_counts().1,
        "goes_on_from_kept": report.goes_on_from_kept(),
        "redacted": redacted,
        "sealed_by": report.sealed_by().map(|(key, _)| key),
        "sealer_named": report.sealed_by().is_some_and(|(_, believed)| believed),
        "finding_count": report.finding_count(),
        "findings": findings,
        "not_proved": report.limits(),
    })
}
