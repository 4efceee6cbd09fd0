//! `portcullis`: what operators and auditors do from a terminal.
//!
//! Every command answers in an aligned table, or with `--json` in one JSON document on standard
//! output; progress and warnings go to standard error. The exit code is 0 when all is well, 1 when
//! something was found, 2 when the command could not do its work.

mod agents;
mod anchor;
mod approvals;
mod archive;
mod arguments;
mod budgets;
mod bundle;
mod checkpoint;
mod drain;
mod export;
mod fault;
mod halt;
mod migrate;
mod operate;
mod output;
mod progress;
mod prove;
mod report;
mod retention;
mod rotate;
mod settings;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Command};
use crate::fault::Fault;
use crate::output::Output;
use crate::settings::Settings;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json);
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Fault::new(format!("the runtime could not be started: {error}")))
        .and_then(|runtime| runtime.block_on(run(arguments, output)));
    match done {
        Ok(answer) => answer.exit_code(),
        Err(fault) => {
            output.fault(&fault);
            ExitCode::from(2)
        }
    }
}

/// What a command came to; of several answers the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// All is well.
    Clean,
    /// Nothing could be checked.
    Nothing,
    /// Something was found.
    Findings,
}

impl Answer {
    fn exit_code(self) -> ExitCode {
        match self {
            Self::Clean => ExitCode::SUCCESS,
            Self::Findings => ExitCode::from(1),
            Self::Nothing => ExitCode::from(2),
        }
    }
}

async fn run(arguments: Arguments, output: Output) -> Result<Answer, Fault> {
    let settings = Settings::gather(&arguments)?;
    match arguments.command {
        Command::Migrate(what) => migrate::run(&settings, &what, output).await,
        Command::Verify(what) => verify::run(&settings, &what, output).await,
        Command::Drain(what) => drain::run(&settings, &what, output).await,
        Command::RotateKey(what) => rotate::run(&settings, &what, output).await,
        Command::Checkpoint(what) => checkpoint::run(&settings, &what, output).await,
        Command::Anchor(what) => anchor::run(&settings, &what, output).await,
        Command::LogKey(what) => checkpoint::show_key(&what, output),
        Command::Prove(what) => prove::run(&settings, &what, output).await,
        Command::CheckProof(what) => prove::check(&what, output),
        Command::Export(what) => export::run(&settings, &what, output).await,
        Command::VerifyBundle(what) => bundle::verify(&what, output),
        Command::RedactBundle(what) => export::redact(&what, output),
        Command::Archive(what) => archive::run(&settings, &what, output).await,
        Command::CheckArchive(what) => archive::check(&settings, &what, output).await,
        Command::Retention(what) => retention::run(&settings, &what, output).await,
        Command::Hold(what) => retention::hold(&settings, &what, output).await,
        Command::Release(what) => retention::release(&settings, &what, output).await,
        Command::Halt(what) => halt::halt(&settings, &what, output).await,
        Command::Resume(what) => halt::resume(&settings, &what, output).await,
        Command::Halts(what) => halt::list(&settings, &what, output).await,
        Command::Agents(what) => agents::run(&settings, &what, output).await,
        Command::Approvals(what) => approvals::list(&settings, &what, output).await,
        Command::Approve(what) => approvals::approve(&settings, &what, output).await,
        Command::Deny(what) => approvals::deny(&settings, &what, output).await,
        Command::Budgets(what) => budgets::run(&settings, &what, output).await,
    }
}
