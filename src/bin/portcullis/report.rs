//! The report of a verification, as a table and as a document.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use portcullis::audit::{Assurance, Verdict, Verification};
use serde_json::{Value, json};

use crate::anchor::reports;
use crate::output::{Output, Tone, table};

/// For people.
pub(crate) fn text(output: Output, report: &Verification) -> String {
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
    text.push_str(&table(
        &["chain", "from", "to", "head", "entries", "by"],
        &ranges(report),
    ));
    if !report.findings().is_empty() {
        text.push('\n');
        let heading = ["finding", "chain", "seq", "through", "what"];
        text.push_str(&table(&heading, &findings(report)));
        let kept = u64::try_from(report.findings().len()).unwrap_or(u64::MAX);
        if report.finding_count() > kept {
            let _ = writeln!(text, "and {} more", report.finding_count() - kept);
        }
    }
    text.push('\n');
    if let Some(size) = report.resumed_from() {
        let _ = writeln!(
            text,
            "not read again: {size} entries, of the verification that this one goes on from"
        );
    }
    if let Some(exposure) = report.exposure() {
        let _ = writeln!(text, "exposed: {exposure}");
    }
    for anchor in report.anchors() {
        let _ = writeln!(text, "{anchor}");
    }
    for (key, heads) in head_keys(report) {
        let _ = writeln!(text, "{heads} heads signed by process key {key}");
    }
    for key in report.compromised_keys() {
        let line = format!("not proved: {key}");
        let _ = writeln!(text, "{}", output.tone(Tone::Bad, &line));
    }
    for doubt in report.doubts() {
        let line = format!("not proved: {doubt}");
        let _ = writeln!(text, "{}", output.tone(Tone::Bad, &line));
    }
    for limit in report.limits() {
        let line = format!("not proved: {limit}");
        let _ = writeln!(text, "{}", output.tone(Tone::Faint, &line));
    }
    text
}

fn ranges(report: &Verification) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for chain in report.chains() {
        let head = chain
            .head
            .map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        for range in &chain.ranges {
            rows.push(vec![
                chain.chain_no.to_string(),
                range.from.to_string(),
                range.to.to_string(),
                head.clone(),
                (range.to - range.from + 1).to_string(),
                range.assurance.to_string(),
            ]);
        }
    }
    rows
}

fn findings(report: &Verification) -> Vec<Vec<String>> {
    let rows = report.findings().iter().map(|finding| {
        let what = match &finding.anchor {
            Some(anchor) => format!("{} ({anchor})", finding.detail),
            None => finding.detail.to_owned(),
        };
        vec![
            finding.class.to_string(),
            finding.chain_no.to_string(),
            finding.seq.to_string(),
            finding.through.to_string(),
            what,
        ]
    });
    rows.collect()
}

/// The keys of processes that signed heads, and how many each.
fn head_keys(report: &Verification) -> BTreeMap<String, u64> {
    let mut keys = BTreeMap::new();
    for (key, heads) in report.chains().iter().flat_map(|chain| &chain.head_keys) {
        *keys.entry(key.to_string()).or_default() += heads;
    }
    keys
}

/// For programs.
pub(crate) fn document(tenant: &str, report: &Verification) -> Value {
    let verdict = match report.verdict() {
        Verdict::Clean => "clean",
        Verdict::Findings => "findings",
        Verdict::Nothing => "nothing",
    };
    let chains: Vec<Value> = report
        .chains()
        .iter()
        .map(|chain| {
            let ranges: Vec<Value> = chain
                .ranges
                .iter()
                .map(|range| json!({ "by": range.assurance.as_str(), "from": range.from, "to": range.to }))
                .collect();
            json!({
                "chain": chain.chain_no,
                "from": chain.from,
                "to": chain.to,
                "head": chain.head,
                "entries": chain.entries,
                "proved": chain.proved,
                "archived": chain.archived,
                "ranges": ranges,
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
                "anchor": finding.anchor,
            })
        })
        .collect();
    let exposed = report.exposure().map(|exposure| {
        json!({
            "anchor": exposure.anchor,
            "size": exposure.size,
            "entries": exposure.entries,
            "since": exposure.since.map(|at| at.to_string()),
            "seconds": exposure.time().map(|time| time.as_secs()),
        })
    });
    let assurance: serde_json::Map<String, Value> = Assurance::ALL
        .iter()
        .map(|level| (level.as_str().to_owned(), report.count(*level).into()))
        .collect();
    let compromised = report.compromised_keys();
    json!({
        "verdict": verdict,
        "tenant": tenant,
        "entries": report.entries(),
        "proved": report.proved(),
        "unproved": report.unproved(),
        "by": assurance,
        "chains": chains,
        "finding_count": report.finding_count(),
        "findings": findings,
        "resumed_from": report.resumed_from(),
        "exposed": exposed,
        "archived": report.archived(),
        "anchors": reports(report.anchors()),
        "head_keys": head_keys(report),
        "late_signatures": places(report.late_signatures()),
        "unsigned_tails": places(report.unsigned_tails()),
        "compromised_keys": compromised.iter().map(|key| json!({ "key": key.key_id, "since": key.since.map(|at| at.to_string()) })).collect::<Vec<_>>(),
        "not_proved": report.limits(),
    })
}

/// Entries, as a chain, the first and the last.
fn places(ranges: Vec<(u32, u64, u64)>) -> Vec<Value> {
    let each = ranges.into_iter();
    each.map(|(chain, from, to)| json!({ "chain": chain, "from": from, "to": to }))
        .collect()
}
