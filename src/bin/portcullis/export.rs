//! `portcullis export` and `portcullis redact-bundle`

use std::fs::{self, File, OpenOptions};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;
use portcullis::audit::bundle::{Bundle, Export as Order, Redaction, Selection};
use portcullis::tlog::LogVerifier;
use portcullis::{AgentId, EventId, SessionId, Timestamp, UserId};
use serde_json::json;

use crate::Answer;
use crate::checkpoint::Log;
use crate::fault::Fault;
use crate::output::Output;
use crate::settings::Settings;

/// Write what is under the newest checkpoint to a file that anybody can check with `verify-bundle`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis export --origin audit.example/acme --log-key file:/etc/portcullis/log.key --out acme.bundle
  portcullis export --session s-381 --out s-381.bundle --log \"$(cat acme.vkey)\" \\
      --origin exports.example/acme --log-key file:/etc/portcullis/export.key

The file is sealed with the key that --origin and --log-key name: the log's own, or, with --log, one
that is only for this. What is not selected is withheld: its number and places are in the file, as
hashes. Make a checkpoint first; what is newer than the last one is not exported.")]
pub(crate) struct Export {
    #[command(flatten)]
    sealer: Log,
    /// The file to write. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The log's public key, if another key seals.
    #[arg(long, value_name = "KEY", env = "PORTCULLIS_LOG")]
    log: Option<String>,
    /// Show only entries of this session.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Show only entries of this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Show only what was recorded then or later, as 2026-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Show only what was recorded before.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl Export {
    fn selection(&self) -> Result<Selection, Fault> {
        let mut selection = Selection::all();
        if let Some(session) = &self.session {
            let session = SessionId::parse(session).map_err(Fault::during("read --session"))?;
            selection = selection.session(&session);
        }
        if let Some(agent) = &self.agent {
            let agent = AgentId::parse(agent).map_err(Fault::during("read --agent"))?;
            selection = selection.agent(&agent);
        }
        if let Some(from) = &self.from {
            selection = selection.from(moment(from, "read --from")?);
        }
        if let Some(to) = &self.to {
            selection = selection.to(moment(to, "read --to")?);
        }
        Ok(selection)
    }
}

fn moment(text: &str, doing: &'static str) -> Result<Timestamp, Fault> {
    Timestamp::parse(text).map_err(Fault::during(doing))
}

/// Take entries out of a bundle. Everything else still verifies, and that something is gone is seen.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  portcullis redact-bundle acme.bundle --user u-17 --out acme-redacted.bundle \\
      --origin privacy.example/acme --log-key file:/etc/portcullis/privacy.key

The copy is sealed with the key that --origin and --log-key name: that of whoever takes it out.")]
pub(crate) struct RedactBundle {
    /// The bundle.
    file: PathBuf,
    #[command(flatten)]
    sealer: Log,
    /// The file to write. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Take out the entry of this event.
    #[arg(long, value_name = "ID")]
    event: Vec<String>,
    /// Take out the entries of this session.
    #[arg(long, value_name = "ID")]
    session: Vec<String>,
    /// Take out the entries of this agent.
    #[arg(long, value_name = "ID")]
    agent: Vec<String>,
    /// Take out the entries that name this user.
    #[arg(long, value_name = "ID")]
    user: Vec<String>,
}

impl RedactBundle {
    fn redaction(&self) -> Result<Redaction, Fault> {
        let mut redaction = Redaction::new();
        for id in &self.event {
            redaction = redaction.event(EventId::parse(id).map_err(Fault::during("read --event"))?);
        }
        for id in &self.session {
            let id = SessionId::parse(id).map_err(Fault::during("read --session"))?;
            redaction = redaction.session(&id);
        }
        for id in &self.agent {
            let id = AgentId::parse(id).map_err(Fault::during("read --agent"))?;
            redaction = redaction.agent(&id);
        }
        for id in &self.user {
            let id = UserId::parse(id).map_err(Fault::during("read --user"))?;
            redaction = redaction.user(&id);
        }
        Ok(redaction)
    }
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Export,
    output: Output,
) -> Result<Answer, Fault> {
    let signer = what.sealer.key()?;
    let log = what.log.as_deref().map(LogVerifier::parse).transpose();
    let log = log.map_err(Fault::during("read --log"))?;
    let log = log.unwrap_or_else(|| signer.verifier().clone());
    let order = Order::new(log, signer).select(what.selection()?);
    let part = Part::create(&what.out)?;
    let audit = settings.audit().await?;
    let exported = audit
        .export(&order, BufWriter::new(&part.file))
        .await
        .map_err(Fault::during("export"));
    audit.shutdown().await;
    let exported = exported?;
    part.keep()?;
    let out = what.out.display();
    let text = format!(
        "bundle    {out}\nentries   {}\nwithheld  {}\nsize      {}\nroot      {}\n",
        exported.entries(),
        exported.withheld(),
        exported.size(),
        exported.root()
    );
    let document = json!({
        "bundle": out.to_string(),
        "entries": exported.entries(),
        "withheld": exported.withheld(),
        "size": exported.size(),
        "root": exported.root().to_string(),
        "seal": exported.seal(),
    });
    output.answer(&document, &text)?;
    Ok(Answer::Clean)
}

pub(crate) fn redact(what: &RedactBundle, output: Output) -> Result<Answer, Fault> {
    let signer = what.sealer.key()?;
    let redaction = what.redaction()?;
    let bundle = Bundle::open(&what.file).map_err(Fault::during("open the bundle"))?;
    let part = Part::create(&what.out)?;
    let redacted = bundle
        .redact(&redaction, &signer, BufWriter::new(&part.file))
        .map_err(Fault::during("redact"))?;
    part.keep()?;
    let out = what.out.display();
    let taken = redacted.before() - redacted.entries();
    let text = format!(
        "bundle     {out}\ntaken out  {taken}\nentries    {}\nwithheld   {}\n",
        redacted.entries(),
        redacted.withheld()
    );
    let document = json!({
        "bundle": out.to_string(),
        "taken_out": taken,
        "entries": redacted.entries(),
        "withheld": redacted.withheld(),
        "seal": redacted.seal(),
    });
    output.answer(&document, &text)?;
    Ok(Answer::Clean)
}

/// A file that has its name once it is whole: nobody finds half a bundle.
struct Part {
    file: File,
    path: PathBuf,
    wanted: PathBuf,
}

impl Part {
    fn create(wanted: &Path) -> Result<Self, Fault> {
        if wanted.exists() {
            return Err(Fault::new(
                "--out names a file that is there; choose another name, or move it away",
            ));
        }
        let mut path = wanted.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        // What is in it is about people.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(Fault::during(
            "write --out (under its name with .part, which must not be there either)",
        ))?;
        Ok(Self {
            file,
            path,
            wanted: wanted.to_owned(),
        })
    }

    fn keep(self) -> Result<(), Fault> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.wanted))
            .map_err(Fault::during("write --out"))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already where it was kept.
        let _ = fs::remove_file(&self.path);
    }
}
