//! The gates for programs without a runtime. No test here is `async`: that is the point.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use portcullis::audit::{AuditEvent, Entry, JournalSettings, Query};
use portcullis::blocking::{Governance, block_on};
use portcullis::contracts::{Condition, Contract, ContractError, Ending, Promise};
use portcullis::cost::{Budget, Resolution, Spent};
use portcullis::coverage::Wrapped;
use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision, GateError, RequestState};
use portcullis::halt::Target;
use portcullis::loops::{LoopAction, LoopPolicy};
use portcullis::presence::{Filter, State};
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{
    AgentId, Call, Ceiling, Database, ErrorKind, Gate, OperatorId, Outcome, Permit, Principal,
    RunError, TenantId, Usd,
};
use serde_json::json;
use tokio::runtime::{Handle, Runtime};

use crate::common::proxy::{Fault, Proxy};
use crate::common::{connect, keys, principal};

fn fresh() -> TestDatabase {
    block_on(TestDatabase::fresh()).unwrap()
}

fn open(database: &Database) -> Governance {
    Governance::builder(database.clone(), keys())
        .connect_blocking()
        .unwrap()
}

/// A handle whose agent may read invoices and charge cards, for a thousand dollars.
fn governed(test: &TestDatabase) -> (Governance, Principal) {
    let gov = open(&test.database());
    allow(&gov);
    (gov, principal("billing-agent"))
}

fn allow(gov: &Governance) {
    let agent = AgentId::parse("billing-agent").unwrap();
    let policy = ScopePolicy::new(agent.clone())
        .allow_tools(["read_invoice", "charge_card"])
        .unwrap();
    gov.scope().register(policy).unwrap();
    let budget = Budget::for_agent(agent).per_session(Usd::dollars(1_000));
    gov.cost().register(budget).unwrap();
}

fn read_invoice(me: &Principal) -> Call {
    Call::tool(me, "read_invoice").args(&json!({"invoice": "inv_381"}))
}

fn charge_card(me: &Principal) -> Call {
    Call::tool(me, "charge_card").ceiling(Ceiling::usd(Usd::dollars(1)))
}

fn anna() -> OperatorId {
    OperatorId::parse("user:anna").unwrap()
}

/// What the trail of the session says, in order.
fn kinds(gov: &Governance, me: &Principal) -> Vec<String> {
    let query = Query::all().session(me.session_id()).limit(500);
    let of = |entry: &Entry| match &entry.decision {
        Some(decision) => format!("{} {decision}", entry.kind),
        None => entry.kind.to_string(),
    };
    let page = gov.audit().events(&query).unwrap();
    page.entries.iter().map(of).collect()
}

/// How many entries of `kind` there are, for somebody who has no handle.
fn count(test: &TestDatabase, kind: &str) -> i64 {
    block_on(async {
        let mut session = connect(&test.options()).await;
        sqlx::query_scalar("SELECT count(*) FROM portcullis.entries WHERE kind = $1")
            .bind(kind)
            .fetch_one(&mut session)
            .await
            .unwrap()
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let fixed = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(fixed).expect("a message")
}

#[test]
fn f54_calls_from_many_threads_over_one_pool_all_succeed() {
    let test = fresh();
    let (gov, _) = governed(&test);
    let work = |gov: &Governance| {
        // Each thread is a session of its own.
        let me = principal("billing-agent");
        for n in 0..40 {
            let done = gov.run(&read_invoice(&me), |_| Ok::<_, io::Error>(n));
            assert_eq!(done.unwrap(), n);
            gov.scope().check(&me, "read_invoice").unwrap();
            let held = gov
                .cost()
                .check_or_raise(&me, Ceiling::usd(Usd::dollars(1)));
            held.unwrap().release().unwrap();
        }
    };
    // Four that own their handle, and then four that borrow one.
    let owners: Vec<_> = (0..4)
        .map(|_| {
            let gov = gov.clone();
            thread::spawn(move || work(&gov))
        })
        .collect();
    for owner in owners {
        owner.join().unwrap();
    }
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| work(&gov));
        }
    });
    assert_eq!(count(&test, "tool.call.completed"), 8 * 40);
    let report = gov.audit().verify_all().unwrap();
    assert!(report.is_clean(), "{report}");
    gov.shutdown();
}

#[test]
fn f54_handles_that_are_made_again_and_again_find_the_pool_alive() {
    let test = fresh();
    // One pool, which outlives every handle.
    let database = test.database();
    allow(&open(&database));
    for round in 1..=6 {
        // As a program would that forks its workers: each from a thread that ends.
        let database = database.clone();
        let worker = thread::spawn(move || {
            let (gov, me) = (open(&database), principal("billing-agent"));
            gov.run(&read_invoice(&me), |_| Ok::<_, io::Error>(()))
                .unwrap();
            if round % 2 == 0 {
                gov.shutdown();
            }
        });
        worker.join().unwrap();
        assert_eq!(count(&test, "tool.call.completed"), round);
    }
}

/// However many handles are opened, one after another or at once, and whatever they are asked: one
/// runtime does it.
#[test]
fn f54_a_process_has_one_runtime_however_many_handles_it_opens() {
    let test = fresh();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = {
        let seen = Arc::clone(&seen);
        move || {
            let here = Handle::current().id();
            seen.lock().unwrap().push(here);
        }
    };
    let ask = || {
        let gov = open(&test.database());
        let (see, here) = (see.clone(), see.clone());
        let check = Condition::custom("where", Duration::from_secs(30), move |_| {
            see();
            async { Ok::<_, io::Error>(true) }
        });
        let contract = Contract::new("where").for_any().requires(check);
        gov.contracts().register(contract).unwrap();
        let call = read_invoice(&principal("billing-agent"));
        let guard = gov.contracts().guard(&call).unwrap();
        guard.finish(Ending::completed(&())).unwrap();
        block_on(async { here() });
        // Dropped, and not shut down: the next handle must not find the runtime gone with it.
    };
    ask();
    ask();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(ask);
        }
    });
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 6, "{seen:?}");
    assert!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
}

#[test]
fn two_handles_in_one_process_are_apart() {
    let (test, other) = (fresh(), fresh());
    let (one, me) = governed(&test);
    let (two, _) = governed(&other);
    let same = open(&test.database());
    let tenant = one.for_tenant(TenantId::parse("acme").unwrap()).unwrap();
    for (gov, allowed) in [(&one, true), (&two, true), (&same, true), (&tenant, false)] {
        let done = gov.run(&read_invoice(&me), |_| Ok::<_, io::Error>(()));
        assert_eq!(done.is_ok(), allowed, "{gov:?}");
    }
    assert_eq!(count(&test, "tool.call.completed"), 2);
    assert_eq!(count(&other, "tool.call.completed"), 1);
    // The end of one is not the end of another.
    drop(one);
    drop(two);
    assert!(tenant.health().store.is_ok(), "it answers");
    same.run(&read_invoice(&me), |_| Ok::<_, io::Error>(()))
        .unwrap();
    tenant.shutdown();
}

#[test]
fn a_closure_is_run_on_its_own_thread_with_the_proof_and_may_wait_for_other_things() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let here = thread::current().id();
    let mut seen = Vec::new(); // borrowed, and not sent anywhere
    let answer = gov.run(&charge_card(&me), |permit: &Permit| {
        assert_eq!(thread::current().id(), here);
        seen.extend(permit.call_id());
        permit.observe_cost(Usd::cents(7));
        // Ours, and another runtime altogether.
        let logged = gov.audit().log(AuditEvent::new(&me, "app.card.charged"));
        assert!(logged.committed().is_some());
        let inner = gov.run(&read_invoice(&me), |_| {
            gov.scope().check(&me, "read_invoice")?;
            Ok::<_, portcullis::scope::ScopeError>(35)
        });
        let theirs = Runtime::new()?.block_on(async { 7 });
        Ok::<_, io::Error>(inner.map_err(io::Error::other)? + theirs)
    });
    assert_eq!(answer.unwrap(), 42);
    assert_eq!(seen.len(), 1);
    assert_eq!(
        kinds(&gov, &me),
        [
            "policy.decision allow",
            "tool.call.started",
            "app.card.charged",
            "policy.decision allow",
            "tool.call.started",
            "tool.call.completed completed",
            "cost.recorded settled",
            "tool.call.completed completed"
        ]
    );
    let spent = gov.cost().snapshot(&me).unwrap();
    assert_eq!(spent.session().unwrap().usd.settled, Usd::cents(7));

    let failed = gov.run(&read_invoice(&me), |_| Err::<(), _>("no"));
    assert!(matches!(failed, Err(RunError::Failed("no"))));
    let mut begun = false;
    let refused = gov.run(&Call::tool(&me, "delete_invoice"), |_| {
        begun = true;
        Ok::<_, io::Error>(())
    });
    assert_eq!(refused.unwrap_err().refusal().unwrap().gate(), Gate::Scope);
    assert!(!begun);
}

/// What asks for the proof that every gate was passed.
fn charge(_proof: &Permit) -> Usd {
    Usd::cents(60)
}

#[test]
fn a_permit_is_settled_released_or_of_unknown_outcome() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let charged = |gov: &Governance| {
        let spent = gov.cost().snapshot(&me).unwrap();
        let usd = spent.session().unwrap().usd;
        (usd.settled, usd.held, usd.unknown)
    };

    let permit = gov.authorize(&charge_card(&me)).unwrap();
    assert_eq!(charged(&gov), (Usd::ZERO, Usd::dollars(1), Usd::ZERO));
    let cost = charge(&permit);
    let settled = permit.settle(Outcome::completed().cost(cost));
    assert!(settled.receipt.committed().is_some());
    assert_eq!(charged(&gov), (Usd::cents(60), Usd::ZERO, Usd::ZERO));

    let released = gov.authorize(&charge_card(&me)).unwrap().release();
    assert!(released.receipt.committed().is_some());
    assert_eq!(charged(&gov), (Usd::cents(60), Usd::ZERO, Usd::ZERO));

    // Dropped, and dropped by a panic.
    let permit = gov.authorize(&charge_card(&me)).unwrap();
    let unknown = permit.reservation_id().unwrap();
    drop(permit);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        gov.run(&charge_card(&me), |_| -> Result<(), io::Error> {
            panic!("in the middle of it")
        })
    }));
    assert_eq!(said(&*panicked.unwrap_err()), "in the middle of it");
    for _ in 0..500 {
        if charged(&gov).1 == Usd::ZERO {
            break;
        }
        thread::sleep(Duration::from_millis(10)); // they are ended behind the caller's back
    }
    assert_eq!(charged(&gov), (Usd::cents(60), Usd::ZERO, Usd::dollars(2)));
    gov.cost().resolve(unknown, Resolution::Release).unwrap();
    assert_eq!(charged(&gov), (Usd::cents(60), Usd::ZERO, Usd::dollars(1)));
    // This thread still waits as before.
    gov.run(&read_invoice(&me), |_| Ok::<_, io::Error>(()))
        .unwrap();

    let held = gov.cost().reserve(&me, Ceiling::usd(Usd::dollars(1)));
    let held = held.unwrap();
    assert!(held.is_reserved(), "it reads as the reservation");
    held.settle(Spent::usd(Usd::cents(40))).unwrap();
    assert_eq!(charged(&gov), (Usd::dollars(1), Usd::ZERO, Usd::dollars(1)));
}

#[test]
fn within_a_runtime_every_wait_panics_and_says_what_to_do_instead() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let permit = gov.authorize(&charge_card(&me)).unwrap();
    let mut permit = Some(permit);
    let database = test.database();
    let waits: [(&str, &mut dyn FnMut()); 12] = [
        ("authorize", &mut || drop(gov.authorize(&read_invoice(&me)))),
        ("run", &mut || {
            drop(gov.run(&read_invoice(&me), |_| Ok::<_, io::Error>(())));
        }),
        ("log", &mut || {
            drop(gov.audit().log(AuditEvent::new(&me, "app.x")));
        }),
        ("check", &mut || {
            drop(gov.scope().check(&me, "read_invoice"));
        }),
        ("settle", &mut || {
            drop(permit.take().unwrap().settle(Outcome::completed()));
        }),
        ("halt", &mut || {
            drop(gov.halt().halt(&Target::Tenant, &anna(), "never"));
        }),
        ("pending", &mut || drop(gov.gates().pending(None))),
        ("loops", &mut || {
            drop(gov.loops().check(&me, "read_invoice", &1));
        }),
        ("flush", &mut || drop(gov.presence().flush())),
        ("guard", &mut || {
            drop(gov.contracts().guard(&read_invoice(&me)));
        }),
        ("connect", &mut || {
            drop(Governance::builder(database.clone(), keys()).connect_blocking());
        }),
        ("block_on", &mut || drop(block_on(database.migrate()))),
    ];
    let single = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let several = Runtime::new().unwrap();
    let refuses = |name: &str, wait: &mut dyn FnMut()| {
        let panic = catch_unwind(AssertUnwindSafe(wait)).expect_err(name);
        let said = said(&*panic);
        for words in [
            "within an async runtime",
            "portcullis::Governance",
            "thread",
        ] {
            assert!(said.contains(words), "{name}: {said}");
        }
    };
    for (name, wait) in waits {
        single.block_on(async { refuses(name, wait) });
    }
    let check = &mut || drop(gov.scope().check(&me, "read_invoice"));
    several.block_on(async { refuses("check", check) });
    // In the background's own tasks, and in a runtime within a closure of ours.
    block_on(async { refuses("check", check) });
    gov.run(&read_invoice(&me), |_| {
        several.block_on(async { refuses("check", check) });
        gov.scope().check(&me, "read_invoice")
    })
    .unwrap();
    // Nothing is left behind on this thread.
    gov.scope().check(&me, "read_invoice").unwrap();
}

#[test]
fn dropping_the_last_handle_drains_what_was_handed_over() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let call = gov.authorize(&charge_card(&me)).unwrap();
    let audit = gov.audit().clone();
    drop(gov);
    for n in 0..2_000 {
        audit.log_detached(AuditEvent::new(&me, "app.detached").with("n", n));
    }
    drop(audit);
    // The permit is a handle too, and its outcome is waited for.
    assert_eq!(count(&test, "tool.call.failed"), 0);
    drop(call);
    assert_eq!(count(&test, "app.detached"), 2_000);
    assert_eq!(count(&test, "tool.call.failed"), 1);
}

#[test]
fn a_tenants_handle_is_drained_with_the_last_of_all() {
    let test = fresh();
    let gov = open(&test.database());
    let tenant = gov.for_tenant(TenantId::parse("acme").unwrap()).unwrap();
    let me = principal("a");
    for n in 0..500 {
        tenant
            .audit()
            .log_detached(AuditEvent::new(&me, "app.detached").with("n", n));
    }
    drop(tenant);
    drop(gov);
    assert_eq!(count(&test, "app.detached"), 500);
}

#[test]
fn dropping_the_last_handle_waits_no_longer_than_it_says() {
    let test = fresh();
    let proxy = block_on(Proxy::before(&test.options()));
    let database = Database::options(proxy.options()).statement_timeout(Duration::from_mins(10));
    let gov = Governance::builder(database, keys())
        .journal(JournalSettings::off())
        .connect_blocking()
        .unwrap();
    let me = principal("a");
    gov.audit().append(AuditEvent::new(&me, "app.x")).unwrap();
    proxy.inject(Fault::Hang);
    gov.audit().log_detached(AuditEvent::new(&me, "app.x"));
    let before = tokio::time::Instant::now();
    drop(gov);
    assert!(before.elapsed() < Duration::from_mins(1));
}

#[test]
fn dropping_the_last_handle_within_a_runtime_neither_panics_nor_loses() {
    let test = fresh();
    let (gov, me) = governed(&test);
    gov.audit().log_detached(AuditEvent::new(&me, "app.x"));
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async move { drop(gov) });
    for _ in 0..500 {
        if count(&test, "app.x") == 1 {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("it was not drained");
}

#[test]
fn after_shutdown_everything_is_refused_and_dropping_waits_for_nothing() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let clone = gov.clone();
    gov.shutdown();
    let refusal = clone.authorize(&read_invoice(&me)).unwrap_err();
    assert_eq!(refusal.gate(), Gate::Evidence);
    assert_eq!(refusal.kind(), ErrorKind::Misuse);
    clone.shutdown();
}

#[test]
fn what_has_no_method_is_one_block_on_away() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let root = AuditEvent::new(&me, "app.root");
    let child = AuditEvent::new(&me, "app.child").caused_by(root.id());
    let (first, last) = (root.id(), child.id());
    gov.audit().append_all(vec![root, child]).unwrap();
    let lineage = gov.block_on(async |gov| gov.audit().ancestors(last).await);
    assert!(
        lineage
            .unwrap()
            .relatives
            .iter()
            .any(|one| one.entry.id == first)
    );
    assert_eq!(gov.as_async().tenant(), gov.tenant());

    gov.scope()
        .block_on(async |scope| scope.reload().await)
        .unwrap();
    gov.cost()
        .block_on(async |cost| cost.sweep().await)
        .unwrap();
    let query = Query::all().session(me.session_id());
    let mut follow = gov
        .audit()
        .block_on(async |audit| audit.follow(&query).from_beginning());
    let next = gov.audit().block_on(async |_| follow.next().await);
    assert_eq!(next.unwrap().id, first);
    let wrapped = Wrapped::new("http", "tools.example.com").unwrap();
    gov.coverage().register(&wrapped).count();
    let known = gov.coverage().block_on(async |known| known.list().await);
    assert_eq!(known.unwrap(), gov.coverage().list().unwrap());
}

#[test]
fn a_halt_refuses_a_blocking_call_and_ends_what_is_under_way() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let target = Target::agent_of(&me);
    let waiting = thread::spawn({
        let (gov, me) = (gov.clone(), me.clone());
        move || gov.halt().until_halted(&me)
    });
    let mut begun = false;
    let ended = gov.run(&charge_card(&me), |_| {
        begun = true;
        gov.halt().check(&me).unwrap();
        // An operator, on a thread of his own.
        thread::scope(|scope| {
            let halting = scope.spawn(|| gov.halt().halt(&target, &anna(), "looked wrong"));
            assert!(halting.join().unwrap().unwrap().changed);
        });
        assert!(gov.halt().check(&me).is_err(), "work can ask");
        Ok::<_, io::Error>(42)
    });
    assert!(begun);
    assert!(matches!(ended, Err(RunError::Halted(_))), "{ended:?}");
    assert_eq!(waiting.join().unwrap().by(), Some(&anna()));
    // What came of it is not known, and stays charged.
    let usd = gov.cost().snapshot(&me).unwrap().session().unwrap().usd;
    assert_eq!((usd.settled, usd.unknown), (Usd::ZERO, Usd::dollars(1)));

    let refused = gov.authorize(&read_invoice(&me)).unwrap_err();
    assert_eq!(refused.gate(), Gate::Halt);
    let mut begun = false;
    let refused = gov.run(&read_invoice(&me), |_| {
        begun = true;
        Ok::<_, io::Error>(())
    });
    assert!(matches!(refused, Err(RunError::Refused(_))) && !begun);
    assert_eq!(gov.halt().status().halted.len(), 1);

    let epoch = gov.halt().epoch();
    assert!(
        gov.halt()
            .resume(&target, &anna(), "fixed")
            .unwrap()
            .changed
    );
    assert_ne!(gov.halt().epoch(), epoch);
    gov.run(&read_invoice(&me), |_| Ok::<_, io::Error>(()))
        .unwrap();
}

#[test]
fn an_approval_is_asked_for_decided_on_another_thread_waited_for_and_used_once() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let me = me.operated_by(OperatorId::parse("user:dana").unwrap());
    let policy = ApprovalPolicy::new(me.agent_id().clone())
        .require_for_tools(["charge_card"])
        .unwrap()
        .approvers(["user:erin"])
        .unwrap();
    gov.gates().register(policy).unwrap();
    assert_eq!(gov.gates().policies().len(), 1);

    let call = charge_card(&me);
    let refused = gov.authorize(&call).unwrap_err();
    assert_eq!(refused.gate(), Gate::Approval);
    let id = gov.gates().request(&call, Ask::policy()).unwrap().id();
    assert_eq!(gov.gates().pending(None).unwrap()[0].id, id);
    let erin = ApproverRef::parse("user:erin").unwrap();
    let grant = |id| {
        // Somebody who is asked, on a thread of her own, while this one waits.
        thread::scope(|scope| {
            scope.spawn(|| {
                let decision = Decision::grant().because("seen the invoice");
                gov.gates().decide(id, &erin, decision).unwrap()
            });
            gov.gates().wait(id, Duration::from_mins(1)).unwrap()
        })
    };
    assert_eq!(grant(id).state, RequestState::Granted);
    gov.run(&call, |_| Ok::<_, io::Error>(())).unwrap();
    assert_eq!(gov.gates().find(id).unwrap().state, RequestState::Consumed);
    let again = gov.run(&call, |_| Ok::<_, io::Error>(()));
    assert_eq!(again.unwrap_err().refusal().unwrap().gate(), Gate::Approval);

    // Past the enforcement point: held, given back, held, used up.
    let other = call.clone().args(&json!({"invoice": "inv_382"}));
    let pending = gov.gates().redeem(&other, Ask::policy()).unwrap_err();
    let GateError::Pending { request } = pending else {
        panic!("{pending:?}");
    };
    assert!(
        gov.gates()
            .is_about(request, &json!({"invoice": "inv_382"}))
            .unwrap()
    );
    grant(request);
    let held = gov.gates().redeem(&other, Ask::policy()).unwrap();
    assert_eq!(held.request(), Some(request), "it reads as the approval");
    let twice = gov.gates().redeem(&other, Ask::policy());
    assert!(matches!(twice, Err(GateError::NotHeld)), "{twice:?}");
    held.give_back();
    let held = gov.gates().redeem(&other, Ask::policy()).unwrap();
    held.use_up().unwrap();
    assert_eq!(
        gov.gates().find(request).unwrap().state,
        RequestState::Consumed
    );
}

#[test]
fn a_contract_that_is_broken_refuses_before_and_fails_after() {
    let test = fresh();
    let (gov, me) = governed(&test);
    let contract = Contract::new("charges")
        .for_tools(["charge_card"])
        .requires(Condition::custom(
            "by_day",
            Duration::from_secs(30),
            async |about| Ok::<_, io::Error>(about.resource() != Some("night")),
        ))
        .ensures(Promise::result("has_id", |id: &String| {
            id.starts_with("ch_")
        }));
    gov.contracts().register(contract).unwrap();
    assert_eq!(gov.contracts().names(), ["charges"]);

    let call = charge_card(&me);
    let done = gov.run(&call, |_| Ok::<_, io::Error>("ch_1".to_owned()));
    assert_eq!(done.unwrap(), "ch_1");
    let broken = gov.run(&call, |_| Ok::<_, io::Error>("no id".to_owned()));
    assert!(matches!(broken, Err(RunError::Broken(_))), "{broken:?}");
    let mut begun = false;
    let unmet = gov.run(&call.clone().resource("night"), |_| {
        begun = true;
        Ok::<_, io::Error>("ch_2".to_owned())
    });
    assert_eq!(
        unmet.unwrap_err().refusal().unwrap().gate(),
        Gate::Contracts
    );
    assert!(!begun);

    // Around code that cannot be wrapped.
    let guard = gov.contracts().guard(&call).unwrap();
    guard.finish(Ending::completed(&"ch_3".to_owned())).unwrap();
    let guard = gov.contracts().guard(&call).unwrap();
    let broken = guard.finish(Ending::completed(&"no id".to_owned()));
    assert!(
        matches!(broken, Err(ContractError::Broken(_))),
        "{broken:?}"
    );
    drop(gov.contracts().guard(&call).unwrap());
    gov.shutdown();
    assert_eq!(count(&test, "contract.violated"), 4);
}

#[test]
fn loops_and_presence_need_no_runtime_either() {
    let test = fresh();
    let (gov, me) = governed(&test);
    gov.presence().heartbeat(&me);
    gov.presence().flush().unwrap();
    let state = |me: &Principal| {
        let filter = Filter::all().agent(me.agent_id().clone());
        let page = gov.presence().list(&filter).unwrap();
        page.sessions[0].state
    };
    assert_eq!(state(&me), State::Live);
    assert!(gov.presence().operators_of(me.agent_id()).unwrap().unknown);

    let policy = LoopPolicy::new(me.agent_id().clone()).repeats(3);
    gov.loops()
        .register(policy.action(LoopAction::Halt))
        .unwrap();
    assert_eq!(gov.loops().status().stored, 1);
    gov.loops().check(&me, "read_invoice", &1).unwrap();
    // What is only observed halts as well, from a thread without a runtime.
    for _ in 0..3 {
        gov.loops().observe(&me, "read_invoice", &1, b"the same");
    }
    assert!(gov.halt().check(&me).is_err());
    assert_eq!(state(&me), State::Halted);
    assert!(gov.loops().check(&me, "read_invoice", &2).is_err());
    assert!(gov.loops().remove(Some(me.agent_id())).unwrap());
}
