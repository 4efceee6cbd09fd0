//! Heads that a process signs, on a real trail.

use portcullis::audit::FindingClass::{BadMac, Signature};
use portcullis::audit::{
    AgentKey, Audit, AuditEvent, AuditKeys, HeadPolicy, KeySource, ProcessKey, Query, Rotation,
    Scope, SignPolicy, Signing,
};
use portcullis::{AgentId, Governance, Principal, Secret, TenantId};

use crate::trail::{Found, SECRET, Trail, found, keys};

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const NEXT: &str = "b1946ac92492d2347c6235b4d2611184f0a3c58d7e61902bb44c8a17d35e9f06";

fn process() -> ProcessKey {
    ProcessKey::load(KeySource::memory(Secret::parse(SEED).unwrap())).unwrap()
}

fn heads(policy: HeadPolicy) -> Signing {
    Signing::new(SignPolicy::None).heads(policy, process())
}

fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

fn event(n: u64) -> AuditEvent {
    AuditEvent::new(&Principal::agent(agent()), "app.step").with("n", n)
}

impl Trail {
    async fn number(&self, text: &str) -> i64 {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        sqlx::query_scalar(text)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn signed_heads(&self) -> Vec<(i32, i64)> {
        sqlx::query_as(
            "SELECT chain_no, seq FROM portcullis.head_signatures ORDER BY chain_no, seq",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    async fn lift_the_triggers(&self) {
        self.disarm().await;
        self.sql("ALTER TABLE portcullis.head_signatures DISABLE TRIGGER ALL")
            .await;
    }
}

/// Chain 1: the genesis, the process's key (2), four entries in a batch each.
async fn signed(policy: HeadPolicy) -> Trail {
    let trail = Trail::empty().await;
    let audit = trail.audit().await.sign_with(&heads(policy));
    for n in 0..4 {
        let at = audit.append(event(n)).await.unwrap();
        assert_eq!(at.committed().unwrap().seq, n + 3);
    }
    assert_eq!(audit.stats().unsigned_heads, 0);
    audit.shutdown().await;
    let all = [(1, 3), (1, 4), (1, 5), (1, 6)];
    assert_eq!(trail.signed_heads().await, all);
    trail
}

#[tokio::test]
async fn every_batch_ends_in_a_signed_head_in_the_round_trip_that_commits_it() {
    let trail = Trail::empty().await;
    let audit = trail.audit().await.sign_with(&heads(HeadPolicy::Require));
    audit.append(event(0)).await.unwrap();
    let before = audit.stats();
    for n in 0..20 {
        audit.append(event(n)).await.unwrap();
    }
    let batch = (0..50).map(event).collect();
    audit.append_all(batch).await.unwrap();
    let stats = audit.stats();
    assert_eq!(stats.statements - before.statements, 21);
    assert_eq!(trail.signed_heads().await.len(), 22);
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    let chain = &report.chains()[0];
    assert_eq!(chain.head_keys, [(process().id(), 22)]);
    assert_eq!(chain.signed_through(), chain.head);
    assert_eq!(report.unsigned_tails(), []);
    // A part of it, too.
    for (from, to) in [(1, 2), (5, 30), (40, 90)] {
        let range = Scope::Range {
            chain_no: 1,
            from,
            to,
        };
        assert_eq!(
            found(&audit.verify(range).await.unwrap()),
            [],
            "{from}..{to}"
        );
    }
}

#[tokio::test]
async fn an_entry_may_have_its_agents_signature_and_end_a_signed_batch() {
    let trail = Trail::empty().await;
    let key = AgentKey::ephemeral(agent()).unwrap();
    let signing = Signing::new(SignPolicy::All)
        .key(key)
        .heads(HeadPolicy::Require, process());
    let audit = trail.audit().await.sign_with(&signing);
    let at = audit
        .append(event(1))
        .await
        .unwrap()
        .committed()
        .copied()
        .unwrap();
    assert!(
        audit
            .event(at.id)
            .await
            .unwrap()
            .unwrap()
            .signed_by
            .is_some()
    );
    let last = i64::try_from(at.seq).unwrap();
    assert_eq!(trail.signed_heads().await.last(), Some(&(1, last)));
    assert_eq!(trail.found().await, []);
}

#[tokio::test]
async fn a_signed_head_that_was_changed_moved_or_made_up_is_found() {
    let trail = signed(HeadPolicy::Sign).await;
    trail.lift_the_triggers().await;
    trail
        .sql("CREATE TABLE public.heads AS TABLE portcullis.head_signatures")
        .await;
    let at = |seq| vec![(Signature, 1, seq)];
    let cases: [(&str, Vec<Found>); 7] = [
        ("UPDATE portcullis.head_signatures SET signature = set_byte(signature, 40, get_byte(signature, 40) # 1) WHERE seq = 4", at(4)),
        ("UPDATE portcullis.head_signatures SET signature = '' WHERE seq = 4", at(4)),
        ("UPDATE portcullis.head_signatures SET key = '' WHERE seq = 4", at(4)),
        ("UPDATE portcullis.head_signatures SET key = substring(sha256('x') for 16) WHERE seq = 4", at(4)),
        ("UPDATE portcullis.head_signatures h SET signature = o.signature FROM portcullis.head_signatures o
           WHERE (h.seq, o.seq) IN ((4, 5), (5, 4))", vec![(Signature, 1, 4), (Signature, 1, 5)]),
        // Of an entry that is no batch's end, and of none.
        ("UPDATE portcullis.head_signatures SET seq = 2 WHERE seq = 4", at(2)),
        // One in the middle that is gone takes nothing away: the next covers what it covered.
        ("DELETE FROM portcullis.head_signatures WHERE seq = 4", vec![]),
    ];
    for (change, expected) in cases {
        assert!(trail.sql(change).await > 0, "{change}");
        assert_eq!(trail.found().await, expected, "{change}");
        trail.sql("DELETE FROM portcullis.head_signatures").await;
        trail
            .sql("INSERT INTO portcullis.head_signatures TABLE public.heads")
            .await;
        assert_eq!(trail.found().await, []);
    }
}

/// Whoever has the audit secret can append, and make a MAC for what he changed. He cannot sign.
#[tokio::test]
async fn what_the_holder_of_the_audit_secret_adds_is_not_covered() {
    for policy in [HeadPolicy::Sign, HeadPolicy::Require] {
        let trail = signed(policy).await;
        assert_eq!(trail.found().await, []);
        let insider = trail.audit().await;
        insider.append(event(99)).await.unwrap();
        insider.append(event(100)).await.unwrap();
        let report = trail.verify(Scope::All).await;
        if policy == HeadPolicy::Require {
            assert_eq!(found(&report), [(Signature, 1, 7)]);
            assert_eq!(report.findings()[0].through, 8);
        } else {
            assert_eq!(found(&report), []);
            assert_eq!(report.unsigned_tails(), [(1, 7, 8)]);
            let text = report.to_string();
            assert!(
                text.contains("not proved: that entries 7..8 of chain 1"),
                "{text}"
            );
        }
        // The next signed batch of the same chain covers them: they are its process's then.
        insider.shutdown().await;
        let audit = trail.audit().await.sign_with(&heads(policy));
        audit.append(event(5)).await.unwrap();
        let report = trail.verify(Scope::All).await;
        assert!(
            report.is_clean() && report.unsigned_tails().is_empty(),
            "{report}"
        );
    }
}

#[tokio::test]
async fn a_signature_covers_the_chain_and_not_what_follows_it() {
    let trail = signed(HeadPolicy::Require).await;
    trail.lift_the_triggers().await;
    // The last batch is taken away with its signature, and the head set back.
    for change in [
        "DELETE FROM portcullis.head_signatures WHERE seq > 4",
        "UPDATE portcullis.entries SET metadata = '{\"n\":7}' WHERE seq = 6",
    ] {
        trail.sql(change).await;
    }
    assert_eq!(
        trail.found().await,
        [(BadMac, 1, 6), (Signature, 1, 5)],
        "what no signed head covers"
    );
    // A head that is signed, of entries that are not those.
    trail.restore().await;
    trail.sql("DELETE FROM portcullis.head_signatures").await;
    assert_eq!(trail.found().await, [(Signature, 1, 3)]);
}

#[tokio::test]
async fn a_revoked_process_key_holds_before_and_not_after() {
    let trail = Trail::empty().await;
    let (here, there) = (
        trail.audit().await.sign_with(&heads(HeadPolicy::Sign)),
        trail.audit().await.sign_with(&heads(HeadPolicy::Sign)),
    );
    here.append(event(1)).await.unwrap();
    there.append(event(2)).await.unwrap();
    here.revoke_process_key(process().id(), None).await.unwrap();
    assert_eq!(trail.found().await, [], "what was signed before holds");
    // This process stops by itself, and says so in numbers and in the trail.
    here.append(event(3)).await.unwrap();
    assert!(here.stats().unsigned_heads >= 2);
    assert_eq!(trail.found().await, []);
    let at = there
        .append(event(4))
        .await
        .unwrap()
        .committed()
        .copied()
        .unwrap();
    assert_eq!(trail.found().await, [(Signature, at.chain_no, at.seq)]);
}

#[tokio::test]
async fn a_process_key_that_cannot_be_loaded_stops_nobody_and_is_loud() {
    let trail = Trail::empty().await;
    let source = KeySource::file("/nonexistent/process.key");
    let signing = Signing::new(SignPolicy::None).load_heads(HeadPolicy::Sign, source);
    let gov = Governance::builder(trail.test.database(), keys())
        .tenant(TenantId::single())
        .sign(signing)
        .connect()
        .await
        .unwrap();
    for n in 0..5 {
        gov.audit().append(event(n)).await.unwrap();
    }
    let health = gov.health().await;
    assert!(health.audit.unsigned_heads >= 5 && !health.is_ok());
    gov.shutdown().await;
    let said = said(gov.audit()).await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["signs"], "heads");
    assert_eq!(trail.found().await, []);
}

/// What was recorded of keys that could not be used.
async fn said(audit: &Audit) -> Vec<serde_json::Value> {
    let page = audit.events(&Query::all()).await.unwrap();
    let failures = page
        .entries
        .iter()
        .filter(|entry| entry.kind.as_str() == "identity.unsigned_local_failure");
    failures.map(|entry| entry.metadata.to_value()).collect()
}

#[tokio::test]
async fn heads_go_on_signed_over_a_rotation_of_the_audit_key() {
    let trail = Trail::empty().await;
    let ring = || {
        let key = |text| KeySource::memory(Secret::parse(text).unwrap());
        let ring = AuditKeys::builder().key(1, key(SECRET)).key(2, key(NEXT));
        ring.current(1).build().unwrap()
    };
    let one = TenantId::single();
    let audit = trail.audit_of(ring(), one.clone()).await;
    let audit = audit.sign_with(&heads(HeadPolicy::Require));
    audit.append(event(1)).await.unwrap();
    audit.rotate(2, Rotation::Planned).await.unwrap();
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "the marker's head is signed: {report}");
    audit.append(event(2)).await.unwrap();
    let report = audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        trail
            .number("SELECT count(*) FROM portcullis.head_signatures")
            .await,
        3
    );
}

#[tokio::test]
async fn signed_heads_are_append_only() {
    let trail = signed(HeadPolicy::Sign).await;
    for change in [
        "UPDATE portcullis.head_signatures SET seq = 9 WHERE seq = 4",
        "DELETE FROM portcullis.head_signatures",
        "TRUNCATE portcullis.head_signatures",
    ] {
        let refused = sqlx::raw_sql(change).execute(&trail.pool).await;
        assert!(refused.unwrap_err().to_string().contains("append-only"));
    }
}
