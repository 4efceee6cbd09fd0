//! `portcullis retention`, `portcullis hold` and `portcullis release`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use portcullis::audit::retention::{LegalHold, OpenHold, RetentionPolicy, Status};
use portcullis::tlog::LogVerifier;
use portcullis::{AgentId, EventId, SessionId, Timestamp, UserId};
use serde_json::{Value, json};

use crate::Answer;
use crate::archive::notes;
use crate::fault::Fault;
use crate::output::{Output, table};
use crate::settings::Settings;

/// Who does it, and why: both stand in the trail for ever.
#[derive(Args, Debug)]
pub(crate) struct Reason {
    /// Who does it: a pseudonym, never a name.
    #[arg(long, value_name = "USER")]
    by: String,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    why: String,
}

impl Reason {
    fn by(&self) -> Result<UserId, Fault> {
        UserId::parse(&self.by).map_err(Fault::during("read --by"))
    }
}

/// Show the retention policy and the open legal holds, set the policy, or show what can be proved.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis retention
  portcullis retention --min-months 12 --by u-17 --why 'internal rule 4.2'
  portcullis retention --evidence 6 --log \"$(cat acme.vkey)\" --kept acme.checkpoint --since 2026-03-01T00:00:00Z

With --evidence: exit code 0 if all of it can be shown, 1 if not all, 2 if nothing can be said.")]
pub(crate) struct Retention {
    /// Set the policy: how many calendar months entries stay at least, from 6.
    #[arg(long, value_name = "MONTHS", requires = "by")]
    min_months: Option<u32>,
    /// After how many months they should be archived.
    #[arg(long, value_name = "MONTHS", requires = "min_months")]
    max_months: Option<u32>,
    /// Who sets it: a pseudonym, never a name.
    #[arg(long, value_name = "USER", requires = "why")]
    by: Option<String>,
    /// Why.
    #[arg(long, value_name = "TEXT", requires = "by")]
    why: Option<String>,
    /// Show whether entries were kept for so many months, as far as it can be proved.
    #[arg(
        long,
        value_name = "MONTHS",
        requires = "log",
        conflicts_with = "min_months"
    )]
    evidence: Option<u32>,
    /// The log's public key, as `portcullis log-key` prints it.
    #[arg(long, value_name = "KEY", requires = "evidence")]
    log: Option<String>,
    /// A checkpoint that is kept outside of the database; may be given several times.
    #[arg(long, value_name = "FILE", requires = "evidence")]
    kept: Vec<PathBuf>,
    /// Since when the first of them is kept, as who keeps it says.
    #[arg(long, value_name = "TIME", requires = "kept")]
    since: Option<String>,
}

/// Keep entries from being archived, whatever their age, until the hold is released.
///
/// What is given must all fit; with nothing given, everything of the tenant is held.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis hold --agent billing-agent --from 2026-03-01T00:00:00Z --by u-17 --why 'incident 381'")]
pub(crate) struct Hold {
    /// Only this session.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only from then on.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before then.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    #[command(flatten)]
    reason: Reason,
}

/// Release a legal hold.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis release 01987654-3210-7abc-8def-000000000001 --by u-17 --why 'incident 381 is closed'")]
pub(crate) struct Release {
    /// The hold, as `portcullis hold` or `portcullis retention` shows it.
    hold: String,
    #[command(flatten)]
    reason: Reason,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Retention,
    output: Output,
) -> Result<Answer, Fault> {
    if let (Some(months), Some(log)) = (what.evidence, &what.log) {
        return evidence(settings, what, (months, log), output).await;
    }
    let set = match (what.min_months, &what.by, &what.why) {
        (Some(months), Some(by), Some(why)) => {
            let during = Fault::during("read the policy");
            let mut policy = RetentionPolicy::months(months).map_err(&during)?;
            if let Some(max) = what.max_months {
                policy = policy.at_most(max).map_err(during)?;
            }
            let by = UserId::parse(by).map_err(Fault::during("read --by"))?;
            Some((policy, by, why))
        }
        _ => None,
    };
    let audit = settings.audit().await?;
    let retention = audit.retention();
    let done = match &set {
        Some((policy, by, why)) => retention.set_policy(*policy, by, why).await,
        None => Ok(()),
    };
    let (policy, holds) = (retention.policy().await, retention.holds().await);
    audit.shutdown().await;
    done.map_err(Fault::during("set the policy"))?;
    let policy = policy.map_err(Fault::during("read the policy"))?;
    let holds = holds.map_err(Fault::during("read the legal holds"))?;
    let months = |months: Option<u32>| months.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut text = match policy {
        Some(policy) => table(
            &["min_months", "max_months", "since"],
            &[vec![
                policy.policy().min_months().to_string(),
                months(policy.policy().max_months()),
                policy.since().to_string(),
            ]],
        ),
        None => "no retention policy: nothing can be archived\n".to_owned(),
    };
    if !holds.is_empty() {
        let rows: Vec<_> = holds.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(
            &["hold", "set", "session", "agent", "from", "to"],
            &rows,
        ));
    }
    let policy = policy.map(|policy| {
        json!({
            "min_months": policy.policy().min_months(),
            "max_months": policy.policy().max_months(),
            "since": policy.since().to_string(),
        })
    });
    let holds: Vec<Value> = holds.iter().map(shown).collect();
    output.answer(&json!({ "policy": policy, "holds": holds }), &text)?;
    Ok(Answer::Clean)
}

fn row(hold: &OpenHold) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let (from, to) = hold.times();
    vec![
        hold.id().to_string(),
        hold.set_at().to_string(),
        or_none(hold.session().map(SessionId::to_string)),
        or_none(hold.agent().map(AgentId::to_string)),
        or_none(from.map(|from| from.to_string())),
        or_none(to.map(|to| to.to_string())),
    ]
}

fn shown(hold: &OpenHold) -> Value {
    let (from, to) = hold.times();
    json!({
        "hold": hold.id().to_string(),
        "set_at": hold.set_at().to_string(),
        "session": hold.session().map(SessionId::as_str),
        "agent": hold.agent().map(AgentId::as_str),
        "from": from.map(|from| from.to_string()),
        "to": to.map(|to| to.to_string()),
    })
}

async fn evidence(
    settings: &Settings,
    what: &Retention,
    (months, log): (u32, &str),
    output: Output,
) -> Result<Answer, Fault> {
    let log = LogVerifier::parse(log).map_err(Fault::during("read --log"))?;
    let mut kept = notes(&what.kept)?;
    if let Some(since) = &what.since {
        let since = Timestamp::parse(since).map_err(Fault::during("read --since"))?;
        // Of the first: the others only show that the trail goes on from them.
        let first = (!kept.is_empty()).then(|| kept.remove(0).since(since));
        kept.extend(first);
    }
    let audit = settings.audit().await?;
    let shown = audit.retention().evidence(&log, &kept, months).await;
    audit.shutdown().await;
    let evidence = shown.map_err(Fault::during("look for evidence"))?;
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let anchored = evidence.anchored.as_ref();
    let document = json!({
        "status": evidence.status.as_str(),
        "months": evidence.months,
        "as_of": evidence.as_of.to_string(),
        "began": time(evidence.began),
        "anchor": anchored.map(|(anchor, _)| anchor),
        "anchored_since": time(anchored.map(|(_, since)| *since)),
        "provable_at": time(evidence.provable_at),
        "archived": evidence.archived,
        "reasons": evidence.reasons,
    });
    let mut text = format!(
        "{} for {} months, as of {}\n",
        evidence.status, evidence.months, evidence.as_of
    );
    for reason in &evidence.reasons {
        let _ = writeln!(text, "because  {reason}");
    }
    if let Some(at) = evidence.provable_at {
        let _ = writeln!(text, "provable {at} at the earliest");
    }
    output.answer(&document, &text)?;
    Ok(match evidence.status {
        Status::Evidenced => Answer::Clean,
        Status::Indeterminate => Answer::Nothing,
        _ => Answer::Findings,
    })
}

pub(crate) async fn hold(
    settings: &Settings,
    what: &Hold,
    output: Output,
) -> Result<Answer, Fault> {
    let time = |text: &Option<String>, flag| {
        let parsed = text.as_deref().map(Timestamp::parse).transpose();
        parsed.map_err(Fault::during(flag))
    };
    let mut hold = LegalHold::everything();
    if let Some(session) = &what.session {
        let session = SessionId::parse(session).map_err(Fault::during("read --session"))?;
        hold = hold.session(session);
    }
    if let Some(agent) = &what.agent {
        hold = hold.agent(AgentId::parse(agent).map_err(Fault::during("read --agent"))?);
    }
    if let Some(from) = time(&what.from, "read --from")? {
        hold = hold.since(from);
    }
    if let Some(to) = time(&what.to, "read --to")? {
        hold = hold.until(to);
    }
    let by = what.reason.by()?;
    let audit = settings.audit().await?;
    let set = audit.retention().hold(hold, &by, &what.reason.why).await;
    audit.shutdown().await;
    let id = set
        .map_err(Fault::during("set the legal hold"))?
        .to_string();
    output.answer(&json!({ "hold": id }), &format!("{id}\n"))?;
    Ok(Answer::Clean)
}

pub(crate) async fn release(
    settings: &Settings,
    what: &Release,
    output: Output,
) -> Result<Answer, Fault> {
    let id = EventId::parse(&what.hold).map_err(Fault::during("read the hold's id"))?;
    let by = what.reason.by()?;
    let audit = settings.audit().await?;
    let released = audit.retention().release(id, &by, &what.reason.why).await;
    audit.shutdown().await;
    released.map_err(Fault::during("release the legal hold"))?;
    let id = id.to_string();
    output.answer(&json!({ "released": id }), &format!("released {id}\n"))?;
    Ok(Answer::Clean)
}
