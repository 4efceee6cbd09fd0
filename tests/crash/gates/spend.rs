//! Children that spend: from leased budgets, from exact ones, and from both at once, by every way that
//! there is.

use std::time::Duration;

use portcullis::cost::{Budget, Calls, LeaseSettings, Spender};
use portcullis::{
    AgentId, BudgetName, Call, Ceiling, Governance, Permit, Principal, SessionId, Usd,
};
use tokio::task::JoinSet;

use crate::round::random;

/// How long slices live: two renewals can be missed.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long an exact reservation may stay open.
pub(crate) const RESERVATION: Duration = Duration::from_secs(4);
const TASKS: usize = 3;
/// The most that one call declares, in nano-dollars.
const DEAREST: u64 = 4_000_000;

/// Who spends, and what he may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purse {
    pub(crate) agent: &'static str,
    /// What one session of it may take, in nano-dollars: the least of its budgets.
    pub(crate) limit: i64,
    /// Their names.
    pub(crate) budgets: &'static [&'static str],
}

const EXACT: &str = "exact-of-mixer";
const DOLLAR: i64 = 1_000_000_000;

pub(crate) const PURSES: [Purse; 4] = [
    // From memory alone.
    Purse {
        agent: "leaser",
        limit: 12 * DOLLAR,
        budgets: &["agent:leaser"],
    },
    // From a slice and, for the same call, by statement.
    Purse {
        agent: "mixer",
        limit: DOLLAR / 2,
        budgets: &["agent:mixer", EXACT],
    },
    // Near its limit soon, of two units.
    Purse {
        agent: "poor",
        limit: DOLLAR / 8,
        budgets: &["agent:poor"],
    },
    // From exact budgets alone.
    Purse {
        agent: "exact",
        limit: 2 * DOLLAR,
        budgets: &["agent:exact"],
    },
];

/// The budgets of all purses.
pub(crate) fn budgets() -> Vec<Budget> {
    let of = |purse: &Purse| Budget::for_agent(agent(purse));
    let usd = |purse: &Purse| Usd::nanos(purse.limit);
    let [leaser, mixer, poor, exact] = &PURSES;
    vec![
        of(leaser).per_session(usd(leaser)).leased(2),
        of(mixer).per_session(Usd::dollars(8)).leased(3),
        of(mixer)
            .named(BudgetName::parse(EXACT).unwrap())
            .per_session(usd(mixer)),
        of(poor)
            .per_session(usd(poor))
            .per_session(Calls(150))
            .leased(8),
        of(exact).per_session(usd(exact)),
    ]
}

pub(crate) fn leases() -> LeaseSettings {
    LeaseSettings::default()
        .lease(LEASE)
        .report_every(Duration::from_millis(100))
        .idle(Duration::from_millis(250))
}

fn agent(purse: &Purse) -> AgentId {
    AgentId::parse(purse.agent).unwrap()
}

/// Starts all tasks of a child.
pub(crate) fn start(tasks: &mut JoinSet<()>, gov: &Governance, session: &SessionId) {
    for purse in PURSES {
        let me = Principal::agent(agent(&purse)).session(session.clone());
        for _ in 0..TASKS {
            tasks.spawn(spend(gov.clone(), me.clone(), purse));
        }
    }
    tasks.spawn(sweep(gov.clone()));
}

/// Whoever finds that others are gone takes their slices away.
async fn sweep(gov: Governance) {
    loop {
        tokio::time::sleep(Duration::from_millis(200 + random(300))).await;
        let _ = gov.cost().sweep().await;
    }
}

async fn spend(gov: Governance, me: Principal, purse: Purse) {
    let spender = gov.cost().spender(&me);
    loop {
        // In bursts: between them slices lie idle.
        for _ in 0..40 + random(160) {
            let call = Once::new();
            let done = match random(3) {
                0 => call.by_reservation(&gov, &me, purse).await,
                1 => call.by_spender(&spender, purse).await,
                _ => call.governed(&gov, &me, purse).await,
            };
            if !done {
                println!("refused {}", purse.agent);
                tokio::time::sleep(Duration::from_millis(20 + random(60))).await;
            }
            tokio::time::sleep(Duration::from_millis(random(4))).await;
        }
        if random(3) == 0 {
            tokio::time::sleep(Duration::from_millis(random(600))).await;
        }
    }
}

/// One call.
struct Once {
    ceiling: i64,
    cost: i64,
    ending: Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Settle,
    /// It never took effect.
    Release,
    /// Nobody knows.
    Unknown,
    Drop,
}

impl Once {
    fn new() -> Self {
        let ceiling = i64::try_from(1 + random(DEAREST)).unwrap();
        let (ending, cost) = match random(100) {
            0..8 => (Ending::Release, 0),
            8..10 => (Ending::Unknown, ceiling),
            10..12 => (Ending::Drop, ceiling),
            12..14 => (Ending::Settle, ceiling * 3),
            14..50 => (Ending::Settle, ceiling / 2),
            _ => (Ending::Settle, ceiling),
        };
        Self {
            ceiling,
            cost,
            ending,
        }
    }

    fn ceiling(&self) -> Ceiling {
        Ceiling::usd(Usd::nanos(self.ceiling))
    }

    fn cost(&self) -> Usd {
        Usd::nanos(self.cost)
    }

    /// The call takes effect, and cannot be called back: as soon as this is in the pipe.
    fn takes_effect(&self, purse: Purse) {
        let within = self.cost.min(self.ceiling);
        println!("effect {} {within} {}", purse.agent, self.cost);
    }

    fn is_settled(&self, purse: Purse) {
        let within = self.cost.min(self.ceiling);
        println!("settled {} {within} {}", purse.agent, self.cost);
    }

    async fn by_reservation(&self, gov: &Governance, me: &Principal, purse: Purse) -> bool {
        let Ok(held) = gov.cost().reserve(me, self.ceiling()).await else {
            return false;
        };
        if self.ending != Ending::Release {
            self.takes_effect(purse);
        }
        self.lasts().await;
        match self.ending {
            Ending::Settle => {
                if held.settle(self.cost()).await.is_ok() {
                    self.is_settled(purse);
                }
            }
            Ending::Release => drop(held.release().await),
            Ending::Unknown => drop(held.leave_unknown().await),
            Ending::Drop => drop(held),
        }
        true
    }

    async fn by_spender(&self, spender: &Spender, purse: Purse) -> bool {
        let Ok(held) = spender.reserve(self.ceiling()).await else {
            return false;
        };
        if self.ending != Ending::Release {
            self.takes_effect(purse);
        }
        self.lasts().await;
        match self.ending {
            Ending::Settle => {
                if held.settle(self.cost()).await.is_ok() {
                    self.is_settled(purse);
                }
            }
            Ending::Release => drop(held.release().await),
            Ending::Unknown => drop(held.leave_unknown().await),
            Ending::Drop => drop(held),
        }
        true
    }

    async fn governed(&self, gov: &Governance, me: &Principal, purse: Purse) -> bool {
        let call = Call::tool(me, "work").ceiling(self.ceiling());
        let done = gov
            .run(&call, async |permit: &Permit| {
                self.takes_effect(purse);
                self.lasts().await;
                permit.observe_cost(self.cost());
                Ok::<_, std::io::Error>(())
            })
            .await;
        // What is charged is what was observed; its receipt is not looked at.
        done.is_ok()
    }

    async fn lasts(&self) {
        match random(16) {
            0 => tokio::time::sleep(Duration::from_millis(1 + random(30))).await,
            1..4 => tokio::task::yield_now().await,
            _ => {}
        }
    }
}
