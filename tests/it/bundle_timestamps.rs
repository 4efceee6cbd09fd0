//! The timestamp tokens in a bundle, checked by somebody who has nothing but the roots of authorities.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use portcullis::adapters::anchors::TimestampRoots;
use portcullis::audit::anchor::AnchorError;
use portcullis::audit::bundle::{Bundle, Class, Export, Report, TokenOutcome, Trust};
use serde_json::Value;

use crate::anchors_http::{Authority, EC, log_key, stamped};
use crate::common::trail::{Trail, trail, writer};

/// A trail with two checkpoints that `authority` stamped, and its bundle in `directory`.
async fn exported(trail: &Trail, authority: &Authority, directory: &Path) {
    for _ in 0..2 {
        stamped(trail, authority.rooted()).await.1.unwrap();
    }
    export(trail, directory).await;
}

async fn export(trail: &Trail, directory: &Path) {
    let audit = writer(&trail.test.database()).await;
    let key = log_key();
    let export = Export::new(key.verifier().clone(), key.clone());
    let file = fs::File::create(directory.join("acme.bundle")).unwrap();
    audit.export(&export, file).await.unwrap();
    audit.shutdown().await;
}

fn verify(directory: &Path, trust: &Trust) -> Report {
    let bundle = Bundle::open(directory.join("acme.bundle")).unwrap();
    bundle.verify(trust).unwrap()
}

fn trust() -> Trust {
    Trust::in_log(log_key().verifier().clone())
}

fn under(roots: &[u8]) -> Trust {
    let roots = TimestampRoots::from_pem(roots).unwrap();
    trust().timestamps(move |note, token| roots.verify(note, token))
}

#[tokio::test]
async fn each_timestamp_of_a_bundle_is_valid_or_a_finding_or_was_not_checked() {
    let (trail, authority) = (trail().await, Authority::new(EC).await);
    let scratch = tempdir();
    exported(&trail, &authority, &scratch).await;

    let report = verify(&scratch, &trust());
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.token_counts(), (2, 2));
    let unchecked = |report: &Report| {
        let limits = report.limits();
        limits
            .iter()
            .any(|limit| limit.contains("timestamp tokens"))
    };
    assert!(unchecked(&report) && report.stamped().is_none());
    let outcomes = report.tokens().iter().map(|token| &token.outcome);
    assert!(outcomes.eq([&TokenOutcome::NotChecked; 2]));

    let report = verify(&scratch, &under(&authority.file("root.pem")));
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.token_counts(), (2, 0));
    assert!(!unchecked(&report));
    let (size, stamp) = report.stamped().unwrap();
    assert_eq!((size, stamp.authority.as_str()), (report.size(), "tsa"));
    let TokenOutcome::Valid(first) = &report.tokens()[0].outcome else {
        panic!("{report}");
    };
    assert!(first.at <= stamp.at);

    // Of somebody else, every token is a finding; with both roots, none is.
    let another = Authority::new(EC).await;
    let report = verify(&scratch, &under(&another.file("root.pem")));
    assert_eq!(report.finding_count(), 2, "{report}");
    for (finding, token) in report.findings().iter().zip(report.tokens()) {
        assert_eq!((finding.class, finding.line), (Class::Anchor, token.line));
        let untrusted = "the authority's certificate is not trusted";
        assert_eq!(token.outcome, TokenOutcome::Invalid(untrusted));
        assert_eq!(finding.detail, untrusted);
    }
    assert!(report.stamped().is_none());
    let both = [another.file("root.pem"), authority.file("root.pem")].concat();
    assert!(verify(&scratch, &under(&both)).is_clean());

    // A good token of another checkpoint, which whoever writes the database may put there.
    sqlx::query(
        "INSERT INTO portcullis.anchor_receipts (tenant_id, anchor, size, root, kind, receipt, kept_at)
         SELECT new.tenant_id, 'tsb', new.size, new.root, new.kind, old.receipt, new.kept_at
           FROM portcullis.anchor_receipts new, portcullis.anchor_receipts old
          WHERE old.size < new.size",
    )
    .execute(&trail.pool)
    .await
    .unwrap();
    export(&trail, &scratch).await;
    let report = verify(&scratch, &under(&authority.file("root.pem")));
    let details: Vec<_> = report.findings().iter().map(|found| found.detail).collect();
    assert_eq!(
        details,
        ["the token is of something else than the checkpoint"]
    );
    assert_eq!(report.stamped().unwrap().0, report.size());

    for bad in [&b""[..], b"no certificate", &authority.file("tsa.csr")] {
        let refused = TimestampRoots::from_pem(bad);
        assert!(matches!(refused, Err(AnchorError::Settings(_))));
    }
    fs::remove_dir_all(scratch).unwrap();
}

#[tokio::test]
async fn the_terminal_says_of_each_timestamp_what_became_of_it() {
    let (trail, authority) = (trail().await, Authority::new(EC).await);
    let another = Authority::new(EC).await;
    let scratch = tempdir();
    exported(&trail, &authority, &scratch).await;
    fs::write(scratch.join("good.pem"), authority.file("root.pem")).unwrap();
    fs::write(scratch.join("other.pem"), another.file("root.pem")).unwrap();
    fs::write(scratch.join("none.pem"), "no certificate").unwrap();
    drop(trail);
    let check = |arguments: &[&str]| {
        let vkey = log_key().verifier().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["verify-bundle", "acme.bundle", "--log", &vkey]);
        let command = command.args(arguments).env_clear().current_dir(&scratch);
        command.output().unwrap()
    };

    let said = check(&["--json"]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let said = json(&said);
    assert_eq!(said["timestamps"][1]["outcome"], "not_checked");
    assert_eq!(said["timestamps_not_checked"], 2);
    assert_eq!(said["stamped"], Value::Null);

    let said = check(&["--timestamp-roots", "good.pem", "--json"]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let said = json(&said);
    assert_eq!(said["timestamps"][0]["outcome"], "valid");
    assert_eq!(said["timestamps"][0]["authority"], "tsa");
    assert_eq!(said["timestamps"][1]["at"], said["stamped"]["at"]);
    assert_eq!(said["stamped"]["size"], said["size"]);
    let text = check(&["--timestamp-roots", "good.pem"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("stamped") && text.contains("by tsa"),
        "{text}"
    );

    let said = check(&["--timestamp-roots", "other.pem", "--json"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let said = json(&said);
    assert_eq!(said["timestamps"][0]["outcome"], "invalid");
    assert_eq!(
        said["timestamps"][0]["problem"],
        said["findings"][0]["what"]
    );

    let said = check(&["--timestamp-roots", "none.pem"]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    fs::remove_dir_all(&scratch).unwrap();
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn tempdir() -> std::path::PathBuf {
    let name = format!("portcullis-stamps-{}", uuid::Uuid::now_v7());
    let path = std::env::temp_dir().join(name);
    fs::create_dir(&path).unwrap();
    path
}
