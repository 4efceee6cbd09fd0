//! Where answers go: a table or a JSON document to standard output, the rest to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::fault::Fault;

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Faint,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        // https://no-color.org: set and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !json && !refused && io::stdout().is_terminal(),
        }
    }

    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// The answer: `document` with `--json`, else `text`.
    pub(crate) fn answer(self, document: &Value, text: &str) -> Result<(), Fault> {
        let mut out = io::stdout().lock();
        let written = if self.json {
            writeln!(out, "{document:#}")
        } else {
            write!(out, "{text}")
        };
        match written.and_then(|()| out.flush()) {
            // Whoever read it has read enough (`portcullis verify | head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(Fault::during("write the answer")),
        }
    }

    /// `text` in a tone, on a terminal.
    pub(crate) fn tone(self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Says what should be looked at and stops nothing.
    #[expect(clippy::unused_self, reason = "where answers go is decided here")]
    pub(crate) fn warn(self, text: &str) {
        // There is nobody left to tell if this fails.
        let _ = write!(io::stderr(), "{text}");
    }

    /// Says why the command could not do its work.
    pub(crate) fn fault(self, fault: &Fault) {
        // There is nobody left to tell if this fails.
        let _ = writeln!(io::stderr(), "portcullis: {fault}");
        if self.json {
            let document = serde_json::json!({ "error": fault.to_string() });
            let _ = writeln!(io::stdout(), "{document:#}");
        }
    }
}

/// A table with a heading; columns are as wide as their widest cell, numbers to the right.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        heading
            .get(column)
            .map_or(0, |h| h.chars().count())
            .max(longest)
    };
    let numeric = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).all(|cell| {
            let number = cell.strip_prefix('$').unwrap_or(cell);
            cell == "-" || number.chars().all(|c| c.is_ascii_digit() || c == '.')
        })
    };
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|&h| h.to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let cell = if numeric(column) {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [
            vec!["1".to_owned(), "a".to_owned()],
            vec!["1000".to_owned(), "bbb".to_owned()],
        ];
        let expected = "count  name\n    1  a\n 1000  bbb\n";
        assert_eq!(table(&["count", "name"], &rows), expected);
    }
}
