//! `portcullis migrate`

use std::fmt::Write as _;

use clap::Args;
use portcullis::store::Migration;
use serde_json::json;

use crate::Answer;
use crate::fault::Fault;
use crate::output::Output;
use crate::settings::Settings;

/// Create or update the schema `portcullis`, in one transaction; several may run it at once.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis migrate --database postgres://owner@localhost/app --app-role app")]
#[expect(
    clippy::struct_field_names,
    reason = "the options are named after the fields"
)]
pub(crate) struct Migrate {
    /// Also give this role what the application needs, and nothing more.
    #[arg(long, value_name = "ROLE")]
    app_role: Option<String>,
    /// Also give this role what archiving needs; the application must not be a member of it.
    #[arg(long, value_name = "ROLE")]
    archivist_role: Option<String>,
    /// Also give this role what operators need: all of the application's, to decide, which the
    /// application's may not any more, and to resume.
    #[arg(long, value_name = "ROLE")]
    operator_role: Option<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Migrate,
    output: Output,
) -> Result<Answer, Fault> {
    let database = settings.database()?;
    let mut migration = Migration::new(&database);
    if let Some(role) = &what.app_role {
        migration = migration.app_role(role);
    }
    if let Some(role) = &what.archivist_role {
        migration = migration.archivist_role(role);
    }
    if let Some(role) = &what.operator_role {
        migration = migration.operator_role(role);
    }
    let done = migration.run().await.map_err(Fault::during("migrate"))?;
    let mut text = String::new();
    for step in &done.applied {
        let _ = writeln!(text, "applied  {step}");
    }
    if done.applied.is_empty() {
        let _ = writeln!(text, "nothing to do");
    }
    for role in what
        .app_role
        .iter()
        .chain(&what.archivist_role)
        .chain(&what.operator_role)
    {
        let _ = writeln!(text, "granted  {role}");
    }
    let _ = writeln!(text, "version  {}", done.version);
    let document = json!({
        "applied": done.applied,
        "granted": what.app_role,
        "archivist": what.archivist_role,
        "operator": what.operator_role,
        "version": done.version,
    });
    output.answer(&document, &text)?;
    Ok(Answer::Clean)
}
