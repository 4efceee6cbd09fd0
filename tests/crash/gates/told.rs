//! What children said of gates, added up.

use std::collections::{BTreeMap, HashMap};

use portcullis::RequestId;

use super::halts;

/// Who spent, in which session.
pub(crate) type Spender = (String, String);

/// What took effect, in nano-dollars.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effects {
    /// Up to their ceilings.
    pub(crate) within: i64,
    /// All of it.
    pub(crate) cost: i64,
    /// What was said to be settled, all of it.
    pub(crate) settled: i64,
    /// The part of that beyond ceilings.
    pub(crate) settled_over: i64,
    pub(crate) calls: u64,
}

/// A halt, from when it was told to be stored until somebody began to lift it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halted {
    pub(crate) epoch: i64,
    from: u64,
    until: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Told {
    pub(crate) effects: HashMap<Spender, Effects>,
    pub(crate) refused: u64,
    /// What was granted, by session and number.
    pub(crate) granted: HashMap<(String, u32), RequestId>,
    /// How often each approval of a session was used.
    pub(crate) used: HashMap<(String, u32), u32>,
    pub(crate) used_meanwhile: u64,
    pub(crate) races: u64,
    /// By agent: when a call began.
    began: HashMap<String, Vec<u64>>,
    halted: HashMap<String, BTreeMap<i64, u64>>,
    resuming: HashMap<String, Vec<u64>>,
    /// What the watching process saw.
    pub(crate) looks: u64,
    pub(crate) broken_seen: u64,
}

impl Told {
    /// Takes a line; says whether it was one of these.
    pub(crate) fn take(&mut self, session: &str, word: &str, what: &str) -> bool {
        let words: Vec<&str> = what.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        let time = |at: usize| words[at].parse::<u64>().unwrap();
        match word {
            "effect" => {
                let effects = self.of(words[0], session);
                effects.within += number(1);
                effects.cost += number(2);
                effects.calls += 1;
            }
            "settled" => {
                let effects = self.of(words[0], session);
                effects.settled += number(2);
                effects.settled_over += number(2) - number(1);
            }
            "refused" => self.refused += 1,
            "used" => {
                self.used_meanwhile += 1;
                let used = (session.to_owned(), words[0].parse().unwrap());
                *self.used.entry(used).or_default() += 1;
            }
            "raced" => self.races += time(0),
            "began" => {
                let began = self.began.entry(words[0].to_owned()).or_default();
                began.push(time(1));
            }
            "halted" => {
                let halted = self.halted.entry(words[0].to_owned()).or_default();
                let at = halted.entry(number(1)).or_insert(u64::MAX);
                *at = time(2).min(*at);
            }
            "resuming" => {
                let resuming = self.resuming.entry(words[0].to_owned()).or_default();
                resuming.push(time(1));
            }
            "resumed" => {}
            "looked" => self.looks += time(0),
            "broken" => {
                println!("seen: {what}");
                self.broken_seen += 1;
            }
            _ => return false,
        }
        true
    }

    fn of(&mut self, agent: &str, session: &str) -> &mut Effects {
        let spender = (agent.to_owned(), session.to_owned());
        self.effects.entry(spender).or_default()
    }

    pub(crate) fn began(&self) -> usize {
        self.began.values().map(Vec::len).sum()
    }

    /// Every agent's halts.
    pub(crate) fn halts(&self) -> impl Iterator<Item = (&str, Vec<Halted>)> {
        self.halted.iter().map(|(agent, halts)| {
            let halts = halts.iter().map(|(epoch, from)| Halted {
                epoch: *epoch,
                from: *from,
                until: self.resumed_after(agent, *from),
            });
            (agent.as_str(), halts.collect())
        })
    }

    fn resumed_after(&self, agent: &str, from: u64) -> Option<u64> {
        let resuming = self.resuming.get(agent)?;
        resuming.iter().copied().filter(|at| *at >= from).min()
    }

    /// How many calls began after a halt and the bound.
    pub(crate) fn began_halted(&self) -> usize {
        let bound = u64::try_from(halts::BOUND.as_micros()).unwrap();
        let late = |halts: &[Halted], at: u64| {
            let within =
                |halt: &Halted| at > halt.from + bound && halt.until.is_none_or(|until| at < until);
            halts.iter().any(within)
        };
        let of = |(agent, halts): (&str, Vec<Halted>)| {
            let began = self.began.get(agent).map_or(&[][..], Vec::as_slice);
            began.iter().filter(|at| late(&halts, **at)).count()
        };
        self.halts().map(of).sum()
    }
}

impl Halted {
    /// Whether somebody said that he was about to lift it.
    pub(crate) const fn may_be_lifted(&self) -> bool {
        self.until.is_some()
    }
}
