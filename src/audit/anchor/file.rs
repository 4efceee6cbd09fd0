//! Checkpoints in files that nothing overwrites.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Anchor, AnchorError, AnchorFuture, Inquiry, Kept, Publication, Receipt};
use crate::time::Timestamp;
use crate::tlog::{Checkpoint, LogVerifier, MAX_NOTE_BYTES};

const SUFFIX: &str = ".checkpoint";
/// Sizes as names, so that they sort; as wide as the widest.
const WIDTH: usize = 20;
/// So many sizes share a directory, so that the newest is found without reading a long one.
const TOGETHER: u64 = 100_000;
/// No origin makes a longer name.
const LONGEST: usize = 200;

/// A directory, such as the mount of another machine's disk or of a store with an object lock.
///
/// Each checkpoint is a file of its own, `<origin>/<group>/<size>.checkpoint`, readable by its owner
/// only, complete and synced before it has its name, and never written again. Several processes may
/// share the directory. A link is not followed.
///
/// It holds against who writes the database and not this directory: not against root of the machine
/// that both are on.
///
/// ```
/// use portcullis::audit::anchor::FileAnchor;
///
/// let anchor = FileAnchor::new("vault", std::env::temp_dir().join("checkpoints"))?;
/// # let _ = anchor;
/// # Ok::<(), portcullis::audit::anchor::AnchorError>(())
/// ```
#[derive(Debug)]
pub struct FileAnchor {
    name: String,
    directory: PathBuf,
}

impl FileAnchor {
    /// The anchor `name` in `directory`, which is made when the first checkpoint is kept.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if the path is not absolute: what it means would depend on where
    /// the process was started.
    pub fn new(
        name: impl Into<String>,
        directory: impl Into<PathBuf>,
    ) -> Result<Self, AnchorError> {
        let directory = directory.into();
        if !directory.is_absolute() {
            return Err(AnchorError::Settings(
                "the directory's path is not absolute",
            ));
        }
        Ok(Self {
            name: name.into(),
            directory,
        })
    }
}

impl Anchor for FileAnchor {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "file"
    }

    fn latest<'a>(&'a self, inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>> {
        let root = self.directory.clone();
        let place = root.join(directory_name(inquiry.log().origin()));
        Box::pin(off_the_runtime(move || {
            is_there(&root).map_err(|error| away(&error))?;
            let newest = newest(&place).map_err(|error| away(&error))?;
            Ok(newest.map(|(note, at)| match at {
                Some(at) => Kept::note(note).at(at),
                None => Kept::note(note),
            }))
        }))
    }

    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt> {
        let root = self.directory.clone();
        let place = root.join(directory_name(publication.origin()));
        let (log, checkpoint) = (publication.log().clone(), publication.checkpoint().clone());
        let note = publication.note().to_owned();
        Box::pin(off_the_runtime(move || {
            make(&root).map_err(|error| away(&error))?;
            keep(&place, &log, &checkpoint, &note)?;
            Ok(Receipt::new("file", Vec::new()))
        }))
    }
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AnchorError> + Send + 'static,
) -> Result<T, AnchorError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(AnchorError::Away("its work was given up")))
}

/// Writes a checkpoint that goes on from what is there.
fn keep(
    place: &Path,
    log: &LogVerifier,
    checkpoint: &Checkpoint,
    note: &str,
) -> Result<(), AnchorError> {
    make(place).map_err(|error| away(&error))?;
    if let Some((kept, _)) = newest(place).map_err(|error| away(&error))? {
        let kept = Checkpoint::open(&kept, log)?;
        follows(&kept, checkpoint)?;
        if kept.size() == checkpoint.size() {
            return Ok(());
        }
    }
    let group = place.join(format!("{:0WIDTH$}", checkpoint.size() / TOGETHER));
    make(&group).map_err(|error| away(&error))?;
    let path = group.join(format!("{:0WIDTH$}{SUFFIX}", checkpoint.size()));
    if write_new(&group, &path, note).map_err(|error| away(&error))? {
        return Ok(());
    }
    // Another process was quicker, with this one or another one of its size.
    let (kept, _) = read(&path).map_err(|error| away(&error))?;
    follows(&Checkpoint::open(&kept, log)?, checkpoint)
}

fn follows(kept: &Checkpoint, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
    let held = kept.size();
    if held > checkpoint.size() {
        return Err(AnchorError::Ahead { held });
    }
    if held == checkpoint.size() && kept.root() != checkpoint.root() {
        return Err(AnchorError::Mismatch { held });
    }
    Ok(())
}

/// The newest checkpoint in `place`, and when it was written.
fn newest(place: &Path) -> io::Result<Option<(String, Option<Timestamp>)>> {
    // From the largest group on: one that was made just before a crash has nothing in it.
    for group in names(place, "")?.into_iter().rev() {
        let group = place.join(group);
        if let Some(name) = names(&group, SUFFIX)?.pop() {
            return read(&group.join(name)).map(Some);
        }
    }
    Ok(None)
}

/// The names in a directory that are a number with `suffix`, in order; none if there is no such
/// directory. What others put there is passed over.
fn names(directory: &Path, suffix: &str) -> io::Result<Vec<OsString>> {
    if !is_there(directory)? {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(suffix));
        let digits = |n: &str| n.len() == WIDTH && n.bytes().all(|byte| byte.is_ascii_digit());
        if number.is_some_and(digits) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path) -> io::Result<(String, Option<Timestamp>)> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let at = metadata.modified().ok().and_then(|at| {
        let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Timestamp::from_micros(since.as_micros().try_into().ok()?))
    });
    let mut note = String::new();
    let most = u64::try_from(MAX_NOTE_BYTES).unwrap_or(u64::MAX);
    file.take(most + 1).read_to_string(&mut note)?;
    Ok((note, at))
}

/// Whether there is a directory, not a link to one.
fn is_there(directory: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// Makes a directory and what is above it, or makes sure that the one there is none but a link.
fn make(directory: &Path) -> io::Result<()> {
    if is_there(directory)? {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)?;
    // Up to the first one that was there before is more than needed, and never less.
    for above in directory.ancestors().skip(1).take(3) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// Writes a file that has its name only once it is complete and on the disk; `false` if there is one
/// of that name.
fn write_new(directory: &Path, path: &Path, note: &str) -> io::Result<bool> {
    let draft = directory.join(format!(".{}.draft", uuid::Uuid::now_v7()));
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&draft)?;
        file.write_all(note.as_bytes())?;
        file.sync_all()?;
        // A link never replaces what is there, as a rename would.
        match fs::hard_link(&draft, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    })();
    let _ = fs::remove_file(&draft);
    let written = written?;
    File::open(directory)?.sync_all()?;
    Ok(written)
}

fn away(error: &io::Error) -> AnchorError {
    AnchorError::Away(match error.kind() {
        io::ErrorKind::PermissionDenied => "its directory may not be read or written",
        io::ErrorKind::NotADirectory => "a part of its path is a link, or no directory",
        io::ErrorKind::StorageFull => "its disk is full",
        io::ErrorKind::ReadOnlyFilesystem => "its disk is read-only",
        io::ErrorKind::InvalidData => "a file in it is not a checkpoint",
        _ => "its directory could not be read or written",
    })
}

/// An origin as the name of a directory, another one for each.
fn directory_name(origin: &str) -> String {
    let mut name = String::new();
    for byte in origin.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if plain || (byte == b'.' && !name.is_empty()) {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    if name.len() > LONGEST {
        return format!("%{}", hex::encode(crate::audit::sha256(origin.as_bytes())));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_keeps_what_it_has() {
        let directory = std::env::temp_dir().join(format!("portcullis-{}", uuid::Uuid::now_v7()));
        make(&directory).unwrap();
        let path = directory.join("one");
        assert!(write_new(&directory, &path, "first").unwrap());
        assert!(!write_new(&directory, &path, "second").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn every_origin_has_a_directory_of_its_own_below_the_anchors() {
        let long = "x".repeat(400);
        let (also_long, other) = (format!("{long}y"), "audit.example/acme");
        let origins = [
            ".",
            "..",
            "../up",
            "/etc",
            other,
            "audit.example%2facme",
            "audit.example%acme",
            "Audit.example/acme",
            "ä",
            "a\\b",
            &long,
            &also_long,
        ];
        let names: std::collections::BTreeSet<_> =
            origins.map(directory_name).into_iter().collect();
        assert_eq!(names.len(), origins.len());
        for name in names {
            assert!(
                name.len() <= LONGEST && !name.starts_with('.') && !name.contains('/'),
                "{name}"
            );
        }
    }
}
