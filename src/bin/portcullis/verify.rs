//! `portcullis verify`

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use portcullis::SessionId;
use portcullis::audit::{self, Pace, Scope, Verdict, Verification};
use portcullis::tlog::LogVerifier;

use crate::Answer;
use crate::anchor::Anchored;
use crate::fault::Fault;
use crate::output::Output;
use crate::progress::ProgressLine;
use crate::report;
use crate::settings::Settings;

/// Check that every entry is as it was written, and that none is missing.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  portcullis verify
  portcullis verify --session s-381 --json
  portcullis verify --chain 2 --from 1000 --to 2000
  portcullis verify --log \"$(cat acme.vkey)\" --kept acme.checkpoint
  portcullis verify --log \"$(cat acme.vkey)\" --anchor file:/mnt/worm/portcullis
  portcullis verify --log \"$(cat acme.vkey)\" --resume acme.verified

What stands behind each range of entries: anchored (a checkpoint that was kept outside of the
database), signed (one that is stored in it), keyed (the audit key), unproved (nothing), or resumed
(an earlier verification, and not read again).

Exit codes: 0 clean, 1 findings, 2 could not check (no entries count as that).")]
pub(crate) struct Verify {
    /// Only what lies between the first and the last entry of a session.
    #[arg(long, value_name = "ID", conflicts_with = "chain")]
    session: Option<String>,
    /// Only one chain.
    #[arg(long, value_name = "NUMBER")]
    chain: Option<u32>,
    /// The first entry, of one chain.
    #[arg(long, value_name = "SEQ", requires = "chain")]
    from: Option<u64>,
    /// The last entry, of one chain.
    #[arg(long, value_name = "SEQ", requires = "chain")]
    to: Option<u64>,
    /// Also against the checkpoints of the log with this public key (see `log-key`).
    #[arg(long, value_name = "KEY", conflicts_with_all = ["session", "chain"])]
    log: Option<String>,
    /// A checkpoint that was kept outside of the database; may be given several times.
    #[arg(long, value_name = "FILE", requires = "log")]
    kept: Vec<PathBuf>,
    /// Go on from the verification that this file tells of, if it is there, and write down in it
    /// where the next one may go on from, if nothing was found. Keep it outside of the database.
    #[arg(long, value_name = "FILE", requires = "log")]
    resume: Option<PathBuf>,
    /// Do not make way for those who write meanwhile: by default, while they do, it works for a tenth
    /// of the time.
    #[arg(long)]
    full_speed: bool,
    #[command(flatten)]
    anchored: Anchored,
}

impl Verify {
    fn scope(&self) -> Result<Scope, Fault> {
        if let Some(session) = &self.session {
            let session = SessionId::parse(session).map_err(Fault::during("read --session"))?;
            return Ok(Scope::Session(session));
        }
        let Some(chain_no) = self.chain else {
            return Ok(Scope::All);
        };
        if self.from.is_none() && self.to.is_none() {
            return Ok(Scope::Chain { chain_no });
        }
        let (from, to) = (self.from.unwrap_or(1), self.to.unwrap_or(u64::MAX));
        if from == 0 || from > to {
            return Err(Fault::new("--from must be at least 1 and not above --to"));
        }
        Ok(Scope::Range { chain_no, from, to })
    }

    /// What to verify, and against what.
    fn what(&self) -> Result<audit::Verify, Fault> {
        let Some(log) = &self.log else {
            return Ok(self.scope()?.into());
        };
        let log = LogVerifier::parse(log).map_err(Fault::during("read --log"))?;
        let mut what = audit::Verify::everything().log(&log);
        for path in &self.kept {
            let note = fs::read_to_string(path).map_err(Fault::during("read --kept"))?;
            what = what.kept(path.display().to_string(), note);
        }
        if let Some(path) = &self.resume {
            match fs::read_to_string(path) {
                Ok(token) => what = what.resume(token),
                // The first time there is none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Fault::during("read --resume")(error)),
            }
        }
        Ok(what)
    }
}

pub(crate) async fn run(
    settings: &Settings,
    what: &Verify,
    output: Output,
) -> Result<Answer, Fault> {
    let mut asked = what.what()?;
    if what.full_speed {
        asked = asked.pace(Pace::Full);
    }
    if what.log.is_none() && what.anchored.is_given() {
        return Err(Fault::new(
            "--anchor is about checkpoints; give the log's public key with --log",
        ));
    }
    let audit = what.anchored.to(settings.audit().await?, settings)?;
    let line = ProgressLine::new(output.is_json());
    line.show("reading the heads");
    let verified = audit
        .verify_with(asked, |progress| {
            line.show(&format!(
                "chain {}: {} entries read, {} findings",
                progress.chain_no, progress.entries, progress.findings
            ));
        })
        .await
        .map_err(Fault::during("verify"));
    drop(line);
    audit.shutdown().await;
    let report = verified?;
    if let (Some(path), Some(token)) = (&what.resume, report.resume_token()) {
        replace(path, token).map_err(Fault::during("write --resume"))?;
    }
    let tenant = settings.tenant().as_str();
    output.answer(
        &report::document(tenant, &report),
        &report::text(output, &report),
    )?;
    Ok(answer(&report))
}

/// Writes a file anew, whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(name);
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn answer(report: &Verification) -> Answer {
    match report.verdict() {
        Verdict::Clean => Answer::Clean,
        Verdict::Findings => Answer::Findings,
        Verdict::Nothing => Answer::Nothing,
    }
}
