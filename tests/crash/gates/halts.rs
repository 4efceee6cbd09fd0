//! Children that work until somebody halts them, and children that halt and resume.

use std::time::{Duration, SystemTime};

use portcullis::halt::{HaltSettings, Target, WhenStale};
use portcullis::{AgentId, Call, Governance, OperatorId, Permit, Principal, SessionId};
use tokio::task::JoinSet;

use crate::round::random;

/// The published bound, which the harness holds the gates against.
pub(crate) const BOUND: Duration = Duration::from_secs(1);
/// How many agents there are in a session.
const AGENTS: usize = 3;

pub(crate) fn settings() -> HaltSettings {
    HaltSettings::default()
        .poll_every(Duration::from_millis(200))
        .stale_after(BOUND)
        .when_stale(WhenStale::CountAsHalted)
}

pub(crate) fn agent(session: &SessionId, n: usize) -> AgentId {
    AgentId::parse(format!("stopped-{n}-{session}")).unwrap()
}

/// By the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_micros()).unwrap()
}

/// Works as every agent, until halted; and again when resumed.
pub(crate) fn obey(tasks: &mut JoinSet<()>, gov: &Governance, session: &SessionId) {
    for n in 0..AGENTS {
        let agent = agent(session, n);
        let me = Principal::agent(agent).session(SessionId::new());
        tasks.spawn(work(gov.clone(), me.clone()));
        tasks.spawn(beat(gov.clone(), me));
    }
}

async fn work(gov: Governance, me: Principal) {
    let agent = me.agent_id().clone();
    let call = Call::tool(&me, "work");
    loop {
        if random(4) == 0 {
            let done = gov
                .run(&call, async |permit: &Permit| {
                    // Before the last look: what it lets through began now, and no earlier.
                    let at = now();
                    if permit.check().is_ok() {
                        println!("began {agent} {at}");
                    }
                    Ok::<_, std::io::Error>(())
                })
                .await;
            drop(done);
        } else {
            let at = now();
            if gov.halt().check(&me).is_ok() {
                println!("began {agent} {at}");
            }
        }
        tokio::time::sleep(Duration::from_millis(2 + random(10))).await;
    }
}

/// What must not lift a halt.
async fn beat(gov: Governance, me: Principal) {
    loop {
        gov.presence().heartbeat(&me);
        let other = Principal::agent(me.agent_id().clone()).session(SessionId::new());
        gov.presence().heartbeat(&other);
        gov.presence().close(&other);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Halts every agent for a while, again and again.
pub(crate) fn order(tasks: &mut JoinSet<()>, gov: &Governance, session: &SessionId) {
    for n in 0..AGENTS {
        tasks.spawn(halt_and_resume(gov.clone(), agent(session, n)));
    }
}

async fn halt_and_resume(gov: Governance, agent: AgentId) {
    let anna = OperatorId::parse("user:anna").unwrap();
    let target = Target::Agent(agent.clone());
    loop {
        let halted = gov.halt().halt(&target, &anna, "a drill").await;
        let Some(epoch) = halted.ok().and_then(|change| change.epoch) else {
            // In force here alone, or not at all.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        println!("halted {agent} {epoch} {}", now());
        tokio::time::sleep(BOUND + Duration::from_millis(100 + random(600))).await;
        println!("resuming {agent} {}", now());
        let resumed = gov.halt().resume(&target, &anna, "the drill is over").await;
        if resumed.is_ok() {
            println!("resumed {agent}");
            tokio::time::sleep(Duration::from_millis(random(400))).await;
        }
    }
}
