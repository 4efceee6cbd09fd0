//! `portcullis halt`, `portcullis resume` and `portcullis halts`

use std::fmt::Write as _;

use clap::Args;
use portcullis::halt::{HaltStatus, Order, Target};
use portcullis::{AgentId, SessionId};
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::operate::{Given, or_none};
use crate::output::{Output, table};
use crate::settings::Settings;

/// What is halted or resumed.
#[derive(Args, Debug)]
pub(crate) struct Whom {
    /// This agent, in all its sessions, with every agent that it started.
    #[arg(
        long,
        value_name = "ID",
        required_unless_present_any = ["this_tenant", "everything"],
        conflicts_with_all = ["this_tenant", "everything"]
    )]
    agent: Option<String>,
    /// Only this session of the agent.
    #[arg(long, value_name = "ID", requires = "agent")]
    session: Option<String>,
    /// Every agent of the tenant.
    #[arg(long, conflicts_with = "everything")]
    this_tenant: bool,
    /// Every agent of every tenant in the database.
    #[arg(long)]
    everything: bool,
}

impl Whom {
    fn target(&self) -> Result<Target, Fault> {
        let Some(agent) = &self.agent else {
            return Ok(if self.everything {
                Target::Everything
            } else {
                Target::Tenant
            });
        };
        let agent = AgentId::parse(agent).map_err(Fault::during("read --agent"))?;
        let Some(session) = &self.session else {
            return Ok(Target::Agent(agent));
        };
        let session = SessionId::parse(session).map_err(Fault::during("read --session"))?;
        Ok(Target::Session(agent, session))
    }
}

/// Stop an agent, a session, a tenant, or everything, until it is resumed.
///
/// Every gate of every process refuses it within moments, and work under way is told. Halting what is
/// halted already changes nothing, and is no error.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis halt --agent billing-agent --by user:anna --why 'refunds without an order'
  portcullis halt --agent billing-agent --session s-381 --by user:anna --why 'goes round in circles'
  portcullis halt --this-tenant --by user:anna --why 'incident 381'
  portcullis halt --everything --by user:anna --why 'incident 382'

The name in --by is believed: the order is only as trusted as the database role that runs it.

Exit codes: 0 halted, 2 it may not be: run it again.")]
pub(crate) struct Halt {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    given: Given,
}

/// Lift a halt, as it was given.
///
/// Resuming a session does not resume its agent, and nobody goes on whose tenant is halted: what still
/// stands is said.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis resume --agent billing-agent --by user:anna --why 'fixed in release 71'

The name in --by is believed, unless an agent has it: the order is only as trusted as the database role that
runs it. Give operators a role of their own (portcullis migrate --operator-role), and no other may resume.

Exit codes: 0 nothing halts it any more, 1 another halt still does, 2 the halt stands.")]
pub(crate) struct Resume {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    given: Given,
}

/// Show what is halted, by whom, and why.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis halts --json

Exit codes: 0 nothing is halted, 1 something is, 2 it is not known.")]
pub(crate) struct Halts {}

pub(crate) async fn halt(
    settings: &Settings,
    what: &Halt,
    output: Output,
) -> Result<Answer, Fault> {
    let (target, by) = (what.whom.target()?, what.given.by()?);
    let gov = settings.governance().await?;
    let done = gov.halt().halt(&target, &by, &what.given.why).await;
    gov.shutdown().await;
    let change = done.map_err(Fault::during(
        "halt (it may not be stored: look with `portcullis halts`, and run it again)",
    ))?;
    let text = if change.changed {
        format!("halted {}\n", named(&target))
    } else {
        format!("{} was halted already\n", named(&target))
    };
    let mut document = about(&target);
    merge(
        &mut document,
        json!({ "changed": change.changed, "epoch": change.epoch }),
    );
    output.answer(&document, &text)?;
    Ok(Answer::Clean)
}

pub(crate) async fn resume(
    settings: &Settings,
    what: &Resume,
    output: Output,
) -> Result<Answer, Fault> {
    let (target, by) = (what.whom.target()?, what.given.by()?);
    let gov = settings.governance().await?;
    let done = gov.halt().resume(&target, &by, &what.given.why).await;
    let status = gov.halt().status();
    gov.shutdown().await;
    let change = done.map_err(Fault::during("resume"))?;
    let still: Vec<&Order> = status
        .halted
        .iter()
        .filter(|order| covers(&order.target, &target))
        .collect();
    let mut text = if change.changed {
        format!("resumed {}\n", named(&target))
    } else {
        format!("{} was not halted\n", named(&target))
    };
    if !still.is_empty() {
        text.push_str("it does not go on, because of:\n");
        text.push_str(&listed(still.iter().copied()));
    }
    let mut document = about(&target);
    merge(
        &mut document,
        json!({
            "changed": change.changed,
            "epoch": change.epoch,
            "still_halted_by": still.iter().map(|order| shown(order)).collect::<Vec<_>>(),
        }),
    );
    output.answer(&document, &text)?;
    Ok(if still.is_empty() {
        Answer::Clean
    } else {
        Answer::Findings
    })
}

pub(crate) async fn list(
    settings: &Settings,
    _what: &Halts,
    output: Output,
) -> Result<Answer, Fault> {
    let gov = settings.governance().await?;
    let status = gov.halt().status();
    gov.shutdown().await;
    output.answer(&document(&status), &text(&status))?;
    Ok(match (status.stale, status.halted.is_empty()) {
        (true, _) => Answer::Nothing,
        (false, true) => Answer::Clean,
        (false, false) => Answer::Findings,
    })
}

fn document(status: &HaltStatus) -> Value {
    json!({
        "halted": status.halted.iter().map(shown).collect::<Vec<_>>(),
        "age_ms": u64::try_from(status.age.as_millis()).unwrap_or(u64::MAX),
        "stale_after_ms": u64::try_from(status.stale_after.as_millis()).unwrap_or(u64::MAX),
        "stale": status.stale,
        "heard": status.heard,
    })
}

fn text(status: &HaltStatus) -> String {
    let mut text = if status.halted.is_empty() {
        "nothing is halted\n".to_owned()
    } else {
        listed(&status.halted)
    };
    let _ = writeln!(
        text,
        "known as of {} ms ago{}",
        status.age.as_millis(),
        if status.stale {
            ", which is too old"
        } else {
            ""
        },
    );
    text
}

fn listed<'o>(orders: impl IntoIterator<Item = &'o Order>) -> String {
    let row = |order: &Order| {
        vec![
            order.target.word().to_owned(),
            or_none(order.target.agent()),
            or_none(order.target.session()),
            order.by.to_string(),
            order.since.to_string(),
            order.why.to_string(),
        ]
    };
    let rows: Vec<_> = orders.into_iter().map(row).collect();
    table(&["halted", "agent", "session", "by", "since", "why"], &rows)
}

fn shown(order: &Order) -> Value {
    let mut document = about(&order.target);
    merge(
        &mut document,
        json!({
            "by": order.by.as_str(),
            "why": order.why,
            "since": order.since.to_string(),
            "epoch": order.epoch,
        }),
    );
    document
}

fn about(target: &Target) -> Value {
    json!({
        "target": target.word(),
        "agent": target.agent().map(AgentId::as_str),
        "session": target.session().map(SessionId::as_str),
    })
}

fn merge(document: &mut Value, more: Value) {
    if let (Value::Object(document), Value::Object(more)) = (document, more) {
        document.extend(more);
    }
}

fn named(target: &Target) -> String {
    match (target.agent(), target.session()) {
        (Some(agent), Some(session)) => format!("session {session} of agent {agent}"),
        (Some(agent), None) => format!("agent {agent}"),
        _ if *target == Target::Everything => "everything".to_owned(),
        _ => "the tenant".to_owned(),
    }
}

/// Whether a halt of `halted` stops `target` too.
fn covers(halted: &Target, target: &Target) -> bool {
    match halted {
        Target::Everything => true,
        Target::Tenant => *target != Target::Everything,
        Target::Agent(agent) => target.agent() == Some(agent),
        _ => halted == target,
    }
}
