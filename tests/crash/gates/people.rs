//! Children that race to use what a person agreed to.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision, GateError};
use portcullis::{
    AgentId, Call, Governance, OperatorId, Permit, Principal, RequestId, RunError, SessionId,
};
use tokio::task::JoinSet;

use crate::round::random;

pub(crate) const AGENT: &str = "asker";
/// How many approvals there are for a session.
pub(crate) const APPROVALS: u32 = 60;
/// For how long all children go for the same one.
const SLOT: u64 = 25;
const TASKS: usize = 6;
/// How many tries are told at once.
const TOLD: u32 = 10;

fn me(session: &SessionId) -> Principal {
    Principal::agent(AgentId::parse(AGENT).unwrap())
        .session(session.clone())
        .operated_by(OperatorId::parse("dana").unwrap())
}

fn call(session: &SessionId, n: u32) -> Call {
    Call::tool(&me(session), "refund").args(&n)
}

pub(crate) fn policy() -> ApprovalPolicy {
    ApprovalPolicy::new(AgentId::parse(AGENT).unwrap())
        .require_for_tools(["refund"])
        .and_then(|policy| policy.approvers(["user:erin"]))
        .unwrap()
        .expires_after(Duration::from_hours(2))
}

/// Asks for all approvals of a session, and grants them.
pub(crate) async fn grant(
    gov: &Governance,
    session: &SessionId,
) -> HashMap<(String, u32), RequestId> {
    let mut granted = HashMap::new();
    let erin = ApproverRef::parse("user:erin").unwrap();
    for n in 0..APPROVALS {
        let call = call(session, n);
        let asked = gov.gates().request(&call, Ask::policy()).await;
        let id = asked.unwrap().id();
        let decided = gov.gates().decide(id, &erin, Decision::grant());
        decided.await.unwrap();
        granted.insert((session.to_string(), n), id);
    }
    granted
}

/// Whether one that is still granted can be used.
pub(crate) async fn use_one(gov: &Governance, session: &SessionId, n: u32) -> bool {
    match gov.gates().redeem(&call(session, n), Ask::policy()).await {
        Ok(held) => held.use_up().await.is_ok(),
        Err(_) => false,
    }
}

pub(crate) fn start(tasks: &mut JoinSet<()>, gov: &Governance, session: &SessionId) {
    for _ in 0..TASKS {
        tasks.spawn(race(gov.clone(), session.clone()));
    }
}

async fn race(gov: Governance, session: SessionId) {
    let mut last = u128::MAX;
    let mut tried = 0;
    loop {
        let slot = slot();
        if slot == last {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        last = slot;
        let n = u32::try_from(slot % u128::from(APPROVALS)).unwrap();
        let call = call(&session, n);
        if random(3) == 0 {
            by_hand(&gov, &call, n).await;
        } else {
            governed(&gov, &call, n).await;
        }
        tried += 1;
        if tried == TOLD {
            println!("raced {tried}");
            tried = 0;
        }
    }
}

/// The same for all processes.
fn slot() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_millis() / u128::from(SLOT)
}

async fn governed(gov: &Governance, call: &Call, n: u32) {
    let done = gov
        .run(call, async |_: &Permit| {
            println!("used {n}");
            Ok::<_, std::io::Error>(())
        })
        .await;
    assert!(
        !matches!(done, Err(RunError::Failed(_))),
        "the work never fails"
    );
}

async fn by_hand(gov: &Governance, call: &Call, n: u32) {
    match gov.gates().redeem(call, Ask::policy()).await {
        Ok(held) if random(5) == 0 => held.give_back().await,
        Ok(held) => {
            if random(4) == 0 {
                tokio::time::sleep(Duration::from_millis(random(20))).await;
            }
            if held.use_up().await.is_ok() {
                println!("used {n}");
            }
        }
        Err(GateError::NotHeld | GateError::Pending { .. }) => {}
        // The database may be away.
        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
    }
}
