//! Agents' signatures, on a real trail.

use portcullis::audit::FindingClass::{BadMac, Signature};
use portcullis::audit::{
    AgentKey, Audit, AuditEvent, Entry, KeySource, Query, SignPolicy, Signing,
};
use portcullis::{AgentId, Call, Governance, Principal, Secret, TenantId};

use crate::trail::{Trail, found, keys};

fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

pub(crate) fn key() -> AgentKey {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    AgentKey::load(agent(), KeySource::memory(Secret::parse(seed).unwrap())).unwrap()
}

fn event(n: u64) -> AuditEvent {
    AuditEvent::new(&Principal::agent(agent()), "app.step").with("n", n)
}

impl Trail {
    async fn signing(&self, signing: &Signing) -> Audit {
        self.audit().await.sign_with(signing)
    }
}

async fn kinds(audit: &Audit) -> Vec<(String, bool)> {
    let page = audit.events(&Query::all()).await.unwrap();
    let signed = |entry: &Entry| (entry.kind.as_str().to_owned(), entry.signed_by.is_some());
    let mut all: Vec<_> = page.entries.iter().map(signed).collect();
    all.sort();
    all
}

/// Chain 1: the genesis, the key (2), then four signed entries.
async fn signed() -> Trail {
    let trail = Trail::empty().await;
    let audit = trail
        .signing(&Signing::new(SignPolicy::All).key(key()))
        .await;
    for n in 0..4 {
        let at = audit.append(event(n).input(b"in")).await.unwrap();
        let entry = audit.event(at.id()).await.unwrap().unwrap();
        assert_eq!(entry.signed_by, Some(key().id()));
        let at = at.committed().unwrap();
        assert_eq!((at.chain_no, at.seq), (1, n + 3));
    }
    audit.shutdown().await;
    trail.disarm().await;
    assert_eq!(trail.found().await, []);
    trail
}

#[tokio::test]
async fn f08_a_corrupted_signature_is_found() {
    let trail = signed().await;
    for (change, expected) in [
        // The MAC does not cover it: it proves itself.
        (
            "signature = set_byte(signature, 40, get_byte(signature, 40) # 1)",
            Signature,
        ),
        ("signature = substring(signature from 1 for 63)", Signature),
        ("signature = NULL", Signature),
        ("signature = ''", Signature),
        // This one is covered.
        ("agent_key = sha256('x')", BadMac),
        ("agent_key = NULL, signature = NULL", BadMac),
    ] {
        trail
            .sql(&format!(
                "UPDATE portcullis.entries SET {change} WHERE seq = 4"
            ))
            .await;
        assert_eq!(trail.found().await, [(expected, 1, 4)], "{change}");
        trail.restore().await;
    }
    // One where there should be none.
    trail
        .sql("UPDATE portcullis.entries SET signature = sha512('x') WHERE seq = 1")
        .await;
    assert_eq!(trail.found().await, [(Signature, 1, 1)]);
    trail.restore().await;
    assert_eq!(trail.found().await, []);
}

#[tokio::test]
async fn a_signature_that_was_moved_is_found() {
    let trail = signed().await;
    trail
        .sql(
            "UPDATE portcullis.entries AS e SET signature = o.signature
               FROM portcullis.entries AS o
              WHERE (e.seq, o.seq) IN ((4, 5), (5, 4))",
        )
        .await;
    assert_eq!(trail.found().await, [(Signature, 1, 4), (Signature, 1, 5)]);
}

#[tokio::test]
async fn a_key_that_was_exchanged_on_record_proves_nothing() {
    let trail = signed().await;
    let other = AgentKey::ephemeral(agent()).unwrap();
    trail
        .sql(&format!(
            "UPDATE portcullis.entries SET metadata = replace(metadata, '{}', '{}') WHERE seq = 2",
            hex::encode(key().public_key()),
            hex::encode(other.public_key()),
        ))
        .await;
    let signatures = (3..=6).map(|seq| (Signature, 1, seq));
    let expected: Vec<_> = [(BadMac, 1, 2)].into_iter().chain(signatures).collect();
    assert_eq!(trail.found().await, expected);
}

#[tokio::test]
async fn a_revoked_key_holds_before_and_not_after() {
    let trail = Trail::empty().await;
    let signing = Signing::new(SignPolicy::All).key(key());
    let (here, elsewhere) = (trail.signing(&signing).await, trail.signing(&signing).await);
    here.append(event(1)).await.unwrap();
    elsewhere.append(event(2)).await.unwrap();
    here.revoke_key(&agent(), key().id(), None).await.unwrap();
    assert_eq!(trail.found().await, [], "what was signed before holds");
    // This process stops signing by itself, and says so.
    let unsigned = here.append(event(3)).await.unwrap();
    let entry = here.event(unsigned.id()).await.unwrap().unwrap();
    assert_eq!((entry.signed_by, here.stats().unsigned), (None, 1));
    assert_eq!(trail.found().await, []);
    // Another one does not know.
    let at = elsewhere.append(event(4)).await.unwrap();
    assert_eq!(
        trail.found().await,
        [at.committed()
            .map(|at| (Signature, at.chain_no, at.seq))
            .unwrap()],
        "signed after it was revoked"
    );
}

/// What revokes a key is believed only with its MAC, and its absence is not passed over.
#[tokio::test]
async fn a_revocation_cannot_be_made_up_or_moved() {
    let trail = signed().await;
    // A copy of the registration, made into a revocation from long ago.
    trail
        .sql(&format!(
            "INSERT INTO portcullis.entries (tenant_id, chain_no, seq, key_id, kind, occurred_at, recorded_at,
                    event_id, agent_id, metadata, ingest, mac)
             SELECT tenant_id, chain_no, 7, key_id, 'identity.key_revoked', occurred_at, '2020-01-01',
                    gen_random_uuid(), agent_id, '{{\"key\":\"{}\"}}', ingest, mac
               FROM portcullis.entries WHERE seq = 2",
            key().id()
        ))
        .await;
    assert_eq!(trail.found().await, [(BadMac, 1, 7)], "and no signature");

    let trail = Trail::empty().await;
    let signing = Signing::new(SignPolicy::All).key(key());
    let (here, elsewhere) = (trail.signing(&signing).await, trail.signing(&signing).await);
    here.append(event(1)).await.unwrap();
    elsewhere.append(event(2)).await.unwrap();
    let revoked = here.revoke_key(&agent(), key().id(), None).await.unwrap();
    let late = elsewhere.append(event(3)).await.unwrap();
    let (revoked, late) = (revoked.committed().unwrap(), late.committed().unwrap());
    assert_ne!(revoked.chain_no, late.chain_no);
    trail.disarm().await;
    // It is put off, and only the other chain is verified.
    trail
        .sql("UPDATE portcullis.entries SET metadata = replace(metadata, '}', ',\"x\":1}') WHERE kind = 'identity.key_revoked'")
        .await;
    let other = portcullis::audit::Scope::Chain {
        chain_no: late.chain_no,
    };
    let report = trail.verify(other).await;
    assert_eq!(
        found(&report),
        [(BadMac, revoked.chain_no, revoked.seq)],
        "{report}"
    );
}

#[tokio::test]
async fn a_key_is_on_record_once_and_before_what_it_signs() {
    let trail = Trail::empty().await;
    let signing = Signing::new(SignPolicy::All).key(key());
    let mut audits = Vec::new();
    for _ in 0..3 {
        audits.push(trail.signing(&signing).await);
    }
    let tasks: Vec<_> = (0..30)
        .map(|n| {
            let audit = audits[n % 3].clone();
            tokio::spawn(async move {
                if n < 3 {
                    audit.log_detached(event(99));
                }
                audit.append(event(0)).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for audit in audits {
        audit.shutdown().await;
        assert_eq!((audit.stats().lost, audit.stats().unsigned), (0, 0));
    }
    let all = kinds(&trail.audit().await).await;
    let count = |kind: &str, signed| {
        let wanted = (kind.to_owned(), signed);
        all.iter().filter(|found| **found == wanted).count()
    };
    assert_eq!(count("identity.key_registered", false), 1, "{all:?}");
    assert_eq!(count("app.step", true), 33, "{all:?}");
    assert_eq!(trail.found().await, []);
}

#[tokio::test]
async fn an_agent_without_a_key_is_recorded_unsigned_counted_and_seen_in_health() {
    let trail = Trail::empty().await;
    let other = AgentKey::ephemeral(AgentId::parse("other").unwrap()).unwrap();
    let gov = Governance::builder(trail.test.database(), keys())
        .tenant(TenantId::single())
        .sign(Signing::new(SignPolicy::All).key(other))
        .connect()
        .await
        .unwrap();
    assert_eq!(gov.health().await.audit.unsigned, 0);
    gov.audit().append(event(1)).await.unwrap();
    let health = gov.health().await;
    assert_eq!((health.audit.unsigned, health.audit.lost), (1, 0));
    assert!(!health.is_ok(), "a degradation is loud");
    assert_eq!(trail.found().await, [], "and no finding");
    gov.shutdown().await;
}

#[tokio::test]
async fn decisions_alone_are_signed_where_that_is_the_policy() {
    let trail = Trail::empty().await;
    let gov = Governance::builder(trail.test.database(), keys())
        .sign(Signing::new(SignPolicy::Decisions).key(key()))
        .connect()
        .await
        .unwrap();
    let policy = portcullis::scope::ScopePolicy::new(agent()).allow_tools(["read"]);
    gov.scope().register(policy.unwrap()).await.unwrap();
    let me = Principal::agent(agent());
    let permit = gov.authorize(&Call::tool(&me, "read")).await.unwrap();
    permit.settle(portcullis::Outcome::completed()).await;
    gov.authorize(&Call::tool(&me, "write")).await.unwrap_err();
    gov.shutdown().await;
    let all = kinds(gov.audit()).await;
    let signed: Vec<&str> = all
        .iter()
        .filter(|(_, signed)| *signed)
        .map(|(kind, _)| kind.as_str())
        .collect();
    assert!(signed.contains(&"policy.decision"), "{all:?}");
    assert!(
        !signed.iter().any(|kind| kind.starts_with("tool.call")),
        "{all:?}"
    );
    let report = trail.verify(portcullis::audit::Scope::All).await;
    assert_eq!(found(&report), [], "{report}");
}
