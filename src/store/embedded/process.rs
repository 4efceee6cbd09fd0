//! Starting `initdb` and `postgres`, and knowing how they are.

use super::layout::Layout;
use super::locate::Binaries;
use super::{Durability, EmbeddedError};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

/// Runs its arguments, says their process id, and interrupts them when its own input ends.
///
/// Its input is a pipe whose other end only we hold, so it ends when we let go of it, exit, panic
/// or are killed. It ignores the signals that a terminal or a service manager sends to whole
/// groups, because stopping Postgres in order is all it is for; Postgres sets its own handlers.
/// Until it has set them an interrupt is lost, so the interrupt is repeated until the end; one
/// more does nothing to a Postgres that is shutting down.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
exec 3<&0 </dev/null
"$@" 3<&- >&2 & p=$!
echo "$p"
exec >/dev/null 2>&1
(read -r _ <&3; while kill -INT "$p"; do sleep .2 || sleep 1; done) & w=$!
exec 3<&-
wait "$p"; r=$?
kill -KILL "$w"; wait "$w"
exit "$r"
"#;

/// The log starts anew when it is larger than this.
const LONGEST_LOG: u64 = 8 * 1024 * 1024;

/// A program under the watchdog. Dropping it interrupts the program and waits for its end.
#[derive(Debug)]
pub(super) struct Watched {
    watchdog: Child,
    /// The process id of the program itself.
    pub(super) pid: u32,
}

impl Watched {
    fn spawn(layout: &Layout, command: &[OsString]) -> Result<Self, EmbeddedError> {
        let io = || EmbeddedError::io("running /bin/sh for", &layout.dir);
        let log = layout.open(&layout.log)?;
        let mut shell = layout.command("/bin/sh");
        shell.args(["-c", WATCHDOG, "sh"]).args(command);
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        // A group of its own: Ctrl-C in a terminal is for us, and we stop it in order.
        let mut watchdog = shell.process_group(0).spawn().map_err(io())?;
        let mut line = String::new();
        if let Some(output) = watchdog.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(io())?;
        }
        // A shell that died at once said nothing; 0 is no process, and its exit is seen next.
        let pid = line.trim().parse().unwrap_or(0);
        Ok(Self { watchdog, pid })
    }

    /// Whether the program has ended.
    pub(super) fn has_exited(&mut self) -> bool {
        !matches!(self.watchdog.try_wait(), Ok(None))
    }

    fn wait(mut self) -> std::io::Result<ExitStatus> {
        // `Child::wait` would close the input first, and so interrupt the program.
        let input = self.watchdog.stdin.take();
        let status = self.watchdog.wait();
        drop(input);
        status
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing is left to do about a child that cannot be waited for.
        let _ = self.watchdog.wait();
    }
}

/// Starts Postgres on the cluster. It may exit at once, for example beside a predecessor.
pub(super) fn postgres(
    layout: &Layout,
    binaries: &Binaries,
    durability: Durability,
) -> Result<Watched, EmbeddedError> {
    layout.private_directory(&layout.sockets)?;
    let mut sockets = OsString::from("unix_socket_directories=");
    sockets.push(&layout.sockets);
    let mut settings = vec![
        // Only a socket in a directory of mode 0700: this is what makes trust safe.
        "listen_addresses=".into(),
        sockets,
        "port=5432".into(),
        "max_connections=200".into(),
        // The log is a plain file. Keep statements and rejected values out of it, and it short.
        "log_min_error_statement=panic".into(),
        "log_error_verbosity=terse".into(),
        "log_checkpoints=off".into(),
    ];
    if durability == Durability::Throwaway {
        let off = [
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ];
        settings.extend(off.map(OsString::from));
    }
    let mut command = vec![
        binaries.dir.join("postgres").into_os_string(),
        "-D".into(),
        layout.data.clone().into_os_string(),
    ];
    command.extend(settings.into_iter().flat_map(|one| ["-c".into(), one]));
    Watched::spawn(layout, &command)
}

/// Removes what an `initdb` left that was killed with its process.
pub(super) fn sweep(layout: &Layout) -> Result<(), EmbeddedError> {
    let entries = fs::read_dir(&layout.dir).map_err(EmbeddedError::io("reading", &layout.dir))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("initdb-") {
            // Its process may be dying still and writing: what stays is removed next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Makes the cluster.
//
// `initdb` works in a directory of another name, which gets its real name when it is complete. If
// we are killed before that, the next start finds no cluster and makes one.
pub(super) fn initdb(
    layout: &Layout,
    binaries: &Binaries,
    durability: Durability,
) -> Result<(), EmbeddedError> {
    let name = |n: u32| {
        layout
            .dir
            .join(format!("initdb-{}-{n}", std::process::id()))
    };
    let free = |path: &std::path::PathBuf| fs::symlink_metadata(path).is_err();
    let partial = (0..1000).map(name).find(free).unwrap_or_else(|| name(0));
    layout.private_directory(&partial)?;

    let mut command = vec![binaries.dir.join("initdb").into_os_string()];
    let flags = [
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "-D",
    ];
    command.extend(flags.map(OsString::from));
    command.push(partial.clone().into_os_string());
    if durability == Durability::Throwaway {
        command.push("--no-sync".into());
    }
    let status = Watched::spawn(layout, &command)?.wait();
    if !status.is_ok_and(|status| status.success()) {
        return Err(EmbeddedError::Initdb {
            log: layout.log.clone(),
        });
    }
    let io = || EmbeddedError::io("creating", &layout.data);
    fs::rename(&partial, &layout.data).map_err(io())?;
    // The new name must outlive a power failure, as what commits into it will.
    fs::File::open(&layout.dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io())
}

/// The major version of the cluster, if there is one.
pub(super) fn cluster_version(layout: &Layout) -> Option<u32> {
    let text = fs::read_to_string(layout.data.join("PG_VERSION")).ok()?;
    text.trim().parse().ok()
}

/// Empties the log if it has grown too long. Postgres appends, so it goes on at the start.
pub(super) fn bound_log(layout: &Layout) -> Result<(), EmbeddedError> {
    let log = layout.open(&layout.log)?;
    let io = || EmbeddedError::io("emptying", &layout.log);
    if log.metadata().map_err(io())?.len() > LONGEST_LOG {
        log.set_len(0).map_err(io())?;
    }
    Ok(())
}

/// What `postmaster.pid` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn read(layout: &Layout) -> Option<Self> {
        let text = fs::read_to_string(layout.data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        let ready = text
            .lines()
            .nth(7)
            .is_some_and(|line| line.trim() == "ready");
        Some(Self { pid, ready })
    }
}

/// Makes room for our Postgres, when the lock on the directory is ours.
///
/// * A `postmaster.pid` or socket lock whose number now belongs to another program, or to a
///   process that nobody has reaped, would keep Postgres from starting for ever: it is removed.
/// * A Postgres that runs although nobody owns it, because its watchdog was killed too, is
///   interrupted if `impatient`.
///
/// Postgres itself sees to all other remains, among them shared memory still in use.
pub(super) fn clear_predecessor(layout: &Layout, impatient: bool) {
    let postmaster = layout.data.join("postmaster.pid");
    let socket = layout.sockets.join(".s.PGSQL.5432.lock");
    for path in [postmaster, socket] {
        let Some(pid) = first_line(&path).and_then(|line| line.parse().ok()) else {
            continue;
        };
        match Holder::of(pid, layout) {
            Holder::Server if impatient => {
                let mut kill = layout.command("/bin/sh");
                kill.args(["-c", "kill -INT \"$1\"", "sh"]);
                // It may have ended by itself; if not, the next attempt is soon.
                let _ = kill.arg(pid.to_string()).stderr(Stdio::null()).status();
            }
            Holder::Stranger => {
                // Postgres says so in its log if the file is still there.
                let _ = fs::remove_file(path);
            }
            Holder::Server | Holder::Unknown => {}
        }
    }
}

/// Whose process a number in a lock file is.
enum Holder {
    /// A server of this cluster.
    Server,
    /// Not one, although Postgres could take it for one.
    Stranger,
    /// There is none, or it is another user's, which Postgres can tell; or there is no `/proc`.
    Unknown,
}

impl Holder {
    fn of(pid: u32, layout: &Layout) -> Self {
        let process = Path::new("/proc").join(pid.to_string());
        if !process.exists() {
            return Self::Unknown;
        }
        match fs::read_link(process.join("cwd")) {
            Ok(cwd) if cwd == layout.data => Self::Server,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Self::Unknown,
            // A process that has ended and was not reaped has no working directory.
            Ok(_) | Err(_) => Self::Stranger,
        }
    }
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}
