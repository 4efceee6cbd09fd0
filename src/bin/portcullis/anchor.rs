//! `portcullis anchor`, and the anchors that other commands consult.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use clap::Args;
use portcullis::audit::anchor::{
    Anchor, AnchorHealth, AnchorReport, CommandAnchor, FileAnchor, Held, KeptAt,
};
use portcullis::audit::{Audit, AuditError};
use portcullis::tlog::{Checkpoint, LogVerifier};
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::output::{Output, table};
use crate::settings::Settings;

/// Where checkpoints are kept outside of the database.
#[derive(Args, Debug)]
pub(crate) struct Anchored {
    /// A place that keeps checkpoints; repeat it for several. One of `file:/DIRECTORY`,
    /// `command:/PROGRAM`, `witness:URL#FILE-WITH-ITS-KEY`, `tsa:URL#FILE-WITH-ITS-ROOT`, each with
    /// `NAME=` before it if it is to have a name.
    #[arg(long = "anchor", value_name = "PLACE")]
    places: Vec<String>,
}

impl Anchored {
    pub(crate) const fn is_given(&self) -> bool {
        !self.places.is_empty()
    }

    /// The trail, with the anchors of the flags, else those of the configuration file.
    pub(crate) fn to(&self, audit: Audit, settings: &Settings) -> Result<Audit, Fault> {
        let places = if self.places.is_empty() {
            settings.anchors()
        } else {
            &self.places
        };
        let anchors: Vec<_> = places
            .iter()
            .map(|place| read(place))
            .collect::<Result<_, _>>()?;
        audit
            .with_anchors(anchors)
            .map_err(Fault::during("read --anchor"))
    }
}

/// Give the newest checkpoint to every anchor that does not have it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis anchor --log \"$(cat acme.vkey)\" --anchor file:/mnt/worm/portcullis
  portcullis anchor --list --log \"$(cat acme.vkey)\" --anchor vault=file:/mnt/worm/portcullis \\
      --anchor w1=witness:https://witness.example/api#/etc/portcullis/w1.vkey \\
      --anchor tsa=tsa:http://tsa.example/tsr#/etc/portcullis/tsa-root.pem

Without --anchor, those of the configuration file: anchors = [\"file:/mnt/worm/portcullis\"]

Exit codes: 0 every anchor has it, 1 an anchor contradicts the database, 2 an anchor could not be
asked or did not take it.")]
pub(crate) struct Publish {
    /// The public key of the log (see `log-key`).
    #[arg(long, value_name = "KEY")]
    log: String,
    #[command(flatten)]
    anchored: Anchored,
    /// Only say what each of them holds.
    #[arg(long)]
    list: bool,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Publish,
    output: Output,
) -> Result<Answer, Fault> {
    let log = LogVerifier::parse(&what.log).map_err(Fault::during("read --log"))?;
    let audit = what.anchored.to(settings.audit().await?, settings)?;
    let done = if what.list {
        list(&audit, &log, output).await
    } else {
        publish(&audit, &log, output).await
    };
    audit.shutdown().await;
    done
}

async fn publish(audit: &Audit, log: &LogVerifier, output: Output) -> Result<Answer, Fault> {
    let published = audit.publish_checkpoint(log).await;
    let health = audit.anchor_health();
    if health.is_empty() {
        return Err(Fault::new(
            "no anchor is named; give --anchor, or anchors in the configuration file",
        ));
    }
    match published {
        Ok(_) | Err(AuditError::AnchorAhead { .. } | AuditError::AnchorFork { .. }) => {}
        Err(error) => return Err(Fault::during("publish the newest checkpoint")(error)),
    }
    let answer = |health: &AnchorHealth| match health {
        _ if health.conflict => Answer::Findings,
        _ if health.error.is_some() || health.missing_since.is_some() => Answer::Nothing,
        _ => Answer::Clean,
    };
    output.answer(&json!({ "anchors": documents(&health) }), &rows(&health))?;
    Ok(health.iter().map(answer).max().unwrap_or(Answer::Nothing))
}

async fn list(audit: &Audit, log: &LogVerifier, output: Output) -> Result<Answer, Fault> {
    let kept = audit
        .kept(log)
        .await
        .map_err(Fault::during("ask the anchors"))?;
    let newest = audit
        .last_checkpoint()
        .await
        .map_err(Fault::during("ask the anchors"))?;
    let newest = newest.and_then(|note| Checkpoint::open(&note, log).ok());
    let size = newest.as_ref().map_or(0, Checkpoint::size);
    let stand = |kept: &KeptAt| match (kept.found(), &newest) {
        (Err(_), _) => ("silent", Answer::Nothing),
        (Ok(None), None) => ("in step", Answer::Clean),
        (Ok(None), Some(_)) => ("behind", Answer::Clean),
        (Ok(Some(held)), _) if held.size() > size => ("ahead", Answer::Findings),
        (Ok(Some(held)), _) if held.size() < size => ("behind", Answer::Clean),
        (Ok(Some(held)), Some(newest)) => match held.root() {
            Some(root) if root != newest.root() => ("another tree", Answer::Findings),
            _ => ("in step", Answer::Clean),
        },
        (Ok(Some(_)), None) => ("ahead", Answer::Findings),
    };
    let mut shown = Vec::new();
    let mut listed = Vec::new();
    for kept in &kept {
        let held = kept.held();
        let error = kept.found().err().map(ToString::to_string);
        shown.push(vec![
            kept.anchor().to_owned(),
            kept.kind().to_owned(),
            held.map_or_else(|| "-".to_owned(), |held| held.size().to_string()),
            error.clone().unwrap_or_else(|| stand(kept).0.to_owned()),
        ]);
        listed.push(json!({
            "anchor": kept.anchor(),
            "kind": kept.kind(),
            "size": held.map(Held::size),
            "root": held.and_then(Held::root).map(|root| root.to_string()),
            "at": held.and_then(Held::at).map(|at| at.to_string()),
            "stands": stand(kept).0,
            "error": error,
        }));
    }
    let text = table(&["anchor", "kind", "holds", "stands"], &shown);
    output.answer(&json!({ "checkpoint": size, "anchors": listed }), &text)?;
    Ok(kept
        .iter()
        .map(|kept| stand(kept).1)
        .max()
        .unwrap_or(Answer::Nothing))
}

/// The anchors as a JSON document has them.
pub(crate) fn documents(health: &[AnchorHealth]) -> Vec<Value> {
    let each = health.iter().map(|health| {
        json!({
            "anchor": health.anchor,
            "kind": health.kind,
            "size": health.size,
            "missing_since": health.missing_since.map(|at| at.to_string()),
            "conflict": health.conflict,
            "error": health.error.as_ref().map(ToString::to_string),
        })
    });
    each.collect()
}

fn rows(health: &[AnchorHealth]) -> String {
    let each = health.iter().map(|health| {
        let stands = match &health.error {
            _ if health.conflict => "it contradicts the database; run verify".to_owned(),
            Some(error) => error.to_string(),
            None if health.missing_since.is_some() => "behind".to_owned(),
            None => "in step".to_owned(),
        };
        let size = health
            .size
            .map_or_else(|| "-".to_owned(), |size| size.to_string());
        vec![health.anchor.clone(), health.kind.to_owned(), size, stands]
    });
    table(
        &["anchor", "kind", "holds", "stands"],
        &each.collect::<Vec<_>>(),
    )
}

/// What those that are not in order say, a line each.
pub(crate) fn complaints(health: &[AnchorHealth]) -> String {
    let mut text = String::new();
    for (name, error) in health
        .iter()
        .filter_map(|health| Some((&health.anchor, health.error.as_ref()?)))
    {
        let _ = writeln!(text, "anchor {name}: {error}");
    }
    text
}

/// What a verification found about anchors, as a JSON document has it.
pub(crate) fn reports(reports: &[AnchorReport]) -> Vec<Value> {
    let each = reports.iter().map(|report| {
        json!({
            "anchor": report.anchor,
            "kind": report.kind,
            "held": report.held,
            "at": report.at.map(|at| at.to_string()),
            "standing": report.standing.as_str(),
            "error": report.error.as_ref().map(ToString::to_string),
            "finding": report.finding.as_ref().map(ToString::to_string),
        })
    });
    each.collect()
}

fn read(text: &str) -> Result<Arc<dyn Anchor>, Fault> {
    let during = Fault::during("read --anchor");
    // A name is what stands before an equals sign that comes before the kind's colon.
    let colon = text.find(':').unwrap_or(text.len());
    let (name, place) = match text.split_once('=') {
        Some((name, place)) if name.len() < colon => (Some(name), place),
        _ => (None, text),
    };
    let (kind, rest) = place.split_once(':').unwrap_or((place, ""));
    let name = name.map(str::to_owned);
    match kind {
        "file" => {
            let anchor = FileAnchor::new(name.unwrap_or_else(|| place.to_owned()), rest);
            Ok(Arc::new(anchor.map_err(during)?))
        }
        "command" => {
            let anchor = CommandAnchor::new(name.unwrap_or_else(|| place.to_owned()), rest);
            Ok(Arc::new(anchor.map_err(during)?))
        }
        "witness" | "tsa" => {
            let (url, file) = rest.split_once('#').ok_or_else(|| {
                Fault::new(format!(
                    "read --anchor: `{kind}` takes a URL, `#`, and the file with the key or certificate that is trusted"
                ))
            })?;
            let trusted = fs::read(file).map_err(|error| {
                Fault::new(format!("read --anchor: {file} cannot be read: {error}"))
            })?;
            // By its host: the rest of a URL may say more than should be on record.
            let host = url.split_once("://").map_or(url, |(_, rest)| rest);
            let host = host.split(['/', '?']).next().unwrap_or_default();
            let name = name.unwrap_or_else(|| format!("{kind}:{host}"));
            over_http(kind, name, url, &trusted)
        }
        _ => Err(Fault::new(
            "read --anchor: write file:/DIRECTORY, command:/PROGRAM, witness:URL#FILE or tsa:URL#FILE, with NAME= before it for a name",
        )),
    }
}

#[cfg(feature = "anchors-http")]
fn over_http(
    kind: &str,
    name: String,
    url: &str,
    trusted: &[u8],
) -> Result<Arc<dyn Anchor>, Fault> {
    use portcullis::adapters::anchors::{TimestampAnchor, WitnessAnchor};
    use portcullis::tlog::WitnessVerifier;

    let during = Fault::during("read --anchor");
    if kind == "tsa" {
        let anchor = TimestampAnchor::new(name, url).and_then(|anchor| anchor.root(trusted));
        return Ok(Arc::new(anchor.map_err(during)?));
    }
    let key = String::from_utf8_lossy(trusted);
    let key = WitnessVerifier::parse(key.trim()).map_err(Fault::during("read a witness's key"))?;
    let anchor = WitnessAnchor::new(name, url, key).map_err(during)?;
    Ok(Arc::new(anchor))
}

#[cfg(not(feature = "anchors-http"))]
fn over_http(
    _kind: &str,
    _name: String,
    _url: &str,
    _trusted: &[u8],
) -> Result<Arc<dyn Anchor>, Fault> {
    Err(Fault::new(
        "read --anchor: this program was built without anchors over HTTP; build it with --features cli,anchors-http",
    ))
}
