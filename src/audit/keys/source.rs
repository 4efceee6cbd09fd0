//! Where a secret comes from: a file of ours, the environment, the host's own hands.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::KeyError;
use crate::secret::{Secret, WeakSecret};
use crate::store::user::current_uid;

/// The longest key file, in bytes. A secret in hex has 65.
const MAX_FILE: u64 = 4_096;

/// Where a secret is to be read from.
///
/// A file must be a regular one, not a link to one, owned by the user of this process or by root,
/// and closed to everybody else (`chmod 600`).
///
/// ```
/// use portcullis::audit::KeySource;
///
/// let source = KeySource::parse("file:/etc/portcullis/audit-2.key")?;
/// assert_eq!(source.to_string(), "file:/etc/portcullis/audit-2.key");
/// assert!(KeySource::parse("/etc/portcullis/audit-2.key").is_err());
/// # Ok::<(), portcullis::audit::KeyError>(())
/// ```
#[derive(Debug)]
pub struct KeySource(Place);

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Env(String),
    Memory(Secret),
}

impl KeySource {
    /// The file at `path`.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }

    /// The environment variable `name`.
    #[must_use]
    pub fn env(name: impl Into<String>) -> Self {
        Self(Place::Env(name.into()))
    }

    /// A secret that is here already, as from a key management service.
    #[must_use]
    pub const fn memory(secret: Secret) -> Self {
        Self(Place::Memory(secret))
    }

    /// Reads `file:/path` or `env:NAME`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Reference`] if it is neither. The text is not repeated: it may be the secret.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        match text.trim().split_once(':') {
            Some(("file", path)) if path.starts_with('/') => Ok(Self::file(path)),
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Self::env(name))
            }
            _ => Err(KeyError::Reference),
        }
    }

    /// Reads a seed: as [`load`](Self::load), or raw, if the file has 32 bytes.
    pub(in crate::audit) fn load_seed(self) -> Result<Secret, KeyError> {
        if let Place::File(path) = &self.0 {
            let bytes = read_private(path)?;
            if bytes.len() == 32 {
                return Ok(Secret::from_bytes(bytes.to_vec())?);
            }
        }
        self.load()
    }

    /// Reads the secret, as hex or base64.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it is not there, can be read by others, or is weak.
    pub fn load(self) -> Result<Secret, KeyError> {
        match self.0 {
            Place::Memory(secret) => Ok(secret),
            Place::Env(variable) => Ok(Secret::parse(&read_variable(&variable)?)?),
            Place::File(path) => {
                let bytes = read_private(&path)?;
                let text = std::str::from_utf8(&bytes).map_err(|_| WeakSecret::Encoding)?;
                Ok(Secret::parse(text)?)
            }
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => write!(f, "file:{}", path.display()),
            Place::Env(name) => write!(f, "env:{name}"),
            Place::Memory(_) => f.write_str("memory"),
        }
    }
}

/// The text of an environment variable that holds a secret.
pub(super) fn read_variable(name: &str) -> Result<Zeroizing<String>, KeyError> {
    match std::env::var(name) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(_) => Err(KeyError::NotSet {
            variable: name.to_owned(),
        }),
    }
}

/// What keeps a file from being a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// It is not there, or cannot be read.
    #[error("it cannot be read; make it with `umask 077; openssl rand -hex 32 > FILE`")]
    Unreadable,
    /// A symbolic link: whoever may change it chooses the key.
    #[error("it is a symbolic link; name the file itself")]
    Link,
    /// A directory, a pipe, a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// Whoever owns it can read it, and change it.
    #[error("it belongs to another user; chown it to the user of this process, or to root")]
    Foreign,
    /// The group or others may read or write it.
    #[error("others may read or write it; chmod 600 it")]
    Exposed,
    /// Far longer than a secret.
    #[error("it is longer than a secret is; it should hold the output of `openssl rand -hex 32`")]
    TooLong,
}

/// Reads a file that only we and root can read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let refuse = |fault| KeyError::File {
        path: path.to_owned(),
        fault,
    };
    let unreadable = |_| refuse(FileFault::Unreadable);
    let named = fs::symlink_metadata(path).map_err(unreadable)?;
    if named.is_symlink() {
        return Err(refuse(FileFault::Link));
    }
    if !named.is_file() {
        return Err(refuse(FileFault::NotRegular));
    }
    let file = File::open(path).map_err(unreadable)?;
    // Of the file that is open: what the path names may have changed since it was looked at.
    let opened = file.metadata().map_err(unreadable)?;
    if (opened.dev(), opened.ino()) != (named.dev(), named.ino()) {
        return Err(refuse(FileFault::Link));
    }
    if opened.uid() != 0 && Some(opened.uid()) != current_uid() {
        return Err(refuse(FileFault::Foreign));
    }
    if opened.mode() & 0o077 != 0 {
        return Err(refuse(FileFault::Exposed));
    }
    // Room for all of it at once: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(8_192));
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(refuse(FileFault::TooLong));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn directory() -> PathBuf {
        let name = format!("portcullis-keys-{}", uuid::Uuid::now_v7());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn fault(path: &Path) -> FileFault {
        let error = KeySource::file(path).load().unwrap_err();
        assert!(error.to_string().contains(&*path.to_string_lossy()));
        match error {
            KeyError::File { fault, .. } => fault,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_key_file_is_ours_alone_or_refused_with_what_to_do() {
        let directory = directory();
        let file = directory.join("key");
        let secret = Secret::generate().unwrap();
        let text = format!("{}\n", secret.to_hex().as_str());
        for mode in [0o600, 0o400, 0o700] {
            write(&file, &text, mode);
            assert_eq!(KeySource::file(&file).load().unwrap(), secret);
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
            write(&file, &text, mode);
            assert_eq!(fault(&file), FileFault::Exposed, "{mode:o}");
        }
        assert!(
            FileFault::Exposed.to_string().contains("chmod 600"),
            "the remedy"
        );

        write(&file, &text, 0o600);
        let link = directory.join("link");
        symlink(&file, &link).unwrap();
        assert_eq!(fault(&link), FileFault::Link);
        assert_eq!(fault(&directory), FileFault::NotRegular);
        assert_eq!(fault(&directory.join("none")), FileFault::Unreadable);
        write(&file, &"00".repeat(4_000), 0o600);
        assert_eq!(fault(&file), FileFault::TooLong);
        write(&file, "changeme", 0o600);
        assert_eq!(
            KeySource::file(&file).load().unwrap_err(),
            KeyError::Weak(WeakSecret::Placeholder)
        );
        fs::write(&file, [0xff; 32]).unwrap();
        assert_eq!(
            KeySource::file(&file).load().unwrap_err(),
            KeyError::Weak(WeakSecret::Encoding)
        );
        fs::remove_dir_all(directory).unwrap();
    }

    /// Only root can give a file away; the suite's machine runs as root.
    #[test]
    fn a_file_of_another_user_is_refused() {
        let directory = directory();
        let file = directory.join("key");
        write(&file, &"ab".repeat(32), 0o600);
        if std::os::unix::fs::chown(&file, Some(12_345), None).is_ok() {
            assert_eq!(fault(&file), FileFault::Foreign);
        } else {
            assert_ne!(current_uid(), Some(0));
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn references_are_read_and_never_repeated() {
        for good in ["file:/a/b", "env:NAME", " env:NAME\n"] {
            assert!(KeySource::parse(good).is_ok(), "{good}");
        }
        let secret = Secret::generate().unwrap().to_hex();
        for bad in ["file:a", "file:", "env:", "env:A=B", "vault:x", &secret, ""] {
            let error = KeySource::parse(bad).unwrap_err();
            assert!(!error.to_string().contains(&*secret), "{bad}");
        }
        let memory = KeySource::memory(Secret::parse(&secret).unwrap());
        assert!(!format!("{memory:?} {memory}").contains(&*secret));
        let unset = KeySource::env("PORTCULLIS_NO_SUCH_VARIABLE");
        assert!(
            unset
                .load()
                .unwrap_err()
                .to_string()
                .contains("PORTCULLIS_NO_SUCH_VARIABLE")
        );
    }
}
