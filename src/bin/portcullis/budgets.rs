//! `portcullis budgets`

use clap::Args;
use portcullis::cost::{
    Budget, Limits, ModelSpend, OnLimit, Period, Snapshot, Tally, Window, WindowSnapshot,
};
use portcullis::{AgentId, BudgetName, ModelName, Principal, SessionId, Usd, UserId};
use serde_json::{Value, json};

use crate::Answer;
use crate::fault::Fault;
use crate::operate::or_none;
use crate::output::{Output, table};
use crate::settings::Settings;

/// Show the budgets, or what an agent has spent and has left.
///
/// Without --agent: every budget of the tenant, with its limits. With it: every window that a call of this
/// agent, in this session, for this user would be charged to now.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis budgets
  portcullis budgets --agent billing-agent
  portcullis budgets --agent billing-agent --session s-381 --user u-17 --json

Held is what calls that are going on may cost at most, unknown what calls stay charged at whose outcome nobody
knows. Windows over a session are shown if --session is given.

Exit codes: 0 there is something left of all that are shown, 1 one is used up, 2 they could not be read.")]
pub(crate) struct Budgets {
    /// Whose calls.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// In which session.
    #[arg(long, value_name = "ID", requires = "agent")]
    session: Option<String>,
    /// On whose behalf.
    #[arg(long, value_name = "USER", requires = "agent")]
    user: Option<String>,
}

impl Budgets {
    fn principal(&self) -> Result<Option<Principal>, Fault> {
        let Some(agent) = &self.agent else {
            return Ok(None);
        };
        let agent = AgentId::parse(agent).map_err(Fault::during("read --agent"))?;
        let mut who = Principal::agent(agent);
        if let Some(session) = &self.session {
            let session = SessionId::parse(session).map_err(Fault::during("read --session"))?;
            who = who.session(session);
        }
        if let Some(user) = &self.user {
            who = who.on_behalf_of(UserId::parse(user).map_err(Fault::during("read --user"))?);
        }
        Ok(Some(who))
    }
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Budgets,
    output: Output,
) -> Result<Answer, Fault> {
    let who = what.principal()?;
    let gov = settings.governance().await?;
    let Some(who) = who else {
        let budgets = gov.cost().budgets().await;
        gov.shutdown().await;
        return all(&budgets.map_err(Fault::during("read the budgets"))?, output);
    };
    let snapshot = gov.cost().snapshot(&who).await;
    gov.shutdown().await;
    let mut snapshot = snapshot.map_err(Fault::during("read what is spent"))?;
    if what.session.is_none() {
        // Those of a session that nobody has begun.
        let of_session = |window: &WindowSnapshot| matches!(window.window, Window::Session(_));
        snapshot.windows.retain(|window| !of_session(window));
    }
    spent(&snapshot, output)
}

fn all(budgets: &[Budget], output: Output) -> Result<Answer, Fault> {
    let rows: Vec<_> = budgets.iter().flat_map(rows).collect();
    let heading = [
        "budget",
        "agent",
        "user",
        "model",
        "over",
        "unit",
        "limit",
        "when full",
    ];
    let text = if rows.is_empty() {
        "there are no budgets: nobody may spend anything\n".to_owned()
    } else {
        table(&heading, &rows)
    };
    let budgets: Vec<Value> = budgets.iter().map(shown).collect();
    output.answer(&json!({ "budgets": budgets }), &text)?;
    Ok(Answer::Clean)
}

fn rows(budget: &Budget) -> Vec<Vec<String>> {
    let row = |over: &str, unit: &str, limit: String| {
        vec![
            name(budget),
            or_none(budget.agent_id()),
            or_none(budget.user_id()),
            or_none(budget.model()),
            over.to_owned(),
            unit.to_owned(),
            limit,
            when_full(budget.at_limit()).to_owned(),
        ]
    };
    let of_period = |(period, limits): (Period, Limits)| {
        let over = over(period);
        let mut rows = Vec::new();
        let given = [
            ("usd", limits.usd.map(|usd| usd.to_string())),
            ("tokens", limits.tokens.map(|tokens| tokens.to_string())),
            ("calls", limits.calls.map(|calls| calls.to_string())),
            ("seconds", limits.seconds.map(|seconds| seconds.to_string())),
        ];
        for (unit, limit) in given {
            rows.extend(limit.map(|limit| row(&over, unit, limit)));
        }
        if rows.is_empty() {
            rows.push(row(&over, "-", "-".to_owned()));
        }
        rows
    };
    budget.periods().flat_map(of_period).collect()
}

fn shown(budget: &Budget) -> Value {
    let period = |(period, limits): (Period, Limits)| {
        json!({
            "over": over(period),
            "usd": limits.usd.map(amount),
            "tokens": limits.tokens,
            "calls": limits.calls,
            "seconds": limits.seconds,
        })
    };
    json!({
        "budget": budget.name().map(BudgetName::as_str),
        "agent": budget.agent_id().map(AgentId::as_str),
        "user": budget.user_id().map(UserId::as_str),
        "model": budget.model().map(ModelName::as_str),
        "when_full": when_full(budget.at_limit()),
        "warn_at": budget.thresholds(),
        "limits": budget.periods().map(period).collect::<Vec<_>>(),
    })
}

fn name(budget: &Budget) -> String {
    or_none(budget.name())
}

fn over(period: Period) -> String {
    match period {
        Period::Session => "session".to_owned(),
        Period::Day => "day".to_owned(),
        Period::Month => "month".to_owned(),
        Period::Rolling(rolling) => format!("last {rolling}"),
        Period::Forever => "lifetime".to_owned(),
        _ => "-".to_owned(),
    }
}

const fn when_full(choice: OnLimit) -> &'static str {
    match choice {
        OnLimit::Refuse => "refuse",
        OnLimit::Ask => "ask",
        OnLimit::Warn => "warn",
        _ => "-",
    }
}

fn spent(snapshot: &Snapshot, output: Output) -> Result<Answer, Fault> {
    let rows: Vec<_> = snapshot.windows.iter().flat_map(window_rows).collect();
    let heading = [
        "budget", "window", "unit", "limit", "settled", "held", "unknown", "left",
    ];
    let text = if rows.is_empty() {
        "no budget that is counted here fits: nothing is shown\n".to_owned()
    } else {
        table(&heading, &rows)
    };
    let windows: Vec<Value> = snapshot.windows.iter().map(window_shown).collect();
    output.answer(&json!({ "windows": windows }), &text)?;
    Ok(if snapshot.windows.iter().any(is_used_up) {
        Answer::Findings
    } else {
        Answer::Clean
    })
}

fn is_used_up(window: &WindowSnapshot) -> bool {
    window.usd.left == Some(Usd::ZERO)
        || window.tokens.left == Some(0)
        || window.calls.left == Some(0)
}

fn window_rows(window: &WindowSnapshot) -> Vec<Vec<String>> {
    let of = |tally: Vec<String>, unit: &str| {
        let mut row = vec![
            window.budget.to_string(),
            window.window.to_string(),
            unit.to_owned(),
        ];
        row.extend(tally);
        row
    };
    let mut rows = vec![of(cells(&window.usd), "usd")];
    // Tokens and calls are counted in every window, and of interest where they are limited.
    for (tally, unit) in [(&window.tokens, "tokens"), (&window.calls, "calls")] {
        if tally.limit.is_some() {
            rows.push(of(cells(tally), unit));
        }
    }
    rows
}

fn cells<T: ToString + Copy>(tally: &Tally<T>) -> Vec<String> {
    vec![
        or_none(tally.limit),
        tally.settled.to_string(),
        tally.held.to_string(),
        tally.unknown.to_string(),
        or_none(tally.left),
    ]
}

fn window_shown(window: &WindowSnapshot) -> Value {
    json!({
        "budget": window.budget.as_str(),
        "window": window.window.to_string(),
        "usd": tally(&window.usd, amount),
        "tokens": tally(&window.tokens, Value::from),
        "calls": tally(&window.calls, Value::from),
        "by_model": window.by_model.iter().map(model).collect::<Vec<_>>(),
    })
}

fn tally<T: Copy>(tally: &Tally<T>, shown: fn(T) -> Value) -> Value {
    json!({
        "limit": tally.limit.map(shown),
        "settled": shown(tally.settled),
        "held": shown(tally.held),
        "unknown": shown(tally.unknown),
        "left": tally.left.map(shown),
        "overrun": shown(tally.overrun),
    })
}

fn model(spend: &ModelSpend) -> Value {
    json!({
        "model": spend.model.as_ref().map(ModelName::as_str),
        "calls": spend.calls,
        "input_tokens": spend.input_tokens,
        "output_tokens": spend.output_tokens,
        "usd": amount(spend.usd),
    })
}

/// Dollars as a decimal number in a string: exact, whoever reads it.
fn amount(usd: Usd) -> Value {
    Value::from(usd.to_string().replacen('$', "", 1))
}
