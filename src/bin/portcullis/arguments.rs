//! What may stand on the command line. No secret may: other users of the machine can read it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::migrate::Migrate;
use crate::verify::Verify;

const AFTER: &str = "\
Settings are taken from the flag, else from the environment, else from the configuration file:
  database   --database     PORTCULLIS_DATABASE_URL, DATABASE_URL   database = \"postgres://app@localhost/app\"
  tenant     --tenant       PORTCULLIS_TENANT                       tenant = \"default\"
  secret     -              PORTCULLIS_AUDIT_SECRET                 audit_secret = \"...\"
The configuration file is --config, else PORTCULLIS_CONFIG, else ./portcullis.toml if it is there.
One that holds a secret or a password must be readable by its owner only (chmod 600).

Exit codes: 0 all is well, 1 something was found, 2 the command could not do its work.";

/// Enforcement gates and a verifiable audit trail for AI agents.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = AFTER, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The database, without a password: that is taken from the environment, the configuration
    /// file or ~/.pgpass.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// The tenant whose trail it is.
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) tenant: Option<String>,
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Answer with one JSON document.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Migrate(Migrate),
    Verify(Verify),
}
