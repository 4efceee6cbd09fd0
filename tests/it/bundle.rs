//! Bundles: what is exported can be checked by a stranger, and nothing in it changed unnoticed.

use std::io::Cursor;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use portcullis::audit::bundle::{
    Bundle, BundleError, Class, Export, Redaction, Report, Selection, Trust,
};
use portcullis::audit::{
    AgentKey, Audit, AuditError, AuditEvent, KeySource, Kind, Query, SignPolicy, Signing, Verdict,
};
use portcullis::tlog::{Checkpoint, LogKey, Note, TreeHash, WitnessKey};
use portcullis::{AgentId, Principal, Secret, SessionId, Timestamp, UserId};
use sha2::{Digest as _, Sha256};

use crate::trail::{Trail, who};

pub(crate) const ORIGIN: &str = "audit.example/test";
pub(crate) const SEED: &str = "5b1d0f3a7c9e2846d0b4f8a1c35e7924a9b8c7d6e5f4031221304f5e6d7c8b9a";
const OTHER_SEED: &str = "11d0f3a7c9e2846d0b4f8a1c35e7924a9b8c7d6e5f4031221304f5e6d7c8b9a5";

pub(crate) fn log_key() -> LogKey {
    LogKey::new(ORIGIN, &Secret::parse(SEED).unwrap()).unwrap()
}

fn other_key(name: &str) -> LogKey {
    LogKey::new(name, &Secret::parse(OTHER_SEED).unwrap()).unwrap()
}

fn trust() -> Trust {
    Trust::in_log(log_key().verifier().clone())
}

fn agent() -> AgentId {
    AgentId::parse("signer").unwrap()
}

fn agent_key() -> AgentKey {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    AgentKey::load(agent(), KeySource::memory(Secret::parse(seed).unwrap())).unwrap()
}

/// What [`Trail::written`] has, and then five entries that an agent signed in session `s-4`, the
/// last of them after its key was revoked for the time after it. Two checkpoints.
async fn written() -> Trail {
    let trail = Trail::written().await;
    let audit = trail.audit().await;
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    audit.shutdown().await;
    let signing = Signing::new(SignPolicy::All).key(agent_key());
    let audit = trail.audit().await.sign_with(&signing);
    let me = Principal::agent(agent()).session(SessionId::parse("s-4").unwrap());
    for n in 0..5 {
        let event = AuditEvent::new(&me, "app.signed").with("n", n);
        audit.append(event).await.unwrap();
    }
    audit
        .revoke_key(&agent(), agent_key().id(), None)
        .await
        .unwrap();
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    audit.shutdown().await;
    trail
}

async fn export(trail: &Trail, selection: Selection) -> String {
    let audit = trail.audit().await;
    let bundle = try_export(&audit, selection).await.unwrap();
    audit.shutdown().await;
    bundle
}

async fn try_export(audit: &Audit, selection: Selection) -> Result<String, BundleError> {
    let order = Export::new(log_key().verifier().clone(), log_key()).select(selection);
    let mut out = Vec::new();
    audit.export(&order, &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

fn verify(bundle: &str, trust: &Trust) -> Report {
    verify_bytes(bundle.as_bytes(), trust)
}

fn verify_bytes(bundle: &[u8], trust: &Trust) -> Report {
    Bundle::new(Cursor::new(bundle)).verify(trust).unwrap()
}

fn session(name: &str) -> SessionId {
    SessionId::parse(name).unwrap()
}

fn classes(report: &Report) -> Vec<Class> {
    report
        .findings()
        .iter()
        .map(|finding| finding.class)
        .collect()
}

#[tokio::test]
async fn everything_in_a_bundle_is_proved_by_the_logs_public_key_alone() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all()).await;
    let report = verify(&bundle, &trust());
    assert!(report.is_clean(), "{report}");
    // 36 entries and two of checkpoints, the key, five signed ones, the revocation; and the genesis
    // of a chain if one more was opened.
    let entries = bundle
        .lines()
        .filter(|l| l.starts_with("{\"entry\":"))
        .count() as u64;
    assert!(entries >= 45, "{entries}");
    assert_eq!(
        (
            report.entries(),
            report.proved(),
            report.size(),
            report.withheld()
        ),
        (entries, entries, entries, 0)
    );
    // The five, and that is all that was signed.
    assert_eq!(
        (report.signed(), report.keys(), report.checkpoints()),
        (5, 1, 2)
    );
    assert_eq!(
        report.sealed_by(),
        Some((log_key().verifier().to_string().as_str(), true))
    );
    // What the trail says is what the bundle says.
    let audit = trail.audit().await;
    let all = audit.events(&Query::all().limit(1_000)).await.unwrap();
    for entry in all
        .entries
        .iter()
        .filter(|e| e.kind != Kind::ExportGenerated)
    {
        let mac = format!("\"mac\":\"{}\"", hex::encode(entry.mac));
        let line = bundle.lines().find(|line| line.contains(&mac)).unwrap();
        assert!(line.contains(&entry.id.to_string()), "{line}");
    }
    let exports = all
        .entries
        .iter()
        .filter(|e| e.kind == Kind::ExportGenerated);
    let said: Vec<_> = exports
        .map(|e| e.metadata.to_value()["entries"].clone())
        .collect();
    assert_eq!(
        said,
        [serde_json::json!(entries.to_string())],
        "it is on record"
    );
}

#[tokio::test]
async fn the_same_trail_gives_the_same_bytes() {
    let trail = written().await;
    for selection in [Selection::all(), Selection::all().session(&session("s-2"))] {
        let first = export(&trail, selection.clone()).await;
        let audit = trail.audit().await;
        // What is newer than the checkpoint changes nothing.
        audit
            .append(AuditEvent::new(&who("a-1", "s-2"), "app.later"))
            .await
            .unwrap();
        audit.shutdown().await;
        assert_eq!(export(&trail, selection).await, first);
    }
}

#[tokio::test]
async fn without_the_logs_key_from_elsewhere_a_bundle_is_never_clean() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all()).await;
    let report = verify(&bundle, &Trust::in_nobody());
    assert_eq!(report.verdict(), Verdict::Nothing, "{report}");
    assert!(
        report
            .limits()
            .iter()
            .any(|limit| limit.contains("own copy of the key"))
    );
    // Nor with the key of another log, though it be called the same.
    let report = verify(
        &bundle,
        &Trust::in_log(other_key(ORIGIN).verifier().clone()),
    );
    assert_eq!(report.verdict(), Verdict::Findings);
    assert!(classes(&report).contains(&Class::Claim));
    assert!(classes(&report).contains(&Class::Checkpoint));
}

/// F05: an empty list verified as true.
#[tokio::test]
async fn f05_a_bundle_that_shows_nothing_is_not_clean() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all().session(&session("nobody"))).await;
    let report = verify(&bundle, &trust());
    assert_eq!((report.verdict(), report.entries()), (Verdict::Nothing, 0));
    assert_eq!(report.withheld(), report.size());
    for nothing in ["", "\n", "{}\n"] {
        let report = verify(nothing, &trust());
        assert_eq!(report.verdict(), Verdict::Findings, "{nothing:?}");
        assert_eq!(report.findings()[0].line, 1);
    }
    let empty = Trail::empty().await;
    let audit = empty.audit().await;
    let error = try_export(&audit, Selection::all()).await.unwrap_err();
    assert!(
        matches!(error, BundleError::Audit(AuditError::NoCheckpoint)),
        "{error}"
    );
}

#[tokio::test]
async fn a_selection_shows_what_was_selected_and_counts_what_was_not() {
    let trail = written().await;
    let all = export(&trail, Selection::all()).await;
    let size = verify(&all, &trust()).size();
    for (selection, entries, signed) in [
        (Selection::all().session(&session("s-1")), 11, 0),
        // With the entries that say whose the key is.
        (Selection::all().session(&session("s-4")), 7, 5),
        (Selection::all().agent(&agent()), 7, 5),
        (Selection::all().to(Timestamp::MIN), 0, 0),
        (Selection::all().from(Timestamp::MIN), size, 5),
        (
            Selection::all()
                .session(&session("s-2"))
                .agent(&AgentId::parse("a-1").unwrap()),
            11,
            0,
        ),
    ] {
        let bundle = export(&trail, selection.clone()).await;
        let report = verify(&bundle, &trust());
        assert_eq!(report.finding_count(), 0, "{report}");
        assert_eq!(
            (
                report.entries(),
                report.proved(),
                report.withheld(),
                report.signed()
            ),
            (entries, entries, size - entries, signed),
            "{selection:?}"
        );
        // Nothing of what is withheld is in the file.
        for line in all.lines().filter(|line| line.starts_with("{\"entry\":")) {
            let shown = bundle.contains(line);
            assert_eq!(
                shown,
                bundle.contains(&line[line.find("\"mac\"").unwrap()..][..70])
            );
        }
    }
}

/// F06: entries of a session were deleted, and the rest verified.
#[tokio::test]
async fn f06_an_entry_that_was_edited_or_deleted_stops_the_export_selected_or_not() {
    let trail = written().await;
    trail.disarm().await;
    for sql in [
        // Out of the selection, which the selection's own condition would not show.
        "UPDATE portcullis.entries SET session_id = 's-9' WHERE chain_no = 1 AND seq = 12",
        "UPDATE portcullis.entries SET decision = 'deny' WHERE chain_no = 2 AND seq = 4",
        "DELETE FROM portcullis.entries WHERE chain_no = 1 AND seq = 12",
        "DELETE FROM portcullis.entries WHERE chain_no = 3",
        "UPDATE portcullis.entries SET mac = sha256(mac) WHERE chain_no = 1 AND seq = 3",
        "UPDATE portcullis.entries SET kind = 'identity.key_x' WHERE kind = 'identity.key_revoked'",
    ] {
        trail.sql(sql).await;
        let audit = trail.audit().await;
        for selection in [Selection::all(), Selection::all().session(&session("s-1"))] {
            let error = try_export(&audit, selection).await.unwrap_err();
            assert!(
                matches!(error, BundleError::Audit(AuditError::Tampered { .. })),
                "{sql}: {error}"
            );
        }
        audit.shutdown().await;
        trail.restore().await;
    }
    assert!(verify(&export(&trail, Selection::all()).await, &trust()).is_clean());
}

/// Every byte of a bundle is under the seal, or is the seal.
#[tokio::test]
async fn no_byte_of_a_bundle_can_be_changed_unnoticed() {
    let trail = Trail::empty().await;
    let signing = Signing::new(SignPolicy::All).key(agent_key());
    let audit = trail.audit().await.sign_with(&signing);
    let me = Principal::agent(agent()).session(session("s-4"));
    audit
        .append(AuditEvent::new(&me, "app.signed"))
        .await
        .unwrap();
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    audit.shutdown().await;
    let bundle = export(&trail, Selection::all().session(&session("s-4"))).await;
    assert!(verify(&bundle, &trust()).is_clean());
    for at in 0..bundle.len() {
        let mut bytes = bundle.clone().into_bytes();
        bytes[at] ^= 1 << (at % 7);
        let report = verify_bytes(&bytes, &trust());
        assert_eq!(report.verdict(), Verdict::Findings, "byte {at}");
    }
    // Nor can it be cut, wherever.
    for to in 0..bundle.len() {
        let report = verify_bytes(&bundle.as_bytes()[..to], &trust());
        assert_eq!(report.verdict(), Verdict::Findings, "cut at {to}");
    }
}

/// A bundle as an attacker rewrites it, who has no key of ours: sealed anew, with a key of his own.
struct Forgery {
    lines: Vec<String>,
}

static FORGER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[77; 32]));

impl Forgery {
    fn of(bundle: &str) -> Self {
        Self {
            lines: bundle.lines().map(str::to_owned).collect(),
        }
    }

    fn find(&self, word: &str) -> usize {
        let found = self.lines.iter().position(|line| line.contains(word));
        found.unwrap_or_else(|| panic!("no line with {word}"))
    }

    fn change(&mut self, word: &str, from: &str, to: &str) {
        let at = self.find(word);
        assert!(self.lines[at].contains(from), "{}", self.lines[at]);
        self.lines[at] = self.lines[at].replacen(from, to, 1);
    }

    /// The file, with a seal that fits it.
    fn sealed(mut self) -> String {
        let public = FORGER.verifying_key();
        let typed = [&[1], public.as_bytes().as_slice()].concat();
        let name = "forger.example";
        let hash = Sha256::digest([name.as_bytes(), b"\n", &typed].concat());
        let vkey = format!(
            "{name}+{}+{}",
            hex::encode(&hash[..4]),
            STANDARD.encode(&typed)
        );
        let header = &mut self.lines[0];
        let from = header.find("\"signer\":\"").unwrap() + 10;
        let to = from + header[from..].find('"').unwrap();
        header.replace_range(from..to, &vkey);
        let old = self.lines.pop().unwrap();
        let field = |name: &str| {
            let from = old.find(name).unwrap() + name.len() + 1;
            old[from..from + old[from..].find("\\n").unwrap()].to_owned()
        };
        let count = |name: &str| -> u64 {
            let lines = self.lines.iter().filter(|line| line.starts_with(name));
            lines
                .map(|line| {
                    let value: serde_json::Value = serde_json::from_str(line).unwrap();
                    value["withheld"]["count"].as_u64().unwrap_or(1)
                })
                .sum()
        };
        let body = self.lines.join("\n") + "\n";
        let text = format!(
            "portcullis/bundle/v1\nsha256 {}\nsize {}\nroot {}\nentries {}\nwithheld {}\n",
            hex::encode(Sha256::digest(body.as_bytes())),
            field("\\nsize"),
            field("\\nroot"),
            count("{\"entry\":"),
            count("{\"withheld\":"),
        );
        let signature = FORGER.sign(text.as_bytes()).to_bytes();
        let blob = STANDARD.encode([&hash[..4], &signature].concat());
        let note = format!("{text}\n\u{2014} {name} {blob}\n");
        let seal = serde_json::json!({ "seal": { "note": note } });
        format!("{body}{seal}\n")
    }
}

/// What somebody does to a bundle who can seal it anew, and where it is found.
type Attack = (&'static str, fn(&mut Forgery), Class);

const ATTACKS: &[Attack] = &[
    (
        "a decision is turned",
        |f| {
            f.change(
                "\"seq\":4,",
                "\"decision\":\"allow\"",
                "\"decision\":\"denied\"",
            );
        },
        Class::Entry,
    ),
    (
        "a number in the metadata is changed",
        |f| f.change("\\\"n\\\":4", "\\\"n\\\":4", "\\\"n\\\":5"),
        Class::Entry,
    ),
    (
        "an entry is moved to another session",
        |f| f.change("\"s-2\"", "\"s-2\"", "\"s-3\""),
        Class::Entry,
    ),
    (
        "a MAC is changed",
        |f| {
            let at = f.find("{\"entry\":");
            let from = f.lines[at].find("\"mac\":\"").unwrap() + 7;
            let digit = if f.lines[at].as_bytes()[from] == b'0' {
                "1"
            } else {
                "0"
            };
            f.lines[at].replace_range(from..=from, digit);
        },
        Class::Entry,
    ),
    (
        "a place in the chain is changed",
        |f| f.change("\"seq\":4,", "\"seq\":4,", "\"seq\":40,"),
        Class::Entry,
    ),
    (
        "two entries are swapped",
        |f| {
            let at = f.find("\"leaf\":3,");
            f.lines.swap(at, at + 1);
        },
        Class::Gap,
    ),
    (
        "the places of two entries are swapped",
        |f| {
            f.change("\"leaf\":3,", "\"leaf\":3,", "\"leaf\":1003,");
            f.change("\"leaf\":4,", "\"leaf\":4,", "\"leaf\":3,");
            f.change("\"leaf\":1003,", "\"leaf\":1003,", "\"leaf\":4,");
            let at = f.find("\"leaf\":4,");
            f.lines.swap(at, at + 1);
        },
        Class::Entry,
    ),
    (
        "an entry is left out",
        |f| {
            let at = f.find("\"leaf\":7,");
            f.lines.remove(at);
        },
        Class::Gap,
    ),
    (
        "an entry stands twice",
        |f| {
            let at = f.find("\"leaf\":7,");
            let line = f.lines[at].clone();
            f.lines.insert(at, line);
        },
        Class::Gap,
    ),
    (
        "the first entry is left out",
        |f| {
            let at = f.find("\"leaf\":0,");
            f.lines.remove(at);
        },
        Class::Gap,
    ),
    (
        "the last entries are left out",
        |f| {
            let last = f.lines.len() - 1;
            f.lines.drain(last - 3..last);
        },
        Class::Truncated,
    ),
    (
        "an entry is withheld in a bundle of everything",
        |f| {
            let at = f.find("\"leaf\":7,");
            f.lines[at].replace_range(.., "{\"withheld\":{\"count\":1,\"from\":7}}");
        },
        Class::Claim,
    ),
    (
        "a signature is exchanged",
        |f| {
            let at = f.find("app.signed");
            let of = |line: &str| line[line.find("\"signature\"").unwrap()..][..142].to_owned();
            let (a, b) = (of(&f.lines[at]), of(&f.lines[at + 1]));
            f.lines[at] = f.lines[at].replace(&a, &b);
        },
        Class::Signature,
    ),
    (
        "a signature is taken off",
        |f| {
            let at = f.find("app.signed");
            let from = f.lines[at].find(",\"signature\"").unwrap();
            f.lines[at].replace_range(from..from + 143, "");
        },
        Class::Signature,
    ),
    (
        "a key is exchanged",
        |f| {
            let other = SigningKey::from_bytes(&[3; 32]).verifying_key();
            let at = f.find("{\"key\":");
            let from = f.lines[at].find("\"public\":\"").unwrap() + 10;
            f.lines[at].replace_range(from..from + 64, &hex::encode(other.as_bytes()));
        },
        Class::Signature,
    ),
    (
        "a key that nobody put on record is listed",
        |f| {
            let public = SigningKey::from_bytes(&[3; 32]).verifying_key();
            let field = |bytes: &[u8]| {
                let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
                [&[1], length.as_slice(), bytes].concat()
            };
            let labelled = [field(b"portcullis/agent-key/v1"), field(public.as_bytes())].concat();
            let id = hex::encode(&Sha256::digest(labelled)[..16]);
            let public = hex::encode(public.as_bytes());
            let line = format!(
                "{{\"key\":{{\"agent\":\"a-1\",\"id\":\"{id}\",\"public\":\"{public}\",\"registered\":3}}}}"
            );
            let at = f.find("{\"key\":");
            f.lines.insert(at, line);
        },
        Class::Signature,
    ),
    (
        "a key is said to be put on record by another entry",
        |f| f.change("{\"key\":", "\"registered\":", "\"registered\":1"),
        Class::Signature,
    ),
    (
        "a key is left out",
        |f| {
            let at = f.find("{\"key\":");
            f.lines.remove(at);
        },
        Class::Signature,
    ),
    (
        "a revocation is left out of the keys",
        |f| {
            let at = f.find("{\"key\":");
            let from = f.lines[at].find("\"not_after\"").unwrap();
            f.lines[at].replace_range(from..from + 42, "");
            let from = f.lines[at].find(",\"revoked\"").unwrap();
            f.lines[at].truncate(from);
            f.lines[at].push_str("}}");
        },
        Class::Signature,
    ),
    (
        "a revocation is put off",
        |f| f.change("{\"key\":", "\"not_after\":\"2", "\"not_after\":\"3"),
        Class::Signature,
    ),
    (
        "a checkpoint is left out",
        |f| {
            let at = f
                .lines
                .iter()
                .rposition(|line| line.starts_with("{\"checkpoint\":"))
                .unwrap();
            f.lines.remove(at);
        },
        Class::Checkpoint,
    ),
    (
        "a checkpoint's size is changed",
        |f| f.change("{\"checkpoint\":", "test\\n", "test\\n1"),
        Class::Checkpoint,
    ),
    (
        "a consistency proof is changed",
        |f| {
            let at = f.find("{\"checkpoint\":");
            let from = f.lines[at].find("[\"").unwrap() + 2;
            let to = if f.lines[at].as_bytes()[from] == b'A' {
                "B"
            } else {
                "A"
            };
            f.lines[at].replace_range(from..=from, to);
        },
        Class::Checkpoint,
    ),
    (
        "the checkpoints are swapped",
        |f| {
            let at = f.find("{\"checkpoint\":");
            f.lines.swap(at, at + 1);
        },
        Class::Format,
    ),
    (
        "an anchor is made up",
        |f| {
            let at = f.find("{\"key\":");
            f.lines.insert(at, format!("{{\"anchor\":{{\"anchor\":\"vault\",\"kept_at\":\"2026-01-01T00:00:00.000000Z\",\"kind\":\"file\",\"receipt\":\"\",\"root\":\"{}\",\"size\":9}}}}", STANDARD.encode([7; 32])));
        },
        Class::Anchor,
    ),
    (
        "a tile is changed",
        |f| {
            let at = f.find("{\"tile\":");
            let from = f.lines[at].find("\"hashes\":\"").unwrap() + 10;
            let to = if f.lines[at].as_bytes()[from] == b'A' {
                "B"
            } else {
                "A"
            };
            f.lines[at].replace_range(from..=from, to);
        },
        Class::Tree,
    ),
    (
        "a tile is left out",
        |f| {
            let at = f.find("{\"tile\":");
            f.lines.remove(at);
        },
        Class::Format,
    ),
    (
        "the tenant is renamed",
        |f| {
            f.change(
                "{\"bundle\":",
                "\"tenant\":\"default\"",
                "\"tenant\":\"acme\"",
            );
        },
        Class::Entry,
    ),
    (
        "the size is changed",
        |f| f.change("{\"bundle\":", "\"size\":", "\"size\":1"),
        Class::Checkpoint,
    ),
    (
        "it is said to be of one session",
        |f| {
            f.change(
                "{\"bundle\":",
                "\"selection\":{}",
                "\"selection\":{\"session\":\"s-1\"}",
            );
        },
        Class::Claim,
    ),
    (
        "another format",
        |f| f.change("{\"bundle\":", "bundle/v1", "bundle/v2"),
        Class::Format,
    ),
    (
        "an unknown field",
        |f| f.change("\"leaf\":7,", "\"leaf\":7,", "\"label\":1,\"leaf\":7,"),
        Class::Format,
    ),
    (
        "a field twice",
        |f| f.change("\"leaf\":7,", "\"leaf\":7,", "\"leaf\":7,\"leaf\":7,"),
        Class::Format,
    ),
    (
        "an unknown line",
        |f| {
            let at = f.find("\"leaf\":7,");
            f.lines.insert(at, "{\"remark\":{}}".to_owned());
        },
        Class::Format,
    ),
    (
        "an empty line",
        |f| {
            let at = f.find("\"leaf\":7,");
            f.lines.insert(at, String::new());
        },
        Class::Format,
    ),
    (
        "a second first line",
        |f| {
            let line = f.lines[0].clone();
            f.lines.insert(1, line);
        },
        Class::Format,
    ),
];

/// F07: a deleted middle row and a fork were accepted. Whoever alters a bundle can seal it anew with
/// a key of his own; the auditor has named the log's key only.
#[tokio::test]
async fn f07_what_is_changed_in_a_bundle_is_found_with_its_place_though_it_is_sealed_anew() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all()).await;
    // The forger's seal itself is sound; that it is his is all there is to say.
    let report = verify(&Forgery::of(&bundle).sealed(), &trust());
    assert!(report.is_clean(), "{report}");
    assert!(!report.sealed_by().unwrap().1);
    let named = trust().sealer(other_key("exports.example").verifier().clone());
    let report = verify(&Forgery::of(&bundle).sealed(), &named);
    assert_eq!(classes(&report), [Class::Seal]);

    let mut wrong = Vec::new();
    for (name, attack, expected) in ATTACKS {
        let mut forgery = Forgery::of(&bundle);
        attack(&mut forgery);
        let mut lines = bundle.lines();
        let same = |line: &&String| lines.next() == Some(line.as_str());
        let changed = forgery.lines.iter().take_while(same).count() as u64 + 1;
        let report = verify(&forgery.sealed(), &trust());
        let found = classes(&report).contains(expected) && report.verdict() == Verdict::Findings;
        // Where it was changed, or at the next thing that does not fit it.
        let first = report.findings().first().map_or(0, |first| first.line);
        let last = report.findings().iter().map(|f| f.line).max().unwrap_or(0);
        let placed = first >= changed || *name == "the tenant is renamed";
        if !found || !placed || last < changed {
            wrong.push(format!("{name} (line {changed}): {report}"));
        }
        // An entry has its place exactly.
        if *expected == Class::Entry && *name != "the tenant is renamed" && first != changed {
            wrong.push(format!("{name} (line {changed}): {report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn trailing_bytes_are_found() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all()).await;
    for more in ["\n", "x", "{}\n", bundle.as_str()] {
        let report = verify(&format!("{bundle}{more}"), &trust());
        assert_eq!(report.verdict(), Verdict::Findings, "{more:.20}");
    }
    // A line without an end is not read to its end.
    let report = verify(&format!("{bundle}{}", "x".repeat(5 << 20)), &trust());
    assert_eq!(classes(&report), [Class::Truncated], "{report}");
}

/// F08: public keys were never stored, and a corrupted signature verified.
#[tokio::test]
async fn f08_the_signatures_of_agents_are_checked_from_the_bundle_alone() {
    let trail = written().await;
    // Signed with a key that was revoked before: on record, and a finding.
    let signing = Signing::new(SignPolicy::All).key(agent_key());
    let audit = trail.audit().await.sign_with(&signing);
    let me = Principal::agent(agent()).session(session("s-4"));
    let late = AuditEvent::new(&me, "app.late");
    let id = late.id();
    audit.append(late).await.unwrap();
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    audit.shutdown().await;
    for selection in [Selection::all(), Selection::all().session(&session("s-4"))] {
        let bundle = export(&trail, selection).await;
        let report = verify(&bundle, &trust());
        assert_eq!(classes(&report), [Class::Signature], "{report}");
        assert!(report.findings()[0].detail.contains("revoked"), "{report}");
        let line = report.findings()[0].line;
        let line = bundle.lines().nth(usize::try_from(line).unwrap() - 1);
        assert!(line.unwrap().contains(&id.to_string()));
        assert_eq!(report.signed(), 5);
    }
}

fn redact(bundle: &str, redaction: &Redaction, by: &LogKey) -> Result<String, BundleError> {
    let mut out = Vec::new();
    let copied = Bundle::new(Cursor::new(bundle)).redact(redaction, by, &mut out)?;
    let report = verify_bytes(&out, &trust().sealer(by.verifier().clone()));
    assert_eq!(report.finding_count(), 0, "{report}");
    assert_eq!(
        (copied.entries(), copied.withheld()),
        (report.entries(), report.withheld())
    );
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn what_is_taken_out_is_gone_counted_and_every_other_proof_holds() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all()).await;
    let whole = verify(&bundle, &trust());
    let privacy = other_key("privacy.example/acme");
    let redacted = redact(
        &bundle,
        &Redaction::new().session(&session("s-2")),
        &privacy,
    )
    .unwrap();
    assert!(!redacted.contains("s-2"));

    // By an auditor who knows of the log alone: clean, and he sees that something was taken out.
    let report = verify(&redacted, &trust());
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (report.entries(), report.withheld()),
        (whole.entries() - 11, 11)
    );
    assert_eq!((report.size(), report.root()), (whole.size(), whole.root()));
    assert_eq!((report.signed(), report.checkpoints()), (5, 2));
    let taken = report.redacted().iter().map(|r| (r.entries, r.believed));
    assert_eq!(
        taken.collect::<Vec<_>>(),
        [(11, true)],
        "the log sealed what was before"
    );

    // Again, by somebody else; everybody who names a user goes.
    let user = Redaction::new().user(&UserId::parse("u-1").unwrap());
    let again = redact(&redacted, &user, &other_key("legal.example")).unwrap();
    assert!(!again.contains("u-1"));
    let report = verify(&again, &trust());
    let taken: Vec<_> = report
        .redacted()
        .iter()
        .map(|r| (r.entries, r.believed))
        .collect();
    assert_eq!(taken, [(11, true), (22, false)]);

    // The bytes that are left are those of an export that never showed it.
    let only = export(&trail, Selection::all().session(&session("s-4"))).await;
    let others: Vec<_> = ["s-1", "s-2", "s-3"].map(session).to_vec();
    let all: Vec<_> = bundle
        .lines()
        .filter(|l| {
            l.starts_with("{\"entry\":") && !l.contains("\"s-") && !l.contains("identity.key")
        })
        .collect();
    let mut redaction = others.iter().fold(Redaction::new(), Redaction::session);
    for line in all {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        redaction = redaction.event(value["entry"]["event"].as_str().unwrap().parse().unwrap());
    }
    let body = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| {
            ["{\"entry\"", "{\"tile\"", "{\"withheld\""]
                .iter()
                .any(|kind| line.starts_with(kind))
        });
        lines.map(str::to_owned).collect()
    };
    assert_eq!(
        body(&redact(&bundle, &redaction, &privacy).unwrap()),
        body(&only)
    );
}

#[tokio::test]
async fn nothing_is_taken_out_of_what_does_not_verify_and_no_name_is_passed_over() {
    let trail = written().await;
    let bundle = export(&trail, Selection::all()).await;
    let by = other_key("privacy.example/acme");
    let refused = |redaction: Redaction| redact(&bundle, &redaction, &by).unwrap_err();
    // A name that is not there was misspelled: the copy would still show whom it should not.
    assert!(matches!(
        refused(Redaction::new().session(&session("s-22"))),
        BundleError::NotThere { .. }
    ));
    let both = Redaction::new()
        .session(&session("s-2"))
        .event("01987654-3210-7abc-8def-000000000001".parse().unwrap());
    assert!(matches!(refused(both), BundleError::NotThere { .. }));
    assert!(matches!(
        refused(Redaction::new()),
        BundleError::NotThere { .. }
    ));
    let audit = trail.audit().await;
    let registered = Query::all().kind(&Kind::IdentityKeyRegistered);
    let page = audit.events(&registered).await.unwrap();
    let key = Redaction::new().event(page.entries[0].id);
    assert!(matches!(refused(key), BundleError::KeyEntry { .. }));
    let altered = bundle.replacen("app.plain", "app.other", 1);
    let error = redact(&altered, &Redaction::new().session(&session("s-2")), &by).unwrap_err();
    assert!(matches!(error, BundleError::NotSound { .. }), "{error}");
    // Sixteen times, and no more.
    let mut copy = bundle;
    let mut shown: Vec<String> = copy
        .lines()
        .filter(|l| l.contains("app.plain") || l.contains("app.invoice"))
        .map(str::to_owned)
        .collect();
    for n in 1.. {
        let line: serde_json::Value = serde_json::from_str(&shown.pop().unwrap()).unwrap();
        let one = Redaction::new().event(line["entry"]["event"].as_str().unwrap().parse().unwrap());
        match redact(&copy, &one, &by) {
            Ok(next) => copy = next,
            Err(error) => {
                assert!(matches!(error, BundleError::TooOften), "{error}");
                assert_eq!(n, 17);
                break;
            }
        }
    }
}

/// 100,000 entries, which is some 60 MB of lines: what is held at once is not a fiftieth of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_bundle_verifies_in_constant_memory() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await;
    let me = who("a-1", "s-1");
    for _ in 0..100 {
        let batch = (0..1_000).map(|n| AuditEvent::new(&me, "app.step").with("n", n));
        audit.append_all(batch.collect()).await.unwrap();
    }
    let _ = audit.checkpoint(&log_key()).await.unwrap();
    let bundle = try_export(&audit, Selection::all()).await.unwrap();
    audit.shutdown().await;
    let mut clean = None;
    let counted = allocation_counter::measure(|| clean = Some(verify(&bundle, &trust())));
    let report = clean.unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(report.entries() > 100_000);
    let most = usize::try_from(counted.bytes_max).unwrap();
    assert!(most < bundle.len() / 50, "{most} of {}", bundle.len());
    // Where there are several tiles, a wrong entry is found by its own.
    let altered = bundle.replacen("\\\"n\\\":999}", "\\\"n\\\":998}", 1);
    let report = verify(&altered, &trust());
    assert_eq!(classes(&report), [Class::Entry, Class::Seal], "{report}");
    let one = report.findings()[0];
    let line = altered
        .lines()
        .nth(usize::try_from(one.line).unwrap() - 1)
        .unwrap();
    assert!(
        line.contains(&format!("\"leaf\":{},", one.leaf.unwrap())),
        "{line:.200}"
    );
}

/// What an anchor gave goes with the checkpoint; a witness's cosignature is checked with the key that
/// the auditor names, and with no other.
#[tokio::test]
async fn a_witness_is_believed_by_the_key_that_was_named_and_no_other() {
    let trail = written().await;
    let audit = trail.audit().await;
    let note = audit.last_checkpoint().await.unwrap().unwrap();
    let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    let witness =
        |seed: &str| WitnessKey::new("witness.example/w1", &Secret::parse(seed).unwrap()).unwrap();
    let mut signed = Note::parse(&note).unwrap();
    let at = Timestamp::from_micros(1_767_225_600_000_000);
    witness(SEED).cosign(&mut signed, at).unwrap();
    let cosignature = signed.to_string();
    let lines = cosignature.strip_prefix(&note).unwrap();
    for (anchor, kind, receipt) in [("w1", "witness", lines), ("vault", "file", "")] {
        let sql = "INSERT INTO portcullis.anchor_receipts
                   SELECT tenant_id, $1, size, root, $2, $3, made_at FROM portcullis.checkpoints WHERE size = $4";
        let insert = sqlx::query(sql)
            .bind(anchor)
            .bind(kind)
            .bind(receipt.as_bytes());
        let done = insert.bind(size.cast_signed()).execute(&trail.pool).await;
        assert_eq!(done.unwrap().rows_affected(), 1);
    }
    for selection in [Selection::all(), Selection::all().session(&session("s-1"))] {
        let bundle = try_export(&audit, selection).await.unwrap();
        let named = trust().witness(witness(SEED).verifier().clone());
        let report = verify(&bundle, &named);
        assert!(report.is_clean(), "{report}");
        let anchors: Vec<_> = report
            .anchors()
            .iter()
            .map(|a| {
                (
                    a.anchor.as_str(),
                    a.kind.as_str(),
                    a.receipts,
                    a.size,
                    a.witnessed,
                )
            })
            .collect();
        assert_eq!(
            anchors,
            [
                ("vault", "file", 1, size, None),
                ("w1", "witness", 1, size, Some((size, at)))
            ]
        );
        let when = |report: &Report| {
            report
                .limits()
                .iter()
                .any(|limit| limit.contains("witness"))
        };
        assert!(!when(&report), "{report}");
        // Somebody else of the same name.
        let report = verify(
            &bundle,
            &trust().witness(witness(OTHER_SEED).verifier().clone()),
        );
        assert!(report.is_clean() && when(&report), "{report}");
        // A time that the witness did not sign.
        let mut forgery = Forgery::of(&bundle);
        let line = forgery.find("\"anchor\":\"w1\"");
        let later = {
            let (name, blob) = lines.trim_end().rsplit_once(' ').unwrap();
            let mut blob = STANDARD.decode(blob).unwrap();
            blob[11] ^= 1;
            format!("{name} {}\n", STANDARD.encode(blob))
        };
        let receipt = STANDARD.encode(lines);
        forgery.lines[line] = forgery.lines[line].replace(&receipt, &STANDARD.encode(later));
        let report = verify(&forgery.sealed(), &named);
        assert_eq!(classes(&report), [Class::Anchor], "{report}");
    }
}

/// F06: the last entries were deleted, or an old backup restored, and nobody saw.
#[tokio::test]
async fn f06_a_bundle_has_to_go_on_from_the_checkpoint_that_the_auditor_kept() {
    let trail = written().await;
    let audit = trail.audit().await;
    let bundle = try_export(&audit, Selection::all()).await.unwrap();
    let own = audit.last_checkpoint().await.unwrap().unwrap();
    let later = audit.checkpoint(&log_key()).await.unwrap();
    let checkpoints = bundle
        .lines()
        .filter(|line| line.starts_with("{\"checkpoint\":"));
    let notes: Vec<String> = checkpoints
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["checkpoint"]["note"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(notes.last(), Some(&own));
    for note in &notes {
        let report = verify(&bundle, &trust().kept(note).unwrap());
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.goes_on_from_kept(), Some(true));
    }
    // Of a part, which has the last checkpoint only.
    let part = try_export(&audit, Selection::all().session(&session("s-1")))
        .await
        .unwrap();
    let report = verify(&part, &trust().kept(&notes[0]).unwrap());
    assert_eq!(
        (report.is_clean(), report.goes_on_from_kept()),
        (true, Some(false))
    );
    assert!(
        report
            .limits()
            .iter()
            .any(|limit| limit.contains("was kept")),
        "{report}"
    );

    let report = verify(&bundle, &trust().kept(later.note()).unwrap());
    assert_eq!(
        classes(&report),
        [Class::Checkpoint],
        "an older bundle: {report}"
    );
    // The log's key signed another tree of the same size, for somebody else.
    let size: u64 = notes[0].lines().nth(1).unwrap().parse().unwrap();
    let fork = Checkpoint::new(ORIGIN, size, TreeHash::of_leaf(b"another")).unwrap();
    let fork = log_key().sign(&fork).unwrap().to_string();
    let report = verify(&bundle, &trust().kept(&fork).unwrap());
    assert_eq!(classes(&report), [Class::Checkpoint], "a fork: {report}");
    let other =
        other_key(ORIGIN).sign(&Checkpoint::parse(Note::parse(&own).unwrap().text()).unwrap());
    assert!(trust().kept(&other.unwrap().to_string()).is_err());
    assert!(Trust::in_nobody().kept(&own).is_err());
}
