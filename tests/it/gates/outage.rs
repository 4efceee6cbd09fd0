//! The database goes away, or hangs: line by line of the module's table.

use tokio::time::Instant;

use portcullis::ErrorKind;
use portcullis::audit::JournalSettings;
use portcullis::gates::{ApprovalNotice, ApprovalNotifier, NotifyError, NotifyFuture};

use super::*;
use crate::common::journal::Directory;
use crate::common::proxy::{Fault, Proxy, Statement};

const DEADLINE: Duration = Duration::from_secs(2);

struct Far {
    test: TestDatabase,
    proxy: Proxy,
    gov: Governance,
}

async fn far(journal: JournalSettings) -> Far {
    let test = TestDatabase::fresh().await.unwrap();
    let near = crate::common::governance(&test.database()).await.unwrap();
    near.gates().register(policy()).await.unwrap();
    near.shutdown().await;
    let proxy = Proxy::before(&test.options()).await;
    let through = Database::options(proxy.options()).statement_timeout(DEADLINE);
    let gov = Governance::builder(through, keys())
        .journal(journal)
        .connect()
        .await
        .unwrap();
    Far { test, proxy, gov }
}

#[tokio::test]
async fn f43_a_request_in_an_outage_is_kept_said_and_stored_when_it_is_over() {
    let directory = Directory::fresh();
    let far = far(directory.settings()).await;
    let gates = far.gov.gates();
    far.proxy.down();
    let asked = gates.request(&refund(900), Ask::policy()).await.unwrap();
    let Requested::Journalled { id } = asked else {
        panic!("{asked:?}");
    };
    assert_eq!(asked.state(), None);
    // Again, and by the call itself: the same one, and said so.
    assert_eq!(
        gates.request(&refund(900), Ask::policy()).await.unwrap(),
        asked
    );
    let error = gates.redeem(&refund(900), Ask::policy()).await.unwrap_err();
    assert_eq!(error, GateError::Journalled { request: id });
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.retry_after().is_some());
    // Nothing is decided meanwhile.
    let erin = ApproverRef::parse("user:erin").unwrap();
    let decided = gates
        .decide(id, &erin, Decision::grant())
        .await
        .unwrap_err();
    assert_eq!(decided.kind(), ErrorKind::Unavailable);
    far.proxy.up();
    let waited = loop {
        // Whoever waits hears of it once it is stored.
        match gates.wait(id, Duration::from_millis(100)).await {
            Ok(found) => break found,
            Err(GateError::NoRequest) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
    };
    assert_eq!(waited.state, RequestState::Pending);
    let found = gates.request(&refund(900), Ask::policy()).await.unwrap();
    assert_eq!(
        (found.id(), found.state()),
        (id, Some(RequestState::Pending))
    );
    gates.decide(id, &erin, Decision::grant()).await.unwrap();
    gates
        .redeem(&refund(900), Ask::policy())
        .await
        .unwrap()
        .use_up()
        .await
        .unwrap();
    far.gov.shutdown().await;
    let near = crate::common::governance(&far.test.database())
        .await
        .unwrap();
    let requested = recorded(&far.test, &near, "gate.requested").await;
    assert_eq!(requested.len(), 1);
    assert_eq!(requested[0]["decision"], "journalled");
    assert!(near.audit().verify_all().await.unwrap().is_clean());
}

#[tokio::test]
async fn f43_what_a_process_kept_before_it_died_is_stored_by_another_one() {
    let directory = Directory::fresh();
    let far = far(directory.settings()).await;
    far.proxy.down();
    let id = far
        .gov
        .gates()
        .request(&refund(900), Ask::policy())
        .await
        .unwrap()
        .id();
    far.gov.shutdown().await;
    drop(far.gov);
    let next = Governance::builder(far.test.database(), keys())
        .journal(directory.settings())
        .connect()
        .await
        .unwrap();
    next.audit().drain().await.unwrap();
    assert_eq!(
        next.gates().find(id).await.unwrap().state,
        RequestState::Pending
    );
}

#[tokio::test]
async fn f43_what_was_refused_is_not_asked_again_by_way_of_the_journal() {
    let directory = Directory::fresh();
    let far = far(directory.settings()).await;
    let gates = far.gov.gates();
    let erin = ApproverRef::parse("user:erin").unwrap();
    let no = gates
        .request(&refund(900), Ask::policy())
        .await
        .unwrap()
        .id();
    gates.decide(no, &erin, Decision::deny()).await.unwrap();
    far.proxy.down();
    let kept = gates.request(&refund(900), Ask::policy()).await.unwrap();
    assert_eq!(kept.state(), None);
    far.gov.shutdown().await;
    drop(far.gov);
    let next = Governance::builder(far.test.database(), keys())
        .journal(directory.settings())
        .connect()
        .await
        .unwrap();
    next.audit().drain().await.unwrap();
    let found = next.gates().find(kept.id()).await;
    assert_eq!(found, Err(GateError::NoRequest));
    let again = next.gates().redeem(&refund(900), Ask::policy()).await;
    assert_eq!(again.unwrap_err(), GateError::Denied { request: no });
}

#[tokio::test]
async fn f43_without_a_journal_the_caller_is_told_that_nobody_was_asked() {
    let far = far(JournalSettings::off()).await;
    far.proxy.down();
    let asked = far.gov.gates().request(&refund(900), Ask::policy()).await;
    assert!(matches!(asked, Err(GateError::Audit(_))), "{asked:?}");
    let error = far
        .gov
        .gates()
        .redeem(&refund(900), Ask::policy())
        .await
        .unwrap_err();
    assert!(matches!(error, GateError::Audit(_)), "{error:?}");
}

#[tokio::test]
async fn a_hung_database_holds_nobody_up_past_the_deadline() {
    let directory = Directory::fresh();
    let far = far(directory.settings()).await;
    let gates = far.gov.gates();
    let id = gates.request(&refund(1), Ask::policy()).await.unwrap().id();
    let erin = ApproverRef::parse("user:erin").unwrap();
    // Each may take its deadline, and the journal's on top; not one more.
    let bound = 3 * DEADLINE;

    far.proxy
        .inject_into(Statement::With("SET voters ="), Fault::Hang);
    let started = Instant::now();
    let decided = gates
        .decide(id, &erin, Decision::grant())
        .await
        .unwrap_err();
    assert_eq!(decided.kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() < bound);

    gates.decide(id, &erin, Decision::grant()).await.unwrap();
    far.proxy
        .inject_into(Statement::With("SET held_by = $4"), Fault::Hang);
    let started = Instant::now();
    // The take hung; what is found then is a grant that it may or may not hold.
    let taken = gates.redeem(&refund(1), Ask::policy()).await.unwrap_err();
    assert!(
        matches!(taken, GateError::NotHeld | GateError::Journalled { .. }),
        "{taken:?}"
    );
    assert!(started.elapsed() < bound);

    let held = gates.redeem(&refund(1), Ask::policy()).await.unwrap();
    far.proxy
        .inject_into(Statement::With("SET state = 'consumed'"), Fault::Hang);
    let started = Instant::now();
    let used = held.use_up().await.unwrap_err();
    assert_eq!(used.kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() < bound);

    far.proxy.inject_into(
        Statement::With("INSERT INTO portcullis.approval_requests"),
        Fault::Hang,
    );
    let started = Instant::now();
    let asked = gates.request(&refund(2), Ask::policy()).await.unwrap();
    assert!(matches!(asked, Requested::Journalled { .. }));
    assert!(started.elapsed() < bound);

    let started = Instant::now();
    far.proxy.inject_into(
        Statement::With("WHERE tenant_id = $1 AND request_id = $2"),
        Fault::Hang,
    );
    let _ = gates.wait(id, DEADLINE).await;
    assert!(started.elapsed() < bound);
}

#[tokio::test]
async fn an_answer_that_is_lost_when_an_approval_is_used_never_uses_it_twice() {
    let directory = Directory::fresh();
    let far = far(directory.settings()).await;
    let gates = far.gov.gates();
    let id = gates.request(&refund(1), Ask::policy()).await.unwrap().id();
    let erin = ApproverRef::parse("user:erin").unwrap();
    gates.decide(id, &erin, Decision::grant()).await.unwrap();
    let held = gates.redeem(&refund(1), Ask::policy()).await.unwrap();
    far.proxy.inject_into(
        Statement::With("SET state = 'consumed'"),
        Fault::CutAfterCommit,
    );
    let first = held.use_up().await;
    // Cut within the transaction it is rolled back, and the approval is given back: used at most once.
    let second = match gates.redeem(&refund(1), Ask::policy()).await {
        Ok(held) => held.use_up().await.is_ok(),
        Err(_) => false,
    };
    assert!(!(first.is_ok() && second));
    far.gov.shutdown().await;
    let near = crate::common::governance(&far.test.database())
        .await
        .unwrap();
    let consumed = recorded(&far.test, &near, "gate.consumed").await;
    assert!(consumed.len() <= 1);
}

#[derive(Debug)]
struct Fickle(std::sync::Mutex<(u32, tokio::sync::mpsc::UnboundedSender<ApprovalNotice>)>);

impl ApprovalNotifier for Fickle {
    fn notify<'a>(&'a self, notice: &'a ApprovalNotice) -> NotifyFuture<'a> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap();
            if state.0 > 0 {
                state.0 -= 1;
                return Err(NotifyError::Again("not yet"));
            }
            state.1.send(notice.clone()).unwrap();
            Ok(())
        })
    }
}

#[derive(Debug)]
struct Deaf;

impl ApprovalNotifier for Deaf {
    fn notify<'a>(&'a self, _: &'a ApprovalNotice) -> NotifyFuture<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn approvers_are_told_in_the_background_again_after_a_failure_and_nobody_waits() {
    let gate = Gate::with_policy().await;
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    gate.gates().notify_with(Deaf);
    gate.gates()
        .notify_with(Fickle(std::sync::Mutex::new((2, said))));
    let request = gate.ask(&refund(900)).await;
    let notice = heard.recv().await.unwrap();
    assert_eq!(
        (notice.request, notice.label.as_str()),
        (request.id, "refund")
    );
    assert_eq!(notice.expires_at, request.expires_at);
    assert!(!format!("{notice:?}").contains("inv_381"));
    // Found again: nobody is told twice.
    gate.ask(&refund(900)).await;
    gate.ask(&refund(901)).await;
    assert_ne!(heard.recv().await.unwrap().request, request.id);
}
