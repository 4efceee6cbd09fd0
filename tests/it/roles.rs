//! The database roles of the application and of operators, as real roles meet the whole crate.

use portcullis::cost::{Budget, CostError, OnLimit, TopUp};
use portcullis::gates::{ApprovalPolicy, ApproverRef, Decision, GateError, StandingGrant};
use portcullis::halt::Target;
use portcullis::loops::LoopPolicy;
use portcullis::scope::ScopePolicy;
use portcullis::store::{MigrateError, Migration, StoreFault, TestDatabase};
use portcullis::{
    AgentId, BudgetName, Call, Ceiling, Gate, Governance, OperatorId, Outcome, Principal,
    RequestId, SessionId, Usd,
};
use serde_json::json;
use sqlx::{ConnectOptions as _, Executor as _};

use crate::common::{connect, governance};
use crate::retention::as_role;

const APP: &str = "portcullis_test_acting";
const OPERATOR: &str = "portcullis_test_deciding";
const BUDGET: &str = "agent:billing-agent";

fn agent() -> AgentId {
    AgentId::parse("billing-agent").unwrap()
}

fn me() -> Principal {
    Principal::agent(agent())
        .session(SessionId::parse("s-1").unwrap())
        .operated_by(OperatorId::parse("user:dana").unwrap())
}

fn anna() -> OperatorId {
    OperatorId::parse("user:anna").unwrap()
}

fn erin() -> ApproverRef {
    ApproverRef::parse("user:erin").unwrap()
}

fn scope() -> ScopePolicy {
    ScopePolicy::new(agent())
        .allow_tools(["refund", "read"])
        .unwrap()
}

fn asks() -> ApprovalPolicy {
    let policy = ApprovalPolicy::new(agent());
    let policy = policy.require_for_tools(["refund"]).unwrap();
    policy
        .approvers(["user:erin"])
        .unwrap()
        .allow_standing(5, std::time::Duration::from_hours(1))
}

fn budget() -> Budget {
    Budget::for_agent(agent())
        .per_day(Usd::dollars(1))
        .on_limit(OnLimit::Ask)
}

fn refund() -> Call {
    Call::tool(&me(), "refund").args(&json!({"invoice": "inv_381"}))
}

fn read(dollars: u32) -> Call {
    Call::tool(&me(), "read").ceiling(Ceiling::usd(Usd::dollars(dollars.into())))
}

/// A database whose application was named before its operators.
async fn split() -> TestDatabase {
    split_between(APP, OPERATOR).await
}

/// The same with roles of its own: roles are the cluster's, and what is granted to one of them is granted
/// in the databases of all tests.
async fn split_between(app_role: &'static str, operator_role: &'static str) -> TestDatabase {
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    for role in [app_role, operator_role] {
        let made = format!(
            "DO $$ BEGIN CREATE ROLE {role};
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        admin.execute(sqlx::AssertSqlSafe(made)).await.unwrap();
    }
    let database = test.database();
    Migration::new(&database)
        .app_role(app_role)
        .run()
        .await
        .unwrap();
    // Where nobody operates, the application does.
    let app = governance(&as_role(&test, app_role)).await.unwrap();
    app.scope().register(scope()).await.unwrap();
    app.cost().register(budget()).await.unwrap();
    app.gates().register(asks()).await.unwrap();
    app.shutdown().await;
    let operators = Migration::new(&database).operator_role(operator_role);
    operators.run().await.unwrap();
    test
}

async fn both(test: &TestDatabase) -> (Governance, Governance) {
    let app = governance(&as_role(test, APP)).await.unwrap();
    (app, governance(&as_role(test, OPERATOR)).await.unwrap())
}

/// Everything that only an operator may do, and what the application is answered.
async fn try_to_decide(gov: &Governance, request: RequestId) {
    let more = TopUp::new(BudgetName::parse(BUDGET).unwrap(), Usd::dollars(9), anna());
    let team = ApproverRef::parse("team:t").unwrap();
    let standing = StandingGrant::of_call(&refund(), 1, std::time::Duration::from_mins(1));
    let cost = |error: CostError| match error {
        CostError::Store(error) => error.fault(),
        other => panic!("{other}"),
    };
    let gates = |error: GateError| match error {
        GateError::Store(error) => error.fault(),
        other => panic!("{other}"),
    };
    let forbidden = |what: &str, fault: StoreFault| {
        assert_eq!(fault, StoreFault::Forbidden, "{what}");
    };
    let fault = gov.cost().register(budget()).await.unwrap_err();
    forbidden("budget", cost(fault));
    let name = BudgetName::parse(BUDGET).unwrap();
    let fault = gov.cost().remove(&name).await.unwrap_err();
    forbidden("remove a budget", cost(fault));
    let fault = gov.cost().top_up(&more).await.unwrap_err();
    forbidden("top up", cost(fault));
    let fault = gov.gates().register(asks().quorum(1)).await.unwrap_err();
    forbidden("approval policy", gates(fault));
    let fault = gov.gates().register_team(&team, [erin()]).await;
    forbidden("team", gates(fault.unwrap_err()));
    let decided = gov
        .gates()
        .decide(request, &erin(), Decision::grant())
        .await;
    forbidden("decide", gates(decided.unwrap_err()));
    let minute = std::time::Duration::from_mins(1);
    let token = gov
        .gates()
        .token_for(request, &erin(), &Decision::grant(), minute)
        .await;
    forbidden("token", gates(token.unwrap_err()));
    let granted = gov.gates().grant_standing(standing, &erin()).await;
    forbidden("in advance", gates(granted.unwrap_err()));
    let scoped = gov.scope().register(scope().allow_any_model()).await;
    assert!(scoped.unwrap_err().to_string().contains("42501"));
    let looped = gov.loops().register(LoopPolicy::for_any_agent()).await;
    assert!(looped.unwrap_err().to_string().contains("42501"));
}

#[tokio::test(flavor = "multi_thread")]
async fn f53_the_applications_role_halts_asks_and_reserves_and_decides_nothing() {
    let test = split().await;
    let (app, operator) = both(&test).await;
    let permit = app.authorize(&read(1)).await.unwrap();
    permit
        .settle(Outcome::completed().cost(Usd::dollars(1)))
        .await;
    let refusal = app.authorize(&refund()).await.unwrap_err();
    assert_eq!(refusal.gate(), Gate::Approval, "{refusal}");
    let request = refusal.request().unwrap();
    try_to_decide(&app, request).await;
    // Named again by itself, it gets nothing back.
    let database = test.database();
    Migration::new(&database).app_role(APP).run().await.unwrap();
    try_to_decide(&app, request).await;

    // It goes on with what operators decided.
    operator
        .gates()
        .decide(request, &erin(), Decision::grant())
        .await
        .unwrap();
    let permit = app.authorize(&refund()).await.unwrap();
    permit.settle(Outcome::completed()).await;
    // A limit that people agreed to raise is raised, once.
    let refusal = app.authorize(&read(1)).await.unwrap_err();
    assert_eq!(refusal.gate(), Gate::Approval, "{refusal}");
    let raise = refusal.request().unwrap();
    operator
        .gates()
        .decide(raise, &erin(), Decision::grant())
        .await
        .unwrap();
    let permit = app.authorize(&read(1)).await.unwrap();
    permit
        .settle(Outcome::completed().cost(Usd::dollars(1)))
        .await;
    let again = app.authorize(&read(1)).await.unwrap_err();
    assert_ne!(again.request(), Some(raise));

    // Anybody halts; and who decides does all that the application does.
    let target = Target::agent_of(&me());
    app.halt().halt(&target, &anna(), "enough").await.unwrap();
    assert!(app.halt().resume(&target, &anna(), "x").await.is_err());
    operator
        .halt()
        .resume(&target, &anna(), "looked")
        .await
        .unwrap();
    let more = TopUp::new(BudgetName::parse(BUDGET).unwrap(), Usd::dollars(9), anna());
    assert!(operator.cost().top_up(&more).await.unwrap());
    operator
        .scope()
        .register(scope().allow_any_model())
        .await
        .unwrap();
    let lowered = Budget::for_agent(agent()).per_day(Usd::dollars(5));
    operator.cost().register(lowered).await.unwrap();
    app.shutdown().await;
    operator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f53_nor_by_hand_past_this_crate() {
    let test = split().await;
    let (app, operator) = both(&test).await;
    let permit = app.authorize(&read(1)).await.unwrap();
    permit
        .settle(Outcome::completed().cost(Usd::dollars(1)))
        .await;
    let request = app.authorize(&refund()).await.unwrap_err().request();
    operator
        .gates()
        .decide(request.unwrap(), &erin(), Decision::grant())
        .await
        .unwrap();
    let permit = app.authorize(&refund()).await.unwrap();
    permit.settle(Outcome::completed()).await;
    let used = request.unwrap();
    // People agreed that one limit is raised, and it was; another one is charged along with it.
    let other = Budget::for_agent(agent())
        .per_session(Usd::dollars(50))
        .on_limit(OnLimit::Ask)
        .named(BudgetName::parse("other").unwrap());
    operator.cost().register(other).await.unwrap();
    let request = app.authorize(&read(1)).await.unwrap_err().request();
    let raised = request.unwrap();
    operator
        .gates()
        .decide(raised, &erin(), Decision::grant())
        .await
        .unwrap();
    let permit = app.authorize(&read(1)).await.unwrap();
    permit
        .settle(Outcome::completed().cost(Usd::dollars(1)))
        .await;
    let raise = |id: &str| {
        format!(
            "INSERT INTO portcullis.budget_raises (tenant_id, raise_id, budget, period, window_key, usd, tokens, calls, raised_at)
             SELECT w.tenant_id, {id}, w.budget, w.period, w.window_key, 9, 0, 0, now() FROM portcullis.budget_windows w"
        )
    };
    let attacks = [
        "UPDATE portcullis.budgets SET usd_limit = NULL".to_owned(),
        "INSERT INTO portcullis.budgets SELECT * FROM portcullis.budgets".to_owned(),
        "DELETE FROM portcullis.budgets".to_owned(),
        "UPDATE portcullis.budget_windows SET usd_limit = usd_limit + 1".to_owned(),
        "UPDATE portcullis.budget_windows SET usd_limit = NULL".to_owned(),
        "UPDATE portcullis.budget_windows SET raised_usd = 9".to_owned(),
        "UPDATE portcullis.budget_windows SET window_key = '1999-01-01', raised_calls = 9".to_owned(),
        "INSERT INTO portcullis.budget_windows (tenant_id, budget, period, window_key, usd_limit, opened_at)
         SELECT w.tenant_id, w.budget, w.period, '2999-01-01', 9 * w.usd_limit, now() FROM portcullis.budget_windows w"
            .to_owned(),
        raise("gen_random_uuid()::text"),
        raise("'x'"),
        // What was agreed to was a call, and no raise.
        raise(&format!("'{used}'")),
        // What was agreed to was another limit, and has been raised.
        format!("{} WHERE w.budget = 'other'", raise(&format!("'{raised}'"))),
        "DELETE FROM portcullis.budget_raises".to_owned(),
        "DELETE FROM portcullis.budget_windows".to_owned(),
        "INSERT INTO portcullis.roles VALUES ('portcullis_test_acting2', 'operator')".to_owned(),
        "UPDATE portcullis.roles SET part = 'operator'".to_owned(),
        "DELETE FROM portcullis.roles".to_owned(),
    ];
    for attack in attacks {
        let as_app = test.options().options([("role", APP)]);
        let mut session = as_app.connect().await.unwrap();
        let sql = sqlx::AssertSqlSafe(attack.clone());
        let error = session.execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{attack}: {error}");
    }
    app.shutdown().await;
    operator.shutdown().await;
}

#[tokio::test]
async fn f53_an_operators_role_is_no_applications_and_its_loss_gives_nothing_back() {
    const APP: &str = "portcullis_test_acting_alone";
    const OPERATOR: &str = "portcullis_test_deciding_alone";
    let test = split_between(APP, OPERATOR).await;
    let database = test.database();
    // The operators' role, named as an application's.
    let same = Migration::new(&database).app_role(OPERATOR).run().await;
    assert!(matches!(same, Err(MigrateError::SharedRole)), "{same:?}");
    // A role that may become an operator, whoever is named.
    let mut admin = connect(&test.options()).await;
    for (verb, ok) in [("GRANT {o} TO {a}", false), ("REVOKE {o} FROM {a}", true)] {
        let sql = verb.replace("{o}", OPERATOR).replace("{a}", APP);
        admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        let done = Migration::new(&database)
            .operator_role(OPERATOR)
            .run()
            .await;
        assert_eq!(done.is_ok(), ok, "{done:?}");
    }
    // A role that is gone is still one that was there.
    let gone = "INSERT INTO portcullis.roles VALUES ('portcullis_test_never_was', 'operator');
                DELETE FROM portcullis.roles WHERE role_name = 'portcullis_test_deciding_alone'";
    sqlx::raw_sql(gone).execute(&mut admin).await.unwrap();
    Migration::new(&database).app_role(APP).run().await.unwrap();
    let app = governance(&as_role(&test, APP)).await.unwrap();
    assert!(
        app.scope()
            .register(scope().allow_any_model())
            .await
            .is_err()
    );
    app.shutdown().await;
    // Unless the owner of the tables says that there are no operators any more.
    admin
        .execute("DELETE FROM portcullis.roles WHERE part = 'operator'")
        .await
        .unwrap();
    Migration::new(&database).app_role(APP).run().await.unwrap();
    let app = governance(&as_role(&test, APP)).await.unwrap();
    app.scope()
        .register(scope().allow_any_model())
        .await
        .unwrap();
    app.shutdown().await;
}

/// Some of them run as the owner: whoever could attach one to a table of his own would choose what else
/// runs so.
#[tokio::test]
async fn f53_nobody_but_our_own_triggers_runs_our_functions() {
    let test = split().await;
    let mut admin = connect(&test.options()).await;
    let functions: Vec<String> = sqlx::query_scalar(
        "SELECT p.proname::text FROM pg_catalog.pg_proc p
          WHERE p.pronamespace = 'portcullis'::regnamespace AND p.prorettype = 'trigger'::regtype",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(functions.len() > 10, "{functions:?}");
    let as_app = test.options().options([("role", APP)]);
    let mut session = as_app.connect().await.unwrap();
    session
        .execute("CREATE TEMPORARY TABLE mine (tenant_id text)")
        .await
        .unwrap();
    for function in functions {
        let attack = format!(
            "CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION portcullis.{function}()"
        );
        let error = session.execute(sqlx::AssertSqlSafe(attack)).await;
        assert_eq!(code(&error.unwrap_err()), "42501", "{function}");
    }

    let gov = governance(&test.database()).await.unwrap();
    let looked = async || {
        let checks = gov.health().await.store.unwrap().checks;
        checks.into_iter().find(|check| check.name == "functions")
    };
    assert!(looked().await.unwrap().ok);
    admin
        .execute("GRANT EXECUTE ON FUNCTION portcullis.order_resumption() TO PUBLIC")
        .await
        .unwrap();
    let found = looked().await.unwrap();
    assert!(!found.ok && found.detail.contains("order_resumption"));
    // The remedy that it names.
    Migration::new(&test.database()).run().await.unwrap();
    assert!(looked().await.unwrap().ok);
    gov.shutdown().await;
}

/// A function of ours means the same whoever writes: names are not looked up where the writer says.
#[tokio::test]
async fn f53_what_our_functions_names_mean_is_not_the_writers_choice() {
    let test = split().await;
    let mut admin = connect(&test.options()).await;
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT p.proname::text FROM pg_catalog.pg_proc p
          WHERE p.pronamespace = 'portcullis'::regnamespace AND p.prorettype = 'trigger'::regtype
            AND NOT coalesce(p.proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp']",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(open.is_empty(), "{open:?}");
    let schema = format!("CREATE SCHEMA mine AUTHORIZATION {APP}");
    admin.execute(sqlx::AssertSqlSafe(schema)).await.unwrap();
    let app = governance(&as_role(&test, APP)).await.unwrap();
    let permit = app.authorize(&read(1)).await.unwrap();
    permit
        .settle(Outcome::completed().cost(Usd::dollars(1)))
        .await;
    let as_app = test.options().options([("role", APP)]);
    let mut session = as_app.connect().await.unwrap();
    // It says that the role may write budgets.
    session
        .execute(
            "CREATE FUNCTION mine.has_column_privilege(text, text, text) RETURNS boolean
             LANGUAGE sql AS 'SELECT true'",
        )
        .await
        .unwrap();
    session
        .execute("SET search_path = mine, pg_catalog")
        .await
        .unwrap();
    let raise = session
        .execute(
            "INSERT INTO portcullis.budget_raises (tenant_id, raise_id, budget, period, window_key, usd, tokens, calls, raised_at)
             SELECT w.tenant_id, 'x', w.budget, w.period, w.window_key, 9, 0, 0, now() FROM portcullis.budget_windows w",
        )
        .await;
    assert_eq!(code(&raise.unwrap_err()), "42501");
    app.shutdown().await;
}

#[tokio::test]
async fn f53_an_application_that_may_become_the_owner_is_refused() {
    const OWNED: &str = "portcullis_test_owned";
    let test = TestDatabase::fresh().await.unwrap();
    let mut admin = connect(&test.options()).await;
    let made = format!(
        "DO $$ BEGIN CREATE ROLE {OWNED};
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    admin.execute(sqlx::AssertSqlSafe(made)).await.unwrap();
    let owner: String = sqlx::query_scalar("SELECT quote_ident(current_user)")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    for (verb, ok) in [("GRANT {o} TO {a}", false), ("REVOKE {o} FROM {a}", true)] {
        let sql = verb.replace("{o}", &owner).replace("{a}", OWNED);
        admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        let done = Migration::new(&test.database()).app_role(OWNED).run().await;
        let refused = matches!(done, Err(MigrateError::SharedRole));
        assert_eq!((done.is_ok(), refused), (ok, !ok), "{done:?}");
    }
}

fn code(error: &sqlx::Error) -> String {
    let error = error.as_database_error();
    let code = error.and_then(sqlx::error::DatabaseError::code);
    code.unwrap_or_default().into_owned()
}
