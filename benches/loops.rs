//! What a loop check costs: `loops.check_call` over many agents and sessions.
//!
//! Defends: under 1 µs. The figure is the median over batches of 1,000 calls, each of another session
//! of a thousand, with arguments that differ; a policy for any agent is in force. The ceiling, measured
//! between our batches, is the least that any such detector needs: the same windows found by a hash in
//! sharded mutexes, and the hash of the call put into a fixed ring; no keyed fingerprint, no policy,
//! nothing judged.
//!
//! Needs a Postgres to open the handle on, as the tests do; the measured part uses none.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::float_arithmetic, reason = "nanoseconds, not money")]

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use foldhash::fast::RandomState;
use portcullis::audit::AuditKeys;
use portcullis::loops::{LoopPolicy, Poller};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Call, Governance, Principal, Secret, SessionId};
use serde_json::json;

const SESSIONS: usize = 1_000;
const BATCHES: usize = 201;
const SHARDS: usize = 64;
const RING: usize = 128;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let test = TestDatabase::fresh().await?;
    let keys = AuditKeys::single(Secret::generate()?);
    let gov = Governance::builder(test.database(), keys).connect().await?;
    let policy = LoopPolicy::for_any_agent().poller("get_status", Poller::WhileChanging);
    gov.loops().register(policy).await?;

    let principals: Vec<Principal> = (0..SESSIONS)
        .map(|nth| {
            let agent = AgentId::parse(format!("agent-{:03}", nth % 250))?;
            Ok(Principal::agent(agent).session(SessionId::new()))
        })
        .collect::<Result<_, Error>>()?;
    let bare = Bare::new();
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for batch in 0..BATCHES {
        let calls: Vec<(Call, String)> = principals
            .iter()
            .enumerate()
            .map(|(nth, who)| {
                let args = json!({"invoice": format!("inv_{batch}_{nth}"), "full": true});
                (
                    Call::tool(who, "read_invoice").args(&args),
                    args.to_string(),
                )
            })
            .collect();
        ours.push(time(&calls, |(call, _)| check(&gov, call))?);
        ceiling.push(time(&calls, |(call, args)| bare.push(call, args))?);
    }
    let (ours, ceiling) = (median(ours), median(ceiling));
    println!(
        "figure loops/check {ours:.0} ns ceiling {ceiling:.0} ratio {:.2}",
        ours / ceiling
    );
    let status = gov.loops().status();
    println!(
        "note loops/check {} sessions of at most {}",
        status.sessions, status.capacity
    );
    gov.shutdown().await;
    Ok(())
}

/// Nanoseconds a call.
fn time(calls: &[(Call, String)], one: impl Fn(&(Call, String)) -> bool) -> Result<f64, Error> {
    let begun = Instant::now();
    let clear = calls.iter().filter(|call| one(black_box(call))).count();
    let taken = begun.elapsed();
    if clear != calls.len() {
        return Err("a call that is no loop was refused".into());
    }
    Ok(taken.as_secs_f64() * 1e9 / f64::from(u32::try_from(calls.len())?))
}

fn check(gov: &Governance, call: &Call) -> bool {
    let check = pin!(gov.loops().check_call(call));
    matches!(
        check.poll(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(Ok(_))
    )
}

type Shard = HashMap<(AgentId, SessionId), Ring, RandomState>;

/// A sharded table of rings, and nothing else.
struct Bare {
    shards: Vec<Mutex<Shard>>,
    place: RandomState,
}

struct Ring {
    calls: [u64; RING],
    next: usize,
}

impl Bare {
    fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            place: RandomState::default(),
        }
    }

    fn push(&self, call: &Call, args: &str) -> bool {
        let who = call.principal();
        let key = (who.agent_id().clone(), who.session_id().clone());
        let at = usize::try_from(self.place.hash_one(&key) >> 40).unwrap_or(0) % SHARDS;
        let call = self.place.hash_one(("read_invoice", args));
        let Some(Ok(mut shard)) = self.shards.get(at).map(Mutex::lock) else {
            return false;
        };
        let ring = shard.entry(key).or_insert_with(|| Ring {
            calls: [0; RING],
            next: 0,
        });
        if let Some(slot) = ring.calls.get_mut(ring.next) {
            *slot = black_box(call);
        }
        ring.next = (ring.next + 1) % RING;
        true
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
