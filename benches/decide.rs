//! What a decision costs: `scope.check` with 1, 10,000 and 1,000,000 agents.
//!
//! Defends: under 100 ns with one agent, under 1 µs with a million. Each figure is the median over
//! batches of 1,000 random agents whose principals are at hand while their policies are where they
//! happen to be, in the processor's cache or not. The ceiling, measured between our batches, is the
//! least that any allow-list needs: one look-up of the agent in a plain hash map, and one of the tool
//! in the set that is found.
//!
//! Needs a Postgres to register the policies in, as the tests do; the measured part uses none.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::float_arithmetic, reason = "nanoseconds, not money")]

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use foldhash::fast::RandomState;
use portcullis::audit::AuditKeys;
use portcullis::scope::{Scope, ScopePolicy};
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Principal, Secret, TenantId};

const BATCH: usize = 1_000;
const BATCHES: usize = 301;
/// What policies list; the one that is asked for is somewhere in the middle.
const TOOLS: [&str; 4] = ["read_invoice", "send_email", "search_orders", "fs.read"];
const ASKED: &str = "send_email";

type Error = Box<dyn std::error::Error>;
type Plain = HashMap<String, HashSet<String, RandomState>, RandomState>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    for (label, agents) in [("1", 1), ("10k", 10_000), ("1M", 1_000_000)] {
        let test = TestDatabase::fresh().await?;
        let keys = AuditKeys::single(Secret::generate()?);
        let scope = Scope::open(&test.database(), keys, TenantId::single()).await?;
        let begun = Instant::now();
        scope.register_all(policies(agents)?).await?;
        let registered = begun.elapsed();
        let begun = Instant::now();
        scope.reload().await?;
        let loaded = begun.elapsed();
        let (ours, ceiling) = measure(&scope, &plain(agents), agents)?;
        println!(
            "figure scope/{label} {ours:.0} ns ceiling {ceiling:.0} ratio {:.2}",
            ours / ceiling
        );
        println!("note scope/{label} registered in {registered:.1?}, loaded in {loaded:.1?}");
    }
    Ok(())
}

fn name(agent: usize) -> String {
    format!("agent-{agent:07}")
}

fn policies(agents: usize) -> Result<Vec<ScopePolicy>, Error> {
    (0..agents)
        .map(|agent| Ok(ScopePolicy::new(AgentId::parse(name(agent))?).allow_tools(TOOLS)?))
        .collect()
}

fn plain(agents: usize) -> Plain {
    let tools = || TOOLS.map(str::to_owned).into_iter().collect();
    (0..agents).map(|agent| (name(agent), tools())).collect()
}

/// Nanoseconds a check, ours and the ceiling's, each the median of its batches.
fn measure(scope: &Scope, plain: &Plain, agents: usize) -> Result<(f64, f64), Error> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut batch = |one: &dyn Fn(&Principal) -> bool| -> Result<f64, Error> {
        let mut principals = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            // xorshift64: no pattern that a prefetcher could learn.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let agent = usize::try_from(random % u64::try_from(agents)?)?;
            principals.push(Principal::agent(AgentId::parse(name(agent))?));
        }
        let begun = Instant::now();
        let allowed = principals.iter().filter(|who| one(black_box(who))).count();
        let taken = begun.elapsed();
        if allowed != BATCH {
            return Err("an allowed check was refused".into());
        }
        Ok(taken.as_secs_f64() * 1e9 / f64::from(u32::try_from(BATCH)?))
    };
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        ours.push(batch(&|who| check(scope, who))?);
        ceiling.push(batch(&|who| {
            plain
                .get(who.agent_id().as_str())
                .is_some_and(|tools| tools.contains(black_box(ASKED)))
        })?);
    }
    Ok((median(ours), median(ceiling)))
}

fn check(scope: &Scope, who: &Principal) -> bool {
    let check = pin!(scope.check(who, black_box(ASKED)));
    matches!(
        check.poll(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(Ok(_))
    )
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
