//! Signed entries that come by way of the journal or the outbox, and keys that are revoked meanwhile.

use std::time::Duration;

use portcullis::audit::FindingClass::Signature;
use portcullis::audit::{
    AgentKey, Audit, AuditEvent, AuditKeys, Evidence, HeadPolicy, KeySource, ProcessKey, Query,
    Recorded, Rotation, Scope, SignPolicy, Signing, Verification,
};
use portcullis::{AgentId, Database, Governance, Principal, Secret, TenantId, Timestamp};
use sqlx::Connection as _;

use crate::common::connect;
use crate::common::journal::Directory;
use crate::common::proxy::Proxy;
use crate::common::trail::keys as own_keys;
use crate::trail::{Trail, found};

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const OLD: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const NEW: &str = "b1946ac92492d2347c6235b4d2611184f0a3c58d7e61902bb44c8a17d35e9f06";

fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

fn key() -> AgentKey {
    AgentKey::load(agent(), KeySource::memory(Secret::parse(SEED).unwrap())).unwrap()
}

fn signing() -> Signing {
    let process = ProcessKey::load(KeySource::memory(Secret::parse(NEW).unwrap())).unwrap();
    Signing::new(SignPolicy::All)
        .key(key())
        .heads(HeadPolicy::Require, process)
}

fn event(n: u64) -> AuditEvent {
    AuditEvent::new(&Principal::agent(agent()), "app.step").with("n", n)
}

/// Both keys, of which the old one is current.
fn ring() -> AuditKeys {
    let key = |text| KeySource::memory(Secret::parse(text).unwrap());
    let ring = AuditKeys::builder().key(1, key(OLD)).key(2, key(NEW));
    ring.current(1).build().unwrap()
}

/// A writer that signs, behind a proxy, with a journal.
struct Away {
    trail: Trail,
    proxy: Proxy,
    directory: Directory,
    audit: Audit,
}

impl Away {
    /// One entry is recorded, and the database goes away.
    async fn begin(keys: AuditKeys, signing: &Signing) -> Self {
        let (trail, directory) = (Trail::empty().await, Directory::fresh());
        let proxy = Proxy::before(&trail.test.options()).await;
        let through = Database::options(proxy.options()).statement_timeout(Duration::from_secs(3));
        let (tenant, journal) = (TenantId::single(), directory.settings());
        let audit = Audit::open_with(&through, keys, tenant, journal)
            .await
            .unwrap()
            .sign_with(signing);
        audit.append(event(0)).await.unwrap();
        proxy.down();
        Self {
            trail,
            proxy,
            directory,
            audit,
        }
    }

    async fn journal(&self, event: AuditEvent) {
        let recorded = self.audit.append(event).await.unwrap();
        assert!(matches!(recorded, Recorded::Journalled(_)), "{recorded:?}");
    }

    async fn back(&self) {
        self.proxy.up();
        drained(&self.audit, &self.directory).await;
    }

    async fn verify(&self) -> Verification {
        self.audit.verify_all().await.unwrap()
    }
}

async fn drained(audit: &Audit, directory: &Directory) {
    for _ in 0..1_000 {
        let stats = audit.stats();
        if stats.depth == 0 && !stats.degraded && directory.files().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} {:?}", audit.stats(), directory.files());
}

/// The key is put on record by way of the journal, too.
#[tokio::test]
async fn a_key_that_signs_first_in_an_outage_is_on_record_before_what_it_signs() {
    let away = Away::begin(own_keys(), &Signing::new(SignPolicy::Decisions).key(key())).await;
    away.journal(event(1)).await;
    let through = Database::options(away.proxy.options());
    let other = Audit::open_with(
        &through,
        own_keys(),
        TenantId::single(),
        away.directory.settings(),
    );
    let other = other.await.unwrap().sign_with(&signing());
    other.append(event(2)).await.unwrap();
    assert_eq!(other.stats().lost, 0);
    away.proxy.up();
    drained(&other, &away.directory).await;
    assert!(away.directory.quarantined().is_empty());
    assert_eq!(
        counted(&other, "identity.key_registered").await.0,
        2,
        "agent's and process's"
    );
    let report = other.verify_all().await.unwrap();
    assert!(
        report
            .findings()
            .iter()
            .all(|finding| finding.detail.contains("no signed head covers")),
        "{report}"
    );
}

/// How many entries of a kind there are, and how many of them are signed.
async fn counted(audit: &Audit, kind: &str) -> (usize, usize) {
    let page = audit.events(&Query::all()).await.unwrap();
    let of_kind = || {
        page.entries
            .iter()
            .filter(|entry| entry.kind.as_str() == kind)
    };
    (
        of_kind().count(),
        of_kind().filter(|entry| entry.signed_by.is_some()).count(),
    )
}

#[tokio::test]
async fn what_was_signed_in_an_outage_is_signed_in_the_trail() {
    let away = Away::begin(own_keys(), &signing()).await;
    for n in 1..=9 {
        away.journal(event(n).input(b"in").decision("allow")).await;
    }
    away.back().await;
    assert_eq!(counted(&away.audit, "app.step").await, (10, 10));
    let report = away.verify().await;
    assert!(report.is_clean(), "{report}");
    // It is the signature that is checked, and not its being there.
    away.trail.disarm().await;
    away.trail
        .sql("UPDATE portcullis.entries SET signature = set_byte(signature, 3, get_byte(signature, 3) # 1) WHERE ingest = 'journal' AND seq = 8")
        .await;
    let found = found(&away.verify().await);
    assert!(matches!(found[..], [(Signature, _, 8)]), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_and_spooled_is_signed_in_the_trail() {
    let (trail, directory) = (Trail::empty().await, Directory::fresh());
    let gov = Governance::builder(trail.test.database(), own_keys())
        .journal(directory.settings())
        .evidence(Evidence::Spooled)
        .sign(signing())
        .connect()
        .await
        .unwrap();
    for n in 0..50 {
        let recorded = gov.audit().append(event(n)).await.unwrap();
        assert!(matches!(recorded, Recorded::Spooled(_)), "{recorded:?}");
    }
    gov.shutdown().await;
    assert_eq!(counted(gov.audit(), "app.step").await, (50, 50));
    let report = trail.verify(Scope::All).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn what_was_signed_in_the_hosts_transaction_is_signed_in_the_trail() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await.sign_with(&signing());
    let mut host = connect(&trail.test.options()).await;
    for n in 0..3 {
        let mut tx = host.begin().await.unwrap();
        audit.append_in_tx(&mut tx, event(n)).await.unwrap();
        tx.commit().await.unwrap();
    }
    audit.shutdown().await;
    assert_eq!(counted(&audit, "app.step").await, (3, 3));
    let ingest: Vec<String> =
        sqlx::query_scalar("SELECT ingest FROM portcullis.entries WHERE kind = 'app.step'")
            .fetch_all(&trail.pool)
            .await
            .unwrap();
    assert_eq!(ingest, ["transaction"; 3]);
    assert_eq!(trail.found().await, []);
}

#[tokio::test]
async fn signatures_outlive_a_rotation_that_comes_between() {
    let away = Away::begin(ring(), &signing()).await;
    away.journal(event(1).input(b"in")).await;
    let elsewhere = away.trail.audit_of(ring(), TenantId::single()).await;
    let mut host = connect(&away.trail.test.options()).await;
    let elsewhere = elsewhere.sign_with(&signing());
    let mut tx = host.begin().await.unwrap();
    elsewhere.append_in_tx(&mut tx, event(2)).await.unwrap();
    let rotator = away.trail.audit_of(ring(), TenantId::single()).await;
    rotator.rotate(2, Rotation::Planned).await.unwrap();
    tx.commit().await.unwrap();
    elsewhere.shutdown().await;
    away.back().await;
    assert_eq!(counted(&away.audit, "app.step").await, (3, 3));
    let report = away.verify().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.late_signatures(), []);
}

/// The agent signs while the database is away; somewhere else, its key is revoked; then the journal
/// is drained. Nothing shows whether the holder of the key or a thief signed.
#[tokio::test]
async fn what_was_journalled_before_a_revocation_is_called_neither_good_nor_forged() {
    let away = Away::begin(own_keys(), &signing()).await;
    away.journal(event(1)).await;
    // The two processes share a machine, and its clock.
    let operator = away.trail.audit().await;
    operator
        .revoke_key(&agent(), key().id(), None)
        .await
        .unwrap();
    away.back().await;
    let report = away.verify().await;
    assert!(
        report
            .findings()
            .iter()
            .all(|f| f.class != Signature || f.detail.contains("head")),
        "{report}"
    );
    let late = report.late_signatures();
    assert_eq!(late.len(), 1, "{report}");
    let text = report.to_string();
    assert!(text.contains("not proved: that entries"), "{text}");
}

/// A thief with a process of ours: it is made to believe that the database is away, and signs with a
/// key that was revoked a minute ago.
#[tokio::test]
async fn a_thief_who_says_when_is_a_finding_and_one_who_backdates_is_never_called_good() {
    let signing = Signing::new(SignPolicy::All).key(key());
    let away = Away::begin(own_keys(), &signing).await;
    let minute = 60_000_000;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = i64::try_from(now.as_micros()).unwrap();
    let revoked = Timestamp::from_micros(now - minute);
    let operator = away.trail.audit().await;
    operator
        .revoke_key(&agent(), key().id(), Some(revoked))
        .await
        .unwrap();
    away.journal(event(1)).await;
    let before = Timestamp::from_micros(revoked.as_micros() - minute);
    away.journal(event(2).occurred(before)).await;
    away.back().await;
    let report = away.verify().await;
    let places: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT chain_no, seq FROM portcullis.entries
          WHERE kind = 'app.step' AND ingest = 'journal' ORDER BY seq",
    )
    .fetch_all(&away.trail.pool)
    .await
    .unwrap();
    let place = |at: usize| {
        let (chain, seq) = places[at];
        (u32::try_from(chain).unwrap(), u64::try_from(seq).unwrap())
    };
    let (says, backdates) = (place(0), place(1));
    let expected = (Signature, says.0, says.1);
    assert!(found(&report).contains(&expected), "{report}");
    assert_eq!(
        report.late_signatures(),
        [(backdates.0, backdates.1, backdates.1)]
    );
}

/// What the revoking process itself, or anybody's committed transaction, holds is on record first.
#[tokio::test]
async fn a_revocation_waits_for_what_was_signed_here() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await.sign_with(&signing());
    let mut host = connect(&trail.test.options()).await;
    let mut tx = host.begin().await.unwrap();
    audit.append_in_tx(&mut tx, event(1)).await.unwrap();
    tx.commit().await.unwrap();
    audit.revoke_key(&agent(), key().id(), None).await.unwrap();
    audit.shutdown().await;
    let report = trail.verify(Scope::All).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.late_signatures(), []);

    let away = Away::begin(own_keys(), &signing()).await;
    away.journal(event(1)).await;
    let revoked = away
        .audit
        .revoke_key(&agent(), key().id(), None)
        .await
        .unwrap();
    assert!(
        matches!(revoked, Recorded::Journalled(_)),
        "behind what was signed"
    );
    away.back().await;
    let report = away.verify().await;
    assert_eq!((found(&report), report.late_signatures()), (vec![], vec![]));
}

#[tokio::test]
async fn what_could_not_be_signed_is_on_record_once_with_a_count() {
    let trail = Trail::empty().await;
    let (absent, broken) = (agent(), AgentId::parse("broken").unwrap());
    let source = KeySource::file("/nonexistent/agent.key");
    let signing = Signing::new(SignPolicy::All).load_key(broken.clone(), source);
    let audit = trail.audit().await.sign_with(&signing);
    for n in 0..30 {
        audit.append(event(n)).await.unwrap();
    }
    let broken = AuditEvent::new(&Principal::agent(broken), "app.step");
    audit.append(broken).await.unwrap();
    audit.shutdown().await;
    assert_eq!(audit.stats().unsigned, 31);
    let page = audit.events(&Query::all()).await.unwrap();
    let mut said: Vec<(String, u64, String)> = page
        .entries
        .iter()
        .filter(|entry| entry.kind.as_str() == "identity.unsigned_local_failure")
        .map(|entry| {
            let said = entry.metadata.to_value();
            let agent = entry.agent.as_ref().unwrap().as_str().to_owned();
            let reason = said["reason"].as_str().unwrap().to_owned();
            (agent, said["count"].as_u64().unwrap(), reason)
        })
        .collect();
    said.sort();
    let told: Vec<(&str, u64)> = said.iter().map(|(a, n, _)| (a.as_str(), *n)).collect();
    assert_eq!(
        told,
        [(absent.as_str(), 1), (absent.as_str(), 29), ("broken", 1)],
        "at once, and the rest at the end"
    );
    assert!(said[0].2.contains("no key") && said[2].2.contains("could not be loaded"));
    assert_eq!(trail.found().await, []);
}
