//! Reading a journal back: what is intact, what is not, and what is not there.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::line::{Context, Header, Line};
use crate::audit::keys::Tag;
use crate::canon::Fields;

/// About how many bytes are read at once.
const CHUNK: usize = 512 << 10;
/// The longest line that is looked for; ours are far below (metadata 64 KiB, escaped).
const LONGEST: usize = 4 << 20;
/// The most lines that are given at once: one batch of the writer.
const LINES: usize = 500;

/// Something that was found in a file.
#[derive(Debug)]
pub(in crate::audit) enum Item {
    /// An intact line, and its text.
    Line(Box<Line>, Vec<u8>),
    /// What is no line of ours; where one of this number was expected.
    Bad {
        seq: u64,
        raw: Vec<u8>,
        why: &'static str,
    },
    /// These lines are not there.
    Hole { from: u64, through: u64 },
    /// An intact line where another was expected.
    Stray { seq: u64 },
}

/// What was read at once.
#[derive(Debug, Default)]
pub(in crate::audit) struct Chunk {
    pub(in crate::audit) items: Vec<Item>,
    /// There is no more to be read.
    pub(in crate::audit) end: bool,
    /// It belongs to somebody else: nothing was read, and nothing of it may be touched.
    pub(in crate::audit) foreign: bool,
}

/// Reads the files of one journal, one after the other.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Reader {
    context: Arc<Context>,
    /// How far the file was read.
    pub(in crate::audit) offset: u64,
    /// Whether something in it has proved that it is ours.
    owned: bool,
    /// The next line's number, and the MAC that it follows; unknown before the first.
    expected: Option<(u64, Tag)>,
    /// Bad lines since the last good one: each stands for a number.
    bad: u64,
}

impl Reader {
    /// `owned` says that the files are known to be ours.
    pub(in crate::audit) fn new(context: Arc<Context>, owned: bool) -> Self {
        Self {
            context,
            offset: 0,
            owned,
            expected: None,
            bad: 0,
        }
    }

    /// Goes on with the journal's next file.
    pub(in crate::audit) const fn next_file(&mut self) {
        self.offset = 0;
    }

    /// The last line before the one that is expected, if there was any: here, or in a file before.
    pub(in crate::audit) fn reached(&self) -> Option<(u64, Tag)> {
        let (next, mac) = self.expected?;
        (next > 1).then(|| (next - 1, mac))
    }

    /// Reads on, to `upto` if the file is being written, else to its end.
    pub(in crate::audit) fn read(&mut self, file: &File, upto: Option<u64>) -> io::Result<Chunk> {
        let size = file.metadata()?.size();
        let end = upto.map_or(size, |upto| upto.min(size));
        let mut chunk = Chunk::default();
        let mut want = CHUNK;
        loop {
            let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let mut bytes = vec![0; want.min(left)];
            file.read_exact_at(&mut bytes, self.offset)?;
            let all = bytes.len() == left;
            if left == 0 {
                chunk.end = true;
                return Ok(chunk);
            }
            if !bytes.contains(&b'\n') && !all && want < LONGEST {
                want *= 2;
                continue;
            }
            self.lines(&bytes, all, upto.is_none(), &mut chunk);
            if !self.owned {
                // Not one line in it is ours.
                chunk.items.clear();
                chunk.foreign = true;
            }
            return Ok(chunk);
        }
    }

    pub(super) fn lines(&mut self, bytes: &[u8], all: bool, closed: bool, chunk: &mut Chunk) {
        let mut read = 0;
        let mut fields = Fields::default();
        for text in bytes.split_inclusive(|byte| *byte == b'\n') {
            if chunk.items.len() >= LINES {
                break;
            }
            let Some(line) = text.strip_suffix(b"\n") else {
                let endless = read == 0 && !all;
                if (all && closed) || endless {
                    read += text.len();
                    let why = if endless {
                        "the line is longer than any of ours"
                    } else {
                        "the last line is torn"
                    };
                    self.bad(text, why, chunk);
                }
                break;
            };
            let first = self.offset == 0 && read == 0;
            read += text.len();
            self.line(line, first, &mut fields, chunk);
        }
        self.offset = self.offset.saturating_add(u64::try_from(read).unwrap_or(0));
        // Somebody has taken the end of the last line away while the file is being written.
        chunk.end = read == 0;
    }

    fn line(&mut self, text: &[u8], first: bool, fields: &mut Fields, chunk: &mut Chunk) {
        if first {
            if let Some(other) = Header::under_another_key(&self.context, text) {
                self.context = Arc::new(other);
            }
            match Header::read(&self.context, text) {
                Some((first, previous)) => {
                    self.owned = true;
                    self.begin(first, previous, chunk);
                }
                // It has no number. Whether the file is ours, its lines will tell.
                None => {
                    self.set_aside(
                        text,
                        "the file's first line is not as it was written",
                        chunk,
                    );
                }
            }
            return;
        }
        match Line::read(&self.context, text, fields) {
            Some(line) => {
                self.owned = true;
                self.place(&line, chunk);
                chunk.items.push(Item::Line(Box::new(line), text.to_vec()));
            }
            None => self.bad(text, "the line is not as it was written", chunk),
        }
    }

    /// A file begins with line `first`.
    fn begin(&mut self, first: u64, previous: Tag, chunk: &mut Chunk) {
        self.hole_before(first, chunk);
        // Going back is a copy; its lines will say so.
        if self.expected.is_none_or(|(next, _)| next <= first) {
            self.expected = Some((first, previous));
            self.bad = 0;
        }
    }

    fn hole_before(&self, seq: u64, chunk: &mut Chunk) {
        if let Some((next, _)) = self.expected {
            let from = next.saturating_add(self.bad);
            if from < seq {
                let through = seq.saturating_sub(1);
                chunk.items.push(Item::Hole { from, through });
            }
        }
    }

    /// Compares where an intact line stands with where it was written.
    fn place(&mut self, line: &Line, chunk: &mut Chunk) {
        let after = (line.seq.saturating_add(1), line.mac);
        match self.expected {
            Some((next, _)) if line.seq < next => {
                chunk.items.push(Item::Stray { seq: line.seq });
                return;
            }
            Some((next, previous)) if line.seq == next && line.previous != previous => {
                chunk.items.push(Item::Stray { seq: line.seq });
            }
            _ => self.hole_before(line.seq, chunk),
        }
        self.expected = Some(after);
        self.bad = 0;
    }

    fn bad(&mut self, raw: &[u8], why: &'static str, chunk: &mut Chunk) {
        self.set_aside(raw, why, chunk);
        self.bad = self.bad.saturating_add(1);
    }

    fn set_aside(&self, raw: &[u8], why: &'static str, chunk: &mut Chunk) {
        let seq = self.expected.map_or(0, |(next, _)| next);
        chunk.items.push(Item::Bad {
            seq: seq.saturating_add(self.bad),
            raw: raw.to_vec(),
            why,
        });
    }
}

/// Adds what could not be drained from the file at `path` to the file beside it, durably.
pub(in crate::audit) fn quarantine(path: &Path, lines: &[Vec<u8>]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".quarantine");
    let mut file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(name)?;
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    file.write_all(&bytes)?;
    file.sync_data()
}
