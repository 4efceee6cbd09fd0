//! A program of the operator's that keeps checkpoints wherever it likes.

use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Anchor, AnchorError, AnchorFuture, Inquiry, Kept, Publication, Receipt};
use crate::tlog::MAX_NOTE_BYTES;

/// What is taken of what a program says.
const LONGEST: usize = MAX_NOTE_BYTES;
/// How often to look whether it is done.
const LOOK: Duration = Duration::from_millis(10);
/// How long its output may take to arrive once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);

/// A program that is run to publish a checkpoint, and to say which one is the newest.
///
/// It is run, without a shell, as `PROGRAM [ARGUMENTS] publish ORIGIN SIZE` with the signed note on
/// standard input; status 0 says that the note is kept, durably, and what it printed is the
/// receipt. `PROGRAM [ARGUMENTS] latest ORIGIN` prints the newest note that it keeps of that log, or
/// nothing, and ends with status 0.
///
/// Its environment is empty but for `PATH` and what [`env`](Self::env) gives it: it gets no secret of
/// ours. It is killed after ten seconds ([`deadline`](Self::deadline)), and after a mebibyte of
/// output. What it writes to standard error is thrown away.
///
/// ```
/// use portcullis::audit::anchor::CommandAnchor;
///
/// let anchor = CommandAnchor::new("bucket", "/usr/local/bin/keep-checkpoint")?.argument("--bucket=audit");
/// # let _ = anchor;
/// # Ok::<(), portcullis::audit::anchor::AnchorError>(())
/// ```
#[derive(Clone)]
pub struct CommandAnchor {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    deadline: Duration,
    tells: bool,
}

impl CommandAnchor {
    /// The anchor `name`, which is kept by `program`.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if the path is not absolute: what it means would depend on where
    /// the process was started, or on its `PATH`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Result<Self, AnchorError> {
        let program = program.into();
        if !program.is_absolute() {
            return Err(AnchorError::Settings("the program's path is not absolute"));
        }
        Ok(Self {
            name: name.into(),
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            deadline: DEADLINE,
            tells: true,
        })
    }

    /// Adds an argument, before `publish` or `latest`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of its environment. It may hold a secret of the program's: it is not shown.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// How long it may run (10 s).
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The program only publishes, and has no `latest`. The signer is not held to what it keeps.
    #[must_use]
    pub const fn publish_only(mut self) -> Self {
        self.tells = false;
        self
    }

    async fn run(&self, arguments: Vec<String>, input: String) -> Result<Vec<u8>, AnchorError> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        let deadline = self.deadline;
        let done = tokio::task::spawn_blocking(move || run(command, input, deadline)).await;
        done.unwrap_or(Err(AnchorError::Away("its run was given up")))
    }
}

impl Anchor for CommandAnchor {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "command"
    }

    fn remembers(&self) -> bool {
        self.tells
    }

    fn latest<'a>(&'a self, inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>> {
        Box::pin(async {
            if !self.tells {
                return Ok(None);
            }
            let arguments = vec!["latest".to_owned(), inquiry.log().origin().to_owned()];
            let note = self.run(arguments, String::new()).await?;
            if note.is_empty() {
                return Ok(None);
            }
            let note = String::from_utf8(note)
                .map_err(|_| AnchorError::Invalid("what the program prints is not a note"))?;
            Ok(Some(Kept::note(note)))
        })
    }

    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt> {
        Box::pin(async {
            let size = publication.checkpoint().size().to_string();
            let arguments = ["publish", publication.origin(), &size];
            let arguments = arguments.map(str::to_owned).to_vec();
            let printed = self.run(arguments, publication.note().to_owned()).await?;
            Ok(Receipt::new("command", printed))
        })
    }
}

/// Not its environment, and not its arguments, which may hold what they should not.
impl std::fmt::Debug for CommandAnchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandAnchor")
            .field("name", &self.name)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

fn run(mut command: Command, input: String, deadline: Duration) -> Result<Vec<u8>, AnchorError> {
    let mut child = command.spawn().map_err(|error| away(&error))?;
    let pipes = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = pipes else {
        return Err(AnchorError::Away("the program has no standard streams"));
    };
    // By threads of their own: a program that reads nothing, or whose children keep its output
    // open, holds up neither us nor the deadline.
    thread::spawn(move || {
        // It may well end without having read all.
        let _ = stdin.write_all(input.as_bytes());
    });
    let (sender, printed) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(read(stdout));
    });
    let (mut left, mut output) = (deadline, None);
    let ended = loop {
        if let Some(status) = child.try_wait().map_err(|error| away(&error))? {
            break status;
        }
        // Too much output ends it before its time.
        output = output.or_else(|| printed.try_recv().ok());
        if output == Some(None) {
            kill(&mut child);
            return Err(AnchorError::Invalid("the program printed more than 1 MiB"));
        }
        if left.is_zero() {
            kill(&mut child);
            return Err(AnchorError::TimedOut);
        }
        let pause = LOOK.min(left);
        thread::sleep(pause);
        left -= pause;
    };
    // A child of its own may hold its output open for ever.
    let output = output.or_else(|| printed.recv_timeout(left.max(LAST_WORDS)).ok());
    let printed = output.ok_or(AnchorError::TimedOut)?;
    let printed = printed.ok_or(AnchorError::Invalid("the program printed more than 1 MiB"))?;
    check(ended)?;
    Ok(printed)
}

/// What is printed to the end; `None` if it is too much.
fn read(stdout: impl Read) -> Option<Vec<u8>> {
    let mut printed = Vec::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX) + 1;
    // What could not be read any more was not printed.
    let _ = stdout.take(most).read_to_end(&mut printed);
    (printed.len() <= LONGEST).then_some(printed)
}

fn check(status: ExitStatus) -> Result<(), AnchorError> {
    if status.success() {
        Ok(())
    } else {
        Err(AnchorError::Refused("the program ended with a failure"))
    }
}

fn kill(child: &mut Child) {
    // It may have ended by itself just now.
    let _ = child.kill();
    let _ = child.wait();
}

fn away(error: &io::Error) -> AnchorError {
    AnchorError::Away(match error.kind() {
        io::ErrorKind::NotFound => "there is no such program",
        io::ErrorKind::PermissionDenied => "the program may not be run",
        _ => "the program could not be run",
    })
}
