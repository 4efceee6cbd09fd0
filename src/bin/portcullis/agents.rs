//! `portcullis agents`

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use portcullis::presence::{Cursor, Filter, PresenceSettings, Seen, State};
use portcullis::{AgentId, OperatorId, SessionId};
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::operate::{age, or_none, span};
use crate::output::{Output, table};
use crate::settings::Settings;

/// Show which sessions of agents were heard of, and how they stand.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis agents --state unresponsive
  portcullis agents --agent billing-agent --json
  portcullis agents --at-most 500 --after billing-agent s-381

A session is unresponsive if it was not heard of for --silence; give what the application is set to. One whose
starter is halted is shown as it stands itself. What an agent tells of itself (metadata, with --json) is its own word.

Exit codes: 0 here they are, 2 they could not be read.")]
pub(crate) struct Agents {
    /// Only this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only those of this operator.
    #[arg(long, value_name = "USER")]
    operator: Option<String>,
    /// Only those in this state.
    #[arg(long, value_name = "STATE", value_parser = ["live", "idle", "unresponsive", "halted", "closed"])]
    state: Option<String>,
    /// After how many seconds of silence a session is unresponsive.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    silence: u64,
    /// How many to show.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    at_most: u16,
    /// Go on after this session of this agent, as the page before ended.
    #[arg(long, num_args = 2, value_names = ["AGENT", "SESSION"])]
    after: Vec<String>,
}

impl Agents {
    fn filter(&self) -> Result<Filter, Fault> {
        let mut filter = Filter::all().at_most(usize::from(self.at_most));
        if let Some(agent) = &self.agent {
            filter = filter.agent(AgentId::parse(agent).map_err(Fault::during("read --agent"))?);
        }
        if let Some(operator) = &self.operator {
            let operator = OperatorId::parse(operator);
            filter = filter.operator(operator.map_err(Fault::during("read --operator"))?);
        }
        if let Some(state) = self.state.as_deref().and_then(state) {
            filter = filter.state(state);
        }
        if let [agent, session] = self.after.as_slice() {
            let during = "read --after";
            let agent = AgentId::parse(agent).map_err(Fault::during(during))?;
            let session = SessionId::parse(session).map_err(Fault::during(during))?;
            filter = filter.after(Cursor::after(agent, session));
        }
        Ok(filter)
    }
}

fn state(text: &str) -> Option<State> {
    let all = [
        State::Live,
        State::Idle,
        State::Unresponsive,
        State::Halted,
        State::Closed,
    ];
    all.into_iter().find(|state| state.as_str() == text)
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Agents,
    output: Output,
) -> Result<Answer, Fault> {
    let filter = what.filter()?;
    let presence =
        PresenceSettings::default().unresponsive_after(Duration::from_secs(what.silence));
    let gov = settings.governance_with(presence).await?;
    let page = gov.presence().list(&filter).await;
    gov.shutdown().await;
    let page = page.map_err(Fault::during("list the agents"))?;
    let rows: Vec<_> = page.sessions.iter().map(row).collect();
    let heading = ["agent", "session", "state", "operator", "heard of", "since"];
    let mut text = table(&heading, &rows);
    if let Some(next) = &page.next {
        let _ = writeln!(
            text,
            "there are more: --after {} {}",
            next.agent(),
            next.session()
        );
    }
    let next = page
        .next
        .map(|next| json!({ "agent": next.agent().as_str(), "session": next.session().as_str() }));
    let sessions: Vec<Value> = page.sessions.iter().map(shown).collect();
    output.answer(&json!({ "sessions": sessions, "next": next }), &text)?;
    Ok(Answer::Clean)
}

fn row(seen: &Seen) -> Vec<String> {
    vec![
        seen.agent.to_string(),
        seen.session.to_string(),
        seen.state.as_str().to_owned(),
        or_none(seen.operator.as_ref()),
        format!("{} ago", span(age(seen.last_seen))),
        seen.first_seen.to_string(),
    ]
}

fn shown(seen: &Seen) -> Value {
    let metadata: Option<Value> = serde_json::from_str(seen.metadata.as_str()).ok();
    json!({
        "agent": seen.agent.as_str(),
        "session": seen.session.as_str(),
        "state": seen.state.as_str(),
        "operator": seen.operator.as_ref().map(OperatorId::as_str),
        "first_seen": seen.first_seen.to_string(),
        "last_seen": seen.last_seen.to_string(),
        "metadata": metadata,
    })
}
