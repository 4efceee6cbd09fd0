//! The database goes away, and comes back: nothing is lost, nothing is there twice.

use std::time::Duration;

use portcullis::audit::{
    AgentKey, Audit, AuditError, AuditEvent, AuditKeys, JournalError, Receipt, Recorded,
    SignPolicy, Signing,
};
use portcullis::cost::Budget;
use portcullis::scope::ScopePolicy;
use portcullis::{
    AgentId, Call, Ceiling, Database, ErrorKind, Gate, Governance, Permit, Refusal, Secret,
    TenantId, Usd,
};
use tokio::time::Instant;

use crate::common::journal::Directory;
use crate::common::proxy::{Fault, Proxy};
use crate::common::trail::{Place as _, Trail, event, keys, trail, wired_with, writer};

async fn outage() -> (Directory, Trail, Proxy) {
    let directory = Directory::fresh();
    let (trail, proxy) = wired_with(Duration::from_secs(3), directory.settings()).await;
    trail.audit.append(event("app.before")).await.unwrap();
    proxy.down();
    (directory, trail, proxy)
}

/// Waits until everything is in the trail and no file is left.
pub(crate) async fn drained(trail: &Trail, directory: &Directory) {
    for _ in 0..1_000 {
        let stats = trail.audit.stats();
        if stats.depth == 0 && !stats.degraded && directory.files().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} {:?}", trail.audit.stats(), directory.files());
}

pub(crate) async fn metadata_of(trail: &Trail, kind: &str) -> Vec<serde_json::Value> {
    let texts: Vec<String> = sqlx::query_scalar(
        "SELECT metadata FROM portcullis.entries WHERE kind = $1 ORDER BY recorded_at, seq",
    )
    .bind(kind)
    .fetch_all(&trail.pool)
    .await
    .unwrap();
    let parse = |text: &String| serde_json::from_str(text).unwrap();
    texts.iter().map(parse).collect()
}

pub(crate) async fn assert_clean(trail: &Trail) {
    let report = trail.audit.verify_all().await.unwrap();
    assert!(report.is_clean(), "{report}");
    trail.assert_whole().await;
}

#[tokio::test]
async fn f15_a_session_that_lived_through_an_outage_verifies() {
    let (directory, trail, proxy) = outage().await;
    let me = crate::common::trail::me();
    let rich = |n: u32| {
        AuditEvent::new(&me, "app.step")
            .with("n", n)
            .with("text", "Grüße, \"quoted\"\n\u{1F600}")
            .input(b"in")
            .output(b"out")
            .decision("allow")
    };
    trail.audit.append(rich(0)).await.unwrap();
    for n in 1..20 {
        let recorded = trail.audit.append(rich(n)).await.unwrap();
        assert!(matches!(recorded, Recorded::Journalled(_)), "{recorded:?}");
    }
    let stats = trail.audit.stats();
    assert_eq!((stats.journalled, stats.depth, stats.lost), (21, 21, 0));
    assert!(stats.degraded && stats.oldest_undrained.is_some());
    proxy.up();
    drained(&trail, &directory).await;
    let after = trail.audit.append(rich(20)).await.unwrap().place();

    assert_eq!(trail.count().await, 22, "once each, with the one before");
    assert_eq!(trail.chains().await, 1, "the chain goes on");
    assert_eq!(after.chain_no, 1);
    assert_clean(&trail).await;
    let scope = portcullis::audit::Scope::Session(me.session_id().clone());
    let session = trail.audit.verify(scope).await.unwrap();
    assert!(session.is_clean(), "{session}");
    let origins: Vec<(String, Option<i64>, bool)> = sqlx::query_as(
        "SELECT ingest, origin_seq, origin_mac IS NOT NULL AND origin_journal IS NOT NULL
           FROM portcullis.entries WHERE ingest = 'journal' ORDER BY seq",
    )
    .fetch_all(&trail.pool)
    .await
    .unwrap();
    let expected: Vec<_> = (1..=21)
        .map(|n| ("journal".to_owned(), Some(n), true))
        .collect();
    assert_eq!(origins, expected, "in their order");
}

#[tokio::test]
async fn an_outage_is_marked_where_it_begins_and_where_it_ends() {
    let (directory, trail, proxy) = outage().await;
    trail.audit.append(event("app.a")).await.unwrap();
    let lines = directory.lines();
    assert!(lines[1].contains("chain.degraded_start"), "{lines:?}");
    proxy.up();
    drained(&trail, &directory).await;
    let start = metadata_of(&trail, "chain.degraded_start").await;
    let end = metadata_of(&trail, "chain.degraded_end").await;
    assert_eq!((start.len(), end.len()), (1, 1));
    assert_eq!(start[0]["outage_id"], end[0]["outage_id"]);
    assert_eq!(start[0]["last_chain"], 1);
    assert_eq!(start[0]["last_seq"], 2);
    assert_eq!(start[0]["process_id"], std::process::id());
    assert_eq!(end[0]["drained"], 2);
    assert_eq!(end[0]["already_present"], 0);
    assert_eq!(end[0]["quarantined"], 0);
    assert_eq!(end[0]["last_line"], 2);
    // A second outage has markers of its own.
    proxy.down();
    trail.audit.append(event("app.b")).await.unwrap();
    proxy.up();
    drained(&trail, &directory).await;
    assert_eq!(metadata_of(&trail, "chain.degraded_start").await.len(), 2);
    assert_eq!(metadata_of(&trail, "chain.degraded_end").await.len(), 2);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn a_known_outage_costs_a_call_next_to_nothing() {
    let (_directory, trail, _proxy) = outage().await;
    trail.audit.append(event("app.first")).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let receipt = trail.audit.log(event("app.next")).await;
        times.push(started.elapsed());
        assert!(matches!(receipt, Receipt::Journalled(_)), "{receipt:?}");
    }
    times.sort();
    // A sync of this disk is part of it; another second of trying, or the deadline, would not fit.
    assert!(times[25] < Duration::from_millis(100), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_in_an_outage_share_their_syncs_and_all_are_drained() {
    let (directory, trail, proxy) = outage().await;
    let calls: Vec<_> = (0..400)
        .map(|n| {
            let audit = trail.audit.clone();
            tokio::spawn(async move { audit.append(event("app.call").with("n", n)).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    proxy.up();
    drained(&trail, &directory).await;
    assert_eq!(trail.count().await, 401);
    assert_clean(&trail).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_a_burst_against_a_healthy_store_journals_nothing() {
    let directory = Directory::fresh();
    let (trail, _proxy) = wired_with(Duration::from_secs(20), directory.settings()).await;
    let calls: Vec<_> = (0..400)
        .map(|n| {
            let audit = trail.audit.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    let recorded = audit.append(event("app.call").with("n", n)).await.unwrap();
                    assert!(recorded.committed().is_some(), "{recorded:?}");
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let stats = trail.audit.stats();
    assert_eq!((stats.journalled, stats.spooled, stats.lost), (0, 0, 0));
    assert!(!directory.path().exists(), "not even made");
    assert_eq!(trail.count().await, 2_000);
}

#[tokio::test]
async fn f19_a_commit_of_unknown_outcome_that_was_journalled_too_is_there_once() {
    let directory = Directory::fresh();
    let (trail, proxy) = wired_with(Duration::from_millis(700), directory.settings()).await;
    trail.audit.append(event("app.before")).await.unwrap();
    // The server commits it, and goes away before it can say so.
    proxy.inject(Fault::GoneAfterCommit);
    let unknown = event("app.unknown");
    let recorded = trail.audit.append(unknown.clone()).await.unwrap();
    assert!(matches!(recorded, Recorded::Journalled(_)), "{recorded:?}");
    assert_eq!(trail.entries_of(&unknown).await, 1, "and it was committed");
    proxy.up();
    drained(&trail, &directory).await;
    assert_eq!(trail.entries_of(&unknown).await, 1);
    let end = metadata_of(&trail, "chain.degraded_end").await;
    assert_eq!(end[0]["already_present"], 1, "{end:?}");
    assert_eq!(end[0]["present"], "2");
    assert_clean(&trail).await;
}

#[tokio::test]
async fn f19_a_hung_database_is_answered_from_the_journal_at_the_deadline() {
    let directory = Directory::fresh();
    let (trail, proxy) = wired_with(Duration::from_millis(400), directory.settings()).await;
    trail.audit.append(event("app.before")).await.unwrap();
    proxy.inject(Fault::Hang);
    let hung = event("app.hung");
    let started = Instant::now();
    let recorded = trail.audit.append(hung.clone()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(matches!(recorded, Recorded::Journalled(_)), "{recorded:?}");
    drained(&trail, &directory).await;
    assert_eq!(trail.entries_of(&hung).await, 1);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn f16_a_restart_drains_the_journal() {
    let (directory, trail, proxy) = outage().await;
    let kept = event("app.kept");
    trail.audit.append(kept.clone()).await.unwrap();
    trail.audit.log_detached(event("app.detached"));
    trail.audit.shutdown().await;
    let Trail { test, pool, audit } = trail;
    drop(audit);
    assert_eq!(directory.files().len(), 1, "it waits");
    // The next program, with the database there.
    drop(proxy);
    let audit = loop {
        // The thread of the old one may still hold the file for a moment.
        let audit = Audit::open_with(
            &test.database(),
            keys(),
            TenantId::single(),
            directory.settings(),
        )
        .await
        .unwrap();
        if audit.drain().await.unwrap().in_use == 0 {
            break audit;
        }
    };
    let trail = Trail { test, pool, audit };
    assert!(directory.files().is_empty());
    assert_eq!(trail.entries_of(&kept).await, 1);
    assert_eq!(trail.count().await, 3);
    let end = metadata_of(&trail, "chain.degraded_end").await;
    assert_eq!(end.len(), 1);
    let start = metadata_of(&trail, "chain.degraded_start").await;
    assert_eq!(start[0]["outage_id"], end[0]["outage_id"]);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn another_database_or_secret_leaves_a_journal_alone() {
    let (directory, first, _proxy) = outage().await;
    first.audit.append(event("app.theirs")).await.unwrap();
    first.audit.shutdown().await;
    let Trail { test, audit, .. } = first;
    drop(audit);
    let other = trail().await;
    let mine = || other.test.database();
    let secret = || AuditKeys::single(Secret::generate().unwrap());
    let tenant = || TenantId::parse("another").unwrap();
    for (database, keys, tenant) in [
        (mine(), keys(), TenantId::single()),
        (test.database(), secret(), TenantId::single()),
        (test.database(), keys(), tenant()),
    ] {
        let audit = Audit::open_with(&database, keys, tenant, directory.settings())
            .await
            .unwrap();
        let mut left_alone = false;
        for _ in 0..500 {
            let report = audit.drain().await.unwrap();
            assert_eq!((report.drained, report.quarantined), (0, 0), "{report}");
            left_alone = report.foreign == 1;
            if left_alone {
                break;
            }
            // The thread that wrote may still hold the file for a moment.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(left_alone);
        assert_eq!(directory.lines().len(), 3);
        assert!(directory.quarantined().is_empty());
    }
    assert_eq!(other.count().await, 0);
}

#[tokio::test]
async fn at_the_limit_events_are_lost_loudly_and_strict_callers_hear_of_it() {
    let directory = Directory::fresh();
    let settings = directory.settings().limit(4_000);
    let (trail, proxy) = wired_with(Duration::from_secs(3), settings).await;
    proxy.down();
    let mut taken = 0;
    let error = loop {
        match trail.audit.append(event("app.full")).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(taken > 0);
    assert_eq!(error, AuditError::Journal(JournalError::Full));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let receipt = trail.audit.log(event("app.full")).await;
    assert!(receipt.lost().is_some(), "{receipt:?}");
    assert_eq!(trail.audit.stats().lost, 2);
    proxy.up();
    drained(&trail, &directory).await;
    assert_eq!(trail.count().await, taken, "what was taken is there");
    trail
        .audit
        .append(event("app.after"))
        .await
        .unwrap()
        .place();
    assert_clean(&trail).await;
}

#[tokio::test]
async fn without_a_usable_directory_nothing_is_pretended() {
    let directory = Directory::fresh();
    // A file stands where the directory should.
    std::fs::write(directory.path(), "").unwrap();
    let (trail, proxy) = wired_with(Duration::from_secs(3), directory.settings()).await;
    proxy.down();
    let error = trail.audit.append(event("app.lost")).await.unwrap_err();
    assert!(
        matches!(error, AuditError::Journal(JournalError::Disk(_))),
        "{error}"
    );
    assert_eq!(trail.audit.stats().lost, 1);
    proxy.up();
    // The store is found back though there is nothing to drain.
    let mut receipt = trail.audit.log(event("app.again")).await;
    for _ in 0..200 {
        if receipt.committed().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        receipt = trail.audit.log(event("app.again")).await;
    }
    assert!(receipt.committed().is_some(), "{receipt:?}");
    std::fs::remove_file(directory.path()).unwrap();
}

#[tokio::test]
async fn others_write_on_while_one_process_is_cut_off() {
    let (directory, trail, proxy) = outage().await;
    let other = writer(&trail.test.database()).await;
    trail.audit.append(event("app.cut_off")).await.unwrap();
    for _ in 0..5 {
        other.append(event("app.fine")).await.unwrap().place();
    }
    trail.expire_leases().await;
    other.append(event("app.fine")).await.unwrap().place();
    proxy.up();
    drained(&trail, &directory).await;
    assert_eq!(trail.count().await, 8);
    assert_clean(&trail).await;
}

#[tokio::test]
async fn without_a_store_decisions_go_to_the_journal_first_and_budgets_refuse() {
    let directory = Directory::fresh();
    let trail = trail().await;
    let proxy = Proxy::before(&trail.test.options()).await;
    let through = Database::options(proxy.options()).statement_timeout(Duration::from_secs(2));
    let gov = Governance::builder(through, keys())
        .journal(directory.settings())
        .connect()
        .await
        .unwrap();
    let agent = AgentId::parse("billing-agent").unwrap();
    let policy = ScopePolicy::new(agent)
        .allow_tools(["read_invoice", "pay"])
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    proxy.down();
    let me = crate::common::trail::me();
    let call = Call::tool(&me, "read_invoice");
    let done = gov
        .run(&call, async |_: &Permit| {
            let text = directory.lines().concat();
            assert!(text.contains("tool.call.started") && text.contains("policy.decision"));
            Ok::<_, Refusal>(())
        })
        .await;
    assert_eq!(done, Ok(()));
    let spends = Call::tool(&me, "pay").ceiling(Ceiling::usd(Usd::cents(1)));
    let refusal = gov.authorize(&spends).await.unwrap_err();
    assert_eq!(
        (refusal.gate(), refusal.kind()),
        (Gate::Cost, ErrorKind::Unavailable)
    );
    assert!(gov.health().await.audit.degraded);
    proxy.up();
    let trail = Trail {
        audit: gov.audit().clone(),
        ..trail
    };
    drained(&trail, &directory).await;
    let kinds: Vec<String> = sqlx::query_scalar(
        "SELECT kind FROM portcullis.entries WHERE session_id = $1 AND kind LIKE 'tool.%' ORDER BY seq",
    )
    .bind(me.session_id().as_str())
    .fetch_all(&trail.pool)
    .await
    .unwrap();
    assert_eq!(kinds, ["tool.call.started", "tool.call.completed"]);
    let stats = gov.audit().stats();
    assert!(
        !stats.degraded && stats.oldest_undrained.is_none(),
        "{stats:?}"
    );
    assert_clean(&trail).await;
    gov.shutdown().await;
}

#[tokio::test]
async fn the_key_that_an_outage_was_signed_with_comes_home_with_what_it_signed() {
    let (directory, mut trail, proxy) = outage().await;
    let me = AgentId::parse("billing-agent").unwrap();
    let key = AgentKey::ephemeral(me).unwrap();
    trail.audit = trail
        .audit
        .sign_with(&Signing::new(SignPolicy::All).key(key));
    let signed = event("app.signed");
    trail.audit.append(signed.clone()).await.unwrap();
    proxy.up();
    drained(&trail, &directory).await;
    assert!(directory.quarantined().is_empty());
    let entry = trail.audit.event(signed.id()).await.unwrap().unwrap();
    assert!(entry.signed_by.is_some());
    assert_clean(&trail).await;
}

#[tokio::test]
async fn f26_what_was_spent_in_an_outage_is_charged_by_the_next_program() {
    let directory = Directory::fresh();
    let trail = trail().await;
    let proxy = Proxy::before(&trail.test.options()).await;
    let through = Database::options(proxy.options()).statement_timeout(Duration::from_secs(2));
    let gov = Governance::builder(through, keys())
        .journal(directory.settings())
        .connect()
        .await
        .unwrap();
    let me = crate::common::trail::me();
    let budget = Budget::for_agent(me.agent_id().clone()).per_session(Usd::dollars(1));
    gov.cost().register(budget).await.unwrap();
    let ten_cents = || Ceiling::usd(Usd::cents(10));
    let held = gov.cost().reserve(&me, ten_cents()).await.unwrap();
    let unused = gov.cost().reserve(&me, ten_cents()).await.unwrap();
    proxy.down();
    let error = held.settle(Usd::cents(6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    unused.release().await.unwrap_err();
    let text = directory.lines().concat();
    assert_eq!(text.matches("\"module\":\"cost\"").count(), 2, "{text}");
    // That program ends without having seen the database again.
    gov.shutdown().await;
    drop(gov);
    let spent = "SELECT settled_usd, held_usd FROM portcullis.budget_windows";
    let before: (i64, i64) = sqlx::query_as(spent).fetch_one(&trail.pool).await.unwrap();
    assert_eq!(before, (0, Usd::cents(20).as_nanos()));

    let gov = Governance::builder(trail.test.database(), keys())
        .journal(directory.settings())
        .connect()
        .await
        .unwrap();
    for _ in 0..500 {
        gov.audit().drain().await.unwrap();
        if directory.files().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after: (i64, i64) = sqlx::query_as(spent).fetch_one(&trail.pool).await.unwrap();
    assert_eq!(after, (Usd::cents(6).as_nanos(), 0));
    assert!(directory.quarantined().is_empty());
    gov.shutdown().await;
    assert_clean(&trail).await;
}
