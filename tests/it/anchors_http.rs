//! Anchors over real HTTP: a witness with its rules, and an authority whose tokens OpenSSL makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::adapters::anchors::{TimestampAnchor, WitnessAnchor};
use portcullis::audit::anchor::{Anchor, AnchorError, Standing};
use portcullis::audit::{Audit, AuditError, FindingClass};
use portcullis::tlog::{Checkpoint, LogKey, Note, TreeHash, WitnessKey};
use portcullis::{Clock as _, ManualClock, Secret, SystemClock};

use crate::common::http::serve;
use crate::common::trail::{Trail, append_many, trail, writer};
use crate::common::witness::Witness;

const ORIGIN: &str = "audit.example/witnessed";

pub(crate) fn log_key() -> LogKey {
    let seed = "2a7c9e1f3b5d7086c4e2a0f8d6b4928170e5c3a1f9d7b5038264a8c0e2f4d6b8";
    LogKey::new(ORIGIN, &Secret::parse(seed).unwrap()).unwrap()
}

async fn witness() -> Witness {
    Witness::of(vec![log_key().verifier().clone()]).await
}

fn anchor(witness: &Witness) -> WitnessAnchor {
    WitnessAnchor::new("w1", &witness.url, witness.verifier()).unwrap()
}

async fn anchored(trail: &Trail, anchor: impl Anchor) -> Audit {
    let audit = writer(&trail.test.database()).await;
    let anchor: Arc<dyn Anchor> = Arc::new(anchor);
    audit.with_anchors([anchor]).unwrap()
}

async fn receipt(trail: &Trail, size: u64) -> Vec<u8> {
    sqlx::query_scalar("SELECT receipt FROM portcullis.anchor_receipts WHERE size = $1")
        .bind(size.cast_signed())
        .fetch_one(&trail.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_witness_cosigns_each_checkpoint_and_its_cosignature_is_kept() {
    let (trail, witness) = (trail().await, witness().await);
    let audit = anchored(&trail, anchor(&witness)).await;
    for _ in 0..3 {
        append_many(&audit, 1, 4).await;
        let made = audit.checkpoint(&log_key()).await.unwrap();
        assert_eq!(witness.seen(ORIGIN), Some((made.size(), made.root())));
        // Anybody can check it: the note, the line that was kept, and the witness's public key.
        let line = String::from_utf8(receipt(&trail, made.size()).await).unwrap();
        let cosigned = Note::parse(&format!("{}{line}", made.note())).unwrap();
        assert!(witness.verifier().verify(&cosigned).is_ok());
        let kept = audit.kept(log_key().verifier()).await.unwrap();
        let held = kept[0].held().unwrap();
        assert_eq!((held.size(), held.root()), (made.size(), Some(made.root())));
    }
    assert_eq!(witness.count(409) + witness.count(422), 0);
    let report = audit.verify_checkpoints(log_key().verifier(), None).await;
    let report = report.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.anchors()[0].standing, Standing::InStep);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn submitters_that_race_end_with_one_history_and_no_alarm() {
    let (trail, witness) = (trail().await, witness().await);
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let audit = anchored(&trail, anchor(&witness)).await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..4 {
                append_many(&audit, 1, 2).await;
                let _ = audit.checkpoint(&log_key()).await.unwrap();
            }
            audit.anchor_health()
        }));
    }
    for task in tasks {
        let health = task.await.unwrap();
        assert!(health[0].is_ok() && health[0].error.is_none(), "{health:?}");
    }
    let audit = anchored(&trail, anchor(&witness)).await;
    let newest = audit.last_checkpoint().await.unwrap().unwrap();
    let newest = Checkpoint::open(&newest, log_key().verifier()).unwrap();
    assert_eq!(witness.seen(ORIGIN), Some((newest.size(), newest.root())));
    assert_eq!(witness.count(422), 0);
}

/// One that was away, and one that knows more than our memory says.
#[tokio::test]
async fn the_409_rule_goes_on_only_from_a_tree_that_we_signed() {
    let (trail, witness) = (trail().await, witness().await);
    let alone = writer(&trail.test.database()).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        append_many(&alone, 1, 3).await;
        made.push(alone.checkpoint(&log_key()).await.unwrap());
    }
    // It knows the first one, from somebody else: no receipt here says so.
    witness.set(ORIGIN, made[0].size(), made[0].root());
    let audit = anchored(&trail, anchor(&witness)).await;
    let health = audit
        .publish_checkpoint(log_key().verifier())
        .await
        .unwrap();
    assert!(health[0].is_ok() && health[0].error.is_none(), "{health:?}");
    assert_eq!(witness.seen(ORIGIN), Some((made[2].size(), made[2].root())));

    let newest = made[2].size();
    let fork = |held| AuditError::AnchorFork {
        anchor: "w1".to_owned(),
        held,
        signed: newest,
    };
    let other = TreeHash::of_leaf(b"another history");
    for (held, root) in [
        // A size that we never signed.
        (made[1].size() + 1, other),
        // Sizes that we signed, with other roots.
        (newest, other),
    ] {
        let audit = anchored(&trail, anchor(&witness)).await;
        let alarms = trail.count_of("chain.fork_detected").await;
        witness.set(ORIGIN, held, root);
        let before = witness.seen(ORIGIN);
        assert_eq!(audit.checkpoint(&log_key()).await, Err(fork(held)));
        let health = &audit.anchor_health()[0];
        assert!(health.conflict, "{health:?}");
        let report = audit.verify_checkpoints(log_key().verifier(), None).await;
        let report = report.unwrap();
        assert_eq!(report.findings()[0].class, FindingClass::Fork, "{report}");
        assert_eq!(report.anchors()[0].standing, Standing::Contradicts);
        assert_eq!(witness.seen(ORIGIN), before, "it was given nothing");
        assert_eq!(trail.count_of("chain.fork_detected").await, alarms + 1);
        audit.shutdown().await;
    }
    // A size that we signed, whose root only the witness can compare: it refuses the proof.
    witness.set(ORIGIN, made[1].size(), other);
    let alarms = trail.count_of("chain.fork_detected").await;
    let fresh = WitnessAnchor::new("w2", &witness.url, witness.verifier()).unwrap();
    let audit = anchored(&trail, fresh).await;
    for tried in 1..3 {
        let refused = audit.checkpoint(&log_key()).await;
        let held = made[1].size();
        let anchor = "w2".to_owned();
        let fork = AuditError::AnchorFork {
            anchor,
            held,
            signed: newest,
        };
        assert_eq!(refused, Err(fork));
        assert_eq!(witness.count(422), tried);
    }
    assert!(audit.anchor_health()[0].conflict);
    assert_eq!(trail.count_of("chain.fork_detected").await, alarms + 1);
    let last = audit.last_checkpoint().await.unwrap();
    assert_eq!(last.as_deref(), Some(made[2].note()), "nothing was signed");
}

impl Trail {
    async fn count_of(&self, kind: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM portcullis.entries WHERE kind = $1")
            .bind(kind)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn f06_a_witness_alone_shows_that_everything_is_gone() {
    let witness = witness().await;
    let before = trail().await;
    let audit = anchored(&before, anchor(&witness)).await;
    let held = audit.checkpoint(&log_key()).await.unwrap().size();
    let after = trail().await;
    let audit = anchored(&after, anchor(&witness)).await;
    let ahead = AuditError::AnchorAhead {
        anchor: "w1".to_owned(),
        held,
        signed: 0,
    };
    assert_eq!(audit.checkpoint(&log_key()).await, Err(ahead));
    // Without the log's key, it cannot even be asked: that is no clean answer.
    let report = audit.verify_checkpoints(log_key().verifier(), None).await;
    let report = report.unwrap();
    assert_eq!(report.anchors()[0].standing, Standing::Silent);
    assert_eq!(report.findings()[0].class, FindingClass::Checkpoint);
}

#[tokio::test]
async fn what_a_witness_must_not_answer_is_refused_and_nothing_is_believed() {
    let (trail, witness) = (trail().await, witness().await);
    let audit = anchored(&trail, anchor(&witness)).await;
    let made = audit.checkpoint(&log_key()).await.unwrap();
    let line = String::from_utf8(receipt(&trail, made.size()).await).unwrap();
    let instead = |answer| *witness.state.instead.lock().unwrap() = Some(answer);
    let text = "text/plain";
    let away = AnchorError::Away("the witness cannot answer now");
    let unsigned = AnchorError::Invalid("the witness's cosignature is missing or wrong");
    let odd = AnchorError::Invalid("a status that no witness answers with");
    let sizeless = AnchorError::Invalid("a conflict without the size that it holds");
    for (status, body, error) in [
        (500, Vec::new(), away.clone()),
        (429, Vec::new(), away),
        (302, Vec::new(), odd.clone()),
        (204, Vec::new(), odd),
        (409, b"12".to_vec(), sizeless.clone()),
        (409, b"012\n".to_vec(), sizeless.clone()),
        (409, b"-1\n".to_vec(), sizeless),
        // Of another key, of another text, cut, changed, and none at all.
        (200, line.replace("w1", "w2").into_bytes(), unsigned.clone()),
        (
            200,
            line.clone().into_bytes()[..line.len() - 1].to_vec(),
            AnchorError::Invalid("it is no list of signature lines"),
        ),
        (200, Vec::new(), unsigned.clone()),
        (
            200,
            vec![b'x'; 70_000],
            AnchorError::Invalid("it is longer than it may be"),
        ),
    ] {
        instead((status, text, body.clone()));
        let refused = audit.checkpoint(&log_key()).await;
        assert_eq!(refused, Err(AuditError::AnchorsSilent { anchors: 1 }));
        let health = &audit.anchor_health()[0];
        assert_eq!(health.error, Some(error), "{status} {}", body.len());
    }
    // One that signs with a key other than its own.
    *witness.state.instead.lock().unwrap() = None;
    let impostor = WitnessKey::new("witness.example/w1", &Secret::generate().unwrap()).unwrap();
    *witness.state.impostor.lock().unwrap() = Some(impostor);
    let refused = audit.checkpoint(&log_key()).await;
    assert_eq!(refused, Err(AuditError::AnchorsSilent { anchors: 1 }));
    assert_eq!(audit.anchor_health()[0].error, Some(unsigned));
    // What it signed before does not fit another checkpoint.
    *witness.state.impostor.lock().unwrap() = None;
    let next = audit.checkpoint(&log_key()).await.unwrap();
    let moved = Note::parse(&format!("{}{line}", next.note())).unwrap();
    assert!(witness.verifier().verify(&moved).is_err());
    // A log that it does not know, and a key that it does not trust.
    for (known, error) in [
        (
            vec![],
            "the witness does not know this log; tell its operator the log's key",
        ),
        (
            vec![
                LogKey::new(ORIGIN, &Secret::generate().unwrap())
                    .unwrap()
                    .verifier()
                    .clone(),
            ],
            "the witness does not trust the log's key; tell its operator the right one",
        ),
    ] {
        let stranger = Witness::of(known).await;
        let audit = anchored(&trail, anchor(&stranger)).await;
        assert!(audit.checkpoint(&log_key()).await.is_err());
        assert_eq!(
            audit.anchor_health()[0].error,
            Some(AnchorError::Refused(error))
        );
    }
    for url in [
        "nowhere",
        "ftp://witness.example",
        "http://me:pw@witness.example",
    ] {
        let refused = WitnessAnchor::new("w", url, witness.verifier());
        assert!(matches!(refused, Err(AnchorError::Settings(_))), "{url}");
    }
    let nobody = WitnessAnchor::new("w", "http://127.0.0.1:1", witness.verifier()).unwrap();
    let audit = anchored(&trail, nobody).await;
    assert!(audit.checkpoint(&log_key()).await.is_err());
    let error = AnchorError::Away("the server cannot be connected to");
    assert_eq!(audit.anchor_health()[0].error, Some(error));
}

/// An authority of its own: a root, a key for timestamps under it, and OpenSSL to stamp with.
pub(crate) struct Authority {
    directory: PathBuf,
    /// What OpenSSL is told to stamp by: the section of the configuration.
    section: Arc<Mutex<&'static str>>,
    /// Changes the answer on its way.
    meddle: Arc<Mutex<Option<Meddle>>>,
    asked: Arc<AtomicU32>,
    url: String,
}

type Meddle = Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send>;

const CONFIG: &str = r"
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[stamps]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = critical,timeStamping
[lax]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = timeStamping
[more]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = critical,timeStamping,codeSigning
[good]
serial = $ENV::AT/serial
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.2
digests = sha256,sha384,sha512
signer_digest = sha256
ess_cert_id_alg = sha256
certs = $ENV::AT/root.pem
accuracy = secs:1
[old]
serial = $ENV::AT/serial
default_policy = 1.2.3.4.1
digests = sha256
signer_digest = sha256
ess_cert_id_alg = sha1
[wide]
serial = $ENV::AT/serial
default_policy = 1.2.3.4.1
digests = sha256
signer_digest = sha512
ess_cert_id_alg = sha384
[narrow]
serial = $ENV::AT/serial
default_policy = 1.2.3.4.1
digests = sha512
signer_digest = sha256
";

fn openssl(at: &Path, arguments: &str) {
    let done = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(at)
        .env("AT", at)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {arguments}\n{said}");
}

impl Authority {
    pub(crate) async fn new(key: &str) -> Self {
        let name = format!("portcullis-tsa-{}", uuid::Uuid::now_v7());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("tsa.cnf"), CONFIG).unwrap();
        fs::write(directory.join("serial"), "01\n").unwrap();
        let at = directory.as_path();
        openssl(
            at,
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key",
        );
        openssl(
            at,
            "req -new -x509 -key root.key -subj /CN=root -days 30 -config tsa.cnf -extensions root -out root.pem",
        );
        openssl(at, &format!("genpkey {key} -out tsa.key"));
        openssl(
            at,
            "req -new -key tsa.key -subj /CN=tsa -config tsa.cnf -out tsa.csr",
        );
        for extensions in ["stamps", "lax", "more"] {
            openssl(
                at,
                &format!(
                    "x509 -req -in tsa.csr -CA root.pem -CAkey root.key -set_serial 7 -days 10 -extfile tsa.cnf -extensions {extensions} -out {extensions}.pem"
                ),
            );
        }
        let section = Arc::new(Mutex::new("good"));
        let meddle: Arc<Mutex<Option<Meddle>>> = Arc::default();
        let asked = Arc::new(AtomicU32::new(0));
        let (stamping, told, meddling) = (directory.clone(), section.clone(), meddle.clone());
        let count = asked.clone();
        let url = serve(move |_, query| {
            count.fetch_add(1, Ordering::SeqCst);
            fs::write(stamping.join("query"), query).unwrap();
            let section = *told.lock().unwrap();
            openssl(&stamping, &format!("ts -reply -queryfile query -config tsa.cnf -section {section} -signer stamps.pem -inkey tsa.key -out reply"));
            let reply = fs::read(stamping.join("reply")).unwrap();
            let reply = match &*meddling.lock().unwrap() {
                Some(meddle) => meddle(reply),
                None => reply,
            };
            (200, "application/timestamp-reply", reply)
        })
        .await;
        Self {
            directory,
            section,
            meddle,
            asked,
            url,
        }
    }

    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.directory.join(name)).unwrap()
    }

    fn anchor(&self) -> TimestampAnchor {
        TimestampAnchor::new("tsa", &self.url).unwrap()
    }

    pub(crate) fn rooted(&self) -> TimestampAnchor {
        self.anchor().root(self.file("root.pem")).unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(crate) const EC: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

/// Publishes one checkpoint; what became of it.
pub(crate) async fn stamped(
    trail: &Trail,
    anchor: TimestampAnchor,
) -> (String, Result<Vec<u8>, AnchorError>) {
    let audit = anchored(trail, anchor).await;
    let made = audit.checkpoint(&log_key()).await.unwrap();
    let health = audit.anchor_health();
    audit.shutdown().await;
    let token = match &health[0].error {
        Some(error) => Err(error.clone()),
        None => Ok(receipt(trail, made.size()).await),
    };
    (made.note().to_owned(), token)
}

#[tokio::test]
async fn an_authority_stamps_checkpoints_and_openssl_agrees() {
    let trail = trail().await;
    for key in [EC, RSA, "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"] {
        let authority = Authority::new(key).await;
        for section in ["good", "wide"] {
            // There is no verifier of ECDSA over P-256 or P-384 with SHA-512 here.
            if section == "wide" && key != RSA {
                continue;
            }
            *authority.section.lock().unwrap() = section;
            let pinned = authority
                .anchor()
                .pin(authority.file("stamps.pem"))
                .unwrap();
            for anchor in [authority.rooted(), pinned] {
                let (note, token) = stamped(&trail, anchor.clone()).await;
                let token = token.unwrap();
                let at = anchor.verify(&note, &token).unwrap().at;
                let off = SystemClock::default().now().since(at);
                assert!(off < Duration::from_mins(1), "{off:?}");
                // The other opinion.
                let at = authority.directory.as_path();
                fs::write(at.join("note"), &note).unwrap();
                fs::write(at.join("token"), &token).unwrap();
                openssl(
                    at,
                    "ts -verify -data note -in token -token_in -CAfile root.pem -untrusted stamps.pem",
                );
                // It is of this note only.
                let refused = anchor.verify(&note.replace(ORIGIN, "other"), &token);
                let other = "the token is of something else than the checkpoint";
                assert_eq!(refused, Err(AnchorError::Invalid(other)));
            }
        }
    }
}

#[tokio::test]
async fn an_authority_is_published_to_and_never_holds_up_the_signer() {
    let trail = trail().await;
    let authority = Authority::new(EC).await;
    let audit = anchored(&trail, authority.rooted()).await;
    let first = audit.checkpoint(&log_key()).await.unwrap();
    assert_eq!(audit.kept(log_key().verifier()).await.unwrap(), []);
    // The second time it is known to have it.
    let _ = audit
        .publish_checkpoint(log_key().verifier())
        .await
        .unwrap();
    assert_eq!(authority.asked.load(Ordering::SeqCst), 1);
    assert_eq!(audit.anchor_health()[0].size, Some(first.size()));
    // Also after a restart, by the receipts.
    let again = anchored(&trail, authority.rooted()).await;
    let health = again
        .publish_checkpoint(log_key().verifier())
        .await
        .unwrap();
    assert_eq!(health[0].size, Some(first.size()));
    assert_eq!(authority.asked.load(Ordering::SeqCst), 1);
    // It refuses, and signing goes on.
    *authority.section.lock().unwrap() = "narrow";
    assert!(audit.checkpoint(&log_key()).await.is_ok());
    let health = &audit.anchor_health()[0];
    let refused = AnchorError::Refused("the authority gave no timestamp");
    assert_eq!(health.error, Some(refused));
    assert!(health.missing_since.is_some());
}

#[tokio::test]
async fn a_token_that_is_not_right_in_every_point_is_no_receipt() {
    let trail = trail().await;
    let authority = Authority::new(EC).await;
    let expect = async |anchor: TimestampAnchor, problem: &'static str| {
        let (_, token) = stamped(&trail, anchor).await;
        assert_eq!(token, Err(AnchorError::Invalid(problem)));
    };
    let untrusted = "the authority's certificate is not trusted";
    let another = Authority::new(EC).await;
    expect(
        another.anchor().root(authority.file("root.pem")).unwrap(),
        untrusted,
    )
    .await;
    expect(
        another.anchor().pin(authority.file("stamps.pem")).unwrap(),
        untrusted,
    )
    .await;
    let policed = authority.rooted().policy("1.2.3.4.9").unwrap();
    expect(policed, "the token is under a policy that is not allowed").await;
    let policed = authority
        .rooted()
        .policy("1.2.3.4.9")
        .unwrap()
        .policy("1.2.3.4.1");
    assert!(stamped(&trail, policed.unwrap()).await.1.is_ok());
    let slow = Arc::new(ManualClock::at(
        SystemClock::default().now().plus(Duration::from_secs(400)),
    ));
    let late = authority.rooted().clock(slow);
    expect(
        late.clone(),
        "the token's time is far from ours; compare the clocks",
    )
    .await;
    let patient = late.tolerance(Duration::from_secs(500));
    assert!(stamped(&trail, patient).await.1.is_ok());
    // SHA-1, be it only to name the certificate.
    *authority.section.lock().unwrap() = "old";
    let malformed = "the token is malformed, or uses what is not supported";
    expect(authority.rooted(), malformed).await;
    *authority.section.lock().unwrap() = "good";
    // The answer to the query before.
    assert!(stamped(&trail, authority.rooted()).await.1.is_ok());
    let last = authority.file("reply");
    *authority.meddle.lock().unwrap() = Some(Box::new(move |_| last.clone()));
    let other = "the token is of something else than the checkpoint";
    expect(authority.rooted(), other).await;
    // Of this note, but not for this request: stamped before, without the nonce or with another.
    let at = authority.directory.clone();
    *authority.meddle.lock().unwrap() = Some(Box::new(move |_| {
        let query = fs::read(at.join("query")).unwrap();
        let nonce = query
            .windows(2)
            .rposition(|pair| pair == [0x01, 0x01])
            .unwrap();
        let mut other = query.clone();
        other[nonce - 1] ^= 1;
        fs::write(at.join("query"), other).unwrap();
        openssl(
            &at,
            "ts -reply -queryfile query -config tsa.cnf -section good -signer stamps.pem -inkey tsa.key -out reply",
        );
        fs::read(at.join("reply")).unwrap()
    }));
    expect(authority.rooted(), "the token answers another request").await;
    for certificate in ["lax.pem", "more.pem", "root.pem", "tsa.csr"] {
        let refused = authority.anchor().pin(authority.file(certificate));
        assert!(
            matches!(refused, Err(AnchorError::Settings(_))),
            "{certificate}"
        );
    }
    *authority.meddle.lock().unwrap() = None;
    let (_, unset) = stamped(&trail, authority.anchor()).await;
    let unset_up = AnchorError::Settings("no certificate of it is trusted");
    assert_eq!(unset, Err(unset_up));
}

#[tokio::test]
async fn any_flipped_bit_of_a_token_is_found_or_is_in_what_the_signature_does_not_cover() {
    let trail = trail().await;
    let authority = Authority::new(EC).await;
    let anchor = authority
        .anchor()
        .pin(authority.file("stamps.pem"))
        .unwrap();
    let (note, token) = stamped(&trail, anchor.clone()).await;
    let token = token.unwrap();
    let good = anchor.verify(&note, &token).unwrap();
    let mut accepted = 0;
    for place in 0..token.len() {
        for bit in 0..8 {
            let mut changed = token.clone();
            changed[place] ^= 1 << bit;
            if let Ok(stamped) = anchor.verify(&note, &changed) {
                // Certificates that are not the signer's, the lists of algorithms, the signer's
                // name: what is vouched for is the same.
                assert_eq!(stamped, good, "byte {place} bit {bit}");
                accepted += 1;
            }
        }
    }
    for length in 0..token.len() {
        assert!(anchor.verify(&note, &token[..length]).is_err(), "{length}");
    }
    // All that is covered is far more than what is not: content, attributes, signature.
    assert!(
        accepted < token.len() * 8,
        "{accepted} of {}",
        token.len() * 8
    );
    // The signature stands at the end.
    for place in token.len() - 64..token.len() {
        let mut changed = token.clone();
        changed[place] ^= 1;
        let wrong = AnchorError::Invalid("the token's signature is wrong");
        assert_eq!(anchor.verify(&note, &changed), Err(wrong));
    }
    let content = token.windows(32).position(|at| {
        use sha2::Digest as _;
        at == sha2::Sha256::digest(&note).as_slice()
    });
    let content = content.unwrap();
    for place in content..content + 32 {
        let mut changed = token.clone();
        changed[place] ^= 1;
        assert!(anchor.verify(&note, &changed).is_err());
    }
}
