//! A directory for journals, and what is in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use portcullis::audit::JournalSettings;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A directory of its own for one test, removed when the value is dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn fresh() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-journal-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn settings(&self) -> JournalSettings {
        JournalSettings::in_directory(&self.0)
    }

    fn named(&self, suffix: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(suffix))
            .collect();
        found.sort();
        found
    }

    /// The files of journals, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.named(".jsonl")
    }

    /// The lines that were set aside.
    pub(crate) fn quarantined(&self) -> Vec<String> {
        self.named(".quarantine")
            .iter()
            .flat_map(|path| {
                let text = std::fs::read(path).unwrap();
                let text = String::from_utf8_lossy(&text).into_owned();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The lines of the only file, its first one included.
    pub(crate) fn lines(&self) -> Vec<String> {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        let text = std::fs::read_to_string(&files[0]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Writes the lines of the only file anew, in place: an attacker does.
    pub(crate) fn write_lines(&self, lines: &[String]) {
        let mut text = lines.join("\n");
        text.push('\n');
        std::fs::write(&self.files()[0], text).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
