//! What an application's role may do, where an operator has one of its own.

use portcullis::gates::StandingGrant;
use sqlx::Executor as _;

use super::*;
use crate::common::connect;

#[tokio::test]
async fn f53_an_agents_role_asks_and_uses_and_can_decide_nothing() {
    let gate = Gate::with_policy().await;
    let mut admin = connect(&gate.test.options()).await;
    for role in ["portcullis_test_agents", "portcullis_test_people"] {
        let sql = sqlx::AssertSqlSafe(format!("CREATE ROLE {role}"));
        // Another test may have made it.
        let _ = admin.execute(sql).await;
    }
    portcullis::store::Migration::new(&gate.test.database())
        .app_role("portcullis_test_agents")
        .operator_role("portcullis_test_people")
        .run()
        .await
        .unwrap();
    let hour = Duration::from_hours(1);
    let lenient = policy().allow_standing(5, hour);
    gate.gates().register(lenient).await.unwrap();
    let advance = StandingGrant::of_call(&refund(3), 5, hour);
    let erin = ApproverRef::parse("user:erin").unwrap();
    gate.gates().grant_standing(advance, &erin).await.unwrap();
    let counted = gate.redeem(&refund(3)).await.unwrap();
    counted.use_up().await.unwrap();
    let id = gate.ask(&refund(1)).await.id;
    let used = gate.ask(&refund(2)).await.id;
    gate.grant(used).await;
    admin
        .execute("SET ROLE portcullis_test_agents")
        .await
        .unwrap();
    for sql in [
        "UPDATE portcullis.approval_requests SET voters = '{zoe}', approved_digest = call_digest, state = 'granted' WHERE state = 'pending'",
        "UPDATE portcullis.approval_requests SET voters = '{zoe}'",
        "UPDATE portcullis.approval_requests SET state = 'granted' WHERE state = 'pending'",
        "UPDATE portcullis.approval_requests SET state = 'denied' WHERE state = 'pending'",
        "UPDATE portcullis.approval_requests SET approvers = '{user:me}'",
        "UPDATE portcullis.approval_requests SET quorum = 1",
        "UPDATE portcullis.approval_requests SET barred = '{}'",
        "UPDATE portcullis.approval_requests SET expires_at = now() + interval '1 year'",
        "INSERT INTO portcullis.approval_teams (tenant_id, team_id, member_id) VALUES ('default', 'finance', 'me')",
        "INSERT INTO portcullis.approval_tokens (tenant_id, token_id, request_id, used_at) VALUES ('default', sha256('')::bytea, gen_random_uuid(), now())",
        "INSERT INTO portcullis.approval_grants SELECT * FROM portcullis.approval_grants",
        "UPDATE portcullis.approval_grants SET expires_at = now() + interval '1 year'",
        "UPDATE portcullis.approval_grants SET uses_left = uses_left + 1",
        "UPDATE portcullis.approval_grants SET uses_left = 5",
        "DELETE FROM portcullis.approval_requests",
        "UPDATE portcullis.policies SET document = NULL",
        "UPDATE portcullis.policy_revisions SET revision = 9",
        "ALTER TABLE portcullis.approval_requests DISABLE TRIGGER ALL",
    ] {
        assert!(admin.execute(sql).await.is_err(), "{sql}");
    }
    let held = "UPDATE portcullis.approval_requests SET held_by = gen_random_uuid() WHERE state = 'granted'";
    assert_eq!(admin.execute(held).await.unwrap().rows_affected(), 1);
    let done = "UPDATE portcullis.approval_requests SET state = 'consumed', ended_at = now() WHERE state = 'granted'";
    assert_eq!(admin.execute(done).await.unwrap().rows_affected(), 1);
    assert_eq!(gate.state(id).await, RequestState::Pending);
}
