//! An archive's file: written once, never over another, and read back line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::RetentionError;
use super::line::{End, FORMAT, Header, Line, Range};
use crate::audit::keys::Tag;
use crate::canon::Fields;
use crate::ids::EventId;
use crate::tlog::TreeHash;

/// No line is longer: an entry's 64 KiB of metadata, each letter of which may be escaped.
const LONGEST_LINE: u64 = 1 << 20;
/// How many entries are handed over at once.
const CHUNK: usize = 4_096;

/// Where archives are written.
#[derive(Clone, Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// A plain directory that only its owner may enter; it is made if it is not there.
    pub(super) fn prepare(path: &Path) -> Result<Self, RetentionError> {
        let failed = RetentionError::during("use the directory of the archives");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(&failed)?;
        let found = std::fs::symlink_metadata(path).map_err(failed)?;
        if !found.is_dir() || found.mode() & 0o077 != 0 {
            return Err(RetentionError::Field {
                field: "the directory of the archives",
                problem: "must be a plain directory that only its owner may enter (chmod 700)",
            });
        }
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What the file of an archive is called.
    pub(super) fn name(archive: EventId) -> String {
        format!("portcullis-archive-{archive}.jsonl")
    }

    fn sync(&self) -> Result<(), RetentionError> {
        let failed = RetentionError::during("make the archive durable");
        let directory = File::open(&self.0).map_err(&failed)?;
        directory.sync_all().map_err(failed)
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    directory: Directory,
    out: BufWriter<File>,
    hash: Sha256,
    line: Vec<u8>,
    entries: u64,
    ranges: u64,
    /// What went wrong in a place that could not say so.
    failed: Option<std::io::Error>,
}

impl Writer {
    /// Creates a file that was not there, for its owner alone.
    pub(super) fn create(
        directory: &Directory,
        name: &str,
        header: Header,
    ) -> Result<Self, RetentionError> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.path_of(name))
            .map_err(RetentionError::during("create the archive's file"))?;
        let mut writer = Self {
            directory: directory.clone(),
            out: BufWriter::with_capacity(1 << 20, file),
            hash: Sha256::new(),
            line: Vec::new(),
            entries: 0,
            ranges: 0,
            failed: None,
        };
        writer.line(&Line::Header(header));
        Ok(writer)
    }

    /// Writes a line; what goes wrong is said in the end.
    pub(super) fn line(&mut self, line: &Line) {
        match line {
            Line::Range(_) => self.ranges += 1,
            Line::Entry(_) => self.entries += 1,
            Line::Header(_) | Line::End(_) => {}
        }
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, line).map_err(std::io::Error::from);
        self.line.push(b'\n');
        self.hash.update(&self.line);
        let written = written.and_then(|()| self.out.write_all(&self.line));
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// Ends the file and makes it durable: on the disk, and found in its directory.
    pub(super) async fn finish(mut self) -> Result<Tag, RetentionError> {
        self.line(&Line::End(End {
            entries: self.entries,
            ranges: self.ranges,
        }));
        let hash = self.hash.clone().finalize().into();
        blocking(move || {
            let failed = RetentionError::during("write the archive's file");
            if let Some(error) = self.failed.take() {
                return Err(failed(error));
            }
            let file = self
                .out
                .into_inner()
                .map_err(|error| failed(error.into_error()))?;
            file.sync_all().map_err(failed)?;
            self.directory.sync()?;
            Ok(hash)
        })
        .await
    }
}

/// One line that was read: its number, and what it is.
#[derive(Debug)]
pub(super) enum Item {
    Range(Range),
    /// An entry with its place, event and leaf, which was made of the line.
    Entry(u32, u64, EventId, TreeHash),
    End(End),
    Bad(&'static str),
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Reader {
    file: BufReader<File>,
    hash: Sha256,
    tenant: String,
    number: u64,
    buffer: Vec<u8>,
}

impl Reader {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path, tenant: &str) -> Result<(Self, Header), RetentionError> {
        let failed = RetentionError::during("open the archive's file");
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(&failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(unsound(0, "it is not a plain file"));
        }
        let mut reader = Self {
            file: BufReader::with_capacity(1 << 20, file),
            hash: Sha256::new(),
            tenant: tenant.to_owned(),
            number: 0,
            buffer: Vec::new(),
        };
        let Some(Ok(Line::Header(header))) = reader.read_line()? else {
            return Err(unsound(1, "it does not begin with a header"));
        };
        if header.format != FORMAT {
            return Err(unsound(
                1,
                "it is of a format that this program does not know",
            ));
        }
        if header.tenant != tenant {
            return Err(unsound(1, "it is another tenant's"));
        }
        Ok((reader, header))
    }

    /// The next lines; none at the end.
    pub(super) async fn chunk(mut self) -> Result<(Self, Vec<(u64, Item)>), RetentionError> {
        blocking(move || {
            let mut items = Vec::new();
            let mut encoded = Fields::default();
            while items.len() < CHUNK
                && let Some(line) = self.read_line()?
            {
                let item = match line {
                    Ok(Line::Range(range)) => Item::Range(range),
                    Ok(Line::Entry(entry)) => {
                        let leaf = entry.leaf(&self.tenant, &mut encoded);
                        match entry.event().zip(leaf) {
                            Some((event, leaf)) => Item::Entry(entry.chain, entry.seq, event, leaf),
                            None => Item::Bad("the entry is not the one whose leaf it names"),
                        }
                    }
                    Ok(Line::End(end)) => Item::End(end),
                    Ok(Line::Header(_)) => Item::Bad("a header stands in the middle"),
                    Err(problem) => Item::Bad(problem),
                };
                items.push((self.number, item));
            }
            Ok((self, items))
        })
        .await
    }

    /// The content of the leaf of an event, and its place, if the rest of the file has it.
    pub(super) async fn find(
        mut self,
        event: EventId,
    ) -> Result<Option<(u32, u64, Vec<u8>)>, RetentionError> {
        blocking(move || {
            let mut encoded = Fields::default();
            while let Some(line) = self.read_line()? {
                let Ok(Line::Entry(entry)) = line else {
                    continue;
                };
                if entry.event() == Some(event)
                    && let Some(mac) = entry.encode(&self.tenant, &mut encoded)
                {
                    let content = [encoded.as_bytes(), &mac].concat();
                    return Ok(Some((entry.chain, entry.seq, content)));
                }
            }
            Ok(None)
        })
        .await
    }

    /// The hash of what was read.
    pub(super) fn sha256(&self) -> Tag {
        self.hash.clone().finalize().into()
    }

    fn read_line(&mut self) -> Result<Option<Result<Line, &'static str>>, RetentionError> {
        self.buffer.clear();
        let read = (&mut self.file)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut self.buffer)
            .map_err(RetentionError::during("read the archive's file"))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.hash.update(&self.buffer);
        if self.buffer.last() != Some(&b'\n') {
            return Ok(Some(Err("the line is cut off, or too long")));
        }
        let line = serde_json::from_slice(&self.buffer);
        Ok(Some(line.map_err(|_| "the line is none of an archive's")))
    }
}

pub(super) const fn unsound(line: u64, problem: &'static str) -> RetentionError {
    RetentionError::Unsound { line, problem }
}

/// Runs what waits for a disk on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RetentionError> + Send + 'static,
) -> Result<T, RetentionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(RetentionError::File {
            doing: "work on the archive's file",
            kind: std::io::ErrorKind::Interrupted,
        }),
    }
}
