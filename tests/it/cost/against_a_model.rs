//! The promise against a model of it: random budgets, callers, windows and clocks.

use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};

use portcullis::UserId;
use portcullis::cost::{Calls, Period, Reservation, Rolling};

use super::*;

/// A generator that a failure can be repeated with.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()].clone()
    }
}

/// One call, as the model knows it.
#[derive(Clone)]
struct Taken {
    who: Principal,
    model: Option<ModelName>,
    at: Timestamp,
    usd: u64,
    tokens: u64,
    calls: u64,
}

impl Taken {
    fn line(&self) -> String {
        let (who, at) = (&self.who, self.at);
        let user = who.user_id().map_or("-", |_| "u");
        let (usd, tokens, calls) = (
            Usd::nanos(i64::try_from(self.usd).unwrap()),
            self.tokens,
            self.calls,
        );
        format!(
            "{at} {} {user} {:?} {usd} {tokens} {calls}",
            who.agent_id(),
            self.model
        )
    }
}

struct World {
    budgets: Vec<Budget>,
    taken: Vec<Taken>,
}

impl World {
    fn fits(&self, call: &Taken) -> Result<(), bool> {
        let mut allowed = false;
        let mut room = true;
        for budget in &self.budgets {
            if !applies(budget, call) {
                continue;
            }
            for (period, limits) in budget.periods() {
                allowed |= limits.usd.is_some()
                    || limits.tokens.is_some()
                    || (limits.calls.is_none() && limits.seconds.is_none());
                let charged = self
                    .taken
                    .iter()
                    .filter(|other| applies(budget, other) && together(period, other, call));
                let (usd, tokens, calls) = charged.fold((0, 0, 0), |sum, other| {
                    (sum.0 + other.usd, sum.1 + other.tokens, sum.2 + other.calls)
                });
                let within = |limit: Option<u64>, taken: u64, asked: u64| {
                    limit.is_none_or(|limit| taken + asked <= limit)
                };
                let limit = limits.usd.map(|usd| usd.as_nanos().unsigned_abs());
                room &= within(limit, usd, call.usd)
                    && within(limits.tokens, tokens, call.tokens)
                    && within(limits.calls, calls, 1);
            }
        }
        if allowed && room {
            Ok(())
        } else {
            Err(allowed)
        }
    }
}

fn applies(budget: &Budget, call: &Taken) -> bool {
    budget.agent_id().is_none_or(|a| a == call.who.agent_id())
        && budget
            .user_id()
            .is_none_or(|u| Some(u) == call.who.user_id())
        && budget
            .model()
            .is_none_or(|m| Some(m) == call.model.as_ref())
}

/// Whether a call that began at `other` counts in the window of one that is asked for now.
fn together(period: Period, other: &Taken, now: &Taken) -> bool {
    match period {
        Period::Session => other.who.session_id() == now.who.session_id(),
        Period::Day => other.at.utc_day() == now.at.utc_day(),
        Period::Month => other.at.to_string().get(..7) == now.at.to_string().get(..7),
        Period::Rolling(window) => {
            let width = i64::try_from(window.length().as_micros().div_ceil(60)).unwrap();
            other.at.as_micros() / width >= now.at.as_micros() / width - 60
        }
        _ => true,
    }
}

fn budgets(dice: &mut Dice) -> Vec<Budget> {
    let mut all = vec![Budget::for_tenant().per_day(Usd::cents(10_000))];
    for at in 0..=dice.roll(6) {
        let mut budget = Budget::for_tenant().named(name(&format!("b{at}")));
        if dice.roll(2) == 0 {
            budget = budget.and_agent(dice.one(&agents()));
        }
        if dice.roll(3) == 0 {
            budget = budget.and_user(UserId::parse("u").unwrap());
        }
        if dice.roll(4) == 0 {
            budget = budget.and_model(model("m"));
        }
        for _ in 0..=dice.roll(3) {
            let period = dice.one(&[
                Period::Session,
                Period::Day,
                Period::Month,
                Period::Forever,
                Period::Rolling(Rolling::SECOND),
                Period::Rolling(Rolling::minutes(7)),
                Period::Rolling(Rolling::DAY),
            ]);
            let amount: Amount = match dice.roll(3) {
                0 => Usd::cents(100 + i64::try_from(dice.roll(900)).unwrap()).into(),
                1 => Tokens(500_000 + dice.roll(5_000_000)).into(),
                _ => Calls(2 + dice.roll(20)).into(),
            };
            budget = budget.over(period, amount);
        }
        all.push(budget);
    }
    if dice.roll(4) == 0 {
        all.remove(0);
    }
    all
}

fn agents() -> [AgentId; 2] {
    ["a", "b"].map(|name| AgentId::parse(name).unwrap())
}

/// A dollar a million tokens.
fn prices() -> Prices {
    Prices::bundled().with(
        &model("m"),
        Price::per_million(Usd::dollars(1), Usd::dollars(1)),
    )
}

fn call(dice: &mut Dice, sessions: &[SessionId], at: Timestamp) -> (Taken, Ceiling) {
    let mut who = Principal::agent(dice.one(&agents())).session(dice.one(sessions));
    if dice.roll(2) == 0 {
        who = who.on_behalf_of(UserId::parse("u").unwrap());
    }
    let amount = 1 + dice.roll(400_000);
    let mut taken = Taken {
        who,
        model: None,
        at,
        usd: amount * 1_000,
        tokens: 0,
        calls: 1,
    };
    if dice.roll(2) == 0 {
        taken.tokens = amount;
        taken.model = Some(model("m"));
        return (taken, Ceiling::tokens(amount).of_model(&model("m")));
    }
    let usd = Usd::nanos(i64::try_from(taken.usd).unwrap());
    (taken, Ceiling::usd(usd))
}

async fn end(dice: &mut Dice, held: Reservation, taken: &mut Taken) {
    match dice.roll(5) {
        0 => {
            held.release().await.unwrap();
            (taken.usd, taken.tokens, taken.calls) = (0, 0, 0);
        }
        1 => {
            held.refund().await.unwrap();
            (taken.usd, taken.tokens) = (0, 0);
        }
        2 => drop(held.leave_unknown().await.unwrap()),
        // It may have cost more than its ceiling.
        _ => {
            let tokens = dice.roll(500_000);
            let usd = Usd::nanos(i64::try_from(tokens * 1_000).unwrap());
            held.settle(Spent::tokens(Usage::tokens(tokens, 0)).billed(usd))
                .await
                .unwrap();
            (taken.usd, taken.tokens) = (tokens * 1_000, tokens);
        }
    }
}

async fn play(seed: u64) {
    let mut dice = Dice(seed);
    let gate = Gate::with(CostSettings::default().prices(prices())).await;
    let mut world = World {
        budgets: budgets(&mut dice),
        taken: Vec::new(),
    };
    let mut story = format!("seed {seed}:");
    for budget in &world.budgets {
        write!(story, "\n{budget:?}").unwrap();
        gate.cost.register(budget.clone()).await.unwrap();
    }
    let sessions = [SessionId::new(), SessionId::new()];
    let mut open: Vec<(usize, Reservation)> = Vec::new();
    for _ in 0..40 {
        let ahead = dice.one(&[0, 0, 3, 400, 9_000, 70_000, 4_000_000, 90_000_000]);
        gate.clock
            .advance(Duration::from_millis(dice.roll(ahead + 1)));
        let at = gate.clock.now();
        // One call at a time has exactly the model's answer.
        let (asked, ceiling) = call(&mut dice, &sessions, at);
        let expected = world.fits(&asked);
        match (gate.cost.reserve(&asked.who, ceiling).await, expected) {
            (Ok(held), Ok(())) => {
                open.push((world.taken.len(), held));
                world.taken.push(asked);
            }
            (Err(CostError::NoBudget), Err(false))
            | (Err(CostError::Exceeded { .. }), Err(true)) => {}
            (answer, expected) => {
                let stands = gate.cost.snapshot(&asked.who).await.unwrap();
                let charged: Vec<_> = world.taken.iter().map(Taken::line).collect();
                panic!(
                    "{answer:?} instead of {expected:?} for {}; {story}\n{stands}\n{}",
                    asked.line(),
                    charged.join("\n")
                )
            }
        }
        // Many at once fit together, and who is refused does not fit beside them.
        let wave: Vec<_> = (0..dice.roll(12))
            .map(|_| call(&mut dice, &sessions, at))
            .collect();
        let answers: Vec<_> = wave
            .iter()
            .map(|(asked, ceiling)| {
                let (cost, who, ceiling) = (gate.cost.clone(), asked.who.clone(), ceiling.clone());
                tokio::spawn(async move { cost.reserve(&who, ceiling).await })
            })
            .collect();
        let mut refused = Vec::new();
        for ((asked, _), answer) in wave.iter().zip(answers) {
            match answer.await.unwrap() {
                Ok(held) => {
                    // In whichever order they were admitted, all fit one after the other.
                    world
                        .fits(asked)
                        .unwrap_or_else(|_| panic!("too much was admitted; {story}"));
                    open.push((world.taken.len(), held));
                    world.taken.push(asked.clone());
                }
                Err(_) => refused.push(asked),
            }
        }
        for asked in refused {
            assert!(world.fits(asked).is_err(), "refused for nothing; {story}");
        }
        while open.len() > 3 {
            let chosen = usize::try_from(dice.roll(open.len() as u64)).unwrap();
            let (at, held) = open.swap_remove(chosen);
            end(&mut dice, held, &mut world.taken[at]).await;
        }
    }
    for (_, held) in open {
        keep(held);
    }
    ledger_agrees(&gate.test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_the_models_and_many_at_once_are_decided_as_if_alone() {
    for _ in 0..6 {
        let again = std::env::var("PORTCULLIS_SEED").ok();
        let seed = again.map(|seed| seed.parse().unwrap());
        play(seed.unwrap_or_else(|| RandomState::new().build_hasher().finish())).await;
    }
}
