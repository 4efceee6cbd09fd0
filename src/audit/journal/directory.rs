//! The directory, and opening files in it without being led astray.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::JournalError;
use crate::ids::JournalId;

const PREFIX: &str = "journal-";
const SUFFIX: &str = ".jsonl";

/// Where journals are.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Directory(PathBuf);

/// A file of a journal, found by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::audit) struct Found {
    pub(in crate::audit) journal: JournalId,
    pub(in crate::audit) segment: u32,
    pub(in crate::audit) path: PathBuf,
}

impl Directory {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes the directory, or makes sure that the one there is ours alone.
    pub(in crate::audit) fn prepare(&self) -> Result<(), JournalError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        self.check()
    }

    /// A plain directory, not a link to one, that only its owner may enter.
    fn check(&self) -> Result<(), JournalError> {
        let found = fs::symlink_metadata(&self.0)?;
        if !found.is_dir() || found.mode() & 0o077 != 0 {
            return Err(JournalError::Untrusted);
        }
        Ok(())
    }

    /// Creates a file that nobody else has, locked.
    pub(super) fn create(
        &self,
        journal: JournalId,
        segment: u32,
    ) -> Result<(PathBuf, File), JournalError> {
        self.prepare()?;
        let path = self
            .0
            .join(format!("{PREFIX}{journal}-{segment:08}{SUFFIX}"));
        let file = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        // Whoever drains may have locked, found nothing in it, and removed it in between.
        let locked = file.try_lock().is_ok();
        let made = file.metadata()?;
        if !locked || made.nlink() != 1 {
            return Err(JournalError::Disk(std::io::ErrorKind::ResourceBusy));
        }
        // What we make has our owner; a directory of another's is not ours, even for root.
        if made.uid() != fs::symlink_metadata(&self.0)?.uid() {
            let _ = fs::remove_file(&path);
            return Err(JournalError::Untrusted);
        }
        self.sync()?;
        Ok((path, file))
    }

    /// Makes what was created or removed here durable.
    pub(in crate::audit) fn sync(&self) -> Result<(), JournalError> {
        Ok(File::open(&self.0)?.sync_all()?)
    }

    /// All files of journals, those of one journal next to each other and in their order.
    pub(in crate::audit) fn found(&self) -> Result<Vec<Found>, JournalError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        self.check()?;
        let mut found: Vec<Found> = entries
            .flatten()
            .filter_map(|entry| {
                let (journal, segment) = named(&entry.file_name())?;
                Some(Found {
                    journal,
                    segment,
                    path: entry.path(),
                })
            })
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Opens and locks a file that somebody left; `None` if its writer lives, another process drains
    /// it, or it is not a plain file of the directory's owner.
    pub(in crate::audit) fn take(&self, path: &Path) -> Result<Option<File>, JournalError> {
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let opened = file.metadata()?;
        let owner = fs::symlink_metadata(&self.0)?.uid();
        if !opened.is_file() || opened.uid() != owner || opened.mode() & 0o077 != 0 {
            return Err(JournalError::Untrusted);
        }
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // Another process may have drained and removed it before we had the lock.
        Ok((file.metadata()?.nlink() == 1).then_some(file))
    }

    /// Removes a file in which nothing is left to be done.
    pub(in crate::audit) fn remove(&self, path: &Path) -> Result<(), JournalError> {
        match fs::remove_file(path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn named(name: &OsStr) -> Option<(JournalId, u32)> {
    let name = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (journal, segment) = name.rsplit_once('-')?;
    Some((JournalId::parse(journal).ok()?, segment.parse().ok()?))
}
