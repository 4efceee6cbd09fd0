//! What health and strict hold against a program, one by one.

use std::time::Duration;

use portcullis::audit::anchor::FileAnchor;
use portcullis::halt::HaltSettings;
use portcullis::scope::ScopeError;
use portcullis::{ConnectError, Governance, Health};
use sqlx::{Connection as _, Executor as _};

use super::{policy, with_role};
use crate::common::journal::Directory;
use crate::common::{connect, keys};

/// What must not be, and a way to make it so.
type Flaw = (&'static str, fn(&mut Health));

/// Everything that makes a program unwell, each alone.
const FLAWS: &[Flaw] = &[
    ("a check of the store", |h| {
        h.store.as_mut().unwrap().checks[0].ok = false;
    }),
    ("lost entries", |h| h.audit.lost = 1),
    ("unsigned entries", |h| h.audit.unsigned = 1),
    ("unsigned heads", |h| h.audit.unsigned_heads = 1),
    ("quarantined lines", |h| h.audit.quarantined = 1),
    ("what is not ours in the outbox", |h| {
        h.audit.outbox_refused = 1;
    }),
    ("a trail that is degraded", |h| h.audit.degraded = true),
    ("an anchor that is behind", |h| h.anchors[0].stale = true),
    ("an anchor that contradicts", |h| {
        h.anchors[0].conflict = true;
    }),
    ("a stale halt state", |h| h.halt.stale = true),
    ("a halt that is not stored", |h| h.halt.not_stored = 1),
    ("scope cannot be read", |h| h.scope.failing = true),
    ("a broken scope policy", |h| {
        h.scope.broken.push(super::id("a"));
    }),
    ("an older scope policy", |h| {
        h.scope.kept.push(super::id("a"));
    }),
    ("loop policies cannot be read", |h| h.loops.failing = true),
    ("a broken loop policy", |h| h.loops.broken.push("a".into())),
    ("loops may have gone unseen", |h| h.loops.crowded = 1),
    ("shared sessions cannot be asked about", |h| {
        h.loops.sharing_away = true;
    }),
    ("unreadable windows", |h| h.loops.unreadable = 1),
    ("approval policies cannot be read", |h| {
        h.gates.failing = true;
    }),
    ("a broken approval policy", |h| {
        h.gates.broken.push(super::id("a"));
    }),
    ("an older approval policy", |h| {
        h.gates.kept.push(super::id("a"));
    }),
    ("contracts cannot be read", |h| h.contracts.failing = true),
    ("a broken contract", |h| h.contracts.broken.push("a".into())),
    ("an older contract", |h| h.contracts.kept.push("a".into())),
    ("a check that is not defined", |h| {
        h.contracts.undefined.push("a".into());
    }),
    ("nobody sweeps", |h| h.cost.sweeping = false),
    ("a sweep is late", |h| h.cost.sweep_late = true),
    ("a sweep failed", |h| h.cost.sweep_failing = true),
    ("slices are not reported", |h| h.cost.slices_failing = 1),
    ("calls are not charged", |h| h.cost.endings_failing = true),
    ("dropped heartbeats", |h| h.presence.dropped = 1),
    ("uncounted calls", |h| h.coverage.uncounted = 1),
];

#[tokio::test]
async fn health_is_not_well_for_each_thing_alone_that_must_not_be() {
    let (test, app) = with_role().await;
    let directory = Directory::fresh();
    let anchor = FileAnchor::new("here", directory.path().join("anchor")).unwrap();
    let gov = Governance::builder(app, keys())
        .journal(directory.settings())
        .anchor(anchor)
        .pin_scope(policy("a"))
        .connect()
        .await
        .unwrap();
    let health = gov.health().await;
    assert!(health.is_ok(), "{health:#?}");
    for (what, make) in FLAWS {
        let mut flawed = health.clone();
        make(&mut flawed);
        assert!(!flawed.is_ok(), "{what}");
    }
    // A database that could not be asked.
    let mut admin = connect(&test.options()).await;
    let away = "ALTER TABLE portcullis.policies RENAME TO away";
    admin.execute(away).await.unwrap();
    let Err(ScopeError::Store(error)) = gov.scope().policies().await else {
        panic!("the table is away");
    };
    let mut gone = health;
    gone.store = Err(error);
    assert!(!gone.is_ok());
    gov.shutdown().await;
}

/// Between the first look at what is halted and the end of opening, the database hangs: it is not known
/// any more whether somebody is halted, and the handle does not open.
#[tokio::test(flavor = "multi_thread")]
async fn f36_strict_does_not_open_over_what_is_known_of_halts_and_too_old() {
    let (test, app) = with_role().await;
    let directory = Directory::fresh();
    let open = |bound: Duration| {
        let halts = HaltSettings::default()
            .poll_every(bound / 10)
            .stale_after(bound);
        Governance::builder(app.clone(), keys())
            .strict()
            .journal(directory.settings())
            .pin_scope(policy("a"))
            .halt(halts)
            .connect()
    };
    let mut admin = connect(&test.options()).await;
    let mut later = admin.begin().await.unwrap();
    later
        .execute("LOCK TABLE portcullis.policy_revisions IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let opening = tokio::spawn(open(Duration::from_millis(400)));
    // What is halted has been read when the policies are asked for.
    let mut watcher = connect(&test.options()).await;
    while waiting(&mut watcher).await == 0 {
        tokio::task::yield_now().await;
    }
    let mut halts = connect(&test.options()).await;
    let mut hung = halts.begin().await.unwrap();
    hung.execute("LOCK TABLE portcullis.halts, portcullis.halt_epochs IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    // It says so itself.
    let said = "SELECT count(*) FROM portcullis.entries WHERE kind = 'halt.state_stale'";
    while sqlx::query_scalar::<_, i64>(said)
        .fetch_one(&mut watcher)
        .await
        .unwrap()
        == 0
    {
        tokio::task::yield_now().await;
    }
    later.rollback().await.unwrap();

    let Err(ConnectError::Unprotected(missing)) = opening.await.unwrap() else {
        panic!("it opened");
    };
    let [missing] = missing.missing() else {
        panic!("{missing}");
    };
    assert!(missing.starts_with("halt: what is known of halts is"));
    hung.rollback().await.unwrap();
    // With a database that answers, the same opens.
    let gov = open(Duration::from_secs(30)).await.unwrap();
    gov.shutdown().await;
}

/// How many sessions wait for a lock of a table.
async fn waiting(watcher: &mut sqlx::PgConnection) -> i64 {
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                    WHERE NOT l.granted AND c.relname = 'policy_revisions'";
    sqlx::query_scalar(waiting)
        .fetch_one(watcher)
        .await
        .unwrap()
}
