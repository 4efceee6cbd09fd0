//! The state machine, as the database itself keeps it.

use sqlx::PgPool;

use super::*;

const STATES: [&str; 7] = [
    "pending",
    "granted",
    "denied",
    "expired",
    "withdrawn",
    "consumed",
    "revoked",
];
const WAYS: [&str; 7] = [
    "pending>granted",
    "pending>denied",
    "pending>expired",
    "pending>withdrawn",
    "granted>consumed",
    "granted>expired",
    "granted>revoked",
];

/// A request that stands in `state`, by the ways that lead there.
async fn standing_in(pool: &PgPool, state: &str) -> String {
    let id = RequestId::new().to_string();
    sqlx::query(
        "INSERT INTO portcullis.approval_requests
                (tenant_id, request_id, subject, label, agent_id, session_id, operator_id, ancestors, call_digest,
                 frame_digest, policy_hash, state, approvers, quorum, barred, operator_known, voters, life_micros,
                 requested_at, expires_at, revision, terms_mac)
         VALUES ('default', $1::text::uuid, 'call', 't', 'a', 's', 'dana', '{}', sha256($1::text::bytea), sha256('f'), '', 'pending',
                 '{user:erin}', 1, '{dana,a}', true, '{}', 3600000000, now(), now() + interval '1 hour', 0,
                 decode(repeat('00', 64), 'hex'))",
    )
    .bind(&id)
    .execute(pool)
    .await
    .unwrap();
    let path: &[&str] = match state {
        "pending" => &[],
        "consumed" | "revoked" => &["granted", state],
        _ => &[state],
    };
    for next in path {
        step(pool, &id, next, "erin").await.unwrap();
    }
    id
}

/// What a program that goes past the crate would write to get to `state`.
async fn step(pool: &PgPool, id: &str, state: &str, voter: &str) -> Result<u64, String> {
    let decided = matches!(state, "granted" | "denied");
    if state == "consumed" {
        let hold = "UPDATE portcullis.approval_requests SET held_by = gen_random_uuid() WHERE request_id = $1::text::uuid AND held_by IS NULL";
        let _ = sqlx::query(hold).bind(id).execute(pool).await;
    }
    sqlx::query(
        "UPDATE portcullis.approval_requests
            SET state = $2,
                voters = CASE WHEN $3 THEN voters || $4::text ELSE voters END,
                approved_digest = CASE WHEN $2 = 'granted' THEN call_digest ELSE approved_digest END,
                ended_at = now()
          WHERE request_id = $1::text::uuid",
    )
    .bind(id)
    .bind(state)
    .bind(decided)
    .bind(voter)
    .execute(pool)
    .await
    .map(|done| done.rows_affected())
    .map_err(|error| error.to_string())
}

#[tokio::test]
async fn every_way_that_is_not_listed_is_impossible_in_the_database_too() {
    let test = TestDatabase::fresh().await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    let mut ways = Vec::new();
    for from in STATES {
        for to in STATES.into_iter().filter(|to| *to != from) {
            let id = standing_in(&pool, from).await;
            if step(&pool, &id, to, "erin").await.is_ok() {
                ways.push(format!("{from}>{to}"));
            }
        }
    }
    ways.sort_unstable();
    let mut wanted = WAYS;
    wanted.sort_unstable();
    assert_eq!(ways, wanted);
}

#[tokio::test]
async fn f53_the_database_refuses_what_the_crate_would_never_write() {
    let test = TestDatabase::fresh().await.unwrap();
    let pool = test.database().connect_pool().await.unwrap();
    // Whoever is barred is no voter; a quorum is a quorum; a decision is somebody's.
    let id = standing_in(&pool, "pending").await;
    for voter in ["dana", "a"] {
        assert!(step(&pool, &id, "granted", voter).await.is_err());
    }
    for (state, sql) in [
        (
            "pending",
            "SET state = 'granted', approved_digest = call_digest",
        ),
        ("pending", "SET state = 'denied'"),
        (
            "pending",
            "SET quorum = 2, state = 'granted', voters = '{erin}', approved_digest = call_digest",
        ),
        ("pending", "SET quorum = 0"),
        ("pending", "SET voters = '{erin,frank}'"),
        ("pending", "SET barred = '{}'"),
        ("voted", "SET voters = voters || '{erin}'"),
        (
            "voted",
            "SET voters = voters || '{erin}', state = 'granted', approved_digest = call_digest",
        ),
        ("pending", "SET call_digest = sha256('other')"),
        ("pending", "SET agent_id = 'b'"),
        ("pending", "SET policy_hash = repeat('a', 64)"),
        ("pending", "SET operator_known = false"),
        ("granted", "SET approved_digest = sha256('other')"),
        ("granted", "SET voters = '{}'"),
        ("granted", "SET voters = '{erin,frank}'"),
        ("granted", "SET approvers = '{user:zoe}'"),
        ("granted", "SET state = 'consumed'"),
        (
            "granted",
            "SET state = 'consumed', held_by = gen_random_uuid()",
        ),
        ("consumed", "SET ended_at = NULL"),
        ("denied", "SET expires_at = now() + interval '1 day'"),
    ] {
        let voted = state == "voted";
        let id = standing_in(&pool, if voted { "pending" } else { state }).await;
        if voted {
            let first = "UPDATE portcullis.approval_requests SET voters = '{erin}', quorum = 2 WHERE request_id = $1::text::uuid";
            sqlx::query(first).bind(&id).execute(&pool).await.unwrap();
        }
        let update = format!("UPDATE portcullis.approval_requests {sql} WHERE request_id = '{id}'");
        let done = sqlx::query(sqlx::AssertSqlSafe(update))
            .execute(&pool)
            .await;
        assert!(done.is_err(), "{state}: {sql}");
    }
    for sql in [
        "DELETE FROM portcullis.approval_requests",
        "TRUNCATE portcullis.approval_requests",
        "TRUNCATE portcullis.approval_tokens",
        "TRUNCATE portcullis.approval_grants",
    ] {
        assert!(sqlx::query(sql).execute(&pool).await.is_err(), "{sql}");
    }
    let granted = "INSERT INTO portcullis.approval_requests
        (tenant_id, request_id, subject, label, agent_id, session_id, ancestors, call_digest, frame_digest, policy_hash,
         state, approvers, quorum, barred, operator_known, voters, approved_digest, life_micros, requested_at, expires_at, revision, terms_mac)
        VALUES ('default', gen_random_uuid(), 'call', 't', 'a', 's', '{}', sha256('x'), sha256('f'), '', 'granted',
                '{user:erin}', 1, '{}', true, '{erin}', sha256('x'), 3600000000, now(), now() + interval '1 hour', 0, decode(repeat('00', 64), 'hex'))";
    assert!(sqlx::query(granted).execute(&pool).await.is_err());
}
