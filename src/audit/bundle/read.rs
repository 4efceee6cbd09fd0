//! The lines of a file, one at a time, however long somebody made them.

use std::io::{self, BufRead, Read as _};

use super::line::MAX_LINE;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next<'l> {
    /// A line, without its newline.
    Line(&'l [u8]),
    /// A line without a newline, or one that is longer than any may be.
    Broken(&'static str),
    /// Nothing more.
    End,
}

#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self {
            reader,
            line: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let mut bounded = (&mut self.reader).take(limit);
        if bounded.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(Next::End);
        }
        Ok(match self.line.strip_suffix(b"\n") {
            Some(line) => Next::Line(line),
            None if self.line.len() < MAX_LINE => {
                Next::Broken("the file ends in the middle of a line")
            }
            None => Next::Broken("the line is longer than any may be"),
        })
    }
}
