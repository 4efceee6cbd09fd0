//! Where the files of a cluster live.

use super::EmbeddedError;
use super::account::{Account, current_uid};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a directory moves to that the account of Postgres could not reach.
const SHARED: &str = "/var/tmp";

/// A unix socket path has at most 103 bytes (macOS); ours ends in `/.s.PGSQL.5432`.
const LONGEST_SOCKET_DIRECTORY: usize = 85;

/// What the server may see of our environment. Not `PG*`, and none of the host's secrets.
const KEPT: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ"];

/// The files of one cluster, and the account they belong to.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Holds everything but perhaps the socket.
    pub(super) dir: PathBuf,
    /// The cluster itself.
    pub(super) data: PathBuf,
    /// Holds the unix socket.
    pub(super) sockets: PathBuf,
    /// What Postgres says.
    pub(super) log: PathBuf,
    /// Locked by the owner of the server.
    pub(super) lock: PathBuf,
    /// Whether `dir` is not the directory asked for.
    pub(super) relocated: bool,
    account: Option<Account>,
}

impl Layout {
    /// Creates `asked` and decides where a cluster for it can really live.
    pub(super) fn resolve(asked: &Path) -> Result<Self, EmbeddedError> {
        fs::create_dir_all(asked).map_err(EmbeddedError::io("creating", asked))?;
        let mut dir = asked
            .canonicalize()
            .map_err(EmbeddedError::io("resolving", asked))?;
        let mut account = Account::for_directory(&dir)?;
        let mut relocated = false;

        if let Some(user) = account
            && !make_reachable(&dir, user)?
        {
            let shared = Path::new(SHARED).join(format!("portcullis-{}", fingerprint(&dir)));
            tracing::info!(
                asked = %dir.display(), used = %shared.display(),
                "the database account cannot reach the directory; using another one"
            );
            private_directory(&shared, 0o711, None)?;
            account = Account::for_directory(&shared)?;
            dir = shared;
            relocated = true;
        }
        Ok(Self {
            data: dir.join("data"),
            sockets: socket_directory(&dir),
            log: dir.join("log"),
            lock: dir.join("lock"),
            dir,
            relocated,
            account,
        })
    }

    /// A command that runs as the database account and sees nothing of our environment.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Creates a directory for the database account only.
    pub(super) fn private_directory(&self, path: &Path) -> Result<(), EmbeddedError> {
        private_directory(path, 0o700, self.account)
    }

    /// Opens a file of ours for appending, creating it if needed.
    //
    // As root in a directory of a lesser user we must not be led through a link to a file of
    // root's: what was opened has to be the plain file that the name stands for.
    pub(super) fn open(&self, path: &Path) -> Result<File, EmbeddedError> {
        let io = || EmbeddedError::io("opening", path);
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(EmbeddedError::Untrusted { path: path.into() });
        }
        let mut options = File::options();
        options.create(true).read(true).append(true).mode(0o600);
        let file = options.open(path).map_err(io())?;
        let opened = file.metadata().map_err(io())?;
        let named = fs::symlink_metadata(path).map_err(io())?;
        let same = (opened.dev(), opened.ino()) == (named.dev(), named.ino());
        if !same || !named.is_file() || opened.nlink() != 1 {
            return Err(EmbeddedError::Untrusted { path: path.into() });
        }
        if let Some(Account { uid, gid }) = self.account
            && opened.uid() == 0
        {
            fchown(&file, Some(uid), Some(gid)).map_err(io())?;
        }
        Ok(file)
    }

    /// Where downloaded binaries are kept, given the user's cache directory.
    pub(super) fn binary_cache(&self, user: PathBuf) -> PathBuf {
        let reachable = |account: Account| {
            let mut existing = user.ancestors().filter(|dir| dir.exists());
            existing.all(|dir| account.can_enter(dir))
        };
        if self.account.is_none_or(reachable) {
            return user;
        }
        Path::new(SHARED).join(format!("portcullis-{}", fingerprint(&user)))
    }

    /// Creates the directory that [`Layout::binary_cache`] named, readable by the account.
    pub(super) fn create_binary_cache(cache: &Path) -> Result<(), EmbeddedError> {
        if let Some(above) = cache.parent() {
            fs::create_dir_all(above).map_err(EmbeddedError::io("creating", above))?;
        }
        private_directory(cache, 0o755, None)
    }
}

/// Whether `user` can reach `dir`, after giving it `dir` if that is new and all that is missing.
fn make_reachable(dir: &Path, user: Account) -> Result<bool, EmbeddedError> {
    if !dir.ancestors().skip(1).all(|above| user.can_enter(above)) {
        return Ok(false);
    }
    if user.can_enter(dir) {
        return Ok(true);
    }
    // A temporary directory of root's has mode 0700.
    let io = || EmbeddedError::io("preparing", dir);
    let empty = fs::read_dir(dir).map_err(io())?.next().is_none();
    if empty {
        lchown(dir, Some(user.uid), Some(user.gid)).map_err(io())?;
    }
    Ok(empty)
}

/// `dir/s`, unless that is too long for a socket or has characters that would need quoting.
fn socket_directory(dir: &Path) -> PathBuf {
    let inside = dir.join("s");
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = inside.as_os_str().as_bytes();
    if bytes.len() <= LONGEST_SOCKET_DIRECTORY && bytes.iter().all(plain) {
        return inside;
    }
    Path::new(SHARED).join(format!("portcullis-s-{}", fingerprint(dir)))
}

/// Creates `path` for `owner` (or ourselves), or makes sure that the one there is as safe.
fn private_directory(path: &Path, mode: u32, owner: Option<Account>) -> Result<(), EmbeddedError> {
    let io = || EmbeddedError::io("creating", path);
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            if let Some(Account { uid, gid }) = owner {
                lchown(path, Some(uid), Some(gid)).map_err(io())?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io()(error)),
    }
    // Names in a shared directory can be guessed, and taken first by someone else.
    let found = fs::symlink_metadata(path).map_err(io())?;
    let uid = Some(found.uid());
    let ours = uid == current_uid() || uid == owner.map(|owner| owner.uid);
    if found.is_dir() && ours && found.mode() & 0o077 & !mode == 0 {
        return Ok(());
    }
    Err(EmbeddedError::Untrusted { path: path.into() })
}

/// Sixteen hexadecimal digits that stand for a path.
fn fingerprint(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
