//! The command line, run as an operator runs it: the program itself, its output, its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use portcullis::audit::{Audit, AuditEvent, JournalSettings, Recorded};
use portcullis::store::TestDatabase;
use portcullis::{Database, Secret, TenantId};
use serde_json::Value;
use sqlx::ConnectOptions as _;

use crate::common::proxy::Proxy;
use crate::trail::{SECRET, Trail, keys, who};

/// The program with `arguments`, in an empty directory, with nothing in its environment but the
/// database and the secret.
fn portcullis(test: &TestDatabase, arguments: &[&str]) -> Output {
    let url = test.options().to_url_lossy().to_string();
    bare(arguments)
        .env("PORTCULLIS_DATABASE_URL", url)
        .env("PORTCULLIS_AUDIT_SECRET", SECRET)
        .output()
        .unwrap()
}

fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).env_clear().current_dir("/");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}\n{}\n{}",
            text(&output.stdout),
            text(&output.stderr)
        )
    })
}

#[tokio::test]
async fn verify_says_clean_found_or_could_not_check_by_its_exit_code() {
    let trail = Trail::written().await;
    let clean = portcullis(&trail.test, &["verify"]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean.stderr));
    let shown = text(&clean.stdout);
    assert!(
        shown.starts_with("clean: 36 entries in 3 chains, 36 proved by key\n"),
        "{shown}"
    );
    assert!(
        shown.contains("chain  from  to  head  entries  by\n"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "colours without a terminal");

    trail.disarm().await;
    trail
        .sql("UPDATE portcullis.entries SET decision = 'allow' WHERE chain_no = 2 AND seq = 5")
        .await;
    let found = portcullis(&trail.test, &["verify", "--json"]);
    assert_eq!(found.status.code(), Some(1));
    let report = json(&found);
    assert_eq!(report["verdict"], "findings");
    assert_eq!(report["finding_count"], 1);
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["class"], &finding["chain"], &finding["seq"]),
        (&"bad_mac".into(), &2.into(), &5.into())
    );
    // The other chains are as they were.
    let other = portcullis(
        &trail.test,
        &["verify", "--chain", "1", "--from", "2", "--to", "9"],
    );
    assert_eq!(other.status.code(), Some(0));
    assert!(text(&other.stdout).starts_with("clean: 8 entries"));
}

#[tokio::test]
async fn what_cannot_be_checked_is_never_clean() {
    let trail = Trail::empty().await;
    let nothing = portcullis(&trail.test, &["verify"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stdout));
    assert!(text(&nothing.stdout).starts_with("nothing verified"));

    let away = bare(&[
        "verify",
        "--database",
        "postgres://nobody@127.0.0.1:1/none",
        "--json",
    ])
    .env("PORTCULLIS_AUDIT_SECRET", SECRET)
    .output()
    .unwrap();
    assert_eq!(away.status.code(), Some(2));
    assert!(
        json(&away)["error"]
            .as_str()
            .unwrap()
            .starts_with("verify: "),
        "{away:?}"
    );

    for (arguments, word) in [
        (&["verify"][..], "PORTCULLIS_DATABASE_URL"),
        (&["verify", "--from", "3"], "--chain"),
        (
            &["verify", "--chain", "1", "--from", "9", "--to", "3"],
            "--from",
        ),
        (&["verifi"], "verify"),
    ] {
        let refused = bare(arguments)
            .env("PORTCULLIS_AUDIT_SECRET", SECRET)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&refused.stderr).contains(word),
            "{}",
            text(&refused.stderr)
        );
    }
    // Without its secret, too: it says how to make one.
    let keyless = bare(&["verify", "--database", "postgres://localhost/x"])
        .output()
        .unwrap();
    assert!(text(&keyless.stderr).contains("PORTCULLIS_AUDIT_SECRET is not set"));
}

#[tokio::test]
async fn migrate_says_what_it_did() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = test.options().connect().await.unwrap();
    sqlx::raw_sql("DROP SCHEMA portcullis CASCADE")
        .execute(&mut admin)
        .await
        .unwrap();
    let first = portcullis(&test, &["migrate"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(text(&first.stdout).starts_with("applied  0001_audit\n"));
    let again = json(&portcullis(&test, &["migrate", "--json"]));
    assert_eq!(again["applied"], Value::Array(Vec::new()));
    assert!(again["version"].as_i64().unwrap() >= 3);
    let unknown = portcullis(&test, &["migrate", "--app-role", "no_such_role"]);
    assert_eq!(unknown.status.code(), Some(2));
}

#[tokio::test]
async fn no_secret_may_stand_on_the_command_line_or_in_a_file_that_others_read() {
    let marker = "hunter2-hunter2";
    let url = format!("postgres://app:{marker}@localhost/app");
    let refused = bare(&["verify", "--database", &url]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(
        said.contains("--database has a password in it") && !said.contains(marker),
        "{said}"
    );

    let directory = scratch();
    let file = directory.join("portcullis.toml");
    let config = file.to_str().unwrap();
    let write = |content: &str, mode| {
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    };
    write(&format!("database = \"{url}\"\n"), 0o644);
    let open = bare(&["verify", "--config", config]).output().unwrap();
    assert!(text(&open.stderr).contains("chmod 600"), "{open:?}");
    // A typo is an error, at its line, without the line.
    write(
        &format!("tenant = \"t\"\naudit_secert = \"{marker}\"\n"),
        0o600,
    );
    let typo = bare(&["verify", "--config", config]).output().unwrap();
    let said = text(&typo.stderr);
    assert!(said.contains("line 2") && !said.contains(marker), "{said}");
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_configuration_file_is_enough() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await;
    audit
        .append(AuditEvent::new(&who("a-1", "s-1"), "app.done"))
        .await
        .unwrap();
    audit.shutdown().await;
    let directory = scratch();
    let file = directory.join("portcullis.toml");
    let url = trail.test.options().to_url_lossy().to_string();
    let content =
        format!("database = \"{url}\"\ntenant = \"default\"\naudit_secret = \"{SECRET}\"\n");
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    // By its name in the working directory.
    let mut command = bare(&["verify", "--json"]);
    let verified = command.current_dir(&directory).output().unwrap();
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}",
        text(&verified.stderr)
    );
    assert_eq!(json(&verified)["entries"], 2);
    fs::remove_dir_all(directory).unwrap();
}

/// Two keys, by reference; the second is made current.
#[tokio::test]
async fn a_key_is_rotated_from_the_terminal() {
    let trail = Trail::written().await;
    let keys = "1=env:OLD_KEY,2=env:NEW_KEY";
    let new = Secret::generate().unwrap().to_hex();
    let with_keys = |arguments: &[&str]| {
        let url = trail.test.options().to_url_lossy().to_string();
        let output = bare(arguments)
            .args(["--audit-keys", keys])
            .env("PORTCULLIS_DATABASE_URL", url)
            .env("OLD_KEY", SECRET)
            .env("NEW_KEY", new.as_str())
            .output();
        output.unwrap()
    };
    let rotated = with_keys(&["rotate-key", "--to", "2", "--json"]);
    assert_eq!(rotated.status.code(), Some(0), "{}", text(&rotated.stderr));
    assert_eq!(
        json(&rotated),
        serde_json::json!({"current": 2, "chains": 3})
    );
    let clean = with_keys(&["verify"]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean.stdout));
    // Without the new one, what is under it is not proved.
    let old = portcullis(&trail.test, &["verify", "--json"]);
    assert_eq!(old.status.code(), Some(1));
    assert!(text(&old.stdout).contains("unknown_key"));
    let back = with_keys(&["rotate-key", "--to", "1"]);
    assert_eq!(back.status.code(), Some(2));
}

#[tokio::test]
async fn a_stranger_checks_a_proof_with_nothing_but_the_logs_public_key() {
    let trail = Trail::written().await;
    let log = Secret::generate().unwrap().to_hex();
    let url = trail.test.options().to_url_lossy().to_string();
    let with_log = |arguments: &[&str]| {
        let output = bare(arguments)
            .env("PORTCULLIS_DATABASE_URL", &url)
            .env("PORTCULLIS_AUDIT_SECRET", SECRET)
            .env("PORTCULLIS_LOG_ORIGIN", "audit.example/acme")
            .env("PORTCULLIS_LOG_KEY", "env:LOG_SEED")
            .env("LOG_SEED", log.as_str())
            .output();
        output.unwrap()
    };
    let directory = scratch();
    let kept = directory.join("kept.checkpoint");
    let made = with_log(&["checkpoint"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(text(&made.stdout).starts_with("audit.example/acme\n"));
    fs::write(&kept, &made.stdout).unwrap();
    let public = text(&with_log(&["log-key"]).stdout).trim().to_owned();
    assert!(public.starts_with("audit.example/acme+") && !public.contains(log.as_str()));

    let id: uuid::Uuid = sqlx::query_scalar(
        "SELECT event_id FROM portcullis.entries WHERE chain_no = 2 AND seq = 5",
    )
    .fetch_one(&trail.pool)
    .await
    .unwrap();
    let proof = json(&with_log(&["prove", &id.to_string(), "--json"]));
    let file = directory.join("event.tlog-proof");
    fs::write(&file, proof["proof"].as_str().unwrap()).unwrap();
    let leaf = proof["leaf"].as_str().unwrap();
    // No database and no secret from here on.
    let check = |leaf: &str, file: &PathBuf| {
        let file = file.to_str().unwrap();
        bare(&["check-proof", file, "--log", &public, "--leaf", leaf])
            .output()
            .unwrap()
    };
    let good = check(leaf, &file);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    let other = format!("{}=", "A".repeat(43));
    assert_eq!(check(&other, &file).status.code(), Some(1), "another leaf");
    assert_eq!(check(leaf, &kept).status.code(), Some(2), "no proof at all");

    let verify = |kept: &PathBuf| {
        let arguments = [
            "verify",
            "--log",
            &public,
            "--kept",
            kept.to_str().unwrap(),
            "--json",
        ];
        with_log(&arguments)
    };
    let clean = verify(&kept);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean.stdout));
    // The tail is cut off together with its head, as no key can tell.
    trail.disarm().await;
    trail
        .sql(
            "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq > 9;
              UPDATE portcullis.chains SET next_seq = 10, head_mac =
                     (SELECT mac FROM portcullis.entries WHERE chain_no = 2 AND seq = 9)
               WHERE chain_no = 2",
        )
        .await;
    let cut = verify(&kept);
    assert_eq!(cut.status.code(), Some(1), "{}", text(&cut.stdout));
    let cut = json(&cut);
    assert_eq!(cut["verdict"], "findings");
    assert_eq!(cut["exposed"]["anchor"], kept.to_str().unwrap());
    fs::remove_dir_all(directory).unwrap();
}

/// With the file that it writes itself; what it did not read again is in the report.
#[tokio::test]
async fn verify_goes_on_from_a_file_and_says_so() {
    let trail = Trail::written().await;
    let directory = scratch();
    let key = portcullis::tlog::LogKey::new("audit.example/cli", &Secret::generate().unwrap());
    let key = key.unwrap();
    let audit = trail.audit().await;
    let signed = audit.checkpoint(&key).await.unwrap();
    let file = directory.join("trail.verified");
    let log = key.verifier().to_string();
    let verify = || {
        let file = file.to_str().unwrap();
        let arguments = ["verify", "--log", &log, "--resume", file, "--json"];
        portcullis(&trail.test, &arguments)
    };
    let first = verify();
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stdout));
    assert_eq!(json(&first)["resumed_from"], Value::Null);
    assert!(file.exists());
    let second = verify();
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stdout));
    let report = json(&second);
    assert_eq!(report["resumed_from"], signed.size());
    assert_eq!(report["by"]["resumed"], signed.size());
    assert_eq!(report["entries"], 0);
    assert_eq!(report["exposed"]["entries"], 0);
    let _ = audit.checkpoint(&key).await.unwrap();
    let third = json(&verify());
    assert_eq!(
        (&third["entries"], &third["resumed_from"]),
        (&1.into(), &signed.size().into())
    );
    // What is found leaves the file as it was, and one that was changed is refused.
    let token = fs::read_to_string(&file).unwrap();
    trail.disarm().await;
    trail
        .sql("UPDATE portcullis.chains SET head_mac = sha256('x') WHERE chain_no = 2")
        .await;
    assert_eq!(verify().status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), token);
    fs::write(
        &file,
        token.replace("portcullis/verified/v1\n1", "portcullis/verified/v1\n2"),
    )
    .unwrap();
    let refused = verify();
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("resume from"),
        "{}",
        text(&refused.stderr)
    );
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn drain_brings_home_what_a_dead_process_left() {
    let trail = Trail::written().await;
    let directory = scratch();
    let journal = directory.join("journal");
    let proxy = Proxy::before(&trail.test.options()).await;
    let database = Database::options(proxy.options());
    let audit = Audit::open_with(
        &database,
        keys(),
        TenantId::single(),
        JournalSettings::in_directory(&journal),
    );
    let audit = audit.await.unwrap();
    proxy.down();
    let event = AuditEvent::new(&who("a-1", "s-1"), "app.done");
    let recorded = audit.append(event.clone()).await.unwrap();
    assert!(matches!(recorded, Recorded::Journalled(_)), "{recorded:?}");
    // It cannot be committed, and stays behind.
    audit.shutdown().await;
    drop(audit);

    let drain = || {
        portcullis(
            &trail.test,
            &["drain", "--journal", journal.to_str().unwrap(), "--json"],
        )
    };
    // Its lock goes with the thread that wrote, which may take a moment.
    for file in fs::read_dir(&journal).unwrap() {
        let file = fs::File::open(file.unwrap().path()).unwrap();
        while file.try_lock().is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    let drained = json(&drain());
    assert_eq!(
        drained["drained"], 2,
        "the event, and that the outage began: {drained}"
    );
    let reader = trail.audit().await;
    assert!(reader.event(event.id()).await.unwrap().is_some());
    let again = drain();
    assert_eq!(
        (again.status.code(), &json(&again)["drained"]),
        (Some(0), &0.into())
    );
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn entries_are_held_and_archived_from_the_terminal() {
    let aged = crate::retention::aged().await;
    let run = |arguments: &[&str]| portcullis(&aged.trail.test, arguments);
    let log = crate::retention::log_key().verifier().to_string();
    let note = scratch().join("worm.checkpoint");
    fs::write(&note, &aged.note).unwrap();
    let (note, directory) = (
        note.to_str().unwrap(),
        aged.directory.path().to_str().unwrap(),
    );
    let short = run(&[
        "retention",
        "--min-months",
        "5",
        "--by",
        "u-17",
        "--why",
        "x",
    ]);
    assert_eq!(short.status.code(), Some(2));
    assert!(text(&short.stderr).contains("at least six months"));
    let shown = json(&run(&["retention", "--json"]));
    assert_eq!(shown["policy"]["min_months"], 6);

    let hold = run(&[
        "hold", "--agent", "bert", "--by", "u-17", "--why", "incident", "--json",
    ]);
    let hold = json(&hold)["hold"].as_str().unwrap().to_owned();
    let archive = [
        "archive", directory, "--log", &log, "--kept", note, "--json",
    ];
    let partly = run(&archive);
    assert_eq!(partly.status.code(), Some(1), "{}", text(&partly.stderr));
    assert_eq!(
        (&json(&partly)["removed"], &json(&partly)["held_ranges"]),
        (&21.into(), &1.into())
    );
    let released = run(&["release", &hold, "--by", "u-17", "--why", "closed"]);
    assert_eq!(
        released.status.code(),
        Some(0),
        "{}",
        text(&released.stderr)
    );
    let done = run(&archive);
    assert_eq!(
        (done.status.code(), &json(&done)["removed"]),
        (Some(0), &10.into())
    );

    let verified = run(&["verify", "--log", &log, "--kept", note, "--json"]);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}",
        text(&verified.stdout)
    );
    assert_eq!(json(&verified)["archived"], 31);
    let files = aged.directory.files();
    let check = |file: &str| run(&["check-archive", file, "--log", &log, "--json"]);
    for file in &files {
        let checked = check(file.to_str().unwrap());
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
    }
    let changed = fs::read_to_string(&files[0])
        .unwrap()
        .replace("anna", "bert");
    fs::write(&files[0], changed).unwrap();
    assert_eq!(check(files[0].to_str().unwrap()).status.code(), Some(1));
    let evidence = [
        "retention",
        "--evidence",
        "6",
        "--log",
        &log,
        "--kept",
        note,
        "--json",
    ];
    let evidence = run(&evidence);
    assert_eq!(
        evidence.status.code(),
        Some(1),
        "{}",
        text(&evidence.stderr)
    );
    assert_eq!(json(&evidence)["status"], "partial(policy_only)");
}

#[test]
fn every_command_shows_an_example() {
    let help = text(&bare(&["--help"]).output().unwrap().stdout);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(commands.len(), 25, "{help}");
    for command in commands {
        let help = text(&bare(&[command, "--help"]).output().unwrap().stdout);
        let example = format!("\n  portcullis {command}");
        assert!(help.contains(&example), "{help}");
    }
}

fn scratch() -> PathBuf {
    let path = std::env::temp_dir().join(format!("portcullis-cli-{}", uuid::Uuid::now_v7()));
    fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn anchors_are_given_what_was_signed_and_consulted_by_every_command() {
    let trail = Trail::written().await;
    let directory = scratch();
    let key = directory.join("log.key");
    let seed = "3b8d0f2a4c6e9175d3b1f0e8c6a4829760f4d2b0a8e6c49517263544a1b2c3d9";
    fs::write(&key, seed).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let source = format!("file:{}", key.display());
    let log = [
        "--origin",
        "audit.example/cli",
        "--log-key",
        source.as_str(),
    ];
    let vault = format!("vault=file:{}", directory.join("vault").display());
    let run = |arguments: &[&str]| portcullis(&trail.test, arguments);
    let made = run(&[&["checkpoint"], &log[..]].concat());
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let public = bare(&[&["log-key"], &log[..]].concat()).output().unwrap();
    let public = text(&public.stdout).trim().to_owned();
    let about = [
        "--log",
        public.as_str(),
        "--anchor",
        vault.as_str(),
        "--json",
    ];
    let list = || json(&run(&[&["anchor", "--list"], &about[..]].concat()));
    assert_eq!(list()["anchors"][0]["stands"], "behind");
    let given = run(&[&["anchor"], &about[..]].concat());
    assert_eq!(given.status.code(), Some(0), "{}", text(&given.stderr));
    let size = json(&given)["anchors"][0]["size"].clone();
    assert_eq!(list()["anchors"][0]["size"], size);
    assert_eq!(list()["anchors"][0]["stands"], "in step");
    // A checkpoint is given by itself, and a verification asks.
    let anchored = [&["checkpoint", "--anchor", &vault, "--json"], &log[..]].concat();
    let next = json(&run(&anchored));
    assert_eq!(next["anchors"][0]["size"], next["size"]);
    let verified = run(&[&["verify"], &about[..]].concat());
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}",
        text(&verified.stdout)
    );
    assert_eq!(json(&verified)["anchors"][0]["standing"], "in_step");

    // Everything is gone.
    let other = Trail::empty().await;
    let elsewhere = |arguments: &[&str]| portcullis(&other.test, arguments);
    let refused = elsewhere(&anchored);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("`vault` holds a checkpoint"),
        "{refused:?}"
    );
    let found = elsewhere(&[&["verify"], &about[..]].concat());
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stdout));
    assert_eq!(json(&found)["anchors"][0]["standing"], "contradicts");
    let found = elsewhere(&[&["anchor", "--list"], &about[..]].concat());
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stdout));
    // From the configuration file, and an anchor that cannot be reached.
    let config = directory.join("portcullis.toml");
    let key = directory.join("w1.vkey");
    let witness = portcullis::tlog::WitnessKey::new("w.example/w1", &Secret::generate().unwrap());
    fs::write(&key, witness.unwrap().verifier().to_string()).unwrap();
    let named = format!(
        "anchors = [\"{vault}\", \"witness:http://127.0.0.1:1#{}\"]\n",
        key.display()
    );
    fs::write(&config, named).unwrap();
    let config = config.to_str().unwrap();
    let partly = run(&["anchor", "--config", config, "--log", &public]);
    assert_eq!(partly.status.code(), Some(2), "{}", text(&partly.stdout));
    assert!(
        text(&partly.stdout).contains("witness:127.0.0.1:1  witness"),
        "{}",
        text(&partly.stdout)
    );
    for (place, word) in [
        ("nowhere", "file:/DIRECTORY"),
        ("file:here", "not absolute"),
        ("witness:http://x", "takes a URL"),
        ("tsa:http://x#/nowhere", "cannot be read"),
    ] {
        let refused = run(&["anchor", "--log", &public, "--anchor", place]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(
            text(&refused.stderr).contains(word),
            "{}",
            text(&refused.stderr)
        );
    }
    fs::remove_dir_all(directory).unwrap();
}
