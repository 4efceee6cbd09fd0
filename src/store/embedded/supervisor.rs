//! The thread that owns the server, or waits to.
//!
//! Everything here blocks, so it is a thread and not a task, and nothing in it depends on the
//! runtime of the host.
//!
//! The owner of a cluster is who holds the lock on the file `lock`. The system frees it when the
//! owner ends in any way. The owner keeps the process id of its server in that file while the
//! server is ready; so an attached process cannot mistake the dying server of a killed owner for
//! the next one.

use super::layout::Layout;
use super::process::{self, PidFile, Watched};
use super::{Durability, EmbeddedError, locate};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How often the state is looked at while somebody waits for it, and afterwards.
const SOON: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(200);
/// How long a start waits, in units of [`SOON`]: two minutes.
const PATIENCE: u32 = 12_000;
/// How often the server may exit before its first readiness, when no predecessor explains it.
const ATTEMPTS: u32 = 5;
/// After how many attempts a predecessor that still runs is interrupted.
const POLITE: u32 = 10;
/// How often the log is bounded, in units of [`IDLE`]: every minute.
const LOG_CHECK: u32 = 300;

/// Runs the server of one handle.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) layout: Layout,
    pub(super) durability: Durability,
    /// A message, or the end of all senders, ends the thread.
    pub(super) stop: Receiver<()>,
    /// Told once, when the server can be used or cannot be had.
    pub(super) ready: Option<oneshot::Sender<Result<(), EmbeddedError>>>,
    /// Whether this thread owns the server. Closed when the thread has ended.
    pub(super) owner: watch::Sender<bool>,
}

/// Why a step of the supervisor is over.
enum Step<T> {
    Done(T),
    Stop,
}

impl Supervisor {
    /// Waits for the lock, owns the server, and starts over after a failure, until told to stop.
    pub(super) fn run(mut self) {
        loop {
            let owned = match self.acquire() {
                Ok(Step::Done(lock)) => self.own(&lock),
                Ok(Step::Stop) => return,
                Err(error) => Err(error),
            };
            self.owner.send_replace(false);
            match owned {
                Ok(()) => return,
                Err(error) => {
                    if let Some(ready) = self.ready.take() {
                        // Nobody listens any more if the start was cancelled.
                        let _ = ready.send(Err(error));
                        return;
                    }
                    tracing::error!(%error, "the embedded postgres is down; trying again");
                }
            }
            // Somebody removed the whole cluster: it is not for us to make a new one.
            if !self.layout.data.exists() || self.sleep(Duration::from_secs(1)) {
                return;
            }
        }
    }

    /// Sleeps; true if it is time to stop.
    fn sleep(&self, time: Duration) -> bool {
        !matches!(self.stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    fn report_ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            // As above.
            let _ = ready.send(Ok(()));
        }
    }

    fn not_ready(&self) -> EmbeddedError {
        EmbeddedError::NotReady {
            log: self.layout.log.clone(),
        }
    }

    /// Returns the locked file once we own the cluster; reports ready when another owner serves.
    fn acquire(&mut self) -> Result<Step<File>, EmbeddedError> {
        let path = self.layout.lock.clone();
        let mut waited = 0;
        loop {
            // Opened anew each time, because a lock on a removed file excludes nobody.
            let lock = self.layout.open(&path)?;
            match lock.try_lock() {
                Ok(()) if is_at(&lock, &path) => return Ok(Step::Done(lock)),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(EmbeddedError::io("locking", &path)(error));
                }
            }
            if self.ready.is_some() {
                if serves(&lock, &self.layout) {
                    self.report_ready();
                } else if waited > PATIENCE {
                    return Err(self.not_ready());
                }
            }
            waited += 1;
            if self.sleep(if self.ready.is_some() { SOON } else { IDLE }) {
                return Ok(Step::Stop);
            }
        }
    }

    /// Keeps a server running until told to stop. Returns with none running.
    fn own(&mut self, lock: &File) -> Result<(), EmbeddedError> {
        let layout = self.layout.clone();
        publish(lock, None, &layout)?;
        process::bound_log(&layout)?;
        process::sweep(&layout)?;
        let existing = process::cluster_version(&layout);
        let binaries = locate::locate(&layout, existing)?;
        if existing.is_none() {
            process::initdb(&layout, &binaries, self.durability)?;
            // That took a while, and the start may have been cancelled.
            if self.sleep(Duration::ZERO) {
                return Ok(());
            }
        }
        let (mut exits, mut beside) = (0, 0);
        loop {
            process::clear_predecessor(&layout, beside >= POLITE);
            let server = process::postgres(&layout, &binaries, self.durability)?;
            let pid = server.pid;
            let was_ready = match self.watch(lock, server)? {
                Step::Stop => return Ok(()),
                Step::Done(was_ready) => was_ready,
            };
            self.owner.send_replace(false);
            publish(lock, None, &layout)?;
            if was_ready {
                tracing::warn!("the embedded postgres ended; starting it again");
                (exits, beside) = (0, 0);
            } else if PidFile::read(&layout).is_some_and(|file| file.pid != pid) {
                // A predecessor is shutting down, and ours exited on its `postmaster.pid`.
                beside += 1;
            } else {
                exits += 1;
            }
            let hopeless = exits >= ATTEMPTS || beside * 5 > PATIENCE;
            if hopeless {
                return Err(self.not_ready());
            }
            if self.sleep(SOON * 5 * (1 << exits)) {
                return Ok(());
            }
        }
    }

    /// Follows one server to its end; says whether it was ever ready.
    fn watch(&mut self, lock: &File, mut server: Watched) -> Result<Step<bool>, EmbeddedError> {
        let (mut ready, mut ticks) = (false, 0_u32);
        loop {
            if self.sleep(if ready { IDLE } else { SOON }) {
                // First, so that nobody attaches to a server that is about to go.
                self.owner.send_replace(false);
                publish(lock, None, &self.layout)?;
                drop(server);
                return Ok(Step::Stop);
            }
            if server.has_exited() {
                return Ok(Step::Done(ready));
            }
            ticks = ticks.wrapping_add(1);
            if ready {
                if ticks.is_multiple_of(LOG_CHECK) {
                    process::bound_log(&self.layout)?;
                }
            } else if PidFile::read(&self.layout)
                .is_some_and(|file| file.ready && file.pid == server.pid)
            {
                ready = true;
                publish(lock, Some(server.pid), &self.layout)?;
                self.owner.send_replace(true);
                self.report_ready();
            } else if ticks > PATIENCE && self.ready.is_some() {
                return Err(self.not_ready());
            }
        }
    }
}

/// Writes which server the owner runs, for those who attach.
fn publish(lock: &File, pid: Option<u32>, layout: &Layout) -> Result<(), EmbeddedError> {
    let mut writer = lock;
    lock.set_len(0)
        .and_then(|()| pid.map_or(Ok(()), |pid| writeln!(writer, "{pid}")))
        .map_err(EmbeddedError::io("writing the lock of", &layout.dir))
}

/// Takes back what the owner published, so that nobody attaches any more.
pub(super) fn retract(layout: &Layout) {
    // If it cannot be, an attached handle takes over after a moment.
    let _ = layout.open(&layout.lock).map(|lock| lock.set_len(0));
}

/// Whether the owner's server, and no other, is ready.
fn serves(lock: &File, layout: &Layout) -> bool {
    let mut published = String::new();
    let mut reader = lock;
    reader.read_to_string(&mut published).is_ok()
        && PidFile::read(layout)
            .is_some_and(|file| file.ready && published == format!("{}\n", file.pid))
}

/// Whether `path` still names `file`.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(file), Ok(named)) => (file.dev(), file.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
