//! What may stand on the command line. No secret may: other users of the machine can read it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::agents::Agents;
use crate::anchor::Publish;
use crate::approvals::{Approvals, Approve, Deny};
use crate::archive::{Archive, CheckArchive};
use crate::budgets::Budgets;
use crate::bundle::VerifyBundle;
use crate::checkpoint::{Checkpoint, LogKeyText};
use crate::drain::Drain;
use crate::export::{Export, RedactBundle};
use crate::halt::{Halt, Halts, Resume};
use crate::migrate::Migrate;
use crate::prove::{CheckProof, Prove};
use crate::retention::{Hold, Release, Retention};
use crate::rotate::RotateKey;
use crate::verify::Verify;

const AFTER: &str = "\
Settings are taken from the flag, else from the environment, else from the configuration file:
  database   --database     PORTCULLIS_DATABASE_URL, DATABASE_URL   database = \"postgres://app@localhost/app\"
  tenant     --tenant       PORTCULLIS_TENANT                       tenant = \"default\"
  secret     -              PORTCULLIS_AUDIT_SECRET                 audit_secret = \"...\"
  keys       --audit-keys   PORTCULLIS_AUDIT_KEYS                   audit_keys = \"1=file:/etc/audit-1.key,2=env:AUDIT_2\"
  anchors    --anchor       -                                       anchors = [\"file:/mnt/worm\"]
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
    /// Several audit keys, each with its number and where it is: never a secret itself.
    #[arg(long, global = true, value_name = "LIST")]
    pub(crate) audit_keys: Option<String>,
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
    Drain(Drain),
    RotateKey(RotateKey),
    Checkpoint(Checkpoint),
    Anchor(Publish),
    LogKey(LogKeyText),
    Prove(Prove),
    CheckProof(CheckProof),
    Export(Export),
    VerifyBundle(VerifyBundle),
    RedactBundle(RedactBundle),
    Archive(Archive),
    CheckArchive(CheckArchive),
    Retention(Retention),
    Hold(Hold),
    Release(Release),
    Halt(Halt),
    Resume(Resume),
    Halts(Halts),
    Agents(Agents),
    Approvals(Approvals),
    Approve(Approve),
    Deny(Deny),
    Budgets(Budgets),
}
