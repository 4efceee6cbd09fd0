//! The command line, run as an operator runs it: the program itself, its output, its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use portcullis::audit::AuditEvent;
use portcullis::store::TestDatabase;
use serde_json::Value;
use sqlx::ConnectOptions as _;

use crate::trail::{SECRET, Trail, who};

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
        shown.contains("chain  from  to  head  entries  proved\n"),
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
    assert!(commands.len() >= 2, "{help}");
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
