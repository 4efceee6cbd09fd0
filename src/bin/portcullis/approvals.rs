//! `portcullis approvals`, `portcullis approve` and `portcullis deny`

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use portcullis::gates::{ApprovalRequest, ApproverRef, Decided, Decision, Gates, RequestState};
use portcullis::{Governance, RequestId};
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::operate::{age, span};
use crate::output::{Output, table};
use crate::settings::Settings;

/// No arguments of a call are longer; a device that is given by mistake is not read to its end.
const LONGEST_ARGUMENTS: u64 = 16 << 20;

/// Show the requests for approval that wait for somebody, oldest first.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis approvals
  portcullis approvals --at-most 500 --after 01987654-3210-7abc-8def-000000000001 --json

Arguments are not stored, and cannot be shown: see `portcullis approve --help`.

Exit codes: 0 nobody is waited for, 1 somebody is, 2 they could not be read.")]
pub(crate) struct Approvals {
    /// How many to show.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    at_most: u16,
    /// Go on after this request.
    #[arg(long, value_name = "REQUEST")]
    after: Option<String>,
}

/// Agree to one call, once, as it was asked for.
///
/// What is agreed to is the call of the request with its very arguments. The database has only a keyed
/// hash of them: have the application show you the call (`Gates::canonical`), or hold its arguments
/// against the request with --about.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis approve 01987654-3210-7abc-8def-000000000001 --by user:erin --why 'seen the invoice'
  portcullis approve 01987654-3210-7abc-8def-000000000001 --about arguments.json --by user:erin --why 'seen the invoice'

The name in --by is believed: a decision by command is only as trusted as the database role that runs it. That
the approver was asked, does not operate the agent, and has not decided yet is checked.

Exit codes: 0 granted, 1 others must agree too, 2 nothing is decided.")]
pub(crate) struct Approve {
    #[command(flatten)]
    ballot: Ballot,
    /// A file with the arguments that you have seen, as JSON, or - for standard input: nothing is decided
    /// if they are not those of the request.
    #[arg(long, value_name = "FILE")]
    about: Option<PathBuf>,
}

/// Refuse one call. One refusal is enough.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis deny 01987654-3210-7abc-8def-000000000001 --by user:erin --why 'wrong account'

The name in --by is believed: a decision by command is only as trusted as the database role that runs it.

Exit codes: 0 refused, 2 nothing is decided.")]
pub(crate) struct Deny {
    #[command(flatten)]
    ballot: Ballot,
}

/// Who decides what, and why: it stands in the trail for ever.
#[derive(Args, Debug)]
struct Ballot {
    /// The request, as `portcullis approvals` shows it.
    #[arg(value_name = "REQUEST")]
    request: String,
    /// Who decides, as user:ID: one of those who were asked, or of their teams.
    #[arg(long, value_name = "USER")]
    by: String,
    /// Why: no content, no personal data.
    #[arg(long, value_name = "TEXT")]
    why: String,
}

pub(crate) async fn list(
    settings: &Settings,
    what: &Approvals,
    output: Output,
) -> Result<Answer, Fault> {
    let after = what.after.as_deref().map(RequestId::parse).transpose();
    let after = after.map_err(Fault::during("read --after"))?;
    let gov = settings.governance().await?;
    let found = pending(gov.gates(), after, usize::from(what.at_most)).await;
    gov.shutdown().await;
    let (requests, more) = found?;
    let next = requests.last().filter(|_| more).map(|last| last.id);
    let mut text = if requests.is_empty() {
        "nobody is waited for\n".to_owned()
    } else {
        listed(&requests)
    };
    if let Some(next) = next {
        let _ = writeln!(text, "there are more: --after {next}");
    }
    let document = json!({
        "requests": requests.iter().map(shown).collect::<Vec<_>>(),
        "next": next.map(|next| next.to_string()),
    });
    output.answer(&document, &text)?;
    Ok(if requests.is_empty() {
        Answer::Clean
    } else {
        Answer::Findings
    })
}

/// So many of the pending requests, and whether there are more.
async fn pending(
    gates: &Gates,
    mut after: Option<RequestId>,
    at_most: usize,
) -> Result<(Vec<ApprovalRequest>, bool), Fault> {
    let mut found = Vec::new();
    while found.len() <= at_most {
        let page = gates.pending(after).await;
        let page = page.map_err(Fault::during("list the requests"))?;
        let Some(last) = page.last() else {
            return Ok((found, false));
        };
        after = Some(last.id);
        found.extend(page);
    }
    found.truncate(at_most);
    Ok((found, true))
}

pub(crate) async fn approve(
    settings: &Settings,
    what: &Approve,
    output: Output,
) -> Result<Answer, Fault> {
    let about = what.about.as_deref().map(arguments).transpose()?;
    decide(settings, &what.ballot, Decision::grant(), about, output).await
}

pub(crate) async fn deny(
    settings: &Settings,
    what: &Deny,
    output: Output,
) -> Result<Answer, Fault> {
    decide(settings, &what.ballot, Decision::deny(), None, output).await
}

async fn decide(
    settings: &Settings,
    ballot: &Ballot,
    decision: Decision,
    about: Option<Value>,
    output: Output,
) -> Result<Answer, Fault> {
    let id = RequestId::parse(&ballot.request).map_err(Fault::during("read the request's id"))?;
    let by = ApproverRef::parse(&ballot.by).map_err(Fault::during("read --by"))?;
    if ballot.why.trim().is_empty() {
        return Err(Fault::new("read --why: say why in a sentence"));
    }
    let decision = decision.because(ballot.why.trim());
    let gov = settings.governance().await?;
    let decided = cast(&gov, id, &by, decision, about).await;
    gov.shutdown().await;
    let (mut request, decided) = decided?;
    (request.state, request.votes) = (decided.state, decided.votes);
    request.expires_at = decided.expires_at;
    output.answer(&shown(&request), &said(&request))?;
    Ok(match decided.state {
        RequestState::Pending => Answer::Findings,
        _ => Answer::Clean,
    })
}

async fn cast(
    gov: &Governance,
    id: RequestId,
    by: &ApproverRef,
    decision: Decision,
    about: Option<Value>,
) -> Result<(ApprovalRequest, Decided), Fault> {
    let gates = gov.gates();
    if let Some(arguments) = about {
        let same = gates.is_about(id, &arguments).await;
        if !same.map_err(Fault::during("read the request"))? {
            return Err(Fault::new(
                "nothing is decided: the arguments of --about are not those of the request",
            ));
        }
    }
    let request = gates.find(id).await;
    let request = request.map_err(Fault::during("read the request"))?;
    let decided = gates.decide(id, by, decision).await;
    let decided = decided.map_err(Fault::during("nothing is decided"))?;
    Ok((request, decided))
}

/// The arguments that an approver has seen. Never from the command line: they are the application's content.
fn arguments(path: &Path) -> Result<Value, Fault> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .take(LONGEST_ARGUMENTS)
            .read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(LONGEST_ARGUMENTS).read_to_string(&mut text))
    };
    read.map_err(Fault::during("read --about"))?;
    // The parser's message would quote what it found.
    serde_json::from_str(&text).map_err(|_| Fault::new("read --about: it is not JSON"))
}

fn said(request: &ApprovalRequest) -> String {
    let what = format!(
        "{} {}: {} of agent {} in session {}\n",
        request.state.as_str(),
        request.id,
        request.label,
        request.agent,
        request.session
    );
    match request.state {
        RequestState::Pending => format!(
            "{what}{} of {} have agreed; until {}\n",
            request.votes, request.quorum, request.expires_at
        ),
        RequestState::Granted => format!("{what}once, until {}\n", request.expires_at),
        _ => what,
    }
}

fn listed(requests: &[ApprovalRequest]) -> String {
    let row = |request: &ApprovalRequest| {
        vec![
            request.id.to_string(),
            request.agent.to_string(),
            request.session.to_string(),
            request.label.clone(),
            format!("{}/{}", request.votes, request.quorum),
            span(age(request.requested_at)),
            request.expires_at.to_string(),
        ]
    };
    let rows: Vec<_> = requests.iter().map(row).collect();
    let heading = [
        "request", "agent", "session", "tool", "agreed", "age", "expires",
    ];
    table(&heading, &rows)
}

fn shown(request: &ApprovalRequest) -> Value {
    json!({
        "request": request.id.to_string(),
        "state": request.state.as_str(),
        "agent": request.agent.as_str(),
        "session": request.session.as_str(),
        "tool": request.label,
        "approvers": request.approvers,
        "quorum": request.quorum,
        "votes": request.votes,
        "requested_at": request.requested_at.to_string(),
        "expires_at": request.expires_at.to_string(),
    })
}
