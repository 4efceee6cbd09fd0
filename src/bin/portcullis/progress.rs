//! How far long work has come, on standard error.

use std::io::{self, IsTerminal as _, Write as _};

/// One line that is overwritten on a terminal; silent elsewhere.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    shown: bool,
}

impl ProgressLine {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            shown: !json && io::stderr().is_terminal(),
        }
    }

    pub(crate) fn show(&self, text: &str) {
        if self.shown {
            // To the start of the line, the text, and away with what stood behind it.
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r{text}\u{1b}[K");
            let _ = err.flush();
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
